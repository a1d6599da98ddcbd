"""A pod's veth pair as values: what was asked for, what was made, and what the kernel has. Pure.

`LinkSpec` is the request, `Link` what exists, `LinkRecord` what the loader writes down about it (linkrecord.py):

    intended   written before the kernel is touched; a killed attempt leaves it at this, and whatever carries the
               link's name is a remainder that the next attempt replaces
    done       the kernel has all of it; from here on the link belongs to a pod and is never replaced

How they are compared: linkcompare.py.
"""

import dataclasses
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum

from services.common.errors import InvalidArgument
from services.common.model import Address, AssignedAddress, Attachment, Interface, Phase, Route, format_mac

# linux/if_ether.h, RFC 791 and RFC 8200 §5, linux/netdevice.h (GSO_MAX_SIZE, GRO_MAX_SIZE)
SMALLEST_MTU, SMALLEST_MTU_IPV6, LARGEST_MTU = 68, 1280, 65535
LARGEST_OFFLOAD = 8 * 65535

# A pod's interface beside the one that leads out of it has routes in a table of its own: this, and its index.
OWN_TABLES = 1000

_HOST_IFNAME = re.compile(r"lxc[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class OffloadSizes:
    """Segmentation and aggregation limits of both ends, bytes; 0 leaves the kernel's default."""

    gso_max_size: int = 0
    gro_max_size: int = 0
    gso_ipv4_max_size: int = 0
    gro_ipv4_max_size: int = 0


@dataclass(frozen=True, slots=True)
class Rule:
    """Packets of a family that leave from `source`, or by the device `ifname` if that is set, are routed by a table."""

    version: int
    table: int
    source: Address | None = None
    ifname: str = ""

    def __str__(self) -> str:
        """Return it as `ip rule` would show it."""
        which = f"from {self.source}" if self.source is not None else f"oif {self.ifname}"
        return f"{which} lookup {self.table}"


@dataclass(frozen=True, slots=True)
class LinkSpec:
    """A veth pair as asked for.

    `mtu` in bytes, 0: the node's. `route_mtu` in bytes: of routes that set none, 0: the device's. `pod_mac` None: any.
    Routes are installed in the order given. `chained`: another plugin has made it, and `addresses` are what it has.
    """

    attachment: Attachment
    netns_path: str
    addresses: tuple[AssignedAddress, ...]
    routes: tuple[Route, ...] = ()
    mtu: int = 0
    route_mtu: int = 0
    offload: OffloadSizes = field(default_factory=OffloadSizes)
    pod_mac: bytes | None = None
    chained: bool = False


@dataclass(frozen=True, slots=True)
class LinkRecord:
    """What is written down about a link. The indexes are 0 until it is `done`.

    A namespace is known by its cookie (SO_NETNS_COOKIE): the kernel never gives one twice before a reboot, whereas
    inode numbers return within milliseconds. `asked_at` is when the link was last asked for, in seconds since boot
    (CLOCK_MONOTONIC): a clock that is set must not make a link look old while its ADD is under way. `chained_ifname`
    is what another plugin calls the node's end of a chained link. `secondary` are the families, 4 and 6, that another
    interface led out of the pod for when this one came.
    """

    spec: LinkSpec
    mtu: int
    host_mac: bytes
    pod_mac: bytes
    netns_inode: int
    netns_cookie: int
    done: bool = False
    host_ifindex: int = 0
    pod_ifindex: int = 0
    asked_at: float = 0.0
    chained_ifname: str = ""
    secondary: tuple[int, ...] = ()

    @property
    def key(self) -> str:
        """What the record is known by: the name that the node's end has, or would have if it were ours."""
        return self.spec.attachment.host_ifname()

    @property
    def host_ifname(self) -> str:
        """The node's end."""
        return self.chained_ifname or self.key

    @property
    def routes(self) -> tuple[Route, ...]:
        """The routes as installed."""
        return tuple(
            dataclasses.replace(one, table=self.own_table) if one.destination.version in self.secondary else one
            for one in effective_routes(self.spec)
        )

    @property
    def own_table(self) -> int:
        """The table of a secondary interface's routes."""
        return OWN_TABLES + self.pod_ifindex

    @property
    def rules(self) -> tuple[Rule, ...]:
        """Which packets a secondary interface's routes are for: from its addresses, or bound to it."""
        table, ifname = self.own_table, self.spec.attachment.ifname
        sources = [one.address.ip for one in self.spec.addresses if one.address.version in self.secondary]
        return (
            *(Rule(source.version, table, source) for source in sources),
            *(Rule(version, table, ifname=ifname) for version in self.secondary),
        )

    def idle(self, now: float) -> float:
        """Return the seconds since it was last asked for. A time in the future is of an earlier boot."""
        return now - self.asked_at if self.asked_at <= now else now


@dataclass(frozen=True, slots=True)
class Link:
    """A veth pair as the kernel has it. `netns_inode` 0: the pod's namespace can't be opened any more."""

    attachment: Attachment
    host_ifname: str
    host_ifindex: int
    host_mac: bytes
    pod_mac: bytes
    netns_path: str
    mtu: int
    pod_ifindex: int
    netns_inode: int
    up: bool
    chained: bool = False


@dataclass(frozen=True, slots=True)
class CreatedLink:
    """The answer to a request; `created` False when the link existed as asked."""

    link: Link
    created: bool
    phases: tuple[Phase, ...]
    routes: tuple[Route, ...] = ()
    """As installed, where that is not as asked."""


class Namespace(IntEnum):
    """What has become of the namespace that a link was made for; the numbers are the API's."""

    UNKNOWN = 0
    """Not looked at, or it could not be told."""
    THERE = 1
    GONE = 2
    """Nothing is at its path any more."""
    OTHER = 3
    """Something else is at its path."""

    @property
    def lost(self) -> bool:
        """Whether the path does not lead to it."""
        return self in {Namespace.GONE, Namespace.OTHER}


@dataclass(frozen=True, slots=True)
class LinkStatus:
    """A link and how it differs from what was asked for, one sentence each.

    `idle` is in seconds, see LinkRecord; `processes` live where the pod's end is, and were looked for only when the
    namespace is lost.
    """

    link: Link
    problems: tuple[str, ...]
    idle: float = 0.0
    namespace: Namespace = Namespace.UNKNOWN
    processes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LinkRemoval:
    """A podlane link has gone from the kernel, whoever removed it. `attachment` None: there is no record of it."""

    host_ifname: str
    host_ifindex: int
    attachment: Attachment | None


@dataclass(frozen=True, slots=True)
class HostEnd:
    """What of the node's end is compared."""

    ifindex: int
    mac: bytes
    mtu: int


@dataclass(frozen=True, slots=True)
class PodEnd:
    """The pod's end as found inside its namespace."""

    ifindex: int
    mac: bytes
    mtu: int
    up: bool
    addresses: frozenset[Interface]
    routes: frozenset[Route]
    """Those of the main table, and of the interface's own."""
    rules: frozenset[Rule] = frozenset()


def is_link(ifname: str) -> bool:
    """Return whether a device has a name as podlane gives it to the node's end of a link."""
    return _HOST_IFNAME.fullmatch(ifname) is not None


def random_mac() -> bytes:
    """Return a random unicast, locally administered address (IEEE 802, §8.2): bit 0 of the first byte 0, bit 1 set."""
    first, *rest = secrets.token_bytes(6)
    return bytes((first & 0xFC | 0x02, *rest))


def check(spec: LinkSpec) -> None:
    """Raise InvalidArgument naming the field that no kernel would accept."""
    if not spec.netns_path.startswith("/"):
        raise InvalidArgument(f"netns_path: {spec.netns_path!r} is not an absolute path", field="netns_path")
    if not spec.addresses:
        raise InvalidArgument("addresses: at least one address is needed", field="addresses")
    for name, mtu in (("mtu", spec.mtu), ("route_mtu", spec.route_mtu), *_route_mtus(spec)):
        _check_mtu(name, mtu, families={one.address.version for one in spec.addresses})
    for name in OffloadSizes.__slots__:
        size = getattr(spec.offload, name)
        if not 0 <= size <= LARGEST_OFFLOAD:
            raise InvalidArgument(
                f"offload.{name}: {size} is more than {LARGEST_OFFLOAD} bytes", field=f"offload.{name}"
            )
    if spec.pod_mac is not None and (spec.pod_mac[0] & 1 or not any(spec.pod_mac)):
        raise InvalidArgument(f"pod_mac: {format_mac(spec.pod_mac)} is not a unicast address", field="pod_mac")


def _route_mtus(spec: LinkSpec) -> Iterator[tuple[str, int]]:
    for index, route in enumerate(spec.routes):
        yield f"routes[{index}].mtu", route.mtu


def _check_mtu(name: str, mtu: int, families: set[int]) -> None:
    smallest = SMALLEST_MTU_IPV6 if 6 in families else SMALLEST_MTU
    if mtu and not smallest <= mtu <= LARGEST_MTU:
        why = ", IPv6's least" if 6 in families and mtu < smallest else ""
        raise InvalidArgument(f"{name}: {mtu} is not between {smallest}{why} and {LARGEST_MTU} bytes", field=name)


def effective_routes(spec: LinkSpec) -> tuple[Route, ...]:
    """Return the routes as installed: each with its MTU."""
    return tuple(
        dataclasses.replace(one, mtu=one.mtu or (spec.route_mtu if one.gateway is not None else 0))
        for one in spec.routes
    )
