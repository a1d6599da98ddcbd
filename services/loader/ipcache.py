"""Who is behind the addresses of other nodes: `podlane_ipcache`, written many entries at a time.

    update   what has changed: entries are written, then others removed
    sync     the whole map: missing and wrong ones are written, then others removed; what is right isn't touched

The map is made when the node is configured with a routing and removed when it is alone again. It is a cache: whoever
has told this loader of the entries tells the next one, too, and until then the map holds what it held.

What is compared are keys and values as the kernel has them: decoding 100,000 of them would take longer than all the
rest.
"""

import errno
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from services.common.errors import Exhausted
from services.common.model import Address
from services.loader import layout, libbpf
from services.loader.layout import IpcacheEntry
from services.loader.libbpf import BpfError, Fd
from services.loader.maps import IPCACHE, BpfMap


@dataclass(frozen=True, slots=True)
class IpcacheChange:
    """How many entries a synchronisation wrote and removed."""

    written: int
    removed: int


class Ipcache(BpfMap):
    """The map. Calls block: milliseconds for thousands of entries. One caller at a time."""

    name = IPCACHE

    def __init__(self, fd: Fd) -> None:
        """Own the descriptor; how many entries there are isn't known yet."""
        super().__init__(fd)
        self._counted: int | None = None

    def count(self) -> int:
        """Return how many entries it has; they are counted when they have changed."""
        if self._counted is None:
            self._counted = super().count()
        return self._counted

    def update(self, upserts: Mapping[bytes, bytes], removals: Iterable[bytes]) -> None:
        """Write packed entries, then remove keys; those that aren't there are passed over.

        Raises Exhausted when the map is full: what was written stays.
        """
        self._counted = None
        self._write(upserts)
        libbpf.map_delete_batch(self.fd, list(removals))
        self._counted = None  # somebody may have asked in between

    def sync(self, wanted: Mapping[bytes, bytes]) -> IpcacheChange:
        """Make the map hold exactly these packed entries.

        Raises Exhausted when it is too small for them and, while it changes, for those that go; nothing was changed.
        """
        held = dict(libbpf.map_entries(self.fd, layout.ENDPOINT_KEY.size, layout.IPCACHE_VALUE.size))
        missing = {key: value for key, value in wanted.items() if held.get(key) != value}
        surplus = held.keys() - wanted.keys()
        needed = len(held) + len(missing.keys() - held.keys())
        size = libbpf.map_info(self.fd).max_entries
        if needed > size:
            raise _full(size, f"{needed} are needed while it changes")
        self._write(missing)
        libbpf.map_delete_batch(self.fd, list(surplus))
        self._counted = len(wanted)
        return IpcacheChange(len(missing), len(surplus))

    def _write(self, entries: Mapping[bytes, bytes]) -> None:
        try:
            libbpf.map_update_batch(self.fd, list(entries.items()))
        except BpfError as error:
            if error.errno not in {errno.E2BIG, errno.ENOSPC}:
                raise
            raise _full(libbpf.map_info(self.fd).max_entries, "more are needed") from error

    def get(self, address: Address) -> IpcacheEntry | None:
        """Return who is behind an address."""
        key = layout.endpoint_key(address)
        value = libbpf.map_lookup(self.fd, key, layout.IPCACHE_VALUE.size)
        return layout.read_ipcache(key, value) if value is not None else None

    def dump(self) -> list[IpcacheEntry]:
        """Return all entries."""
        entries = libbpf.map_entries(self.fd, layout.ENDPOINT_KEY.size, layout.IPCACHE_VALUE.size)
        return [layout.read_ipcache(key, value) for key, value in entries]


def _full(size: int, needed: str) -> Exhausted:
    return Exhausted(f"{IPCACHE} has room for {size} addresses of other nodes and {needed}: raise IPCACHE_MAP_SIZE")
