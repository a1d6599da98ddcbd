"""The tracer's process, seen from the command: started, told which pods there are, heard, ended.

It is in a session of its own, so that Ctrl-C reaches the command alone, which then ends it by closing its stdin: what
it has still to tell is heard, and the kernel forgets its program with it.
"""

import asyncio
import contextlib
import json
import os
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import IO, Any

from services.common.errors import FailedPrecondition, Internal

PYTHON = "/usr/bin/python3"
"""Whose packages bcc is among; $PODLANE_TRACER_PYTHON where that is another one."""

_FILE = Path(__file__).with_name("drops_bcc.py")
_STARTS_WITHIN, _ENDS_WITHIN = 60.0, 10.0
_LONGEST_LINE = 1 << 20


class BccMissing(FailedPrecondition):
    """bcc isn't there for the system's Python."""


class Tracer:
    """A running tracer."""

    def __init__(self, process: Process, complaints: IO[bytes]) -> None:
        """Own the process."""
        self._process = process
        self._complaints = complaints
        self._sent = self._taken = 0
        self.reasons: dict[int, str] = {}

    @classmethod
    async def start(cls) -> "Tracer":
        """Start it; returns when its program is attached. Raises BccMissing, FailedPrecondition (what the kernel or the
        compiler say).
        """
        if os.geteuid():
            raise FailedPrecondition(
                "trace drops loads a program into the kernel and needs root (CAP_BPF, CAP_PERFMON): run it by sudo"
            )
        python = os.environ.get("PODLANE_TRACER_PYTHON", PYTHON)
        complaints = tempfile.TemporaryFile()  # noqa: SIM115 # the tracer owns it
        try:
            process = await asyncio.create_subprocess_exec(
                *(python, "-E", "-s", "-B", str(_FILE)),
                stdin=PIPE,
                stdout=PIPE,
                stderr=complaints,
                start_new_session=True,
                limit=_LONGEST_LINE,
            )
        except OSError as error:
            complaints.close()
            raise BccMissing(_missing(f"{python}: {error.strerror}")) from None
        tracer = cls(process, complaints)
        try:
            async with asyncio.timeout(_STARTS_WITHIN):
                await tracer._attached()
        except BaseException:
            await tracer.stop()
            raise
        return tracer

    async def _attached(self) -> None:
        message = await self._next()
        if message is None:
            raise self._died()
        if "error" in message:
            if message["missing"]:
                raise BccMissing(_missing(message["error"]))
            raise FailedPrecondition(f"the tracer could not start: {message['error']}")
        self.reasons = {int(number): name for number, name in message["ready"]["reasons"].items()}

    async def _next(self) -> dict[str, Any] | None:
        assert self._process.stdout is not None  # noqa: S101 # it was asked for
        line = await self._process.stdout.readline()
        return json.loads(line) if line else None

    def _died(self) -> Internal:
        self._complaints.seek(0)
        said = self._complaints.read()[-1000:].decode(errors="replace").strip().replace("\n", " | ")
        return Internal(f"the tracer has ended by itself: {said or 'it said nothing'}")

    def tell(self, command: Mapping[str, Any]) -> None:
        """Tell which pods are new or gone; an empty command is none."""
        if command and self._process.stdin is not None:
            self._process.stdin.write(json.dumps(command).encode() + b"\n")
            self._sent += 1

    @property
    def knows(self) -> bool:
        """Whether it has taken in all that it was told."""
        return self._taken == self._sent

    async def messages(self) -> AsyncIterator[dict[str, Any]]:
        """Yield what it says until it ends: `drop`, `lost`, and `taken`, by which who waits for `knows` can look again.
        Raises Internal when it dies.
        """
        while (message := await self._next()) is not None:
            self._taken = message.get("taken", self._taken)
            yield message
        await self._process.wait()
        if self._process.returncode:
            raise self._died()

    def finish(self) -> None:
        """Have it tell what it still has and end."""
        if self._process.stdin is not None:
            self._process.stdin.close()

    async def stop(self, last: Callable[[dict[str, Any]], None] = lambda _message: None) -> None:
        """End it, whatever it does; returns when it is gone. `last` gets what it had still to say."""
        self.finish()
        try:
            async with asyncio.timeout(_ENDS_WITHIN):
                while (message := await self._next()) is not None:
                    last(message)
                await self._process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        finally:
            self._complaints.close()


def _missing(said: str) -> str:
    return (
        f"bcc is needed for tracing and isn't there ({said}): install Debian's python3-bpfcc (`apt-get install "
        "python3-bpfcc`; PyPI's bcc is something else), or name the Python that has it in $PODLANE_TRACER_PYTHON"
    )
