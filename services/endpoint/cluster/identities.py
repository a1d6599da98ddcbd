"""The identities of a cluster: one number for the same labels on every node, given out by compare-and-swap.

    a number is known here          no request: it is used at once, and `sync-identities` tells the store
    labels are new to this node     one request: id/<number>, value/<labels> and our ref/<number>/<node>, if neither is
                                    there; else the number that value/<labels> has
    the store can't be asked        a number of this node's own (LOCAL_SCOPE), until it can: the endpoint's controller
                                    `resolve-identity` asks on, and the endpoint becomes who it is then

Nobody locks: a commit happens wholly or not at all, and the loser looks. The keys id/ and value/ are there for as long
as a node refers to the number by a leased ref/; afterwards `identitygc.py` removes them.

Invariants: a number that an endpoint of this node has is never forgotten here (`identitybook.py`); what was told by
`watch` is told before anybody could use it.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Protocol

from services.common import controllers, telemetry
from services.common.controller_parameters import Parameters
from services.common.errors import InvalidArgument, PodlaneError, Unavailable
from services.common.kvstore import Absent, Batch, Entry, Kvstore, Put, Unchanged
from services.common.kvstore.keys import Keys, last
from services.endpoint.cluster import records
from services.endpoint.cluster.identitybook import IdentityBook
from services.endpoint.policy.identity import LARGEST, LOCAL_SCOPE, SMALLEST
from services.endpoint.policy.labels import Labels

_log = telemetry.logger("identities")

SYNC = "sync-identities"
_ATTEMPTS = 16
# An ADD waits for a number no longer than this: a runtime waits for the ADD.
_PATIENCE = 2.0


class Registered(Protocol):
    """What is needed of registration.py."""

    async def require(self) -> None:
        """Return when this node may write. Raises FailedPrecondition, Unavailable."""


class ClusterIdentities:
    """A backend (`identities.Backend`), and a component: `start` begins to follow the store."""

    def __init__(
        self,
        kvstore: Kvstore,
        keys: Keys,
        node: str,
        *,
        registration: Registered,
        own: controllers.Manager,
        grace: float,
        interval: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Wire. `grace`: for how many seconds a number is referred to after its last use; `interval`: how often, in
        seconds, the store is told again.
        """
        self._kvstore, self._keys, self._node = kvstore, keys, node
        self._registration, self._controllers = registration, own
        self._interval, self._clock = interval, clock
        self.book = IdentityBook(grace)
        self._told: asyncio.Queue[Mapping[int, Labels | None]] = asyncio.Queue()
        self._allocating = asyncio.Lock()
        self._referred: set[int] = set()
        """Numbers that the store knows as used here, under the lease that we have."""
        self._away = ""
        self._following: asyncio.Task[None] | None = None
        self.renumber: Callable[[int], None] = lambda _number: None
        """Called with a number whose endpoints are to get another one."""

    async def start(self) -> None:
        """Begin; the store need not be there."""
        self._kvstore.on_lease_lost(self._lease_lost)
        self._controllers.update(SYNC, Parameters(run=self.sync, interval=self._interval, interval_jitter=0.1))
        self._following = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        """End."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait((self._following,))

    def restore(self, known: Mapping[int, Labels], used: Mapping[int, int]) -> None:
        """Take over what an earlier run knew; `used` counts the endpoints of each."""
        self.book.restore(known, used, self._clock())

    def known(self) -> dict[int, Labels]:
        """Return all identities."""
        return self.book.known()

    def expires_in(self, number: int) -> float:
        """Return for how many seconds a number is kept although nobody here has it; 0: it is in use."""
        return self.book.expires_in(number, self._clock())

    def provisional(self, number: int) -> str:
        """Say why a number isn't to stay; empty: it is."""
        if number > LOCAL_SCOPE:
            return f"the kvstore has not given its labels a number yet: {self._away or 'it was not asked again'}"
        if number in self.book.conflicting():
            return f"the cluster's identity {number} is another one"
        return ""

    async def allocate(self, labels: Labels) -> int:
        """See IdentityBackend; where the store can't be asked the number is this node's own, `provisional`."""
        number = self.book.find(labels)
        if number is not None:
            return self._use(number)
        if self._away:
            return self.book.use_local(labels)
        try:
            async with asyncio.timeout(_PATIENCE):
                return await self.allocate_shared(labels)
        except TimeoutError:
            self._away = f"it has not answered in {_PATIENCE:g} s"
        except PodlaneError as error:
            self._away = error.message
        _log.warning("an identity of this node's own", labels=str(labels), why=self._away)
        return self.book.use_local(labels)

    async def allocate_shared(self, labels: Labels) -> int:
        """Return the cluster's number, with one more use of it. Raises Unavailable, FailedPrecondition, Exhausted."""
        await self._registration.require()
        async with self._allocating:
            for _ in range(_ATTEMPTS):
                number = self.book.find(labels) or await self._agree(labels)
                if number is not None:
                    self._away = ""
                    return self._use(number)
        raise Unavailable(f"no number for {labels} in {_ATTEMPTS} attempts: other nodes were faster each time")

    async def release(self, number: int) -> None:
        """See IdentityBackend."""
        for told in self.book.unuse(number, self._clock()):
            self._told.put_nowait(told)

    async def watch(self) -> AsyncIterator[Mapping[int, Labels | None]]:
        """See IdentityBackend."""
        yield self.known()
        while True:
            yield await self._told.get()

    async def expire(self) -> None:
        """Let go of numbers whose grace time is over: the controller `identity-gc`."""
        if gone := self.book.expire(self._clock()):
            self._told.put_nowait(gone)
        if self._referred - self.book.wanted(self._clock()):
            self._controllers.trigger(SYNC)

    async def sync(self) -> None:
        """Have the store know what this node uses, and not more: the controller `sync-identities`. Raises Unavailable,
        FailedPrecondition.
        """
        await self._registration.require()
        wanted = self.book.wanted(self._clock())
        for number in sorted(wanted - self._referred):
            await self._refer(number)
        for number in sorted(self._referred - wanted):
            await self._kvstore.delete(self._keys.identity_reference(number, self._node))
            self._referred.discard(number)
        self._away = ""

    # One number

    def _use(self, number: int) -> int:
        self.book.use(number)
        if number not in self._referred:
            self._controllers.trigger(SYNC)
        return number

    async def _agree(self, labels: Labels) -> int | None:
        """Return the number that the cluster has for labels, a new one if it has none; None: look again."""
        number, value = self.book.free(), self._keys.identity_value(labels.canonical)
        new = (
            Put(self._keys.identity(number), records.write_labels(labels)),
            Put(value, records.write_number(number)),
            self._reference(number),
        )
        if await self._kvstore.commit((Absent(self._keys.identity(number)), Absent(value)), new):
            self._referred.add(number)
            self.book.add(number, labels)
            return number
        there = await self._kvstore.get(value)
        if there is None:
            return None  # it was the number that somebody else has got
        return await self._adopt(records.read_number(there.key, there.value), labels)

    async def _adopt(self, number: int, labels: Labels) -> int | None:
        """Take over a number that another node has given to labels."""
        master = await self._kvstore.get(self._keys.identity(number))
        if master is None:
            # Half of it was removed by hand; the other half comes with the reference.
            self.book.add(number, labels)
            return number
        meant = records.read_labels(master.key, master.value)
        if meant != labels:
            # By hand, too: what the number means is what everybody's maps say.
            await self._kvstore.delete(self._keys.identity_value(labels.canonical))
            return None
        ours = self.book.labels(number)
        if ours is not None and ours != labels:
            self._saw(master.key, master)
            return None
        self.book.add(number, labels, master.revision)
        return number

    def _reference(self, number: int) -> Put:
        return Put(self._keys.identity_reference(number, self._node), "{}", leased=True)

    async def _refer(self, number: int) -> None:
        """Say that this node uses a number; put the number again where the store has lost it."""
        labels, revision = self.book.labels(number), self.book.revision(number)
        if labels is None:
            return
        key, value = self._keys.identity(number), self._keys.identity_value(labels.canonical)
        if revision and await self._kvstore.commit((Unchanged(key, revision),), (self._reference(number),)):
            self._referred.add(number)
            return
        master = await self._kvstore.get(key)
        if master is not None:
            self._saw(key, master)
            if records.read_labels(key, master.value) == labels:
                await self._kvstore.commit((Unchanged(key, master.revision),), (self._reference(number),))
                self._referred.add(number)
            return
        again = (
            Put(key, records.write_labels(labels)),
            Put(value, records.write_number(number)),
            self._reference(number),
        )
        if await self._kvstore.commit((Absent(key), Absent(value)), again):
            _log.warning(
                "the kvstore had lost an identity that is in use: put again", identity=number, labels=str(labels)
            )
            self._referred.add(number)
            return
        there = await self._kvstore.get(value)
        if there is not None and records.read_number(value, there.value) == number:
            await self._kvstore.commit((Absent(key), Unchanged(value, there.revision)), again)
        elif there is not None:
            # The same labels have another number by now: ours is nobody's any more.
            self.book.conflict(number, None)
            self._conflict(number)

    # What the store says

    async def _follow(self) -> None:
        first = True
        async for batch in self._kvstore.watch(self._keys.identities):
            self._away = ""
            if first:
                self._take(self._gone(batch))
            self._take(batch)
            first = False

    def _gone(self, listed: Batch) -> Batch:
        """Return what was known from an earlier run and isn't in the store."""
        keys = map(self._keys.identity, list(self.book.shared()))
        return {key: None for key in keys if key not in listed}

    def _take(self, batch: Batch) -> None:
        told: dict[int, Labels | None] = {}
        for key, entry in batch.items():
            for step in self._saw(key, entry, tell=False):
                if told.keys() & step.keys():  # a number that means something else now: it goes before it comes
                    self._told.put_nowait(told)
                    told = {}
                told.update(step)
        if told:
            self._told.put_nowait(told)
        if self.book.wanted(self._clock()) - self._referred:
            self._controllers.trigger(SYNC)

    def _saw(self, key: str, entry: Entry | None, *, tell: bool = True) -> list[Mapping[int, Labels | None]]:
        """Take one key in; return what is to be told, which `tell` does."""
        number = last(key)
        if not number.isdecimal() or not SMALLEST <= int(number) <= LARGEST:
            _log.warning("not an identity's key", key=key)
            return []
        try:
            labels = records.read_labels(key, entry.value) if entry is not None else None
        except InvalidArgument as error:
            _log.warning("not an identity", error=error.message)
            return []
        told = self.book.seen(int(number), labels, entry.revision if entry is not None else 0, self._clock())
        if labels is None:
            self._referred.discard(int(number))
        if int(number) in self.book.conflicting():
            self._conflict(int(number))
        for one in told if tell else ():
            self._told.put_nowait(one)
        return told

    def _conflict(self, number: int) -> None:
        _log.error("the cluster's identity is another one: endpoints get another number", identity=number)
        self._referred.discard(number)
        self.renumber(number)

    def _lease_lost(self) -> None:
        self._referred.clear()
        self._controllers.trigger(SYNC)
