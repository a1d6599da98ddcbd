"""Connection tracking on a real node: sockets talk where only replies may pass; what their flows live through."""

import contextlib
import errno
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from podlane.loader.v1 import loader_pb2 as pb

from services.common.errors import InvalidArgument
from services.loader import conntrack, libbpf
from services.loader.libbpf import MapType
from tests.agreement import until
from tests.loader_support import ALLOW_ALL, LoaderNode, Pod

pytestmark = pytest.mark.privileged

INGRESS, EGRESS = pb.TRAFFIC_DIRECTION_INGRESS, pb.TRAFFIC_DIRECTION_EGRESS
OPENS = [pb.PolicyEntry(direction=EGRESS)]
ANSWERS = [pb.PolicyEntry(direction=INGRESS)]
FAMILIES = pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["IPv4", "IPv6"])


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[LoaderNode]:
    async with LoaderNode(tmp_path) as node:
        await node.configure()
        yield node


async def pair(node: LoaderNode) -> tuple[Pod, Pod]:
    """Return a pod that may only open and one that may only answer."""
    client, server = await node.add(), await node.add()
    await node.regenerate(client, policy=OPENS, conntrack=True)
    await node.regenerate(server, policy=ANSWERS, conntrack=True)
    return client, server


def address_of(pod: Pod, family: socket.AddressFamily) -> str:
    return pod.v4 if family == socket.AF_INET else pod.v6


