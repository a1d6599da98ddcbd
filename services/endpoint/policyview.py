"""What people ask of policy and nothing is changed by: differences, explanations, identities.

An explanation says what is decided and why, from what the resolver knows; and then the programs in force are asked
about such a packet (`ProbeEndpoint`), so that it is an answer about the kernel and no theory.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from services.common.errors import InvalidArgument, PodlaneError
from services.common.model import Address, Network
from services.endpoint.managed import ManagedEndpoint
from services.endpoint.model import Endpoint
from services.endpoint.observed import Flow, Probe, ProbePacket
from services.endpoint.peers import Loader
from services.endpoint.policies import Policies
from services.endpoint.policy import diff
from services.endpoint.policy.diff import Difference, Opened
from services.endpoint.policy.entry import Direction
from services.endpoint.policy.explain import Explanation, Party, explain
from services.endpoint.policy.identity import Reserved
from services.endpoint.policy.labels import Labels
from services.endpoint.policy.networkpolicy import PolicyName
from services.endpoint.policychange import Change, Tried
from services.endpoint.registry import Registry, Selector

_SHOWN = (Reserved.HOST, Reserved.WORLD, Reserved.INIT)
"""The reserved identities that a packet can have here."""


class End(NamedTuple):
    """An end of a packet: one of the three."""

    endpoint: Selector | None = None
    address: Address | None = None
    node: bool = False


@dataclass(frozen=True, slots=True)
class EndpointDiff:
    """What would change for an endpoint, and the live flows that would be cut, in words."""

    endpoint: Endpoint
    difference: Difference
    cut: tuple[tuple[Flow, str], ...]


@dataclass(frozen=True, slots=True)
class Explained:
    """An explanation, and what the programs in force did; `probe` None: they could not be asked, `unchecked` why."""

    explanation: Explanation
    probe: Probe | None
    unchecked: str
    agrees: bool


@dataclass(frozen=True, slots=True)
class IdentityView:
    """An identity with who has it and which policies see it."""

    id: int
    labels: Labels | None = None
    prefix: Network | None = None
    endpoints: tuple[int, ...] = ()
    policies: tuple[PolicyName, ...] = ()
    expires_in: float = 0.0


class PolicyView:
    """Answers."""

    def __init__(self, policies: Policies, registry: Registry, loader: Loader) -> None:
        """Wire."""
        self._policies = policies
        self._registry = registry
        self._loader = loader

    async def differences(self, change: Change, source: str) -> list[EndpointDiff]:
        """Return what a change would do. Raises FailedPrecondition (owner), Exhausted (a map), Unavailable."""
        tried = self._policies.changes.try_out(change, source)
        found = []
        for id_ in sorted(tried.endpoints):
            managed = self._registry.find(Selector(id=id_))
            if managed is None:
                continue
            new = tried.resolver.desired(id_)
            difference = diff.difference(new, self._policies.wanted(id_))
            cut = await self._cut(managed, tried)
            if difference or cut:
                found.append(EndpointDiff(managed.endpoint, difference, cut))
        return found

    async def _cut(self, managed: ManagedEndpoint, tried: Tried) -> tuple[tuple[Flow, str], ...]:
        flows = await self._loader.flows(managed.endpoint.id)
        opened = [self._opened(flow, tried.identity_of) for flow in flows]
        places = diff.forbidden(tried.resolver.desired(managed.endpoint.id), tried.resolver.prefixes(), opened)
        return tuple((flows[place], self._flow_words(flows[place])) for place in places)

    def _opened(self, flow: Flow, identity_of: Callable[[int], int | None]) -> Opened:
        peer = self._registry.find(Selector(address=flow.remote))
        identity = identity_of(peer.endpoint.id) if peer is not None else None
        known = flow.peer_identity if identity is None else identity
        return Opened(flow.direction, known, flow.remote, flow.protocol, flow.port)

    def _flow_words(self, flow: Flow) -> str:
        here, there = self._named(flow.local, flow.local_port), self._named(flow.remote, flow.remote_port)
        source, destination = (there, here) if flow.direction is Direction.INGRESS else (here, there)
        return f"{flow.protocol_name} {source} -> {destination}"

    def _named(self, address: Address, port: int) -> str:
        managed = self._registry.find(Selector(address=address))
        place = _end(address, port)
        return f"{name_of(managed.endpoint)} ({place})" if managed is not None else place

    async def explain(self, ends: tuple[End, End], protocol: int, port: int | None, version: int) -> Explained:
        """Explain what becomes of a packet. `version` 0: IPv4 where both ends have it.

        Raises NotFound, InvalidArgument (ends, family), Unavailable.
        """
        one, other = await self.parties(ends, version)
        told = explain(one, other, protocol, port, self._policies.resolver.prefixes())
        return await self._check(told, (one, other), protocol, port or 0)

    async def parties(self, ends: tuple[End, End], version: int) -> tuple[Party, Party]:
        """Return who two ends are, with addresses of one family, one of them of this node. As `explain`."""
        nodes = await self._loader.node_addresses()
        source, destination = (self._choices(end, nodes) for end in ends)
        chosen = version or (4 if 4 in source and 4 in destination else 6)
        if chosen not in source or chosen not in destination:
            raise InvalidArgument(f"family: the two ends have no IPv{chosen} address in common", field="family")
        one, other = source[chosen], destination[chosen]
        if one.policy is None and other.policy is None:
            raise InvalidArgument(
                "from, to: neither is an endpoint of this node, and policy is about those", field="to"
            )
        return one, other

    async def _check(self, told: Explanation, ends: tuple[Party, Party], protocol: int, port: int) -> Explained:
        source, destination = ends
        if source.name == destination.name or source.address is None or destination.address is None:
            return Explained(told, None, "no program sees such a packet", agrees=True)
        egress = source.policy is not None
        prober = source if egress else destination
        packet = ProbePacket(
            endpoint_id=self._registry.get(Selector(address=prober.address)).endpoint.id,
            direction=Direction.EGRESS if egress else Direction.INGRESS,
            source=source.address,
            destination=destination.address,
            protocol=protocol,
            port=port,
            forwarded=not egress and source.identity != Reserved.HOST,
        )
        try:
            probe = await self._loader.probe(packet)
            if egress and probe.passed and probe.direction is Direction.EGRESS and destination.policy is not None:
                # The source leaves it to the node's stack, which brings it to the destination's programs.
                there = self._registry.get(Selector(address=destination.address)).endpoint.id
                packet = replace(packet, endpoint_id=there, direction=Direction.INGRESS, forwarded=True)
                probe = await self._loader.probe(packet)
        except PodlaneError as error:
            return Explained(told, None, error.message, agrees=False)
        denied = Direction.EGRESS if told.egress is not None and not told.egress.allowed else Direction.INGRESS
        agrees = probe.passed == told.allowed and (probe.passed or probe.direction is denied)
        return Explained(told, probe, "", agrees)

    def _choices(self, end: End, nodes: frozenset[Address]) -> dict[int, Party]:
        """Return an end by the families that it has."""
        if end.node:
            return {one.version: Party("node", Reserved.HOST, one) for one in sorted(nodes, key=str, reverse=True)}
        if end.address is not None:
            managed = self._registry.find(Selector(address=end.address))
            if managed is None:
                identity = Reserved.HOST if end.address in nodes else Reserved.WORLD
                name = "node" if end.address in nodes else str(end.address)
                address = end.address
                return {address.version: Party(name, identity, address)}
            return {end.address.version: self._party(managed.endpoint, end.address)}
        if end.endpoint is None:
            raise InvalidArgument("from, to: an endpoint, an address or the node is needed", field="to")
        endpoint = self._registry.get(end.endpoint).endpoint
        return {address.version: self._party(endpoint, address) for address in endpoint.spec.ips}

    def _party(self, endpoint: Endpoint, address: Address) -> Party:
        labels = endpoint.identity_labels or None
        policy = self._policies.wanted(endpoint.id)
        return Party(name_of(endpoint), endpoint.identity, address, labels, policy)

    def identities(self, only: int = 0) -> list[IdentityView]:
        """Return all identities, or one."""
        holders: dict[int, list[int]] = {}
        for managed in self._registry:
            holders.setdefault(managed.endpoint.identity, []).append(managed.endpoint.id)
        found = [IdentityView(int(one), one.labels) for one in _SHOWN]
        resolver, backend = self._policies.resolver, self._policies.backend
        for number, labels in sorted(backend.known().items()):
            found.append(IdentityView(number, labels, expires_in=backend.expires_in(number)))
        numbers = resolver.prefixes().numbers()
        found += [IdentityView(number, prefix=prefix) for prefix, number in sorted(numbers.items(), key=_number)]
        return [
            replace(one, endpoints=tuple(holders.get(one.id, ())), policies=tuple(resolver.seeing(one.id)))
            for one in found
            if only in {0, one.id}
        ]


def name_of(endpoint: Endpoint) -> str:
    """Return an endpoint as people name it: its pod, or else its number."""
    pod = endpoint.spec.pod
    return f"{pod.namespace}/{pod.name}" if pod.name else f"endpoint {endpoint.id}"


def _number(pair: tuple[Network, int]) -> int:
    return pair[1]


def _end(address: Address, port: int) -> str:
    if not port:
        return str(address)
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
