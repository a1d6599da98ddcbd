"""Cluster pools: this node's ranges are claimed in the kvstore, ahead of need. The controller `cluster-pool`.

    run:  intents of before ─▶ claim while a pool is short ─▶ compare what is held ─▶ give back what is too much

A pool is short of a family when fewer than `spare` addresses are free beside those that requests wait for. An
allocation that leaves it short triggers a run and waits for nothing; one that finds nothing at all waits for a range,
or for the end of a run that began after it asked, whichever is first. Whatever else happens to the kvstore is not in
the way of an allocation: what is held is on disk, and is given out of whether the kvstore answers or not.

A run that fails is retried until it succeeds, as long as something is missing: an exhausted cluster shows as a failing
controller with the numbers.

Each run reads this node's own keys, and all claims only when it makes one: at 5,000 nodes that is what etcd is asked.

Not here: the steps of one claim (`claimkeeper.py`), which range (`claimchoice.py`), how many (`claims.py`).
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence

from services.common.controller_parameters import Parameters
from services.common.controllers import Manager, Registry
from services.common.errors import Exhausted, PodlaneError, Unavailable
from services.ipam import claimchoice, claims
from services.ipam.claimkeeper import ClaimKeeper
from services.ipam.claims import State
from services.ipam.ledger import Ledger
from services.ipam.model import FAMILIES, Clock
from services.ipam.ranges import Cluster, Pool

CONTROLLER = "cluster-pool"
# Another node was faster this often in a row: something else is wrong.
_RACES = 64
_RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 0.1, 30.0


class ClusterPools:
    """A component: `start` gives out of what is on disk. `begin` claims; `halt` ends that."""

    def __init__(
        self,
        pools: Sequence[Pool],
        keeper: ClaimKeeper,
        ledger: Ledger,
        *,
        clock: Clock,
        registry: Registry,
        node: str,
        interval: float,
        changed: Callable[[], None],
    ) -> None:
        """Wire. `interval`: seconds from one comparison with the kvstore to the next; `changed` is told of ranges."""
        self._pools = {pool.name: pool.cluster for pool in pools if pool.cluster is not None}
        self._keeper = keeper
        self._ledger = ledger
        self._clock = clock
        self._node = node
        self._interval = interval
        self._changed = changed
        self._controllers = Manager("ipam", registry)
        self._runs = 0
        self._waiting: Counter[str] = Counter()
        self._waiters: dict[asyncio.Future[bool], int] = {}
        self._adopted = False
        self.problem: PodlaneError | None = None
        """Why the last run failed."""

    async def start(self) -> None:
        """Put the claims on disk in force. Raises CorruptState, Unavailable."""
        await self._keeper.load(self._node)

    async def begin(self) -> None:
        """Begin to claim; the ledger has its allocations by now, and what has none may be given back."""
        self._keeper.on_change(self._ranges_changed)
        parameters = Parameters(
            self._run,
            interval=self._interval,
            interval_jitter=0.1,
            retry_base=_RETRY_SECONDS,
            retry_cap=_LONGEST_RETRY_SECONDS,
        )
        self._controllers.update(CONTROLLER, parameters)

    async def halt(self) -> None:
        """End that; what is held stays held."""
        await self._controllers.halt()

    async def stop(self) -> None:
        """Nothing to do."""

    def taken(self, pool: str) -> None:
        """Have another range claimed if an allocation left a pool short; costs next to nothing while it isn't."""
        cluster = self._pools.get(pool)
        # A controller that fails is retried by itself; not by each pod that comes.
        if cluster is not None and self.problem is None and any(self._short(pool, cluster)):
            self._controllers.trigger(CONTROLLER)

    async def more(self, pool: str, patience: float) -> bool:
        """Wait until a range has come, a run that began after this call has ended, or `patience` seconds are over.

        False: the run found nothing, or it takes too long.
        """
        if pool not in self._pools:
            return False
        waiter = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = self._runs
        self._waiting[pool] += 1
        self._controllers.trigger(CONTROLLER)
        try:
            await asyncio.wait((waiter,), timeout=patience)
        finally:
            self._waiting[pool] -= 1
            del self._waiters[waiter]
        return waiter.done() and waiter.result()

    def refusal(self, pool: str, error: Exhausted) -> PodlaneError:
        """Return what an allocation is told that has found nothing and waited in vain."""
        if pool not in self._pools:
            return error
        why = self.problem.message if self.problem is not None else "the claim takes longer than the caller waits"
        for family in self._families(pool):
            if not any(self._ledger.addresses(pool, family).ranges):
                return Unavailable(
                    f"pool {pool!r} has no {FAMILIES[family]} range on node {self._node!r} yet: it waits for a pod "
                    f"CIDR from the kvstore: {why}",
                    pool=pool,
                    family=FAMILIES[family],
                )
        return Exhausted(f"{error.message}; no further range could be claimed: {why}", **error.fields)

    def problems(self, pool: str) -> tuple[str, ...]:
        """Return what is wrong with a pool's claims, one sentence each."""
        found = [
            f"{claim.prefix} belongs to another node now, and {self._ledger.holders(claim.prefix)} allocations here "
            "have addresses or their gateway of it: delete those pods (podlane ipam list, podlane ipam claims)"
            for claim in self._keeper.claims.of(State.LOST, pool=pool)
        ]
        found += [
            f"no {FAMILIES[family]} range is claimed yet: it waits for a pod CIDR from the kvstore"
            for family in self._families(pool)
            if not any(self._ledger.addresses(pool, family).ranges)
        ]
        if pool in self._pools and self.problem is not None:
            found.append(self.problem.message)
        return tuple(found)

    def counts(self) -> Counter[tuple[str, str]]:
        """Return how many claims there are, by pool and state."""
        return Counter((claim.pool, claim.state.value) for claim in self._keeper.claims)

    def free(self) -> dict[tuple[str, int], int]:
        """Return how many addresses are free in the claims, by pool and family."""
        now = self._clock.monotonic()
        return {
            (pool, family): self._ledger.addresses(pool, family).free(now)
            for pool in self._pools
            for family in self._families(pool)
        }

    async def _run(self) -> None:
        self._runs += 1
        run = self._runs
        try:
            async with self._keeper.lock:
                await self._all_steps()
        except PodlaneError as error:
            self.problem = error
            if not isinstance(error, Exhausted):
                # An answer that was lost may have been a claim: look for it.
                self._adopted = False
            raise
        else:
            self.problem = None
        finally:
            self._wake(run - 1, self.problem is None)

    async def _all_steps(self) -> None:
        await self._finish_intents()
        full: Exhausted | None = None
        try:
            await self._supply()
        except Exhausted as error:
            full = error
        for claim in self._keeper.claims.of(State.HELD, State.LOST):
            await self._keeper.verify(claim)
        await self._give_back()
        if full is not None:
            raise full

    async def _finish_intents(self) -> None:
        claiming = self._keeper.claims.of(State.CLAIMING)
        if claiming or not self._adopted:
            holdings = await self._keeper.holdings()
            for claim in claiming:
                await self._keeper.settle(claim, holdings)
            await self._keeper.adopt(holdings)
            self._adopted = True
        for claim in self._keeper.claims.of(State.RETURNING):
            await self._keeper.finish_return(claim)

    async def _supply(self) -> None:
        """Claim until no pool is short. Raises Exhausted, after all pools had their turn."""
        full: Exhausted | None = None
        for pool, cluster in self._pools.items():
            for family in self._families(pool):
                try:
                    while self._is_short(pool, cluster, family):
                        await self._claim(pool, cluster, family)
                except Exhausted as error:
                    full = full or error
        if full is not None:
            raise full

    async def _claim(self, pool: str, cluster: Cluster, family: int) -> None:
        for _ in range(_RACES):
            holdings = await self._keeper.holdings()
            taken = [one.prefix for one in holdings] + [one.prefix for one in self._keeper.claims]
            prefix = claimchoice.choose(cluster, family, taken, self._node)
            if prefix is None:
                told = claimchoice.tell(cluster, family, holdings)
                raise Exhausted(
                    f"pool {pool!r}: {told}; add cluster_ranges on all nodes, or take over what nodes left that are "
                    "gone for good (podlane ipam claims, podlane ipam takeover)",
                    pool=pool,
                    family=FAMILIES[family],
                )
            if await self._keeper.take(pool, prefix):
                return
        raise Unavailable(f"pool {pool!r}: other nodes were faster {_RACES} times in a row; it is tried again")

    async def _give_back(self) -> None:
        for pool, cluster in self._pools.items():
            for family in self._families(pool):
                while not self._waiting[pool]:
                    usages = self._keeper.usages(pool, family)
                    after, kept = cluster.release_after, self._keeper.kept(family)
                    claim = claims.spare_claim(usages, kept, cluster.spare, self._clock.monotonic(), after)
                    if claim is None:
                        break
                    await self._keeper.give_back(claim)
        for claim in self._keeper.claims.of(State.HELD):
            # What the configuration doesn't know any more goes as soon as no pod needs it.
            if not self._keeper.usable(claim) and not self._ledger.holders(claim.prefix):
                await self._keeper.give_back(claim)

    def _families(self, pool: str) -> tuple[int, ...]:
        cluster = self._pools.get(pool)
        return tuple(family for family in FAMILIES if cluster is not None and cluster.of(family))

    def _short(self, pool: str, cluster: Cluster) -> list[bool]:
        return [self._is_short(pool, cluster, family) for family in self._families(pool)]

    def _is_short(self, pool: str, cluster: Cluster, family: int) -> bool:
        addresses, waiting = self._ledger.addresses(pool, family), self._waiting[pool]
        if not claims.is_short(addresses.surely_free(), cluster.spare, waiting):
            return False
        return claims.is_short(addresses.free(self._clock.monotonic()), cluster.spare, waiting)

    def _ranges_changed(self) -> None:
        self._wake(self._runs, True)
        self._changed()

    def _wake(self, run: int, hope: bool) -> None:
        """Wake whoever has waited since that run or one before, and say whether to wait again may help."""
        for waiter, since in self._waiters.items():
            if since <= run and not waiter.done():
                waiter.set_result(hope)
