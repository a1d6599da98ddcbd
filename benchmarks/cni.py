"""CNI ADD and DEL as whole processes: podlane against bridge and ptp with host-local, taking turns.

Each turn makes fresh namespaces (not timed), lets every contestant ADD its pods `width` at a time, then DEL them.
Between turns the order changes, so that nobody always follows the same neighbour. The whole is done in three rounds,
and the median of their ratios is quoted.
"""

import secrets
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from benchmarks.harness import Report, Row, summary, together
from benchmarks.peers import Contestant, namespaces

ROUNDS = 3
BOUNDS = {("ADD", 1): 2.5, ("ADD", 8): 2.0, ("DEL", 1): 1.5, ("DEL", 8): 1.0}


def measure(contestants: Sequence[Contestant], pods: int, width: int) -> dict[str, dict[str, dict[str, Any]]]:
    """Return {verb: {contestant: {wall, cpu}}} in milliseconds for `pods` pods each, `width` at a time."""
    wall: dict[tuple[str, str], list[float]] = {}
    cpu: dict[tuple[str, str], list[float]] = {}
    for turn in range(pods // width):
        shift = turn % len(contestants)
        for contestant in (*contestants[shift:], *contestants[:shift]):
            with namespaces(width) as names:
                ids = {name: secrets.token_hex(32) for name in names}
                for verb in ("ADD", "DEL"):
                    work: list[Callable[[], Any]] = [partial(contestant.call, verb, name, ids[name]) for name in names]
                    for ran in together(work, width):
                        wall.setdefault((verb, contestant.name), []).append(ran.wall_ms)
                        cpu.setdefault((verb, contestant.name), []).append(ran.cpu_ms)
    return {
        verb: {
            one.name: {"wall_ms": summary(wall[verb, one.name]), "cpu_ms": summary(cpu[verb, one.name])}
            for one in contestants
        }
        for verb in ("ADD", "DEL")
    }


def report(contestants: Sequence[Contestant], into: Report, pods: int = 100, wide: int = 96) -> None:
    """Measure one at a time and eight at a time and add the ratios to the report."""
    for contestant in contestants:
        with namespaces(1) as (name,):  # the first call of each fills caches and makes bridges
            container_id = secrets.token_hex(32)
            contestant.call("ADD", name, container_id)
            contestant.call("DEL", name, container_id)
    for width, count in ((1, pods), (8, wide)):
        rounds = [measure(contestants, count, width) for _ in range(ROUNDS)]
        into.raw[f"cni_{width}"] = rounds
        for verb in ("ADD", "DEL"):
            _add_rows(into, verb, width, [one[verb] for one in rounds])


def _add_rows(into: Report, verb: str, width: int, rounds: Sequence[dict[str, dict[str, Any]]]) -> None:
    """Add the median of the rounds' ratios; a ratio is of one round, because the machine changes between rounds."""

    def middle(name: str, figure: str) -> float:
        return statistics.median([float(one[name]["wall_ms"][figure]) for one in rounds])

    def ratios(name: str) -> list[float]:
        return sorted(float(one[name]["wall_ms"]["median"] / one["bridge"]["wall_ms"]["median"]) for one in rounds)

    told = ", ".join(f"{name} {middle(name, 'median'):.1f} (p95 {middle(name, 'p95'):.1f})" for name in rounds[0])
    what = f"{verb}, {width} at a time, p50 ÷ bridge"
    ours = ratios("podlane")
    spread = f"{ours[0]:.2f}–{ours[-1]:.2f} in {len(ours)} rounds"
    into.add(Row(what, statistics.median(ours), "×", BOUNDS[verb, width], 1.0, note=f"{spread}; ms: {told}"))
    into.add(Row(f"{what}, IPv4 only", statistics.median(ratios("podlane IPv4")), "×"))
