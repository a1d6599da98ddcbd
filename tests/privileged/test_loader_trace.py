"""Packets followed through the programs in force: what they asked, did and wrote, and that the replay is right."""

import random
import socket
from collections.abc import AsyncIterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from podlane.loader.v1 import loader_pb2 as pb
from podlane.loader.v1 import trace_pb2, trace_pb2_grpc

from services.common import wire
from services.common.errors import InvalidArgument, NotFound
from services.loader import conntrack, layout, libbpf
from tests.cluster_support import LoaderCluster
from tests.loader_support import ALLOW_ALL, GATEWAYS, LoaderNode, Pod
from tests.netns_support import in_netns

pytestmark = pytest.mark.privileged

INGRESS, EGRESS = pb.TRAFFIC_DIRECTION_INGRESS, pb.TRAFFIC_DIRECTION_EGRESS
OK, REDIRECT, SHOT, TAIL_CALL = range(1, 5)
TCP, UDP, SCTP, ESP = 6, 17, 132, 50
WORLD = ("192.0.2.1", "2001:db8::1")
ACK, RST = 16, 4


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[LoaderNode]:
    """A node with a configured loader."""
    async with LoaderNode(tmp_path) as node:
        await node.configure()
        yield node


async def trace(
    node: LoaderNode, pod: Pod, direction: Any, source: str, destination: str, **fields: Any
) -> trace_pb2.TracePacketResponse:
    """Follow a packet to TCP port 80, or what `fields` say."""
    packet: dict[str, Any] = {"protocol": TCP, "port": 80}
    request = trace_pb2.TracePacketRequest(
        endpoint_id=pod.endpoint.id,
        direction=direction,
        source=wire.write_address(ip_address(source)),
        destination=wire.write_address(ip_address(destination)),
        **packet | fields,
    )
    stub: Any = trace_pb2_grpc.TraceServiceStub(node.peer.channel)
    reply: trace_pb2.TracePacketResponse = await node.peer.call(stub.TracePacket, request, timeout=30.0)
    return reply


def way(reply: trace_pb2.TracePacketResponse) -> list[tuple[str, int, str]]:
    return [(step.program, step.verdict, step.reason) for step in reply.steps]


def found(step: trace_pb2.TraceStep, name: str) -> list[str]:
    return [lookup.found for lookup in step.lookups if lookup.map == name]


async def flows(node: LoaderNode) -> list[Any]:
    return [one.conntrack for one in (await node.call("DumpMap", pb.DumpMapRequest(map="conntrack"))).entries]


async def test_each_program_with_what_it_asked_and_wrote(node: LoaderNode) -> None:
    one, two = await node.add(), await node.add()
    programs = {(path.id, program.name): program for path in await node.datapaths() for program in path.programs}

    for source, destination, ttl in ((one.v4, two.v4, "TTL"), (one.v6, two.v6, "hop limit")):
        reply = await trace(node, one, EGRESS, source, destination)

        assert (reply.passed, list(reply.disagreements)) == (True, [])
        assert way(reply) == [("from_container", TAIL_CALL, ""), ("policy", REDIRECT, "")]
        first, second = reply.steps
        assert first.program_id == programs[one.endpoint.id, "from_container"].id
        assert first.hook == f"tc ingress of {one.link.host_ifname}"
        assert second.program_id == programs[two.endpoint.id, "policy"].id
        assert second.hook == f"call_policy[{two.endpoint.id}]"
        assert found(first, "endpoints") == [
            f"endpoint {two.endpoint.id}, identity {two.endpoint.identity}, interface {two.link.host_ifindex}"
        ]
        assert found(first, "call_policy") == [f"program {second.program_id}"]
        assert [(one.field, one.before, one.after) for one in first.rewrites] == [
            ("destination MAC", one.link.host_mac.packed.hex(":"), two.link.pod_mac.packed.hex(":")),
            ("source MAC", one.link.pod_mac.packed.hex(":"), two.link.host_mac.packed.hex(":")),
            (ttl, "64", "63"),
        ]
        assert (second.source_identity, second.destination_identity) == (one.endpoint.identity, two.endpoint.identity)
        assert first.conntrack == second.conntrack == pb.CONNTRACK_STATE_NEW
    assert await flows(node) == []


async def test_a_drop_has_the_entry_the_reason_and_the_line(node: LoaderNode) -> None:
    one, two = await node.add(), await node.add()
    deny = pb.PolicyEntry(direction=INGRESS, identity=one.endpoint.identity, protocol=TCP, deny=True)
    await node.regenerate(two, level=1, policy=[*ALLOW_ALL, deny])

    denied = await trace(node, one, EGRESS, one.v4, two.v4)
    await node.regenerate(two, level=1, policy=[])
    unnamed = await trace(node, one, EGRESS, one.v4, two.v4)
    spoofed = await trace(node, one, EGRESS, "10.99.0.1", two.v4)

    assert way(denied)[1:] == [("policy", SHOT, "policy deny")]
    assert way(unnamed)[1:] == [("policy", SHOT, "policy")]
    assert way(spoofed) == [("from_container", SHOT, "invalid source ip")]
    assert next(one.entry for one in denied.steps[1].lookups if one.HasField("entry")) == deny
    for reply, file in ((denied, "lib/policy.h"), (unnamed, "lib/policy.h"), (spoofed, "bpf_lxc.c")):
        assert reply.steps[-1].source.startswith(f"bpf/{file}:")
        assert (reply.passed, list(reply.disagreements)) == (False, [])
    assert await flows(node) == []


