"""Who watches the endpoints, and what each still has to be told.

A watcher gets what exists, then SYNCED, then every change, and nothing between the first and the last is lost, because
the snapshot and the subscription are taken in one turn of the loop. Endpoints are values, so a waiting change costs a
reference. A watcher that falls behind is cut off with an error: the alternative is memory without end, or a
gap that it does not know of.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from enum import Enum, auto

from services.common.errors import Exhausted, Unavailable
from services.endpoint.model import Endpoint

LONGEST = 4096
"""Changes that may wait for one watcher."""


class Change(Enum):
    """What happened."""

    EXISTING = auto()
    SYNCED = auto()
    UPSERTED = auto()
    DELETED = auto()


Told = tuple[Change, Endpoint | None]


class Watchers:
    """All watchers of this service. A component: `stop` ends their streams."""

    def __init__(self, longest: int = LONGEST) -> None:
        """Start with none."""
        self._longest = longest
        self._queues: set[asyncio.Queue[Told | None]] = set()
        self._stopped = False
        self.observers: list[Callable[[Change, Endpoint], None]] = []
        """Told of every change in the moment in which it happens."""

    async def start(self) -> None:
        """Nothing to do."""

    async def stop(self) -> None:
        """End every stream with an error that says why."""
        self._stopped = True
        for queue in tuple(self._queues):
            self._cut(queue)

    def tell(self, change: Change, endpoint: Endpoint) -> None:
        """Tell everybody of a change."""
        for observe in self.observers:
            observe(change, endpoint)
        for queue in tuple(self._queues):
            if queue.qsize() >= self._longest:
                self._cut(queue)
            else:
                queue.put_nowait((change, endpoint))

    async def watch(self, existing: Iterable[Endpoint]) -> AsyncIterator[Told]:
        """Yield what exists, SYNCED, then changes. Raises Exhausted (too slow), Unavailable (the service ends)."""
        queue: asyncio.Queue[Told | None] = asyncio.Queue()
        self._queues.add(queue)
        try:
            for endpoint in tuple(existing):
                yield Change.EXISTING, endpoint
            yield Change.SYNCED, None
            while (told := await queue.get()) is not None:
                yield told
        finally:
            self._queues.discard(queue)
        if self._stopped:
            raise Unavailable("the endpoint service is stopping: watch again when it is back")
        raise Exhausted(
            f"this watch fell {self._longest} changes behind and was ended: watch again, which begins with what exists",
            limit=self._longest,
        )

    def _cut(self, queue: "asyncio.Queue[Told | None]") -> None:
        self._queues.discard(queue)
        while not queue.empty():
            queue.get_nowait()
        queue.put_nowait(None)
