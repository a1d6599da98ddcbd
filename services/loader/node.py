"""The node itself: what all its pods share. Everything is in the loader's own network namespace.

    podlane_host      the router device: holds the gateway addresses (/32, /128). One end of a veth pair whose other
                      end, podlane_net, only keeps its carrier
    forwarding        IPv4 and IPv6. An uplink that learned its IPv6 default route from router advertisements keeps
                      listening to them: its accept_ra becomes 2, because 1 means "unless forwarding"
    unreachable       one route per pod range, of the last metric: what is sent to a pod that is gone is refused here,
                      and does not leave by the default route
    masquerading      masquerade.py

`configure` looks first and changes only what differs. `teardown` removes what it made; sysctls stay as they are,
because whoever else relies on forwarding by now can't be known.
"""

import errno
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_interface
from pathlib import Path

from services.common import telemetry
from services.common.errors import FailedPrecondition, PodlaneError
from services.common.model import Interface, Network
from services.loader import rtnl, rtnl_ip, underlay
from services.loader.linkspec import random_mac
from services.loader.masquerade import Masquerade
from services.loader.model import NodeConfig, Routing, Underlay
from services.loader.netlink import Rtnl
from services.loader.netlink_messages import Request, explain
from services.loader.netlink_worker import NetlinkWorker
from services.loader.rtnl import EndOfPair, LinkInfo
from services.loader.rtnl_ip import RouteInfo

_log = telemetry.logger("node")

ROUTER, ROUTER_PEER = "podlane_host", "podlane_net"
DEFAULT_MTU = 1500

# Of two routes to one destination the kernel takes the one with the smaller metric: any other wins.
_LAST_METRIC = 0x7FFFFFFF

# No ARP on a device that leads nowhere; replies to the gateway's address may come in by any pod's link.
_ROUTER_CONF = (
    (rtnl.IPV4_FORWARDING, 1),
    (rtnl.IPV4_SEND_REDIRECTS, 0),
    (rtnl.IPV4_RP_FILTER, 0),
    (rtnl.IPV4_ACCEPT_LOCAL, 1),
)

_SYSCTL = Path("/proc/sys/net")


@dataclass(frozen=True, slots=True)
class NodeState:
    """What the kernel has of it now."""

    links: dict[str, LinkInfo]
    addresses: frozenset[tuple[int, Interface]]
    routes: tuple[RouteInfo, ...]


class NodeSide:
    """Configures the node. One caller at a time."""

    def __init__(self, worker: NetlinkWorker, masquerade: Masquerade | None = None) -> None:
        """Wire; nothing is touched. `masquerade` None: by the `nft` on PATH."""
        self._worker = worker
        self._masquerade = masquerade or Masquerade()

    async def configure(self, config: NodeConfig) -> int:
        """Put the configuration in force; return the MTU that pod interfaces get, bytes. Idempotent.

        Raises FailedPrecondition (a sysctl can't be set, nft is missing, no permission) or Unavailable.
        """
        try:
            mtu = await self._worker.run(lambda own: _configure(own, config))
        except OSError as error:
            raise explain("configuring the node", error) from error
        if config.masquerade:
            await self._masquerade.apply(
                config.pod_cidrs,
                config.cluster_cidrs,
                config.tunnel_port if config.routing is Routing.OVERLAY else 0,
            )
        else:
            await self._masquerade.remove()
        return mtu

    async def underlay(self, config: NodeConfig) -> Underlay:
        """Look where other nodes find this one. Raises FailedPrecondition when they can't, or Unavailable."""
        try:
            state = await self._worker.run(observe)
        except OSError as error:
            raise explain("looking for the underlay", error) from error
        return underlay.find(state.links, state.addresses, state.routes, config)

    async def teardown(self) -> None:
        """Remove the router device, the routes and the table; already gone is fine. Raises the first failure after
        all was tried.
        """
        failures: list[PodlaneError] = []
        try:
            await self._worker.run(_teardown)
        except OSError as error:
            failures.append(explain("taking the node's network down", error))
        try:
            await self._masquerade.remove()
        except PodlaneError as error:
            failures.append(error)
        if failures:
            raise failures[0]


def observe(own: Rtnl) -> NodeState:
    """Look."""
    links = map(rtnl.read_link, own.dump(rtnl.dump_links()))
    return NodeState(
        links={link.ifname: link for link in links},
        addresses=frozenset(map(rtnl_ip.read_address, own.dump(rtnl_ip.dump_addresses()))),
        routes=tuple(rtnl_ip.read_route(body) for version in (4, 6) for body in own.dump(rtnl_ip.dump_routes(version))),
    )


