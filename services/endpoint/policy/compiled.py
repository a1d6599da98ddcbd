"""A policy made ready for resolving: selectors over identity labels, ports as sets. Pure.

A *term* is one peer of one rule, the unit that becomes grants. What depends on nothing but the document is done here,
once; who is a member and what a port's name means is the resolver's to know.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

from services.endpoint.policy.desired import Origin
from services.endpoint.policy.entry import Direction
from services.endpoint.policy.namedports import PortName
from services.endpoint.policy.networkpolicy import IPBlock, NetworkPolicy, Peer, PodPeer, PolicyName, Port, Rule
from services.endpoint.policy.ports import ALL_PORTS, PortRange, Ports
from services.endpoint.policy.selectors import LabelSelector, pods

Who = LabelSelector | IPBlock | None
"""A peer over identity labels, or over addresses; None is everybody."""


class Term(NamedTuple):
    """One peer of one rule: ports by number, and ports by name."""

    origin: Origin
    who: Who
    ports: Ports
    names: tuple[PortName, ...]


@dataclass(frozen=True, slots=True)
class Compiled:
    """A policy: whom it selects, and the terms of each direction in which it isolates."""

    policy: NetworkPolicy
    subject: LabelSelector
    terms: dict[Direction, tuple[Term, ...]]

    @property
    def selectors(self) -> Iterator[LabelSelector]:
        """Its own selector and those of its peers; one that is there several times comes several times."""
        yield self.subject
        yield from (one.who for one in self._all() if isinstance(one.who, LabelSelector))

    @property
    def blocks(self) -> Iterator[IPBlock]:
        """The blocks of its peers, likewise."""
        return (one.who for one in self._all() if isinstance(one.who, IPBlock))

    @property
    def dependencies(self) -> Iterator[LabelSelector | IPBlock | PortName]:
        """Of what its grants are made: selectors and blocks of its peers, and the names of their ports."""
        yield from (one.who for one in self._all() if one.who is not None)
        yield from (name for one in self.terms.get(Direction.EGRESS, ()) for name in one.names)

    def _all(self) -> Iterator[Term]:
        return chain.from_iterable(self.terms.values())


def compiled(policy: NetworkPolicy) -> Compiled:
    """Make a policy ready."""
    return Compiled(
        policy,
        pods(policy.name.namespace, policy.pod_selector, None),
        {way: tuple(_terms(policy, way)) for way in sorted(policy.types)},
    )


def _terms(policy: NetworkPolicy, way: Direction) -> Iterator[Term]:
    key = "from" if way is Direction.INGRESS else "to"
    for number, rule in enumerate(policy.rules(way)):
        path = f"{way}[{number}]"
        ports, names = _ports(rule)
        if not rule.peers:
            yield Term(Origin(policy.name, path), None, ports, names)
        for place, peer in enumerate(rule.peers):
            origin = Origin(policy.name, f"{path}.{key}[{place}]", peer)
            yield Term(origin, _who(policy.name, peer), ports, names)


def _who(name: PolicyName, peer: Peer) -> Who:
    return pods(name.namespace, peer.pods, peer.namespaces) if isinstance(peer, PodPeer) else peer


def _ports(rule: Rule) -> tuple[Ports, tuple[PortName, ...]]:
    if not rule.ports:
        return ALL_PORTS, ()
    numbered = Ports.of(_range(port) for port in rule.ports if not isinstance(port.port, str))
    named = {PortName(port.protocol, port.port) for port in rule.ports if isinstance(port.port, str)}
    return numbered, tuple(sorted(named))


def _range(port: Port) -> PortRange:
    if not isinstance(port.port, int):
        return PortRange(port.protocol)
    return PortRange(port.protocol, port.port, port.end_port if port.end_port is not None else port.port)
