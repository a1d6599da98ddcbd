"""Two hundred ADDs at the same moment: podlane against bridge with host-local, taking turns in each of three rounds.

All processes wait behind one gate (tests/storm_support.py). What counts is the time from the gate's opening to the end
of the last ADD, and to the end of the middle one: where everybody is served at the same time, they are nearly the same.
"""

import secrets
import statistics
from collections.abc import Sequence

from benchmarks.harness import Report, Row, quantile, spent_ms
from benchmarks.peers import Contestant, namespaces
from tests.storm_support import Storm

ROUNDS = 3


def burst(contestant: Contestant, count: int) -> dict[str, float]:
    """Return when the middle and the last of `count` ADDs ended, in milliseconds, and the services' CPU for one."""
    with namespaces(count) as names:
        ids = [secrets.token_hex(32) for _ in names]
        times = {}
        for verb in ("ADD", "DEL"):
            commands = [contestant.command(verb, name, id_) for name, id_ in zip(names, ids, strict=True)]
            binary, _, stdin = commands[0]
            storm = Storm([binary], [environment for _, environment, _ in commands], stdin)
            before = sum(map(spent_ms, contestant.services.values()))
            storm.go()
            ended = storm.wait()
            spent = sum(map(spent_ms, contestant.services.values())) - before
            failed = [one.outcome for one in ended if one.outcome.code]
            if failed:
                raise RuntimeError(f"{contestant.name} {verb}: {len(failed)} of {count} failed: {failed[0]}")
            if verb == "ADD":
                ms = [one.ms for one in ended]
                times = {"middle_ms": quantile(ms, 0.5), "last_ms": max(ms), "services_cpu_ms": spent / count}
    return times


def report(contestants: Sequence[Contestant], into: Report, count: int) -> None:
    """Add when the last and the middle one are done, as ratios to bridge; the first contestant is podlane."""
    rounds = []
    for turn in range(ROUNDS):
        order = contestants if turn % 2 == 0 else tuple(reversed(contestants))
        rounds.append({one.name: burst(one, count) for one in order})
    into.raw["storm"] = rounds
    for what, figure in (("the last", "last_ms"), ("the middle one", "middle_ms")):
        ratios = sorted(one["podlane"][figure] / one["bridge"][figure] for one in rounds)
        seconds = {name: statistics.median(one[name][figure] for one in rounds) / 1e3 for name in rounds[0]}
        told = ", ".join(f"{name} {value:.2f}" for name, value in seconds.items())
        note = f"{ratios[0]:.2f}–{ratios[-1]:.2f} in {ROUNDS} rounds; s: {told}"
        into.add(Row(f"{count} ADDs at once, {what} ÷ bridge", statistics.median(ratios), "×", note=note))
