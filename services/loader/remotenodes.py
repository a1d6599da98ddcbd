"""Routes of the node's stack to other nodes' pods.

    overlay    <range> encap ip dst <the node's address> dev podlane_vxlan src <gateway>: to the node whose range it is,
               where the ipcache doesn't know better (bpf/bpf_overlay.c); the node's own packets carry its gateway's
               address, which other nodes know it by
    native     <range> via <the node's address> dev <underlay>; an IPv6 range of a node that is known by its IPv4
               address goes via one of its IPv6 addresses

They have a protocol number of their own (RTPROT_NODES), and no other route is ever touched. Pods' packets take them in
native mode only; in overlay mode they are for what the node sends and for what the stack has translated.

`wanted` is pure; `Routes` compares with the kernel and changes what differs, those that are missing first.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from services.common import telemetry
from services.common.model import Address, Network, Route
from services.loader import rtnl_ip
from services.loader.model import NodeConfig, RemoteNode, Routing, Underlay
from services.loader.netlink import Rtnl
from services.loader.netlink_messages import NetlinkError, Request, explain
from services.loader.netlink_worker import NetlinkWorker
from services.loader.rtnl_ip import RTPROT_NODES, RouteInfo

_log = telemetry.logger("remotenodes")


@dataclass(frozen=True, slots=True)
class WantedRoute:
    """A route to a pod range of a node."""

    node: str
    route: Route
    ifindex: int
    source: Address | None = None
    tunnel: Address | None = None

    def is_made_by(self, there: RouteInfo) -> bool:
        """Whether the kernel has it."""
        have = (there.route, there.ifindex, there.source, there.tunnel)
        return have == (self.route, self.ifindex, self.source, self.tunnel)


@dataclass(frozen=True, slots=True)
class RouteChange:
    """How many routes a synchronisation made and removed, and what could not be made, one sentence each."""

    added: int
    removed: int
    problems: tuple[str, ...] = ()


def wanted(
    config: NodeConfig, underlay: Underlay, overlay_ifindex: int, mtu: int, nodes: Iterable[RemoteNode]
) -> tuple[list[WantedRoute], list[str]]:
    """Return the routes to these nodes, and why there is none to some of their ranges, one sentence each.

    `mtu` is that of pods, bytes. Of a range that two nodes have the first one gets it.
    """
    found: dict[Network, WantedRoute] = {}
    problems = []
    sources = {gateway.version: gateway for gateway in config.gateways}
    for node in nodes:
        for network in node.pod_cidrs:
            if network in found:
                problems.append(f"node {node.name}: {network} is node {found[network].node}'s already")
            elif any(network.version == own.version and network.overlaps(own) for own in config.pod_cidrs):
                problems.append(f"node {node.name}: {network} overlaps this node's own pod ranges")
            elif config.routing is Routing.OVERLAY:
                route, source = Route(network, None, mtu), sources.get(network.version)
                found[network] = WantedRoute(node.name, route, overlay_ifindex, source, node.address)
            elif (gateway := _gateway(node, network.version)) is not None:
                found[network] = WantedRoute(node.name, Route(network, gateway), underlay.ifindex)
            else:
                problems.append(
                    f"node {node.name}: {network} can't be routed to: none of the node's addresses "
                    f"({', '.join(map(str, (node.address, *node.addresses)))}) is an IPv{network.version} address"
                )
    return list(found.values()), problems


def _gateway(node: RemoteNode, version: int) -> Address | None:
    inside = [one for one in node.addresses if not any(one in network for network in node.pod_cidrs)]
    return next((one for one in (node.address, *inside) if one.version == version), None)


class Routes:
    """The routes in the kernel. One caller at a time."""

    def __init__(self, worker: NetlinkWorker) -> None:
        """Requests go through the loader's netlink worker."""
        self._worker = worker

    async def sync(self, routes: Sequence[WantedRoute]) -> RouteChange:
        """Make the routes of our protocol exactly these. What the kernel refuses is in the result; Unavailable when it
        can't be asked.
        """
        try:
            change = await self._worker.run(lambda own: _sync(own, routes))
        except OSError as error:
            raise explain("the routes to other nodes", error) from error
        if change.added or change.removed:
            _log.info("routes to other nodes changed", added=change.added, removed=change.removed)
        return change


def _sync(own: Rtnl, routes: Sequence[WantedRoute]) -> RouteChange:
    there = _ours(own)
    needed = {one.route.destination: one for one in routes}
    missing = [one for one in routes if not _is_there(one, there)]
    # A route of another device isn't replaced but stays beside the new one, and has to go.
    surplus = [
        one
        for networks in there.values()
        for one in networks
        if one.route.destination not in needed or one.ifindex != needed[one.route.destination].ifindex
    ]
    problems = [sentence for one in missing for sentence in _make(own, one)]
    if surplus:
        own.batch([rtnl_ip.delete_route(one.route.destination, one.ifindex, protocol=RTPROT_NODES) for one in surplus])
    return RouteChange(len(missing) - len(problems), len(surplus), tuple(problems))


def _is_there(wanted_route: WantedRoute, there: Mapping[Network, Sequence[RouteInfo]]) -> bool:
    return any(wanted_route.is_made_by(one) for one in there.get(wanted_route.route.destination, ()))


def _ours(own: Rtnl) -> dict[Network, list[RouteInfo]]:
    found: dict[Network, list[RouteInfo]] = {}
    for version in (4, 6):
        for one in map(rtnl_ip.read_route, own.dump(rtnl_ip.dump_routes(version))):
            if one.protocol == RTPROT_NODES and one.unicast:
                found.setdefault(one.route.destination, []).append(one)
    return found


def _request(one: WantedRoute) -> Request:
    return rtnl_ip.new_route(one.ifindex, one.route, one.source, protocol=RTPROT_NODES, tunnel=one.tunnel)


def _make(own: Rtnl, one: WantedRoute) -> list[str]:
    """Make a route; return why not. One by one: a node that isn't reachable mustn't keep the others'."""
    try:
        own.batch([_request(one)])
    except NetlinkError as error:
        via = f" via {one.route.gateway}" if one.route.gateway else ""
        return [f"node {one.node}: no route to {one.route.destination}{via}: {error}"]
    return []
