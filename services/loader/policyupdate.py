"""A change of many endpoints' policy maps and of the prefixes, as values. Pure.

Endpoints that change alike are in one `Change`: its entries are read and packed once, however many endpoints it has.
What a change adds it doesn't remove: an entry that turns from allow to deny may be in both lists, and stays.

An address that gets a longer prefix is under the identity of the shorter one until then, and one whose prefix goes is
from then on. So entries of prefixes that stay change when all that come are there and none that go is gone: before and
after, an address within an `except` would have the entries of the block around it. All others are there for longer.
"""

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass

from services.common.model import Network
from services.loader import layout
from services.loader.model import PolicyEntry

# Identities of prefixes are 1<<24 | n.
_CIDR_BITS = 24


@dataclass(frozen=True, slots=True)
class Target:
    """An endpoint whose map is changed, and the digests of what the map holds before and after."""

    id: int
    generation: int
    before: bytes
    after: bytes


@dataclass(frozen=True, slots=True)
class Change:
    """Entries that come and go, the same for each of the endpoints. Those that go are meant by their keys."""

    added: tuple[PolicyEntry, ...]
    removed: tuple[PolicyEntry, ...]
    endpoints: tuple[Target, ...]


@dataclass(frozen=True, slots=True)
class Update:
    """Changes that belong together; an endpoint is in one of them."""

    changes: tuple[Change, ...]
    prefixes_added: Mapping[Network, int]
    prefixes_removed: tuple[Network, ...]

    def targets(self) -> Iterator[Target]:
        """Return the endpoints of all changes."""
        return (target for change in self.changes for target in change.endpoints)

    def prefixes_gone(self) -> list[Network]:
        """Return the prefixes to remove."""
        return [network for network in self.prefixes_removed if network not in self.prefixes_added]

    def moving(self, present: Mapping[Network, int]) -> frozenset[int]:
        """Return the identities of the prefixes that come or go; `present` are those that go, as the map has them."""
        return frozenset((*self.prefixes_added.values(), *present.values()))


@dataclass(frozen=True, slots=True)
class Refusal:
    """An endpoint whose map is not what it should be after an update, and why."""

    id: int
    error: str


@dataclass(frozen=True, slots=True)
class Packed:
    """A change as the map takes it: entries to write and keys to delete, those of prefixes that stay by themselves."""

    written: dict[bytes, bytes]
    deleted: list[bytes]
    staying_written: dict[bytes, bytes]
    staying_deleted: list[bytes]

    @property
    def keys(self) -> set[bytes]:
        """The keys of all that is written."""
        return {*self.written, *self.staying_written}


def pack(change: Change, moving: Container[int]) -> Packed:
    """Return what is written and deleted in the map of each of the change's endpoints. `moving` are identities of
    prefixes that come or go.
    """
    packed = Packed({}, [], {}, [])
    for entry in change.added:
        written = packed.staying_written if _stays(entry, moving) else packed.written
        written[layout.policy_key(entry)] = layout.policy_value(entry)
    for entry in change.removed:
        key = layout.policy_key(entry)
        if key not in packed.written and key not in packed.staying_written:
            (packed.staying_deleted if _stays(entry, moving) else packed.deleted).append(key)
    return packed


def _stays(entry: PolicyEntry, moving: Container[int]) -> bool:
    return entry.identity >> _CIDR_BITS == 1 and entry.identity not in moving
