"""The configured pools, checked: text → pools, each with its gateway. Pure.

Everything wrong with the configuration is refused here, by the name of its pool and key: texts that are no CIDRs,
ranges that hold no unicast addresses or overlap, exclusions that exclude nothing, claims that can't be made, a pool of
which nothing is left to give out. Which address is whose gateway is a rule of ranges.py.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from itertools import combinations

from services.common.config import PoolSettings
from services.common.errors import InvalidArgument
from services.common.model import Address, Network
from services.common.wire import check_name
from services.ipam.model import FAMILIES
from services.ipam.ranges import Cluster, Pool, first_address, make_range, overlap


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
            own = tuple(make_range(one, self.excluded, _gateway(self, one, "its")) for one in self.prefixes)
            return Pool(self.name, self.settings.mtu, own, delegated=True)
        if not self.settings.cluster_ranges:
            ranges = tuple(make_range(prefix, self.excluded, gateways[prefix.version]) for prefix in self.prefixes)
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


def _network(text: str, field: str) -> Network:
    try:
        return ip_network(text)
    except ValueError as error:
        raise InvalidArgument(f"{field}: {error}", field=field) from None


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
    gateway = first_address(prefix, pool.excluded)
    if gateway is None:
        raise InvalidArgument(
            f"[[ipam.pools]] {pool.name!r}: {whose} {FAMILIES[prefix.version]} gateway is the first address of "
            f"{prefix}, and all of that is excluded",
            pool=pool.name,
        )
    return gateway
