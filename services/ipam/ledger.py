"""Who holds what: all pools, all owners, all reservations. Pure; the memory behind `allocator.py`.

    nothing ──reserve──▶ RESERVED ──confirm──▶ CONFIRMED
       ▲                    │ expiry               │
       └──────release───────┴──────────────────────┘

Invariants: an owner has one allocation or none; an address has one owner or none, whatever pool it came from; a
reservation takes an address of every family it needs or none of any. Each verb checks everything before it changes
anything, so one that raises has changed nothing.

An address is found by its number, not by the name of the pool that gave it: pools may be renamed and ranges moved
between restarts. Allocations whose address no range holds any more (*stranded*) are kept, shown, confirmed and
released like all others; only no statistics count them.

Restarting converts between clocks: rows carry wall time, waits are monotonic. A reservation never waits longer than a
new one would, and a release never counts as earlier than the rows say, however the wall clock was set in between.
"""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address

from services.common.errors import AlreadyExists, Exhausted, FailedPrecondition, InvalidArgument, NotFound
from services.common.model import Address, Attachment, Network
from services.common.wire import iso
from services.ipam.model import (
    DEFAULT_POOL,
    FAMILIES,
    Allocation,
    AllocationRequest,
    Clock,
    HeldAddress,
    PoolStatus,
    RangeStatus,
    Release,
)
from services.ipam.pool import AddressPool, Origin, Taken
from services.ipam.ranges import Pool, Range

_ADDRESS_TYPES: dict[int, type[IPv4Address] | type[IPv6Address]] = {4: IPv4Address, 6: IPv6Address}


@dataclass(frozen=True, slots=True)
class Reservation:
    """A new allocation with what undoes it; `takes` are in the order of its addresses."""

    allocation: Allocation
    takes: tuple[tuple[AddressPool, Taken], ...]

    @property
    def reused(self) -> tuple[Address, ...]:
        """Its addresses that have a row as released."""
        pairs = zip(self.allocation.addresses, self.takes, strict=True)
        return tuple(held.address for held, (_, taken) in pairs if taken.origin is not Origin.FRESH)

    @property
    def too_early(self) -> tuple[Address, ...]:
        """Its addresses that had not cooled down."""
        pairs = zip(self.allocation.addresses, self.takes, strict=True)
        return tuple(held.address for held, (_, taken) in pairs if taken.origin is Origin.COOLING)


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


