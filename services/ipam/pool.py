"""Which address comes next: one family of one pool. Pure; addresses are numbers, times are monotonic seconds.

    fresh ──take──▶ held ──release──▶ cooling ──cool-down passes──▶ cooled ──take──▶ held

`take` prefers the address that was released longest ago and has cooled down; then the next fresh one; and only when
neither is left the one that has cooled longest, because a peer may still believe that the old pod has it. So an
address rests as long as it can, and yet a pool that is never full stays within the addresses it has used before.

Invariants: an address is in one state only. Everything behind the cursor is held or released, or waits in `_again`
(taken fresh and given back by `undo`). Ahead of it is what was never given out, except for addresses that were claimed
by name, which the cursor steps over. It passes each address once, so `take` is O(1) amortised and a full /16 costs
what an empty one costs. The cursor is not stored: after a restart it starts over and steps over what the rows say.

Not here: who may release what, expiry, and whether an address is usable before `claim` (see `ledger.py`).
"""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from heapq import heappop, heappush
from itertools import islice, takewhile

from services.common.model import Attachment
from services.ipam.ranges import Range, Span


class Origin(StrEnum):
    """The state that an address was taken from."""

    FRESH = "fresh"
    COOLED = "cooled"
    COOLING = "cooling"


@dataclass(frozen=True, slots=True)
class Taken:
    """An address that was just taken, with what `undo` needs; `released` only when it wasn't fresh."""

    address: int
    origin: Origin
    released: float = 0.0


class AddressPool:
    """The addresses of one family of one pool."""

    def __init__(self, ranges: Sequence[Range], cooldown: float) -> None:
        """Start with everything fresh. `cooldown` in seconds."""
        self._cooldown = cooldown
        self._held: dict[int, Attachment] = {}
        self._released: OrderedDict[int, float] = OrderedDict()  # by time of release
        self._again: list[int] = []
        # Popped from the end: the first range of the configuration is used first.
        self._ahead: list[Span] = [span for one in reversed(ranges) for span in reversed(one.spans)]
        order = sorted(range(len(ranges)), key=lambda index: int(ranges[index].prefix.network_address))
        self._starts = [int(ranges[index].prefix.network_address) for index in order]
        self._index_of_start = order
        self._used = [0] * len(ranges)
        self._reserved = [0] * len(ranges)

    def holder(self, address: int) -> Attachment | None:
        """Return who holds an address."""
        return self._held.get(address)

    def range_of(self, address: int) -> int:
        """Return the index of the range of a usable address, in the order of the configuration."""
        return self._index_of_start[bisect_right(self._starts, address) - 1]

    def take(self, owner: Attachment, now: float) -> Taken | None:
        """Give the next address to `owner`; None when none is left."""
        oldest = next(iter(self._released.items()), None)
        if oldest is not None and now - oldest[1] >= self._cooldown:
            return self._take_released(owner, oldest, Origin.COOLED)
        fresh = self._next_fresh()
        if fresh is not None:
            self._hold(fresh, owner)
            return Taken(fresh, Origin.FRESH)
        if oldest is not None:
            return self._take_released(owner, oldest, Origin.COOLING)
        return None

    def claim(self, address: int, owner: Attachment, now: float) -> Taken:
        """Give `owner` a usable address that nobody holds, wherever it is and however recently it was released."""
        released = self._released.pop(address, None)
        self._hold(address, owner)
        if released is None:
            return Taken(address, Origin.FRESH)
        origin = Origin.COOLED if now - released >= self._cooldown else Origin.COOLING
        return Taken(address, origin, released)

    def undo(self, taken: Taken) -> None:
        """Put an address back to where it was before it was taken: its commit failed."""
        self._drop(taken.address)
        if taken.origin is Origin.FRESH:
            heappush(self._again, taken.address)
            return
        self._released[taken.address] = taken.released
        self._released.move_to_end(taken.address, last=False)
        # Only others that were undone just before can be older: the walk is as long as they are many.
        rest = islice(self._released.items(), 1, None)
        older = [address for address, _ in takewhile(lambda item: item[1] < taken.released, rest)]
        for address in reversed(older):
            self._released.move_to_end(address, last=False)

    def release(self, address: int, now: float) -> None:
        """Let a held address cool down from `now`, which must not be earlier than any release before it."""
        self._drop(address)
        self._released[address] = now

    def restore_held(self, address: int, owner: Attachment) -> None:
        """Put back an allocation that was read from disk."""
        self._hold(address, owner)

    def restore_released(self, address: int, released: float) -> None:
        """Put back a release that was read from disk; they must come in the order of their times."""
        self._released[address] = released

    def used(self) -> tuple[int, ...]:
        """Return how many addresses are held, per range."""
        return tuple(self._used)

    def reserved(self) -> tuple[int, ...]:
        """Return how many of the held addresses are reservations, per range."""
        return tuple(self._reserved)

    def count_reserved(self, address: int, change: int) -> None:
        """Note that a held address became a reservation (1) or is none any more (-1)."""
        self._reserved[self.range_of(address)] += change

    def cooling(self, now: float) -> tuple[int, ...]:
        """Return how many addresses cool down, per range."""
        counts = [0] * len(self._used)
        for address, released in reversed(self._released.items()):
            if now - released >= self._cooldown:
                break
            counts[self.range_of(address)] += 1
        return tuple(counts)

    def _take_released(self, owner: Attachment, oldest: tuple[int, float], origin: Origin) -> Taken:
        address, released = oldest
        del self._released[address]
        self._hold(address, owner)
        return Taken(address, origin, released)

    def _hold(self, address: int, owner: Attachment) -> None:
        self._held[address] = owner
        self._used[self.range_of(address)] += 1

    def _drop(self, address: int) -> None:
        del self._held[address]
        self._used[self.range_of(address)] -= 1

    def _next_fresh(self) -> int | None:
        """Return the next address that was never given out, and move past it."""
        while self._again:
            address = heappop(self._again)
            # The cursor or a claim may have come by since.
            if not self._touched(address):
                return address
        while self._ahead:
            first, last = self._ahead.pop()
            if first < last:
                self._ahead.append((first + 1, last))
            if not self._touched(first):
                return first
        return None

    def _touched(self, address: int) -> bool:
        return address in self._held or address in self._released
