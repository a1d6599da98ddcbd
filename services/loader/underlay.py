"""The underlay: the device that leads to the other nodes, and where they find this one. Pure.

device     the one that is set, else that of the default route with the smallest metric, of either family
address    of the family that is set, else its first IPv4 address, else its first IPv6 address; never a link-local
           one or one of a gateway
MTU        pods' packets must fit into it, in overlay mode with the outer headers around them
"""

from collections.abc import Iterable, Mapping

from services.common.errors import FailedPrecondition
from services.common.model import Interface
from services.loader.model import NodeConfig, Routing, Underlay
from services.loader.rtnl import LinkInfo
from services.loader.rtnl_ip import RouteInfo

# Outer IP, UDP and VXLAN headers and the inner Ethernet header, bytes.
OVERHEAD: Mapping[int, int] = {4: 20 + 8 + 8 + 14, 6: 40 + 8 + 8 + 14}


def find(
    links: Mapping[str, LinkInfo],
    addresses: Iterable[tuple[int, Interface]],
    routes: Iterable[RouteInfo],
    config: NodeConfig,
) -> Underlay:
    """Return where other nodes find this one. Raises FailedPrecondition that names what is missing."""
    device = _device(links, routes, config)
    usable = [
        (ifindex, one.ip)
        for ifindex, one in sorted(addresses, key=lambda one: (one[0], one[1].version, one[1]))
        if not (one.ip.is_loopback or one.ip.is_link_local or one.ip in config.gateways)
    ]
    mine = [address for ifindex, address in usable if ifindex == device.ifindex]
    families = (config.underlay_family,) if config.underlay_family else (4, 6)
    address = next((one for family in families for one in mine if one.version == family), None)
    if address is None:
        wanted = f"IPv{config.underlay_family} " if config.underlay_family else ""
        raise FailedPrecondition(
            f"underlay device {device.ifname} has no {wanted}address that other nodes could send to; it has "
            f"{', '.join(map(str, mine)) or 'none'}: give it one, or set cluster.underlay_device or "
            "cluster.underlay_family",
            device=device.ifname,
        )
    return Underlay(device.ifname, device.ifindex, address, tuple(one for _, one in usable), device.mtu)


def _device(links: Mapping[str, LinkInfo], routes: Iterable[RouteInfo], config: NodeConfig) -> LinkInfo:
    if config.underlay_device:
        if config.underlay_device not in links:
            raise FailedPrecondition(
                f"underlay device {config.underlay_device} (cluster.underlay_device) isn't there",
                device=config.underlay_device,
            )
        return links[config.underlay_device]
    by_index = {link.ifindex: link for link in links.values()}
    uplinks = [one for one in routes if one.unicast and one.route.destination.prefixlen == 0]
    best = min((one for one in uplinks if one.ifindex in by_index), key=lambda one: one.metric, default=None)
    if best is None:
        raise FailedPrecondition(
            "no device leads to the other nodes: there is no default route; set cluster.underlay_device"
        )
    return by_index[best.ifindex]


def pod_mtu(config: NodeConfig, underlay: Underlay) -> int:
    """Return the MTU of pods, bytes. Raises FailedPrecondition when the one that is set would fragment packets."""
    overhead = OVERHEAD[underlay.address.version] if config.routing is Routing.OVERLAY else 0
    largest = underlay.mtu - overhead
    if config.mtu > largest:
        around = f" less {overhead} bytes of VXLAN over IPv{underlay.address.version}" if overhead else ""
        raise FailedPrecondition(
            f"mtu: {config.mtu} bytes don't fit through {underlay.device}, whose MTU of {underlay.mtu}{around} leaves "
            f"{largest}: set it to that or less, or to 0",
            mtu=config.mtu,
            largest=largest,
        )
    return config.mtu or largest
