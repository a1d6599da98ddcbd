"""How much one process asks of a store at most: a rate, and how many requests at a time.

Turns are given in the order in which they were asked for. A burst as large as the bound on requests in flight passes
at once; after that the rate holds.
"""

import asyncio
from typing import Self


class Limits:
    """One process's turns; `async with limits:` waits for one and gives it back."""

    def __init__(self, per_second: float, in_flight: int) -> None:
        """0 per second: no rate."""
        self._rate = per_second
        self._burst = max(1, in_flight)
        self._slots = asyncio.Semaphore(self._burst)
        self._order = asyncio.Lock()
        self._tokens = float(self._burst)
        self._filled = 0.0
        self.waiting = 0
        """Requests that wait for their turn or an answer."""

    async def __aenter__(self) -> Self:
        """Wait for a turn."""
        self.waiting += 1
        try:
            await self._slots.acquire()
            try:
                await self._take()
            except BaseException:
                self._slots.release()
                raise
        except BaseException:
            self.waiting -= 1
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Give it back."""
        self.waiting -= 1
        self._slots.release()

    async def _take(self) -> None:
        if not self._rate:
            return
        async with self._order:
            loop = asyncio.get_running_loop()
            now = loop.time()
            self._tokens = min(self._burst, self._tokens + (now - self._filled) * self._rate)
            self._filled = now
            if self._tokens < 1:
                await asyncio.sleep((1 - self._tokens) / self._rate)
                now = loop.time()
                self._tokens = min(self._burst, self._tokens + (now - self._filled) * self._rate)
                self._filled = now
            self._tokens -= 1
