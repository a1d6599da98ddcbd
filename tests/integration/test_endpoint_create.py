"""CreateEndpoint against a fake loader and a fake ipam: the third step of an ADD, and all that can go wrong in it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from podlane.common.v1 import types_pb2 as types
from podlane.endpoint.v1 import endpoint_pb2 as pb
from podlane.loader.v1 import loader_pb2

from services.common.errors import (
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PodlaneError,
    Unavailable,
)
from tests.endpoint_support import READY, Client, Surroundings


@pytest.fixture
async def around() -> AsyncIterator[Surroundings]:
    """Fakes and directories."""
    async with Surroundings() as around:
        yield around


@pytest.fixture
async def client(around: Surroundings) -> AsyncIterator[Client]:
    """The service, ready."""
    async with around.service() as client:
        yield client


async def test_an_endpoint_is_ready_confirmed_and_in_the_kernel_when_create_answers(
    around: Surroundings, client: Client
) -> None:
    """What the CNI result promises."""
    pod = around.pod("web")

    response = await client.create(pod)

    endpoint = response.endpoint
    assert response.created
    assert (endpoint.state, endpoint.waiting_for, endpoint.identity) == (READY, "", 5)
    assert around.kernel.datapaths[endpoint.id].generation == endpoint.generation
    assert around.ipam.held[pod.key].endpoint_id == endpoint.id
    pod.request.link.up = True  # by now it is
    assert (endpoint.link, list(endpoint.addresses)) == (pod.request.link, list(pod.request.addresses))
    assert await client.check(pod) == []


async def test_the_loader_is_asked_for_level_two_with_an_open_policy(around: Surroundings, client: Client) -> None:
    """The reason is Cilium's."""
    response = await client.create(around.pod())

    asked = next(request for method, request in around.loader.script.calls if method == "RegenerateEndpoint")
    assert asked.level == loader_pb2.REGENERATION_LEVEL_REWRITE_LOAD
    assert [(entry.direction, entry.identity, entry.deny) for entry in asked.policy] == [(1, 0, False), (2, 0, False)]
    last = response.endpoint.last_regeneration
    assert list(last.reasons) == ["initial build on endpoint creation"]
    assert {phase.name for phase in last.phases} >= {"regenerate", "regenerate:resolve", "regenerate:load"}


async def test_a_repeat_returns_the_same_endpoint_and_touches_nothing(around: Surroundings, client: Client) -> None:
    """Runtimes repeat an ADD whose answer they lost."""
    pod = around.pod()
    first = await client.create(pod)
    pod.request.link.up = True
    again = await client.create(pod)

    assert (again.created, again.endpoint) == (False, first.endpoint)
    assert around.loader.script.count("RegenerateEndpoint") == 1


async def test_concurrent_creates_of_one_attachment_make_one_endpoint(around: Surroundings, client: Client) -> None:
    """Exactly one of them made it."""
    pod = around.pod()

    responses = await asyncio.gather(*(client.create(pod) for _ in range(8)))

    assert sorted(response.created for response in responses) == [False] * 7 + [True]
    assert {response.endpoint.id for response in responses} == {1}


async def test_concurrent_creates_of_many_attachments_have_ids_of_their_own(
    around: Surroundings, client: Client
) -> None:
    """However many come at once."""
    pods = [around.pod() for _ in range(20)]
    responses = await asyncio.gather(*(client.create(pod) for pod in pods))

    assert sorted(response.endpoint.id for response in responses) == list(range(1, 21))


async def test_an_address_of_another_endpoint_is_refused_by_its_name(around: Surroundings, client: Client) -> None:
    """And nothing of the refused one is left."""
    one, two = around.pod("one"), around.pod("two")
    await client.create(one)
    del two.request.addresses[:]
    two.request.addresses.extend(one.request.addresses)

    with pytest.raises(AlreadyExists, match=r"10\.7\.0\.2 belongs to endpoint 1 .*pod default/one.*delete that one"):
        await client.create(two)
    assert [endpoint.id for endpoint in await client.endpoints()] == [1]


