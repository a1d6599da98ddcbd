"""Many endpoints' policy maps and the prefixes, changed by the real loader: what is written, in which order, and who is
left alone.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterable, Mapping
from ipaddress import IPv4Network, ip_network
from pathlib import Path
from typing import Any, cast

import pytest
from podlane.loader.v1 import loader_pb2 as pb

from services.common import policydigest, wire
from services.common.errors import Exhausted, InvalidArgument
from services.common.model import Network
from services.loader import libbpf, policymaps
from services.loader.headers import SIZES
from services.loader.model import Direction, PolicyEntry, policy_content
from services.loader.policyupdate import Change, Target, Update
from tests.loader_support import ALLOW_ALL, LoaderNode, Pod
from tests.netns_support import Netns
from tests.policymap_support import PolicyMaps

pytestmark = pytest.mark.privileged

INGRESS = PolicyEntry(Direction.INGRESS)
WEB = pb.PolicyEntry(direction=pb.TRAFFIC_DIRECTION_INGRESS, protocol=6, port=80, port_prefix_length=16)
SIZE = 64
BLOCK, BLOCK6 = ip_network("192.0.2.0/24"), ip_network("2001:db8::/32")


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[LoaderNode]:
    """A node with a configured loader."""
    async with LoaderNode(tmp_path) as node:
        await node.configure()
        yield node


def digest(entries: Iterable[pb.PolicyEntry]) -> bytes:
    """Return the digest of a map that holds these."""
    return policydigest.digest(
        (one.direction, one.identity, one.protocol, one.port, one.port_prefix_length, one.deny) for one in entries
    )


def target(pod: Pod, before: list[pb.PolicyEntry], after: list[pb.PolicyEntry], **changes: Any) -> pb.PolicyTarget:
    """Return a pod's part of a change."""
    fields: dict[str, Any] = {"id": pod.endpoint.id, "generation": 1, "before": digest(before), "after": digest(after)}
    return pb.PolicyTarget(**fields | changes)


async def update(node: LoaderNode, *changes: pb.PolicyChange, **prefixes: Any) -> Mapping[int, str]:
    """Change policies; return why endpoints were left alone."""
    reply = await node.call("UpdatePolicies", pb.UpdatePoliciesRequest(changes=changes, **prefixes))
    return {one.id: one.error for one in reply.refusals}


async def held(node: LoaderNode, pod: Pod) -> set[bytes]:
    """Return what an endpoint's map holds."""
    reply = await node.call("DumpMap", pb.DumpMapRequest(map="policy", endpoint_id=pod.endpoint.id))
    return {one.policy.entry.SerializeToString() for one in reply.entries}


def set_of(entries: Iterable[pb.PolicyEntry]) -> set[bytes]:
    return {one.SerializeToString() for one in entries}


def prefixes(*networks: Network, identity: int = 1 << 24) -> list[pb.PrefixIdentity]:
    return [pb.PrefixIdentity(prefix=wire.write_network(one), identity=identity) for one in networks]


async def prefix_map(node: LoaderNode) -> Mapping[Network, int]:
    reply = await node.call("DumpMap", pb.DumpMapRequest(map="prefixes"))
    return {wire.read_network(one.prefix.prefix, "prefix"): one.prefix.identity for one in reply.entries}


async def test_a_change_reaches_all_its_endpoints_and_no_file(node: LoaderNode) -> None:
    one, two = await node.add(), await node.add()
    files = {path: path.stat().st_ino for path in node.state.rglob("*")}
    after = [WEB, ALLOW_ALL[1]]

    refused = await update(
        node,
        pb.PolicyChange(
            added=[WEB], removed=ALLOW_ALL[:1], endpoints=[target(pod, ALLOW_ALL, after) for pod in (one, two)]
        ),
        prefixes_added=prefixes(BLOCK, BLOCK6),
    )

    assert refused == {}
    for pod in (one, two):
        assert await held(node, pod) == set_of(after)
    assert [status.policy_digest for status in await node.datapaths()] == [digest(after)] * 2
    assert [status.policy_entries for status in await node.datapaths()] == [2, 2]
    assert await prefix_map(node) == {BLOCK: 1 << 24, BLOCK6: 1 << 24}
    assert {path: path.stat().st_ino for path in node.state.rglob("*")} == files
    assert one.pings(two.v4) == [two.v4]


