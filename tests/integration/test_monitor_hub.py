"""The hub of events: nothing is twice where history and stream meet, and what is lost is counted and told."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from typing import cast

import pytest
from podlane.endpoint.v1 import monitor_pb2 as pb
from podlane.endpoint.v1 import policy_pb2
from podlane.loader.v1 import loader_pb2

from services.common import controllers
from services.common.controller_status import Outcome, Result
from services.common.errors import Unavailable
from services.endpoint.flowwatch import FlowWatch
from services.endpoint.monitor.filters import Filter, Kind, PeerFilter
from services.endpoint.monitor.hub import LONGEST, Monitor
from services.endpoint.monitor.names import Names
from services.endpoint.policies import Policies
from services.endpoint.registry import Registry
from tests.agreement import PATIENCE


def drop(boot_ns: int, port: int) -> policy_pb2.WatchFlowsResponse:
    """Return a drop that the loader tells of."""
    event = loader_pb2.WatchEventsResponse(endpoint_id=7, boot_ns=boot_ns, summary=str(port))
    event.drop.reason = "policy"
    event.packet.destination_port = port
    return policy_pb2.WatchFlowsResponse(event=event, summary=str(port))


def lost(events: int) -> policy_pb2.WatchFlowsResponse:
    event = loader_pb2.WatchEventsResponse(
        lost=loader_pb2.LostEvents(events=events, type=loader_pb2.EVENT_TYPE_DROP, reason="too many")
    )
    return policy_pb2.WatchFlowsResponse(event=event)


class Loader:
    """Stands for FlowWatch: tells each stream what the test says. `away`: nobody is there."""

    def __init__(self) -> None:
        self.background: asyncio.Queue[policy_pb2.WatchFlowsResponse | None] = asyncio.Queue()
        self.streams: list[asyncio.Queue[policy_pb2.WatchFlowsResponse | None]] = []
        self.asked: list[tuple[tuple[int, ...], int]] = []
        self.away = False

    async def watch(
        self, types_: Iterable[int], endpoint_id: int, begun: Callable[[], Awaitable[None]], *, background: bool = False
    ) -> AsyncIterator[policy_pb2.WatchFlowsResponse]:
        if self.away:
            raise Unavailable("podlane-loader does not answer")
        queue = self.background if background else asyncio.Queue()
        if not background:
            self.streams.append(queue)
            self.asked.append((tuple(types_), endpoint_id))
        await begun()
        while (told := await queue.get()) is not None:
            yield told
        raise Unavailable("the loader is stopping")


class Hub:
    """The hub with nobody but the loader around it."""

    def __init__(self, longest: int = 10) -> None:
        self.loader = Loader()
        self.registry = controllers.Registry()
        names = Names(Registry(), cast("Policies", None))
        own = controllers.Manager("test", self.registry)
        self.monitor = Monitor(cast("FlowWatch", self.loader), names, own, longest)

    async def heard(self, *told: policy_pb2.WatchFlowsResponse | None) -> None:
        """Let the hub hear something in the background."""
        before = self.monitor.history.added
        for one in told:
            self.loader.background.put_nowait(one)
        async with asyncio.timeout(PATIENCE):
            while self.monitor.history.added < before + len(told):
                await asyncio.sleep(0)

    @contextlib.asynccontextmanager
    async def watching(
        self, wanted: Filter, last: int = 0
    ) -> AsyncIterator[AsyncGenerator[pb.WatchEventsResponse, None]]:
        begun = asyncio.Event()

        async def begin() -> None:
            begun.set()

        async with contextlib.aclosing(self.monitor.watch(wanted, last, begin)) as stream:
            yield stream


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    hub = Hub()
    await hub.monitor.start()
    yield hub
    await hub.monitor.stop()
    await hub.registry.stop()


DROPS = Filter(kinds=frozenset({Kind.DROP}))
ENDPOINT_7 = Filter(kinds=frozenset({Kind.DROP, Kind.TRACE}), either=PeerFilter(endpoint_id=7))


def summary(event: pb.WatchEventsResponse) -> str:
    return event.summary


async def test_history_and_stream_meet_without_a_gap_and_without_a_double(hub: Hub) -> None:
    begin = time.monotonic_ns()
    await hub.heard(drop(begin, 1), drop(begin + 1, 2))
    async with hub.watching(DROPS, last=2) as stream:
        assert [summary(await anext(stream)) for _ in range(2)] == ["1", "2"]
        (own,) = hub.loader.streams
        later = time.monotonic_ns() + 10**9
        # From before it took over, heard late in the background, and once more by its own stream.
        await hub.heard(drop(begin + 2, 3))
        own.put_nowait(drop(begin + 2, 3))
        # From after: in both, too.
        own.put_nowait(drop(later, 4))
        await hub.heard(drop(later, 4))
        own.put_nowait(drop(later + 1, 5))

        assert sorted([summary(await anext(stream)) for _ in range(3)]) == ["3", "4", "5"]


async def test_a_watcher_asks_the_loader_for_its_kinds_and_its_endpoint(hub: Hub) -> None:
    async with hub.watching(ENDPOINT_7) as stream:
        task = asyncio.ensure_future(anext(stream))
        async with asyncio.timeout(PATIENCE):
            while not hub.loader.asked:
                await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
    assert hub.loader.asked == [((loader_pb2.EVENT_TYPE_DROP, loader_pb2.EVENT_TYPE_TRACE), 7)]


async def test_what_the_history_has_let_go_is_told(hub: Hub) -> None:
    await hub.heard(*(drop(n, n) for n in range(1, 16)))

    first, *rest = hub.monitor.last(12, DROPS)

    assert (first.kind, first.lost.events, first.lost.where) == (pb.EVENT_KIND_LOST, 5, "history")
    assert [summary(one) for one in rest] == [str(n) for n in range(6, 16)]
    assert [one.kind for one in hub.monitor.last(3, DROPS)] == [pb.EVENT_KIND_DROP] * 3


async def test_what_the_loader_has_lost_is_in_the_history_and_counted(hub: Hub) -> None:
    await hub.heard(drop(1, 1), lost(40), lost(2))

    told = hub.monitor.last(10, Filter(kinds=frozenset({Kind.ENDPOINT})))

    assert [(one.lost.events, one.lost.where, one.lost.kind) for one in told] == [
        (40, "loader", pb.EVENT_KIND_DROP),
        (2, "loader", pb.EVENT_KIND_DROP),
    ]
    assert hub.monitor.drops.not_told == 42


async def test_a_slow_reader_loses_its_own_and_is_told_how_many(hub: Hub) -> None:
    controller = Filter(kinds=frozenset({Kind.CONTROLLER}))
    async with hub.watching(controller) as stream:
        first = asyncio.ensure_future(anext(stream))
        while not hub.monitor._watchers:
            await asyncio.sleep(0)
        for n in range(LONGEST + 3):
            hub.monitor.saw_controller("node", f"c{n}", Outcome(Result.FAILURE, 1.0, 0.1, "why"), 0)
        told = [await first] + [await anext(stream) for _ in range(LONGEST)]

    assert [one.kind for one in told[:-1]] == [pb.EVENT_KIND_CONTROLLER] * LONGEST
    assert (told[-1].lost.events, told[-1].lost.where) == (3, "reader")
    assert told[0].summary == "controller node/c0 fails: why"


async def test_without_the_loader_its_events_can_not_be_followed_but_the_others_can(hub: Hub) -> None:
    hub.loader.away = True
    with pytest.raises(Unavailable, match="podlane-loader does not answer"):
        async with hub.watching(Filter()) as stream:
            await anext(stream)

    async with hub.watching(Filter(kinds=frozenset({Kind.CONTROLLER})), last=1) as stream:
        hub.monitor.saw_controller("node", "one", Outcome(Result.SUCCESS, 1.0, 0.1), 4)
        assert (await anext(stream)).summary == "controller node/one works again after 4 failures"


async def test_a_loader_that_goes_is_in_the_history_and_ends_the_streams(hub: Hub) -> None:
    await hub.heard(drop(1, 1))
    async with hub.watching(DROPS, last=1) as stream:
        assert summary(await anext(stream)) == "1"
        hub.loader.streams[0].put_nowait(None)
        with pytest.raises(Unavailable, match="the loader is stopping"):
            await anext(stream)
    await hub.heard(None)

    (told,) = hub.monitor.last(10, Filter(kinds=frozenset({Kind.CONTROLLER})))
    assert (told.lost.events, told.lost.where) == (0, "loader")
    assert "the loader is stopping" in told.summary


async def test_a_service_that_stops_ends_the_streams(hub: Hub) -> None:
    async with hub.watching(Filter(kinds=frozenset({Kind.CONTROLLER}))) as stream:
        pending = asyncio.ensure_future(anext(stream))
        while not hub.monitor._watchers:
            await asyncio.sleep(0)
        await hub.monitor.stop()
        with pytest.raises(Unavailable, match="the endpoint service is stopping"):
            await pending