@pytest.mark.parametrize(("service", "method"), [("loader", "RegenerateEndpoint"), ("ipam", "ConfirmAllocation")])
@pytest.mark.parametrize("error", [NotFound("gone"), FailedPrecondition("verifier"), Unavailable("busy")])
async def test_a_failure_is_reported_as_it_is_and_leaves_nothing(
    around: Surroundings, client: Client, service: str, method: str, error: PodlaneError
) -> None:
    """No endpoint, no datapath, and the addresses are the reservation that they were."""
    pod = around.pod()
    getattr(around, service).script.fail(method, error)

    with pytest.raises(type(error), match=error.message):
        await client.create(pod)

    assert await client.endpoints() == []
    assert around.kernel.datapaths == {}
    assert around.reserved(pod)
    assert (await client.create(pod)).created


async def test_addresses_of_an_endpoint_that_is_gone_pass_to_the_next_one_of_its_attachment(
    around: Surroundings, client: Client
) -> None:
    """A DEL ended half-way, and the runtime starts the container again."""
    pod = around.pod()
    await client.create(pod)
    await client.delete(pod)
    assert around.confirmed(pod)

    response = await client.create(pod)

    assert response.created
    assert around.ipam.held[pod.key].endpoint_id == response.endpoint.id
    assert await client.check(pod) == []


async def test_addresses_that_ipam_holds_otherwise_are_refused_and_nothing_is_left(
    around: Surroundings, client: Client
) -> None:
    """The request must carry what AllocateAddresses returned."""
    pod = around.pod()
    pod.request.addresses[0].address.address.packed = bytes([10, 7, 9, 9])

    with pytest.raises(FailedPrecondition, match=r"ipam holds 10\.7\.0\.2, fd07::2 .*says 10\.7\.9\.9"):
        await client.create(pod)

    assert await client.endpoints() == []
    assert around.kernel.datapaths == {}


async def test_an_undo_that_fails_leaves_a_remainder_that_goes_by_itself(around: Surroundings, client: Client) -> None:
    """The first error is what the caller gets; the remainder says what it waits for."""
    pod = around.pod()
    around.loader.script.fail("RegenerateEndpoint", FailedPrecondition("the verifier says no"))
    around.loader.script.fail("RemoveEndpoint", Unavailable("not now"), times=3)

    with pytest.raises(FailedPrecondition, match="the verifier says no"):
        await client.create(pod)
    await client.until_gone(pod)

    assert around.kernel.datapaths == {}
    assert around.reserved(pod)


async def test_an_add_after_an_undo_that_failed_does_not_wait_for_the_background(
    around: Surroundings, client: Client
) -> None:
    """It takes the remainder down itself."""
    pod = around.pod()
    around.loader.script.fail("RegenerateEndpoint", FailedPrecondition("the verifier says no"))
    around.loader.script.fail("RemoveEndpoint", Unavailable("not now"), times=1)
    with pytest.raises(FailedPrecondition):
        await client.create(pod)

    response = await client.create(pod)

    assert response.created
    assert list(around.kernel.datapaths) == [response.endpoint.id]
    assert around.ipam.held[pod.key].endpoint_id == response.endpoint.id


async def test_a_new_link_for_a_known_attachment_makes_a_new_endpoint(around: Surroundings, client: Client) -> None:
    """The pod's old link went away between two ADDs."""
    pod = around.pod()
    first = await client.create(pod)
    pod.request.link.CopyFrom(around.kernel.add_link(pod.attachment))

    second = await client.create(pod)

    assert second.created
    assert second.endpoint.generation > first.endpoint.generation
    assert [one.host_ifindex for one in around.kernel.datapaths.values()] == [pod.request.link.host_ifindex]
    assert around.ipam.held[pod.key].endpoint_id == second.endpoint.id


async def test_a_caller_that_hangs_up_does_not_stop_the_work_and_a_delete_finds_it(
    around: Surroundings, client: Client
) -> None:
    """The DEL that follows waits for the ADD that nobody waits for any more."""
    pod = around.pod()
    async with around.loader.script.hold("RegenerateEndpoint"):
        creating = asyncio.create_task(client.create(pod, timeout=0.2))
        await around.loader.script.reached("RegenerateEndpoint")
        with pytest.raises(DeadlineExceeded):
            await creating
        deleting = asyncio.create_task(client.delete(pod))

    assert await deleting
    assert await client.endpoints() == []
    assert around.kernel.datapaths == {}


