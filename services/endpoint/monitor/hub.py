"""Hears what happens on this node, keeps the last of it, and tells whoever watches.

    the loader's events, in the background ──► names ──► history, drops by flow ─────┐
    endpoints, controllers ────────────────────────────► history ────────────────────┼──► watchers
    the loader's events once more, of the kinds that a watcher wants, at full rate ──┘

What is heard in the background is little of a flood: credits bound what a CPU sends (services/loader/events.py), so it
costs the data path nothing and this process a few hundred names a second. A watcher that wants events of packets has a
stream of its own. Where it takes over is a moment of the clock that events have: earlier ones come from the history and
from the background, later ones from its stream, and none comes twice.

Invariants: a watcher that is slow loses its own events only, and is told how many; without the loader, endpoints and
controllers are told of all the same.
"""

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field

from podlane.endpoint.v1 import monitor_pb2 as pb

from services.common import controllers, wire
from services.common.controller_parameters import Parameters
from services.common.controller_status import Outcome, Result
from services.common.errors import PodlaneError, Unavailable
from services.endpoint.flowwatch import FlowWatch
from services.endpoint.model import Endpoint
from services.endpoint.monitor import changes, messages
from services.endpoint.monitor.filters import Filter, Kind
from services.endpoint.monitor.flowtable import Drops
from services.endpoint.monitor.history import History
from services.endpoint.monitor.names import Names
from services.endpoint.watch import Change, Watchers

LISTEN = "watch-events"
LONGEST = 4096
"""Events that may wait for one watcher."""

_HEARD = frozenset({Kind.DROP, Kind.VERDICT, Kind.CONNECTION})
"""What is kept of packets; traces are too many."""
_AGAIN = 1.0  # seconds until the loader is listened to again
Event = pb.WatchEventsResponse


@dataclass(eq=False)
class _Watcher:
    """Who watches, and what waits for it. `since`: from when on its own stream has events of packets, ns since boot."""

    filter: Filter
    since: float = math.inf
    waiting: deque[Event] = field(default_factory=deque)
    missed: int = 0
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    ended: PodlaneError | None = None

    def put(self, event: Event) -> None:
        """Let an event wait, or count it as missed."""
        if len(self.waiting) >= LONGEST:
            self.missed += 1
        else:
            self.waiting.append(event)
        self.wake.set()

    def heard(self, event: Event) -> None:
        """Hear of an event that is in the history."""
        if _boot(event) < self.since and Kind(event.kind) is not Kind.LOST and self.wants(event):
            self.put(event)

    def streamed(self, event: Event) -> None:
        """Hear of an event of its own stream."""
        if _boot(event) >= self.since and self.wants(event):
            self.put(event)

    def wants(self, event: Event) -> bool:
        """Return whether the filter lets it through."""
        return self.filter.fits(messages.facts_of(event))

    def end(self, error: PodlaneError) -> None:
        """End with an error, after what waits."""
        self.ended = self.ended or error
        self.wake.set()

    def take(self) -> list[Event]:
        """Return what waits, and what is missing."""
        found = list(self.waiting)
        self.waiting.clear()
        if self.missed:
            found.append(messages.lost(self.missed, "reader", f"this reader was more than {LONGEST} events behind"))
        self.missed = 0
        self.wake.clear()
        return found


class _Unwritten:
    """An event of the history that is written when somebody reads it, once."""

    __slots__ = ("_event", "_number", "_write")

    def __init__(self, number: int, write: Callable[[], Event]) -> None:
        self._number, self._write = number, write
        self._event: Event | None = None

    def event(self) -> Event:
        """Return it."""
        if self._event is None:
            self._event = self._write()
            self._event.number = self._number
        return self._event


def _written(kept: Event | _Unwritten) -> Event:
    return kept.event() if isinstance(kept, _Unwritten) else kept


def _boot(event: Event) -> float:
    """Return when an event of a packet happened, in ns since boot; of others -1: streams don't have them."""
    if event.WhichOneof("event") == "flow":
        return event.flow.event.boot_ns
    return math.inf if event.kind == pb.EVENT_KIND_LOST else -1


