"""For tests of the kvstore: a client of etcd for the block, and a watch whose consumer keeps what it was told."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Self

from services.common.config import KvstoreSettings
from services.common.controllers import Registry
from services.common.kvstore import Batch, Entry, Kvstore
from services.common.kvstore.etcd import EtcdKvstore
from services.common.kvstore.etcd_members import Observe

PATIENCE = 30.0


@contextlib.asynccontextmanager
async def client(
    endpoints: Sequence[str], *, cluster: str = "test", observe: Observe = lambda *_: None, **settings: Any
) -> AsyncIterator[EtcdKvstore]:
    """A client with these [kvstore] settings; lease_seconds may be less than a service would accept."""
    registry = Registry()
    await registry.start()
    kvstore = EtcdKvstore(KvstoreSettings(endpoints=tuple(endpoints), **settings), cluster, registry, observe)
    await kvstore.start()
    try:
        yield kvstore
    finally:
        await kvstore.stop()
        await registry.stop()


async def until(condition: Callable[[], Any], what: str = "what was waited for") -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"{what} has not come true in {PATIENCE:g} s"
        await asyncio.sleep(0.01)


class Watching:
    """A watch and what it has told so far: `values` by key, and each batch. A context manager."""

    def __init__(self, kvstore: Kvstore, prefix: str) -> None:
        """Begin with `async with`."""
        self.batches: list[Batch] = []
        self.values: dict[str, str] = {}
        self._iterator = kvstore.watch(prefix)
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Wait for the first batch."""
        self._task = asyncio.create_task(self._consume())
        await self.until(lambda: self.batches)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Leave it as a consumer does that is cancelled."""
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    @property
    def told(self) -> list[tuple[str, Entry | None]]:
        """All that was told after the first batch, in order."""
        return [change for batch in self.batches[1:] for change in batch.items()]

    async def until(self, condition: Callable[[], Any]) -> None:
        """Wait for a condition, or for the end of the watch, which is an error."""
        await until(lambda: condition() or (self._task is not None and self._task.done()), "what a watch has to tell")
        if self._task is not None and self._task.done():
            self._task.result()
            raise AssertionError("the watch has ended")

    async def knows(self, key: str) -> None:
        """Wait until there is a key."""
        await self.until(lambda: key in self.values)

    async def has(self, values: dict[str, str]) -> None:
        """Wait until these are all values that there are."""
        try:
            await self.until(lambda: self.values == values)
        except AssertionError as error:
            raise AssertionError(f"{error}; it has told {self.values}, and not {values}") from None

    async def _consume(self) -> None:
        async for batch in self._iterator:
            self.batches.append(batch)
            for key, entry in batch.items():
                if entry is None:
                    self.values.pop(key, None)
                else:
                    self.values[key] = entry.value