async def test_an_entry_that_is_removed_changes_what_is_told(node: LoaderNode) -> None:
    """The policy program's slot, the endpoint map's entry, and the whole policy map's pin."""
    one, two = await node.add(), await node.add()

    pinned = libbpf.object_get(node.maps / "podlane_call_policy")
    assert pinned is not None
    with pinned:
        libbpf.map_delete(pinned, layout.SLOT.pack(two.endpoint.id))
    not_ready = await trace(node, one, EGRESS, one.v4, two.v4)
    pinned = libbpf.object_get(node.maps / "podlane_endpoints")
    assert pinned is not None
    with pinned:
        libbpf.map_delete(pinned, layout.endpoint_key(ip_address(two.v4)))
    nobody = await trace(node, one, EGRESS, one.v4, two.v4)
    (node.maps / f"policy_{one.endpoint.id}").unlink()
    differs = await trace(node, one, EGRESS, one.v4, WORLD[0])

    assert way(not_ready) == [("from_container", SHOT, "endpoint not ready")]
    assert way(nobody) == [("from_container", OK, "")]
    assert (found(nobody.steps[0], "endpoints"), nobody.steps[0].destination_identity) == ([""], 2)
    assert [*not_ready.disagreements, *nobody.disagreements] == []
    # The programs have their map still, and what they do is told, with the difference.
    assert way(differs) == [("from_container", OK, "")]
    assert differs.disagreements[0] == "it ends with shot by the maps, and ok by the programs"


async def test_to_and_from_the_world_and_the_node(node: LoaderNode) -> None:
    one, two = await node.add(), await node.add()
    for family, (own, other) in enumerate(((one.v4, two.v4), (one.v6, two.v6))):
        gateway = str(GATEWAYS[family])

        to_world = await trace(node, one, EGRESS, own, WORLD[family])
        to_node = await trace(node, one, EGRESS, own, gateway)
        from_world = await trace(node, one, INGRESS, WORLD[family], own, forwarded=True)
        from_node = await trace(node, one, INGRESS, gateway, own)
        by_stack = await trace(node, one, INGRESS, other, own, forwarded=True)

        assert way(to_world) == way(to_node) == [("from_container", OK, "")]
        assert [reply.steps[0].destination_identity for reply in (to_world, to_node)] == [2, 1]
        assert "routes it away" in to_world.steps[0].next
        for reply, identity in ((from_world, 2), (from_node, 1), (by_stack, two.endpoint.identity)):
            assert way(reply) == [("to_container", TAIL_CALL, ""), ("policy", OK, "")]
            assert reply.steps[0].source_identity == identity
        for reply in (to_world, to_node, from_world, from_node, by_stack):
            assert (list(reply.disagreements), [step.ran for step in reply.steps].count(False)) == ([], 0)


async def test_a_real_flow_is_followed_and_left_as_it_was(node: LoaderNode) -> None:
    """A connection's own packets: established, and an answer; one that would end it changes nothing either."""
    one, two = await node.add(), await node.add()
    with (
        in_netns(two.netns.path, lambda: socket.create_server((two.v4, 8080))),
        in_netns(one.netns.path, lambda: socket.create_connection((two.v4, 8080), 5)) as connection,
    ):
        port, own_port = 8080, connection.getsockname()[1]
        before = _raw_flows(node)
        assert len(before) == 2
        there = await trace(node, one, EGRESS, one.v4, two.v4, port=port, source_port=own_port, tcp_flags=ACK)
        back = await trace(node, two, EGRESS, two.v4, one.v4, port=own_port, source_port=port, tcp_flags=ACK | RST)
        after = _raw_flows(node)

    assert [step.conntrack for step in there.steps] == [pb.CONNTRACK_STATE_ESTABLISHED] * 2
    assert [step.conntrack for step in back.steps] == [pb.CONNTRACK_STATE_REPLY] * 2
    assert [found(step, "policy") for step in (*there.steps, *back.steps)] == [[]] * 4
    assert [*there.disagreements, *back.disagreements] == []
    assert after == before


def _raw_flows(node: LoaderNode) -> dict[bytes, bytes]:
    pinned = libbpf.object_get(node.maps / "podlane_conntrack")
    assert pinned is not None
    with pinned:
        return dict(libbpf.map_entries(pinned, conntrack.KEY.size, conntrack.VALUE.size))


