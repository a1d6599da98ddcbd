"""Which id and generation the next endpoint gets. Pure.

Ids are handed out in a circle, 1 to 65535 and around again, as the kernel does with pids: the id that comes next is
the one whose last use is longest ago, and a freed one comes back only after all others had their turn. Anything that
still remembers an old endpoint by its number (a map slot, a log line, a person) thus has the longest time to forget.

The generation counts endpoints, over the whole node and all restarts. So it grows with each reuse of an id, and a
pair (id, generation) never names two endpoints, even when the id does.
"""

from collections.abc import Iterable

from services.common.errors import Exhausted

LARGEST = 65535
"""Slots of the policy PROG_ARRAY less one: 0 is no endpoint."""


class Ids:
    """The ids of a node. `last` and `generation` are those of the newest endpoint that ever was, 0: none."""

    def __init__(self, last: int = 0, generation: int = 0, largest: int = LARGEST) -> None:
        """Go on where the record says that the last run stopped."""
        self._last, self._generation, self._largest = last, generation, largest
        self._used: set[int] = set()
        self._avoided: set[int] = set()

    def observe(self, id_: int, generation: int) -> None:
        """Take note of an endpoint that exists."""
        self._used.add(id_)
        self._generation = max(self._generation, generation)

    def avoid(self, kernel: Iterable[tuple[int, int]]) -> None:
        """Take note of the ids and generations that the kernel has; this replaces what was noted before.

        Some may have no record, after a database was lost: their pods still run, and keep their ids to themselves.
        """
        pairs = tuple(kernel)
        self._avoided = {id_ for id_, _ in pairs}
        self._generation = max((self._generation, *(generation for _, generation in pairs)))

    def take(self) -> tuple[int, int]:
        """Return the next id and generation. Raises Exhausted."""
        taken = self._used | self._avoided
        if len(taken) >= self._largest:
            raise Exhausted(f"all {self._largest} endpoint ids of this node are in use: delete pods", used=len(taken))
        candidate = self._last % self._largest + 1
        while candidate in taken:
            candidate = candidate % self._largest + 1
        self._used.add(candidate)
        self._last = candidate
        self._generation += 1
        return candidate, self._generation

    def free(self, id_: int) -> None:
        """Give an id back; one that isn't in use changes nothing."""
        self._used.discard(id_)
