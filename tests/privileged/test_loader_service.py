"""The loader as a process, driven over gRPC: two pods talk, and go on talking whatever happens to the loader."""

import asyncio
import contextlib
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from podlane.loader.v1 import loader_pb2 as pb

from services.common import wire
from services.common.errors import FailedPrecondition, InvalidArgument, NotFound
from tests.loader_support import GATEWAYS, RANGES, REPOSITORY, LoaderNode, pinging

pytestmark = pytest.mark.privileged

V4_ROUTER, V6_ROUTER = map(str, GATEWAYS)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[LoaderNode]:
    async with LoaderNode(tmp_path) as node:
        await node.configure()
        yield node


def program_ids(datapath: pb.EndpointDatapath) -> dict[str, int]:
    return {program.hook: program.id for program in datapath.programs}


@pytest.mark.parametrize("mode", ["tc", "tcx"])
async def test_two_pods_reach_each_other_the_node_and_are_reached_by_it(tmp_path: Path, mode: str) -> None:
    async with LoaderNode(tmp_path, attach_mode=mode) as node:
        await node.configure()
        one, two = await node.add(), await node.add()

        assert one.pings(two.v4, two.v6, V4_ROUTER, V6_ROUTER) == []
        assert [address for address in (two.v4, two.v6) if not node.ping(address)] == []
        (datapath,) = await node.datapaths(one.endpoint.id)
        assert set(program_ids(datapath)) == {f"{mode} ingress", f"{mode} egress", f"call_policy[{datapath.id}]"}
        assert (datapath.reachable, datapath.policy_entries, list(datapath.problems)) == (True, 2, [])

        for pod in (one, two):
            await node.delete(pod)
        assert node.leftovers() == []


async def test_a_pod_is_unreachable_until_it_is_regenerated(node: LoaderNode) -> None:
    one, two = await node.add(), await node.link()
    assert one.pings(two.v4) == [two.v4]

    await node.regenerate(two)

    assert one.pings(two.v4) == []


async def test_level_1_changes_the_policy_and_leaves_the_programs(node: LoaderNode) -> None:
    one, two = await node.add(), await node.add()
    (before,) = await node.datapaths(two.endpoint.id)

    deny = [pb.PolicyEntry(direction=pb.TRAFFIC_DIRECTION_EGRESS)]
    reply = await node.regenerate(two, level=1, policy=deny)

    assert reply.level == pb.REGENERATION_LEVEL_NO_REBUILD
    assert one.pings(two.v4, two.v6) == [two.v4, two.v6]
    assert program_ids(reply.datapath) == program_ids(before)


async def test_level_1_loads_what_has_changed_and_level_2_in_any_case(node: LoaderNode) -> None:
    pod = await node.link()
    first = await node.regenerate(pod)
    again = await node.regenerate(pod, level=1)
    forced = await node.regenerate(pod)
    other = await node.regenerate(pod, level=1, arp_responder=False)

    assert [reply.level for reply in (first, again, forced, other)] == [2, 1, 2, 2]
    assert program_ids(first.datapath) == program_ids(again.datapath)
    assert not set(program_ids(forced.datapath).values()) & set(program_ids(first.datapath).values())
    assert first.datapath.config_hash == forced.datapath.config_hash != other.datapath.config_hash
    assert [reply.reason for reply in (again, forced, other)] == [
        "",
        "it was asked for",
        "the configuration has changed",
    ]
    assert {"headers", "template", "load", "policy", "attach", "host", "maps", "commit"} <= {
        phase.name for phase in first.phases
    }


async def test_a_dry_run_says_what_would_change_and_touches_nothing(node: LoaderNode) -> None:
    pod = await node.add()
    (before,) = await node.datapaths(pod.endpoint.id)
    files = sorted(path.stat().st_mtime_ns for path in node.state.rglob("*"))

    same = await node.regenerate(pod, level=1, dry_run=True)
    deny = [pb.PolicyEntry(direction=pb.TRAFFIC_DIRECTION_EGRESS)]
    policy = await node.regenerate(pod, level=1, policy=deny, dry_run=True)
    option = await node.regenerate(pod, level=1, dry_run=True, debug=True)
    forced = await node.regenerate(pod, level=2, dry_run=True)

    assert (same.level, list(same.changes)) == (1, [])
    assert (policy.level, list(policy.changes)) == (1, ["policy map policy_10: 0 entries written, 1 removed"])
    assert (option.level, option.reason) == (2, "the configuration has changed")
    assert option.changes[0] == "option debug: off → on"
    assert option.changes[1].endswith("is new: clang compiles it")
    assert (forced.level, forced.reason, list(forced.changes)) == (2, "it was asked for", [])
    assert (await node.datapaths(pod.endpoint.id)) == [before]
    assert sorted(path.stat().st_mtime_ns for path in node.state.rglob("*")) == files


