"""A loader is told of other nodes: the ipcache and the routes become what they are to be, or nothing is changed."""

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator
from ipaddress import ip_address, ip_network
from typing import Any

import grpc
import pytest
import pytest_asyncio
from podlane.loader.v1 import loader_pb2 as pb

from services.common import wire
from services.common.errors import FailedPrecondition, InvalidArgument
from tests.cluster_support import ClusterLoader, LoaderCluster, entry
from tests.netns_support import Netns

pytestmark = pytest.mark.asyncio(loop_scope="module")
NODE, NODE_V6 = ip_address("10.99.0.2"), ip_address("fd00:99::2")
ONE, TWO, THREE = ip_address("10.102.0.10"), ip_address("fd00:102::a"), ip_address("10.102.0.11")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LoaderCluster]:
    async with LoaderCluster(tmp_path_factory.mktemp("cluster"), 1) as cluster:
        yield cluster


@pytest_asyncio.fixture(loop_scope="module")
async def cluster(shared: LoaderCluster) -> AsyncIterator[LoaderCluster]:
    await shared.configure(pb.ROUTING_OVERLAY, masquerade=True)
    yield shared
    await shared.clear()


@pytest_asyncio.fixture(loop_scope="module")
async def node(cluster: LoaderCluster) -> ClusterLoader:
    return cluster.nodes[0]


async def held(node: ClusterLoader) -> set[tuple[str, int, str]]:
    """Return what the ipcache holds: address, identity, node."""
    entries = [one.ipcache for one in await node.dump("ipcache")]
    return {
        (
            str(wire.read_address(one.address, "address")),
            one.identity,
            str(wire.read_address(one.node, "node")) if one.HasField("node") else "",
        )
        for one in entries
    }


async def update(node: ClusterLoader, *upserts: pb.IpcacheEntry, removals: Any = ()) -> None:
    request = pb.UpdateIpcacheRequest(upserts=upserts, removals=map(wire.write_address, removals))
    await node.call("UpdateIpcache", request)


WHOLE = [entry(ONE, 300, NODE), entry(TWO, 300, NODE), entry(NODE, 6)]


async def test_the_ipcache_becomes_what_it_is_told(cluster: LoaderCluster, node: ClusterLoader) -> None:
    first = await cluster.sync_ipcache(node, WHOLE)
    assert await held(node) == {(str(ONE), 300, str(NODE)), (str(TWO), 300, str(NODE)), (str(NODE), 6, "")}

    again = await cluster.sync_ipcache(node, WHOLE)
    changed = await cluster.sync_ipcache(node, [WHOLE[0], entry(TWO, 301, NODE), entry(THREE, 302, NODE)])
    assert await held(node) == {(str(ONE), 300, str(NODE)), (str(TWO), 301, str(NODE)), (str(THREE), 302, str(NODE))}
    empty = await cluster.sync_ipcache(node, [])

    assert [(one.written, one.removed) for one in (first, again, changed, empty)] == [(3, 0), (0, 0), (2, 1), (0, 3)]
    assert await held(node) == set()


async def test_differences_are_enough(cluster: LoaderCluster, node: ClusterLoader) -> None:
    await cluster.sync_ipcache(node, WHOLE)

    for _ in range(2):  # idempotent
        await update(node, entry(TWO, 301, NODE), entry(THREE, 302, NODE), removals=[ONE, NODE])
        assert await held(node) == {(str(TWO), 301, str(NODE)), (str(THREE), 302, str(NODE))}


async def test_a_stream_that_breaks_off_changes_nothing(cluster: LoaderCluster, node: ClusterLoader) -> None:
    await cluster.sync_ipcache(node, WHOLE)
    before = await held(node)

    for cut in (True, False):
        await broken_off(node, cut=cut)

    assert await held(node) == before


async def broken_off(node: ClusterLoader, *, cut: bool) -> None:
    """Send a part, and then hang up or end the stream as if that were all."""
    stream = node.stub.SyncIpcache()
    await stream.write(pb.SyncIpcacheRequest(entries=[entry(THREE, 302, NODE)]))
    if cut:
        stream.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stream
    else:
        await stream.done_writing()
        with pytest.raises(grpc.aio.AioRpcError, match="before its last message"):
            await stream
    # A call later: whatever the first one was about to do is done.
    with pytest.raises(InvalidArgument):
        await update(node, entry(THREE, 0, NODE))


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([entry(ONE, 0, NODE)], r"entries\[0\].identity: 10.102.0.10 needs an identity other than 0"),
        ([entry(ONE, 300), entry(ONE, 301)], r"entries\[1\].address: 10.102.0.10 was given before"),
        ([entry(ONE, 300, NODE_V6)], "10.102.0.10 is behind fd00:99::2, and this node tunnels over IPv4"),
        ([pb.IpcacheEntry(identity=300)], r"entries\[0\].address: an IP address has 4 or 16 bytes, this one has 0"),
    ],
)
async def test_what_can_not_be_is_refused_and_changes_nothing(
    cluster: LoaderCluster, node: ClusterLoader, entries: list[pb.IpcacheEntry], words: str
) -> None:
    await cluster.sync_ipcache(node, WHOLE)
    before = await held(node)

    with pytest.raises(InvalidArgument, match=words):
        await cluster.sync_ipcache(node, entries)
    with pytest.raises(InvalidArgument, match=words.replace("entries", "upserts")):
        await update(node, *entries)

    assert await held(node) == before


