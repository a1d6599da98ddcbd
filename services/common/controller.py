"""A controller: one task that runs a function again and again until it succeeds, and counts what happened.

    waiting ──update, trigger, interval──► running ──ok──► waiting (for `interval`, or for ever)
                      ▲                       │
                      └──── back-off ◄──error─┘

After a success the next run is due `interval` seconds after the *end* of that run. After an error it is due after a
back-off that doubles from `retry_base` to `retry_cap`, with jitter, so that many that failed together don't come back
together. Triggers that arrive while one waits already are one trigger; a trigger or an update during a run makes
exactly one more run. Counters survive updates.

A run that takes longer than `alarm` is shown as hanging: it is not cancelled, because what it holds is not known here.
`ControllerDone` raised by the function is a success that ends the repetition until the next update or trigger.

Not here: what the function does, and who owns the controller (`controllers.py`).
"""

import asyncio
import random
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum

from services.common import telemetry
from services.common.errors import PodlaneError

HISTORY = 16
_log = telemetry.logger("controller")


class ControllerDone(Exception):
    """Raised by a controller's function: it has nothing left to do, and that is a success."""


class Result(StrEnum):
    """How one run ended."""

    SUCCESS = "success"
    FAILURE = "failure"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Parameters:
    """What to run and when. All times are seconds."""

    run: Callable[[], Awaitable[None]]
    interval: float = 0.0
    """From the end of a successful run to the next; 0: only after an update or a trigger."""
    delay: float = 0.0
    """From an update to the run that it causes; a trigger does not wait for it."""
    retry_base: float = 1.0
    """Back-off after the first error of a row; doubles with each further one."""
    retry_cap: float = 60.0
    """The longest back-off."""
    retry: bool = True
    """False: an error waits for `interval`, an update or a trigger like a success."""
    stop: Callable[[], Awaitable[None]] | None = None
    """Run once when the controller is removed."""
    cancel_on_update: bool = False
    """Whether an update cancels a run in progress rather than waiting for its end."""
    alarm: float = 30.0
    """A run that takes longer shows as hanging."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One finished run."""

    result: Result
    finished: float
    """Seconds since the epoch."""
    duration: float
    """Seconds."""
    error: str = ""
    done: bool = False
    """Whether the function said that it has nothing left to do."""


@dataclass(slots=True)
class Status:
    """What happened so far. Times are seconds since the epoch, 0 for never."""

    successes: int = 0
    failures: int = 0
    consecutive_failures: int = 0
    last_success: float = 0.0
    last_failure: float = 0.0
    last_error: str = ""
    last_duration: float = 0.0
    running_since: float = 0.0
    next_run: float = 0.0
    """When the next run is due; 0: it waits for a trigger."""
    coalesced: int = 0
    """Triggers and updates that were folded into one that waited already."""
    history: deque[Outcome] = field(default_factory=lambda: deque(maxlen=HISTORY))

    def record(self, outcome: Outcome) -> None:
        """Count a finished run."""
        self.history.append(outcome)
        self.last_duration = outcome.duration
        if outcome.result is Result.SUCCESS:
            self.successes += 1
            self.consecutive_failures = 0
            self.last_success = outcome.finished
        elif outcome.result is Result.FAILURE:
            self.failures += 1
            self.consecutive_failures += 1
            self.last_failure = outcome.finished
            self.last_error = outcome.error


def backoff(consecutive: int, base: float, cap: float, jitter: float) -> float:
    """Return the seconds to wait after the `consecutive`-th error in a row; `jitter` in [0, 1) takes off up to half.

    >>> [backoff(n, 1, 60, 0) for n in (1, 2, 3, 7, 8)]
    [1.0, 2.0, 4.0, 60.0, 60.0]
    """
    # Past 2^16 the cap has long decided, and 2**consecutive would overflow a float.
    full = min(cap, base * 2.0 ** min(consecutive - 1, 16))
    return full * (1 - jitter / 2)


