"""The nouns of ipam. Pure.

An allocation is what one owner (a CNI attachment) holds: at most one address per family, from one pool. It is
born *reserved*, with an expiry; an endpoint *confirms* it and then it stays until it is released. One that is confirmed
without an endpoint is *ipam only*: another plugin's interface has the addresses, and podlane-ipam releases them.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from services.common.model import Address, Attachment, Network, Pod

FAMILIES = {4: "IPv4", 6: "IPv6"}
"""The two families by IP version, which is how they are named everywhere inside the service."""

DEFAULT_POOL = "default"


def purpose_of(endpoint_id: int) -> str:
    """Return what is confirmed by an endpoint, or by 0, is held for, as the end of a sentence."""
    return f"for endpoint {endpoint_id}" if endpoint_id else "for another plugin (podlane-ipam)"


@dataclass(frozen=True, slots=True)
class HeldAddress:
    """One address of an allocation.

    Gateway and range are what the pod was told. They are kept with it, because its routes don't change when the
    pool's configuration does.
    """

    address: Address
    gateway: Address
    range: Network


@dataclass(frozen=True, slots=True)
class Allocation:
    """What one owner holds. Times are seconds since the epoch."""

    id: int
    """Grows with each allocation; the order of lists."""
    owner: Attachment
    pod: Pod
    pool: str
    addresses: tuple[HeldAddress, ...]
    """IPv4 first."""
    created: float
    expires: float | None
    """None once confirmed."""
    confirmed: float | None = None
    """None while reserved."""
    endpoint_id: int = 0
    """0 while reserved, and of what is ipam only."""

    @property
    def ipam_only(self) -> bool:
        """Whether it is confirmed and no endpoint stands behind it."""
        return self.confirmed is not None and not self.endpoint_id

    @property
    def purpose(self) -> str:
        """What it is held for, as the end of a sentence."""
        if self.confirmed is None:
            return "as a reservation"
        return purpose_of(self.endpoint_id)

    def describe(self) -> str:
        """Return its addresses as people write them."""
        return ", ".join(str(held.address) for held in self.addresses)


@dataclass(frozen=True, slots=True)
class AllocationRequest:
    """What an owner asks for; empty parts leave the choice to ipam."""

    owner: Attachment
    pod: Pod = field(default_factory=Pod)
    pool: str = ""
    families: frozenset[int] = frozenset()
    requested: Mapping[int, Address] = field(default_factory=dict)
    """By family."""
    delegated: bool = False
    """For another plugin's interface."""


@dataclass(frozen=True, slots=True)
class Release:
    """An address that nobody holds any more, and since when (seconds since the epoch)."""

    address: Address
    at: float


@dataclass(frozen=True, slots=True)
class RangeStatus:
    """How full one range is, in addresses."""

    prefix: Network
    gateway: Address
    excluded: tuple[Network, ...]
    size: int
    used: int
    reserved: int
    cooling: int


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """How full a pool is; `next_expiry` in seconds since the epoch, None when nothing is reserved."""

    name: str
    mtu: int
    ranges: tuple[RangeStatus, ...]
    next_expiry: float | None
    families: tuple[int, ...] = ()
    """What it has, or is to have."""
    cluster: bool = False
    """Its ranges are claimed in the kvstore."""
    delegated: bool = False
    """It is for other plugins' interfaces."""
    problems: tuple[str, ...] = ()
    """What is wrong with its ranges, one sentence each."""


@dataclass(frozen=True, slots=True)
class Clock:
    """Two clocks: `wall` for what is shown and what outlives the process, `monotonic` for every wait.

    A wall clock that is set while the service runs thus expires nothing early and keeps nothing for ever.
    """

    wall: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
