"""What a person watching the state directory with inotifywait sees."""

import asyncio
from collections.abc import AsyncIterator
from ipaddress import ip_address
from pathlib import Path
from typing import Self

import pytest

from services.common.model import Attachment
from services.loader.model import EndpointRecord, EndpointSpec
from services.loader.statedir import Build, StateDir

SPEC = EndpointSpec(
    7, 1, Attachment("podlane", "c0ffee", "eth0"), "lxc0", 42, b"\2" * 6, b"\2" * 6, (ip_address("10.0.0.9"),), 256
)
RECORD = EndpointRecord(SPEC, "a" * 64, "b" * 64, "tc", (), 5)


class Watch:
    """A running `inotifywait -m` on one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *("inotifywait", "-m", "--format", "%e %f", str(self._directory)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._events = self._process.stdout
        while b"established" not in await self._process.stderr.readline():
            pass
        return self

    async def __aexit__(self, *_: object) -> None:
        self._process.terminate()
        await self._process.communicate()

    async def until(self, last: str) -> list[str]:
        """Return the creations, moves and deletions up to and with `last`."""
        seen: list[str] = []
        while not seen or seen[-1] != last:
            line = (await self._events.readline()).decode().strip()
            if line.startswith(("CREATE", "MOVED", "DELETE")):
                seen.append(line.replace(",ISDIR", ""))
        return seen


@pytest.fixture
async def state(tmp_path: Path) -> StateDir:
    state = StateDir(tmp_path / "state")
    state.open()
    return state


@pytest.fixture
async def watch(state: StateDir) -> AsyncIterator[Watch]:
    async with Watch(state.root) as watch:
        yield watch


def begin(state: StateDir) -> Build:
    build = state.build(7)
    build.begin("")
    build.intend(RECORD)
    return build


async def test_the_first_build_is_one_rename(state: StateDir, watch: Watch) -> None:
    begin(state).commit()

    assert await watch.until("MOVED_TO 7") == ["CREATE 7_next", "MOVED_FROM 7_next", "MOVED_TO 7"]


async def test_a_later_build_is_one_exchange_and_the_removal_of_the_old(state: StateDir) -> None:
    begin(state).commit()
    async with Watch(state.root) as watch:
        begin(state).commit()

        seen = await watch.until("DELETE 7_next")

    # The kernel reports an exchange as two moves; there is no moment in between.
    assert seen == [
        "CREATE 7_next",
        "MOVED_FROM 7_next",
        "MOVED_TO 7",
        "MOVED_FROM 7",
        "MOVED_TO 7_next",
        "DELETE 7_next",
    ]


async def test_a_failed_build_never_touches_the_live_directory(state: StateDir, watch: Watch) -> None:
    begin(state).fail("", "log")

    assert await watch.until("MOVED_TO 7_next_fail") == ["CREATE 7_next", "MOVED_FROM 7_next", "MOVED_TO 7_next_fail"]


async def test_what_is_written_and_committed_by_exchange_is_what_is_read(state: StateDir) -> None:
    begin(state).commit()
    begin(state).commit()

    assert state.record(7) == RECORD
