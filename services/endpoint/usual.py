"""What creations usually take on this node, phase by phase. Pure.

Of each phase the last REMEMBERED durations are kept, four bytes each, and judged when somebody asks: that is seldom,
and a creation pays for an append. Nothing of it is on disk: after a start it is learned from the creations that the
endpoints themselves have kept.
"""

from array import array
from collections.abc import Mapping
from dataclasses import dataclass

from services.endpoint.timeline import PHASES, Timeline

REMEMBERED = 512
TOTAL = "total"
_WAITING = 64
_NAMES = (TOTAL, *PHASES)
# More than an hour; nobody waits that long, and it must fit.
_LARGEST = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Usual:
    """What a phase takes, in microseconds, of `count` creations that had it."""

    name: str
    count: int
    median_us: int
    p99_us: int


class Memory:
    """The last creations."""

    def __init__(self) -> None:
        """Begin with none."""
        self._durations: dict[str, array[int]] = {}
        self._waiting: list[Timeline] = []

    def learn(self, timeline: Timeline) -> None:
        """Take in a creation; its `publish` may come later, by `learn_phase`."""
        self._waiting.append(timeline)
        if len(self._waiting) >= _WAITING:
            self._settle()

    def learn_phase(self, name: str, duration_us: int) -> None:
        """Take in one phase."""
        durations = self._durations.setdefault(name, array("I"))
        durations.append(min(duration_us, _LARGEST))
        # A slice now and then is cheaper than moving all of them each time.
        if len(durations) >= 2 * REMEMBERED:
            del durations[:-REMEMBERED]

    def usual(self) -> list[Usual]:
        """Return what is known, in the order of PHASES, `total` first."""
        self._settle()
        return [_judged(name, self._durations[name][-REMEMBERED:]) for name in _NAMES if name in self._durations]

    def _settle(self) -> None:
        waiting, self._waiting = self._waiting, []
        for timeline in waiting:
            self.learn_phase(TOTAL, timeline.total_us)
            for name, duration in timeline.durations().items():
                self.learn_phase(name, duration)


def _judged(name: str, durations: "array[int]") -> Usual:
    ordered = sorted(durations)
    count = len(ordered)
    return Usual(name, count, ordered[count // 2], ordered[min(count - 1, count * 99 // 100)])


def slowest(timelines: Mapping[int, Timeline], limit: int) -> list[int]:
    """Return the keys of the slowest creations, the slowest first."""
    return sorted(timelines, key=lambda key: (-timelines[key].total_us, key))[:limit]
