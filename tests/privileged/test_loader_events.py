"""WatchEvents against the real loader: who hears what, what is lost and said to be, and what happens when it ends."""

import asyncio
import contextlib
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self

import pytest
from podlane.loader.v1 import loader_pb2 as pb

from services.common.errors import InvalidArgument, Unavailable
from services.loader import eventmaps, libbpf, maps
from services.loader.event import EventType
from tests.loader_support import LoaderNode, Pod

pytestmark = pytest.mark.privileged

DENY_ALL: list[pb.PolicyEntry] = []
DROP, TRACE, VERDICT = pb.EVENT_TYPE_DROP, pb.EVENT_TYPE_TRACE, pb.EVENT_TYPE_POLICY_VERDICT


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[LoaderNode]:
    async with LoaderNode(tmp_path) as node:
        await node.configure()
        yield node


class Watch:
    """A running WatchEvents whose header has come."""

    def __init__(self, node: LoaderNode, *types: pb.EventType.ValueType, endpoint_id: int = 0) -> None:
        self._began = asyncio.Event()
        request = pb.WatchEventsRequest(types=types, endpoint_id=endpoint_id)
        self.stream: Any = node.peer.stream(node.stub.WatchEvents, request, begun=self._began.set)

    async def __aenter__(self) -> Self:
        self._next = asyncio.ensure_future(anext(self.stream))
        began = asyncio.ensure_future(self._began.wait())
        await asyncio.wait([self._next, began], return_when=asyncio.FIRST_COMPLETED, timeout=10)
        assert began.done() or await self._next
        return self

    async def __aexit__(self, *_: object) -> None:
        self._next.cancel()
        with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration, Unavailable):
            await self._next
        await self.stream.aclose()

    async def next(self) -> pb.WatchEventsResponse:
        """Return the next event."""
        found: pb.WatchEventsResponse = await asyncio.wait_for(self._next, 10)
        self._next = asyncio.ensure_future(anext(self.stream))
        return found

    async def until(self, wanted: Callable[[pb.WatchEventsResponse], bool]) -> pb.WatchEventsResponse:
        """Return the next event that fits: pods' kernels send packets of their own."""
        while True:
            found = await self.next()
            if wanted(found):
                return found


def datagram(pod: Pod, address: str, port: int = 4242, count: int = 1) -> None:
    """Let a pod send datagrams that nobody answers."""

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for _ in range(count):
                sender.sendto(b"hello", (address, port))

    pod.netns.run(send)


def to_port(port: int) -> Callable[[pb.WatchEventsResponse], bool]:
    return lambda one: one.packet.destination_port == port


def wanted(node: LoaderNode) -> frozenset[EventType]:
    """Return what the programs may send."""
    with eventmaps.EventCredits(libbpf.object_get(node.maps / maps.EVENT_CREDITS) or pytest.fail("no pin")) as pinned:
        return frozenset(type_ for type_, left in pinned.granted().items() if any(left))


async def test_a_drop_is_streamed_with_names(node: LoaderNode) -> None:
    one, two = await node.add(), await node.add()
    await node.regenerate(two, level=1, policy=DENY_ALL)

    async with Watch(node) as watch:
        datagram(one, two.v4)
        told = await watch.until(to_port(4242))

    assert told.WhichOneof("event") == "drop"
    assert (told.drop.reason, told.drop.source.rpartition(":")[0]) == ("policy", "bpf/lib/policy.h")
    assert (told.endpoint_id, told.packet.peer_endpoint_id) == (two.endpoint.id, one.endpoint.id)
    assert told.direction == pb.TRAFFIC_DIRECTION_INGRESS
    assert [str(ip_address(end.packed)) for end in (told.packet.source, told.packet.destination)] == [one.v4, two.v4]
    assert (told.packet.source_identity, told.packet.destination_identity) == (
        one.endpoint.identity,
        two.endpoint.identity,
    )
    assert (told.packet.protocol, told.packet.length) == ("UDP", 14 + 20 + 8 + 5)
    assert told.summary.startswith("drop (policy) at bpf/lib/policy.h:")
    assert abs(told.time.seconds - time.time()) < 60  # the wall's clock, not the kernel's


