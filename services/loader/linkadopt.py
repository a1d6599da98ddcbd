"""Taking over an interface that another CNI plugin has made, and comparing it with its record. Blocking: runs on the
netlink worker's thread.

    visit     the pod's namespace: the interface that the attachment names
    peer      its other end, which must be on this node: programs there see all that the pod sends and is sent, and the
              pod can't take them away
    record    done at once: nothing is made

The interface stays its plugin's: its name, addresses, routes and end are never touched, and forgetting the record is
the undo of everything. An index is only a number in a namespace, so both ends must name each other.

A macvlan, ipvlan or physical device has no end on the node. Programs on the pod's own end would be the pod's to remove
(it may have CAP_NET_ADMIN), which is no policy: it is refused.
"""

from dataclasses import replace

from services.common import telemetry
from services.common.errors import AlreadyExists, FailedPrecondition, NotFound
from services.common.model import Address
from services.common.stopwatch import Stopwatch
from services.loader import rtnl
from services.loader.linkcompare import differences
from services.loader.linklook import PodSide, find, look, visit
from services.loader.linkrecord import LinkRecords, uptime
from services.loader.linkspec import LinkRecord, LinkSpec, PodEnd
from services.loader.netlink import Rtnl
from services.loader.netlink_messages import explain
from services.loader.rtnl import LinkInfo

_log = telemetry.logger("links")


class LinkAdopter:
    """Takes interfaces over and writes them down. One thread at a time."""

    def __init__(self, records: LinkRecords) -> None:
        """`records` is where each link is written down."""
        self._records = records

    def adopt(self, own: Rtnl, spec: LinkSpec, watch: Stopwatch) -> tuple[LinkRecord, LinkInfo, bool]:
        """Take over the interface, or find that it was; return its record, its node's end, and whether it is new.

        Raises NotFound (no such namespace or interface), FailedPrecondition (it has no end here, or not these
        addresses), AlreadyExists (the attachment has another link), Unavailable when the kernel refuses.
        """
        what = f"{spec.attachment.ifname} of {spec.attachment}"
        try:
            with watch.phase("netns"), visit(spec.netns_path) as pod, watch.phase("adopt"):
                end = _end(pod, spec)
                host = _peer(own, pod, spec, end)
                found = LinkRecord(
                    spec=spec,
                    mtu=end.mtu,
                    host_mac=host.mac,
                    pod_mac=end.mac,
                    netns_inode=pod.netns.inode,
                    netns_cookie=pod.cookie,
                    done=True,
                    host_ifindex=host.ifindex,
                    pod_ifindex=end.ifindex,
                    asked_at=uptime(),
                    chained_ifname=host.ifname,
                )
        except OSError as error:
            raise explain(what, error) from error
        created = self._put(own, found)
        return found, host, created

    def _put(self, own: Rtnl, found: LinkRecord) -> bool:
        """Write the record; return whether the link is another one than that of the record before."""
        before = self._records.get(found.key)
        same = before is not None and _is_same(before, found)
        if before is not None and not same and find(own, ifname=before.host_ifname) is not None:
            wrong = differences(found.spec, before) or [f"it leads to {before.host_ifname}, not {found.host_ifname}"]
            raise AlreadyExists(
                f"{found.spec.attachment} has link {before.host_ifname}, and {'; '.join(wrong)}: delete it first",
                host_ifname=before.host_ifname,
            )
        self._records.put(found)
        return not same


def _is_same(before: LinkRecord, found: LinkRecord) -> bool:
    """Whether both are one interface; its namespace may go by another path, and it was asked for again."""
    spec = replace(found.spec, netns_path=before.spec.netns_path)
    return replace(found, spec=spec, asked_at=before.asked_at, mtu=before.mtu) == before


def _end(pod: PodSide, spec: LinkSpec) -> PodEnd:
    """Return the pod's end with what it has. Raises NotFound, FailedPrecondition."""
    ifname = spec.attachment.ifname
    found = look(pod.rtnl, ifname)
    if found is None:
        raise NotFound(
            f"{ifname} is not in {spec.netns_path}: the plugin before podlane in the list is to make it", ifname=ifname
        )
    present: set[Address] = {one.ip for one in found.addresses}
    missing = [str(one.address.ip) for one in spec.addresses if one.address.ip not in present]
    if missing:
        has = ", ".join(sorted(map(str, present))) or "none"
        raise FailedPrecondition(
            f"{ifname} in {spec.netns_path} doesn't have {', '.join(missing)}, as prevResult says; it has {has}",
            ifname=ifname,
        )
    return found


def _peer(own: Rtnl, pod: PodSide, spec: LinkSpec, end: PodEnd) -> LinkInfo:
    """Return the node's end. Raises FailedPrecondition when there is none."""
    ifname = spec.attachment.ifname
    inside = find(pod.rtnl, ifname=ifname)
    kind = inside.kind or "physical device" if inside is not None else "interface"
    if inside is None or kind != "veth":
        raise FailedPrecondition(
            f"{ifname} is a {kind} and has no end on this node where policy could be enforced: podlane can follow "
            "plugins that make veth pairs, such as bridge and ptp",
            ifname=ifname,
            kind=kind,
        )
    bodies = own.batch([rtnl.get_link(ifindex=inside.peer_ifindex)])[0].bodies
    host = rtnl.read_link(bodies[0]) if bodies else None
    if host is None or host.kind != "veth" or not _leads_to(own, host, end):
        raise FailedPrecondition(
            f"{ifname}'s other end (index {inside.peer_ifindex}) is not in this node's network namespace, so its "
            "policy can't be enforced here",
            ifname=ifname,
        )
    return host


def _leads_to(own: Rtnl, host: LinkInfo, end: PodEnd) -> bool:
    """Whether a device of this namespace is the other end: an index means something else in each namespace."""
    if host.peer_ifindex != end.ifindex or host.peer_netnsid is None:
        return False
    bodies = own.batch([rtnl.get_link(ifindex=end.ifindex, netnsid=host.peer_netnsid)])[0].bodies
    return bool(bodies) and rtnl.read_link(bodies[0]).mac == end.mac
