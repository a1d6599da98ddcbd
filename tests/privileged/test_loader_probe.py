"""Probes on a real node: what the programs in force say of a packet that nobody sends."""

import asyncio
import contextlib
import os
import socket
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from podlane.loader.v1 import loader_pb2 as pb

from services.common import wire
from services.common.errors import InvalidArgument, NotFound
from tests.loader_support import ALLOW_ALL, GATEWAYS, LoaderNode, Pod
from tests.netns_support import in_netns

pytestmark = pytest.mark.privileged

INGRESS, EGRESS = pb.TRAFFIC_DIRECTION_INGRESS, pb.TRAFFIC_DIRECTION_EGRESS
HOST, WORLD = 1, 2
TCP, UDP, SCTP, ESP = 6, 17, 132, 50
WORLD_ADDRESSES = ("192.0.2.1", "2001:db8::1")


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[LoaderNode]:
    """A node with a configured loader."""
    async with LoaderNode(tmp_path) as node:
        await node.configure()
        yield node


def addresses(pod: Pod) -> tuple[str, str]:
    return pod.v4, pod.v6


async def probe(
    node: LoaderNode, pod: Pod, direction: pb.TrafficDirection.ValueType, source: str, destination: str, **fields: Any
) -> Any:
    """Ask about TCP port 80, or what `fields` say."""
    protocol_and_port: dict[str, Any] = {"protocol": TCP, "port": 80}
    request = pb.ProbeEndpointRequest(
        endpoint_id=pod.endpoint.id,
        direction=direction,
        source=wire.write_address(ip_address(source)),
        destination=wire.write_address(ip_address(destination)),
        **protocol_and_port | fields,
    )
    return await node.call("ProbeEndpoint", request)


def only(direction: pb.TrafficDirection.ValueType, protocol: int, port: int = 0) -> list[pb.PolicyEntry]:
    """Return a policy that allows one protocol and port in a direction, and everything in the other."""
    other = INGRESS if direction == EGRESS else EGRESS
    length = 16 if port else 0
    entry = pb.PolicyEntry(direction=direction, protocol=protocol, port=port, port_prefix_length=length)
    return [pb.PolicyEntry(direction=other), entry]


async def flows(node: LoaderNode) -> list[Any]:
    return list((await node.call("DumpMap", pb.DumpMapRequest(map="conntrack"))).entries)


@pytest.mark.parametrize(
    ("protocol", "port", "family"),
    [
        *((protocol, port, family) for protocol, port in ((TCP, 80), (UDP, 53), (SCTP, 3868)) for family in (0, 1)),
        *((1, 0, 0), (58, 0, 1), (50, 0, 0), (47, 0, 1)),
    ],
)
async def test_each_protocol_passes_where_it_is_allowed_and_only_that(
    node: LoaderNode, protocol: int, port: int, family: int
) -> None:
    """Between two pods, at the destination's policy; no flow stays of it."""
    one, two = await node.add(), await node.add()
    source, destination = addresses(one)[family], addresses(two)[family]
    fields = {"protocol": protocol, "port": port}
    before = await flows(node)

    await node.regenerate(two, level=1, policy=only(INGRESS, protocol, port))
    passed = await probe(node, one, EGRESS, source, destination, **fields)
    await node.regenerate(two, level=1, policy=only(INGRESS, 99))
    dropped = await probe(node, one, EGRESS, source, destination, **fields)

    assert (passed.passed, passed.reason, passed.source) == (True, "", "")
    assert (dropped.passed, dropped.reason) == (False, "policy")
    assert dropped.source.startswith("bpf/lib/policy.h:")
    for reply in (passed, dropped):
        assert (reply.endpoint_id, reply.direction) == (two.endpoint.id, INGRESS)
        assert (reply.source_identity, reply.destination_identity) == (one.endpoint.identity, two.endpoint.identity)
    assert await flows(node) == before


@pytest.mark.parametrize("family", [0, 1])
async def test_what_the_source_denies_never_meets_the_destination(node: LoaderNode, family: int) -> None:
    one, two = await node.add(), await node.add()
    deny = pb.PolicyEntry(direction=EGRESS, identity=two.endpoint.identity, deny=True)
    await node.regenerate(one, level=1, policy=[*ALLOW_ALL, deny])

    reply = await probe(node, one, EGRESS, addresses(one)[family], addresses(two)[family])

    assert (reply.passed, reply.reason) == (False, "policy deny")
    assert (reply.endpoint_id, reply.direction) == (one.endpoint.id, EGRESS)


@pytest.mark.parametrize("family", [0, 1])
async def test_the_identities_are_those_of_real_packets(node: LoaderNode, family: int) -> None:
    """To the world and to the node; from the world, from the node, and from a pod by a detour."""
    one, two = await node.add(), await node.add()
    own, other, world = addresses(one)[family], addresses(two)[family], WORLD_ADDRESSES[family]
    gateway = str(GATEWAYS[family])

    to_world = await probe(node, one, EGRESS, own, world)
    to_node = await probe(node, one, EGRESS, own, gateway)
    from_world = await probe(node, one, INGRESS, world, own, forwarded=True)
    from_node = await probe(node, one, INGRESS, gateway, own)
    from_pod = await probe(node, one, INGRESS, other, own, forwarded=True)

    assert (to_world.passed, to_world.direction, to_world.destination_identity) == (True, EGRESS, WORLD)
    assert (to_node.passed, to_node.direction, to_node.destination_identity) == (True, EGRESS, HOST)
    for reply, identity in ((from_world, WORLD), (from_node, HOST), (from_pod, two.endpoint.identity)):
        assert (reply.passed, reply.endpoint_id, reply.direction) == (True, one.endpoint.id, INGRESS)
        assert reply.source_identity == identity
    assert await flows(node) == []