async def test_an_address_is_not_written_and_removed_at_once(node: ClusterLoader) -> None:
    with pytest.raises(InvalidArgument, match=r"removals\[0\]: 10.102.0.10 is among the upserts, too"):
        await update(node, entry(ONE, 300, NODE), removals=[ONE])


async def test_with_native_routing_nobody_is_tunnelled_to(cluster: LoaderCluster, node: ClusterLoader) -> None:
    """So that who tells need not know."""
    await cluster.configure(pb.ROUTING_NATIVE)
    await cluster.sync_ipcache(node, [entry(ONE, 300, NODE), entry(TWO, 300, NODE_V6)])

    assert await held(node) == {(str(ONE), 300, ""), (str(TWO), 300, "")}


async def test_a_node_that_is_alone_is_not_told(cluster: LoaderCluster, node: ClusterLoader) -> None:
    await cluster.configure(pb.ROUTING_UNSPECIFIED)

    with pytest.raises(FailedPrecondition, match="this node knows of no other nodes"):
        await update(node, entry(ONE, 300, NODE))
    with pytest.raises(FailedPrecondition, match="configured without a routing"):
        await node.call("SyncNodes", pb.SyncNodesRequest(nodes=[remote()]))
    assert await held(node) == set()


async def test_a_hundred_thousand_entries_outlive_the_loader(cluster: LoaderCluster, node: ClusterLoader) -> None:
    base = int(ip_address("10.110.0.0"))
    entries = [entry(ip_address(base + number), 300 + number % 5000, NODE) for number in range(100_000)]

    assert (await cluster.sync_ipcache(node, entries)).written == 100_000
    await node.restart(signal.SIGKILL)
    again = await cluster.sync_ipcache(node, entries)
    gone = await cluster.sync_ipcache(node, [])

    assert [(one.written, one.removed) for one in (again, gone)] == [(0, 0), (0, 100_000)]


# ── routes ──


def remote(name: str = "n2", address: Any = NODE, pods: tuple[str, ...] = ("10.102.0.0/24",), **fields: Any) -> Any:
    cidrs = [wire.write_network(ip_network(one)) for one in pods]
    return pb.RemoteNode(name=name, address=wire.write_address(address), pod_cidrs=cidrs, **fields)


def known(node: ClusterLoader) -> set[tuple[str, str, str]]:
    """Return our routes: destination, gateway, device."""
    # Not as JSON: of a route into a tunnel iproute2 prints `dst` twice.
    shown = [node.netns.command("ip", family, "route", "show", "proto", "112").stdout for family in ("-4", "-6")]
    lines = [line.split() for text in shown for line in text.splitlines()]
    return {(one[0], _after(one, "via"), _after(one, "dev")) for one in lines}


def _after(words: list[str], word: str) -> str:
    return words[words.index(word) + 1] if word in words else ""


async def sync(node: ClusterLoader, *nodes: pb.RemoteNode) -> pb.SyncNodesResponse:
    reply: pb.SyncNodesResponse = await node.call("SyncNodes", pb.SyncNodesRequest(nodes=nodes))
    return reply


async def test_routes_become_what_they_are_to_be(node: ClusterLoader) -> None:
    three = remote("n3", ip_address("10.99.0.3"), ("10.103.0.0/24",))
    answers = [await sync(node, remote(pods=("10.102.0.0/24", "fd00:102::/112")), three)]
    assert known(node) == {
        ("10.102.0.0/24", "", "podlane_vxlan"),
        ("fd00:102::/112", "", "podlane_vxlan"),
        ("10.103.0.0/24", "", "podlane_vxlan"),
    }
    answers += [await sync(node, remote(pods=("10.102.0.0/24", "fd00:102::/112")), three), await sync(node, three)]

    assert [(one.added, one.removed, list(one.problems)) for one in answers] == [(3, 0, []), (0, 0, []), (0, 2, [])]


def leads_to(node: ClusterLoader) -> list[str]:
    """Return what our routes say of the tunnel."""
    shown = [node.netns.command("ip", family, "route", "show", "proto", "112").stdout for family in ("-4", "-6")]
    return re.findall(r"encap ip (id \S+ src \S+ dst \S+)", "".join(shown))


