"""The kvstore: where a node says what others may want to know, one value per key.

`Kvstore` is what the services need of one; `embedded.py` keeps it in the service's own database, which is all that a
node by itself needs.

Keys are paths, `podlane/state/<what>/v1/<node>/…`; values are text. A writer *holds* a value: `put` makes the key have
it and touches nothing when it has it already, so that a controller may put again and again and a value that somebody
else took away comes back. Three idempotent verbs, as everywhere: put, delete, and prune, which is `list` and
`delete` of what is nobody's.
"""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Entry:
    """One key and its value. `revision` grows with each change of the store; `written` is in epoch seconds."""

    key: str
    value: str
    revision: int
    written: float


class Kvstore(Protocol):
    """One store. Every verb raises Unavailable when the store can't be reached."""

    async def put(self, key: str, value: str) -> Entry:
        """Make a key have a value; return the entry, which is as old as the value."""

    async def get(self, key: str) -> Entry | None:
        """Return a key's entry, None when there is none."""

    async def delete(self, key: str) -> bool:
        """Remove a key; False when it was not there."""

    async def list(self, prefix: str) -> tuple[Entry, ...]:
        """Return the entries whose keys begin with `prefix`, in the order of their keys."""
