"""Looking at links: a pod's namespace, what is in it, and devices of this one. Blocking; nothing is changed.

    visit          a pod's namespace: a netlink socket in it, and whether IPv6 is switched off for new interfaces there
    find           a device by its name
    look           a pod's interface with its addresses, routes and rules
    led_elsewhere  which families another interface leads out of the pod for

What is seen is compared by linkcompare.py, listed by linklist.py, made by linkmaker.py.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from services.loader import files, rtnl, rtnl_ip, rtnl_rule
from services.loader.linkspec import OWN_TABLES, PodEnd
from services.loader.netlink import Rtnl
from services.loader.netlink_messages import explain
from services.loader.netns import Netns
from services.loader.rtnl import LinkInfo

IPV6_CONF = Path("/proc/sys/net/ipv6/conf")
_IPV6_DISABLED = str(IPV6_CONF / "default" / "disable_ipv6")
# Behind the loopback.
_FIRST_IFINDEX = 2


@dataclass(slots=True)
class PodSide:
    """A pod's namespace as a visit found it."""

    netns: Netns
    rtnl: Rtnl
    cookie: int
    ipv6_disabled: bool


@contextlib.contextmanager
def visit(path: str) -> Iterator[PodSide]:
    """Open a pod's namespace with a socket in it. Raises NotFound or InvalidArgument; see Netns.open."""
    with contextlib.ExitStack() as opened:
        netns = opened.enter_context(Netns.open(path))
        with explained(f"{path}: a netlink socket in the pod's namespace"), netns.visit():
            inside = opened.enter_context(Rtnl())
            disabled = files.read(_IPV6_DISABLED) == "1\n"
        yield PodSide(netns, inside, inside.cookie(), disabled)


def led_elsewhere(pod: PodSide, ifindex: int) -> tuple[int, ...]:
    """Return the families for which another interface leads out of the pod: its routes must stay."""
    if ifindex == _FIRST_IFINDEX:
        return ()  # so far there was nothing but the loopback
    return tuple(version for version in (4, 6) if any(_leads_out(pod, version, ifindex)))


def _leads_out(pod: PodSide, version: int, ifindex: int) -> Iterator[bool]:
    for route in map(rtnl_ip.read_route, pod.rtnl.dump(rtnl_ip.dump_routes(version))):
        yield route.unicast and not route.route.destination.prefixlen and route.ifindex not in {0, ifindex}


def find(own: Rtnl, *, ifname: str) -> LinkInfo | None:
    """Return a device by its name, None when there is none."""
    bodies = own.batch([rtnl.get_link(ifname=ifname)])[0].bodies
    return rtnl.read_link(bodies[0]) if bodies else None


def look(inside: Rtnl, ifname: str) -> PodEnd | None:
    """Return an interface of a pod with its addresses and routes, None when there is none."""
    link = find(inside, ifname=ifname)
    if link is None:
        return None
    addresses = map(rtnl_ip.read_address, inside.dump(rtnl_ip.dump_addresses()))
    routes = [rtnl_ip.read_route(body) for version in (4, 6) for body in inside.dump(rtnl_ip.dump_routes(version))]
    own = OWN_TABLES + link.ifindex
    dumps = (4, 6) if any(one.table == own for one in routes) else ()
    return PodEnd(
        ifindex=link.ifindex,
        mac=link.mac,
        mtu=link.mtu,
        up=link.up,
        addresses=frozenset(address for ifindex, address in addresses if ifindex == link.ifindex),
        routes=frozenset(
            one.route if one.unicast else replace(one.route, table=own)
            for one in routes
            if one.ifindex == link.ifindex and one.leads and (one.unicast or one.table == own)
        ),
        rules=frozenset(rtnl_rule.read(body) for version in dumps for body in inside.dump(rtnl_rule.dump(version))),
    )


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn the kernel's refusals into sentences about `what`."""
    try:
        yield
    except OSError as error:
        raise explain(what, error) from error
