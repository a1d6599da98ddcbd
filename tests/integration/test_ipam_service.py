"""The contract of ipam.proto, over the real socket of an assembled service in this process."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from podlane.common.v1 import types_pb2 as common
from podlane.ipam.v1 import ipam_pb2 as pb

from services.common import configfile, errors, lifecycle
from services.common.client import Peer, error_info
from services.common.db import Database
from services.ipam.main import build
from tests.ipam_support import Calls, attachment, socket_path, texts, write_settings

BLUE = '[[ipam.pools]]\nname = "blue"\nmtu = 1400\nranges = ["10.9.0.0/29"]\nexclude = ["10.9.0.3"]\n'


@pytest.fixture
async def ipam(tmp_path: Path) -> AsyncIterator[Calls]:
    settings = configfile.load(write_settings(tmp_path, more=BLUE), {})
    peer = Peer("ipam", socket_path(tmp_path), 10.0)
    async with lifecycle.running([*build(settings), peer]):
        yield Calls(peer)


def prefix(network: common.IpPrefix) -> tuple[bytes, int]:
    return network.address.packed, network.length


async def test_an_allocation_tells_the_pod_all_it_needs(ipam: Calls):
    pod = common.Pod(namespace="ns", name="web", uid="u1")

    reply = await ipam.allocate("c1", pod=pod)

    held = reply.allocation
    assert reply.created
    assert texts(held) == ["10.244.0.2", "fd00:10:244::2"]
    assert [one.address.length for one in held.addresses] == [32, 128]
    assert [one.gateway.packed[-1] for one in held.addresses] == [1, 1]
    assert [one.range.length for one in held.addresses] == [24, 112]
    assert (held.owner, held.pod, held.pool) == (attachment("c1"), pod, "default")
    assert held.state == pb.ALLOCATION_STATE_RESERVED
    assert held.expires.seconds - held.created.seconds == 600
    assert not held.HasField("confirmed")
    assert held.endpoint_id == 0


async def test_routes_reach_the_gateway_on_link_and_the_rest_through_it(ipam: Calls):
    routes = (await ipam.allocate("c1")).routes

    assert [route.destination.length for route in routes] == [32, 128, 0, 0]
    assert [route.HasField("gateway") for route in routes] == [False, False, True, True]
    assert routes[0].destination.address == routes[2].gateway
    assert routes[1].destination.address == routes[3].gateway


async def test_a_named_pool_has_its_own_mtu_and_families(ipam: Calls):
    reply = await ipam.allocate("c1", pool="blue")

    assert reply.mtu == 1400
    assert texts(reply.allocation) == ["10.9.0.1"]
    # One gateway per family and node: that of the first range.
    assert reply.allocation.addresses[0].gateway.packed == bytes([10, 244, 0, 1])


async def test_confirming_takes_the_expiry_away(ipam: Calls):
    await ipam.allocate("c1")

    held = await ipam.confirm("c1", 77)

    assert held.state == pb.ALLOCATION_STATE_CONFIRMED
    assert held.endpoint_id == 77
    assert held.HasField("confirmed")
    assert not held.HasField("expires")
    assert await ipam.confirm("c1", 77) == held


async def test_a_release_is_for_an_endpoint_or_without_one(ipam: Calls):
    request = pb.ReleaseAddressesRequest(owner=attachment("c1"), endpoint_id=7, without_endpoint=True)

    with pytest.raises(errors.InvalidArgument, match="without_endpoint"):
        await ipam.peer.call(ipam.stub.ReleaseAddresses, request, timeout=10)


async def test_releasing_returns_what_was_held_once(ipam: Calls):
    held = (await ipam.allocate("c1")).allocation

    assert (await ipam.release("c1")).released == held
    assert not (await ipam.release("c1")).HasField("released")


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (pb.AllocateAddressesRequest(), "owner.network: a value is needed"),
        (pb.AllocateAddressesRequest(owner=common.Attachment(network="n", container_id="../x")), "owner.container_id"),
        (
            pb.AllocateAddressesRequest(owner=common.Attachment(network="n", container_id="c", ifname="a" * 16)),
            "owner.ifname: 'aaaaaaaaaaaaaaaa' has 16 bytes",
        ),
        (
            pb.AllocateAddressesRequest(owner=attachment("c"), families=[common.IP_FAMILY_UNSPECIFIED]),
            "families: 0 is neither",
        ),
        (pb.AllocateAddressesRequest(owner=attachment("c"), pool="no/pool"), "pool: 'no/pool' must begin"),
        (
            pb.AllocateAddressesRequest(owner=attachment("c"), requested=[common.IpAddress(packed=b"123")]),
            "requested[0]: an IP address has 4 or 16 bytes, this one has 3",
        ),
        (
            pb.AllocateAddressesRequest(owner=attachment("c"), requested=[common.IpAddress(packed=b"1234")] * 2),
            "are of one family",
        ),
        (
            pb.AllocateAddressesRequest(owner=attachment("c"), requested=[common.IpAddress(packed=b"1234")]),
            "requested: 49.50.51.52 is in no range",
        ),
    ],
)
async def test_bad_input_names_the_field(ipam: Calls, request_: pb.AllocateAddressesRequest, words: str):
    with pytest.raises(errors.InvalidArgument) as refused:
        await ipam.peer.call(ipam.stub.AllocateAddresses, request_, timeout=10)

    assert words in refused.value.message
    assert await ipam.everything() == {}


async def test_an_endpoint_id_is_at_most_65535_and_without_one_nothing_is_unconfirmed(ipam: Calls):
    for call, endpoint_id in ((ipam.confirm, 65536), (ipam.unconfirm, 65536), (ipam.unconfirm, 0)):
        with pytest.raises(errors.InvalidArgument, match="endpoint_id"):
            await call("c1", endpoint_id)


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda ipam: ipam.allocate("c2", pool="red"), errors.NotFound),
        (lambda ipam: ipam.allocate("c2", "10.244.0.2"), errors.AlreadyExists),
        (lambda ipam: ipam.allocate("c1", "10.244.0.3"), errors.FailedPrecondition),
        (lambda ipam: ipam.confirm("c2", 7), errors.NotFound),
        (lambda ipam: ipam.confirm("c1", 8), errors.AlreadyExists),
    ],
    ids=["no such pool", "held by another", "holds another", "nothing to confirm", "confirmed by another"],
)
async def test_errors_arrive_as_they_were_raised(ipam: Calls, call: Any, kind: type[Exception]):
    await ipam.allocate("c1")
    await ipam.confirm("c1", 7)

    with pytest.raises(kind):
        await call(ipam)


async def test_exhaustion_arrives_with_its_numbers(ipam: Calls):
    for number in range(5):
        await ipam.allocate(f"c{number}", pool="blue")

    with pytest.raises(errors.Exhausted) as refused:
        await ipam.allocate("late", pool="blue")

    fields = refused.value.fields
    assert {name: fields[name] for name in ("pool", "family", "size", "used", "reserved", "cooling")} == {
        "pool": "blue",
        "family": "IPv4",
        "size": "5",
        "used": "5",
        "reserved": "5",
        "cooling": "0",
    }
    assert fields["next_expiry"].endswith("Z")
    assert "5 of 5 used" in refused.value.message


async def test_pages_follow_each_other_in_the_order_of_creation(ipam: Calls):
    for number in range(7):
        await ipam.allocate(f"c{number}")
    await ipam.release("c2")

    seen, token = [], ""
    while True:
        page = await ipam.page(page_size=3, page_token=token)
        assert len(page.allocations) <= 3
        seen += [one.owner.container_id for one in page.allocations]
        token = page.next_page_token
        # What disappears between two pages must not make others disappear from the list.
        await ipam.release("c1")
        if not token:
            break

    assert seen == ["c0", "c1", "c3", "c4", "c5", "c6"]


async def test_lists_are_filtered_by_pool_and_owner(ipam: Calls):
    await ipam.allocate("c1")
    await ipam.allocate("c2", pool="blue")

    assert [one.owner.container_id for one in (await ipam.page(pool="blue")).allocations] == ["c2"]
    assert [one.owner.container_id for one in (await ipam.page(owner=attachment("c1"))).allocations] == ["c1"]
    assert not (await ipam.page(owner=attachment("c1"), pool="blue")).allocations


@pytest.mark.parametrize("fields", [{"page_size": 10001}, {"page_token": "x"}, {"page_token": "9" * 30}])
async def test_bad_pages_are_refused(ipam: Calls, fields: dict[str, Any]):
    with pytest.raises(errors.InvalidArgument, match=next(iter(fields))):
        await ipam.page(**fields)


async def test_pools_tell_how_full_they_are(ipam: Calls):
    await ipam.allocate("c1", pool="blue")
    await ipam.allocate("c2", pool="blue")
    await ipam.confirm("c2", 5)
    await ipam.allocate("c3", pool="blue")
    await ipam.release("c3")

    default, blue = await ipam.pools()

    assert [one.size for one in default.ranges] == [253, 65534]
    assert not default.HasField("next_expiry")
    (only,) = blue.ranges
    assert (only.size, only.used, only.reserved, only.cooling) == (5, 2, 1, 1)
    assert [prefix(one) for one in only.excluded] == [(bytes([10, 9, 0, 3]), 32)]
    assert (blue.name, blue.mtu) == ("blue", 1400)
    assert blue.next_expiry == (await ipam.page(owner=attachment("c1"))).allocations[0].expires


async def test_a_caller_whose_deadline_passes_leaves_a_whole_allocation(ipam: Calls, monkeypatch: pytest.MonkeyPatch):
    """The commit is held until the caller has given up; the same request then finds what it began."""
    write, gone = Database.write, asyncio.Event()

    async def slow(self: Database, change: Any) -> Any:
        await gone.wait()
        return await write(self, change)

    monkeypatch.setattr(Database, "write", slow)
    with pytest.raises(grpc.aio.AioRpcError) as late:
        await ipam.stub.AllocateAddresses(pb.AllocateAddressesRequest(owner=attachment("c1")), timeout=0.2)
    gone.set()

    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert error_info(late.value) is None
    again = await ipam.allocate("c1")
    assert not again.created
    assert list(await ipam.everything()) == ["c1"]
