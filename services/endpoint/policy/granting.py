"""Who the peers of a policy's terms are at the moment, and thus what it grants. Pure.

Grants are the same for all whom a policy selects, and kept until `forget` says that they may be other ones; except
where ingress rules name ports, which each selected pod numbers by itself.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator

from services.endpoint.policy.clone import Cloneable
from services.endpoint.policy.compiled import Compiled, Term
from services.endpoint.policy.desired import EVERYBODY, Grant
from services.endpoint.policy.entry import Direction
from services.endpoint.policy.namedports import NamedPorts, resolve
from services.endpoint.policy.networkpolicy import IPBlock, NamedPort, PolicyName
from services.endpoint.policy.ports import Ports
from services.endpoint.policy.prefixes import PrefixTable
from services.endpoint.policy.selection import Selection


class Granting(Cloneable):
    """Members of selectors, numbers of blocks, numbers of ports' names; and the grants made of them."""

    def __init__(self, prefixes: PrefixTable) -> None:
        """Start with nobody."""
        self.selection = Selection()
        self.prefixes = prefixes
        self.named_ports = NamedPorts()
        self._grants: dict[tuple[PolicyName, Direction], tuple[Grant, ...]] = {}

    def forget(self, policy: PolicyName) -> None:
        """Work a policy's grants out again when they are next needed."""
        for way in Direction:
            self._grants.pop((policy, way), None)

    def grants(self, policy: Compiled, way: Direction, own: Collection[NamedPort]) -> tuple[Grant, ...]:
        """Return what a policy grants, in a direction in which it isolates, to a pod that has these named ports."""
        terms, key = policy.terms[way], (policy.policy.name, way)
        if way is Direction.INGRESS and any(term.names for term in terms):
            return tuple(self._ingress(terms, own))
        if key not in self._grants:
            self._grants[key] = tuple(self._ingress(terms, ()) if way is Direction.INGRESS else self._egress(terms))
        return self._grants[key]

    def _ingress(self, terms: Iterable[Term], own: Collection[NamedPort]) -> Iterator[Grant]:
        """Names are those of the selected pod's own ports."""
        for term in terms:
            ports = Ports.union((term.ports, resolve(term.names, own))) if term.names else term.ports
            peers = self._peers(term)
            if ports and peers:
                yield Grant(term.origin, peers, ports)

    def _egress(self, terms: Iterable[Term]) -> Iterator[Grant]:
        """Names are those of the peers' ports, so those who number them alike get a grant together."""
        for term in terms:
            peers = self._peers(term)
            if term.ports and peers:
                yield Grant(term.origin, peers, term.ports)
            alike: defaultdict[Ports, set[int]] = defaultdict(set)
            for identity, ports in self.named_ports.by_identity(term.names).items():
                if term.who is None or identity in peers:
                    alike[ports].add(identity)
            for ports in sorted(alike, key=lambda one: one.ranges):
                yield Grant(term.origin, frozenset(alike[ports]), ports)

    def _peers(self, term: Term) -> frozenset[int]:
        match term.who:
            case None:
                return EVERYBODY
            case IPBlock() as block:
                return self.prefixes.within(block)
            case selector:
                return self.selection.members(selector)
