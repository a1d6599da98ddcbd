"""A controller: one task that runs a function again and again until it succeeds, and counts what happened.

    waiting ──due: update, trigger, interval──► running ──ok──► waiting (for `interval`, or for ever)
       ▲                                           │
       └────────────────── back-off ◄────error─────┘        remove: run cancelled ─► stop function ─► gone

After a success the next run is due `interval` seconds after the *end* of that run. After an error it is due after a
back-off that doubles from `retry_base` to `retry_cap`, with jitter, so that many that failed together don't come back
together. Triggers that arrive while one waits already are one trigger; a trigger or an update during a run makes
exactly one more run. Counters survive updates.

A run that takes longer than `alarm` is shown as hanging and logged: it is not cancelled, because what it holds is not
known here. `ControllerDone` raised by the function is a success that ends the repetition until the next update or
trigger.

Invariants
- At most one run at a time; the stop function begins when no run is left.
- What waits is a timer by the monotonic clock: a wall clock that is set moves no run. The wall clock is for showing.
- A run has a context of its own with a request id of its own: it never logs under the id of the call that happened to
  create or trigger the controller, and its calls to other services can be found in their logs.
- Whoever is inside a run or a stop function is neither cancelled by nor waits for the removal that it asks for.
- Failures in a row are logged at the 1st, 2nd, 4th, 8th, …: hours of one failure are a dozen lines.

Hundreds of endpoints have several of these each, so one that waits is this object and a timer, no task.

Not here: what the function does, its parameters (`controller_parameters.py`), who owns it (`controllers.py`).
"""

import asyncio
import contextvars
import math
import os
import random
import time
import uuid
from collections.abc import Awaitable, Callable

import structlog

from services.common import telemetry
from services.common.controller_parameters import ControllerDone, Parameters, Surroundings, backoff
from services.common.controller_status import Outcome, Result, Status
from services.common.errors import PodlaneError

_log = telemetry.logger("controller")
_NEVER = math.inf


