"""The verbs of ipam: on disk before they are answered, one at a time per owner, finished although the caller hangs up.

Order of every change, so that memory never promises what the disk doesn't hold:

    allocate   take in memory (nobody else can) → commit → answer;  commit failed → put back → error
    confirm    commit → memory → answer, and so is its taking back
    release    commit → memory (only now can others get it) → answer
    expiry     is a release, by a controller at the deadline and also whenever an allocation finds nothing left

An allocation that finds nothing even so waits a moment for another range, where there may be one (`supply.py`).

Not here: which address comes next (`pool.py`), what a request may ask (`space.py`).
"""

import asyncio
import time
from dataclasses import replace

from services.common import telemetry
from services.common.controller_parameters import Parameters
from services.common.controllers import Manager, Registry
from services.common.errors import AlreadyExists, Exhausted, FailedPrecondition, NotFound
from services.common.lifecycle import Shielded
from services.common.locks import KeyedLocks
from services.common.model import Attachment
from services.common.stopwatch import Stopwatch
from services.ipam.ledger import Ledger, Reservation
from services.ipam.model import Allocation, AllocationRequest, Clock, PoolStatus, purpose_of
from services.ipam.store import Store
from services.ipam.supply import Configured, Supply

_log = telemetry.logger("allocator")

# Expiries that share a commit; a whole /16 of them must not be one transaction.
_BATCH = 256
# The controller that gives back what nobody confirmed.
_EXPIRY = "expire-reservations"
# After a failed expiry: the disk may come back.
_RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 1.0, 30.0
# How long an allocation waits for another range, if its caller waits longer.
PATIENCE = 5.0
# Names in the warning about stranded allocations; the rest is a number.
_SHOWN = 10


