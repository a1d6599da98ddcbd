"""The overlay's device and its programs, on a node that reaches others through VXLAN.

    podlane_vxlan     one device for all other nodes: each packet says by its tunnel key where it goes. It has no
                      address, answers no ARP and learns nothing; routes to other nodes' pods lead to it
    from_overlay      its ingress, what other nodes have sent (bpf/bpf_overlay.c)
    to_overlay        its egress, what this node's stack sends to them
    tunnel            in a slot of podlane_call_policy, for what pods send to them

`apply` looks first and changes only what differs. A device of another kind or port is replaced, and with it go its
routes, which are compared afterwards (remotenodes.py). Programs hang there with the digest of what they were made of,
template and maps (overlayhooks.py). So those that an earlier loader has left are kept when they are what would be
loaded now, and replaced atomically otherwise. The slot is filled before them: who finds the right programs on the hooks
finds the right slot.
"""

import errno
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from services.common import telemetry
from services.common.errors import FailedPrecondition
from services.loader import headers, libbpf, objects, rtnl
from services.loader.blocking import Blocking
from services.loader.datapath import Datapath, explained
from services.loader.libbpf import Fd
from services.loader.linkspec import random_mac
from services.loader.model import NodeConfig
from services.loader.netlink import Rtnl
from services.loader.netlink_messages import Request, explain
from services.loader.netlink_worker import NetlinkWorker
from services.loader.overlayhooks import PROGRAMS, OverlayHooks
from services.loader.pathmaps import CallPolicy
from services.loader.rtnl import LinkInfo
from services.loader.template import Template, Templates

DEVICE = "podlane_vxlan"
TUNNEL = "tunnel"

# Answers to what came in by it may go another way, and no other device has its packets' addresses.
_CONF = ((rtnl.IPV4_FORWARDING, 1), (rtnl.IPV4_SEND_REDIRECTS, 0), (rtnl.IPV4_RP_FILTER, 0))

T = TypeVar("T")

_log = telemetry.logger("overlay")


@dataclass(frozen=True, slots=True)
class _Wanted:
    port: int
    mtu: int


class Overlay:
    """Makes and removes it. One caller at a time."""

    def __init__(
        self, worker: NetlinkWorker, templates: Templates, datapath: Datapath, hooks: OverlayHooks, blocking: Blocking
    ) -> None:
        """`templates` are of bpf_overlay.c."""
        self._worker = worker
        self._hooks = hooks
        self._templates = templates
        self._datapath = datapath
        self._blocking = blocking

    async def apply(self, config: NodeConfig, mtu: int) -> int:
        """Put device and programs in force; return the device's index. `config` has the underlay's family.

        Raises FailedPrecondition (another device has the port, clang or the verifier refuse) or Unavailable.
        """
        template = await self._templates.get(headers.of_node(config), headers.ep_config({}))
        wanted = _Wanted(config.tunnel_port, mtu)
        ifindex = await self._run(lambda own: _make(own, wanted), wanted.port)
        await self._attach(ifindex, template)
        await self._run(lambda own: own.batch([rtnl.set_link(ifindex=ifindex, up=True)]), wanted.port)
        return ifindex

    async def remove(self) -> bool:
        """Remove the device, and with it programs and routes; return whether it was there."""
        there = await self._run(_look)
        if self._datapath.call_policy.get(CallPolicy.TUNNEL) is not None:
            self._datapath.call_policy.clear(CallPolicy.TUNNEL)
        if there is not None:
            await self._run(lambda own: own.batch([rtnl.delete_link(ifname=DEVICE)]))
            _log.info("overlay device removed", ifname=DEVICE)
        # After it: while it is there no packet passes unseen.
        with explained(f"the links of {DEVICE}"):
            await self._hooks.forget()
        return there is not None

    async def _attach(self, ifindex: int, template: Template) -> None:
        shared = self._datapath.shared
        digest = _digest(template, {name: fd for name, fd in shared.items() if name in template.code.maps})
        slots = self._datapath.call_policy
        with explained(f"the programs of {DEVICE}"):
            if await self._hooks.have(ifindex, digest) and slots.get(CallPolicy.TUNNEL) is not None:
                return
            programs = await self._blocking.run(lambda: objects.load(template.code, {}, shared))
            with programs:
                slots.set(CallPolicy.TUNNEL, programs[TUNNEL])
                await self._hooks.attach(ifindex, digest, {hook: programs[name] for hook, name in PROGRAMS.items()})
        _log.info("overlay programs attached", ifname=DEVICE, mode=self._hooks.mode, template=template.hash[:12])

    async def _run(self, work: Callable[[Rtnl], T], port: int = 0) -> T:
        try:
            return await self._worker.run(work)
        except OSError as error:
            what = f"overlay device {DEVICE}"
            if port and error.errno in {errno.EADDRINUSE, errno.EEXIST}:
                raise FailedPrecondition(
                    f"{what}: UDP port {port} is taken, perhaps by another VXLAN device ({error}): set "
                    "cluster.tunnel_port, on all nodes alike",
                    port=port,
                ) from error
            raise explain(what, error) from error


def _digest(template: Template, maps: Mapping[str, Fd]) -> str:
    ids = sorted((name, libbpf.map_info(fd).id) for name, fd in maps.items())
    return hashlib.sha256(f"{template.hash} {ids}".encode()).hexdigest()[:16]


def _look(own: Rtnl) -> LinkInfo | None:
    bodies = own.batch([rtnl.get_link(ifname=DEVICE)])[0].bodies
    return rtnl.read_link(bodies[0]) if bodies else None


def _make(own: Rtnl, wanted: _Wanted) -> int:
    there = _look(own)
    if there is not None and not (there.kind == "vxlan" and there.vxlan_by_key and there.vxlan_port == wanted.port):
        _log.warning("overlay device is replaced", ifname=DEVICE, kind=there.kind, port=there.vxlan_port)
        own.batch([rtnl.delete_link(ifname=DEVICE)])
        there = None
    if there is None:
        own.batch(_new(wanted))
        _log.info("overlay device made", ifname=DEVICE, port=wanted.port, mtu=wanted.mtu)
        there = _look(own)
        if there is None:
            raise FailedPrecondition(f"{DEVICE} was removed while it was made")
    if there.mtu != wanted.mtu or not there.flags & rtnl.IFF_NOARP:
        own.batch([rtnl.set_link(ifindex=there.ifindex, mtu=wanted.mtu, noarp=True)])
    return there.ifindex


def _new(wanted: _Wanted) -> list[Request]:
    return [
        rtnl.new_vxlan(DEVICE, random_mac(), wanted.mtu, wanted.port),
        rtnl.set_link(ifname=DEVICE, inet_conf=_CONF),
        rtnl.no_link_local(DEVICE),
    ]
