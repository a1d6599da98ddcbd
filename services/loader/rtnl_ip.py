"""The messages of rtnetlink about addresses, routes and neighbours. Pure; see rtnl.py.

Numbers are from linux/if_addr.h, linux/rtnetlink.h and linux/neighbour.h.
"""

import errno
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_interface, ip_network

from services.common.model import Address, Interface, Network, Route
from services.loader.netlink_messages import (
    NLM_F_CREATE,
    NLM_F_REPLACE,
    Request,
    attribute,
    attributes,
    nested,
    number,
    u32,
)
from services.loader.rtnl import GONE

RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_GETNEIGH = 28, 30

_ADDRESS = struct.Struct("=BBBBI")
_ROUTE = struct.Struct("=BBBBBBBBI")
_NEIGHBOUR = struct.Struct("=BxxxiHBB")

_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS, _IFA_F_NODAD = 1, 2, 8, 0x2
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_PREFSRC, _RTA_METRICS, _RTA_TABLE = 1, 4, 5, 6, 7, 8, 15
# Lightweight tunnels (linux/lwtunnel.h); the attribute has one number for both families.
_RTA_ENCAP_TYPE, _RTA_ENCAP, _LWTUNNEL_IP_DST = 21, 22, 2
_ENCAP_TYPE = struct.Struct("=H")
_ENCAPS = {4: 2, 6: 4}
_RTAX_MTU = 2
_RT_TABLE_MAIN, RTPROT_STATIC = 254, 4
# Ours, of routes to other nodes: those with any other are never touched.
RTPROT_NODES = 112
_RT_SCOPE_UNIVERSE, _RT_SCOPE_LINK, _RT_SCOPE_NOWHERE = 0, 253, 255
_RTN_UNICAST, _RTN_UNREACHABLE = 1, 7
_RTM_F_FIB_MATCH = 0x2000
_NDA_DST, _NDA_LLADDR, _NUD_PERMANENT = 1, 2, 0x80
_NO_ROUTE = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH})
_NO_NEIGHBOUR = GONE | {errno.ENOENT}

_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
# Not ip_network(): it tries IPv4 first, four times as slow.
_NETWORKS: dict[int, type[IPv4Network] | type[IPv6Network]] = {4: IPv4Network, 6: IPv6Network}


def new_address(ifindex: int, address: Interface) -> Request:
    """Give a device an address; there already is success. IPv6 without duplicate address detection: it is unique
    by allocation, and a pod must not wait a second for its first packet.
    """
    return _address(RTM_NEWADDR, ifindex, address, NLM_F_CREATE | NLM_F_REPLACE, frozenset())


def delete_address(ifindex: int, address: Interface) -> Request:
    """Take an address away; already gone is success."""
    return _address(RTM_DELADDR, ifindex, address, 0, GONE)


def _address(kind: int, ifindex: int, address: Interface, flags: int, tolerate: frozenset[int]) -> Request:
    nodad = _IFA_F_NODAD if address.version == 6 and kind == RTM_NEWADDR else 0
    packed = address.ip.packed
    parts = [
        _ADDRESS.pack(_FAMILIES[address.version], address.network.prefixlen, nodad, _RT_SCOPE_UNIVERSE, ifindex),
        attribute(_IFA_LOCAL, packed),
        attribute(_IFA_ADDRESS, packed),
    ]
    return Request(kind, b"".join(parts), flags, ("address", address), tolerate)


def dump_addresses() -> Request:
    """List all addresses."""
    return Request(RTM_GETADDR, _ADDRESS.pack(socket.AF_UNSPEC, 0, 0, 0, 0), about="the list of addresses")


def read_address(body: bytes) -> tuple[int, Interface]:
    """Read an address: the device's index, and the address with its prefix length."""
    _, length, _, _, ifindex = _ADDRESS.unpack_from(body)
    found = attributes(body, _ADDRESS.size)
    packed = found.get(_IFA_LOCAL) or found[_IFA_ADDRESS]
    return ifindex, ip_interface((ip_address(packed), length))