async def test_those_that_cannot_be_changed_are_told_and_the_others_go_on(node: LoaderNode) -> None:
    pods = [await node.add() for _ in range(4)]
    good, other, moved, unpinned = pods
    (node.maps / f"policy_{unpinned.endpoint.id}").unlink()
    after = [*ALLOW_ALL, WEB]
    endpoints = [
        target(other, [WEB], after),
        target(moved, ALLOW_ALL, after, generation=2),
        target(unpinned, ALLOW_ALL, after),
        target(good, ALLOW_ALL, after, id=999),
        target(good, ALLOW_ALL, after),
    ]

    refused = await update(node, pb.PolicyChange(added=[WEB], endpoints=endpoints))

    assert list(refused) == [other.endpoint.id, moved.endpoint.id, unpinned.endpoint.id, 999]
    assert "holds other entries" in refused[other.endpoint.id]
    assert "is of generation 1, the change is for generation 2" in refused[moved.endpoint.id]
    assert "has no policy map" in refused[unpinned.endpoint.id]
    assert "has no policy map" in refused[999]
    assert await held(node, good) == set_of(after)
    for pod in (other, moved):
        assert await held(node, pod) == set_of(ALLOW_ALL)


async def test_after_a_restart_the_kernels_map_says_what_a_change_is_of(node: LoaderNode) -> None:
    """Also of an endpoint without a record, which is nobody's."""
    pod, stranger = await node.add(), await node.add()
    await node.restart()
    (node.state / str(stranger.endpoint.id) / "endpoint.json").unlink()
    after = [*ALLOW_ALL, WEB]
    change = pb.PolicyChange(added=[WEB], endpoints=[target(one, ALLOW_ALL, after) for one in (stranger, pod)])

    refused = await update(node, change)

    assert refused == {stranger.endpoint.id: f"nobody has a record of endpoint {stranger.endpoint.id}: regenerate it"}
    assert await held(node, pod) == set_of(after)


async def test_a_repeat_is_done_already(node: LoaderNode) -> None:
    """Its answer may have been lost."""
    pod = await node.add()
    after = [*ALLOW_ALL, WEB]
    change = pb.PolicyChange(added=[WEB], endpoints=[target(pod, ALLOW_ALL, after)])

    for _ in range(2):
        assert await update(node, change) == {}
    await node.restart()
    assert await update(node, change) == {}
    assert await held(node, pod) == set_of(after)


async def test_a_regeneration_and_changes_follow_each_other(node: LoaderNode) -> None:
    """Each knows what the other has put in force."""
    pod = await node.add()
    web = [*ALLOW_ALL, WEB]

    assert await update(node, pb.PolicyChange(added=[WEB], endpoints=[target(pod, ALLOW_ALL, web)])) == {}
    reply = await node.regenerate(pod, level=1, policy=[WEB])
    assert reply.datapath.policy_digest == digest([WEB])
    assert await update(node, pb.PolicyChange(removed=[WEB], endpoints=[target(pod, [WEB], [])])) == {}
    assert await held(node, pod) == set()
    await node.regenerate(pod, policy=web)
    assert await update(node, pb.PolicyChange(removed=[WEB], endpoints=[target(pod, web, ALLOW_ALL)])) == {}
    assert await held(node, pod) == set_of(ALLOW_ALL)


async def test_an_allow_becomes_a_deny_whichever_list_names_it(node: LoaderNode) -> None:
    pod = await node.add()
    deny = pb.PolicyEntry(direction=pb.TRAFFIC_DIRECTION_INGRESS, deny=True)
    after = [deny, ALLOW_ALL[1]]
    change = pb.PolicyChange(added=[deny], removed=ALLOW_ALL[:1], endpoints=[target(pod, ALLOW_ALL, after)])

    assert await update(node, change) == {}

    assert await held(node, pod) == set_of(after)


async def test_a_bad_request_changes_nothing(node: LoaderNode) -> None:
    pod = await node.add()
    after = [*ALLOW_ALL, WEB]

    with pytest.raises(InvalidArgument, match=r"^prefixes_added\[0\]\.identity"):
        await update(
            node,
            pb.PolicyChange(added=[WEB], endpoints=[target(pod, ALLOW_ALL, after)]),
            prefixes_added=prefixes(BLOCK, identity=0),
        )

    assert await held(node, pod) == set_of(ALLOW_ALL)


