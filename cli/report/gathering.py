"""Collectors, and how they are run: side by side, each with its own time, each failing for itself.

A collector yields members: a name and what it holds, JSON values or a text. What is too long is cut: of a text the end
stays, because the newest is there; of JSON nothing would be left to read, so it isn't taken at all. Either is noted.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from services.common.errors import PodlaneError

# Bytes. Together they are unpacked at most `MOST_BYTES`; a node with 250 pods has 5 MB.
MOST_BYTES, MOST_JSON, MOST_TEXT = 96 << 20, 24 << 20, 4 << 20
_AT_A_TIME = 4
_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Member:
    """A file of the archive. `note`: what is to be known of it, for example what was left out."""

    name: str
    content: Any
    note: str = ""


@dataclass(frozen=True, slots=True)
class Collector:
    """Part of a report. `gather` gives members as it has them: those before an error or the end of its time stay."""

    name: str
    gather: Callable[[], AsyncIterator[Member]]
    seconds: float = _SECONDS


@dataclass(slots=True)
class Gathered:
    """What came of it."""

    members: list[Member] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def fail(self, collector: str, why: str) -> None:
        """Note what is missing, and why."""
        self.failed.append({"collector": collector, "why": why})


def one(name: str, get: Callable[[], Awaitable[Any]], seconds: float = _SECONDS) -> Collector:
    """Return a collector of one member."""

    async def gather() -> AsyncIterator[Member]:
        yield Member(name, await get())

    return Collector(name.rpartition(".")[0], gather, seconds)


def from_thread(name: str, get: Callable[[], Sequence[Member]], seconds: float = _SECONDS) -> Collector:
    """Return a collector that blocks: it reads files."""

    async def gather() -> AsyncIterator[Member]:
        for member in await asyncio.to_thread(get):
            yield member

    return Collector(name, gather, seconds)


async def run(collectors: Sequence[Collector], into: Gathered) -> None:
    """Run collectors side by side until each has ended, failed or used up its time."""
    turns = asyncio.Semaphore(_AT_A_TIME)

    async def each(collector: Collector) -> None:
        async with turns:
            begin = time.monotonic()
            await _run(collector, into)
            into.seconds[collector.name] = round(time.monotonic() - begin, 3)

    await asyncio.gather(*map(each, collectors))


async def _run(collector: Collector, into: Gathered) -> None:
    try:
        async with asyncio.timeout(collector.seconds):
            async for member in collector.gather():
                into.members.append(member)
    except TimeoutError:
        into.fail(collector.name, f"not done in {collector.seconds:.0f} s; what there was by then is here")
    except PodlaneError as error:
        into.fail(collector.name, error.message)
    except OSError as error:
        into.fail(collector.name, f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except Exception as error:  # noqa: BLE001 # a mistake of ours in one collector must not cost the whole report
        into.fail(collector.name, f"{type(error).__name__}: {error}")


def encode(member: Member) -> tuple[bytes, str]:
    """Return a member's bytes and its note. Raises ValueError when it is JSON and too long."""
    if isinstance(member.content, str):
        content = member.content.encode("utf-8", "replace")
        if len(content) <= MOST_TEXT:
            return content, member.note
        cut = f"{len(content) - MOST_TEXT} bytes before this were cut off"
        return f"[{cut}]\n".encode() + content[-MOST_TEXT:], f"{member.note}; {cut}" if member.note else cut
    content = json.dumps(member.content, indent=1, ensure_ascii=False, default=str).encode("utf-8", "replace")
    if len(content) > MOST_JSON:
        raise ValueError(f"{len(content)} bytes are more than the {MOST_JSON} that are taken")
    return content, member.note
