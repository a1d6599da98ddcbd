"""The configured pools, checked: what can be given out and what can't. Pure.

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

Everything wrong with the configuration is refused here, by the name of its pool and key.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
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
        return _range(prefix, self.excluded, gateway)

    def first(self, prefix: Network) -> Address | None:
        """Return the first address of a claim that can be a gateway; None when all of it is excluded."""
        return _first(prefix, self.excluded)


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


def gateways(pools: Iterable[Pool]) -> dict[int, Address]:
    """Return the node's gateways as far as the configuration has them, by family."""
    found: dict[int, Address] = {}
    for one in (one for pool in pools if pool.cluster is None and not pool.delegated for one in pool.ranges):
        found.setdefault(one.prefix.version, one.gateway)
    return found


@dataclass(frozen=True, slots=True)
class _Parsed:
    """A pool whose text has been read, before the node's gateways are known."""

    settings: PoolSettings
    prefixes: tuple[Network, ...]
    excluded: tuple[Network, ...]

    @classmethod
    def read(cls, settings: PoolSettings) -> "_Parsed":
        key = f"[[ipam.pools]] {settings.name!r}"
        check_name(settings.name, f"{key} name")
        if settings.ranges and settings.cluster_ranges:
            raise InvalidArgument(
                f"{key} cluster_ranges: it has ranges, too; a pool is this node's own or the cluster's",
                pool=settings.name,
            )
        if not (settings.ranges or settings.cluster_ranges):
            raise InvalidArgument(f"{key} ranges: at least one is needed, or cluster_ranges", pool=settings.name)
        # 68: the least that IPv4 links must carry (RFC 791).
        if settings.mtu != 0 and not 68 <= settings.mtu <= 65535:
            raise InvalidArgument(
                f"{key} mtu: {settings.mtu} is neither 0 nor between 68 and 65535", pool=settings.name
            )
        which, texts = ("ranges", settings.ranges) if settings.ranges else ("cluster_ranges", settings.cluster_ranges)
        prefixes = tuple(_network(text, f"{key} {which}[{index}]") for index, text in enumerate(texts))
        for index, prefix in enumerate(prefixes):
            if prefix.is_multicast or prefix.is_loopback or prefix.network_address.is_unspecified:
                raise InvalidArgument(
                    f"{key} {which}[{index}]: {prefix} holds no unicast addresses", pool=settings.name
                )
        excluded = tuple(_network(text, f"{key} exclude[{index}]") for index, text in enumerate(settings.exclude))
        for index, network in enumerate(excluded):
            if not any(overlap(network, prefix) for prefix in prefixes):
                raise InvalidArgument(
                    f"{key} exclude[{index}]: {network} lies in none of the pool's ranges", pool=settings.name
                )
        if settings.cluster_ranges and settings.delegated:
            raise InvalidArgument(
                f"{key} delegated: it has cluster_ranges, and other plugins' interfaces aren't routed between nodes; "
                "give it ranges",
                pool=settings.name,
            )
        if settings.cluster_ranges:
            _check_claims(settings, key, prefixes)
        return cls(settings, prefixes, excluded)

    @property
    def name(self) -> str:
        return self.settings.name

    def finish(self, gateways: Mapping[int, Address]) -> Pool:
        if self.settings.delegated:
            own = tuple(_range(one, self.excluded, _gateway(self, one, "its")) for one in self.prefixes)
            return Pool(self.name, self.settings.mtu, own, delegated=True)
        if not self.settings.cluster_ranges:
            ranges = tuple(_range(prefix, self.excluded, gateways[prefix.version]) for prefix in self.prefixes)
            return Pool(self.name, self.settings.mtu, ranges)
        cluster = Cluster(
            self.prefixes,
            self.excluded,
            {4: self.settings.node_prefix_v4, 6: self.settings.node_prefix_v6},
            self.settings.spare,
            self.settings.release_after_seconds,
        )
        return Pool(self.name, self.settings.mtu, (), cluster)