class Allocator:
    """A component: `start` reads the disk and begins to expire, `stop` waits for what runs."""

    def __init__(
        self, ledger: Ledger, store: Store, clock: Clock, controllers: Registry, supply: Supply | None = None
    ) -> None:
        """Wire the parts. `controllers` gets the one that expires reservations; `supply` None: no more ranges come."""
        self._ledger = ledger
        self._store = store
        self._clock = clock
        self._supply = supply or Configured()
        self._owners = KeyedLocks()
        self.shielded = Shielded()
        """What must be finished although its caller hangs up; `stop` waits for it."""
        self._controllers = Manager("ipam", controllers)
        self.early_reuses = 0
        """Addresses given out before their cool-down had passed, since the start."""

    async def start(self) -> None:
        """Read what is on disk and begin to expire reservations. Raises CorruptState or Unavailable."""
        allocations, releases = await self._store.load()
        stranded = self._ledger.restore(allocations, releases)
        _log.info("restored", allocations=len(allocations), released=len(releases), stranded=len(stranded))
        if stranded:
            _log.warning(
                "allocations that no range of the configuration holds: they are kept until their owners release them",
                count=len(stranded),
                first=[f"{held.owner}: {held.describe()} (pool {held.pool})" for held in stranded[:_SHOWN]],
            )
        expiry = Parameters(self._expire_due, retry_base=_RETRY_SECONDS, retry_cap=_LONGEST_RETRY_SECONDS)
        self._controllers.update(_EXPIRY, expiry)

    async def stop(self) -> None:
        """Stop expiring and wait for the verbs that run."""
        await self._controllers.remove_all()
        await self.shielded.stop()

    async def allocate(
        self, request: AllocationRequest, patience: float = PATIENCE, watch: Stopwatch | None = None
    ) -> tuple[Allocation, bool]:
        """Return what the owner holds and whether it is new; wait up to `patience` seconds for another range. `watch`
        measures `lock`, `choose` and `store`.

        Raises NotFound (pool), InvalidArgument, AlreadyExists (a requested address is held by another owner),
        FailedPrecondition (this owner holds other than what is asked for), Exhausted, Unavailable (disk, or no range
        was claimed yet).
        """
        return await self.shielded.run(self._allocate(request, patience, watch or Stopwatch()))

    async def confirm(self, owner: Attachment, endpoint_id: int) -> Allocation:
        """Make a reservation permanent; a repeat by the same endpoint changes nothing. `endpoint_id` 0: ipam only.

        Raises NotFound (nothing held: it has expired), AlreadyExists (it is confirmed for somebody else), Unavailable.
        """
        return await self.shielded.run(self._confirm(owner, endpoint_id))

    async def unconfirm(self, owner: Attachment, endpoint_id: int) -> Allocation | None:
        """Make what an endpoint has confirmed a reservation again and return what the owner holds now.

        What nobody, or another endpoint, has confirmed is left as it is. Raises Unavailable.
        """
        return await self.shielded.run(self._unconfirm(owner, endpoint_id))

    async def release(
        self, owner: Attachment, endpoint_id: int = 0, *, without_endpoint: bool = False
    ) -> Allocation | None:
        """Take back what the owner holds and return it; None when that is nothing.

        `endpoint_id` 0: whoever confirmed it, if anybody did; else FailedPrecondition when it wasn't that endpoint.
        `without_endpoint`: what an endpoint has is left as it is. Raises Unavailable.
        """
        return await self.shielded.run(self._release(owner, endpoint_id, without_endpoint=without_endpoint))

    async def expire(self) -> int:
        """Release every reservation whose time has come and return how many those were. Raises Unavailable."""
        return await self.shielded.run(self._expire())

    async def page(self, pool: str, owner: Attachment | None, after: int, size: int) -> list[Allocation]:
        """Return allocations with an id beyond `after`, as they are on disk."""
        return await self._store.page(pool, owner, after, size)

    def status(self) -> list[PoolStatus]:
        """Return how full each pool is, and what is wrong with it."""
        return [replace(pool, problems=self._supply.problems(pool.name)) for pool in self._ledger.status()]

    def mtu(self, pool: str) -> int:
        """Return a pool's MTU in bytes; 0 when the node's is to be used, or the pool is not configured any more."""
        found = self._ledger.pool(pool)
        return found.mtu if found is not None else 0

    async def _allocate(self, request: AllocationRequest, patience: float, watch: Stopwatch) -> tuple[Allocation, bool]:
        asked = time.perf_counter_ns()
        async with self._owners.hold(request.owner):
            watch.add("lock", asked)
            held = self._ledger.held_by(request.owner)
            if held is not None:
                self._ledger.check_repeat(held, request)
                return await self._fresh_enough(held), False
            with watch.phase("choose"):
                reservation = await self._reserve(request, patience)
            self._supply.taken(reservation.allocation.pool)
            try:
                with watch.phase("store"):
                    await self._store.add(reservation.allocation, reservation.reused)
            except BaseException:
                self._ledger.undo(reservation)
                raise
            self._plan_expiry()
            return reservation.allocation, True

    async def _reserve(self, request: AllocationRequest, patience: float) -> Reservation:
        try:
            reservation = self._ledger.reserve(request)
        except Exhausted:
            # Waits for other owners' locks while holding one: no cycle, because who comes here holds nothing that
            # could expire, so nobody waits for this lock from there.
            await self._expire()
            reservation = await self._reserve_when_there_is_more(request, patience)
        if reservation.too_early:
            self.early_reuses += len(reservation.too_early)
            _log.warning(
                "nothing else was left: an address is given out before its cool-down has passed",
                owner=str(request.owner),
                addresses=[str(address) for address in reservation.too_early],
                early_reuses=self.early_reuses,
            )
        return reservation

    async def _reserve_when_there_is_more(self, request: AllocationRequest, patience: float) -> Reservation:
        until, hope = self._clock.monotonic() + patience, True
        while True:
            try:
                return self._ledger.reserve(request)
            except Exhausted as error:
                pool, left = error.fields["pool"], until - self._clock.monotonic()
                if not hope or left <= 0:
                    raise self._supply.refusal(pool, error) from None
            hope = await self._supply.more(pool, left)

    async def _fresh_enough(self, held: Allocation) -> Allocation:
        """Give a reservation that is handed out again the time that a new one would have."""
        if not self._ledger.wears_out(held):
            return held
        renewed = self._ledger.renewed(held)
        await self._store.update(renewed)
        self._ledger.put(renewed)
        return renewed

    async def _confirm(self, owner: Attachment, endpoint_id: int) -> Allocation:
        async with self._owners.hold(owner):
            held = self._ledger.held_by(owner)
            if held is None:
                raise NotFound(
                    f"{owner} holds no addresses: its reservation has expired or was released; allocate again",
                    owner=owner,
                )
            if held.confirmed is not None and held.endpoint_id == endpoint_id:
                return held
            if held.confirmed is not None:
                raise AlreadyExists(
                    f"{owner} holds {held.describe()} {held.purpose}, not {purpose_of(endpoint_id)}: release it first "
                    "(ReleaseAddresses)",
                    owner=owner,
                    endpoint_id=held.endpoint_id,
                )
            confirmed = self._ledger.confirmed(held, endpoint_id)
            await self._store.update(confirmed)
            self._ledger.put(confirmed)
            return confirmed

    async def _unconfirm(self, owner: Attachment, endpoint_id: int) -> Allocation | None:
        async with self._owners.hold(owner):
            held = self._ledger.held_by(owner)
            if held is None or held.confirmed is None or held.endpoint_id != endpoint_id:
                return held
            reserved = self._ledger.unconfirmed(held)
            await self._store.update(reserved)
            self._ledger.put(reserved)
            self._plan_expiry()
            return reserved

    async def _release(self, owner: Attachment, endpoint_id: int, *, without_endpoint: bool) -> Allocation | None:
        async with self._owners.hold(owner):
            held = self._ledger.held_by(owner)
            if held is not None and without_endpoint and held.endpoint_id:
                return None
            if held is not None and endpoint_id not in {0, held.endpoint_id}:
                raise FailedPrecondition(
                    f"{owner} holds {held.describe()} {held.purpose}, not {purpose_of(endpoint_id)}: they were given "
                    "out again",
                    owner=owner,
                    endpoint_id=held.endpoint_id,
                )
            if held is not None:
                await self._store.remove(held, self._clock.wall())
                self._ledger.release(held)
            return held

    async def _expire(self) -> int:
        expired = 0
        due = self._ledger.due()
        for start in range(0, len(due), _BATCH):
            results = await asyncio.gather(*map(self._expire_one, due[start : start + _BATCH]), return_exceptions=True)
            expired += sum(result is True for result in results)
            for result in results:
                if isinstance(result, BaseException):
                    raise result
        return expired

    async def _expire_one(self, owner: Attachment) -> bool:
        async with self._owners.hold(owner):
            held = self._ledger.held_by(owner)
            # It may have been confirmed, renewed or released while this waited.
            if held is None or not self._ledger.is_due(owner):
                return False
            await self._store.remove(held, self._clock.wall())
            self._ledger.release(held)
        _log.info("expired", owner=str(owner), pod=str(held.pod), addresses=held.describe(), pool=held.pool)
        return True

    async def _expire_due(self) -> None:
        await self.expire()
        self._plan_expiry()

    def _plan_expiry(self) -> None:
        """Expire when the soonest reservation does; new ones can only expire later, so mostly this changes nothing."""
        deadline = self._ledger.next_deadline()
        if deadline is not None:
            self._controllers.trigger(_EXPIRY, max(0.0, deadline - self._clock.monotonic()))