class Controller:
    """Runs one function. Made, updated and removed by a `Manager`, on the loop."""

    __slots__ = (
        "_begun",
        "_cancelled",
        "_due",
        "_farewell",
        "_gone",
        "_run",
        "_stop",
        "_surroundings",
        "_timer",
        "_uuid",
        "name",
        "parameters",
        "resource",
        "status",
    )

    def __init__(
        self, resource: str, name: str, parameters: Parameters, surroundings: Surroundings, delay: float = 0.0
    ) -> None:
        """Run for the first time in `delay` seconds."""
        self.resource = resource
        self.name = name
        self.parameters = parameters
        self.status = Status()
        self._surroundings = surroundings
        self._uuid = ""
        self._run: asyncio.Task[None] | None = None
        self._stop: asyncio.Task[None] | None = None
        self._begun = 0.0
        self._cancelled = False
        self._gone: asyncio.Future[None] | None = None
        self._farewell: Callable[[], Awaitable[None]] | None = None
        # Of the next run while this waits, of the alarm while it runs.
        self._timer: asyncio.TimerHandle | None = None
        self._due = asyncio.get_running_loop().time() + delay
        self._wait()

    @property
    def uuid(self) -> str:
        """Tell this controller from all that have had or will have its name. Made when it is first asked for."""
        if not self._uuid:
            self._uuid = str(uuid.uuid4())
        return self._uuid

    @property
    def group(self) -> str:
        """What metrics call it."""
        return self.parameters.group or self.name

    @property
    def running_since(self) -> float:
        """When the current run began, seconds since the epoch; 0: it waits."""
        return time.time() - self._elapsed() if self._busy() else 0.0

    @property
    def next_run(self) -> float:
        """When the next run is due, seconds since the epoch; 0: an update or a trigger is waited for."""
        left = self._due - asyncio.get_running_loop().time()
        return time.time() + left if left != _NEVER else 0.0

    @property
    def failing(self) -> bool:
        """Whether it failed since it last succeeded."""
        return self.status.consecutive_failures > 0

    @property
    def hanging(self) -> bool:
        """Whether the current run has taken longer than its alarm."""
        return self._busy() and self._elapsed() > self.parameters.alarm

    @property
    def leaving(self) -> bool:
        """Whether it is being removed, or has been."""
        return self._gone is not None

    @property
    def inside(self) -> bool:
        """Whether the caller is this controller's function, or was called or started by it."""
        return _current.get() is self and self._busy()

    def update(self, parameters: Parameters, delay: float = 0.0) -> None:
        """Replace the parameters and run with them in `delay` seconds at the latest; counters stay."""
        self.parameters = parameters
        if parameters.cancel_on_update:
            self._cancel()
        self.trigger(delay)

    def trigger(self, delay: float = 0.0) -> None:
        """Run in `delay` seconds at the latest, or as soon after that as no run is in progress."""
        if self.leaving:
            return
        due = asyncio.get_running_loop().time() + delay
        if self._due <= due:
            self.status.coalesced += 1
            return
        self._due = due
        if self._run is None:
            self._wait()

    def remove(self, *, stop: bool = True) -> "asyncio.Future[None]":
        """End, and return what is done when all has ended. Cancels a run in progress, then runs the stop function.

        `stop` False leaves that function out. Errors of it are logged.
        """
        if self._gone is None:
            self._gone = asyncio.get_running_loop().create_future()
            self._due = _NEVER
            self._farewell = self.parameters.stop if stop else None
            if self._run is None:
                self._end(self._gone)
        self._cancel()
        return self._gone

    def _busy(self) -> bool:
        return self._run is not None or self._stop is not None

    def _elapsed(self) -> float:
        return asyncio.get_running_loop().time() - self._begun

    def _cancel(self) -> None:
        # Once: a second cancellation would hit what the function does to clean up after the first.
        if self._run is not None and not self._cancelled and not self.inside:
            self._cancelled = True
            self._run.cancel()

    def _wait(self) -> None:
        """Begin the next run when it is due."""
        self._set_timer(self._due, self._begin)

    def _set_timer(self, when: float, callback: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if when != _NEVER:
            loop, context = asyncio.get_running_loop(), self._surroundings.context
            self._timer = loop.call_at(when, callback, context=context)

    def _begin(self) -> None:
        self._due = _NEVER
        self._cancelled = False
        self._run = self._start(self.parameters.run, self._finished)

    def _start(
        self, function: Callable[[], Awaitable[None]], finished: "Callable[[asyncio.Task[None]], None]"
    ) -> "asyncio.Task[None]":
        loop, context = asyncio.get_running_loop(), self._surroundings.context.copy()
        self._begun = loop.time()
        self._set_timer(self._begun + self.parameters.alarm, self._hangs)
        task = loop.create_task(self._call(function), name=f"{self.resource}/{self.name}", context=context)
        # Not at the end of the coroutine: one that is cancelled before its first step never gets there.
        task.add_done_callback(finished, context=context)
        return task

    async def _call(self, function: Callable[[], Awaitable[None]]) -> None:
        _current.set(self)
        structlog.contextvars.bind_contextvars(
            request_id=os.urandom(6).hex(), resource=self.resource, controller=self.name
        )
        await function()

    def _hangs(self) -> None:
        _log.warning(
            "controller run hangs", resource=self.resource, controller=self.name, seconds=round(self._elapsed(), 1)
        )

    def _finished(self, run: "asyncio.Task[None]") -> None:
        """Record how a run ended and say when the next is due."""
        duration = self._elapsed()
        self._run = None
        problem = self._problem(run)
        done = isinstance(problem, ControllerDone)
        failed_before = self.status.consecutive_failures
        if run.cancelled() and self._cancelled:
            outcome = self.status.record(Result.CANCELLED, time.time(), duration)
        elif problem is None or done:
            outcome = self.status.record(Result.SUCCESS, time.time(), duration)
        else:
            outcome = self.status.record(Result.FAILURE, time.time(), duration, _sentence(problem))
        if self._gone is not None:
            self._end(self._gone)
        else:
            pause = _NEVER if done else self._pause(outcome.result)
            self._due = min(self._due, asyncio.get_running_loop().time() + pause)
            self._wait()
        # Last: whoever counts or logs can't keep the next run from coming.
        self._surroundings.observe(self.group, outcome)
        self._tell(outcome, problem, failed_before)

    def _problem(self, run: "asyncio.Task[None]") -> BaseException | None:
        if run.cancelled():
            # Unless it was us, somebody cancelled what the function waited for; to give up then would be for ever.
            return None if self._cancelled else PodlaneError("what the run waited for was cancelled")
        return run.exception()

    def _pause(self, result: Result) -> float:
        """Return the seconds until the next run that nobody asks for."""
        parameters = self.parameters
        if result is Result.FAILURE and parameters.retry:
            count = self.status.consecutive_failures
            return backoff(count, parameters.retry_base, parameters.retry_cap, random.random())  # noqa: S311 # no secret
        jitter = parameters.interval_jitter * random.random()  # noqa: S311 # no secret
        return parameters.interval * (1 + jitter) or _NEVER

    def _tell(self, outcome: Outcome, problem: BaseException | None, failed_before: int) -> None:
        """Log what is news. Called in the run's context, so the line has its request id, resource and name."""
        if outcome.duration > self.parameters.alarm:
            _log.warning("controller run that hung has ended", seconds=round(outcome.duration, 1))
        failures = self.status.consecutive_failures
        if bool(failures) != bool(failed_before):
            for tell in self._surroundings.news:
                tell(self.resource, self.name, outcome, failed_before)
        if outcome.result is Result.SUCCESS and failed_before:
            _log.info("controller recovered", failures=failed_before)
        if outcome.result is Result.FAILURE:
            again = round(self._due - asyncio.get_running_loop().time(), 1) if self._due != _NEVER else None
            foreseen = isinstance(problem, PodlaneError)
            write = _log.warning if foreseen else _log.error
            write = write if failures & (failures - 1) == 0 else _log.debug
            write(
                "controller run failed",
                error=outcome.error,
                failures=failures,
                again_in_seconds=again,
                exc_info=None if foreseen else problem,
            )

    def _end(self, gone: "asyncio.Future[None]") -> None:
        """Run the stop function, if any, now that no run is left."""
        self._set_timer(_NEVER, self._begin)
        if self._farewell is None:
            gone.set_result(None)
        else:
            self._stop = self._start(self._farewell, self._stopped)

    def _stopped(self, stop: "asyncio.Task[None]") -> None:
        self._set_timer(_NEVER, self._begin)
        self._stop = None
        if not stop.cancelled() and (problem := stop.exception()) is not None:
            _log.error("controller stop function failed", error=_sentence(problem), exc_info=problem)
        if self._gone is not None:
            self._gone.set_result(None)


# The controller whose run or stop function the caller is inside of; tasks that it starts inherit it.
_current: contextvars.ContextVar[Controller | None] = contextvars.ContextVar("controller", default=None)


def _sentence(problem: BaseException) -> str:
    return problem.message if isinstance(problem, PodlaneError) else f"{type(problem).__name__}: {problem}"