def new_route(
    ifindex: int,
    route: Route,
    source: Address | None = None,
    *,
    protocol: int = RTPROT_STATIC,
    tunnel: Address | None = None,
) -> Request:
    """Install a route through a device, in place of one to the same destination.

    `source`: what the namespace's own packets carry as their source. `protocol`: who has made it. `tunnel`: where a
    flow-based tunnel device is to send what takes the route, unless it is told otherwise; with key 0.
    """
    on_link = route.destination.version == 4 and route.gateway is None
    scope = _RT_SCOPE_LINK if on_link else _RT_SCOPE_UNIVERSE
    head = _route_head(route.destination, scope, _RTN_UNICAST, protocol)
    parts = [head, *_destination(route.destination)]
    if route.table:
        parts.append(u32(_RTA_TABLE, route.table))  # goes before what the head says, which has one byte for it
    if route.gateway is not None:
        parts.append(attribute(_RTA_GATEWAY, route.gateway.packed))
    parts.append(u32(_RTA_OIF, ifindex))
    if source is not None:
        parts.append(attribute(_RTA_PREFSRC, source.packed))
    if route.mtu:
        parts.append(nested(_RTA_METRICS, u32(_RTAX_MTU, route.mtu)))
    if tunnel is not None:
        parts.append(attribute(_RTA_ENCAP_TYPE, _ENCAP_TYPE.pack(_ENCAPS[tunnel.version])))
        parts.append(nested(_RTA_ENCAP, attribute(_LWTUNNEL_IP_DST, tunnel.packed)))
    return Request(RTM_NEWROUTE, b"".join(parts), NLM_F_CREATE | NLM_F_REPLACE, ("route", route.destination))


def host_route(ifindex: int, address: Address, source: Address | None = None) -> Request:
    """Install a route to one address that is reached through a device without a gateway; else as `new_route`."""
    prefix = _NETWORKS[address.version]((address.packed, address.max_prefixlen))
    return new_route(ifindex, Route(prefix), source)


def delete_route(destination: Network, ifindex: int, *, protocol: int) -> Request:
    """Remove a route of the main table through a device that `protocol` has made; already gone is success."""
    body = _route_head(destination, _RT_SCOPE_NOWHERE, _RTN_UNICAST, protocol)
    body += b"".join(_destination(destination)) + u32(_RTA_OIF, ifindex)
    return Request(RTM_DELROUTE, body, about=("route", destination), tolerate=GONE)


def _route_head(destination: Network, scope: int, kind: int, protocol: int = RTPROT_STATIC) -> bytes:
    family = _FAMILIES[destination.version]
    return _ROUTE.pack(family, destination.prefixlen, 0, 0, _RT_TABLE_MAIN, protocol, scope, kind, 0)


def _destination(destination: Network) -> list[bytes]:
    return [attribute(_RTA_DST, destination.network_address.packed)] if destination.prefixlen else []


def unreachable(destination: Network, metric: int, *, add: bool) -> Request:
    """Add or remove a route that answers ICMP unreachable: for what no better route leads to."""
    body = _route_head(destination, _RT_SCOPE_UNIVERSE if add else _RT_SCOPE_NOWHERE, _RTN_UNREACHABLE)
    body += b"".join(_destination(destination)) + u32(_RTA_PRIORITY, metric)
    kind, flags = (RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE) if add else (RTM_DELROUTE, 0)
    return Request(kind, body, flags, ("unreachable route", destination), frozenset() if add else GONE)


def get_route(address: Address) -> Request:
    """Ask for the route that the node's own packets to an address take; none is an empty reply."""
    head = _ROUTE.pack(_FAMILIES[address.version], address.max_prefixlen, 0, 0, 0, 0, 0, 0, _RTM_F_FIB_MATCH)
    return Request(
        RTM_GETROUTE, head + attribute(_RTA_DST, address.packed), about=("the route to", address), tolerate=_NO_ROUTE
    )


