"""A digest of what a policy map holds, which follows a change without looking at the rest. Pure.

Both ends of an UpdatePolicies have to mean the same map: the endpoint service says which content its change is a change
of, and the loader knows which content there is. The digest is the sum modulo 2^128 of a hash of each entry, so that it
is the same in every order, and adding or removing an entry is one addition. It finds mistakes, not forgeries.
"""

from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b

SIZE = 16
_MODULUS = 1 << 8 * SIZE

Entry = tuple[int, int, int, int, int, bool]
"""Direction, identity, protocol, port, port prefix length, deny: the fields of a PolicyEntry in their order."""

EMPTY = bytes(SIZE)
"""That of an empty map."""


def digest(entries: Iterable[Entry]) -> bytes:
    """Return the digest of a map that holds these entries, each once."""
    return changed(EMPTY, entries, ())


def changed(before: bytes, added: Iterable[Entry], removed: Iterable[Entry]) -> bytes:
    """Return the digest of a map with digest `before` after a change; `removed` as they were, deny included."""
    total = int.from_bytes(before, "little") + sum(map(_hash, added)) - sum(map(_hash, removed))
    return (total % _MODULUS).to_bytes(SIZE, "little")


@lru_cache(maxsize=4096)
def _hash(entry: Entry) -> int:
    direction, identity, protocol, port, length, deny = entry
    packed = b"%d %d %d %d/%d %d" % (direction, identity, protocol, port, length, deny)
    return int.from_bytes(blake2b(packed, digest_size=SIZE).digest(), "little")