async def test_a_route_leads_to_the_node_and_changes_with_it(node: ClusterLoader) -> None:
    pods = ("10.102.0.0/24", "fd00:102::/112")
    await sync(node, remote(pods=pods))
    assert leads_to(node) == [f"id 0 src 0.0.0.0 dst {NODE}"] * 2
    await sync(node, remote("n2", ip_address("10.99.0.9"), pods))
    assert leads_to(node) == ["id 0 src 0.0.0.0 dst 10.99.0.9"] * 2
    assert len(known(node)) == 2


async def test_packets_of_the_node_itself_have_its_gateway_for_a_source(node: ClusterLoader) -> None:
    await sync(node, remote(pods=("10.102.0.0/24", "fd00:102::/112")))

    (four,), (six,) = node.ip("route", "get", "10.102.0.10"), node.ip("-6", "route", "get", "fd00:102::a")
    assert (four["prefsrc"], six["prefsrc"]) == ("10.101.0.1", "fd00:101::1")


async def test_a_node_that_can_not_be_routed_to_is_told_and_the_others_have_their_routes(
    cluster: LoaderCluster, node: ClusterLoader
) -> None:
    await cluster.configure(pb.ROUTING_NATIVE)
    far = remote("far", ip_address("192.0.2.7"), ("10.103.0.0/24",))
    four = remote("four", ip_address("10.99.0.4"), ("10.104.0.0/24", "fd00:104::/112"))
    both = remote("n2", NODE, ("10.102.0.0/24", "fd00:102::/112"), addresses=[wire.write_address(NODE_V6)])
    twice = remote("twice", ip_address("10.99.0.5"), ("10.102.0.0/24",))
    ours = remote("ours", ip_address("10.99.0.6"), ("10.101.0.128/25",))

    answer = await sync(node, far, four, both, twice, ours)

    assert known(node) == {
        ("10.102.0.0/24", str(NODE), "eth0"),
        ("fd00:102::/112", str(NODE_V6), "eth0"),
        ("10.104.0.0/24", "10.99.0.4", "eth0"),
    }
    there = "10.103.0.0/24"
    assert sorted(answer.problems) == [
        f"node far: no route to {there} via 192.0.2.7: route {there}: Nexthop has invalid gateway (ENETUNREACH)",
        "node four: fd00:104::/112 can't be routed to: none of the node's addresses (10.99.0.4) is an IPv6 address",
        "node ours: 10.101.0.128/25 overlaps this node's own pod ranges",
        "node twice: 10.102.0.0/24 is node n2's already",
    ]
    assert answer.added == 3


async def test_routes_of_others_are_never_touched(node: ClusterLoader) -> None:
    node.netns.command("ip", "route", "add", "10.105.0.0/24", "via", "10.99.0.9")
    await sync(node, remote())
    await sync(node)

    assert len(node.ip("route", "show", "10.105.0.0/24")) == 1
    node.netns.command("ip", "route", "del", "10.105.0.0/24")


async def test_a_start_brings_routes_back(node: ClusterLoader) -> None:
    await sync(node, remote(pods=("10.102.0.0/24", "fd00:102::/112")))
    before = known(node)
    node.netns.command("ip", "link", "del", "podlane_vxlan")
    assert known(node) == set()

    await node.restart(signal.SIGKILL)

    assert known(node) == before


async def test_a_node_is_given_once_and_by_name(node: ClusterLoader) -> None:
    for nodes, words in (
        ([remote(), remote()], r"nodes\[1\].name: node n2 was given before"),
        ([remote("")], r"nodes\[0\].name: a node needs a name"),
    ):
        with pytest.raises(InvalidArgument, match=words):
            await sync(node, *nodes)


async def test_what_goes_to_the_cluster_is_not_masqueraded(cluster: LoaderCluster, node: ClusterLoader) -> None:
    await cluster.configure(pb.ROUTING_NATIVE, masquerade=True, cluster_cidrs=[_prefix("10.120.0.0/16")])
    await sync(node, remote(pods=("10.102.0.0/24", "fd00:102::/112")))

    sets = {one["set"]["name"]: one["set"] for one in _table(node.netns) if "set" in one}
    assert {name: _elements(one) for name, one in sets.items()} == {
        "pods4": {"10.101.0.0/24"},
        "pods6": {"fd00:101::/112"},
        "cluster4": {"10.101.0.0/24", "10.102.0.0/24", "10.120.0.0/16"},
        "cluster6": {"fd00:101::/112", "fd00:102::/112"},
    }


def _prefix(text: str) -> Any:
    return wire.write_network(ip_network(text))


def _table(netns: Netns) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads(netns.command("nft", "-j", "list", "table", "inet", "podlane").stdout)[
        "nftables"
    ]
    return listed


def _elements(found: dict[str, Any]) -> set[str]:
    return {f"{one['prefix']['addr']}/{one['prefix']['len']}" for one in found["elem"]}