async def test_prefixes_become_exactly_those_that_are_wanted(node: LoaderNode) -> None:
    async def sync(*wanted: pb.PrefixIdentity) -> tuple[int, int]:
        reply = await node.call("SyncPrefixes", pb.SyncPrefixesRequest(prefixes=wanted))
        return reply.written, reply.removed

    assert await sync(*prefixes(BLOCK, BLOCK6)) == (2, 0)
    assert await sync(*prefixes(BLOCK, BLOCK6)) == (0, 0)
    assert await sync(*prefixes(BLOCK6, identity=7)) == (1, 1)
    assert await prefix_map(node) == {BLOCK6: 7}


# ── the same code on maps of its own: what is seen only from inside ──


@pytest.fixture
async def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PolicyMaps]:
    """Maps that are full soon."""
    for name in ("POLICY_MAP_SIZE", "PREFIXES_MAP_SIZE"):
        monkeypatch.setitem(cast("dict[str, int]", SIZES), name, SIZE)
    with Netns() as namespace, namespace.enter():
        async with PolicyMaps(tmp_path) as bench:
            yield bench


async def test_entries_and_prefixes_come_before_others_go_and_then_flows_are_decided_again(
    bench: PolicyMaps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over all endpoints, so that no packet between two of them falls into the gap."""
    out = PolicyEntry(Direction.EGRESS)
    one, two = await bench.fill(1, INGRESS), await bench.fill(2, INGRESS)
    bench.datapath.prefixes.put({BLOCK6: 7})
    seen: list[str] = []
    for name in ("map_update_batch", "map_delete_batch"):
        real = getattr(libbpf, name)

        def spy(fd: libbpf.Fd, entries: Any, name: str = name, real: Any = real) -> None:
            seen.append(f"{name} {fd.about}")
            real(fd, entries)

        monkeypatch.setattr(libbpf, name, spy)
    monkeypatch.setattr(bench.datapath, "revise", lambda: seen.append("revised"))

    assert await bench.policies.update(Update((Change((out,), (INGRESS,), (one, two)),), {BLOCK: 1}, (BLOCK6,))) == []

    assert seen == [
        "map_update_batch policy_1",
        "map_update_batch policy_2",
        "map_update_batch podlane_prefixes",
        "map_delete_batch podlane_prefixes",
        "map_delete_batch policy_1",
        "map_delete_batch policy_2",
        "revised",
    ]
    assert bench.held(1) == bench.held(2) == [out]
    assert bench.datapath.prefixes.dump() == {BLOCK: 1}


@pytest.mark.parametrize("change", ["fill", "prefixes"])
async def test_flows_are_decided_again_after_what_changed_something(
    bench: PolicyMaps, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    revised: list[str] = []
    monkeypatch.setattr(bench.datapath, "revise", lambda: revised.append(change))

    for _ in range(2):  # the second changes nothing
        if change == "fill":
            await bench.fill(1, INGRESS)
        else:
            await bench.policies.sync({BLOCK: 1})
    assert revised == [change]


def many(count: int) -> list[PolicyEntry]:
    return [PolicyEntry(Direction.INGRESS, identity=256 + number) for number in range(count)]


async def test_a_change_that_does_not_fit_is_refused_with_numbers_before_anything_is_written(bench: PolicyMaps) -> None:
    """What is there already takes no room twice."""
    full = many(SIZE)
    one, two = await bench.fill(1, *full), await bench.fill(2)
    again, more = tuple(full[:2]), (PolicyEntry(Direction.EGRESS),)

    (refusal,) = await bench.policies.update(Update((Change(more, (), (one, two)),), {}, ()))
    assert refusal.id == 1
    assert f"room for {SIZE} entries and {SIZE + 1} are needed" in refusal.error
    assert (len(bench.held(1)), bench.held(2)) == (SIZE, list(more))

    assert await bench.policies.update(Update((Change(again, tuple(full[2:]), (one,)),), {}, ())) == []
    assert bench.held(1) == sorted(again)


async def test_what_fails_in_the_kernel_is_that_endpoints_and_its_digest_is_read_again(
    bench: PolicyMaps, monkeypatch: pytest.MonkeyPatch
) -> None:
    web = PolicyEntry(Direction.INGRESS, 0, 6, 80, 16)
    one, two = await bench.fill(1, INGRESS), await bench.fill(2, INGRESS)
    real = policymaps.Policy.write

    def write(policy: policymaps.Policy, entries: Mapping[bytes, bytes]) -> None:
        real(policy, entries)
        if policy.fd.about == "policy_1":
            raise libbpf.BpfError(12, "bpf_map_update_batch", policy.fd.about)

    monkeypatch.setattr(policymaps.Policy, "write", write)
    (refusal,) = await bench.policies.update(Update((Change((web,), (INGRESS,), (one, two)),), {}, ()))

    assert (refusal.id, "Cannot allocate memory" in refusal.error) == (1, True)
    assert bench.held(1) == [INGRESS, web]  # its removals are not begun
    assert bench.held(2) == [web]
    assert bench.policies.digest(1) == b""


async def test_prefixes_that_do_not_fit_are_refused_before_anything_is_written(
    bench: PolicyMaps,
) -> None:
    first = int(ip_network("10.0.0.0/8").network_address)
    wanted: dict[Network, int] = {IPv4Network((first + number, 32)): 1 for number in range(SIZE)}
    one = await bench.fill(1)
    bench.datapath.prefixes.put({BLOCK: 1})

    with pytest.raises(Exhausted, match=f"room for {SIZE} prefixes and {SIZE + 1} are needed"):
        await bench.policies.sync(wanted)
    with pytest.raises(Exhausted, match=f"room for {SIZE} prefixes and {SIZE + 1} are needed"):
        await bench.policies.update(Update((Change((INGRESS,), (), (one,)),), wanted, ()))
    assert bench.datapath.prefixes.dump() == {BLOCK: 1}
    assert bench.held(1) == []

    del wanted[next(iter(wanted))]
    assert await bench.policies.update(Update((), wanted, (BLOCK,))) == []
    assert len(bench.datapath.prefixes.dump()) == SIZE - 1


async def test_a_map_is_changed_by_one_at_a_time_and_others_do_not_wait(
    bench: PolicyMaps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A regeneration that comes in the middle of a change fills what the change has left; nobody reads what is half."""
    web, dns = PolicyEntry(Direction.INGRESS, 0, 6, 80, 16), PolicyEntry(Direction.INGRESS, 0, 17, 53, 16)
    one = await bench.fill(1, INGRESS)
    begun, go_on, real = threading.Event(), threading.Event(), policymaps.Policy.write

    def write(policy: policymaps.Policy, entries: Mapping[bytes, bytes]) -> None:
        begun.set()
        assert go_on.wait(20)
        real(policy, entries)

    monkeypatch.setattr(policymaps.Policy, "write", write)
    change = asyncio.create_task(bench.policies.update(Update((Change((web,), (INGRESS,), (one,)),), {}, ())))
    await asyncio.to_thread(begun.wait, 20)
    look = asyncio.create_task(bench.datapath.policy_content(1))
    fill = asyncio.create_task(bench.fill(1, dns))
    await bench.fill(2, INGRESS)
    for _ in range(10):  # as far as they get
        await asyncio.sleep(0)
    assert (look.done(), fill.done()) == (False, False)
    go_on.set()

    assert await change == []
    assert await look == policy_content([web])
    await fill
    assert bench.held(1) == [dns]
    assert bench.policies.digest(1) == policy_content([dns]).digest


async def test_what_changes_have_added_takes_room(bench: PolicyMaps) -> None:
    """Maps are not read for each change, but what came since they were is counted."""
    first, more = tuple(many(SIZE - 1)), tuple(many(SIZE + 1)[SIZE - 1 :])
    one = await bench.fill(1)
    then = Target(1, 1, one.after, policydigest.EMPTY)
    assert await bench.policies.update(Update((Change(first, (), (one,)),), {}, ())) == []

    (refusal,) = await bench.policies.update(Update((Change(more, (), (then,)),), {}, ()))
    assert f"{SIZE + 1} are needed" in refusal.error
    assert bench.held(1) == sorted(first)


async def test_prefixes_that_changes_have_added_take_room(bench: PolicyMaps) -> None:
    networks: list[Network] = [IPv4Network((10 << 24 | number, 32)) for number in range(SIZE + 1)]
    await bench.policies.sync({BLOCK6: 1})
    await bench.policies.update(Update((), dict.fromkeys(networks[: SIZE - 1], 1), ()))

    with pytest.raises(Exhausted, match=f"{SIZE + 1} are needed"):
        await bench.policies.update(Update((), {networks[SIZE - 1]: 1}, ()))
    assert len(bench.datapath.prefixes.dump()) == SIZE


async def test_of_a_map_that_was_taken_away_nothing_is_known(bench: PolicyMaps) -> None:
    one = await bench.fill(1, INGRESS)

    await bench.policies.forget(1)

    assert bench.policies.digest(1) == b""
    (refusal,) = await bench.policies.update(Update((Change((), (), (one,)),), {}, ()))
    assert "has no policy map" in refusal.error
