"""What a session with the loader begins with: all that policy is made of, and what a killed process has kept from it.

    filled      the resolver gets identities, documents, endpoints and other nodes' pods, once
    reconcile   maps that lack what was on disk get it, each by the digest that it has: nobody's work is undone

Prefixes are part of it: their table is made what is wanted. Nothing is sent where nothing is lacking.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from services.common.model import Address
from services.endpoint.cluster.records import IpRecord
from services.endpoint.observed import Datapath, PolicyChange, PolicyTarget
from services.endpoint.policy.desired import Delta
from services.endpoint.policy.identity import SMALLEST
from services.endpoint.policy.prefixes import PrefixChanges
from services.endpoint.policy.resolve import Resolver
from services.endpoint.registry import Registry, Selector

if TYPE_CHECKING:
    from services.endpoint.policies import Parts, Policies


class Session:
    """Makes up for what the kernel lacks."""

    def __init__(self, policies: "Policies", parts: "Parts") -> None:
        """Wire."""
        self._policies = policies
        self._parts = parts

    async def reconcile(self, datapaths: Iterable[Datapath]) -> bool:
        """Make up for changes that a killed process has kept from the kernel, in the order of all changes; return
        whether there were any. What a hand was in the loader leaves alone. Raises Exhausted, Unavailable.
        """
        known, wanted = await self._parts.loader.prefixes(), self._policies.resolver.prefixes().numbers()
        prefixes = PrefixChanges(
            {network: number for network, number in wanted.items() if known.get(network) != number},
            {network: number for network, number in known.items() if network not in wanted},
        )
        changes = [change for one in datapaths if (change := await self._behind(one)) is not None]
        if not changes and not any(prefixes):
            return False
        await self._parts.loader.update_policies(changes, prefixes)
        await self._parts.loader.sync_prefixes(wanted)
        return True

    async def catch_up(self) -> bool:
        """Do that with what the loader has now."""
        return await self.reconcile(await self._parts.loader.datapaths())

    async def _behind(self, datapath: Datapath) -> PolicyChange | None:
        """Return what a map that is there lacks; None: nothing, or nobody can tell."""
        managed, digest = self._parts.registry.find(Selector(id=datapath.id)), self._policies.wanted_digest(datapath.id)
        if managed is None or digest in {None, datapath.policy_digest} or not datapath.policy_digest:
            return None
        there = set(await self._parts.loader.policy(datapath.id))
        asked = set(self._policies.wanted(datapath.id).entries())
        delta = Delta(tuple(sorted(asked - there)), tuple(sorted(there - asked)))
        target = PolicyTarget(datapath.id, datapath.generation, datapath.policy_digest, digest or b"")
        return PolicyChange(delta, (target,))


def filled(resolver: Resolver, policies: "Policies", registry: Registry, peers: Mapping[Address, IpRecord]) -> Resolver:
    """Return the resolver with all that is known; `peers` are pods of other nodes."""
    for number, labels in policies.backend.known().items():
        resolver.put_identity(number, labels)
    for policy in policies.repository.policies().values():
        resolver.put_policy(policy)
    for managed in registry:
        endpoint = managed.endpoint
        if endpoint.identity >= SMALLEST and resolver.labels(endpoint.identity) is None:
            resolver.put_identity(endpoint.identity, endpoint.identity_labels)
        resolver.put_endpoint(endpoint.id, endpoint.identity, policies.who(endpoint).named_ports)
    for address, record in peers.items():
        resolver.put_peer(str(address), record.identity, record.ports)
    resolver.settle()
    return resolver
