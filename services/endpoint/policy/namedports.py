"""Which numbers a port's name has, for each identity. Pure.

A policy's egress rule may name a port of its peers, and each pod numbers its own. Map entries know identities, not
pods: where pods of one identity disagree, each of their numbers is allowed to all of them. What is lost: a pod may be
reached at a port that has the name on another pod *with the same labels*; never at one that has it on none of them.

Known are the ports of this node's endpoints, and of pods elsewhere what their nodes tell (`Resolver.put_peer`). A port
of a pod that nobody told of has no number, and is not allowed.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from services.endpoint.policy.clone import Cloneable
from services.endpoint.policy.networkpolicy import NamedPort
from services.endpoint.policy.ports import PortRange, Ports


class PortName(NamedTuple):
    """A name as a rule has it: it means only ports of its protocol."""

    protocol: int
    name: str


class NamedPorts(Cloneable):
    """Names and numbers, counted by the pods that have them."""

    def __init__(self) -> None:
        """Start with none."""
        self._numbers: defaultdict[PortName, dict[int, Counter[int]]] = defaultdict(dict)

    def add(self, identity: int, ports: Iterable[NamedPort]) -> set[PortName]:
        """Count in a pod; return the names that now have a number more."""
        changed = set()
        for port in ports:
            name = PortName(port.protocol, port.name)
            numbers = self._numbers[name].setdefault(identity, Counter())
            numbers[port.port] += 1
            if numbers[port.port] == 1:
                changed.add(name)
        return changed

    def remove(self, identity: int, ports: Iterable[NamedPort]) -> set[PortName]:
        """Count out a pod; return the names that now have a number less."""
        changed = set()
        for port in ports:
            name = PortName(port.protocol, port.name)
            numbers = self._numbers[name][identity]
            numbers[port.port] -= 1
            if numbers[port.port]:
                continue
            changed.add(name)
            del numbers[port.port]
            if not numbers:
                del self._numbers[name][identity]
            if not self._numbers[name]:
                del self._numbers[name]
        return changed

    def by_identity(self, names: Iterable[PortName]) -> Mapping[int, Ports]:
        """Return the ports that have one of the names, for each identity that has any."""
        found: dict[int, set[PortRange]] = {}
        for name in names:
            for identity, numbers in self._numbers.get(name, {}).items():
                found.setdefault(identity, set()).update(PortRange(name.protocol, one, one) for one in numbers)
        return {identity: Ports.of(ranges) for identity, ranges in found.items()}


def resolve(names: Iterable[PortName], ports: Iterable[NamedPort]) -> Ports:
    """Return which of a pod's ports have one of the names."""
    wanted = set(names)
    return Ports.of(
        PortRange(one.protocol, one.port, one.port) for one in ports if PortName(one.protocol, one.name) in wanted
    )
