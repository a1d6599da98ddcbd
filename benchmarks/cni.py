"""CNI ADD and DEL as whole processes: podlane against bridge and ptp with host-local, taking turns.

Each round makes fresh namespaces (not timed), lets every contestant ADD its pods `width` at a time, then DEL them.
Between rounds the order changes, so that nobody always follows the same neighbour.
"""

import secrets
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from benchmarks.harness import Report, Row, summary, together
from benchmarks.peers import Contestant, namespaces

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
        figures = measure(contestants, count, width)
        into.raw[f"cni_{width}"] = figures
        for verb, by_name in figures.items():
            ours = by_name["podlane"]["wall_ms"]
            told = ", ".join(
                f"{name} {one['wall_ms']['median']:.1f} (p95 {one['wall_ms']['p95']:.1f})"
                for name, one in by_name.items()
            )
            ratio = ours["median"] / by_name["bridge"]["wall_ms"]["median"]
            what = f"{verb}, {width} at a time, p50 ÷ bridge"
            into.add(Row(what, ratio, "×", BOUNDS[verb, width], 1.0, note=f"ms: {told}"))
            single = by_name["podlane IPv4"]["wall_ms"]["median"] / by_name["bridge"]["wall_ms"]["median"]
            into.add(Row(f"{what}, IPv4 only", single, "×"))
