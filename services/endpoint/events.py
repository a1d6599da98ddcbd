"""One queue of events per endpoint: bounded, first in first out, one consumer, drained when the endpoint goes.

    waiting ──▶ running ──▶ done (result or error)
       └──▶ cancelled

An event's result can be awaited by anyone, or by nobody; a caller that hangs up cancels nothing. Events run one at a
time and each in the context of who enqueued it, so that its log lines carry the right request id. A full queue refuses
at once, instead of making the caller wait as Cilium's does: the callers share one loop, and one endpoint that is stuck
must not stop what is done for all of them.

Regenerations fold: at most one runs and one waits. A trigger that finds one waiting raises that one to its level and
adds its reason, and gets the same event to await. Folding is possible until the event *begins*, which is after it
got its build permit, so that a storm of triggers on a busy node costs one build.

Not here: what an event does (`regeneration.py`, `flow.py`), and states (`model.py`).
"""

import asyncio
import contextvars
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from services.common.errors import Exhausted, FailedPrecondition, Internal
from services.endpoint.model import Level, Regeneration

HISTORY = 16
"""Ended events that a queue remembers."""


@dataclass(frozen=True, slots=True)
class Ended:
    """An event that has ended. `ended` in epoch seconds, `waited` and `ran` in seconds; `error` empty: success."""

    name: str
    ended: float
    waited: float
    ran: float
    error: str


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """A queue at one moment; `running` empty: nothing runs."""

    size: int
    waiting: tuple[str, ...]
    running: str
    running_since: float
    ended: tuple[Ended, ...]


class Event:
    """One thing to do for an endpoint; enqueued once. `work` gets the event itself."""

    def __init__(self, name: str, work: Callable[[Any], Awaitable[None]]) -> None:
        """Make an event that waits nowhere yet."""
        self.name = name
        self.waited = 0.0
        """Seconds between enqueueing and running."""
        self.ran = 0.0
        """Seconds that it ran."""
        self._work = work
        self._context = contextvars.copy_context()
        self._enqueued = time.perf_counter()
        self._result: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # Nobody need await a background event: its error is in the endpoint's log.
        self._result.add_done_callback(lambda result: result.cancelled() or result.exception())

    async def result(self) -> None:
        """Wait for the end. Raises what the work raised, or FailedPrecondition when it was cancelled."""
        await asyncio.shield(self._result)

    @property
    def done(self) -> bool:
        """Whether it has ended, in any way."""
        return self._result.done()

    def cancel(self, why: str) -> None:
        """Never run it; who awaits it is told why."""
        if not self._result.done():
            self.waited = time.perf_counter() - self._enqueued
            self._result.set_exception(FailedPrecondition(f"{self.name} was cancelled: {why}"))

    def ended(self) -> Ended:
        """Return what became of it; it must be done."""
        error = "cancelled" if self._result.cancelled() else str(self._result.exception() or "")
        return Ended(self.name, time.time(), self.waited, self.ran, error)

    async def run(self) -> None:
        """Do the work; the error is the result, the queue goes on."""
        begin = time.perf_counter()
        self.waited = begin - self._enqueued
        task = asyncio.get_running_loop().create_task(self._do(), context=self._context)
        await asyncio.wait((task,))
        self.ran = time.perf_counter() - begin
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is None:
            self._result.set_result(None)
        elif isinstance(error, asyncio.CancelledError):
            self._result.cancel()
        else:
            self._result.set_exception(error)

    async def _do(self) -> None:
        await self._work(self)


@dataclass(frozen=True, slots=True)
class Request:
    """A level and the reasons for it, in the order in which they came."""

    level: Level
    reasons: tuple[str, ...]

    def folded(self, other: "Request") -> "Request":
        """Return what serves both: the higher level, each reason once."""
        new = tuple(reason for reason in other.reasons if reason not in self.reasons)
        return Request(max(self.level, other.level), self.reasons + new)


