"""The identities of a node that shares them with nobody, behind the interface that a cluster's has (IdentityBackend).

Numbers and grace times are `policy/identity.py`'s; here are the clock, and the stream that tells of what has expired.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping

from services.endpoint.policy.identity import LocalIdentities
from services.endpoint.policy.labels import Labels


class LocalBackend:
    """An IdentityBackend without a store: it never waits and is never away."""

    def __init__(self, grace: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`grace` in seconds."""
        self._grace = grace
        self._clock = clock
        self._book = LocalIdentities(grace)
        self._told: asyncio.Queue[Mapping[int, Labels | None]] = asyncio.Queue()

    def restore(self, known: Mapping[int, Labels], used: Mapping[int, int]) -> None:
        """Take over what an earlier run knew; `used` counts the endpoints of each. The others' grace begins anew."""
        self._book = LocalIdentities(self._grace, max(known, default=0))
        for number, labels in known.items():
            for _ in range(max(1, used.get(number, 0))):
                self._book.restore(number, labels)
            if not used.get(number):
                self._book.release(number, self._clock())

    def known(self) -> dict[int, Labels]:
        """Return all identities, released ones within their grace, too."""
        return self._book.known()

    def expires_in(self, number: int) -> float:
        """Return how many seconds a released identity is kept yet; 0: it is in use."""
        return self._book.expires_in(number, self._clock())

    async def allocate(self, labels: Labels) -> int:
        """See IdentityBackend."""
        return self._book.acquire(labels)

    async def release(self, number: int) -> None:
        """See IdentityBackend."""
        self._book.release(number, self._clock())

    async def watch(self) -> AsyncIterator[Mapping[int, Labels | None]]:
        """See IdentityBackend."""
        yield dict(self._book.known())
        while True:
            yield await self._told.get()

    async def expire(self) -> None:
        """Forget identities whose grace time is over, and tell of it: the controller `identity-gc`."""
        gone = self._book.expire(self._clock())
        if gone:
            self._told.put_nowait(dict.fromkeys(gone))