class Monitor:
    """The hub. A component: `start` begins to listen, `stop` ends every stream."""

    def __init__(self, flows: FlowWatch, names: Names, own: controllers.Manager, longest: int) -> None:
        """Wire; `longest` is the history's."""
        self._flows = flows
        self.names = names
        self._own = own
        self._watchers: set[_Watcher] = set()
        self._endpoints = changes.EndpointChanges(self.tell_later)
        self._stopped = False
        self.history: History[Event | _Unwritten] = History(longest)
        self.drops = Drops(wire.now())

    async def start(self) -> None:
        """Listen to the loader from now on, whenever it is there."""
        self._own.update(LISTEN, Parameters(self._listen, interval=_AGAIN, retry_cap=5.0, alarm=math.inf))

    async def stop(self) -> None:
        """End every stream."""
        self._stopped = True
        for watcher in tuple(self._watchers):
            watcher.end(_stopping())

    def observe(self, endpoints: Watchers, all_controllers: controllers.Registry) -> None:
        """Hear of endpoints and controllers from now on."""
        endpoints.observers.append(self.saw_endpoint)
        all_controllers.surroundings.news.append(self.saw_controller)

    def tell(self, event: Event) -> None:
        """Keep an event, and tell it."""
        event.number = self.history.added + 1
        self.history.add(event)
        for watcher in self._watchers:
            watcher.heard(event)

    def tell_later(self, write: Callable[[], Event]) -> None:
        """Keep an event that nobody may ever read: it is written when somebody does, at once for who watches."""
        if self._watchers:
            self.tell(write())
        else:
            self.history.add(_Unwritten(self.history.added + 1, write))

    def saw_endpoint(self, change: Change, endpoint: Endpoint) -> None:
        """See an endpoint that has changed."""
        if change is Change.DELETED:
            self.names.departed(endpoint)
        self._endpoints.saw(change, endpoint)

    def saw_controller(self, resource: str, name: str, outcome: Outcome, failures: int) -> None:
        """See a controller that begins to fail, or works again."""
        error = outcome.error if outcome.result is Result.FAILURE else None
        self.tell(changes.of_controller(resource, name, outcome.finished, error=error, failures=failures))

    async def _listen(self) -> None:
        begun = asyncio.Event()

        async def listening() -> None:
            begun.set()

        types = [messages.TYPES[kind] for kind in sorted(_HEARD)]
        try:
            async for told in self._flows.watch(types, 0, listening, background=True):
                self._heard(messages.write_flow_event(told))
        except PodlaneError as error:
            if begun.is_set():
                self.tell(messages.lost(0, "loader", f"it can't be listened to: {error.message}"))
            raise

    def _heard(self, event: Event) -> None:
        if event.kind == pb.EVENT_KIND_DROP:
            row = messages.read_drop(event.flow, self.names)
            if row is not None:
                self.drops.add(row)
        if event.kind == pb.EVENT_KIND_LOST and event.lost.kind in {pb.EVENT_KIND_DROP, pb.EVENT_KIND_UNSPECIFIED}:
            self.drops.not_told += event.lost.events
        self.tell(event)

    def last(self, count: int, wanted: Filter, before: float = math.inf) -> list[Event]:
        """Return the newest events that fit, oldest first; of packets those before `before`, ns since boot. Where the
        history has let some go that might have been among them, that is told first.
        """

        def fits(kept: Event | _Unwritten) -> bool:
            event = _written(kept)
            return (_boot(event) < before or event.kind == pb.EVENT_KIND_LOST) and wanted.fits(messages.facts_of(event))

        found = list(map(_written, self.history.last(count, fits)))
        if count > len(found) and self.history.gone:
            reason = f"the history holds {len(self.history)} events, older ones are gone"
            found.insert(0, messages.lost(self.history.gone, "history", reason))
        return found

    async def watch(
        self, wanted: Filter, last: int, begun: Callable[[], Awaitable[None]]
    ) -> AsyncGenerator[Event, None]:
        """Yield the last events, then what happens, until the caller ends the iteration; `begun` is awaited between.

        Raises Unavailable when events of packets are wanted and the loader is away, or when this service ends.
        """
        if self._stopped:
            raise _stopping()
        watcher = _Watcher(wanted)
        async with self._streaming(watcher):
            # In one turn of the loop, so that nothing is between the two.
            past = self.last(last, wanted, watcher.since) if last else []
            self._watchers.add(watcher)
            try:
                await begun()
                for event in past:
                    yield event
                while True:
                    await watcher.wake.wait()
                    for event in watcher.take():
                        yield event
                    if watcher.ended is not None:
                        raise watcher.ended
            finally:
                self._watchers.discard(watcher)

    @contextlib.asynccontextmanager
    async def _streaming(self, watcher: _Watcher) -> AsyncGenerator[None, None]:
        """Bring a watcher the loader's events that it wants, for the block. Raises Unavailable."""
        kinds = watcher.filter.of_packets()
        if not kinds:
            yield
            return
        begun = asyncio.Event()

        async def listening() -> None:
            watcher.since = time.monotonic_ns()
            begun.set()

        async def stream() -> None:
            types = [messages.TYPES[kind] for kind in sorted(kinds)]
            either = watcher.filter.either
            try:
                async for told in self._flows.watch(types, either.endpoint_id if either else 0, listening):
                    watcher.streamed(messages.write_flow_event(told))
            except PodlaneError as error:
                watcher.end(error)
            else:
                watcher.end(Unavailable("the loader has ended its stream of events: watch again when it is back"))
            finally:
                begun.set()

        task = asyncio.create_task(stream())
        try:
            await begun.wait()
            if watcher.since == math.inf and watcher.ended is not None:
                raise watcher.ended
            yield
        finally:
            task.cancel()
            await asyncio.wait((task,))


def _stopping() -> Unavailable:
    return Unavailable("the endpoint service is stopping: watch again when it is back")