def _configure(own: Rtnl, config: NodeConfig) -> int:
    state = observe(own)
    mtu = config.mtu or uplink_mtu(state)
    if ROUTER not in state.links:
        own.batch(_router_pair(mtu))
        _log.info("router device made", ifname=ROUTER)
        state = observe(own)
    requests = [*_router_changes(state, config, mtu), *_route_changes(state, config.pod_cidrs)]
    if requests:
        own.batch(requests)
    _forward(config, state)
    return mtu


def uplink_mtu(state: NodeState) -> int:
    """Return the MTU of the device that the default route of the smallest metric leads to, of either family."""
    names = {link.ifindex: link for link in state.links.values()}
    uplinks = [one for one in state.routes if one.unicast and one.route.destination.prefixlen == 0]
    best = min((one for one in uplinks if one.ifindex in names), key=lambda one: one.metric, default=None)
    return names[best.ifindex].mtu if best is not None else DEFAULT_MTU


def _router_pair(mtu: int) -> list[Request]:
    return [
        rtnl.new_veth(EndOfPair(ROUTER, random_mac(), mtu), EndOfPair(ROUTER_PEER, random_mac(), mtu)),
        *(rtnl.set_link(ifname=name, inet_conf=_ROUTER_CONF) for name in (ROUTER, ROUTER_PEER)),
        *(rtnl.no_link_local(name) for name in (ROUTER, ROUTER_PEER)),
    ]


def _router_changes(state: NodeState, config: NodeConfig, mtu: int) -> Iterator[Request]:
    router = state.links[ROUTER]
    for link in (router, state.links.get(ROUTER_PEER)):
        if link is not None and not (link.up and link.mtu == mtu and link.flags & rtnl.IFF_NOARP):
            yield rtnl.set_link(ifindex=link.ifindex, up=True, noarp=True, mtu=mtu)
    wanted = {ip_interface(gateway) for gateway in config.gateways}
    there = {address for ifindex, address in state.addresses if ifindex == router.ifindex}
    yield from (rtnl_ip.new_address(router.ifindex, address) for address in sorted(wanted - there, key=str))
    yield from (
        rtnl_ip.delete_address(router.ifindex, address)
        for address in sorted(there - wanted, key=str)
        if not address.ip.is_link_local
    )


def _route_changes(state: NodeState, pod_cidrs: Sequence[Network]) -> Iterator[Request]:
    there = _refused(state)
    for network in pod_cidrs:
        if network not in there:
            yield rtnl_ip.unreachable(network, _LAST_METRIC, add=True)
    for network in there:
        if network not in pod_cidrs:
            yield rtnl_ip.unreachable(network, _LAST_METRIC, add=False)


def _refused(state: NodeState) -> list[Network]:
    return [one.route.destination for one in state.routes if one.unreachable and one.metric == _LAST_METRIC]


def _teardown(own: Rtnl) -> None:
    state = observe(own)
    own.batch([*(rtnl_ip.unreachable(network, _LAST_METRIC, add=False) for network in _refused(state))])
    own.batch([rtnl.delete_link(ifname=ROUTER)])


def _forward(config: NodeConfig, state: NodeState) -> None:
    """Switch forwarding on for the families that pods have."""
    versions = {gateway.version for gateway in config.gateways}
    if 4 in versions:
        _set("ipv4/ip_forward", "1")
    if 6 in versions and _get("ipv6/conf/all/forwarding") != "1":
        for name in _advertised(state):
            if _get(f"ipv6/conf/{name}/accept_ra") == "1":
                _set(f"ipv6/conf/{name}/accept_ra", "2")
        _set("ipv6/conf/all/forwarding", "1")


def _advertised(state: NodeState) -> list[str]:
    """Return the devices of IPv6 default routes."""
    indexes = {
        one.ifindex
        for one in state.routes
        if one.unicast and one.route.destination.version == 6 and one.route.destination.prefixlen == 0
    }
    return [link.ifname for link in state.links.values() if link.ifindex in indexes]


def _get(name: str) -> str:
    try:
        return (_SYSCTL / name).read_text().strip()
    except OSError as error:
        raise _refusal(name, "read", error) from error


def _set(name: str, value: str) -> None:
    """Write a sysctl unless it has the value: /proc/sys is often read-only, and rightly set."""
    if _get(name) == value:
        return
    try:
        (_SYSCTL / name).write_text(value)
    except OSError as error:
        raise _refusal(name, f"set to {value}", error) from error
    _log.info("sysctl set", name=f"net/{name}", value=value)


def _refusal(name: str, what: str, error: OSError) -> FailedPrecondition:
    hint = " (IPv6 is not in this kernel)" if error.errno == errno.ENOENT and name.startswith("ipv6") else ""
    return FailedPrecondition(f"sysctl net/{name} can't be {what}: {error.strerror}{hint}", sysctl=f"net/{name}")