def opened(pod: Pod, family: socket.AddressFamily, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    """Return a socket in the pod's namespace."""
    made = pod.netns.run(lambda: socket.socket(family, kind))
    made.settimeout(10)
    return made


@contextlib.contextmanager
def connection(client: Pod, server: Pod, family: socket.AddressFamily) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Yield both ends of a TCP connection."""
    address = address_of(server, family)
    listening = server.netns.run(lambda: socket.create_server((address, 0), family=family))
    with listening, opened(client, family) as one:
        listening.settimeout(10)
        one.connect(listening.getsockname()[:2])
        other, _ = listening.accept()
        with other:
            other.settimeout(10)
            yield one, other


def talk(one: socket.socket, other: socket.socket) -> bool:
    """Return whether words pass both ways."""
    one.sendall(b"question")
    if other.recv(100) != b"question":
        return False
    other.sendall(b"answer")
    return one.recv(100) == b"answer"


async def flows(node: LoaderNode, endpoint_id: int = 0) -> list[pb.ConntrackEntry]:
    reply = await node.call("DumpMap", pb.DumpMapRequest(map="conntrack", endpoint_id=endpoint_id))
    return [one.conntrack for one in reply.entries]


@FAMILIES
async def test_tcp_runs_between_a_pod_that_may_only_open_and_one_that_may_only_answer(
    node: LoaderNode, family: socket.AddressFamily
) -> None:
    client, server = await pair(node)

    with connection(client, server, family) as (one, other):
        assert talk(one, other)
        (mine,), (theirs,) = [await flows(node, pod.endpoint.id) for pod in (client, server)]

    assert (mine.direction, theirs.direction) == (EGRESS, INGRESS)
    assert {mine.state, theirs.state} == {pb.FLOW_STATE_ESTABLISHED}
    assert {mine.protocol, theirs.protocol} == {"TCP"}
    assert (mine.peer_identity, theirs.peer_identity) == (server.endpoint.identity, client.endpoint.identity)
    assert str(ip_address(mine.local.packed)) == address_of(client, family)
    assert (mine.local, mine.local_port, mine.remote_port) == (theirs.remote, theirs.remote_port, theirs.local_port)
    assert 7900 < mine.expires_in <= 8000


async def test_nobody_opens_a_connection_the_other_way(node: LoaderNode) -> None:
    client, server = await pair(node)
    listening = client.netns.run(lambda: socket.create_server((client.v4, 0)))

    with listening, opened(server, socket.AF_INET) as one:
        one.settimeout(0.3)
        with pytest.raises(TimeoutError):
            one.connect(listening.getsockname())
    assert await flows(node) == []


@FAMILIES
async def test_pings_are_answered_by_who_may_ask_nothing(node: LoaderNode, family: socket.AddressFamily) -> None:
    client, server = await pair(node)

    assert client.netns.ping(address_of(server, family), 3)
    assert {one.protocol for one in await flows(node)} == {"ICMP" if family == socket.AF_INET else "ICMPv6"}
    assert not server.netns.ping(address_of(client, family))


@FAMILIES
async def test_a_closed_port_is_reported_to_who_asked(node: LoaderNode, family: socket.AddressFamily) -> None:
    """The server may send nothing of its own and the client receive nothing: the error is related to the question."""
    client, server = await pair(node)

    with opened(client, family, socket.SOCK_DGRAM) as one:
        one.connect((address_of(server, family), 4242))
        one.send(b"anybody there?")
        with pytest.raises(ConnectionRefusedError):
            one.recv(10)


async def test_the_node_tells_a_pod_that_receives_nothing_that_its_packet_ended_here(node: LoaderNode) -> None:
    client, server = await pair(node)

    done = client.netns.command("ping", "-n", "-c", "1", "-t", "1", "-W", "2", server.v4, check=False)
    done6 = client.netns.command("ping", "-n", "-c", "1", "-t", "1", "-W", "2", server.v6, check=False)

    assert "Time to live exceeded" in done.stdout
    assert "Time exceeded" in done6.stdout


async def test_the_node_answers_a_pod_that_receives_nothing_and_asks_one_that_sends_nothing(node: LoaderNode) -> None:
    client, server = await pair(node)

    assert client.pings("10.77.0.1", "fd00:77::1") == []
    assert [address for address in (server.v4, server.v6) if not node.ping(address)] == []
    assert not node.ping(client.v4)


async def test_a_tightened_policy_cuts_an_open_connection_and_leaves_the_others(node: LoaderNode) -> None:
    client, server = await pair(node)
    with (
        connection(client, server, socket.AF_INET) as (one, other),
        connection(client, server, socket.AF_INET) as (kept, also_kept),
    ):
        assert talk(one, other)
        port = kept.getpeername()[1]
        only = [pb.PolicyEntry(direction=EGRESS, protocol=6, port=port, port_prefix_length=16)]
        reply = await node.regenerate(client, level=1, policy=only, conntrack=True)
        assert reply.level == pb.REGENERATION_LEVEL_NO_REBUILD

        one.sendall(b"question")
        other.settimeout(0.3)
        with pytest.raises(TimeoutError):
            other.recv(100)
        assert talk(kept, also_kept)
        assert [entry.remote_port for entry in await flows(node, client.endpoint.id)] == [port]


async def test_connections_live_through_the_switch_being_turned_on_off_and_on(node: LoaderNode) -> None:
    client, server = await node.add(), await node.add()
    with connection(client, server, socket.AF_INET) as (one, other):
        for conntrack in (True, False, True):
            await node.regenerate(client, conntrack=conntrack)
            assert talk(one, other)
            await node.regenerate(server, policy=ALLOW_ALL, conntrack=conntrack)
            assert talk(one, other)
        await node.regenerate(server, level=1, policy=ANSWERS, conntrack=True)
        assert talk(one, other)


async def test_flows_outlive_the_loader(node: LoaderNode) -> None:
    client, server = await pair(node)
    with connection(client, server, socket.AF_INET6) as (one, other):
        assert talk(one, other)
        await node.restart(signal.SIGKILL)

        assert talk(one, other)
        assert len(await flows(node)) == 2


async def test_an_endpoint_that_goes_takes_its_flows_along(node: LoaderNode) -> None:
    client, server = await pair(node)
    assert client.netns.ping(server.v4)
    assert {one.endpoint_id for one in await flows(node)} == {client.endpoint.id, server.endpoint.id}

    await node.call("RemoveEndpoint", pb.RemoveEndpointRequest(id=client.endpoint.id))

    assert {one.endpoint_id for one in await flows(node)} == {server.endpoint.id}


async def test_the_map_is_there_before_the_first_endpoint_and_every_endpoint_tracks(node: LoaderNode) -> None:
    """Its memory is taken with the usual shape, while nobody waits."""
    pin = node.maps / "podlane_conntrack"
    until(pin.exists, lambda: f"nobody has made {pin}")
    pods = [await node.add() for _ in range(3)]
    assert await flows(node) == []

    assert pods[0].pings(pods[1].v4, pods[2].v6) == []

    assert {one.endpoint_id for one in await flows(node)} == {pod.endpoint.id for pod in pods}


async def test_an_endpoint_that_does_not_track_has_no_flows(node: LoaderNode) -> None:
    tracks, asks = await node.add(), await node.add()
    await node.regenerate(asks, conntrack=False)

    assert tracks.pings(asks.v4, asks.v6) == []

    assert {one.endpoint_id for one in await flows(node)} == {tracks.endpoint.id}


async def test_a_map_of_another_version_is_replaced_and_costs_no_connection(node: LoaderNode) -> None:
    """Programs keep the map that they were loaded with; the next load gives them the new one."""
    client, server = await pair(node)
    pin = node.maps / "podlane_conntrack"
    with connection(client, server, socket.AF_INET) as (one, other):
        assert talk(one, other)
        await node.stop()
        pin.unlink()
        with libbpf.map_create(MapType.LRU_HASH, "older", conntrack.KEY.size, 32, 4096) as older:
            libbpf.object_pin(older, pin)
        await node.start()

        assert (talk(one, other), await flows(node)) == (True, [])
        for pod, policy in ((client, OPENS), (server, ANSWERS)):
            await node.regenerate(pod, policy=policy)
        assert not await node.problems()
        one.sendall(b"question")
        assert other.recv(100) == b"question"
        assert talk(one, other)
        assert {entry.endpoint_id for entry in await flows(node)} == {client.endpoint.id, server.endpoint.id}


async def test_flows_of_an_impossible_endpoint_are_refused_by_field(node: LoaderNode) -> None:
    with pytest.raises(InvalidArgument, match="endpoint_id: 70000"):
        await flows(node, 70_000)


async def test_a_connection_that_is_refused_is_closing(node: LoaderNode) -> None:
    client, server = await pair(node)
    with opened(client, socket.AF_INET) as one:
        assert one.connect_ex((server.v4, 9)) == errno.ECONNREFUSED

    assert {(entry.state, entry.expires_in <= 10) for entry in await flows(node)} == {(pb.FLOW_STATE_CLOSING, True)}
