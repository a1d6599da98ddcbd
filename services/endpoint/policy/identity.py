"""Identities: the number that stands for a set of labels. Pure; times are monotonic seconds that the caller passes.

    unknown ──acquire──▶ in use ──last release──▶ released ──grace passes, `expire`──▶ unknown
                            ▲                        │
                            └────────acquire─────────┘   the same number again

Policy maps hold identities, not labels and not addresses. So a number must not come to mean other labels while
somebody's map, or a packet under way, still means the old ones: a released identity keeps its number for a grace time,
and then the numbers go round in a circle, as endpoint ids do, so that the one that comes next was unused for longest.
An endpoint whose pod restarts with the same labels finds its number, and its peers' maps are right before it is back.

Reserved identities (below 256) are Cilium's. Numbers from 1<<24 are not in this book: they stand for address prefixes
(`prefixes.py`). Of a cluster's nodes each has numbers from LOCAL_SCOPE for the time in which its kvstore is away.
"""

from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from services.common.errors import Exhausted, Internal, InvalidArgument
from services.endpoint.policy.labels import Labels

SMALLEST, LARGEST = 256, 65535
CIDR_SCOPE = 1 << 24
"""Added to the number of an address prefix; Cilium's scope of node-local CIDR identities."""
LOCAL_SCOPE = 3 << 24
"""Added to the number of labels that the cluster hasn't numbered yet: this node's own number, known to no other."""


class Reserved(IntEnum):
    """The identities that are not made of labels, by Cilium's numbers."""

    UNKNOWN = 0
    HOST = 1
    WORLD = 2
    UNMANAGED = 3
    HEALTH = 4
    INIT = 5
    REMOTE_NODE = 6
    KUBE_APISERVER = 7
    INGRESS = 8
    WORLD_IPV4 = 9
    WORLD_IPV6 = 10
    ENCRYPTED_OVERLAY = 11

    @property
    def labels(self) -> Labels:
        """Return its one label, `reserved:remote-node=`."""
        return Labels({str(self): ""})

    def __str__(self) -> str:
        """Return `reserved:` and Cilium's name."""
        return f"reserved:{self.name.lower().replace('_', '-')}"


class IdentityBackend(Protocol):
    """Who gives out identities: this node alone, or a whole cluster through its kvstore.

    What a backend promises:

    - The same labels have the same number for everybody who shares it, and a number means the same labels for as long
      as anybody uses it and for a grace time after that.
    - `allocate` counts one use by this node for each call, `release` takes one back. A node that dies without releasing
      loses its uses when its lease ends, not before.
    - `watch` begins with one batch of all identities that there are. Batches of differences follow; None stands for an
      identity that is no more. An outage of the store, a compaction or a reconnection shows as differences or not at
      all, never as a flush: what is in policy maps stays there until the store says otherwise.
    - A number that `allocate` returned may come from `watch` later, or never if it is this node's own: whoever puts
      an endpoint under an identity tells the resolver of it first.
    - Labels that have a number here already are answered although the store can't be reached.
    """

    async def allocate(self, labels: Labels) -> int:
        """Return the number of a set of labels, 256-65535 and one more use of it.

        Raises Exhausted, and Unavailable when the number would have to come from a store that can't be reached.
        """

    async def release(self, number: int) -> None:
        """Take one use back. Raises nothing when the store can't be reached: the release is made up for later."""

    def watch(self) -> AsyncIterator[Mapping[int, Labels | None]]:
        """Yield all identities, then what changes."""


@dataclass(slots=True)
class _Known:
    labels: Labels
    uses: int


class LocalIdentities:
    """The identities of a node that shares them with nobody."""

    def __init__(self, grace: float, last: int = 0, *, smallest: int = SMALLEST, largest: int = LARGEST) -> None:
        """Start empty. `grace` in seconds; `last` is the number that was given out last in an earlier run, 0: none."""
        self._grace = grace
        self._smallest, self._largest = smallest, largest
        self._last = max(last, smallest - 1)
        self._known: dict[int, _Known] = {}
        self._numbers: dict[Labels, int] = {}
        self._released: OrderedDict[int, float] = OrderedDict()  # number → when, the longest ago first

    def known(self) -> dict[int, Labels]:
        """Return all identities, released ones within their grace too."""
        return {number: one.labels for number, one in self._known.items()}

    def uses(self, number: int) -> int:
        """Return how many uses an identity has; 0 also when there is none of that number."""
        return self._known[number].uses if number in self._known else 0

    def acquire(self, labels: Labels) -> int:
        """Return the number of a set of labels, and count one use of it. Raises Exhausted and InvalidArgument."""
        if not labels:
            raise InvalidArgument("labels: without any there is no identity to give but reserved:init", field="labels")
        number = self._numbers.get(labels)
        if number is None:
            number = self._next()
            self._add(number, labels)
            self._last = number
        self._released.pop(number, None)
        self._known[number].uses += 1
        return number

    def restore(self, number: int, labels: Labels) -> None:
        """Count a use that an endpoint's record has. Raises Internal when numbers and labels don't agree."""
        if not self._smallest <= number <= self._largest:
            raise Internal(f"identity {number} ({labels}) is not in {self._smallest}-{self._largest}", identity=number)
        held, other = self._known.get(number), self._numbers.get(labels)
        if held is not None and held.labels != labels:
            raise Internal(
                f"identity {number} is recorded for two sets of labels, {held.labels} and {labels}", identity=number
            )
        if other not in {None, number}:
            raise Internal(f"the labels {labels} are recorded with two identities, {other} and {number}")
        if held is None:
            self._add(number, labels)
        self._released.pop(number, None)
        self._known[number].uses += 1

    def release(self, number: int, now: float) -> None:
        """Take one use back; the last one starts the grace time. Raises Internal when there is none."""
        if not self.uses(number):
            raise Internal(f"identity {number} is released more often than it was acquired", identity=number)
        self._known[number].uses -= 1
        if not self._known[number].uses:
            self._released[number] = now

    def expire(self, now: float) -> dict[int, Labels]:
        """Forget the released identities whose grace time is over, and return them."""
        expired: dict[int, Labels] = {}
        while self._released:
            number, released = next(iter(self._released.items()))
            if now - released < self._grace:
                break
            del self._released[number]
            expired[number] = self._known.pop(number).labels
            del self._numbers[expired[number]]
        return expired

    def expires_in(self, number: int, now: float) -> float:
        """Return the seconds until a released identity is forgotten; 0: it is in use, or there is none."""
        return max(0.0, self._released[number] + self._grace - now) if number in self._released else 0.0

    def next_expiry(self) -> float | None:
        """Return when the next grace time is over; None when none runs."""
        return next(iter(self._released.values())) + self._grace if self._released else None

    def _add(self, number: int, labels: Labels) -> None:
        self._known[number] = _Known(labels, 0)
        self._numbers[labels] = number

    def _next(self) -> int:
        size = self._largest - self._smallest + 1
        if len(self._known) >= size:
            waiting = len(self._released)
            raise Exhausted(
                f"all {size} identities are taken, {size - waiting} in use and {waiting} released less than "
                f"{self._grace:g} s ago: leave labels out of identities that differ from pod to pod",
                size=size,
                used=size - waiting,
                released=waiting,
            )
        candidate = self._last
        while True:
            candidate = candidate + 1 if candidate < self._largest else self._smallest
            if candidate not in self._known:
                return candidate