class Ledger:
    """The state of all pools. Times are monotonic seconds unless they are stored or shown."""

    def __init__(self, pools: Sequence[Pool], cooldown: float, reservation: float, clock: Clock) -> None:
        """Start empty. `cooldown` and `reservation` in seconds."""
        self._pools = {pool.name: pool for pool in pools}
        self._clock = clock
        self._reservation_seconds = reservation
        self._addresses = {
            (pool.name, family): AddressPool(pool.of(family), cooldown) for pool in pools for family in pool.families
        }
        self._places = {
            family: _Place((one, self._addresses[pool.name, family], pool) for pool in pools for one in pool.of(family))
            for family in FAMILIES
        }
        self._by_owner: dict[Attachment, Allocation] = {}
        self._deadlines: OrderedDict[Attachment, float] = OrderedDict()  # of reservations, soonest first
        self._last_id = 0

    def restore(self, allocations: Sequence[Allocation], releases: Iterable[Release]) -> list[Allocation]:
        """Take over what is on disk; return the allocations that no range holds any more."""
        stranded = []
        for allocation in allocations:
            self._by_owner[allocation.owner] = allocation
            self._last_id = max(self._last_id, allocation.id)
            inside = [self._restore_address(held.address, allocation.owner) for held in allocation.addresses]
            if not all(inside):
                stranded.append(allocation)
        self._restore_deadlines(allocations)
        self._restore_releases(releases)
        return stranded

    def held_by(self, owner: Attachment) -> Allocation | None:
        """Return what an owner holds."""
        return self._by_owner.get(owner)

    def pool(self, name: str) -> Pool | None:
        """Return a pool of the configuration."""
        return self._pools.get(name)

    def reserve(self, request: AllocationRequest) -> Reservation:
        """Take the addresses for an owner that holds nothing.

        Raises NotFound (pool), InvalidArgument, AlreadyExists (a requested address), Exhausted.
        """
        pool = self._choose_pool(request)
        families = self._choose_families(pool, request)
        for address in request.requested.values():
            self._check_requested(pool, address)
        now, wall = self._clock.monotonic(), self._clock.wall()
        takes: list[tuple[AddressPool, Taken]] = []
        held: list[HeldAddress] = []
        for family in families:
            addresses = self._addresses[pool.name, family]
            wanted = request.requested.get(family)
            taken = (
                addresses.take(request.owner, now)
                if wanted is None
                else addresses.claim(int(wanted), request.owner, now)
            )
            if taken is None:
                for other, take in takes:
                    other.undo(take)
                raise self._exhausted(pool, family)
            takes.append((addresses, taken))
            origin = pool.of(family)[addresses.range_of(taken.address)]
            held.append(HeldAddress(_ADDRESS_TYPES[family](taken.address), origin.gateway, origin.prefix))
        self._last_id += 1
        allocation = Allocation(
            id=self._last_id,
            owner=request.owner,
            pod=request.pod,
            pool=pool.name,
            addresses=tuple(held),
            created=wall,
            expires=wall + self._reservation_seconds,
        )
        for addresses, taken in takes:
            addresses.count_reserved(taken.address, 1)
        self._by_owner[request.owner] = allocation
        self._deadlines[request.owner] = now + self._reservation_seconds
        return Reservation(allocation, tuple(takes))

    def undo(self, reservation: Reservation) -> None:
        """Make everything as it was before `reserve`."""
        del self._by_owner[reservation.allocation.owner]
        del self._deadlines[reservation.allocation.owner]
        for addresses, taken in reservation.takes:
            addresses.count_reserved(taken.address, -1)
            addresses.undo(taken)

    def check_repeat(self, held: Allocation, request: AllocationRequest) -> None:
        """Raise FailedPrecondition when a request asks for other than what its owner holds."""
        if request.pool not in {"", held.pool} or (
            not (request.pool or request.requested) and held.pool != DEFAULT_POOL
        ):
            raise self._differs(held, f"is of pool {held.pool!r}, not {request.pool or DEFAULT_POOL!r}")
        addresses: dict[int, Address] = {one.address.version: one.address for one in held.addresses}
        for family, address in request.requested.items():
            if addresses.get(family) != address:
                raise self._differs(held, f"is not the requested {address}")
        if request.families and request.families != addresses.keys():
            wanted = " and ".join(FAMILIES[family] for family in sorted(request.families))
            raise self._differs(held, f"is not exactly {wanted}")

    def wears_out(self, held: Allocation) -> bool:
        """Return whether less than half of a reservation's time is left."""
        deadline = self._deadlines.get(held.owner)
        return deadline is not None and deadline - self._clock.monotonic() < self._reservation_seconds / 2

    def renewed(self, held: Allocation) -> Allocation:
        """Return a reservation with a new expiry; `put` makes it so."""
        return replace(held, expires=self._clock.wall() + self._reservation_seconds)

    def confirmed(self, held: Allocation, endpoint_id: int) -> Allocation:
        """Return a reservation as confirmed by an endpoint; `put` makes it so."""
        return replace(held, expires=None, confirmed=self._clock.wall(), endpoint_id=endpoint_id)

    def put(self, allocation: Allocation) -> None:
        """Replace a reservation by its renewed or confirmed self."""
        self._by_owner[allocation.owner] = allocation
        del self._deadlines[allocation.owner]
        if allocation.expires is not None:
            self._deadlines[allocation.owner] = self._clock.monotonic() + self._reservation_seconds
        else:
            self._count_reserved(allocation, -1)

    def release(self, allocation: Allocation) -> None:
        """Take everything back; the addresses begin to cool down."""
        if self._deadlines.pop(allocation.owner, None) is not None:
            self._count_reserved(allocation, -1)
        del self._by_owner[allocation.owner]
        now = self._clock.monotonic()
        for held in allocation.addresses:
            addresses = self._usable(held.address)
            if addresses is not None:
                addresses.release(int(held.address), now)

    def next_deadline(self) -> float | None:
        """Return when the next reservation expires, by the monotonic clock."""
        return next(iter(self._deadlines.values()), None)

    def due(self) -> list[Attachment]:
        """Return the owners whose reservations have expired, oldest first."""
        now = self._clock.monotonic()
        owners = []
        for owner, deadline in self._deadlines.items():
            if deadline > now:
                break
            owners.append(owner)
        return owners

    def is_due(self, owner: Attachment) -> bool:
        """Return whether an owner holds a reservation that has expired."""
        deadline = self._deadlines.get(owner)
        return deadline is not None and deadline <= self._clock.monotonic()

    def status(self) -> list[PoolStatus]:
        """Return how full each pool is, in the order of the configuration."""
        return [
            PoolStatus(pool.name, pool.mtu, tuple(self._range_statuses(pool)), self._next_expiry(pool))
            for pool in self._pools.values()
        ]

    def _range_statuses(self, pool: Pool) -> Iterable[RangeStatus]:
        now = self._clock.monotonic()
        counts: dict[Network, tuple[int, int, int]] = {}
        for family in pool.families:
            addresses = self._addresses[pool.name, family]
            per_range = zip(addresses.used(), addresses.reserved(), addresses.cooling(now), strict=True)
            counts.update(zip((one.prefix for one in pool.of(family)), per_range, strict=True))
        for one in pool.ranges:
            used, reserved, cooling = counts[one.prefix]
            yield RangeStatus(one.prefix, one.gateway, one.excluded, one.size, used, reserved, cooling)

    def _next_expiry(self, pool: Pool) -> float | None:
        owners = (self._by_owner[owner] for owner in self._deadlines)
        return next((held.expires for held in owners if held.pool == pool.name), None)

    def _choose_pool(self, request: AllocationRequest) -> Pool:
        name = request.pool
        if not name:
            places = (self._places[family].find(address) for family, address in request.requested.items())
            name = next((place[2].name for place in places if place is not None), DEFAULT_POOL)
        pool = self._pools.get(name)
        if pool is None:
            known = ", ".join(self._pools)
            raise NotFound(f"pool: there is no pool {name!r}; the configuration has {known}", pool=name)
        return pool

    def _choose_families(self, pool: Pool, request: AllocationRequest) -> tuple[int, ...]:
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

    def _differs(self, held: Allocation, how: str) -> FailedPrecondition:
        return FailedPrecondition(
            f"{held.owner} holds {held.describe()}, which {how}: release it first (ReleaseAddresses)",
            owner=held.owner,
            pool=held.pool,
            held=held.describe(),
        )

    def _exhausted(self, pool: Pool, family: int) -> Exhausted:
        addresses, ranges = self._addresses[pool.name, family], pool.of(family)
        size, used, reserved = sum(one.size for one in ranges), sum(addresses.used()), sum(addresses.reserved())
        cooling = sum(addresses.cooling(self._clock.monotonic()))
        expiry = self._next_expiry(pool)
        soon = f"the next reservation expires {iso(expiry)}" if expiry is not None else "no reservation will expire"
        return Exhausted(
            f"pool {pool.name!r} has no free {FAMILIES[family]} address: {used} of {size} used, {reserved} of them "
            f"reserved, {cooling} cooling down; {soon}; delete pods or add a range to [[ipam.pools]]",
            pool=pool.name,
            family=FAMILIES[family],
            ranges=" ".join(str(one.prefix) for one in ranges),
            size=size,
            used=used,
            reserved=reserved,
            cooling=cooling,
            next_expiry=iso(expiry) if expiry is not None else "",
        )

    def _usable(self, address: Address) -> AddressPool | None:
        place = self._places[address.version].find(address)
        return place[1] if place is not None and place[0].usable(int(address)) else None

    def _count_reserved(self, allocation: Allocation, change: int) -> None:
        for held in allocation.addresses:
            addresses = self._usable(held.address)
            if addresses is not None:
                addresses.count_reserved(int(held.address), change)

    def _restore_address(self, address: Address, owner: Attachment) -> bool:
        addresses = self._usable(address)
        if addresses is not None:
            addresses.restore_held(int(address), owner)
        return addresses is not None

    def _restore_deadlines(self, allocations: Iterable[Allocation]) -> None:
        now, wall = self._clock.monotonic(), self._clock.wall()
        reserved = [(held.expires, held) for held in allocations if held.expires is not None]
        for expires, held in sorted(reserved, key=lambda pair: pair[0]):
            self._deadlines[held.owner] = now + min(max(expires - wall, 0.0), self._reservation_seconds)
            self._count_reserved(held, 1)

    def _restore_releases(self, releases: Iterable[Release]) -> None:
        now, wall = self._clock.monotonic(), self._clock.wall()
        for release in sorted(releases, key=lambda release: release.at):
            addresses = self._usable(release.address)
            if addresses is not None:
                addresses.restore_released(int(release.address), now - max(wall - release.at, 0.0))
