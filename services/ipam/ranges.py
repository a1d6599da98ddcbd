"""The configured pools, checked: what can be given out and what can't. Pure.

Not given out: the network address (IPv6: the subnet-router anycast address, RFC 4291 §2.6.1), the IPv4 broadcast
address, exclusions, and the gateway. Ranges too small to have the first two give out all they have: /31 (RFC 3021),
/127 (RFC 6164), /32 and /128.

**One gateway per family and node**, because the loader answers ARP and ND for one: the first address of the node's
first range of that family that is neither excluded nor network or broadcast. It is taken from that range and is
the gateway of all the others too. A first range of one address, `10.244.255.254/32`, therefore *names* the gateway.

Everything wrong with the configuration is refused here, by the name of its pool and key.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from itertools import combinations

from services.common.config import PoolSettings
from services.common.errors import InvalidArgument
from services.common.model import Address, Network
from services.common.wire import check_name
from services.ipam.model import FAMILIES

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
class Pool:
    """One configured pool."""

    name: str
    mtu: int
    ranges: tuple[Range, ...]

    @property
    def families(self) -> tuple[int, ...]:
        """The IP versions it has, ascending."""
        return tuple(sorted({one.prefix.version for one in self.ranges}))

    def of(self, family: int) -> tuple[Range, ...]:
        """Return its ranges of one family, in the order of the configuration."""
        return tuple(one for one in self.ranges if one.prefix.version == family)


def plan(settings: Sequence[PoolSettings]) -> tuple[Pool, ...]:
    """Return the pools in the order of the configuration, or raise InvalidArgument that names pool and key."""
    if not settings:
        raise InvalidArgument("[[ipam.pools]]: at least one pool is needed", key="ipam.pools")
    parsed = [_Parsed.read(pool) for pool in settings]
    _refuse_duplicates([pool.name for pool in parsed])
    _refuse_overlaps(parsed)
    gateways = _gateways(parsed)
    pools = tuple(pool.finish(gateways) for pool in parsed)
    _refuse_empty(pools)
    return pools


@dataclass(frozen=True, slots=True)
class _Parsed:
    """A pool whose text has been read, before the node's gateways are known."""

    name: str
    mtu: int
    prefixes: tuple[Network, ...]
    excluded: tuple[Network, ...]

    @classmethod
    def read(cls, settings: PoolSettings) -> "_Parsed":
        key = f"[[ipam.pools]] {settings.name!r}"
        check_name(settings.name, f"{key} name")
        if not settings.ranges:
            raise InvalidArgument(f"{key} ranges: at least one is needed", pool=settings.name)
        # 68: the least that IPv4 links must carry (RFC 791).
        if settings.mtu != 0 and not 68 <= settings.mtu <= 65535:
            raise InvalidArgument(
                f"{key} mtu: {settings.mtu} is neither 0 nor between 68 and 65535", pool=settings.name
            )
        prefixes = tuple(_network(text, f"{key} ranges[{index}]") for index, text in enumerate(settings.ranges))
        for index, prefix in enumerate(prefixes):
            if prefix.is_multicast or prefix.is_loopback or prefix.network_address.is_unspecified:
                raise InvalidArgument(f"{key} ranges[{index}]: {prefix} holds no unicast addresses", pool=settings.name)
        excluded = tuple(_network(text, f"{key} exclude[{index}]") for index, text in enumerate(settings.exclude))
        for index, network in enumerate(excluded):
            if not any(_overlap(network, prefix) for prefix in prefixes):
                raise InvalidArgument(
                    f"{key} exclude[{index}]: {network} lies in none of the pool's ranges", pool=settings.name
                )
        return cls(settings.name, settings.mtu, prefixes, excluded)

    def finish(self, gateways: dict[int, Address]) -> Pool:
        return Pool(self.name, self.mtu, tuple(self._range(prefix, gateways) for prefix in self.prefixes))

    def _range(self, prefix: Network, gateways: dict[int, Address]) -> Range:
        gateway = gateways[prefix.version]
        spans = _without(_spans(prefix, self.excluded), (int(gateway), int(gateway)))
        excluded = tuple(network for network in self.excluded if _overlap(network, prefix))
        return Range(prefix, gateway, excluded, spans)


def _network(text: str, field: str) -> Network:
    try:
        return ip_network(text)
    except ValueError as error:
        raise InvalidArgument(f"{field}: {error}", field=field) from None


def _overlap(one: Network, other: Network) -> bool:
    # Of two CIDRs that share an address one holds the other.
    return one.network_address in other or other.network_address in one


def _refuse_duplicates(names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise InvalidArgument(f"[[ipam.pools]]: two pools are named {name!r}", pool=name)


def _refuse_overlaps(pools: Iterable[_Parsed]) -> None:
    ranges = [(pool.name, prefix) for pool in pools for prefix in pool.prefixes]
    for (name, prefix), (other_name, other) in combinations(ranges, 2):
        if _overlap(prefix, other):
            raise InvalidArgument(
                f"[[ipam.pools]]: range {prefix} of pool {name!r} overlaps {other} of pool {other_name!r}: "
                "one address must never be in two places",
                pool=other_name,
            )


def _refuse_empty(pools: Iterable[Pool]) -> None:
    for pool in pools:
        for family in pool.families:
            if not any(one.spans for one in pool.of(family)):
                raise InvalidArgument(
                    f"[[ipam.pools]] {pool.name!r}: nothing is left to give out in {FAMILIES[family]}: gateway and "
                    "exclusions take all of it; to drain a range remove it, what pods hold of it stays theirs",
                    pool=pool.name,
                )


def _gateways(pools: Iterable[_Parsed]) -> dict[int, Address]:
    gateways: dict[int, Address] = {}
    for pool in pools:
        for prefix in pool.prefixes:
            if prefix.version in gateways:
                continue
            spans = _spans(prefix, pool.excluded)
            if not spans:
                raise InvalidArgument(
                    f"[[ipam.pools]] {pool.name!r}: the node's {FAMILIES[prefix.version]} gateway is the first address "
                    f"of {prefix}, and all of that is excluded",
                    pool=pool.name,
                )
            gateways[prefix.version] = prefix.network_address + (spans[0][0] - int(prefix.network_address))
    return gateways


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
