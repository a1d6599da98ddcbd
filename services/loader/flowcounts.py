"""Who talks to whom, and how much: what entries of tracked flows have counted, by pair, protocol and port. Pure.

    entries in the kernel ──summed whenever somebody asks────────────────► rows of what is there ┐
            │ swept, or their endpoint goes                                                      ├─► rows
            └──their last counts, once──► `kept`, as long as this process ───────────────────────┘

An entry counts for itself as long as it is there, and is added to what is kept in the moment in which it is removed; so
nothing is counted twice, nothing that was derived is stored, and no state is kept for each flow. What is kept begins
anew with the process (`since`); what the kernel has counted before for flows that are still there stays in their
entries. What is lost: entries that a full map has pushed out, and what one counts between a sweep's look and its
removal, if it comes back to life then.

A row is one endpoint's view: a connection between two pods of this node is in one row of each. Its port is the
server's.
Ends outside are one peer for each identity, not for each address: whoever scans from a million addresses fills one row.
Rows that are kept are bounded: the least recently active go, and are counted.

Invariant: for rows that nobody has let go, `kept` + entries = everything that entries have ever counted.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from services.common.model import Address
from services.loader import conntrack
from services.loader.conntrack import Counts
from services.loader.model import Direction

LONGEST = 8192
"""Rows that are kept, and rows that are told."""
PRESENT = 0
"""The generation of rows of an endpoint that is there."""
UNKNOWN = (1 << 64) - 1
"""That of an endpoint without a record, whose flows were taken away."""

# Ends whose addresses nobody keeps apart: the node, the world, other nodes, and identities of prefixes.
_OUTSIDE, _OF_PREFIXES = frozenset({1, 2, 6}), 1 << 24
_WITH_PORTS = frozenset({6, 17, 132})


class RowKey(NamedTuple):
    """What rows are kept apart by.

    `direction` is that of the packets that open: EGRESS, the endpoint asks. `remote` is None of ends outside, and
    `peer_identity` 0 where policy has denied the flow since, which forgets it. `port` is 0 of protocols without.
    """

    endpoint_id: int
    generation: int
    direction: Direction
    protocol: int
    port: int
    remote: Address | None
    peer_identity: int


@dataclass(slots=True)
class Row:
    """What a row sums up. `first` and `last` are seconds of the monotonic clock: the first opening, the latest packet.

    `connections` counts entries: ends that are used again before a sweep has come count once.
    """

    counts: Counts
    connections: int
    first: float
    last: float

    def add(self, other: "Row") -> None:
        """Take another one in."""
        self.counts = self.counts.plus(other.counts)
        self.connections += other.connections
        self.first, self.last = min(self.first, other.first), max(self.last, other.last)


class Sums:
    """Rows by their keys."""

    def __init__(self) -> None:
        """Start empty."""
        self._rows: dict[RowKey, Row] = {}

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._rows)

    def __iter__(self) -> Iterator[tuple[RowKey, Row]]:
        """Iterate over keys and rows."""
        return iter(self._rows.items())

    def add(self, entries: Iterable[tuple[bytes, bytes]], now_ns: int) -> None:
        """Sum up entries: their keys and values."""
        for key, value in entries:
            flow = conntrack.decode(key, value, now_ns)
            if not flow.counts.packets:
                continue
            last = min(max(flow.last, flow.opened), now_ns / 1e9)
            asks = flow.direction is Direction.EGRESS
            port = (flow.remote_port if asks else flow.local_port) if flow.protocol in _WITH_PORTS else 0
            outside = flow.peer_identity in _OUTSIDE or flow.peer_identity >= _OF_PREFIXES
            self.put(
                RowKey(
                    flow.endpoint_id,
                    PRESENT,
                    flow.direction,
                    flow.protocol,
                    port,
                    None if outside else flow.remote,
                    flow.peer_identity,
                ),
                Row(flow.counts, 1, flow.opened, last),
            )

    def put(self, key: RowKey, row: Row) -> None:
        """Add a row to that of its key."""
        known = self._rows.get(key)
        if known is None:
            self._rows[key] = row
        else:
            known.add(row)

    def merge(self, other: "Sums") -> None:
        """Add another one's rows, which are the other's no more."""
        for key, row in other:
            self.put(key, row)

    def retire(self, endpoint_id: int, generation: int) -> None:
        """Say whose the rows of an endpoint that goes have been: its id may be given again."""
        for key in [key for key in self._rows if key.endpoint_id == endpoint_id and key.generation == PRESENT]:
            self.put(key._replace(generation=generation), self._rows.pop(key))

    def shorten(self, longest: int) -> int:
        """Let the least recently active rows beyond so many go; return how many went."""
        surplus = len(self._rows) - longest
        if surplus <= 0:
            return 0
        for key, _ in sorted(self._rows.items(), key=lambda item: item[1].last)[:surplus]:
            del self._rows[key]
        return surplus

    def copy(self) -> "Sums":
        """Return the same rows, to be added to."""
        found = Sums()
        for key, row in self:
            found._rows[key] = Row(row.counts, row.connections, row.first, row.last)
        return found


class FlowCounts:
    """What is kept of entries that are gone."""

    def __init__(self, since: float, longest: int = LONGEST) -> None:
        """Begin at `since`, seconds since the epoch."""
        self.since = since
        self.dropped_rows = 0
        self._longest = longest
        self._kept = Sums()

    def keep(self, gone: Sums) -> None:
        """Add what removed entries have counted."""
        self._kept.merge(gone)
        self._shorten()

    def retire(self, endpoint_id: int, generation: int) -> None:
        """An endpoint has gone, and its entries with it; they were kept before. Generation 0: nobody knows which."""
        self._kept.retire(endpoint_id, generation or UNKNOWN)

    def with_present(self, present: Sums) -> tuple[Sums, int]:
        """Return everything, given what entries count now, and how many rows are left out of it."""
        found = self._kept.copy()
        found.merge(present)
        return found, found.shorten(self._longest)

    def _shorten(self) -> None:
        self.dropped_rows += self._kept.shorten(self._longest)