async def test_a_compile_error_leaves_the_old_programs_live(node: LoaderNode, tmp_path: Path) -> None:
    one, two = await node.add(), await node.add()
    shutil.copytree(REPOSITORY / "bpf", tmp_path / "sources")
    with (tmp_path / "sources" / "bpf_lxc.c").open("a") as source:
        source.write("#error not today\n")
    await node.restart(bpf_dir=tmp_path / "sources")

    with pytest.raises(FailedPrecondition, match="not today"):
        await node.regenerate(two)

    log = node.state / f"{two.endpoint.id}_next_fail" / "verifier.log"
    assert "#error not today" in log.read_text()
    assert one.pings(two.v4, two.v6) == []
    assert await node.problems() == []


async def test_a_killed_loader_costs_no_packet_and_the_next_finds_everything_in_place(node: LoaderNode) -> None:
    one, two = await node.add(), await node.add()
    before = await node.datapaths()

    async with pinging(one.netns, two.v4) as lost:
        await node.restart(signal.SIGKILL)
        assert await node.datapaths() == before
        assert await node.problems() == []
        assert (await node.regenerate(two, level=1)).level == pb.REGENERATION_LEVEL_NO_REBUILD
        assert (await node.regenerate(one, level=1, debug=True)).level == pb.REGENERATION_LEVEL_REWRITE_LOAD

    assert lost == []
    three = await node.add()
    assert three.pings(one.v4, two.v6) == []


async def test_a_program_replaced_by_hand_is_reported_and_mended(node: LoaderNode) -> None:
    one, two = await node.add(), await node.add()
    device = two.link.host_ifname
    node.netns.command("tc", "filter", "del", "dev", device, "egress")
    node.netns.command("ip", "route", "del", two.v4)
    assert "tc egress is empty: to_container" in (await node.problems())[0]

    await node.regenerate(two, level=1)

    assert await node.problems() == []
    assert node.ping(two.v4)
    assert one.pings(two.v4) == []


async def test_attach_modes_follow_each_other_without_a_lost_packet(node: LoaderNode) -> None:
    one, two = await node.add(), await node.add()
    async with pinging(one.netns, two.v4) as lost:
        for mode in ("tcx", "tc"):
            await node.restart(attach_mode=mode)
            for pod in (one, two):
                reply = await node.regenerate(pod, level=1)
                assert {one.split()[0] for one in program_ids(reply.datapath)} == {
                    mode,
                    f"call_policy[{pod.endpoint.id}]",
                }
            assert await node.problems() == []

    assert lost == []
    for pod in (one, two):
        await node.delete(pod)
    assert node.leftovers() == []


async def test_removing_stops_the_pods_traffic_although_its_link_stays(node: LoaderNode) -> None:
    one, two = await node.add(), await node.add()

    assert await node.remove(one) is True
    assert await node.remove(one) is False

    assert one.pings(two.v4, V4_ROUTER) == [two.v4, V4_ROUTER]
    assert two.pings(one.v4) == [one.v4]
    assert not node.ping(one.v6)
    await node.regenerate(one)
    # What waits for an answer that was asked for in vain is lost with the question.
    one.netns.command("ip", "neigh", "flush", "all")
    assert one.pings(two.v4, two.v6) == []


async def test_sixteen_endpoints_at_once_share_one_compile(node: LoaderNode) -> None:
    pods = [await node.link() for _ in range(16)]

    await asyncio.gather(*(node.regenerate(pod) for pod in pods))

    assert pods[0].pings(pods[-1].v4, pods[-1].v6) == []
    view = await node.call("GetNode", pb.GetNodeRequest())
    assert len(view.templates) == 1
    await asyncio.gather(*(node.delete(pod) for pod in pods))
    assert node.leftovers() == []


async def test_an_unconfigured_node_says_so_and_a_restart_remembers(tmp_path: Path) -> None:
    async with LoaderNode(tmp_path) as node:
        with pytest.raises(FailedPrecondition, match="ConfigureNode comes first"):
            await node.link()
        assert (await node.configure()).changed is True
        assert (await node.configure()).changed is False
        pod = await node.link()
        await node.restart()
        await node.regenerate(pod)
        assert (await node.configure()).changed is False