async def test_the_replay_is_what_the_programs_do(node: LoaderNode) -> None:
    """All kinds of packets, under drawn policies and with each switch that changes the way."""
    one, two = await node.add(), await node.add()
    draw = random.Random(20261)
    identities = (0, one.endpoint.identity, two.endpoint.identity, 1, 2)
    packets = [(TCP, 80), (TCP, 8080), (UDP, 53), (SCTP, 3868), (ESP, 0), (1, 0), (58, 0)]
    switches: tuple[dict[str, bool], ...] = ({}, {"conntrack": False, "source_ip_verification": False})
    for options in (*switches, {"host_routing": True}):
        for pod in (one, two):
            policy = {_key(entry): entry for entry in (_entry(draw, identities) for _ in range(12))}
            await node.regenerate(pod, policy=list(policy.values()), **options)
        for protocol, port in packets:
            fields = {"protocol": protocol, "port": port}
            for family in (0, 1):
                own, other = ((pod.v4, pod.v6)[family] for pod in (one, two))
                stranger = ("10.77.0.99", "fd00:77::99")[family]
                for peer in (other, str(GATEWAYS[family]), WORLD[family]):
                    await _agrees(node, one, EGRESS, own, peer, **fields)
                    await _agrees(node, one, INGRESS, peer, own, forwarded=draw.random() < 0.5, **fields)
                await _agrees(node, one, EGRESS, stranger, other, **fields)
    assert await flows(node) == []


async def _agrees(node: LoaderNode, pod: Pod, direction: Any, source: str, destination: str, **fields: Any) -> None:
    reply = await trace(node, pod, direction, source, destination, **fields)
    assert list(reply.disagreements) == [], (direction, source, destination, fields, reply)


def _entry(draw: random.Random, identities: tuple[int, ...]) -> pb.PolicyEntry:
    protocol, port, length = draw.choice(
        [(0, 0, 0), (TCP, 0, 0), (TCP, 80, 16), (TCP, 8064, 10), (UDP, 53, 16), (ESP, 0, 0), (1, 0, 0), (58, 0, 0)]
    )
    return pb.PolicyEntry(
        direction=draw.choice([INGRESS, EGRESS]),
        identity=draw.choice(identities),
        protocol=protocol,
        port=port,
        port_prefix_length=length,
        deny=draw.random() < 0.3,
    )


def _key(entry: pb.PolicyEntry) -> tuple[int, ...]:
    return entry.direction, entry.identity, entry.protocol, entry.port, entry.port_prefix_length


async def test_what_can_not_be_followed_names_the_field(node: LoaderNode) -> None:
    pod = await node.add()
    ends: dict[str, Any] = {"direction": EGRESS, "source": pod.v4, "destination": WORLD[0]}
    for fields, field in (
        ({"direction": 0}, "direction"),
        ({"destination": WORLD[1]}, "destination"),
        ({"direction": INGRESS}, "destination"),
        ({"source_port": 65536}, "source_port"),
        ({"protocol": 1, "port": 0, "source_port": 7}, "source_port"),
        ({"protocol": UDP, "tcp_flags": 2}, "tcp_flags"),
    ):
        with pytest.raises(InvalidArgument) as caught:
            await trace(node, pod, **ends | fields)
        assert caught.value.fields["field"] == field

    pod.endpoint.id = 999
    with pytest.raises(NotFound, match="endpoint 999 has no programs"):
        await trace(node, pod, **ends)


async def test_to_another_node_and_from_it(tmp_path: Path) -> None:
    """Overlay and native: the tunnel is run, what comes through it is told from the maps."""
    async with LoaderCluster(tmp_path) as cluster:
        for routing in (pb.ROUTING_OVERLAY, pb.ROUTING_NATIVE):
            await cluster.configure(routing, 4, masquerade=False)
            one, two = await cluster.pod(0), await cluster.pod(1)
            await cluster.tell()
            first, second = cluster.nodes
            assert one.pings(two.v4) == []  # the neighbour is known, so that the program writes the outer headers

            there = await trace(first, one, EGRESS, one.v4, two.v4)
            here = await trace(second, two, INGRESS, one.v4, two.v4, forwarded=True)

            assert [*there.disagreements, *here.disagreements] == []
            assert there.steps[0].destination_identity == two.endpoint.identity
            assert here.steps[0].source_identity == one.endpoint.identity
            if routing == pb.ROUTING_OVERLAY:
                assert way(there) == [("from_container", TAIL_CALL, ""), ("tunnel", REDIRECT, "")]
                assert way(here) == [("from_overlay", TAIL_CALL, ""), ("policy", REDIRECT, "")]
                assert [step.ran for step in (*there.steps, *here.steps)] == [True, True, False, False]
            else:
                assert way(there) == [("from_container", OK, "")]
                assert way(here) == [("to_container", TAIL_CALL, ""), ("policy", OK, "")]
