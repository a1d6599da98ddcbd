"""What an operator does to claims: look at all of them, take one over from a node that is gone for good, give one back.

Nothing here happens by itself. A node that is silent may be alive, with pods that use its addresses; only a person
knows that it is dead, and says so.

A node counts as alive while it is registered in the kvstore (`nodes/v1/<node>`), which outlives it by its lease.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from services.common import telemetry
from services.common.errors import FailedPrecondition, InvalidArgument, NotFound, PodlaneError
from services.common.kvstore import Kvstore
from services.common.kvstore.keys import Keys, last
from services.common.model import Network
from services.ipam.claimchoice import Holding
from services.ipam.claimkeeper import ClaimKeeper
from services.ipam.claims import State
from services.ipam.ledger import Ledger
from services.ipam.ranges import Cluster, Pool, overlap

_log = telemetry.logger("claims")


class Whose(StrEnum):
    """What a claim is to this node."""

    CLAIMING = "claiming"
    HELD = "held"
    RETURNING = "returning"
    LOST = "lost"
    OTHER = "other"
    """Another node's, which is registered."""
    ABSENT = "absent"
    """Another node's, which is not registered: it is down, or gone for good."""
    STRANGER = "stranger"
    """Of this node's name and another instance: a second node of the name, or this one before its disk was lost."""


@dataclass(frozen=True, slots=True)
class ClaimView:
    """One claim as the kvstore or this node's disk has it."""

    pool: str
    prefix: Network
    node: str
    instance: str
    claimed: float
    """Seconds since the epoch; 0: not known."""
    whose: Whose
    allocations: int = 0
    """Of this node's allocations, those that have an address or their gateway of it."""
    gateway: bool = False
    """This node's gateway is of it."""