async def test_another_gateway_makes_programs_that_know_it(node: LoaderNode) -> None:
    pod = await node.add()
    other = [wire.write_address(address) for address in (RANGES[0][2], RANGES[1][2])]
    view = await node.call("GetNode", pb.GetNodeRequest())
    assert list(view.config.gateways) != other
    del view.config.gateways[:]
    view.config.gateways.extend(other)

    reply = await node.call("ConfigureNode", pb.ConfigureNodeRequest(config=view.config))

    assert reply.changed is True
    assert (await node.regenerate(pod, level=1)).level == pb.REGENERATION_LEVEL_REWRITE_LOAD
    hosts = [one.endpoint.address for one in await dump(node, "endpoints") if not one.endpoint.endpoint_id]
    assert sorted(one.packed for one in hosts) == sorted(one.packed for one in other)


async def dump(node: LoaderNode, name: str, id_: int = 0) -> list[pb.MapEntry]:
    return list((await node.call("DumpMap", pb.DumpMapRequest(map=name, endpoint_id=id_))).entries)


async def test_the_maps_are_dumped_decoded(node: LoaderNode) -> None:
    pod = await node.add()

    ours = [one.endpoint for one in await dump(node, "endpoints") if one.endpoint.endpoint_id == pod.endpoint.id]
    assert sorted(one.address.packed for one in ours) == sorted(one.packed for one in pod.endpoint.addresses)
    assert {(one.ifindex, one.identity) for one in ours} == {(pod.link.host_ifindex, pod.endpoint.identity)}
    (slot,) = await dump(node, "call_policy")
    assert slot.call_policy.endpoint_id == pod.endpoint.id
    assert len(await dump(node, "policy", pod.endpoint.id)) == 2
    pod.netns.command("ip", "link", "set", "eth0", "address", "02:00:00:00:00:99")
    pod.pings(V4_ROUTER)
    reasons = {one.metrics.reason for one in await dump(node, "metrics", pod.endpoint.id)}
    assert "invalid source mac" in reasons
    with pytest.raises(InvalidArgument, match="is no map; there are endpoints"):
        await dump(node, "weather")
    with pytest.raises(NotFound, match="endpoint 999 has no policy map"):
        await dump(node, "policy", 999)


async def test_the_removal_of_a_link_is_streamed(node: LoaderNode) -> None:
    """Nothing says when the stream has begun: links are removed until one is reported."""
    stream: Any = node.peer.stream(node.stub.WatchLinks, pb.WatchLinksRequest())
    async with contextlib.aclosing(stream):
        first = asyncio.ensure_future(anext(stream))
        while not first.done():
            pod = await node.link()
            node.netns.command("ip", "link", "del", pod.link.host_ifname)
            await asyncio.wait([first], timeout=0.05)

    removal = await first
    assert removal.host_ifname in {pod.link.host_ifname for pod in node.pods}
    assert removal.attachment in [pod.endpoint.attachment for pod in node.pods]


async def test_an_endpoint_without_its_link_is_reported_and_not_found(node: LoaderNode) -> None:
    pod = await node.add()
    node.netns.command("ip", "link", "del", pod.link.host_ifname)

    assert (await node.problems())[0] == f"link {pod.link.host_ifname} (ifindex {pod.link.host_ifindex}) is gone"
    with pytest.raises(NotFound, match="there is no link"):
        await node.regenerate(pod)
    await node.delete(pod)
    assert node.leftovers() == []


async def test_a_second_loader_on_the_same_socket_ends_with_one_line(node: LoaderNode) -> None:
    process = await asyncio.create_subprocess_exec(
        *node.netns.argv(*node.argv()), stderr=asyncio.subprocess.PIPE, cwd=REPOSITORY
    )
    _, stderr = await process.communicate()

    assert process.returncode == 1
    assert "another process serves on" in stderr.decode().splitlines()[-1]


async def test_without_root_the_first_line_says_what_to_do() -> None:
    process = await asyncio.create_subprocess_exec(
        *("setpriv", "--reuid=65534", "--clear-groups", sys.executable, "-m", "services.loader"),
        stderr=asyncio.subprocess.PIPE,
        cwd=REPOSITORY,
    )
    _, stderr = await process.communicate()

    assert process.returncode == 1
    assert stderr.decode().startswith("podlane-loader: the loader needs root")
