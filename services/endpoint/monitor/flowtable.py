"""Who talks to whom: rows of traffic, joined from both ends' views, with what was dropped. Pure.

Allowed traffic is what flows have counted, one row for each end's view of it. A connection between two endpoints of
this node is counted by both, and the row of the one who is asked is taken: what the other has sent may have been denied
there. Where that one counts nothing, because the option is off, or is on another node, the row of the one who asks is
all that is known.

Dropped traffic is counted here, drop by drop, as far as drops are told of. Of a flood they are told in part: `not_told`
is how many are in no row. Rows are bounded, the least recently active go and are counted.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from services.common.model import Address
from services.endpoint.monitor.filters import Facts, Kind, Party, Verdict
from services.endpoint.policy.entry import Direction

LONGEST = 8192
"""Rows of drops that are kept."""


@dataclass(frozen=True, slots=True)
class End:
    """Who it is: an endpoint (`generation` tells it from others that have had the id), or an identity elsewhere.

    `addresses` are none of an identity outside; `name` is what people call it.
    """

    name: str
    endpoint_id: int = 0
    generation: int = 0
    namespace: str = ""
    pod: str = ""
    identity: int = 0
    labels: tuple[tuple[str, str], ...] = ()
    addresses: tuple[Address, ...] = ()

    @property
    def key(self) -> tuple[object, ...]:
        """What it is known by: an endpoint whatever address it is seen with."""
        return (self.endpoint_id, self.generation) if self.endpoint_id else (self.name, self.identity)

    @property
    def party(self) -> Party:
        """What filters look at."""
        return Party(self.endpoint_id, self.addresses, self.namespace, self.pod, dict(self.labels), self.identity)


class Traffic(NamedTuple):
    """Packets and bytes."""

    packets: int = 0
    bytes: int = 0

    def plus(self, other: "Traffic") -> "Traffic":
        """Return the sums."""
        return Traffic(self.packets + other.packets, self.bytes + other.bytes)


@dataclass(frozen=True, slots=True)
class Row:
    """Traffic from one end to another by one protocol to one port: `there`, and `back` from it.

    `seen_at` is INGRESS when the one who is asked has counted it. `first` and `last` are seconds since the epoch.
    """

    source: End
    destination: End
    protocol: int
    port: int
    verdict: Verdict
    there: Traffic
    back: Traffic
    first: float
    last: float
    reason: str = ""
    connections: int = 0
    seen_at: Direction = Direction.EGRESS

    @property
    def key(self) -> tuple[object, ...]:
        """What rows are kept apart by."""
        return self.source.key, self.destination.key, self.protocol, self.port, self.verdict, self.reason

    @property
    def facts(self) -> Facts:
        """What filters look at."""
        return Facts(
            kind=Kind.CONNECTION if self.verdict is Verdict.ALLOWED else Kind.DROP,
            source=self.source.party,
            destination=self.destination.party,
            ports=(self.port,) if self.port else (),
            protocol=self.protocol,
            reason=self.reason,
            verdict=self.verdict,
        )

    @property
    def both(self) -> Traffic:
        """Both ways."""
        return self.there.plus(self.back)

    @property
    def drops(self) -> int:
        """Packets that didn't pass."""
        return 0 if self.verdict is Verdict.ALLOWED else self.there.packets

    def plus(self, other: "Row") -> "Row":
        """Return both together; names are the later one's."""
        newer = max(self, other, key=lambda row: row.last)
        return replace(
            newer,
            there=self.there.plus(other.there),
            back=self.back.plus(other.back),
            first=min(self.first, other.first),
            connections=self.connections + other.connections,
        )


def join(rows: Iterable[Row], silent: Collection[int] = ()) -> list[Row]:
    """Return one row for each key: of two ends' views the one of who is asked. `silent` endpoints count nothing."""
    views: dict[tuple[object, ...], dict[Direction, Row]] = {}
    for row in rows:
        seen = views.setdefault(row.key, {})
        known = seen.get(row.seen_at)
        seen[row.seen_at] = row if known is None else known.plus(row)
    best = (seen.get(Direction.INGRESS) or seen[Direction.EGRESS] for seen in views.values())
    return [row for row in best if not _was_denied_there(row, silent)]


def _was_denied_there(row: Row, silent: Collection[int]) -> bool:
    """Return whether nothing of what was sent has arrived: the one who is asked would have counted it."""
    there = row.destination.endpoint_id
    sent = row.verdict is Verdict.ALLOWED and row.seen_at is Direction.EGRESS
    return sent and there != 0 and there not in silent


@dataclass(frozen=True, slots=True)
class Pair:
    """All traffic from one end to another."""

    source: End
    destination: End
    allowed: Traffic
    drops: int
    last: float


def pairs(rows: Iterable[Row]) -> list[Pair]:
    """Return rows by pair, in the order in which pairs appear."""
    found: dict[tuple[object, ...], Pair] = {}
    for row in rows:
        key = row.source.key, row.destination.key
        allowed = row.both if row.verdict is Verdict.ALLOWED else Traffic()
        before = found.get(key)
        if before is None:
            found[key] = Pair(row.source, row.destination, allowed, row.drops, row.last)
        else:
            found[key] = replace(
                before,
                allowed=before.allowed.plus(allowed),
                drops=before.drops + row.drops,
                last=max(before.last, row.last),
            )
    return list(found.values())


@dataclass
class Drops:
    """What was dropped since `since`, seconds since the epoch."""

    since: float
    longest: int = LONGEST
    not_told: int = 0
    forgotten: int = 0
    _rows: "OrderedDict[tuple[object, ...], Row]" = field(default_factory=OrderedDict)

    def add(self, row: Row) -> None:
        """Count a drop, which is a row of one packet."""
        known = self._rows.pop(row.key, None)
        self._rows[row.key] = row if known is None else known.plus(row)
        while len(self._rows) > self.longest:
            self._rows.popitem(last=False)
            self.forgotten += 1

    def rows(self) -> list[Row]:
        """Return all rows."""
        return list(self._rows.values())