class ClaimOperations:
    """The verbs. Each raises Unavailable or FailedPrecondition when the kvstore can't be asked."""

    def __init__(
        self, pools: Sequence[Pool], keeper: ClaimKeeper, ledger: Ledger, kvstore: Kvstore, keys: Keys
    ) -> None:
        """Wire."""
        self._clusters = {pool.name: pool.cluster for pool in pools if pool.cluster is not None}
        self._keeper = keeper
        self._ledger = ledger
        self._kvstore, self._keys = kvstore, keys

    async def views(self) -> tuple[list[ClaimView], str]:
        """Return all claims that are known, by pool and range, and why those of others are missing, if they are."""
        error, holdings, nodes = "", [], frozenset[str]()
        try:
            holdings, nodes = await self._keeper.holdings(), await self._nodes()
        except PodlaneError as problem:
            error = problem.message
        found = [self._other(holding, nodes) for holding in holdings if holding.holder != self._keeper.holder]
        known = {(holding.pool, holding.prefix): holding for holding in holdings}
        gateways = {claim.prefix for claim in self._keeper.claims.gateways().values()}
        for claim in self._keeper.claims:
            holder = self._keeper.holder
            if claim.state is State.LOST and (claim.pool, claim.prefix) in known:
                holder = known[claim.pool, claim.prefix].holder
                found = [one for one in found if (one.pool, one.prefix) != (claim.pool, claim.prefix)]
            found.append(
                ClaimView(
                    claim.pool,
                    claim.prefix,
                    holder.node,
                    holder.instance,
                    claim.claimed,
                    Whose(claim.state),
                    self._ledger.holders(claim.prefix),
                    claim.prefix in gateways,
                )
            )
        order = sorted(found, key=lambda one: (one.pool, one.prefix.version, int(one.prefix.network_address)))
        return order, error

    async def take_over(self, prefix: Network, node: str, *, force: bool) -> ClaimView:
        """Make this node the holder of a range that `node` has claimed and will never use again.

        Raises InvalidArgument (no such pool, or ours), NotFound (no claim), FailedPrecondition (another holder, or it
        is alive and not `force`; somebody was faster).
        """
        async with self._keeper.lock:
            pool, _ = self._pool(prefix)
            holding = await self._held_by(prefix, node)
            if not force and node in await self._nodes():
                raise FailedPrecondition(
                    f"node {node!r} is registered in the kvstore ({self._keys.node(node)}), so it is alive or was a "
                    "moment ago: its pods use the addresses that would be given out again; wait until its lease has "
                    "expired, or use --force if you know better",
                    node=node,
                    range=prefix,
                )
            taken = await self._keeper.take(pool, prefix, holding)
        if not taken:
            raise FailedPrecondition(f"{prefix} has changed hands meanwhile: see `podlane ipam claims`", range=prefix)
        _log.warning("an operator took a claim over", range=str(prefix), node=node, forced=force)
        return next(one for one in (await self.views())[0] if one.prefix == prefix)

    async def release(self, prefix: Network) -> None:
        """Give one of this node's claims back now.

        Raises NotFound (not this node's), FailedPrecondition (in use, the gateway's, or it would be claimed again).
        """
        async with self._keeper.lock:
            claim = self._keeper.claims.get(prefix)
            if claim is None or claim.state is not State.HELD:
                raise NotFound(
                    f"this node holds no claim of {prefix}: see `podlane ipam claims`; what a dead node has is taken "
                    "over by `podlane ipam takeover`",
                    range=prefix,
                )
            if self._keeper.usable(claim):
                self._check_release(prefix, claim.pool)
            elif count := self._ledger.holders(prefix):
                raise FailedPrecondition(f"{count} allocations need {prefix}: delete their pods first", range=prefix)
            await self._keeper.give_back(claim)
        _log.info("an operator gave a claim back", range=str(prefix))

    def _check_release(self, prefix: Network, pool: str) -> None:
        if prefix == self._keeper.kept(prefix.version):
            raise FailedPrecondition(
                f"{prefix} has this node's gateway, so it stays for as long as the node lives; once the node is gone "
                "for good take it over from another one",
                range=prefix,
            )
        usages = {usage.claim.prefix: usage for usage in self._keeper.usages(pool, prefix.version)}
        usage, spare = usages[prefix], self._clusters[pool].spare
        if usage.idle_since is None or usage.cooling:
            raise FailedPrecondition(
                f"{prefix} has {self._ledger.holders(prefix)} allocations and {usage.cooling} addresses that cool "
                "down: delete the pods and wait",
                range=prefix,
            )
        elsewhere = sum(one.free for one in usages.values()) - usage.free
        if elsewhere < spare:
            raise FailedPrecondition(
                f"without {prefix} only {elsewhere} addresses are free, fewer than spare = {spare}: another range "
                "would be claimed at once",
                range=prefix,
            )

    def _pool(self, prefix: Network) -> tuple[str, Cluster]:
        for name, cluster in self._clusters.items():
            if cluster.holds(prefix):
                return name, cluster
        known = ", ".join(str(one) for cluster in self._clusters.values() for one in cluster.ranges)
        raise InvalidArgument(f"range: {prefix} is in none of the cluster_ranges ({known})", field="range")

    async def _held_by(self, prefix: Network, node: str) -> Holding:
        holdings = [one for one in await self._keeper.holdings() if overlap(one.prefix, prefix)]
        exact = [one for one in holdings if one.prefix == prefix and one.pool == self._pool(prefix)[0]]
        if not exact:
            near = f"; {holdings[0].prefix} is, by node {holdings[0].holder.node!r}" if holdings else ""
            raise NotFound(f"{prefix} is not claimed{near}: see `podlane ipam claims`", range=prefix)
        holding = exact[0]
        if holding.holder == self._keeper.holder:
            raise InvalidArgument(f"range: {prefix} is this node's own already", field="range")
        if holding.holder.node != node:
            raise FailedPrecondition(
                f"{prefix} is claimed by node {holding.holder.node!r}, not by {node!r}: see `podlane ipam claims`",
                range=prefix,
                node=holding.holder.node,
            )
        return holding

    async def _nodes(self) -> frozenset[str]:
        return frozenset(last(entry.key) for entry in await self._kvstore.list(self._keys.nodes))

    def _other(self, holding: Holding, nodes: frozenset[str]) -> ClaimView:
        holder = holding.holder
        whose = Whose.OTHER if holder.node in nodes else Whose.ABSENT
        if holder.node == self._keeper.holder.node:
            whose = Whose.STRANGER
        return ClaimView(holding.pool, holding.prefix, holder.node, holder.instance, holding.claimed, whose)