async def test_each_listener_hears_its_types_and_its_endpoint_only(node: LoaderNode) -> None:
    one, two, three = await node.add(), await node.add(), await node.add()
    for pod in (one, two):
        await node.regenerate(pod, trace=True, policy_verdict=True)

    async with (
        Watch(node, TRACE) as traces,
        Watch(node, VERDICT) as verdicts,
        Watch(node, TRACE, endpoint_id=three.endpoint.id) as of_three,
    ):
        assert wanted(node) == {EventType.TRACE, EventType.POLICY_VERDICT}
        datagram(one, two.v4, 1)
        datagram(one, three.v4, 2)
        ways = [await traces.until(to_port(1)) for _ in range(2)]
        decided = [await verdicts.until(to_port(1)) for _ in range(2)]
        # Its own programs have no trace; the sender's tell of it.
        other = await of_three.until(lambda told: told.packet.destination_port in {1, 2})

    assert [(told.endpoint_id, told.trace.point) for told in ways] == [
        (one.endpoint.id, pb.TRACE_POINT_FROM_ENDPOINT),
        (two.endpoint.id, pb.TRACE_POINT_TO_ENDPOINT),
    ]
    assert [(told.endpoint_id, told.policy_verdict.allowed) for told in decided] == [
        (one.endpoint.id, True),
        (two.endpoint.id, True),
    ]
    assert (other.packet.destination_port, other.endpoint_id, other.packet.peer_endpoint_id) == (
        2,
        one.endpoint.id,
        three.endpoint.id,
    )


async def test_the_last_listener_switches_it_off_and_nothing_from_before_is_told(node: LoaderNode) -> None:
    one, two = await node.add(), await node.add()
    await node.regenerate(two, level=1, policy=DENY_ALL)
    async with Watch(node, DROP):
        async with Watch(node, TRACE):
            assert wanted(node) == {EventType.DROP, EventType.TRACE}
        async with asyncio.timeout(10):
            while wanted(node) != {EventType.DROP}:
                await asyncio.sleep(0.01)
    async with asyncio.timeout(10):
        while wanted(node):
            await asyncio.sleep(0.01)
    datagram(one, two.v4, 1)

    async with Watch(node, DROP) as watch:
        datagram(one, two.v4, 2)
        told = await watch.until(lambda told: told.packet.destination_port in {1, 2})

    assert told.packet.destination_port == 2


async def test_a_flood_is_told_in_part_and_the_rest_by_number(node: LoaderNode) -> None:
    one, two = await node.add(), await node.add()
    await node.regenerate(two, level=1, policy=DENY_ALL)
    packets = 20_000

    async with Watch(node, DROP) as watch:
        datagram(one, two.v4, count=packets)
        heard = lost = 0
        while heard + lost < packets:
            told = await watch.next()
            if told.WhichOneof("event") == "lost":
                lost += told.lost.events
                assert told.lost.type == DROP
                assert "lost" in told.summary
            elif told.packet.destination_port == 4242:
                heard += 1

    assert heard > 0
    assert lost > 0


async def test_a_killed_loaders_listeners_are_forgotten_by_the_next(node: LoaderNode) -> None:
    async with Watch(node):
        assert wanted(node) == frozenset(EventType)
        await node.restart(signal.SIGKILL)

    assert wanted(node) == frozenset()


async def test_a_stopping_loader_ends_the_streams_at_once_and_says_why(node: LoaderNode) -> None:
    async with Watch(node) as watch:
        assert node.process is not None
        node.process.send_signal(signal.SIGTERM)
        with pytest.raises(Unavailable, match="the loader is stopping: watch again"):
            await watch.until(lambda _: False)
        # Not the five seconds that a server gives to calls that go on.
        await asyncio.wait_for(node.process.wait(), 4)
    assert wanted(node) == frozenset()


async def test_bad_requests_are_refused_by_field(node: LoaderNode) -> None:
    for request, words in (
        (pb.WatchEventsRequest(types=[pb.EVENT_TYPE_UNSPECIFIED]), "types: 0 is no type of event"),
        (pb.WatchEventsRequest(endpoint_id=70_000), "endpoint_id: 70000 is not an endpoint id"),
    ):
        with pytest.raises(InvalidArgument, match=words):
            async for _ in node.peer.stream(node.stub.WatchEvents, request):
                pass
