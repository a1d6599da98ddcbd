"""Pods of different nodes reach each other, through VXLAN and by routes, in both families, under both ends' policy."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from podlane.loader.v1 import loader_pb2 as pb
from scapy.layers.inet import IP, UDP
from scapy.layers.vxlan import VXLAN

from services.common.errors import FailedPrecondition
from tests.cluster_support import MTU, WORLD_V4, WORLD_V6, LoaderCluster, process
from tests.loader_support import Pod, pinging
from tests.overlay_packets import (
    EGRESS,
    INGRESS,
    NATIVE,
    OVERLAY,
    TUNNEL_PORT,
    allow,
    arrived,
    arrived_now,
    bound,
    capture,
    deny,
    fragments,
    frame,
    passes,
    send,
    silent,
    transfer,
    vxlan,
)

WAYS = [(OVERLAY, 4), (OVERLAY, 6), (NATIVE, 4), (NATIVE, 6)]
WAY_NAMES = ["overlay over IPv4", "overlay over IPv6", "native by IPv4", "native by IPv6"]


# One cluster for all of them: starting two loaders takes longer than any of the tests.
pytestmark = [pytest.mark.long, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LoaderCluster]:
    async with LoaderCluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest_asyncio.fixture(loop_scope="module")
async def cluster(shared: LoaderCluster) -> AsyncIterator[LoaderCluster]:
    """Two loaders without pods and alone."""
    yield shared
    await shared.clear()


async def two_pods(cluster: LoaderCluster, routing: "pb.Routing.ValueType", family: int = 4) -> tuple[Pod, Pod]:
    """Configure two nodes with a pod on each, and tell them."""
    await cluster.configure(routing, family, masquerade=True)
    pods = await cluster.pod(0), await cluster.pod(1)
    await cluster.tell()
    return pods


@pytest.mark.parametrize(("routing", "family"), WAYS, ids=WAY_NAMES)
async def test_pods_and_nodes_reach_each_other(
    cluster: LoaderCluster, routing: "pb.Routing.ValueType", family: int
) -> None:
    one, two = await two_pods(cluster, routing, family)
    first, second = cluster.nodes

    unreached = {
        "pod to pod": one.pings(two.v4, two.v6) + two.pings(one.v4, one.v6),
        "node to pod": [address for address in (two.v4, two.v6) if not first.ping(address)],
        "pod to other node": one.pings(second.address(4), second.address(6)),
        "pod to other gateway": one.pings(*map(str, second.gateways)),
        "pod to world": one.pings(WORLD_V4, WORLD_V6),
    }
    assert unreached == {way: [] for way in unreached}
    for node in cluster.nodes:
        assert (await node.drops()).keys() <= {"link local noise"}


# ── size ──


@pytest.mark.parametrize(("routing", "family"), WAYS, ids=WAY_NAMES)
async def test_much_data_is_never_fragmented(
    cluster: LoaderCluster, routing: "pb.Routing.ValueType", family: int
) -> None:
    one, two = await two_pods(cluster, routing, family)
    mtu = (await cluster.nodes[0].call("GetNode", pb.GetNodeRequest())).mtu
    spaces = (one.netns, two.netns, cluster.fabric.netns, *(node.netns for node in cluster.nodes))
    before = [fragments(netns) for netns in spaces]

    for address, headers in ((two.v4, 28), (two.v6, 48)):
        assert await asyncio.to_thread(transfer, one.netns, two.netns, address, 32 << 20) == 32 << 20
        # What fits exactly passes, and nothing that is one byte longer.
        largest = mtu - headers
        assert passes(one.netns, address, largest)
        assert not passes(one.netns, address, largest + 1)

    assert mtu == MTU - (0 if routing == NATIVE else 50 if family == 4 else 70)
    assert [fragments(netns) for netns in spaces] == before


async def test_a_tunnelled_packet_says_who_has_sent_it_and_must_not_be_fragmented(cluster: LoaderCluster) -> None:
    one, two = await two_pods(cluster, OVERLAY)

    with capture(cluster.fabric.netns) as seen:
        assert one.netns.ping(two.v4)
        assert cluster.nodes[0].ping(two.v4)
        packets = seen(4)

    assert {(packet[VXLAN].vni, str(packet[IP].flags), packet[UDP].chksum) for packet in packets} == {
        (one.endpoint.identity, "DF", 0),
        (two.endpoint.identity, "DF", 0),
        (6, "DF", 0),
    }


async def test_an_identity_of_one_node_alone_is_the_worlds_name_on_the_way(cluster: LoaderCluster) -> None:
    """And still itself where its address is known."""
    one, two = await two_pods(cluster, OVERLAY)
    one.endpoint.identity = 1 << 24 | 5
    await cluster.nodes[0].regenerate(one)
    await cluster.tell()
    await cluster.nodes[1].regenerate(two, 1, [allow(INGRESS, one.endpoint.identity)])

    with capture(cluster.fabric.netns) as seen:
        assert one.netns.ping(two.v4)
        packets = seen(2)

    assert [packet[VXLAN].vni for packet in packets] == [2, two.endpoint.identity]


# ── who may ──


@pytest.mark.parametrize("by_stack", [False, True], ids=["past_the_stack", "by_the_stack"])
@pytest.mark.parametrize(("routing", "family"), [(OVERLAY, 4), (OVERLAY, 6), (NATIVE, 4)])
async def test_policy_knows_pods_of_other_nodes_by_their_identities(
    cluster: LoaderCluster, routing: "pb.Routing.ValueType", family: int, *, by_stack: bool
) -> None:
    one, two = await two_pods(cluster, routing, family)
    two.endpoint.options.add(name="host-routing", enabled=by_stack)
    other = await cluster.pod(0)
    await cluster.tell()
    first, second = cluster.nodes

    await second.regenerate(two, 1, [allow(INGRESS, one.endpoint.identity), allow(EGRESS, 0)])
    assert silent((one, other, first), two.v4, two.v6) == [[], [two.v4, two.v6], [two.v4, two.v6]]

    await second.regenerate(two, 1, [allow(INGRESS, 0), deny(INGRESS, one.endpoint.identity), allow(EGRESS, 0)])
    assert silent((one, other), two.v4) == [[two.v4], []]

    await second.regenerate(two, 1, [allow(INGRESS, 6)])
    assert silent((one, other, first), two.v4) == [[two.v4], [two.v4], []]

    await second.regenerate(two, 1)
    await first.regenerate(one, 1, [allow(EGRESS, two.endpoint.identity)])
    await first.regenerate(other, 1, [allow(EGRESS, 2)])
    assert silent((one, other), two.v4, two.v6) == [[], [two.v4, two.v6]]


@pytest.mark.parametrize("routing", [OVERLAY, NATIVE])
async def test_whom_nobody_has_told_of_is_the_world(cluster: LoaderCluster, routing: "pb.Routing.ValueType") -> None:
    """Although the VNI says more."""
    one, two = await two_pods(cluster, routing)
    second = cluster.nodes[1]
    hidden = [entry for entry in cluster.entries(cluster.nodes[0]) if entry.identity != one.endpoint.identity]
    await cluster.sync_ipcache(second, hidden)
    listener = two.netns.run(lambda: bound(two.v4, 7001))
    with contextlib.closing(listener):
        outcomes = []
        for policy in ([allow(INGRESS, one.endpoint.identity)], [allow(INGRESS, 2)]):
            await second.regenerate(two, 1, policy)
            one.netns.run(lambda: send(two.v4, 7001))
            outcomes.append(await arrived(listener))

    assert outcomes == [False, True]


@pytest.mark.parametrize("family", [4, 6])
async def test_whom_nobody_has_told_of_is_answered_all_the_same(cluster: LoaderCluster, family: int) -> None:
    """The first packet of a new pod may be faster than what its node says of it; the answer must not be lost."""
    one, two = await two_pods(cluster, OVERLAY, family=family)
    await cluster.sync_ipcache(cluster.nodes[1], [])
    assert one.pings(two.v4, two.v6) == []
    await cluster.sync_ipcache(cluster.nodes[0], [])
    assert one.pings(two.v4, two.v6) == []


# ── forgery ──


async def test_what_was_forged_is_dropped(cluster: LoaderCluster) -> None:
    """Sent from the underlay by hand, in the name of whatever address."""
    one, two = await two_pods(cluster, OVERLAY)
    neighbour = await cluster.pod(1)
    second, fabric = cluster.nodes[1], cluster.fabric.netns
    listener = two.netns.run(lambda: bound(two.v4, 7002))
    mine, theirs = cluster.nodes[0].address(4), second.address(4)
    identity = one.endpoint.identity

    def inject(outer: str, vni: int, inner: bytes) -> None:
        def work() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
                packet = IP(src=outer, dst=theirs) / UDP(sport=4000, dport=TUNNEL_PORT, chksum=0) / vxlan(vni, inner)
                raw.sendto(bytes(packet), (theirs, 0))

        fabric.run(work)

    async def outcome(outer: str, vni: int, inner: bytes) -> str:
        before = await second.drops()
        inject(outer, vni, inner)
        for _ in range(500):
            if await arrived_now(listener):
                return "arrived"
            now = await second.drops()
            found = [reason for reason in now if now[reason] != before.get(reason, 0) and reason != "link local noise"]
            if found:
                return found[0]
        return "lost"

    solicitation = bytes.fromhex("3333000000010200000000010806") + bytes(28)
    with contextlib.closing(listener):
        assert {
            "as it should be": await outcome(mine, identity, frame(one.v4, two.v4)),
            "another identity": await outcome(mine, identity + 1, frame(one.v4, two.v4)),
            "no identity": await outcome(mine, 0, frame(one.v4, two.v4)),
            "the host's identity": await outcome(mine, 1, frame(one.v4, two.v4)),
            "another node": await outcome(WORLD_V4, identity, frame(one.v4, two.v4)),
            "another node's gateway": await outcome(WORLD_V4, 6, frame(str(cluster.nodes[0].gateways[0]), two.v4)),
            "another node itself": await outcome(WORLD_V4, 6, frame(mine, two.v4)),
            "a pod of this node": await outcome(mine, identity, frame(neighbour.v4, two.v4)),
            "this node": await outcome(mine, 1, frame(theirs, two.v4)),
            "a gateway of this node": await outcome(mine, 1, frame(str(second.gateways[0]), two.v4)),
            "to nobody": await outcome(mine, identity, frame(one.v4, "10.102.0.199")),
            "to the world": await outcome(mine, identity, frame(one.v4, WORLD_V4)),
            "ARP": await outcome(mine, identity, solicitation),
        } == {
            "as it should be": "arrived",
            "another identity": "invalid identity",
            "no identity": "invalid identity",
            "the host's identity": "invalid identity",
            "another node": "invalid identity",
            "another node's gateway": "invalid identity",
            "another node itself": "invalid identity",
            "a pod of this node": "invalid source ip",
            "this node": "invalid source ip",
            "a gateway of this node": "invalid source ip",
            "to nobody": "unroutable",
            "to the world": "unroutable",
            "ARP": "unknown l3",
        }


async def test_a_pod_sends_no_tunnelled_packets_of_its_own(cluster: LoaderCluster) -> None:
    """To nodes, which would believe them; another pod may have a service at that port."""
    one, two = await two_pods(cluster, OVERLAY)
    first, second = cluster.nodes
    forged = vxlan(two.endpoint.identity, frame(one.v4, two.v4))
    listener = two.netns.run(lambda: bound(two.v4, TUNNEL_PORT))

    with contextlib.closing(listener):
        for address in (second.address(4), second.address(6), first.address(4), WORLD_V4):
            one.netns.run(lambda to=address: send(to, TUNNEL_PORT, forged))  # type: ignore[misc]
        assert (await first.drops())["encap prohibited"] == 4
        one.netns.run(lambda: send(two.v4, TUNNEL_PORT))
        assert await arrived(listener)


# ── restarts and changes ──


@pytest.mark.parametrize("routing", [OVERLAY, NATIVE])
async def test_a_restart_of_a_loader_is_not_noticed(cluster: LoaderCluster, routing: "pb.Routing.ValueType") -> None:
    one, two = await two_pods(cluster, routing)
    second = cluster.nodes[1]
    before = held(cluster)

    async with pinging(one.netns, two.v4) as lost, pinging(two.netns, one.v6) as lost_too:
        await second.restart()
        await second.call("GetNode", pb.GetNodeRequest())

    assert (lost, lost_too) == ([], [])
    assert held(cluster) == before
    assert (await cluster.tell_node(second)).added == 0


def held(cluster: LoaderCluster) -> object:
    """Return what the second node has of the first."""
    node = cluster.nodes[1]
    pins = sorted(pin.name for pin in (node.bpffs / "podlane" / "links").glob("*/*"))
    return pins, [node.ip(family, "route", "show", "proto", "112") for family in ("-4", "-6")]


async def test_what_a_hand_has_taken_away_is_mended_by_the_next_comparison(cluster: LoaderCluster) -> None:
    one, two = await two_pods(cluster, OVERLAY)
    second = cluster.nodes[1]
    wounds = [
        ("ip", "link", "del", "podlane_vxlan"),
        ("ip", "route", "flush", "proto", "112"),
        ("ip", "link", "set", "podlane_vxlan", "down"),
        ("ip", "link", "set", "podlane_vxlan", "mtu", "1200"),
    ]
    for wound in wounds:
        second.netns.command(*wound)
        await cluster.configure(OVERLAY, masquerade=True)

        assert (one.pings(two.v4, two.v6), two.pings(one.v4, one.v6)) == ([], []), wound
        assert second.ping(one.v4), wound
        assert second.ip("link", "show", "podlane_vxlan")[0]["mtu"] == MTU - 50


async def test_a_change_of_the_way_leaves_nothing_of_the_one_before(cluster: LoaderCluster) -> None:
    one, two = await two_pods(cluster, OVERLAY)
    second = cluster.nodes[1]
    assert {route["dev"] for route in routes(cluster)} == {"podlane_vxlan"}

    await cluster.configure(NATIVE, masquerade=True)
    await cluster.regenerate()
    await cluster.tell()
    assert one.pings(two.v4, two.v6) == []
    assert {route["dev"] for route in routes(cluster)} == {"eth0"}
    assert "podlane_vxlan" not in links(cluster)

    await cluster.configure(OVERLAY, masquerade=True, tunnel_port=4789)
    await cluster.regenerate()
    await cluster.tell()
    assert one.pings(two.v4, two.v6) == []
    assert {route["dev"] for route in routes(cluster)} == {"podlane_vxlan"}

    await cluster.configure(pb.ROUTING_UNSPECIFIED, masquerade=True)
    await cluster.regenerate()
    assert one.pings(two.v4) == [two.v4]
    assert (routes(cluster), "podlane_vxlan" in links(cluster)) == ([], False)
    assert not any((second.maps / name).exists() for name in ("podlane_ipcache", "podlane_underlay"))
    assert not (second.state / "globals" / "nodes.json").exists()
    assert "cluster" not in second.netns.command("nft", "list", "table", "inet", "podlane").stdout
    assert await second.problems() == []


def routes(cluster: LoaderCluster) -> list[dict[str, str]]:
    return [one for family in ("-4", "-6") for one in cluster.nodes[1].ip(family, "route", "show", "proto", "112")]


def links(cluster: LoaderCluster) -> set[str]:
    return {one["ifname"] for one in cluster.nodes[1].ip("link")}


# ── what can't be ──


async def test_an_mtu_that_would_fragment_is_refused_with_numbers(cluster: LoaderCluster) -> None:
    with pytest.raises(FailedPrecondition, match=r"mtu: 1451 .* 1500 less 50 bytes of VXLAN over IPv4 leaves 1450"):
        await cluster.configure(OVERLAY, mtu=1451)
    with pytest.raises(FailedPrecondition, match=r"mtu: 1501 bytes don't fit through eth0, whose MTU of 1500 leaves"):
        await cluster.configure(NATIVE, mtu=1501)
    await cluster.configure(OVERLAY, 6, mtu=1430)


async def test_without_a_way_to_others_it_is_said_what_is_missing(cluster: LoaderCluster) -> None:
    first = cluster.nodes[0]
    with pytest.raises(FailedPrecondition, match=r"underlay device eth9 \(cluster.underlay_device\) isn't there"):
        await first.configure(routing=OVERLAY, underlay_device="eth9")
    await first.configure()
    with pytest.raises(FailedPrecondition, match="underlay device podlane_host has no IPv6 address"):
        await first.configure(routing=OVERLAY, underlay_device="podlane_host", underlay_family=6)
    defaults = [("ip", "route", verb, "default", "via", way) for way in (WORLD_V4, WORLD_V6) for verb in ("del", "add")]
    for command in defaults[::2]:
        first.netns.command(*command)
    with pytest.raises(FailedPrecondition, match="there is no default route; set"):
        await first.configure(routing=OVERLAY)
    await first.configure(routing=OVERLAY, underlay_device="eth0")
    for command in defaults[1::2]:
        first.netns.command(*command)


async def test_a_port_that_another_device_has_is_refused(cluster: LoaderCluster) -> None:
    first = cluster.nodes[0]
    taken = ("ip", "link", "add", "theirs", "type", "vxlan", "id", "7", "dstport", "4790", "dev", "eth0")
    first.netns.command(*taken)
    first.netns.command("ip", "link", "set", "theirs", "up")

    with pytest.raises(FailedPrecondition, match=r"UDP port 4790 is taken.*set cluster.tunnel_port"):
        await first.configure(routing=OVERLAY, tunnel_port=4790)
    first.netns.command("ip", "link", "del", "theirs")
    await first.configure(routing=OVERLAY, tunnel_port=4790)


async def test_where_the_node_is_found_is_told(cluster: LoaderCluster) -> None:
    await cluster.configure(OVERLAY, 6)
    node = await cluster.nodes[0].call("GetNode", pb.GetNodeRequest())

    told = node.underlay
    assert (told.device, told.mtu) == ("eth0", MTU)
    assert socket.inet_ntop(socket.AF_INET6, told.address.packed) == cluster.nodes[0].address(6)
    assert {one.packed for one in told.addresses} == {
        socket.inet_pton(socket.AF_INET, cluster.nodes[0].address(4)),
        socket.inet_pton(socket.AF_INET6, cluster.nodes[0].address(6)),
    }
    assert node.config.underlay_family == 6


async def test_many_flows_at_once_pass_in_both_directions(cluster: LoaderCluster) -> None:
    one, two = await two_pods(cluster, OVERLAY)
    before = [fragments(node.netns) for node in cluster.nodes]

    async with process(two.netns, "iperf3", "-s", "-1", "--forceflush") as server:
        assert b"Server listening" in b"".join([await server.stdout.readline() for _ in range(2)])
        done = await asyncio.to_thread(
            one.netns.command, "iperf3", "-J", "-c", two.v4, "-P", "4", "-n", "32M", "--bidir"
        )
        report = json.loads(done.stdout)

    received = [report["end"][name]["bytes"] for name in ("sum_received", "sum_received_bidir_reverse")]
    assert min(received) > 1 << 20
    assert [fragments(node.netns) for node in cluster.nodes] == before
