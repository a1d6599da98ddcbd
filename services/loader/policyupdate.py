"""A change of many endpoints' policy maps and of the prefixes, as values. Pure.

Endpoints that change alike are in one `Change`: its entries are read and packed once, however many endpoints it has.
What a change adds it doesn't remove: an entry that turns from allow to deny may be in both lists, and stays.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from services.common.model import Network
from services.loader import layout
from services.loader.model import PolicyEntry


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


@dataclass(frozen=True, slots=True)
class Refusal:
    """An endpoint whose map is not what it should be after an update, and why."""

    id: int
    error: str


@dataclass(frozen=True, slots=True)
class Packed:
    """A change as the map takes it: entries to write, keys to delete."""

    written: dict[bytes, bytes]
    deleted: list[bytes]


def pack(change: Change) -> Packed:
    """Return what is written and deleted in the map of each of the change's endpoints."""
    written = {layout.policy_key(entry): layout.policy_value(entry) for entry in change.added}
    return Packed(written, [key for key in map(layout.policy_key, change.removed) if key not in written])
