"""The last events, in a ring: the oldest go, and are counted. Pure."""

from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Generic, TypeVar

T = TypeVar("T")


class History(Generic[T]):
    """At most `longest` events; 0: none is kept."""

    def __init__(self, longest: int) -> None:
        """Begin empty."""
        self._events: deque[T] = deque(maxlen=longest)
        self.added = 0

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._events)

    @property
    def gone(self) -> int:
        """How many there were that are not here any more."""
        return self.added - len(self._events)

    def add(self, event: T) -> None:
        """Add the newest."""
        self._events.append(event)
        self.added += 1

    def last(self, count: int, fits: Callable[[T], bool]) -> list[T]:
        """Return the newest `count` of those that fit, oldest first."""
        found = list(islice(filter(fits, reversed(self._events)), count))
        return found[::-1]