async def test_a_failed_create_logs_nothing_away_from_the_next_one(around: Surroundings, client: Client) -> None:
    """The log of an endpoint tells its own life."""
    pod = around.pod()
    await client.create(pod)

    log = (await client.get(pod)).log

    assert [(entry.type, entry.code) for entry in log] == [("other", "ok"), ("bpf", "ok")]
    assert "identity 5 (reserved:init)" in log[0].message


def _broken(path: str, value: object) -> pb.CreateEndpointRequest:
    attachment = types.Attachment(network="podnet", container_id="c0ffee", ifname="eth0")
    mac = types.MacAddress(packed=bytes(6))
    address = types.AssignedAddress(
        address=types.IpPrefix(address=types.IpAddress(packed=bytes([10, 7, 0, 2])), length=32),
        gateway=types.IpAddress(packed=bytes([10, 7, 0, 1])),
        range=types.IpPrefix(address=types.IpAddress(packed=bytes([10, 7, 0, 0])), length=16),
    )
    link = loader_pb2.Link(
        attachment=attachment, host_ifname="lxc1", host_ifindex=7, host_mac=mac, pod_mac=mac, netns_path="/x"
    )
    request = pb.CreateEndpointRequest(attachment=attachment, link=link, addresses=[address])
    *parents, name = path.split(".")
    target: Any = request
    for parent in parents:
        target = getattr(target, parent)[0] if parent == "addresses" else getattr(target, parent)
    if isinstance(value, dict):
        getattr(target, name).update(value)
    elif value is None:
        target.ClearField(name)
    else:
        setattr(target, name, value)
    return request


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("attachment.network", "", "attachment.network: a value is needed"),
        ("attachment.container_id", "../x", "attachment.container_id"),
        ("attachment.ifname", "a" * 16, "attachment.ifname"),
        ("attachment", None, "attachment.network"),
        ("link", None, "link.host_ifindex"),
        ("link.host_ifindex", 0, "link.host_ifindex"),
        ("link.host_ifindex", 2**31, "link.host_ifindex"),
        ("link.host_ifname", "", "link.host_ifname"),
        ("link.host_mac", None, "link.host_mac"),
        ("link.pod_mac.packed", b"1", "link.pod_mac"),
        ("link.netns_path", "/run/\0", "link.netns_path"),
        ("link.netns_inode", 2**64 - 1, "link.netns_inode"),
        ("link.attachment.ifname", "eth1", "link.attachment"),
        ("addresses", None, "addresses: at least one"),
        ("addresses.address", None, r"addresses\[0\].address"),
        ("addresses.gateway.packed", b"12345", r"addresses\[0\].gateway"),
        ("addresses.range.length", 33, r"addresses\[0\].range"),
        ("labels", {"": "x"}, "labels"),
        ("labels", {"reserved:init": ""}, "reserved:"),
        ("labels", {"app": "a b"}, "no label value"),
        ("labels", {"app": "x" * 64}, "no label value"),
        ("pod.name", "x" * 254, "pod.name"),
    ],
)
async def test_each_field_that_is_wrong_is_named(client: Client, path: str, value: object, says: str) -> None:
    """INVALID_ARGUMENT, and nobody else is asked."""
    with pytest.raises(InvalidArgument, match=says):
        await client.peer.call(client.stub.CreateEndpoint, _broken(path, value), timeout=5)


@pytest.mark.parametrize(
    ("selector", "says"),
    [
        (pb.EndpointSelector(), "one of id, attachment, address and pod"),
        (pb.EndpointSelector(id=0), "selector.id: 0"),
        (pb.EndpointSelector(id=65536), "selector.id: 65536"),
        (pb.EndpointSelector(attachment=types.Attachment(network="x")), "selector.attachment.container_id"),
        (pb.EndpointSelector(address=types.IpAddress(packed=b"1")), "selector.address"),
        (pb.EndpointSelector(pod=types.Pod(namespace="default")), "selector.pod.name"),
    ],
)
async def test_a_selector_that_names_nothing_is_refused(
    client: Client, selector: pb.EndpointSelector, says: str
) -> None:
    """By every verb that takes one."""
    for method, request in (
        (client.stub.GetEndpoint, pb.GetEndpointRequest(selector=selector)),
        (client.stub.DeleteEndpoint, pb.DeleteEndpointRequest(selector=selector)),
        (client.stub.CheckEndpoint, pb.CheckEndpointRequest(selector=selector)),
    ):
        with pytest.raises(InvalidArgument, match=says):
            await client.peer.call(method, request, timeout=5)
