"""A small model of the datapath: what the resolver says goes in, packets are looked up in what comes out.

`Cluster` takes a world of `policy_oracle.py`, gives its pods identities, and has a resolver for each of its nodes, fed
as the endpoint service feeds its own: documents as text, through the parser. The lookups are those of the datapath
(bpf/lib/policy.h): the entries of the peer's identity, of any identity, and of the prefix of the peer's address; the
longest prefix of protocol and port answers. That the real programs do so is for privileged tests to show.
"""

import json
from collections.abc import Mapping
from ipaddress import ip_address

from services.common.model import Network
from services.endpoint.policy.entry import Direction, PolicyEntry
from services.endpoint.policy.identity import LocalIdentities, Reserved
from services.endpoint.policy.labels import LabelFilter, Labels, identity_labels
from services.endpoint.policy.networkpolicy import NamedPort, NetworkPolicy
from services.endpoint.policy.parse import parse
from services.endpoint.policy.resolve import Resolver
from services.endpoint.policy.settings import Settings
from tests.policy_oracle import End, Node, Pod, Probe, World, address_of

PROTOCOLS = {"TCP": 6, "UDP": 17, "SCTP": 132, "ICMP": 1}
FILTER = LabelFilter()


class PolicyMap:
    """The map of one endpoint."""

    def __init__(self, entries: tuple[PolicyEntry, ...]) -> None:
        """Fill it; no key may be there twice."""
        assert not any(entry.deny for entry in entries)
        self._entries = {tuple(entry[:5]) for entry in entries}
        assert len(self._entries) == len(entries)

    def allows(self, way: Direction, peers: set[int], protocol: int, port: int | None) -> bool:
        """Look a packet up with each of the peer's numbers."""
        return any(self._lookup(way, peer, protocol, port) for peer in peers)

    def _lookup(self, way: Direction, peer: int, protocol: int, port: int | None) -> bool:
        for length in range(16, -1, -1) if port is not None else (0,):
            bits = (port or 0) >> (16 - length) << (16 - length)
            if (way, peer, protocol, bits, length) in self._entries:
                return True
        return (way, peer, 0, 0, 0) in self._entries


class PrefixMap:
    """The node's map of address prefixes."""

    def __init__(self, prefixes: Mapping[Network, int]) -> None:
        """Sort the longest first."""
        self._prefixes = sorted(prefixes.items(), key=lambda one: -one[0].prefixlen)

    def lookup(self, address: str) -> int:
        """Return the number of the longest prefix, 0: none."""
        number = ip_address(address)
        return next(
            (found for network, found in self._prefixes if network.version == number.version and number in network), 0
        )


class Cluster:
    """A world, resolved: one resolver for each node, one number for each set of labels."""

    def __init__(self, world: World, settings: Settings | None = None) -> None:
        """Resolve everything."""
        self.settings = settings or Settings(world.allow_from_host, world.allow_to_host)
        self.identities = LocalIdentities(grace=0)
        self.numbers = {pod: self.identities.acquire(labels_of(world, pod)) for pod in world.pods}
        self.resolvers = {node: self._resolver(world, node) for node in {pod.node for pod in world.pods}}
        self.policies = {pod: self.resolvers[pod.node].desired(id_) for id_, pod in enumerate(world.pods, 1)}
        self._maps = {pod: PolicyMap(policy.entries()) for pod, policy in self.policies.items()}
        self._prefixes = {node: PrefixMap(one.prefixes().numbers()) for node, one in self.resolvers.items()}

    def allowed(self, probe: Probe) -> bool:
        """Send the first packet of a connection."""
        out = self._passes(probe, Direction.EGRESS, probe.source, probe.destination)
        return out and self._passes(probe, Direction.INGRESS, probe.destination, probe.source)

    def _passes(self, probe: Probe, way: Direction, here: End, there: End) -> bool:
        if not isinstance(here, Pod):
            return True
        address = address_of(there, probe.version)
        assert address is not None
        peers = {0, self._identity(here, there), self._prefixes[here.node].lookup(address)}
        return self._maps[here].allows(way, peers, PROTOCOLS[probe.protocol], probe.port)

    def _identity(self, here: Pod, there: End) -> int:
        if isinstance(there, Pod):
            return self.numbers[there]
        if isinstance(there, Node):
            return Reserved.HOST if there.name == here.node else Reserved.REMOTE_NODE
        return Reserved.WORLD

    def _resolver(self, world: World, node: str) -> Resolver:
        resolver = Resolver(self.settings)
        for number, labels in self.identities.known().items():
            resolver.put_identity(number, labels)
        for policy in documents(world):
            resolver.put_policy(policy)
        for id_, pod in enumerate(world.pods, 1):
            ports = named_ports(pod)
            if pod.node == node:
                resolver.put_endpoint(id_, self.numbers[pod], ports)
            else:
                resolver.put_peer(f"{pod.namespace}/{pod.name}", self.numbers[pod], ports)
        resolver.settle()
        return resolver


def labels_of(world: World, pod: Pod) -> Labels:
    """Return a pod's identity-relevant labels."""
    return identity_labels(pod.labels, pod.namespace, world.namespaces.get(pod.namespace, {}), FILTER)


def named_ports(pod: Pod) -> frozenset[NamedPort]:
    """Return a pod's named ports as the resolver takes them."""
    return frozenset(NamedPort(name, PROTOCOLS[protocol], number) for name, (protocol, number) in pod.ports.items())


def documents(world: World) -> list[NetworkPolicy]:
    """Parse the world's policies, each from its own text."""
    return [policy for one in world.policies for policy in parse(json.dumps(one)).policies]
