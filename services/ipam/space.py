"""All addresses of the node: which pool has them, who may ask for them, how many are left. Pure.

An address is found by its number, not by the name of the pool that gave it: pools may be renamed and ranges moved
between restarts, and still one address must never be in two hands.

The ranges of a cluster pool come and go (`add`, `remove`). An address whose range has gone is *stranded*: nobody finds
it here, and so it is given out to nobody.

Not here: owners and time (see `ledger.py`).
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import replace

from services.common.errors import AlreadyExists, Exhausted, InvalidArgument, NotFound
from services.common.model import Address, Network
from services.common.wire import iso
from services.ipam.model import DEFAULT_POOL, FAMILIES, Allocation, AllocationRequest, RangeStatus
from services.ipam.pool import AddressPool
from services.ipam.ranges import Pool, Range

# By whether the pool is the cluster's.
_WHAT_TO_DO = {
    False: "delete pods or add a range to [[ipam.pools]]",
    True: "delete pods or have the node claim another range of the cluster",
}


class _Place:
    """All ranges of one family on the node, by address."""

    def __init__(self, places: Iterable[tuple[Range, AddressPool, Pool]]) -> None:
        self._places = sorted(places, key=lambda place: int(place[0].prefix.network_address))
        self._starts = [int(place[0].prefix.network_address) for place in self._places]

    def find(self, address: Address) -> tuple[Range, AddressPool, Pool] | None:
        index = bisect_right(self._starts, int(address)) - 1
        if index < 0 or int(address) > int(self._places[index][0].prefix.broadcast_address):
            return None
        return self._places[index]


class AddressSpace:
    """The pools of the configuration with the state of their addresses."""

    def __init__(self, pools: Sequence[Pool], cooldown: float) -> None:
        """Start with everything free. `cooldown` in seconds."""
        self.pools = {pool.name: pool for pool in pools}
        self._addresses = {
            (pool.name, family): AddressPool(pool.of(family), cooldown) for pool in pools for family in pool.families
        }
        self._places: dict[int, _Place] = {}
        for family in FAMILIES:
            self._place(family)

    def _place(self, family: int) -> None:
        having = [pool for pool in self.pools.values() if family in pool.families]
        self._places[family] = _Place(
            (one, self._addresses[pool.name, family], pool) for pool in having for one in pool.of(family)
        )

    def add(self, name: str, one: Range, now: float) -> None:
        """Add a range to a pool; it overlaps none."""
        pool, family = self.pools[name], one.prefix.version
        self.pools[name] = replace(pool, ranges=(*pool.ranges, one))
        self._addresses[name, family].add(one, now)
        self._place(family)

    def remove(self, name: str, prefix: Network) -> None:
        """Forget a range of a pool; what is held of it is stranded."""
        pool = self.pools[name]
        self.pools[name] = replace(pool, ranges=tuple(one for one in pool.ranges if one.prefix != prefix))
        self._addresses[name, prefix.version].remove(prefix)
        self._place(prefix.version)

    def of(self, pool: Pool, family: int) -> AddressPool:
        """Return a pool's addresses of one family, which it must have."""
        return self._addresses[pool.name, family]

    def usable(self, address: Address) -> AddressPool | None:
        """Return the pool that an address can be given out from; None when no range has it."""
        place = self._places[address.version].find(address)
        return place[1] if place is not None and place[0].usable(int(address)) else None

    def choose(self, request: AllocationRequest) -> tuple[Pool, tuple[int, ...]]:
        """Return the pool and the families that a request means; its requested addresses are free.

        Raises NotFound (pool), InvalidArgument, AlreadyExists (a requested address is held).
        """
        pool = self._pool(request)
        _check_purpose(pool, delegated=request.delegated)
        families = self._families(pool, request)
        for address in request.requested.values():
            self._check_requested(pool, address)
        return pool, families

    def count_reserved(self, allocation: Allocation, change: int) -> None:
        """Note that an allocation became a reservation (1) or is none any more (-1)."""
        for held in allocation.addresses:
            addresses = self.usable(held.address)
            if addresses is not None:
                addresses.count_reserved(int(held.address), change)

    def statuses(self, pool: Pool, now: float) -> Iterable[RangeStatus]:
        """Return how full each range of a pool is, in the order of the configuration."""
        counts: dict[Network, tuple[int, int, int]] = {}
        for family in pool.families:
            addresses = self._addresses[pool.name, family]
            per_range = zip(addresses.used(), addresses.reserved(), addresses.cooling(now), strict=True)
            counts.update(zip((one.prefix for one in pool.of(family)), per_range, strict=True))
        for one in pool.ranges:
            used, reserved, cooling = counts[one.prefix]
            yield RangeStatus(one.prefix, one.gateway, one.excluded, one.size, used, reserved, cooling)

    def exhausted(self, pool: Pool, family: int, now: float, expiry: float | None) -> Exhausted:
        """Return the error with all numbers; `expiry` is when the next reservation expires, by the wall clock."""
        addresses, ranges = self._addresses[pool.name, family], pool.of(family)
        size, used, reserved = sum(one.size for one in ranges), sum(addresses.used()), sum(addresses.reserved())
        cooling = sum(addresses.cooling(now))
        soon = f"the next reservation expires {iso(expiry)}" if expiry is not None else "no reservation will expire"
        return Exhausted(
            f"pool {pool.name!r} has no free {FAMILIES[family]} address: {used} of {size} used, {reserved} of them "
            f"reserved, {cooling} cooling down; {soon}; {_WHAT_TO_DO[pool.cluster is not None]}",
            pool=pool.name,
            family=FAMILIES[family],
            ranges=" ".join(str(one.prefix) for one in ranges),
            size=size,
            used=used,
            reserved=reserved,
            cooling=cooling,
            next_expiry=iso(expiry) if expiry is not None else "",
        )

    def _pool(self, request: AllocationRequest) -> Pool:
        name = request.pool
        if not name:
            places = (self._places[family].find(address) for family, address in request.requested.items())
            name = next((place[2].name for place in places if place is not None), DEFAULT_POOL)
        pool = self.pools.get(name)
        if pool is None:
            known = ", ".join(self.pools)
            raise NotFound(f"pool: there is no pool {name!r}; the configuration has {known}", pool=name)
        return pool

    def _families(self, pool: Pool, request: AllocationRequest) -> tuple[int, ...]:
        wanted = request.families or frozenset(pool.families)
        for family in sorted(wanted | request.requested.keys()):
            if family not in pool.families:
                has = " and ".join(FAMILIES[one] for one in pool.families)
                raise InvalidArgument(
                    f"families: pool {pool.name!r} has no {FAMILIES[family]} range, only {has}", pool=pool.name
                )
            if family not in wanted:
                raise InvalidArgument(
                    f"requested: {request.requested[family]} is {FAMILIES[family]}, which `families` leaves out",
                    field="requested",
                )
        return tuple(sorted(wanted))

    def _check_requested(self, pool: Pool, address: Address) -> None:
        place = self._places[address.version].find(address)
        if place is None or place[2] is not pool:
            ranges = ", ".join(str(one.prefix) for one in pool.of(address.version))
            raise InvalidArgument(
                f"requested: {address} is in no range of pool {pool.name!r} ({ranges})", field="requested"
            )
        if not place[0].usable(int(address)):
            raise InvalidArgument(
                f"requested: {address} is never given out: {place[0].why_not(address)}", field="requested"
            )
        holder = place[1].holder(int(address))
        if holder is not None:
            raise AlreadyExists(
                f"requested: {address} is held by {holder}; release that first or ask for another",
                address=address,
                owner=holder,
            )


def _check_purpose(pool: Pool, *, delegated: bool) -> None:
    """Refuse a pool whose gateways are none for the interface that the addresses are for."""
    if pool.delegated and not delegated:
        raise InvalidArgument(
            f"pool: {pool.name!r} is delegated, for plugins with podlane-ipam, and the node's datapath doesn't know "
            "its gateways: name another pool",
            field="pool",
            pool=pool.name,
        )
    if not delegated or pool.delegated:
        return
    if pool.cluster is not None:
        raise InvalidArgument(
            f"pool: {pool.name!r} is the cluster's, and has one gateway for all its ranges; podlane-ipam needs one in "
            "each: a pool with delegated = true",
            field="pool",
            pool=pool.name,
        )
    for one in pool.ranges:
        if one.gateway not in one.prefix:
            raise InvalidArgument(
                f"pool: {one.prefix} of {pool.name!r} has the node's gateway {one.gateway}, which isn't in it; "
                "podlane-ipam needs one that is: a pool with delegated = true",
                field="pool",
                pool=pool.name,
            )
