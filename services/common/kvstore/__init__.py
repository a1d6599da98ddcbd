"""The kvstore: where a node says what others may want to know, one value per key.

`Kvstore` is what the services need of one. `etcd.py` keeps it in etcd, for a cluster; `embedded.py` in the service's
own database, which is all that a node by itself needs. `keys.py` has all keys that there are; values are text.

    verb     what it promises
    get      one entry, or None
    list     all entries below a prefix, as they were at one revision
    put      the key has the value; a value that is there already is left alone (and gets the lease that is asked for)
    delete   the key is gone
    commit   conditions and changes as one: all of them happen, or none (compare-and-swap)
    watch    all entries below a prefix, then differences, for ever

There is no lock: whatever needs two looks at a store is a `commit`, and the loser looks again. A lock outlives its
holder for as long as its lease, and an outage makes everybody wait for it.

A **leased** entry is there for as long as the process that put it, and a little longer: when the process is gone, or
was cut off for the lease's whole time, the store removes it. The store may lose a lease while we live (revoked by
hand, or an outage that was longer). That is noticed, a new one is granted, and `on_lease_lost` tells who has put
leased entries, so that they are put again: the store itself remembers no values.

**Watching** hides what happens to connections. An outage, a compaction or another member show as differences or not
at all; entries that went while nobody looked are None in a batch, as any others. Nothing is ever flushed.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from services.common.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class Entry:
    """One key and its value. `revision` is that of its last change and grows with each change of the store.

    `written` is in epoch seconds, 0.0 where the store doesn't know. `leased`: it goes when its writer goes.
    """

    key: str
    value: str
    revision: int
    written: float = 0.0
    leased: bool = False


@dataclass(frozen=True, slots=True)
class Absent:
    """Condition: there is no such key."""

    key: str


@dataclass(frozen=True, slots=True)
class AbsentBelow:
    """Condition: no key begins with `prefix`."""

    prefix: str


@dataclass(frozen=True, slots=True)
class Unchanged:
    """Condition: the key's last change is that of `revision`; 0: there is no such key."""

    key: str
    revision: int


@dataclass(frozen=True, slots=True)
class Put:
    """Change: the key gets the value."""

    key: str
    value: str
    leased: bool = False


@dataclass(frozen=True, slots=True)
class Delete:
    """Change: the key goes, if it is there."""

    key: str


Condition = Absent | AbsentBelow | Unchanged
Change = Put | Delete
Batch = Mapping[str, Entry | None]
"""Entries by key; None: gone."""


def check_once(changes: Sequence[Change]) -> None:
    """Raise InvalidArgument when a key is changed twice: no store could say which comes last."""
    seen: set[str] = set()
    for change in changes:
        if change.key in seen:
            raise InvalidArgument(f"a commit changes {change.key} twice", key=change.key)
        seen.add(change.key)


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """One member of the store. `error` is empty when it answers."""

    endpoint: str
    version: str = ""
    leader: bool = False
    error: str = ""


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """How it is with a store, as `podlane status` shows it. Times are seconds; None: there is no such thing."""

    kind: str
    """embedded or etcd."""
    reachable: bool
    """Whether the last request was answered."""
    error: str = ""
    """What the last request said that wasn't."""
    unreachable_for: float | None = None
    members: tuple[MemberStatus, ...] = ()
    lease: int | None = None
    lease_left: float | None = None
    leases_lost: int = 0
    waiting: int = 0
    """Requests that wait for their turn or an answer."""
    event_age: float | None = None
    """Since the last event of any watch."""


class Kvstore(Protocol):
    """One store. Every verb raises Unavailable when the store can't be reached or is too slow, FailedPrecondition when
    it refuses us (credentials, another cluster's store); `watch` raises neither.
    """

    async def get(self, key: str) -> Entry | None:
        """Return a key's entry, None when there is none."""

    async def list(self, prefix: str) -> tuple[Entry, ...]:
        """Return the entries whose keys begin with `prefix`, in the order of their keys, as of one revision."""

    async def put(self, key: str, value: str, *, leased: bool = False) -> Entry:
        """Make a key have a value; return the entry, which is as old as the value."""

    async def delete(self, key: str) -> bool:
        """Remove a key; False when it was not there."""

    async def commit(self, conditions: Sequence[Condition], changes: Sequence[Change]) -> bool:
        """Make all changes if all conditions hold; return whether they did. Raises InvalidArgument for a key that is
        changed twice.

        An answer that was lost may have been yes: who gets Unavailable looks what is there before trying again.
        """

    def watch(self, prefix: str) -> AsyncIterator[Batch]:
        """Yield all entries below a prefix as the first batch, which may be empty, then what changes, for ever.

        The first batch comes once the store was reached. A consumer that is slow gets larger batches, not more of them.
        """

    def on_lease_lost(self, callback: Callable[[], None]) -> None:
        """Have a function called whenever leased entries may be gone and are to be put again."""

    async def status(self) -> StoreStatus:
        """Return how it is with the store. Raises nothing."""