class RegenerationEvent(Event):
    """A regeneration that others may fold into until it begins."""

    def __init__(self, request: Request, work: Callable[["RegenerationEvent"], Awaitable[None]]) -> None:
        """Make an event for one trigger."""
        super().__init__("the regeneration", work)
        self.request = request
        self.begun = False
        self._outcome: Regeneration | None = None

    def begin(self) -> Request:
        """Return what is to be done; from now on triggers need another event."""
        self.begun = True
        return self.request

    def finish(self, outcome: Regeneration) -> None:
        """Say what was done, for those who await it."""
        self._outcome = outcome

    @property
    def outcome(self) -> Regeneration:
        """What was done; only after a `result` that didn't raise."""
        if self._outcome is None:
            raise Internal(f"{self.name} has no outcome")
        return self._outcome

    def fold(self, request: Request) -> bool:
        """Take another trigger in, if it isn't too late."""
        if self.begun or self.done:
            return False
        self.request = self.request.folded(request)
        return True


class EventQueue:
    """The events of one endpoint. `owner` is how errors name it; `size` is how many may wait."""

    def __init__(self, owner: str, size: int) -> None:
        """Start empty; the consumer comes with the first event."""
        self._owner, self._size = owner, size
        self._waiting: deque[Event] = deque()
        self._wake = asyncio.Event()
        self._consumer: asyncio.Task[None] | None = None
        self._closed = ""
        self._last: RegenerationEvent | None = None
        self._running: tuple[str, float] = ("", 0.0)
        self._ended: deque[Ended] = deque(maxlen=HISTORY)

    def __len__(self) -> int:
        """Return how many events wait."""
        return len(self._waiting)

    def status(self) -> QueueStatus:
        """Return what waits, what runs and what has ended."""
        waiting = tuple(event.name for event in self._waiting)
        return QueueStatus(self._size, waiting, *self._running, tuple(self._ended))

    def enqueue(self, event: Event) -> None:
        """Let an event wait its turn. Raises Exhausted (full) and FailedPrecondition (the endpoint is going)."""
        if self._closed:
            raise FailedPrecondition(f"{self._owner}: {event.name} is not possible: {self._closed}")
        if len(self._waiting) >= self._size:
            raise Exhausted(
                f"{self._owner}: {len(self._waiting)} events wait already, so {event.name} was refused: see what it "
                "is stuck on with `podlane endpoint get`",
                waiting=len(self._waiting),
            )
        self._waiting.append(event)
        if self._consumer is None:
            # An empty context: events bring their own, and this task outlives the request that made it.
            self._consumer = asyncio.get_running_loop().create_task(self._consume(), context=contextvars.Context())
        self._wake.set()

    def trigger(
        self, request: Request, work: Callable[[RegenerationEvent], Awaitable[None]]
    ) -> tuple[RegenerationEvent, bool]:
        """Ask for a regeneration: fold into the one that waits, or enqueue one; return it and whether it was folded.

        Raises as `enqueue` does.
        """
        if self._last is not None and not self._closed and self._last.fold(request):
            return self._last, True
        event = RegenerationEvent(request, work)
        self.enqueue(event)
        self._last = event
        return event, False

    async def close(self, why: str) -> None:
        """Take no more events, cancel those that wait, wait for the one that runs. Repeating it is fine."""
        self._closed = self._closed or why
        while self._waiting:
            event = self._waiting.popleft()
            event.cancel(why)
            self._ended.append(event.ended())
        self._wake.set()
        if self._consumer is not None:
            await asyncio.wait((self._consumer,))

    async def _consume(self) -> None:
        while not self._closed or self._waiting:
            while self._waiting:
                await self._run(self._waiting.popleft())
            self._wake.clear()
            if not self._closed:
                await self._wake.wait()

    async def _run(self, event: Event) -> None:
        self._running = (event.name, time.time())
        await event.run()
        self._running = ("", 0.0)
        self._ended.append(event.ended())
