"""Controllers by a clock that tests move, functions that tests hold up, and the lines that are logged."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
import structlog

from services.common.controller import Controller
from services.common.controllers import Manager
from services.common.errors import Unavailable


class Work:
    """A function whose runs a test can count, fail and hold up."""

    def __init__(self, fail: int = 0, *, held: bool = False) -> None:
        """Fail the first `fail` runs; `held`: none ends before `gate` is set."""
        self.runs = 0
        self.cancelled = 0
        self.stopped = 0
        self.fail = fail
        self.gate = asyncio.Event()
        if not held:
            self.gate.set()

    async def run(self) -> None:
        """What the controller runs."""
        self.runs += 1
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.runs <= self.fail:
            raise Unavailable(f"run {self.runs} fails")

    async def stop(self) -> None:
        """The stop function."""
        self.stopped += 1


class Clocks:
    """The loop's monotonic clock and the wall clock of the controllers, moved by hand from now on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Put both in place, on the running loop."""
        self.wall, self._monotonic = 1_700_000_000.0, 5_000.0
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: self._monotonic)
        monkeypatch.setattr("services.common.controller.time.time", lambda: self.wall)

    async def advance(self, seconds: float) -> None:
        """Let both clocks go on, and let happen what is due by then."""
        self.wall += seconds
        self._monotonic += seconds
        await settle()


async def settle() -> None:
    """Let everything happen that waits for nothing but its turn."""
    for _ in range(10):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


def only(manager: Manager) -> Controller:
    """Return the manager's one controller."""
    (controller,) = manager
    return controller


def capture(monkeypatch: pytest.MonkeyPatch, module: str, level: int = logging.INFO) -> list[dict[str, Any]]:
    """Return the list that the lines of a module's `_log` go to from now on."""
    lines: list[dict[str, Any]] = []

    def keep(_logger: Any, _method: str, event: Any) -> Any:
        lines.append(dict(event))
        raise structlog.DropEvent

    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.format_exc_info,
        keep,
    ]
    wrapper = structlog.make_filtering_bound_logger(level)
    monkeypatch.setattr(f"{module}._log", structlog.wrap_logger(None, processors, wrapper))
    return lines
