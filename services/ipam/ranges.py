"""Pools and their ranges: what can be given out and what can't. Pure.

Not given out: the network address (IPv6: the subnet-router anycast address, RFC 4291 §2.6.1), the IPv4 broadcast
address, exclusions, and the gateway. Ranges too small to have the first two give out all they have: /31 (RFC 3021),
/127 (RFC 6164), /32 and /128.

**One gateway per family and node**, because the loader answers ARP and ND for one: the first address of the node's
first range of that family that is neither excluded nor network or broadcast. It is taken from that range and is
the gateway of all the others too. A first range of one address, `10.244.255.254/32`, therefore *names* the gateway.

A **delegated pool** is for interfaces that other plugins make (podlane-ipam), on subnets with routers of their own: so
each of its ranges has its own gateway, its first address that is neither excluded nor network or broadcast, and none of
them is the node's.

A **cluster pool** has no ranges of its own: the node claims parts of `cluster_ranges` while it runs (`clusterpool.py`).
Where no pool has a range of a family, the gateway comes from the first claim of that family instead.

Not here: how the configuration is read, and what is refused of it (`poolplan.py`).
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from services.common.model import Address, Network

Span = tuple[int, int]
"""First and last address of a run, both inclusive, as numbers."""


@dataclass(frozen=True, slots=True)
class Range:
    """One CIDR of a pool."""

    prefix: Network
    gateway: Address
    excluded: tuple[Network, ...]
    """Exclusions that touch this range."""
    spans: tuple[Span, ...]
    """What can be given out, ascending."""

    @property
    def size(self) -> int:
        """Addresses that can ever be given out."""
        return sum(last - first + 1 for first, last in self.spans)

    def usable(self, address: int) -> bool:
        """Return whether an address (of this family) can be given out from here."""
        index = bisect_right(self.spans, address, key=lambda span: span[0]) - 1
        return index >= 0 and address <= self.spans[index][1]

    def why_not(self, address: Address) -> str:
        """Return why an address inside the prefix is not `usable`."""
        if address == self.gateway:
            return f"it is the gateway of {self.prefix}"
        for network in self.excluded:
            if address in network:
                return f"it is excluded by {network}"
        return f"it is the network or broadcast address of {self.prefix}"


@dataclass(frozen=True, slots=True)
class Cluster:
    """What the nodes of a cluster share, and how one takes its parts."""

    ranges: tuple[Network, ...]
    excluded: tuple[Network, ...]
    lengths: Mapping[int, int]
    """The prefix length of one claim, by family."""
    spare: int
    """Free addresses below which another claim is made."""
    release_after: float
    """Seconds that a claim is wholly free before it is given back."""

    def of(self, family: int) -> tuple[Network, ...]:
        """Return the ranges of one family, in the order of the configuration."""
        return tuple(one for one in self.ranges if one.version == family)

    def holds(self, prefix: Network) -> bool:
        """Return whether a prefix is a part of one of the ranges."""
        return any(_contains(one, prefix) for one in self.ranges)

    def claimed(self, prefix: Network, gateway: Address) -> Range:
        """Return what can be given out of a claim, on a node with this gateway."""
        return make_range(prefix, self.excluded, gateway)

    def first(self, prefix: Network) -> Address | None:
        """Return the first address of a claim that can be a gateway; None when all of it is excluded."""
        return first_address(prefix, self.excluded)


@dataclass(frozen=True, slots=True)
class Pool:
    """One configured pool."""

    name: str
    mtu: int
    ranges: tuple[Range, ...]
    cluster: Cluster | None = None
    """None: `ranges` are the configuration's; else they are what the node has claimed of it so far."""
    delegated: bool = False
    """It is for other plugins' interfaces."""

    @property
    def families(self) -> tuple[int, ...]:
        """The IP versions it has, or is to have, ascending."""
        prefixes = self.cluster.ranges if self.cluster else [one.prefix for one in self.ranges]
        return tuple(sorted({one.version for one in prefixes}))

    def of(self, family: int) -> tuple[Range, ...]:
        """Return its ranges of one family, in the order of the configuration."""
        return tuple(one for one in self.ranges if one.prefix.version == family)


def gateways(pools: Iterable[Pool]) -> dict[int, Address]:
    """Return the node's gateways as far as the configuration has them, by family."""
    found: dict[int, Address] = {}
    for one in (one for pool in pools if pool.cluster is None and not pool.delegated for one in pool.ranges):
        found.setdefault(one.prefix.version, one.gateway)
    return found


def make_range(prefix: Network, excluded: Iterable[Network], gateway: Address) -> Range:
    """Return what can be given out of a prefix."""
    touching = tuple(network for network in excluded if overlap(network, prefix))
    return Range(prefix, gateway, touching, _without(_spans(prefix, touching), (int(gateway), int(gateway))))


def first_address(prefix: Network, excluded: Iterable[Network]) -> Address | None:
    """Return the first address of a prefix that can be a gateway; None when all of it is excluded."""
    spans = _spans(prefix, excluded)
    return prefix.network_address + (spans[0][0] - int(prefix.network_address)) if spans else None


def _contains(one: Network, other: Network) -> bool:
    return one.version == other.version and other.network_address in one and one.prefixlen <= other.prefixlen


def overlap(one: Network, other: Network) -> bool:
    """Return whether two CIDRs share an address: one of them holds the other."""
    return one.network_address in other or other.network_address in one


def _spans(prefix: Network, excluded: Iterable[Network]) -> tuple[Span, ...]:
    """Return what is left of a prefix without its special addresses and the exclusions."""
    first, last = int(prefix.network_address), int(prefix.broadcast_address)
    if prefix.num_addresses > 2:
        first += 1
        last -= 1 if prefix.version == 4 else 0
    spans: tuple[Span, ...] = ((first, last),)
    for network in excluded:
        if network.version == prefix.version:
            spans = _without(spans, (int(network.network_address), int(network.broadcast_address)))
    return spans


def _without(spans: Iterable[Span], hole: Span) -> tuple[Span, ...]:
    rest: list[Span] = []
    for first, last in spans:
        if hole[1] < first or last < hole[0]:
            rest.append((first, last))
            continue
        if first < hole[0]:
            rest.append((first, hole[0] - 1))
        if hole[1] < last:
            rest.append((hole[1] + 1, last))
    return tuple(rest)
