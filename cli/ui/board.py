"""The present as the page shows it: values by kind and key, and what has changed since a revision. Pure.

Each change of a value is one revision, and the values are kept in the order of their last change, so what a reader has
missed is found from the end backwards, at the cost of what it is. What was removed is remembered for the last `memory`
removals: who is further behind must begin again. A value that is put again as it was is no change.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Delta:
    """What a reader has to take over to be at `revision`: values by kind and key, and keys that are gone by kind."""

    revision: int
    put: dict[str, dict[str, Any]] = field(default_factory=dict)
    gone: dict[str, list[str]] = field(default_factory=dict)


class Board:
    """All kinds together."""

    def __init__(self, memory: int = 4096) -> None:
        """Begin empty."""
        self.revision = 0
        self.changed: Callable[[], None] = lambda: None
        """Called after each change."""
        self._values: dict[str, dict[str, Any]] = {}
        # In the order of their last change.
        self._revisions: dict[tuple[str, str], int] = {}
        self._gone: deque[tuple[int, str, str]] = deque()
        self._memory = memory
        self._forgotten = 0

    def kind(self, kind: str) -> Mapping[str, Any]:
        """Return the values of a kind."""
        return self._values.get(kind, {})

    def put(self, kind: str, key: str, value: Any) -> None:
        """Set a value."""
        values = self._values.setdefault(kind, {})
        if key in values and values[key] == value:
            return
        values[key] = value
        self.revision += 1
        self._revisions.pop((kind, key), None)
        self._revisions[kind, key] = self.revision
        self.changed()

    def drop(self, kind: str, key: str) -> None:
        """Remove a value, if it is there."""
        if self._values.get(kind, {}).pop(key, None) is None:
            return
        self.revision += 1
        del self._revisions[kind, key]
        self._gone.append((self.revision, kind, key))
        if len(self._gone) > self._memory:
            self._forgotten = self._gone.popleft()[0]
        self.changed()

    def replace(self, kind: str, values: Mapping[str, Any]) -> None:
        """Make a kind exactly these values."""
        for key in [key for key in self.kind(kind) if key not in values]:
            self.drop(kind, key)
        for key, value in values.items():
            self.put(kind, key, value)

    def snapshot(self) -> Delta:
        """Return everything."""
        return Delta(self.revision, {kind: dict(values) for kind, values in self._values.items()})

    def since(self, revision: int) -> Delta | None:
        """Return what has changed since `revision`; None when that can't be told."""
        if not self._forgotten <= revision <= self.revision:
            return None
        delta = Delta(self.revision)
        for (kind, key), changed in reversed(self._revisions.items()):
            if changed <= revision:
                break
            delta.put.setdefault(kind, {})[key] = self._values[kind][key]
        for changed, kind, key in reversed(self._gone):
            if changed <= revision:
                break
            if key not in self._values[kind]:
                delta.gone.setdefault(kind, []).append(key)
        return delta
