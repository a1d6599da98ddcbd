"""CNI ADD and DEL as whole processes: podlane against bridge and ptp with host-local, taking turns.

Each turn makes fresh namespaces (not timed), lets every contestant ADD its pods `width` at a time, then DEL them.
Between turns the order changes, so that nobody always follows the same neighbour. The whole is done in three rounds,
and the median of their ratios is quoted.
"""

import secrets
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from benchmarks.harness import Ran, Report, Row, spent_ms, summary, together
from benchmarks.peers import Contestant, namespaces

ROUNDS = 3
VERBS = ("ADD", "DEL")
BOUNDS = {("ADD", 1): 2.5, ("ADD", 8): 2.0, ("DEL", 1): 1.5, ("DEL", 8): 1.0}


def measure(contestants: Sequence[Contestant], pods: int, width: int) -> dict[str, dict[str, dict[str, Any]]]:
    """Return {verb: {contestant: {wall_ms, cpu_ms}}} for `pods` pods each, `width` at a time.

    `cpu_ms` is {process: milliseconds per pod}: the plugin with its children, and the services behind it.
    """
    figures = {verb: {one.name: Figures() for one in contestants} for verb in VERBS}
    for turn in range(pods // width):
        shift = turn % len(contestants)
        for contestant in (*contestants[shift:], *contestants[:shift]):
            with namespaces(width) as names:
                ids = {name: secrets.token_hex(32) for name in names}
                for verb in VERBS:
                    work: list[Callable[[], Ran]] = [partial(contestant.call, verb, name, ids[name]) for name in names]
                    before = {service: spent_ms(pid) for service, pid in contestant.services.items()}
                    ran = together(work, width)
                    spent = {name: spent_ms(pid) - before[name] for name, pid in contestant.services.items()}
                    figures[verb][contestant.name].take(ran, spent)
    return {verb: {name: one.json() for name, one in found.items()} for verb, found in figures.items()}


@dataclass
class Figures:
    """What the calls of one contestant took."""

    wall: list[float] = field(default_factory=list)
    cpu: Counter[str] = field(default_factory=Counter)

    def take(self, ran: Sequence[Ran], spent: Mapping[str, float]) -> None:
        """Add calls, and what services spent on them."""
        self.wall += [one.wall_ms for one in ran]
        self.cpu.update({"plugin": sum(one.cpu_ms for one in ran), **spent})

    def json(self) -> dict[str, Any]:
        """Return the figures of one call."""
        per_call = {process: round(spent / len(self.wall), 3) for process, spent in self.cpu.items()}
        return {"wall_ms": summary(self.wall), "cpu_ms": per_call}


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
        for verb in VERBS:
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
    into.add(_cpu_row(verb, width, rounds))


def _cpu_row(verb: str, width: int, rounds: Sequence[dict[str, dict[str, Any]]]) -> Row:
    """Return what a call costs in CPU, process by process: what decides when both CPUs are busy."""

    def of(name: str) -> dict[str, float]:
        spent = [one[name]["cpu_ms"] for one in rounds]
        return {process: statistics.median([float(one[process]) for one in spent]) for process in spent[0]}

    ours = of("podlane")
    told = ", ".join(f"{process} {spent:.1f}" for process, spent in ours.items())
    peers = ", ".join(f"{name} {sum(of(name).values()):.1f}" for name in rounds[0] if not name.startswith("podlane"))
    return Row(f"{verb}, {width} at a time, CPU", sum(ours.values()), "ms", note=f"{told}; {peers}")