class Controller:
    """One task around one function. Made and removed by a `Manager`."""

    def __init__(self, resource: str, name: str, parameters: Parameters) -> None:
        """Start at once: the first run is due now."""
        self.resource = resource
        self.name = name
        self.uuid = str(uuid.uuid4())
        self.parameters = parameters
        self.status = Status()
        self._wake = asyncio.Event()
        if parameters.delay:
            self.status.next_run = time.time() + parameters.delay
        else:
            self._wake.set()
        self._run: asyncio.Task[None] | None = None
        self._task = asyncio.create_task(self._repeat(), name=f"{resource}/{name}")

    def update(self, parameters: Parameters) -> None:
        """Replace the parameters and run with them now; counters stay."""
        self.parameters = parameters
        if parameters.cancel_on_update and self._run is not None:
            self._run.cancel()
        self.trigger()

    def trigger(self) -> None:
        """Run as soon as no run is in progress."""
        if self._wake.is_set():
            self.status.coalesced += 1
        self._wake.set()

    @property
    def parked(self) -> bool:
        """Whether it neither runs nor is going to by itself."""
        status = self.status
        return not (status.running_since or status.next_run or self._wake.is_set())

    def hanging(self) -> bool:
        """Return whether the current run has taken longer than its alarm."""
        since = self.status.running_since
        return bool(since) and time.time() - since > self.parameters.alarm

    async def abandon(self) -> None:
        """End: cancel a run in progress. The stop function is not run: what it would take back stays."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def remove(self) -> None:
        """End: cancel a run in progress, then run the stop function. Errors of that are logged."""
        await self.abandon()
        if self.parameters.stop is None:
            return
        try:
            await self.parameters.stop()
        except Exception:  # noqa: BLE001 # whatever it is, the others that are removed with this one must go on
            _log.exception("controller stop", resource=self.resource, controller=self.name)

    async def _repeat(self) -> None:
        while True:
            await self._due()
            self._wake.clear()
            parameters = self.parameters
            outcome = await self._once(parameters)
            self.status.record(outcome)
            self._plan(parameters, outcome)

    async def _due(self) -> None:
        """Wait until the next run is due or somebody triggers."""
        due = self.status.next_run
        try:
            async with asyncio.timeout(max(0.0, due - time.time()) if due else None):
                await self._wake.wait()
        except TimeoutError:
            pass
        self.status.next_run = 0.0

    async def _once(self, parameters: Parameters) -> Outcome:
        """Run the function once in a task of its own, so that an update can cancel just that."""
        begin = time.monotonic()
        self.status.running_since = time.time()
        self._run = asyncio.ensure_future(parameters.run())
        result, error, done = Result.SUCCESS, "", False
        try:
            await asyncio.shield(self._run)
        except ControllerDone:
            done = True
        except asyncio.CancelledError:
            if not self._run.cancelled():  # this controller is being removed, and its run with it
                self._run.cancel()
                await asyncio.gather(self._run, return_exceptions=True)
                raise
            result = Result.CANCELLED
        except Exception as problem:  # noqa: BLE001 # a controller outlives every error of its function
            result, error = Result.FAILURE, self._explain(problem)
        finally:
            self._run = None
            self.status.running_since = 0.0
        return Outcome(result, time.time(), time.monotonic() - begin, error, done)

    def _explain(self, problem: Exception) -> str:
        fields = {"resource": self.resource, "controller": self.name}
        if isinstance(problem, PodlaneError):
            _log.warning("controller run failed", error=problem.message, **fields)
            return problem.message
        _log.error("controller run failed", exc_info=problem, **fields)
        return f"{type(problem).__name__}: {problem}"

    def _plan(self, parameters: Parameters, outcome: Outcome) -> None:
        """Say when the next run is due."""
        delay = 0.0 if outcome.done else parameters.interval
        if outcome.result is Result.FAILURE and parameters.retry:
            count = self.status.consecutive_failures
            delay = backoff(count, parameters.retry_base, parameters.retry_cap, random.random())  # noqa: S311 # no secret
        self.status.next_run = outcome.finished + delay if delay else 0.0
