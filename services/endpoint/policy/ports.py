"""Which ports of which protocols: ranges, and the prefixes of 16 bits that they become in a map. Pure.

A longest-prefix-match map knows no ranges, but a range is a few prefixes: 8000-8080 is 8000/10 + 8064/12 + 8080/16,
and no range takes more than 30. A `Ports` value is *normalised*: its ranges are sorted, disjoint and not adjacent, so
that two that mean the same are equal, and the cover by prefixes is the smallest there is. Values are interned,
because a node has thousands of rules and a handful of port sets.

Port 0 is no port that NetworkPolicy can name. So a range of all ports that it can name, 1-65535, is every port of the
protocol: one prefix instead of 16, and it covers later fragments, which have no port, as `protocol` alone does.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from services.endpoint.policy.entry import ANY_PROTOCOL, port_words

LARGEST = 65535


class PortRange(NamedTuple):
    """Ports `first` to `last` of a protocol, both included. ANY_PROTOCOL stands for all, and has all ports."""

    protocol: int
    first: int = 0
    last: int = LARGEST

    def __str__(self) -> str:
        """Return it in words."""
        return port_words(*self)


class PortPrefix(NamedTuple):
    """The ports whose first `length` bits are those of `port`; the last three numbers of a map's key."""

    protocol: int
    port: int
    length: int

    @property
    def last(self) -> int:
        """The largest port of the prefix."""
        return self.port + (1 << (16 - self.length)) - 1


@dataclass(frozen=True, slots=True)
class Ports:
    """A normalised set of ports. Make one with `of`."""

    ranges: tuple[PortRange, ...]
    prefixes: tuple[PortPrefix, ...] = field(compare=False)

    @staticmethod
    def of(ranges: Iterable[PortRange]) -> "Ports":
        """Return the set of all ports that are in one of the ranges."""
        return _interned(frozenset(ranges))

    @staticmethod
    def union(sets: Iterable["Ports"]) -> "Ports":
        """Return the set of all ports that are in one of the sets."""
        return _interned(frozenset(one for ports in sets for one in ports.ranges))

    def __bool__(self) -> bool:
        """Return whether there is a port in it."""
        return bool(self.ranges)

    def __str__(self) -> str:
        """Return it in words."""
        return ", ".join(map(str, self.ranges)) or "no port"

    def matches(self, protocol: int, port: int | None) -> bool:
        """Return whether a packet's protocol and port are in it; None: the packet has no port."""
        return any(
            one.protocol == ANY_PROTOCOL
            or (
                one.protocol == protocol
                and (one.first <= port <= one.last if port is not None else one == PortRange(protocol))
            )
            for one in self.ranges
        )

    def overlaps(self, prefix: PortPrefix) -> bool:
        """Return whether a port of the prefix is in it."""
        return any(
            one.protocol == ANY_PROTOCOL
            or (one.protocol == prefix.protocol and one.first <= prefix.last and prefix.port <= one.last)
            for one in self.ranges
        )

    def covers(self, prefix: PortPrefix) -> bool:
        """Return whether all ports of the prefix are in it."""
        return any(
            one.protocol == ANY_PROTOCOL
            or (one.protocol == prefix.protocol and one.first <= prefix.port and prefix.last <= one.last)
            for one in self.ranges
        )


def prefixes_beyond(ports: Ports, others: Ports) -> tuple[PortPrefix, ...]:
    """Return the prefixes of `ports` that `others` does not cover."""
    return tuple(one for one in ports.prefixes if not others.covers(one)) if others else ports.prefixes


@lru_cache(maxsize=1 << 14)
def _interned(ranges: frozenset[PortRange]) -> Ports:
    normal = tuple(_normalise(ranges))
    return Ports(normal, tuple(prefix for one in normal for prefix in _cover(one)))


def _normalise(ranges: Iterable[PortRange]) -> Iterator[PortRange]:
    """Merge what overlaps or touches; drop what any-protocol covers."""
    current: PortRange | None = None
    for one in sorted(_widened(one) for one in ranges):
        if one.protocol == ANY_PROTOCOL:
            yield PortRange(ANY_PROTOCOL)
            return
        if current is not None and current.protocol == one.protocol and one.first <= current.last + 1:
            current = _widened(PortRange(one.protocol, current.first, max(current.last, one.last)))
            continue
        if current is not None:
            yield current
        current = one
    if current is not None:
        yield current


def _widened(one: PortRange) -> PortRange:
    return PortRange(one.protocol) if one[1:] == (1, LARGEST) else one


def _cover(one: PortRange) -> Iterator[PortPrefix]:
    """Take the largest aligned block that fits at the beginning of what is left."""
    first = one.first
    while first <= one.last:
        size = first & -first or LARGEST + 1
        while first + size - 1 > one.last:
            size >>= 1
        yield PortPrefix(one.protocol, first, 17 - size.bit_length())
        first += size


NO_PORTS = Ports.of(())
ALL_PORTS = Ports.of((PortRange(ANY_PROTOCOL),))
"""Every protocol, those without ports too."""
