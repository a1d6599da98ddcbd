"""What the kernel says of podlane's own drops, and what podlane says of the same ones, made one. Pure.

The kernel's word for such a drop is that a tc program dropped it; podlane's event says why. Either may be told first,
and either may never be: both are lost to floods, and a drop that nobody is told of (`drop-notify` off) has no event. So
each waits for the other for a while and is told alone then.

Two belong together when they are about the same packet by addresses, protocol and ports, the oldest first. What podlane
drops before it has read addresses is matched by the endpoint at whose interface it was.
"""

from collections import deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field

from cli.tracer.seen import Seen, joined

WAIT = 1.0
"""Seconds. The loader reads its ring every tenth of a second when it is busy."""


@dataclass
class Pairs:
    """Drops that wait for their other half."""

    _kernel: dict[Hashable, deque[tuple[float, Seen]]] = field(default_factory=dict)
    _podlane: dict[Hashable, deque[tuple[float, Seen]]] = field(default_factory=dict)

    def kernel(self, drop: Seen, now: float) -> Seen | None:
        """Take a drop by a tc program; return it joined, or None: it waits."""
        for key in _keys(drop):
            if (other := _take(self._podlane, key)) is not None:
                return joined(drop, other)
        _wait(self._kernel, _keys(drop)[0], drop, now)
        return None

    def podlane(self, drop: Seen, now: float) -> Seen | None:
        """Take a drop that podlane tells of; likewise."""
        other = _take(self._kernel, drop.ends) if drop.ends else self._at_interface(drop.endpoint)
        if other is not None:
            return joined(other, drop)
        _wait(self._podlane, drop.ends or ("at", drop.endpoint), drop, now)
        return None

    def _at_interface(self, endpoint: int) -> Seen | None:
        if ("at", endpoint) in self._kernel:
            return _take(self._kernel, ("at", endpoint))
        for key, waiting in self._kernel.items():
            if waiting[0][1].endpoint == endpoint:
                return _take(self._kernel, key)
        return None

    def expired(self, now: float) -> Iterator[Seen]:
        """Return and forget those that have waited for long enough."""
        for side in (self._kernel, self._podlane):
            for key in [key for key, waiting in side.items() if waiting[0][0] + WAIT <= now]:
                while key in side and side[key][0][0] + WAIT <= now:
                    if (one := _take(side, key)) is not None:
                        yield one

    def rest(self) -> Iterator[Seen]:
        """Return and forget all that wait."""
        return self.expired(float("inf"))


def _keys(drop: Seen) -> tuple[Hashable, ...]:
    at = ("at", drop.endpoint)
    return (drop.ends, at) if drop.ends else (at,)


def _wait(side: dict[Hashable, deque[tuple[float, Seen]]], key: Hashable, drop: Seen, now: float) -> None:
    side.setdefault(key, deque()).append((now, drop))


def _take(side: dict[Hashable, deque[tuple[float, Seen]]], key: Hashable) -> Seen | None:
    waiting = side.get(key)
    if not waiting:
        return None
    _, drop = waiting.popleft()
    if not waiting:
        del side[key]
    return drop
