"""How a service process starts, says that it is ready, and stops.

A service is a list of components, each with `start` and `stop`. They start in order; the first failure stops
what had started and ends the process with one line of why. SIGTERM and SIGINT stop them in reverse order, each
one whatever the others do. `sd_notify` tells systemd READY and STOPPING (sd_notify(3)).
"""

import argparse
import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from services.common import config, configfile, telemetry
from services.common.errors import PodlaneError

T = TypeVar("T")


class Component(Protocol):
    """Something with a beginning and an end."""

    async def start(self) -> None:
        """Begin; raise PodlaneError when it can't."""

    async def stop(self) -> None:
        """End; also right after a failed start of a later component."""


class Hook:
    """Two functions as a component."""

    def __init__(self, start: Callable[[], Awaitable[None]], stop: Callable[[], Awaitable[None]] | None = None) -> None:
        """`stop` None: nothing to undo."""
        self._start, self._stop = start, stop

    async def start(self) -> None:
        """Run the first function."""
        await self._start()

    async def stop(self) -> None:
        """Run the second."""
        if self._stop is not None:
            await self._stop()


class Shielded:
    """Runs work that must finish although its caller hangs up, and waits for all of it when the service stops.

    gRPC cancels a handler at its caller's deadline, at whatever `await` it stands. A kernel half set up is worse than
    an answer nobody reads, so every mutating RPC runs its work through `run`.
    """

    def __init__(self) -> None:
        """Start with nothing running."""
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` to its end; a cancelled caller stops waiting, the work goes on."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return await asyncio.shield(task)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # a caller that hung up leaves nobody to fetch it

    async def start(self) -> None:
        """Nothing to do."""

    async def stop(self) -> None:
        """Wait for what is running."""
        while self._tasks:
            await asyncio.wait(self._tasks)


class Background:
    """Runs work that nobody waits for, and waits for all of it when the service stops. asyncio logs what fails."""

    def __init__(self) -> None:
        """Start with nothing running."""
        self._tasks: set[asyncio.Task[Any]] = set()

    def begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begin `work`; its task may be awaited, or left."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def stop(self) -> None:
        """Wait for what is running, and for what that begins."""
        while self._tasks:
            await asyncio.wait(self._tasks)


@contextlib.asynccontextmanager
async def running(components: Sequence[Component]) -> Any:
    """Start the components in order; stop those that started, in reverse, at the end of the block."""
    log = telemetry.logger("lifecycle")
    started: list[Component] = []
    try:
        for component in components:
            await component.start()
            started.append(component)
        yield
    finally:
        for component in reversed(started):
            try:
                await component.stop()
            except Exception:  # teardown collects: the others must stop too
                log.exception("stop", component=type(component).__name__)


def main(service: str, build: Callable[[config.Settings], Sequence[Component]]) -> int:
    """Parse the command line, run the service until a signal, return the exit code."""
    parser = argparse.ArgumentParser(prog=f"podlane-{service}", description=f"podlane's {service} service")
    parser.add_argument("--config", type=Path, help="TOML file; default PODLANE_CONFIG or /etc/podlane/podlane.toml")
    arguments = parser.parse_args()
    try:
        settings = configfile.load_from_process(arguments.config)
        telemetry.configure(service, settings.node.log_level, settings.node.log_format)
        return asyncio.run(_serve(service, build(settings)))
    except PodlaneError as error:
        sys.stderr.write(f"podlane-{service}: {error.message}\n")
        return 1


async def _serve(service: str, components: Sequence[Component]) -> int:
    log = telemetry.logger("lifecycle")
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with running(components):
        # What was imported and built stays for good: the collector need not walk it again and again. And nearly all of
        # what a call leaves goes by itself: looking for cycles 700 objects later, Python's default, cost each pod's
        # start 0.1 ms in three services.
        gc.collect()
        gc.freeze()
        gc.set_threshold(10_000)
        log.info("ready", pid=os.getpid())
        notify("READY=1")
        await stopping.wait()
        log.info("stopping")
        notify("STOPPING=1")
    log.info("stopped", service=service)
    return 0


def notify(state: str) -> None:
    """Send a state to systemd, if it listens (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel, contextlib.suppress(OSError):
        channel.connect("\0" + address[1:] if address.startswith("@") else address)
        channel.send(state.encode())
