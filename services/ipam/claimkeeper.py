"""The steps of a single claim: kvstore, disk and ledger, in an order that a kill can't hurt.

    take       row CLAIMING ─▶ compare-and-swap ─▶ look ─▶ row HELD ─▶ addresses are given out
    give back  nothing is given out ─▶ row RETURNING ─▶ key deleted, if it is still ours ─▶ no row
    lose       nothing is given out ─▶ row LOST

**Look** (`settle`): after the swap all claims are listed. That tells whether the key is ours, also when the swap's
answer was lost, and whether somebody else's claim overlaps it, which is another key and so can't be a condition: nodes
may have been given different sizes. Of two that overlap the one whose swap came later sees the other, gives its own up
and has given nothing out of it.

A claim is ours if its value names this node *and* this instance. What names our node with another instance is
somebody else's: a second node of our name, or ourselves before our disk was lost.

Calls come one at a time (`lock`). Not here: when (`clusterpool.py`).
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence

from services.common import telemetry
from services.common.errors import FailedPrecondition
from services.common.kvstore import Absent, Delete, Kvstore, Put, Unchanged
from services.common.kvstore.keys import Keys
from services.common.model import Address, Network
from services.ipam import claimchoice
from services.ipam.claimchoice import Holder, Holding
from services.ipam.claims import Claim, Claims, State, Usage
from services.ipam.claimstore import ClaimStore
from services.ipam.ledger import Ledger
from services.ipam.model import Clock
from services.ipam.ranges import Cluster, Pool, gateways, overlap

_log = telemetry.logger("claims")


class ClaimKeeper:
    """The claims of this node. Kvstore verbs raise Unavailable or FailedPrecondition, disk verbs Unavailable."""

    def __init__(
        self, pools: Sequence[Pool], ledger: Ledger, store: ClaimStore, kvstore: Kvstore, *, keys: Keys, clock: Clock
    ) -> None:
        """Wire; `load` reads."""
        self._clusters: Mapping[str, Cluster] = {pool.name: pool.cluster for pool in pools if pool.cluster is not None}
        self._configured = gateways(pools)
        self._ledger = ledger
        self._store = store
        self._kvstore, self._keys = kvstore, keys
        self._clock = clock
        self._changed: Callable[[], None] = lambda: None
        self.holder = Holder("", "")
        self.claims = Claims()
        self.lock = asyncio.Lock()

    def on_change(self, changed: Callable[[], None]) -> None:
        """Have a function called whenever ranges came or went."""
        self._changed = changed

    async def load(self, node: str) -> None:
        """Give out of what is held on disk, whether the kvstore answers or not. Raises CorruptState."""
        self.holder = Holder(node, await self._store.instance())
        self.claims = Claims(await self._store.load())
        for claim in self.claims.of(State.HELD):
            self._enter(claim)

    def usable(self, claim: Claim) -> bool:
        """Return whether the configuration still gives addresses out of a claim's range."""
        cluster = self._clusters.get(claim.pool)
        return cluster is not None and cluster.holds(claim.prefix)

    def gateway(self, family: int) -> Address | None:
        """Return the node's gateway; None before the first claim."""
        first = self.claims.gateways().get(family)
        return self._configured.get(family, first.first if first is not None else None)

    def kept(self, family: int) -> Network | None:
        """Return the range that the node's gateway comes from; None: there is none, or the configuration has it."""
        first = self.claims.gateways().get(family)
        return first.prefix if first is not None and family not in self._configured else None

    def usages(self, pool: str, family: int) -> list[Usage]:
        """Return how much of each range is in use that a pool has of a family now."""
        addresses, now = self._ledger.addresses(pool, family), self._clock.monotonic()
        cooling, used = addresses.cooling(now), addresses.used()
        return [
            Usage(claim, one.size - used[index] - cooling[index], addresses.idle_since(one.prefix), cooling[index])
            for index, one in enumerate(addresses.ranges)
            if (claim := self.claims.get(one.prefix)) is not None
        ]

    async def holdings(self) -> list[Holding]:
        """Return all claims of all nodes and pools, as of one revision."""
        entries = await self._kvstore.list(self._keys.claims)
        return [holding for entry in entries if (holding := claimchoice.read(self._keys, entry)) is not None]

    async def take(self, pool: str, prefix: Network, replaced: Holding | None = None) -> bool:
        """Claim a range that nobody has, or that `replaced` has; False when somebody was faster.

        Raises FailedPrecondition when this node is claiming it or giving it back already, or has one that overlaps it.
        """
        self._check_take(prefix)
        known = self.claims.get(prefix)
        if known is not None and known.state is State.HELD:
            await self.verify(known)
            known = self.claims.get(prefix)
        if known is not None:
            # The row of what is lost is the intent: `verify` finds out what becomes of it.
            holding = await self._claim_again(known, replaced)
            won = holding is not None and holding.holder == self.holder
            if won and known.state is State.LOST:
                await self._hold(known)
            return won
        first = self._clusters[pool].first(prefix)
        # What is excluded as a whole can still be claimed by name; it gives nothing out.
        claim = Claim(pool, prefix, State.CLAIMING, first or prefix.network_address, self._clock.wall())
        await self._record(claim)
        await self._swap(claim, replaced)
        return await self.settle(claim, await self.holdings())

    def _check_take(self, prefix: Network) -> None:
        for claim in self.claims:
            if overlap(claim.prefix, prefix) and (
                claim.prefix != prefix or claim.state in {State.CLAIMING, State.RETURNING}
            ):
                raise FailedPrecondition(
                    f"this node's claim of {claim.prefix} is {claim.state}, and overlaps {prefix}: see `podlane ipam "
                    "claims`, and try again once that is over",
                    range=prefix,
                )

    async def settle(self, claim: Claim, holdings: Iterable[Holding]) -> bool:
        """Find out what became of an intent: the claim is held, or there is none any more."""
        mine, others = self._split(claim, holdings)
        if mine is not None and others:
            _log.warning(
                "a claim is given up: another one overlaps it; give all nodes the same node_prefix and cluster_ranges",
                range=str(claim.prefix),
                other=str(others[0].prefix),
                node=others[0].holder.node,
            )
            await self._delete(mine)
            mine = None
        if mine is None:
            await self._forget(claim)
            return False
        await self._hold(claim)
        _log.info("claimed", range=str(claim.prefix), pool=claim.pool)
        return True

    async def verify(self, claim: Claim) -> None:
        """Compare a held or lost claim with the kvstore, and act on what is found."""
        holding = await self._look(claim)
        if holding is None:
            if claim.state is State.LOST and not self._ledger.holders(claim.prefix):
                await self._forget(claim)
                return
            holding = await self._claim_again(claim)
        if holding is None:
            return  # gone again: the next run looks
        if holding.holder != self.holder:
            await self._lose(claim, holding)
        elif claim.state is State.LOST:
            await self._hold(claim)
            _log.warning("a range that was lost is this node's again", range=str(claim.prefix), pool=claim.pool)

    async def _claim_again(self, claim: Claim, replaced: Holding | None = None) -> Holding | None:
        """Claim what pods here have addresses of, and return whose it is then."""
        await self._swap(claim, replaced)
        mine, others = self._split(claim, await self.holdings())
        if mine is None:
            return others[0] if others else None
        if others:
            await self._delete(mine)
            return others[0]
        _log.warning("a claim is made again", range=str(claim.prefix), pool=claim.pool)
        return mine

    async def give_back(self, claim: Claim) -> None:
        """Stop giving out of a held claim's range, and give the range back."""
        if self.usable(claim):
            self._ledger.remove_range(claim.pool, claim.prefix)
        try:
            returning = await self._record(claim, State.RETURNING)
        except BaseException:
            self._enter(claim)
            raise
        self._changed()
        await self.finish_return(returning)

    async def finish_return(self, claim: Claim) -> None:
        """Delete the key of a claim that is being given back, unless it is somebody else's by now."""
        holding = await self._look(claim)
        if holding is not None and holding.holder == self.holder:
            await self._delete(holding)
        await self._forget(claim)
        _log.info("given back", range=str(claim.prefix), pool=claim.pool)

    async def adopt(self, holdings: Iterable[Holding]) -> None:
        """Take over what is ours in the kvstore and not on disk: the answer to a swap came too late, or an old backup.

        What isn't needed is given back later, as any other claim.
        """
        listed = list(holdings)
        for holding in listed:
            if holding.holder != self.holder or self.claims.get(holding.prefix) is not None:
                continue
            cluster = self._clusters.get(holding.pool)
            first = cluster.first(holding.prefix) if cluster is not None else None
            first = first or holding.prefix.network_address
            claim = Claim(holding.pool, holding.prefix, State.HELD, first, holding.claimed)
            others = [one for one in listed if one is not holding and overlap(one.prefix, holding.prefix)]
            if others or any(overlap(one.prefix, holding.prefix) for one in self.claims):
                await self._delete(holding)
                continue
            await self._hold(claim)
            _log.warning("a claim of ours that was not on disk is taken over", range=str(claim.prefix))

    async def _swap(self, claim: Claim, replaced: Holding | None) -> bool:
        key = self._keys.claim(claim.pool, claim.prefix)
        condition = Absent(key) if replaced is None else Unchanged(key, replaced.revision)
        value = claimchoice.write(self.holder, claim.claimed)
        return await self._kvstore.commit([condition], [Put(key, value)])

    async def _delete(self, holding: Holding) -> None:
        await self._kvstore.commit([Unchanged(holding.key, holding.revision)], [Delete(holding.key)])

    async def _look(self, claim: Claim) -> Holding | None:
        entry = await self._kvstore.get(self._keys.claim(claim.pool, claim.prefix))
        return claimchoice.read(self._keys, entry) if entry is not None else None

    def _split(self, claim: Claim, holdings: Iterable[Holding]) -> tuple[Holding | None, list[Holding]]:
        """Return the claim's key if it is ours, and what overlaps it of others."""
        touching = [one for one in holdings if overlap(one.prefix, claim.prefix)]
        key = self._keys.claim(claim.pool, claim.prefix)
        mine = next((one for one in touching if one.key == key and one.holder == self.holder), None)
        return mine, [one for one in touching if one is not mine and one.holder != self.holder]

    async def _record(self, claim: Claim, state: State | None = None) -> Claim:
        """Write a claim, in another state; in memory it has that once it is on disk."""
        changed = claim.become(state) if state is not None else claim
        self.claims.check(changed)
        await self._store.put(changed)
        self.claims.put(changed)
        return changed

    async def _hold(self, claim: Claim) -> None:
        held = await self._record(self.claims.next_held(claim))
        self._enter(held)
        self._changed()

    async def _lose(self, claim: Claim, holding: Holding) -> None:
        if claim.state is State.LOST:
            if not self._ledger.holders(claim.prefix):
                await self._forget(claim)
            return
        if self.usable(claim):
            self._ledger.remove_range(claim.pool, claim.prefix)
        self._changed()
        _log.error(
            "a range of this node belongs to another node now: nothing is given out of it any more; delete the pods "
            "that have addresses of it",
            range=str(claim.prefix),
            pool=claim.pool,
            node=holding.holder.node,
            allocations=self._ledger.holders(claim.prefix),
        )
        await self._record(claim, State.LOST)

    async def _forget(self, claim: Claim) -> None:
        before = self.gateway(claim.family)
        await self._store.drop(claim.prefix)
        self.claims.drop(claim.prefix)
        if before != self.gateway(claim.family):
            self._move_gateway(claim.family)

    def _move_gateway(self, family: int) -> None:
        """Make the ranges anew around another gateway. Nobody has the old one, so nothing is allocated in them."""
        for claim in self.claims.of(State.HELD, family=family):
            if self.usable(claim):
                self._ledger.remove_range(claim.pool, claim.prefix)
                self._enter(claim)
        self._changed()

    def _enter(self, claim: Claim) -> None:
        gateway = self.gateway(claim.family)
        if self.usable(claim) and gateway is not None:
            self._ledger.add_range(claim.pool, self._clusters[claim.pool].claimed(claim.prefix, gateway))