def _check_claims(settings: PoolSettings, key: str, prefixes: Iterable[Network]) -> None:
    # Longer ones would have nothing left to give out beside a gateway.
    longest = {4: ("node_prefix_v4", settings.node_prefix_v4, 30), 6: ("node_prefix_v6", settings.node_prefix_v6, 126)}
    for family, (name, length, most) in longest.items():
        if not 1 <= length <= most:
            raise InvalidArgument(f"{key} {name}: /{length} is not between /1 and /{most}", pool=settings.name)
        for prefix in prefixes:
            if prefix.version == family and prefix.prefixlen > length:
                raise InvalidArgument(
                    f"{key} {name}: a claim of /{length} is larger than {prefix} of cluster_ranges", pool=settings.name
                )
    if settings.spare < 1:
        raise InvalidArgument(f"{key} spare: {settings.spare} is not at least 1", pool=settings.name)
    # Written so that TOML's nan fails too.
    if not settings.release_after_seconds >= 0:
        raise InvalidArgument(
            f"{key} release_after_seconds: {settings.release_after_seconds} is not at least 0", pool=settings.name
        )


def _range(prefix: Network, excluded: Iterable[Network], gateway: Address) -> Range:
    touching = tuple(network for network in excluded if overlap(network, prefix))
    return Range(prefix, gateway, touching, _without(_spans(prefix, touching), (int(gateway), int(gateway))))


def _first(prefix: Network, excluded: Iterable[Network]) -> Address | None:
    spans = _spans(prefix, excluded)
    return prefix.network_address + (spans[0][0] - int(prefix.network_address)) if spans else None


def _network(text: str, field: str) -> Network:
    try:
        return ip_network(text)
    except ValueError as error:
        raise InvalidArgument(f"{field}: {error}", field=field) from None


def _contains(one: Network, other: Network) -> bool:
    return one.version == other.version and other.network_address in one and one.prefixlen <= other.prefixlen


def overlap(one: Network, other: Network) -> bool:
    """Return whether two CIDRs share an address: one of them holds the other."""
    return one.network_address in other or other.network_address in one


def _refuse_duplicates(names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise InvalidArgument(f"[[ipam.pools]]: two pools are named {name!r}", pool=name)


def _refuse_overlaps(pools: Iterable[_Parsed]) -> None:
    ranges = [(pool.name, prefix) for pool in pools for prefix in pool.prefixes]
    for (name, prefix), (other_name, other) in combinations(ranges, 2):
        if overlap(prefix, other):
            raise InvalidArgument(
                f"[[ipam.pools]]: range {prefix} of pool {name!r} overlaps {other} of pool {other_name!r}: "
                "one address must never be in two places",
                pool=other_name,
            )


def _refuse_empty(pools: Iterable[Pool]) -> None:
    for pool in pools:
        for family in pool.families if pool.cluster is None else ():
            if not any(one.spans for one in pool.of(family)):
                raise InvalidArgument(
                    f"[[ipam.pools]] {pool.name!r}: nothing is left to give out in {FAMILIES[family]}: gateway and "
                    "exclusions take all of it; to drain a range remove it, what pods hold of it stays theirs",
                    pool=pool.name,
                )


def _gateways(pools: Iterable[_Parsed]) -> dict[int, Address]:
    gateways: dict[int, Address] = {}
    for pool in pools:
        for prefix in pool.prefixes if pool.settings.ranges and not pool.settings.delegated else ():
            if prefix.version not in gateways:
                gateways[prefix.version] = _gateway(pool, prefix, "the node's")
    return gateways


def _gateway(pool: _Parsed, prefix: Network, whose: str) -> Address:
    gateway = _first(prefix, pool.excluded)
    if gateway is None:
        raise InvalidArgument(
            f"[[ipam.pools]] {pool.name!r}: {whose} {FAMILIES[prefix.version]} gateway is the first address of "
            f"{prefix}, and all of that is excluded",
            pool=pool.name,
        )
    return gateway


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
