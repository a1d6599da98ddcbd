"""Trying again what failed in the background, until it succeeds: one task per name, with growing, jittered pauses.

It carries two things: regenerations that failed (`regeneration-recovery`) and endpoints whose taking down stopped
half-way. A caller that waits for an answer is never made to wait for these; it gets the error.
"""

import asyncio
import contextvars
import random
from collections.abc import Awaitable, Callable

from services.common import telemetry
from services.common.errors import PodlaneError

_log = telemetry.logger("recovery")

FIRST_SECONDS, LONGEST_SECONDS = 0.5, 30.0


def pause(failures: int, first: float = FIRST_SECONDS, longest: float = LONGEST_SECONDS) -> float:
    """Return the seconds to wait after so many failures in a row: doubling, up to a fifth earlier at random."""
    bounded: float = min(first * 2 ** min(failures, 16), longest)
    return bounded * random.uniform(0.8, 1.0)  # noqa: S311 - spreads retries, guards nothing


class Recovery:
    """A component: `stop` ends all of it."""

    def __init__(self, first: float = FIRST_SECONDS) -> None:
        """`first` is the pause before the first attempt, in seconds."""
        self._first = first
        # What goes on after its request was answered must not log under that request's id.
        self._context = contextvars.copy_context()
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def start(self) -> None:
        """Nothing to do."""

    async def stop(self) -> None:
        """Cancel everything; a restart finds what is left to do in the records."""
        tasks = tuple(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def __contains__(self, name: str) -> bool:
        """Return whether something of this name is being tried."""
        return name in self._tasks

    def retry(self, name: str, attempt: Callable[[], Awaitable[None]]) -> None:
        """Call `attempt` until it does not raise PodlaneError; one that is being tried already is left alone."""
        if name not in self._tasks:
            context = self._context.copy()
            task = asyncio.get_running_loop().create_task(self._repeat(name, attempt), context=context)
            self._tasks[name] = task
            task.add_done_callback(lambda done: self._forget(name, done))

    def cancel(self, name: str) -> None:
        """Stop trying; nothing of that name changes nothing."""
        if name in self._tasks:
            self._tasks[name].cancel()

    def _forget(self, name: str, task: "asyncio.Task[None]") -> None:
        if self._tasks.get(name) is task:
            del self._tasks[name]
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("recovery ended by a bug", name=name, exc_info=error)

    async def _repeat(self, name: str, attempt: Callable[[], Awaitable[None]]) -> None:
        failures = 0
        while True:
            await asyncio.sleep(pause(failures, self._first))
            try:
                await attempt()
            except PodlaneError as error:
                failures += 1
                _log.warning("still failing", name=name, failures=failures, error=error.message)
            else:
                _log.info("recovered", name=name, failures=failures)
                return