def dump_routes(version: int) -> Request:
    """List a family's routes (RTM_GETROUTE without a family is refused under strict checking)."""
    head = _ROUTE.pack(_FAMILIES[version], 0, 0, 0, 0, 0, 0, 0, 0)
    return Request(RTM_GETROUTE, head, about=f"the list of IPv{version} routes")


@dataclass(frozen=True, slots=True)
class RouteInfo:
    """A route as the kernel lists it; `ifindex` 0 when it leads to no device."""

    route: Route
    ifindex: int
    table: int
    metric: int
    kind: int
    protocol: int = RTPROT_STATIC
    source: Address | None = None
    tunnel: Address | None = None

    @property
    def unicast(self) -> bool:
        """A route of the main table that leads somewhere."""
        return self.leads and self.table == _RT_TABLE_MAIN

    @property
    def leads(self) -> bool:
        """A route that leads somewhere, in whichever table."""
        return self.kind == _RTN_UNICAST

    @property
    def unreachable(self) -> bool:
        """A route of the main table that leads nowhere."""
        return self.kind == _RTN_UNREACHABLE and self.table == _RT_TABLE_MAIN


def read_route(body: bytes) -> RouteInfo:
    """Read a route."""
    family, length, _, _, table, protocol, _, kind, _ = _ROUTE.unpack_from(body)
    found = attributes(body, _ROUTE.size)
    any_address: Address = IPv4Address(0) if family == socket.AF_INET else IPv6Address(0)
    destination = ip_address(found[_RTA_DST]) if _RTA_DST in found else any_address
    metrics = attributes(found.get(_RTA_METRICS, b""))
    gateway = ip_address(found[_RTA_GATEWAY]) if _RTA_GATEWAY in found else None
    route = Route(ip_network((destination, length)), gateway, number(metrics.get(_RTAX_MTU, b"")))
    return RouteInfo(
        route,
        number(found.get(_RTA_OIF, b"")),
        number(found[_RTA_TABLE]) if _RTA_TABLE in found else table,
        number(found.get(_RTA_PRIORITY, b"")),
        kind,
        protocol,
        ip_address(found[_RTA_PREFSRC]) if _RTA_PREFSRC in found else None,
        _read_tunnel(found),
    )


def _read_tunnel(found: Mapping[int, bytes]) -> Address | None:
    if number(found.get(_RTA_ENCAP_TYPE, b"")) not in _ENCAPS.values():
        return None
    target = attributes(found.get(_RTA_ENCAP, b"")).get(_LWTUNNEL_IP_DST)
    return ip_address(target) if target else None


def new_neighbour(ifindex: int, address: Address, mac: bytes) -> Request:
    """Tell a device for good which MAC an address has: it is never asked for."""
    head = _NEIGHBOUR.pack(_FAMILIES[address.version], ifindex, _NUD_PERMANENT, 0, 0)
    body = head + attribute(_NDA_DST, address.packed) + attribute(_NDA_LLADDR, mac)
    return Request(RTM_NEWNEIGH, body, NLM_F_CREATE | NLM_F_REPLACE, ("neighbour", address))


def get_neighbour(ifindex: int, address: Address) -> Request:
    """Ask which MAC a device takes an address to have; none is an empty reply."""
    head = _NEIGHBOUR.pack(_FAMILIES[address.version], ifindex, 0, 0, 0)
    body = head + attribute(_NDA_DST, address.packed)
    return Request(RTM_GETNEIGH, body, about=("neighbour", address), tolerate=_NO_NEIGHBOUR)


def read_neighbour(body: bytes) -> bytes:
    """Read the MAC of a permanent neighbour, empty when the kernel would ask for it again."""
    _, _, state, _, _ = _NEIGHBOUR.unpack_from(body)
    return attributes(body, _NEIGHBOUR.size).get(_NDA_LLADDR, b"") if state & _NUD_PERMANENT else b""
