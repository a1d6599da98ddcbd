"""Where more addresses come from when a pool has none left: for the allocator, and for whoever looks at the pools."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Protocol

from services.common.errors import Exhausted, PodlaneError


class Supply(Protocol):
    """What claims ranges; `clusterpool.py`."""

    def taken(self, pool: str) -> None:
        """Hear that a pool has given an address out."""

    async def more(self, pool: str, patience: float) -> bool:
        """Wait up to `patience` seconds for another range; False: it is of no use to wait again."""

    def refusal(self, pool: str, error: Exhausted) -> PodlaneError:
        """Return what is told to whom nothing could be given."""

    def problems(self, pool: str) -> tuple[str, ...]:
        """Return what is wrong with a pool's ranges."""


class Configured:
    """All ranges are in the configuration: no more will come."""

    def taken(self, pool: str) -> None:
        """See Supply."""

    async def more(self, _pool: str, _patience: float) -> bool:
        """See Supply."""
        return False

    def refusal(self, _pool: str, error: Exhausted) -> PodlaneError:
        """See Supply."""
        return error

    def problems(self, _pool: str) -> tuple[str, ...]:
        """See Supply."""
        return ()


class Changes:
    """Tells who listens that ranges came or went. `stop` ends all streams: the server would wait for them."""

    def __init__(self) -> None:
        """Start with nobody listening."""
        self._changed = asyncio.Event()
        self._stopped = False

    def announce(self) -> None:
        """Tell of a change."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def stop(self) -> None:
        """Tell nobody any more."""
        self._stopped = True
        self.announce()

    async def watch(self) -> AsyncGenerator[None, None]:
        """Yield at once, and then after each change, of which several may be one."""
        while not self._stopped:
            changed = self._changed
            yield
            await changed.wait()
