"""Who holds what: all pools, all owners, all reservations. Pure; the memory behind `allocator.py`.

    nothing ──reserve──▶ RESERVED ──confirm──▶ CONFIRMED
       ▲                  │     ▲───unconfirm──────┤
       └──release, expiry─┴────────────────────────┘

Invariants: an owner has one allocation or none; an address has one owner or none, whatever pool it came from; a
reservation takes an address of every family it needs or none of any. Each verb checks everything before it changes
anything, so one that raises has changed nothing.

Allocations whose address no range holds any more (*stranded*) are kept, shown, confirmed and released like all
others; only no statistics count them. A range that comes finds those again that have their address in it.

Restarting converts between clocks: rows carry wall time, waits are monotonic. A reservation never waits longer than a
new one would, and a release never counts as earlier than the rows say, however the wall clock was set in between.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address

from services.common.errors import FailedPrecondition
from services.common.model import Address, Attachment, Network
from services.ipam.model import (
    DEFAULT_POOL,
    FAMILIES,
    Allocation,
    AllocationRequest,
    Clock,
    HeldAddress,
    PoolStatus,
    Release,
)
from services.ipam.pool import AddressPool, Origin, Taken
from services.ipam.ranges import Pool, Range
from services.ipam.space import AddressSpace

_ADDRESS_TYPES: dict[int, type[IPv4Address] | type[IPv6Address]] = {4: IPv4Address, 6: IPv6Address}


@dataclass(frozen=True, slots=True)
class Reservation:
    """A new allocation with what undoes it; `takes` are in the order of its addresses."""

    allocation: Allocation
    takes: tuple[tuple[AddressPool, Taken], ...]
    requested: frozenset[int]
    """Families whose address was asked for by name."""

    @property
    def reused(self) -> tuple[Address, ...]:
        """Its addresses that have a row as released."""
        pairs = zip(self.allocation.addresses, self.takes, strict=True)
        return tuple(held.address for held, (_, taken) in pairs if taken.origin is not Origin.FRESH)

    @property
    def too_early(self) -> tuple[Address, ...]:
        """Its addresses that had not cooled down, although nobody asked for just these."""
        pairs = zip(self.allocation.addresses, self.takes, strict=True)
        cooling = (held.address for held, (_, taken) in pairs if taken.origin is Origin.COOLING)
        return tuple(address for address in cooling if address.version not in self.requested)


class Ledger:
    """The state of all pools. Times are monotonic seconds unless they are stored or shown."""

    def __init__(self, pools: Sequence[Pool], cooldown: float, reservation: float, clock: Clock) -> None:
        """Start empty. `cooldown` and `reservation` in seconds."""
        self._space = AddressSpace(pools, cooldown)
        self._clock = clock
        self._reservation_seconds = reservation
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

    def add_range(self, pool: str, one: Range) -> None:
        """Give addresses out of a range from now on; it overlaps none that is there."""
        self._space.add(pool, one, self._clock.monotonic())
        for allocation in self._by_owner.values():
            for held in allocation.addresses:
                if held.address in one.prefix and self._restore_address(held.address, allocation.owner):
                    self._count_reserved(held.address, allocation)

    def remove_range(self, pool: str, prefix: Network) -> None:
        """Give nothing out of a range any more; what is held of it is kept."""
        self._space.remove(pool, prefix)

    def holders(self, prefix: Network) -> int:
        """Return how many allocations need a range: they have an address in it, or their gateway."""
        return sum(
            any(held.address in prefix or held.gateway in prefix for held in allocation.addresses)
            for allocation in self._by_owner.values()
        )

    def addresses(self, pool: str, family: int) -> AddressPool:
        """Return the addresses of a pool that has the family."""
        return self._space.of(self._space.pools[pool], family)

    def held_by(self, owner: Attachment) -> Allocation | None:
        """Return what an owner holds."""
        return self._by_owner.get(owner)

    def pool(self, name: str) -> Pool | None:
        """Return a pool of the configuration."""
        return self._space.pools.get(name)

    def reserve(self, request: AllocationRequest) -> Reservation:
        """Take the addresses for an owner that holds nothing.

        Raises NotFound (pool), InvalidArgument, AlreadyExists (a requested address), Exhausted.
        """
        pool, families = self._space.choose(request)
        now, wall = self._clock.monotonic(), self._clock.wall()
        takes = self._take_all(request, pool, families, now)
        held = tuple(_held(family, *take) for family, take in zip(families, takes, strict=True))
        self._last_id += 1
        allocation = Allocation(
            id=self._last_id,
            owner=request.owner,
            pod=request.pod,
            pool=pool.name,
            addresses=held,
            created=wall,
            expires=wall + self._reservation_seconds,
        )
        for addresses, taken in takes:
            addresses.count_reserved(taken.address, 1)
        self._by_owner[request.owner] = allocation
        self._deadlines[request.owner] = now + self._reservation_seconds
        return Reservation(allocation, takes, frozenset(request.requested))

    def _take_all(
        self, request: AllocationRequest, pool: Pool, families: Iterable[int], now: float
    ) -> tuple[tuple[AddressPool, Taken], ...]:
        """Take one address of every family, or none and raise Exhausted."""
        takes: list[tuple[AddressPool, Taken]] = []
        for family in families:
            addresses, wanted = self._space.of(pool, family), request.requested.get(family)
            if wanted is not None:
                taken: Taken | None = addresses.claim(int(wanted), request.owner, now)
            else:
                taken = addresses.take(request.owner, now)
            if taken is None:
                for other, take in takes:
                    other.undo(take)
                raise self._space.exhausted(pool, family, now, self._next_expiry(pool))
            takes.append((addresses, taken))
        return tuple(takes)

    def undo(self, reservation: Reservation) -> None:
        """Make everything as it was before `reserve`."""
        del self._by_owner[reservation.allocation.owner]
        del self._deadlines[reservation.allocation.owner]
        for held, (addresses, taken) in zip(reservation.allocation.addresses, reservation.takes, strict=True):
            # Its range may have gone meanwhile, and everything that was known of it.
            if self._space.usable(held.address) is addresses:
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
        """Return a reservation as confirmed by an endpoint, 0 for none; `put` makes it so."""
        return replace(held, expires=None, confirmed=self._clock.wall(), endpoint_id=endpoint_id)

    def unconfirmed(self, held: Allocation) -> Allocation:
        """Return a confirmed allocation as a reservation again; `put` makes it so."""
        return replace(self.renewed(held), confirmed=None, endpoint_id=0)

    def put(self, allocation: Allocation) -> None:
        """Replace an allocation by its renewed, confirmed or unconfirmed self."""
        self._by_owner[allocation.owner] = allocation
        was_reserved = self._deadlines.pop(allocation.owner, None) is not None
        is_reserved = allocation.expires is not None
        if is_reserved:
            self._deadlines[allocation.owner] = self._clock.monotonic() + self._reservation_seconds
        if is_reserved != was_reserved:
            self._space.count_reserved(allocation, is_reserved - was_reserved)

    def release(self, allocation: Allocation) -> None:
        """Take everything back; the addresses begin to cool down."""
        if self._deadlines.pop(allocation.owner, None) is not None:
            self._space.count_reserved(allocation, -1)
        del self._by_owner[allocation.owner]
        now = self._clock.monotonic()
        for held in allocation.addresses:
            addresses = self._space.usable(held.address)
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
        now = self._clock.monotonic()
        return [
            PoolStatus(
                pool.name,
                pool.mtu,
                tuple(self._space.statuses(pool, now)),
                self._next_expiry(pool),
                families=pool.families,
                cluster=pool.cluster is not None,
                delegated=pool.delegated,
            )
            for pool in self._space.pools.values()
        ]

    def _next_expiry(self, pool: Pool) -> float | None:
        owners = (self._by_owner[owner] for owner in self._deadlines)
        return next((held.expires for held in owners if held.pool == pool.name), None)

    def _differs(self, held: Allocation, how: str) -> FailedPrecondition:
        return FailedPrecondition(
            f"{held.owner} holds {held.describe()}, which {how}: release it first (ReleaseAddresses)",
            owner=held.owner,
            pool=held.pool,
            held=held.describe(),
        )

    def _restore_address(self, address: Address, owner: Attachment) -> bool:
        addresses = self._space.usable(address)
        if addresses is not None:
            addresses.restore_held(int(address), owner)
        return addresses is not None

    def _count_reserved(self, address: Address, allocation: Allocation) -> None:
        addresses = self._space.usable(address)
        if addresses is not None and allocation.expires is not None:
            addresses.count_reserved(int(address), 1)

    def _restore_deadlines(self, allocations: Iterable[Allocation]) -> None:
        now, wall = self._clock.monotonic(), self._clock.wall()
        reserved = [(held.expires, held) for held in allocations if held.expires is not None]
        for expires, held in sorted(reserved, key=lambda pair: pair[0]):
            self._deadlines[held.owner] = now + min(max(expires - wall, 0.0), self._reservation_seconds)
            self._space.count_reserved(held, 1)

    def _restore_releases(self, releases: Iterable[Release]) -> None:
        now, wall = self._clock.monotonic(), self._clock.wall()
        for release in sorted(releases, key=lambda release: release.at):
            addresses = self._space.usable(release.address)
            # A row may be older than its address' holder: from before the range went and came back.
            if addresses is not None and addresses.holder(int(release.address)) is None:
                addresses.restore_released(int(release.address), now - max(wall - release.at, 0.0))


def _held(family: int, addresses: AddressPool, taken: Taken) -> HeldAddress:
    origin = addresses.range_of(taken.address)
    return HeldAddress(_ADDRESS_TYPES[family](taken.address), origin.gateway, origin.prefix)
