"""What the kvstore says of all nodes' claims, and which range this node claims next. Pure.

Nodes choose without speaking to each other, and a claim is a compare-and-swap, so that two that choose the same are
only slower, never wrong. They seldom do: each begins where the hash of its name points and takes the first free range
from there on.

A claim of any size blocks every range that it overlaps, whatever pool it is of: nodes may have been given different
settings.
"""

import hashlib
import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from services.common.kvstore import Entry
from services.common.kvstore.keys import Keys, claimed
from services.common.model import Network
from services.ipam.model import FAMILIES
from services.ipam.ranges import Cluster, overlap

# Names in a sentence about who holds what.
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Holder:
    """Who makes claims. `instance` tells apart two nodes that were given one name, and a node that lost its disk."""

    node: str
    instance: str


@dataclass(frozen=True, slots=True)
class Holding:
    """One claim as the kvstore has it."""

    key: str
    pool: str
    prefix: Network
    holder: Holder
    claimed: float
    """Seconds since the epoch; 0: not told."""
    revision: int


def read(keys: Keys, entry: Entry) -> Holding | None:
    """Return what a key and its value say; None when the key is no claim's.

    A value that can't be read is a holder without a name: the range isn't free.
    """
    pool, _, rest = entry.key.removeprefix(keys.claims).partition("/")
    try:
        prefix = claimed(entry.key)
    except ValueError:
        return None
    if not rest or "/" in rest:
        return None
    try:
        value = json.loads(entry.value)
        holder, since = Holder(str(value["node"]), str(value["instance"])), float(value.get("claimed", 0))
    except (ValueError, TypeError, KeyError, AttributeError):
        holder, since = Holder("", ""), 0.0
    return Holding(entry.key, pool, prefix, holder, since, entry.revision)


def write(holder: Holder, now: float) -> str:
    """Return the value of a claim that is made now."""
    return json.dumps({"node": holder.node, "instance": holder.instance, "claimed": round(now, 3)})


def choose(cluster: Cluster, family: int, taken: Iterable[Network], node: str) -> Network | None:
    """Return the range that a node claims next, None when none is left."""
    ranges, length = cluster.of(family), cluster.lengths[family]
    starts, total = [], 0
    for one in ranges:
        starts.append(total)
        total += 1 << (length - one.prefixlen)
    if not total:
        return None
    # An exclusion of claims as a whole is as good as a claim of somebody else's.
    whole = [one for one in cluster.excluded if one.version == family and one.prefixlen <= length]
    blocked = _blocked(ranges, starts, length, [*taken, *whole])
    begin = int.from_bytes(hashlib.sha256(node.encode()).digest()[:16]) % total
    for index in _free(blocked, begin, total):
        place = bisect_right(starts, index) - 1
        prefix = _nth(ranges[place], length, index - starts[place])
        if cluster.first(prefix) is not None:
            return prefix
    return None


def _nth(network: Network, length: int, index: int) -> Network:
    size = 1 << (network.max_prefixlen - length)
    return type(network)((int(network.network_address) + index * size, length))


def _blocked(
    ranges: Sequence[Network], starts: Sequence[int], length: int, taken: Iterable[Network]
) -> list[tuple[int, int]]:
    """Return which of the numbered ranges are taken: runs that don't touch, ascending, both ends inclusive."""
    found = []
    for one in taken:
        for start, network in zip(starts, ranges, strict=True):
            if not overlap(one, network):
                continue
            shift = network.max_prefixlen - length
            base, last = int(network.network_address), int(network.broadcast_address)
            inside = max(int(one.network_address), base), min(int(one.broadcast_address), last)
            found.append((start + ((inside[0] - base) >> shift), start + ((inside[1] - base) >> shift)))
    runs: list[tuple[int, int]] = []
    for first, last in sorted(found):
        if runs and first <= runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], max(last, runs[-1][1]))
        else:
            runs.append((first, last))
    return runs


def _free(blocked: Sequence[tuple[int, int]], begin: int, total: int) -> Iterable[int]:
    """Yield the numbers that no run has, from `begin` on and round to it again."""
    for low, high in ((begin, total), (0, begin)):
        index = low
        while index < high:
            place = bisect_right(blocked, index, key=lambda run: run[0]) - 1
            if place >= 0 and index <= blocked[place][1]:
                index = blocked[place][1] + 1
                continue
            yield index
            index += 1


def tell(cluster: Cluster, family: int, holdings: Iterable[Holding]) -> str:
    """Return who holds how much of a cluster's ranges, as a clause."""
    ranges, length = cluster.of(family), cluster.lengths[family]
    total = sum(1 << (length - one.prefixlen) for one in ranges)
    inside = [one for one in holdings if any(overlap(one.prefix, network) for network in ranges)]
    count = Counter(one.holder.node or "?" for one in inside)
    most = [f"{node} {number}" for node, number in count.most_common(_SHOWN)]
    others = len(count) - len(most)
    who = ", ".join(most) + (f" and {others} more nodes" if others else "") if most else "nobody"
    listed = " ".join(map(str, ranges))
    return f"of the {total} {FAMILIES[family]} ranges of /{length} in {listed} {len(inside)} are claimed: {who}"
