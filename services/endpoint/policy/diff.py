"""What a change of policy would do to one endpoint, in words, before anybody does it. Pure.

Entries are compared as the map has them, so a change of documents that comes to the same entries shows as nothing. A
live flow is cut when policy forbids the packet that would open it now: with its next packet in the opener's direction.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from services.common.model import Address
from services.endpoint.policy.desired import EndpointPolicy
from services.endpoint.policy.entry import Direction, PolicyEntry
from services.endpoint.policy.explain import Packet, decide
from services.endpoint.policy.prefixes import PrefixTable


@dataclass(frozen=True, slots=True)
class Difference:
    """What changes for an endpoint: entries with the rules that they come from, and isolation, `before → after`."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    isolation: dict[Direction, tuple[str, str]]

    def __bool__(self) -> bool:
        """Return whether anything does."""
        return bool(self.added or self.removed or any(before != after for before, after in self.isolation.values()))


@dataclass(frozen=True, slots=True)
class Opened:
    """The packet that opened a flow, seen from its endpoint; `port` None: its protocol has none."""

    direction: Direction
    identity: int
    address: Address
    protocol: int
    port: int | None


def difference(new: EndpointPolicy, old: EndpointPolicy) -> Difference:
    """Return what makes `new` of `old`."""
    delta = new.difference(old)
    return Difference(
        tuple(_words(new, entry) for entry in delta.added),
        tuple(_words(old, entry) for entry in delta.removed),
        {way: (isolation(old, way), isolation(new, way)) for way in Direction},
    )


def isolation(policy: EndpointPolicy, way: Direction) -> str:
    """Return how an endpoint is isolated in a direction."""
    side = policy.ingress if way is Direction.INGRESS else policy.egress
    if side is None:
        return "open"
    if not side.isolated_by:
        return "its own node only, its labels are not known"
    names = ", ".join(map(str, side.isolated_by))
    return f"isolated by {'policy' if len(side.isolated_by) == 1 else 'policies'} {names}"


def forbidden(policy: EndpointPolicy, prefixes: PrefixTable, flows: Iterable[Opened]) -> list[int]:
    """Return which of these flows a policy forbids, by their places."""
    found = []
    for place, flow in enumerate(flows):
        packet = Packet(flow.identity, prefixes.lookup(flow.address), flow.protocol, flow.port)
        if not decide(policy, flow.direction, packet).allowed:
            found.append(place)
    return found


def _words(policy: EndpointPolicy, entry: PolicyEntry) -> str:
    return f"{entry}: {'; '.join(map(str, policy.origins(entry)))}"
