"""The line of those who want to be created: who works, who waits, and how long that will take. Pure.

    join ──▶ waiting ──▶ working ──▶ left
       └──────────────────▲  │
                  withdraw └─┴──▶ left

First come, first served; at most `width` work at a time. Whoever leaves, from wherever, makes room at once.

What a creation costs is learned from the last ones that succeeded. The estimate is by their median: one that had to
wait for clang, or for a loader that was started again, must not count for all who wait behind it. Until a few have been
seen nothing is known, and nothing is estimated: a guess would be wrong on every other machine. A burst teaches it
within its first creations, so it isn't kept on disk.

Who is refused because its turn would come too late must be right about that, or pods are turned away that would have
started. The first creations of a burst cost ten times what the next ones do, while as many interpreters start beside
them (measured: 0.6 s and 0.05 s). So that is judged by the fastest one that is remembered, and only of a full memory.

Not here: clocks, waiting, and what a creation is (`admission.py`, `flow.py`).
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

REMEMBERED = 16
"""Creations whose cost is remembered."""
ENOUGH = 4
"""Creations that have to be seen before anything is said about the next."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where somebody stands: the next one is at 1. `seconds` until it is done; None: not known yet."""

    position: int
    waiting: int
    seconds: float | None


class Line:
    """Who works and who waits, by a key of the caller's."""

    def __init__(self, width: int) -> None:
        """Begin empty; `width`, at least 1, is how many work at a time."""
        self.width = width
        self._waiting: dict[int, None] = {}
        self._working: set[int] = set()
        self._costs: deque[float] = deque(maxlen=REMEMBERED)

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    @property
    def working(self) -> int:
        """How many work."""
        return len(self._working)

    @property
    def cost(self) -> float | None:
        """Seconds that a creation takes once its turn has come; None: not known yet."""
        if len(self._costs) < ENOUGH:
            return None
        return sorted(self._costs)[len(self._costs) // 2]

    def learn(self, seconds: float) -> None:
        """Remember what a creation has cost that succeeded."""
        self._costs.append(seconds)

    def join(self, key: int) -> bool:
        """Stand at the end; return whether it is `key`'s turn already. Nobody passes those who wait."""
        if len(self._working) < self.width:
            self._working.add(key)
            return True
        self._waiting[key] = None
        return False

    def leave(self, key: int) -> int | None:
        """Go, having worked or not; return whose turn that makes it. A key that isn't there is fine."""
        self._waiting.pop(key, None)
        self._working.discard(key)
        if not self._waiting or len(self._working) >= self.width:
            return None
        following = next(iter(self._waiting))
        del self._waiting[following]
        self._working.add(following)
        return following

    def soonest(self, position: int) -> float | None:
        """Return the seconds until who stands there is done if all go as fast as the fastest did; None: not known."""
        if len(self._costs) < REMEMBERED:
            return None
        return self._until(position, min(self._costs))

    def estimate(self, position: int) -> float | None:
        """Return the seconds until who stands at a position is done, as things are; None: not known yet."""
        cost = self.cost
        return None if cost is None else self._until(position, cost)

    def _until(self, position: int, cost: float) -> float:
        # `width` at a time go before it, then itself.
        return cost * (position / self.width + 1)

    def places(self) -> Mapping[int, Place]:
        """Return where everybody stands who waits."""
        waiting = len(self._waiting)
        return {key: Place(at, waiting, self.estimate(at)) for at, key in enumerate(self._waiting, 1)}
