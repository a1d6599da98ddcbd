"""The maps that policy is decided by: an endpoint's rules, the prefixes of ipBlocks, and the revision of it all.

    Policy     one endpoint's rules, pinned for itself
    Prefixes   which identity an address has that is no endpoint's
    Revision   raised after the others have changed

Each is written so that no packet is dropped in between that is allowed before and after; the order over several of them
is policies.py's. Nothing here decides what a rule means.
"""

import errno
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from services.common.errors import Exhausted
from services.common.model import Network
from services.loader import layout, libbpf
from services.loader.layout import PolicyCount
from services.loader.libbpf import BpfError
from services.loader.maps import ONLY, POLICY, PREFIXES, REVISION, BpfMap
from services.loader.model import PolicyEntry


@dataclass(frozen=True, slots=True)
class PolicyChange:
    """How many entries a synchronisation wrote and removed."""

    written: int
    removed: int


class Policy(BpfMap):
    """One endpoint's rules."""

    name = POLICY

    def sync(self, desired: Iterable[PolicyEntry], present: Iterable[PolicyEntry] | None = None) -> PolicyChange:
        """Make the map hold exactly these entries. What is right already isn't touched and keeps its counters.

        `present` is what the map holds, if the caller has just asked.

        Entries are written before others are removed, so that a packet allowed before and after is allowed in
        between. Raises Exhausted, before anything is written, when the map is too small.
        """
        wanted = {layout.policy_key(entry): entry for entry in desired}
        held = {layout.policy_key(entry): entry for entry in (self.entries() if present is None else present)}
        missing = [(key, layout.policy_value(entry)) for key, entry in wanted.items() if held.get(key) != entry]
        surplus = [key for key in held if key not in wanted]
        self.check_room(len(wanted.keys() | held.keys()))
        libbpf.map_update_batch(self.fd, missing)
        libbpf.map_delete_batch(self.fd, surplus)
        return PolicyChange(len(missing), len(surplus))

    def entries(self) -> list[PolicyEntry]:
        """Return all entries."""
        return [one.entry for one in self.dump()]

    def keys(self) -> set[bytes]:
        """Return the keys of all entries."""
        return {key for key, _ in libbpf.map_entries(self.fd, layout.POLICY_KEY.size, layout.POLICY_VALUE.size)}

    def write(self, entries: Mapping[bytes, bytes]) -> None:
        """Write packed entries. Not atomic: of a failure those before it are written."""
        libbpf.map_update_batch(self.fd, list(entries.items()))

    def delete(self, keys: Sequence[bytes]) -> None:
        """Remove entries by their keys; those that aren't there are passed over."""
        libbpf.map_delete_batch(self.fd, keys)

    def check_room(self, entries: int) -> None:
        """Raise Exhausted when the map has no room for so many."""
        size = libbpf.map_info(self.fd).max_entries
        if entries > size:
            raise Exhausted(
                f"{self.fd.about} has room for {size} entries and {entries} are needed while it changes: "
                f"widen rules or raise POLICY_MAP_SIZE",
                size=size,
                needed=entries,
            )

    def dump(self) -> list[PolicyCount]:
        """Return all entries with their counters."""
        entries = libbpf.map_entries(self.fd, layout.POLICY_KEY.size, layout.POLICY_VALUE.size)
        return [layout.read_policy(key, value) for key, value in entries]


def _length(network: Network) -> int:
    return network.prefixlen


class Prefixes(BpfMap):
    """Which identity stands for the addresses of a prefix and of no longer one."""

    name = PREFIXES

    def put(self, prefixes: Mapping[Network, int]) -> None:
        """Write prefixes, longest first: no address is meanwhile in one that is not its own. Raises Exhausted when
        the map is full.
        """
        entries = [
            (layout.prefix_key(network), layout.PREFIX_VALUE.pack(prefixes[network]))
            for network in sorted(prefixes, key=_length, reverse=True)
        ]
        try:
            libbpf.map_update_batch(self.fd, entries)
        except BpfError as error:
            if error.errno != errno.ENOSPC:
                raise
            size = libbpf.map_info(self.fd).max_entries
            raise Exhausted(f"{self.name} is full: {size} prefixes; raise PREFIXES_MAP_SIZE", size=size) from error

    def delete(self, prefixes: Iterable[Network]) -> None:
        """Remove prefixes, shortest first, as `put`; those that aren't there are passed over."""
        libbpf.map_delete_batch(self.fd, [layout.prefix_key(network) for network in sorted(prefixes, key=_length)])

    def present(self, prefixes: Iterable[Network]) -> dict[Network, int]:
        """Return those of the prefixes that are in the table."""
        keys = {network: layout.prefix_key(network) for network in prefixes}
        values = {network: libbpf.map_lookup(self.fd, key, layout.PREFIX_VALUE.size) for network, key in keys.items()}
        return {network: layout.PREFIX_VALUE.unpack(value)[0] for network, value in values.items() if value is not None}

    def dump(self) -> dict[Network, int]:
        """Return the whole table."""
        entries = libbpf.map_entries(self.fd, layout.PREFIX_KEY.size, layout.PREFIX_VALUE.size)
        return dict(layout.read_prefix(key, value) for key, value in entries)


class Revision(BpfMap):
    """Policy's revision: flows that it allowed under an earlier one are asked about again with their next packet."""

    name = REVISION

    def bump(self) -> int:
        """Raise it by one and return it: after a change of any map of rules or of prefixes, all of it. Not for two
        processes at a time.
        """
        raised = (self.get() + 1) % (1 << 64)
        libbpf.map_update(self.fd, ONLY, layout.REVISION.pack(raised))
        return raised

    def get(self) -> int:
        """Return it."""
        value = libbpf.map_lookup(self.fd, ONLY, layout.REVISION.size) or bytes(layout.REVISION.size)
        return int(layout.REVISION.unpack(value)[0])
