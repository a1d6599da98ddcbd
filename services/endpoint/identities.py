"""What a service needs of whoever gives out identities, and the one that shares them with nobody.

Numbers and grace times are `policy/identity.py`'s; here are the clock, and the stream that tells of what has expired.
The one that shares them with a cluster is `cluster/identities.py`.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Protocol

from services.endpoint.policy.identity import LOCAL_SCOPE, IdentityBackend, LocalIdentities
from services.endpoint.policy.labels import Labels


class Backend(IdentityBackend, Protocol):
    """An IdentityBackend with what this service asks beyond that."""

    renumber: Callable[[int], None]
    """Called with a number whose endpoints are to get another one."""

    def restore(self, known: Mapping[int, Labels], used: Mapping[int, int]) -> None:
        """Take over what an earlier run knew; `used` counts the endpoints of each."""

    def known(self) -> dict[int, Labels]:
        """Return all identities, released ones within their grace, too."""

    def expires_in(self, number: int) -> float:
        """Return how many seconds a released identity is kept yet; 0: it is in use."""

    def provisional(self, number: int) -> str:
        """Say why an endpoint is to get another number for its labels; empty: it isn't."""

    async def allocate_shared(self, labels: Labels) -> int:
        """Return the number that labels are to have, one more use of it. Raises Unavailable and friends."""

    async def expire(self) -> None:
        """Forget identities whose grace time is over, and tell of it: the controller `identity-gc`."""


class LocalBackend:
    """An IdentityBackend without a store: it never waits and is never away."""

    def __init__(self, grace: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`grace` in seconds."""
        self._grace = grace
        self._clock = clock
        self.renumber: Callable[[int], None] = lambda _number: None
        self._book = LocalIdentities(grace)
        self._told: asyncio.Queue[Mapping[int, Labels | None]] = asyncio.Queue()

    def restore(self, known: Mapping[int, Labels], used: Mapping[int, int]) -> None:
        """Take over what an earlier run knew; `used` counts the endpoints of each. The others' grace begins anew."""
        # Numbers of LOCAL_SCOPE are from a time in which this node was a cluster's.
        ours = {number: labels for number, labels in known.items() if number < LOCAL_SCOPE}
        self._book = LocalIdentities(self._grace, max(ours, default=0))
        for number, labels in ours.items():
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

    def provisional(self, number: int) -> str:
        """See Backend."""
        return "it is one that only a cluster's node has" if number > LOCAL_SCOPE else ""

    async def allocate(self, labels: Labels) -> int:
        """See IdentityBackend."""
        return self._book.acquire(labels)

    async def allocate_shared(self, labels: Labels) -> int:
        """See Backend."""
        return self._book.acquire(labels)

    async def release(self, number: int) -> None:
        """See IdentityBackend."""
        if number < LOCAL_SCOPE:
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
