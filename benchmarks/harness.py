"""What all benchmarks share: whole-process timing, medians, and the table with its targets.

A process is timed from just before `posix_spawn` until it is reaped and its stdout has ended, which is what a
runtime waits for. Contestants take turns within one run, so that the machine's moods hit all of them; what is
compared is the ratio of medians of that run.
"""

import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Ran:
    """One process: exit code, stdout, wall time and its own CPU time in milliseconds."""

    code: int
    stdout: bytes
    stderr: bytes
    wall_ms: float
    cpu_ms: float


def spawn(argv: list[str], environment: Mapping[str, str], stdin: bytes) -> Ran:
    """Run a process to its end and time it."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as complaints:
        given.write(stdin)
        given.seek(0)
        reader, writer = os.pipe()
        actions = [
            (os.POSIX_SPAWN_DUP2, given.fileno(), 0),
            (os.POSIX_SPAWN_DUP2, writer, 1),
            (os.POSIX_SPAWN_DUP2, complaints.fileno(), 2),
        ]
        begin = time.perf_counter()
        pid = os.posix_spawn(argv[0], argv, environment, file_actions=actions)
        os.close(writer)
        chunks = []
        while chunk := os.read(reader, 65536):
            chunks.append(chunk)
        _, status, usage = os.wait4(pid, 0)
        wall = (time.perf_counter() - begin) * 1e3
        os.close(reader)
        complaints.seek(0)
        cpu = (usage.ru_utime + usage.ru_stime) * 1e3
        return Ran(os.waitstatus_to_exitcode(status), b"".join(chunks), complaints.read(), wall, cpu)


def spent_ms(pid: int) -> float:
    """Return the CPU time of a process so far, all its living threads, in milliseconds (schedstat, in nanoseconds)."""
    total = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            total += int((thread / "schedstat").read_text().split()[0])
    return total / 1e6


def together(work: Sequence[Callable[[], Any]], width: int) -> list[Any]:
    """Run the pieces of work `width` at a time and return their results in order."""
    if width == 1:
        return [piece() for piece in work]
    with ThreadPoolExecutor(width) as pool:
        return [future.result() for future in [pool.submit(piece) for piece in work]]


def quantile(values: Sequence[float], share: float) -> float:
    """Return a quantile by linear interpolation."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * share
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def summary(values: Sequence[float]) -> dict[str, float]:
    """Return median, p95 and the number of values."""
    return {
        "median": round(statistics.median(values), 3),
        "p95": round(quantile(values, 0.95), 3),
        "n": len(values),
    }


@dataclass
class Row:
    """One line of the table. `bound` is a must, `aim` a wish; `at_most` says on which side of them is good."""

    what: str
    value: float
    unit: str
    bound: float | None = None
    aim: float | None = None
    at_most: bool = True
    note: str = ""

    def verdict(self) -> str:
        """Return `aim`, `ok` or `MISSED`; empty when there is nothing to reach."""
        if self.aim is not None and self._reaches(self.aim):
            return "aim"
        if self.bound is None:
            return ""
        return "ok" if self._reaches(self.bound) else "MISSED"

    def _reaches(self, limit: float) -> bool:
        return self.value <= limit if self.at_most else self.value >= limit


@dataclass
class Report:
    """All rows of a run, with the raw figures behind them."""

    rows: list[Row] = field(default_factory=list)
    raw: dict[str, Any] = field(default_factory=dict)

    def add(self, row: Row) -> None:
        """Add a row."""
        self.rows.append(row)

    def table(self) -> str:
        """Return the rows as aligned text."""
        lines = [("WHAT", "VALUE", "MUST", "AIM", "", "NOTE")]
        for row in self.rows:
            sign = "≤" if row.at_most else "≥"
            must, aim = (f"{sign} {limit:g}" if limit is not None else "" for limit in (row.bound, row.aim))
            lines.append((row.what, f"{row.value:.4g} {row.unit}".rstrip(), must, aim, row.verdict(), row.note))
        widths = [max(len(line[column]) for line in lines) for column in range(6)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
        )

    def json(self) -> dict[str, Any]:
        """Return everything for build/bench.json."""
        return {"rows": [asdict(row) | {"verdict": row.verdict()} for row in self.rows], "raw": self.raw}
