"""Which address comes next: one family of one pool. Pure; addresses are numbers, times are monotonic seconds.

    fresh ──take──▶ held ──release──▶ cooling ──cool-down passes──▶ cooled ──take──▶ held

`take` prefers the address that was released longest ago and has cooled down; then the next fresh one; and only when
neither is left the one that has cooled longest, because a peer may still believe that the old pod has it. So an
address rests as long as it can, and yet a pool that is never full stays within the addresses it has used before.

Invariants: an address is in one state only. Everything behind the cursor is held or released, or waits in `_again`
(taken fresh and given back by `undo`). Ahead of it is what was never given out, except for addresses that were claimed
by name, which the cursor steps over. It passes each address once, so `take` is O(1) amortised and a full /16 costs
what an empty one costs. The cursor is not stored: after a restart it starts over and steps over what the rows say.

Ranges come and go: one that is added is used after all others, one that is removed is forgotten with whatever is held
in it. Whether it may go is decided elsewhere (`claims.py`), by what `idle_since` and `cooling` say.

Not here: who may release what, expiry, and whether an address is usable before `claim` (see `ledger.py`).
"""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from heapq import heapify, heappop, heappush
from itertools import islice, takewhile

from services.common.model import Attachment, Network
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


class _Part:
    """One range and what is counted of it."""

    __slots__ = ("first", "idle_since", "last", "range", "reserved", "used")

    def __init__(self, one: Range, idle_since: float) -> None:
        self.range = one
        self.first, self.last = int(one.prefix.network_address), int(one.prefix.broadcast_address)
        self.idle_since = idle_since
        self.used = self.reserved = 0

    def has(self, address: int) -> bool:
        return self.first <= address <= self.last


class AddressPool:
    """The addresses of one family of one pool."""

    def __init__(self, ranges: Sequence[Range], cooldown: float) -> None:
        """Start with everything fresh. `cooldown` in seconds."""
        self._cooldown = cooldown
        self._held: dict[int, Attachment] = {}
        self._released: OrderedDict[int, float] = OrderedDict()  # by time of release
        self._again: list[int] = []
        # Popped from the end: the first range of the configuration is used first.
        self._ahead: list[Span] = []
        self._parts: list[_Part] = []
        self._sorted: list[_Part] = []
        for one in ranges:
            self.add(one, 0.0)

    def add(self, one: Range, now: float) -> None:
        """Add a range that overlaps none, all of it fresh."""
        self._ahead[:0] = reversed(one.spans)
        self._parts.append(_Part(one, now))
        self._sorted = sorted(self._parts, key=lambda part: part.first)

    def remove(self, prefix: Network) -> None:
        """Forget a range and all that is known of its addresses; unknown is fine."""
        part = next((part for part in self._parts if part.range.prefix == prefix), None)
        if part is None:
            return
        self._parts.remove(part)
        self._sorted.remove(part)
        self._ahead = [span for span in self._ahead if not part.has(span[0])]
        self._again = [address for address in self._again if not part.has(address)]
        heapify(self._again)
        for known in (self._held, self._released):
            for address in [address for address in known if part.has(address)]:
                del known[address]

    @property
    def ranges(self) -> Iterator[Range]:
        """Its ranges, in the order in which they came."""
        return (part.range for part in self._parts)

    def holder(self, address: int) -> Attachment | None:
        """Return who holds an address."""
        return self._held.get(address)

    def range_of(self, address: int) -> Range:
        """Return the range of a usable address."""
        return self._part(address).range

    def idle_since(self, prefix: Network) -> float | None:
        """Return since when nobody has held an address of a range; None: somebody does."""
        part = next(part for part in self._parts if part.range.prefix == prefix)
        return None if part.used else part.idle_since

    def surely_free(self) -> int:
        """Return how many addresses are fresh, at no cost; `free` is this and what has cooled down."""
        return sum(part.range.size - part.used for part in self._parts) - len(self._released)

    def free(self, now: float) -> int:
        """Return how many addresses can be given out without disturbing one that cools down."""
        return sum(part.range.size - part.used for part in self._parts) - sum(self.cooling(now))

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
        self._part(address).idle_since = now

    def restore_held(self, address: int, owner: Attachment) -> None:
        """Put back an allocation that was read from disk."""
        self._hold(address, owner)

    def restore_released(self, address: int, released: float) -> None:
        """Put back a release that was read from disk; they must come in the order of their times."""
        self._released[address] = released
        self._part(address).idle_since = max(self._part(address).idle_since, released)

    def used(self) -> tuple[int, ...]:
        """Return how many addresses are held, per range."""
        return tuple(part.used for part in self._parts)

    def reserved(self) -> tuple[int, ...]:
        """Return how many of the held addresses are reservations, per range."""
        return tuple(part.reserved for part in self._parts)

    def count_reserved(self, address: int, change: int) -> None:
        """Note that a held address became a reservation (1) or is none any more (-1)."""
        self._part(address).reserved += change

    def cooling(self, now: float) -> tuple[int, ...]:
        """Return how many addresses cool down, per range."""
        counts = {part.first: 0 for part in self._parts}
        for address, released in reversed(self._released.items()):
            if now - released >= self._cooldown:
                break
            counts[self._part(address).first] += 1
        return tuple(counts.values())

    def _part(self, address: int) -> _Part:
        return self._sorted[bisect_right(self._sorted, address, key=lambda part: part.first) - 1]

    def _take_released(self, owner: Attachment, oldest: tuple[int, float], origin: Origin) -> Taken:
        address, released = oldest
        del self._released[address]
        self._hold(address, owner)
        return Taken(address, origin, released)

    def _hold(self, address: int, owner: Attachment) -> None:
        self._held[address] = owner
        self._part(address).used += 1

    def _drop(self, address: int) -> None:
        del self._held[address]
        self._part(address).used -= 1

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
