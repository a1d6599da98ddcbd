"""The map of tracked flows (`podlane_conntrack`): shown, swept, and cleared of an endpoint that goes.

It may hold a hundred thousand entries, so all of these go through it in pieces and are for a thread beside the loop:
the kernel copies a piece without the GIL, and looking at one takes it for a tenth of a millisecond.

Nothing in the datapath depends on a sweep: dead entries are taken for none, and when the map is full the kernel pushes
out whichever was not used for longest. A sweep keeps dead flows from pushing out idle ones.

Removing looks first and deletes then. A flow that was dead at the look and is opened again before the deletion loses
its new entry with it: its next packet in the opener's direction makes another. What entries have counted is summed up
at the look (flowcounts.py).
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from services.common.model import Address
from services.loader import conntrack, libbpf
from services.loader.conntrack import Flow
from services.loader.flowcounts import Sums
from services.loader.maps import CONNTRACK, BpfMap

End = tuple[Address, int]
"""An address and a port."""


@dataclass(frozen=True, slots=True)
class Swept:
    """What a pass has met: how many entries, how many of them it removed, and whose the others were.

    Of those that it removed: what they had counted, and connections that listeners had heard of and not of their end.
    """

    entries: int
    removed: int
    owners: frozenset[int]
    counts: Sums
    ended: tuple[Flow, ...]


class Flows(BpfMap):
    """The flows of all endpoints that track connections."""

    name = CONNTRACK

    def dump(self, endpoint_id: int = 0) -> list[Flow]:
        """Return the live flows of one endpoint, or with 0 of all."""
        now = time.monotonic_ns()
        found = []
        for keys, values in self._chunks():
            for index, owner in enumerate(conntrack.owners(keys)):
                if endpoint_id in {0, owner}:
                    flow = conntrack.read(_key(keys, index), _value(values, index), now)
                    found += [flow] if flow is not None else []
        return found

    def between(self, one: End, other: End, protocol: int) -> set[bytes]:
        """Return the keys of the flows between two ends, whichever has opened them, whichever endpoint they are of."""
        found = set()
        for keys, values in self._chunks():
            if one[0].packed not in keys:
                continue
            for index in range(len(keys) // conntrack.KEY.size):
                flow = conntrack.read(_key(keys, index), _value(values, index), 0)
                if flow is not None and flow.protocol == protocol and _ends(flow) == {one, other}:
                    found.add(_key(keys, index))
        return found

    def remove(self, keys: Iterable[bytes]) -> None:
        """Remove flows by their keys; those that are gone are passed over."""
        libbpf.map_delete_batch(self.fd, list(keys))

    def sweep(self, gone: frozenset[int] = frozenset()) -> Swept:
        """Remove what has expired, and everything of the endpoints that are `gone`."""
        return self._remove(time.monotonic_ns(), gone)

    def forget(self, endpoint_id: int) -> Swept:
        """Remove everything of an endpoint."""
        return self._remove(0, frozenset({endpoint_id}))

    def sums(self) -> Sums:
        """Return what the entries that are there have counted."""
        found, now = Sums(), time.monotonic_ns()
        for keys, values in self._chunks():
            found.add(_pairs(keys, values), now)
        return found

    def _remove(self, until: int, gone: frozenset[int]) -> Swept:
        entries = removed = 0
        kept: set[int] = set()
        counts, ended, now = Sums(), list[Flow](), time.monotonic_ns()
        for keys, values in self._chunks():
            owners, ends = conntrack.owners(keys), conntrack.ends(values)
            present = set(owners)
            entries += len(owners)
            if (
                gone.isdisjoint(present) and min(ends, default=until + 1) > until
            ):  # as a rule, and a hundred times faster
                kept |= present
                continue
            pairs = list(zip(owners, ends, strict=True))
            dead = [index for index, (owner, end) in enumerate(pairs) if end <= until or owner in gone]
            removing = [(_key(keys, index), _value(values, index)) for index in dead]
            libbpf.map_delete_batch(self.fd, [key for key, _ in removing])
            counts.add(removing, now)
            ended += [conntrack.decode(key, value, now) for key, value in removing if conntrack.is_open(value)]
            removed += len(dead)
            kept.update(owner for owner, end in pairs if end > until and owner not in gone)
        return Swept(entries, removed, frozenset(kept), counts, tuple(ended))

    def _chunks(self) -> Iterator[tuple[bytes, bytes]]:
        return libbpf.map_chunks(self.fd, conntrack.KEY.size, conntrack.VALUE.size)


def _ends(flow: Flow) -> set[End]:
    return {(flow.local, flow.local_port), (flow.remote, flow.remote_port)}


def _pairs(keys: bytes, values: bytes) -> Iterator[tuple[bytes, bytes]]:
    return ((_key(keys, index), _value(values, index)) for index in range(len(keys) // conntrack.KEY.size))


def _key(keys: bytes, index: int) -> bytes:
    return keys[index * conntrack.KEY.size : (index + 1) * conntrack.KEY.size]


def _value(values: bytes, index: int) -> bytes:
    return values[index * conntrack.VALUE.size : (index + 1) * conntrack.VALUE.size]
