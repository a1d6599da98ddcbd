"""What a list says to somebody who has watched before. Pure.

A watch remembers of each key only the revision of its last change. When it could not follow the store for a while, it
lists again; what changed meanwhile is what differs in revision, and what went is what isn't in the list.
"""

from collections.abc import Iterable, Mapping

from services.common.kvstore import Entry

ELSEWHERE = -1
"""The revision of a key that was seen in another store, or before this one was set back: any other is news."""


def differences(known: Mapping[str, int], found: Iterable[Entry]) -> dict[str, Entry | None]:
    """Return what has to be told to whoever knows `known` (revisions by key), so that it knows what was `found`."""
    changes: dict[str, Entry | None] = {}
    there = set()
    for entry in found:
        there.add(entry.key)
        if known.get(entry.key) != entry.revision:
            changes[entry.key] = entry
    for key in known.keys() - there:
        changes[key] = None
    return changes


def remember(known: dict[str, int], changes: Mapping[str, Entry | None]) -> None:
    """Bring `known` up to date."""
    for key, entry in changes.items():
        if entry is None:
            known.pop(key, None)
        else:
            known[key] = entry.revision
