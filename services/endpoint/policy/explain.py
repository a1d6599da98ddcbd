"""Why a packet passes or not: the entry that decides on each side, and the rule that the entry comes from. Pure.

A connection needs both: egress policy of the source's endpoint, and ingress policy of the destination's. Each side is
decided where its endpoint lives, so of a peer on another node, or outside, only the near side can be told. What is told
is about the first packet; replies belong to a connection and meet no policy.
"""

from dataclasses import dataclass
from typing import NamedTuple

from services.common.model import Address
from services.endpoint.policy.desired import EndpointPolicy, Origin
from services.endpoint.policy.entry import ANY_IDENTITY, Direction, PolicyEntry, protocol_name
from services.endpoint.policy.identity import SMALLEST, Reserved
from services.endpoint.policy.labels import Labels
from services.endpoint.policy.networkpolicy import PolicyName
from services.endpoint.policy.prefixes import PrefixTable


@dataclass(frozen=True, slots=True)
class Party:
    """One end of a connection. `policy` is None when it is no endpoint of this node."""

    name: str
    identity: int
    address: Address | None = None
    labels: Labels | None = None
    policy: EndpointPolicy | None = None

    def __str__(self) -> str:
        """Return name, address and identity; whoever has no other name is told by the address alone."""
        reserved = self.identity < SMALLEST and self.identity in set(Reserved)
        identity = str(Reserved(self.identity)) if reserved else f"identity {self.identity}"
        address = str(self.address or "")
        return " ".join(filter(None, (self.name, address if address != self.name else "", f"({identity})")))


class Packet(NamedTuple):
    """What policy sees of a packet: who the peer is, the prefix that its address lies in (0: none), and the port.

    `port` is the destination's, and None where there is none: ICMP, and every fragment but the first.
    """

    identity: int
    cidr_identity: int
    protocol: int
    port: int | None


class Decision(NamedTuple):
    """What one side decides: by which entry, made of which rules; neither when nothing allows the packet."""

    allowed: bool
    entry: PolicyEntry | None
    origins: tuple[Origin, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Both sides; None where there is no endpoint of this node, or nothing to decide."""

    allowed: bool
    egress: Decision | None
    ingress: Decision | None
    lines: tuple[str, ...]
    packets: tuple[Packet, ...] = ()
    """What each side sees of the packet, egress first."""

    def __str__(self) -> str:
        """Return it as text."""
        return "\n".join(self.lines)


def decide(policy: EndpointPolicy, way: Direction, packet: Packet) -> Decision:
    """Decide as the datapath does.

    The entries of the peer's identity are asked, those of everybody, and those of the prefix of its address; within
    each, the longest match answers. Any of them may allow the packet.
    """
    asked = {packet.identity, ANY_IDENTITY, packet.cidr_identity}
    matching = [one for one in policy.entries_of(way, asked) if _matches(one, packet)]
    entry = max(matching, key=lambda one: (one.protocol > 0, one.port_prefix_length), default=None)
    origins = tuple(
        grant.origin
        for grant in policy.side(way).grants
        if not asked.isdisjoint(grant.peers) and grant.ports.matches(packet.protocol, packet.port)
    )
    return Decision(entry is not None, entry, origins)


def explain(source: Party, destination: Party, protocol: int, port: int | None, prefixes: PrefixTable) -> Explanation:
    """Explain what becomes of a packet that opens a connection."""
    what = f"{port}/{protocol_name(protocol)}" if port is not None else protocol_name(protocol)
    if source.name == destination.name:
        line = f"{source} → itself, {what}: allowed: it does not leave the pod, and no policy may forbid it"
        return Explanation(True, None, None, (line,))
    sides, packets = [], []
    for way, here, there in ((Direction.EGRESS, source, destination), (Direction.INGRESS, destination, source)):
        cidr_identity = prefixes.lookup(there.address) if there.address is not None else 0
        packet = Packet(there.identity, cidr_identity, protocol, port)
        packets.append(packet)
        sides.append(decide(here.policy, way, packet) if here.policy is not None else None)
    egress, ingress = sides
    allowed = all(side is None or side.allowed for side in sides)
    lines = (
        f"{source} → {destination}, {what}: {'allowed' if allowed else 'denied'}",
        f"  egress of {source.name}: {_words(Direction.EGRESS, (source, destination), packets[0], egress)}",
        f"  ingress of {destination.name}: {_words(Direction.INGRESS, (destination, source), packets[1], ingress)}",
    )
    return Explanation(allowed, egress, ingress, lines, tuple(packets))


def _words(way: Direction, ends: tuple[Party, Party], packet: Packet, decision: Decision | None) -> str:
    here, there = ends
    if decision is None or here.policy is None:
        return "not decided here: it is no endpoint of this node"
    if decision.allowed:
        return f"allowed by the entry '{decision.entry}': {_join(decision.origins)}"
    side = here.policy.side(way)
    isolated = f"isolated by {_policies(side.isolated_by)}" if side.isolated_by else "its labels are not known yet"
    asked = {packet.identity, ANY_IDENTITY, packet.cidr_identity}
    granted = [grant for grant in side.grants if not asked.isdisjoint(grant.peers)]
    if not granted:
        return f"denied, no entry matches: {isolated}, and {_unnamed(there)}"
    return f"denied, no entry matches: {isolated}, and this peer may use only " + "; ".join(
        f"{grant.ports} ({grant.origin})" for grant in granted
    )


def _unnamed(peer: Party) -> str:
    """Say that no rule is about a peer, with what of it rules would have to match."""
    if peer.identity < SMALLEST and peer.identity != Reserved.INIT:
        return f"no rule has an ipBlock with {peer.address or peer.name}"
    return "no rule names this peer by its labels" + (f", {peer.labels}" if peer.labels else "")


def _matches(entry: PolicyEntry, packet: Packet) -> bool:
    """Return whether an entry is a prefix of what a packet has."""
    if not entry.protocol:
        return True
    if entry.protocol != packet.protocol:
        return False
    if packet.port is None:
        return entry.port_prefix_length == 0
    beyond = 16 - entry.port_prefix_length
    return packet.port >> beyond == entry.port >> beyond


def _join(origins: tuple[Origin, ...]) -> str:
    return "; ".join(map(str, origins))


def _policies(names: tuple[PolicyName, ...]) -> str:
    return f"polic{'y' if len(names) == 1 else 'ies'} {', '.join(map(str, names))}"
