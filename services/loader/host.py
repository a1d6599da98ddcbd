"""The node's side of an endpoint: its end of the link goes up and the node's own stack finds the pod.

    up            the node's end; its programs are attached by then, so no packet passes before its policy
    neighbours    the pod's MAC for each of its addresses, permanent: the node never asks, and the pod need not answer
    routes        /32 and /128 through the link; the node's own packets carry the gateway as their source
    carrier       the pod's end transmits

The last point matters: when the node's end goes up, the kernel switches the pod's end on some time later, from a work
queue that needs the RTNL lock, and until then it drops what the pod sends. Asking for the pod's end (RTM_GETLINK)
makes the kernel do it at once (Linux 6.6); on older kernels it is asked again until it runs. So the pod's first packet
is not lost.

A chained endpoint's end is another plugin's: it is up, routed to and bridged already, and stays so.

Everything is one batch, 0.35 ms. Traffic between pods takes none of this: programs look addresses up in the endpoint
map.
"""

import asyncio
import errno
from collections.abc import Callable, Sequence
from typing import TypeVar

from services.common import telemetry
from services.common.errors import NotFound
from services.common.model import Address, format_mac
from services.loader import rtnl, rtnl_ip
from services.loader.model import EndpointSpec
from services.loader.netlink import Rtnl
from services.loader.netlink_messages import Request, explain
from services.loader.netlink_worker import NetlinkWorker

T = TypeVar("T")

_log = telemetry.logger("host")

# Before Linux 6.6 the kernel may take a second to switch the pod's end on (net/core/link_watch.c).
_ASK_AGAIN_SECONDS, _GIVE_UP_ASKING = 0.005, 240


class Host:
    """The node's ends of links."""

    def __init__(self, worker: NetlinkWorker, gateways: Callable[[], Sequence[Address]]) -> None:
        """`gateways` returns the node's router addresses, at most one per family."""
        self._worker = worker
        self._gateways = gateways

    async def connect(self, spec: EndpointSpec) -> None:
        """Bring the node's end up and let the node find the endpoint through it; idempotent.

        Raises NotFound when the link is gone, FailedPrecondition or Unavailable when the kernel refuses.
        """
        if spec.chained:
            return
        requests = bring_up(spec, self._gateways())
        running = await self._run(spec, lambda own: transmits(own, requests))
        for _ in range(_GIVE_UP_ASKING):
            if running:
                return
            await asyncio.sleep(_ASK_AGAIN_SECONDS)
            running = await self._run(spec, lambda own: transmits(own, requests[-1:]))
        _log.warning("the pod's end has no carrier yet; its first packets may be lost", ifname=spec.host_ifname)

    async def disconnect(self, spec: EndpointSpec) -> None:
        """Take the node's end down, and routes and neighbours with it; already gone is fine. A chained one stays up."""
        if spec.chained:
            return
        down = rtnl.set_link(ifindex=spec.host_ifindex, up=False, tolerate=rtnl.GONE)
        await self._run(spec, lambda own: own.batch([down]))

    async def problems(self, spec: EndpointSpec) -> list[str]:
        """Say what the node's side of an endpoint has lost, one sentence each. Raises as `connect` does."""
        return await self._run(spec, lambda own: lost(own, spec))

    async def _run(self, spec: EndpointSpec, work: Callable[[Rtnl], T]) -> T:
        try:
            return await self._worker.run(work)
        except OSError as error:
            what = f"the node's side of {spec.host_ifname} (ifindex {spec.host_ifindex})"
            if error.errno == errno.ENODEV:
                raise NotFound(f"{what}: there is no such link", ifname=spec.host_ifname) from error
            raise explain(what, error) from error


def bring_up(spec: EndpointSpec, gateways: Sequence[Address]) -> list[Request]:
    """Return the batch that connects an endpoint; its last request asks for the node's end."""
    sources = {gateway.version: gateway for gateway in gateways}
    requests = [rtnl.set_link(ifindex=spec.host_ifindex, up=True)]
    for address in spec.addresses:
        requests.append(rtnl_ip.new_neighbour(spec.host_ifindex, address, spec.pod_mac))
        requests.append(rtnl_ip.host_route(spec.host_ifindex, address, sources.get(address.version)))
    return [*requests, rtnl.get_link(ifindex=spec.host_ifindex)]


def lost(own: Rtnl, spec: EndpointSpec) -> list[str]:
    """Compare the kernel with what `bring_up` makes; a link that is gone has lost nothing that could be told. Of a
    chained one only that it is up is podlane's to know.
    """
    asked = [rtnl.get_link(ifindex=spec.host_ifindex)]
    addresses = () if spec.chained else spec.addresses
    for address in addresses:
        asked += [rtnl_ip.get_route(address), rtnl_ip.get_neighbour(spec.host_ifindex, address)]
    link, *rest = (reply.bodies[0] if reply.bodies else None for reply in own.batch(asked))
    if link is None:
        return []
    found = [] if rtnl.read_link(link).up else [f"{spec.host_ifname} is down"]
    for address, route, neighbour in zip(addresses, rest[::2], rest[1::2], strict=True):
        if route is None or rtnl_ip.read_route(route).ifindex != spec.host_ifindex:
            found.append(f"the node's route to {address} does not lead through {spec.host_ifname}")
        if neighbour is None or rtnl_ip.read_neighbour(neighbour) != spec.pod_mac:
            found.append(f"the node has lost the neighbour {address} ({format_mac(spec.pod_mac)})")
    return found


def transmits(own: Rtnl, requests: Sequence[Request]) -> bool:
    """Carry out the requests, the last of which asks for the node's end; return whether the pod's end transmits.

    A pod that has taken its own end down counts as if it did, and so does one whose end is out of sight: waiting
    would change nothing.
    """
    bodies = own.batch(requests)[-1].bodies
    host = rtnl.read_link(bodies[0]) if bodies else None
    if host is None or host.peer_netnsid is None:
        return True
    bodies = own.batch([rtnl.get_link(ifindex=host.peer_ifindex, netnsid=host.peer_netnsid)])[0].bodies
    pod = rtnl.read_link(bodies[0]) if bodies else None
    return pod is None or not pod.up or pod.running