async def test_a_denied_ingress_says_so_and_is_counted(node: LoaderNode) -> None:
    pod = await node.add()
    await node.regenerate(pod, level=1, policy=[])

    reply = await probe(node, pod, INGRESS, "192.0.2.1", pod.v4, forwarded=True)

    assert (reply.passed, reply.reason, reply.direction) == (False, "policy", INGRESS)
    counted = await node.call("DumpMap", pb.DumpMapRequest(map="metrics", endpoint_id=pod.endpoint.id))
    assert [one.metrics.reason for one in counted.entries if one.metrics.direction == INGRESS] == ["policy"]


async def test_a_real_flow_between_the_same_ends_stays(node: LoaderNode) -> None:
    """An echo's ends are told apart by the identifier, a protocol's without ports by nothing: it was there before."""
    one, two = await node.add(), await node.add()
    assert one.pings(two.v4) == []
    before = {one.conntrack.local_port: one for one in await flows(node)}

    assert (await probe(node, one, EGRESS, one.v4, two.v4, protocol=1, port=0)).passed

    assert {one.conntrack.local_port for one in await flows(node)} == before.keys()


async def test_a_flow_without_ports_that_was_there_stays(node: LoaderNode) -> None:
    """Its ends are the probe's."""
    one, two = await node.add(), await node.add()
    with in_netns(one.netns.path, lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, ESP)) as sender:
        sender.sendto(bytes(16), (two.v4, 0))
    before = {one.conntrack.endpoint_id for one in await flows(node)}
    assert before == {one.endpoint.id, two.endpoint.id}

    assert (await probe(node, one, EGRESS, one.v4, two.v4, protocol=ESP, port=0)).passed

    assert {one.conntrack.endpoint_id for one in await flows(node)} == before


async def test_while_real_packets_come_in_the_answers_are_the_probes(node: LoaderNode) -> None:
    """And the loader's threads may run where they could before."""
    one, two = await node.add(), await node.add()
    other = await node.add()
    assert node.process is not None
    flood = await asyncio.create_subprocess_exec(*other.netns.argv("ping", "-q", "-f", two.v4), stdout=DEVNULL)
    try:
        for _ in range(50):
            reply = await probe(node, one, EGRESS, one.v4, two.v4)
            assert (reply.passed, reply.source_identity) == (True, one.endpoint.identity)
    finally:
        flood.terminate()
        await flood.wait()

    with os.scandir(f"/proc/{node.process.pid}/task") as threads:
        assert all(os.sched_getaffinity(int(thread.name)) == os.sched_getaffinity(0) for thread in threads)


@contextlib.contextmanager
def listening(pod: Pod) -> Iterator[socket.socket]:
    """Yield a socket that sees all IPv4 that arrives in a pod."""
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK
    with in_netns(pod.netns.path, lambda: socket.socket(socket.AF_PACKET, kind, socket.htons(0x0800))) as sniffer:
        yield sniffer


async def test_nothing_is_delivered(node: LoaderNode) -> None:
    """A sniffer sees the ping that comes afterwards, and nothing before."""
    one, two = await node.add(), await node.add()
    assert one.pings(two.v4) == []
    with listening(two) as sniffer:
        while True:
            try:
                sniffer.recv(2048)
            except BlockingIOError:
                break
        assert (await probe(node, one, EGRESS, one.v4, two.v4)).passed
        assert (await probe(node, two, INGRESS, str(GATEWAYS[0]), two.v4)).passed
        assert one.pings(two.v4) == []
        first = sniffer.recv(2048)

    assert first[23] == socket.IPPROTO_ICMP


async def test_without_programs_there_is_nothing_to_ask(node: LoaderNode) -> None:
    pod = await node.link()

    with pytest.raises(NotFound, match="has no programs"):
        await probe(node, pod, EGRESS, pod.v4, "192.0.2.1")


@pytest.mark.parametrize(
    ("way", "fields", "field"),
    [
        ((EGRESS, "10.77.0.99", "192.0.2.1"), {}, "source"),
        ((INGRESS, "192.0.2.1", "10.77.0.99"), {}, "destination"),
        ((EGRESS, "10.77.0.10", "2001:db8::1"), {}, "destination"),
        ((0, "10.77.0.10", "192.0.2.1"), {}, "direction"),
        ((EGRESS, "10.77.0.10", "192.0.2.1"), {"forwarded": True}, "forwarded"),
        ((EGRESS, "10.77.0.10", "192.0.2.1"), {"protocol": 256}, "protocol"),
        ((EGRESS, "10.77.0.10", "192.0.2.1"), {"port": 65536}, "port"),
        ((EGRESS, "10.77.0.10", "192.0.2.1"), {"protocol": 1}, "port"),
    ],
)
async def test_what_cannot_be_asked_has_the_name_of_its_field(
    shared: tuple[LoaderNode, Pod], way: tuple[Any, str, str], fields: Any, field: str
) -> None:
    node, pod = shared

    with pytest.raises(InvalidArgument, match=f"^{field}: "):
        await probe(node, pod, *way, **fields)


@pytest.fixture
async def shared(node: LoaderNode) -> tuple[LoaderNode, Pod]:
    """A node with a pod, which has the addresses 10.77.0.10 and fd00:77::10."""
    return node, await node.add()
