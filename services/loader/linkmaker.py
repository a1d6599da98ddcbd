"""Making a veth pair, and comparing one that exists with its record. Blocking: runs on the netlink worker's thread.

    visit      the pod's namespace (linklook.py)
    record     what is about to be made is written down
    link       one RTM_NEWLINK: both ends in place, MACs, MTU; the node's end stays down until programs are attached
    pod        one batch inside the pod: up, addresses, routes in the order given
    record     done

The pod's end can't be brought up by the request that makes it: veth refuses (ENOTCONN) while the other end isn't
there. Deleting the node's end is the undo of everything.
"""

import contextlib
import errno
from dataclasses import replace

from services.common import telemetry
from services.common.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, PodlaneError
from services.common.model import format_mac
from services.common.stopwatch import Stopwatch
from services.loader import rtnl, rtnl_ip, rtnl_rule
from services.loader.linkcompare import differences, host_problems, pod_problems
from services.loader.linklook import IPV6_CONF, PodSide, explained, find, led_elsewhere, look, visit
from services.loader.linkrecord import LinkRecords, uptime
from services.loader.linkspec import HostEnd, LinkRecord, LinkSpec, PodEnd, random_mac
from services.loader.netlink import Rtnl
from services.loader.netlink_messages import NetlinkError, Request, explain
from services.loader.rtnl import EndOfPair, LinkInfo

_log = telemetry.logger("links")


# Whatever the node's defaults are: the pod is reached by a /32 route that says which way, never asked for by ARP, and
# programs answer for the gateway.
_HOST_CONF = (
    (rtnl.IPV4_FORWARDING, 1),
    (rtnl.IPV4_PROXY_ARP, 0),
    (rtnl.IPV4_ACCEPT_REDIRECTS, 0),
    (rtnl.IPV4_SEND_REDIRECTS, 0),
    (rtnl.IPV4_RP_FILTER, 0),
)


# What the kernel says to addresses, routes and sizes that make no sense, alone or together
_NONSENSE = frozenset({errno.EINVAL, errno.ERANGE, errno.ENETUNREACH, errno.EHOSTUNREACH})


class LinkMaker:
    """Makes links and writes them down. One thread at a time."""

    def __init__(self, records: LinkRecords) -> None:
        """`records` is where each link is written down."""
        self._records = records

    def create(self, own: Rtnl, spec: LinkSpec, mtu: int, watch: Stopwatch) -> tuple[LinkRecord, LinkInfo, bool]:
        """Make the link, or find it as asked for; return its record, its node's end, and whether it was made.

        Raises AlreadyExists when the interface is somebody else's or differs from what is asked for, NotFound and
        InvalidArgument about the namespace or the values, Unavailable when the kernel refuses.
        """
        ifname = spec.attachment.host_ifname()
        with contextlib.ExitStack() as opened:
            opened.enter_context(explained(f"link {ifname} of {spec.attachment}"))
            with watch.phase("netns"):
                pod = opened.enter_context(visit(spec.netns_path))
            record = self._records.get(ifname)
            if record is not None and record.spec.chained:
                _refuse_chained(own, spec, record)
            elif record is not None:
                with watch.phase("existing"):
                    host = self._existing(own, pod, spec, record)
                    if host is not None:
                        return self._records.get(ifname) or record, host, False
                    self._remove(own, ifname)
            return *self._make(own, pod, spec, mtu, watch), True

    def _existing(self, own: Rtnl, pod: PodSide, spec: LinkSpec, record: LinkRecord) -> LinkInfo | None:
        """Return the node's end of a finished link that is as asked for, whole again; None: it must be replaced."""
        host = find(own, ifname=record.host_ifname)
        if not record.done or host is None or host.ifindex != record.host_ifindex:
            return None
        _refuse_difference(pod, spec, record)
        end = look(pod.rtnl, spec.attachment.ifname)
        if end is None or end.ifindex != record.pod_ifindex:
            return None
        if pod_problems(record, end):
            self._configure(pod, record)
        # Asked for again, perhaps by another name of the same namespace; the old one may be gone.
        again = replace(record.spec, netns_path=spec.netns_path)
        self._records.put(replace(record, spec=again, asked_at=uptime()))
        return host

    def repair(self, own: Rtnl, record: LinkRecord) -> list[str]:
        """Make both ends of a finished link what they were made as; say what wasn't. Raises NotFound when either is
        gone, Unavailable when the kernel refuses.
        """
        ifname = record.host_ifname
        with explained(f"link {ifname} of {record.spec.attachment}"), visit(record.spec.netns_path) as pod:
            host, end = find(own, ifname=ifname), look(pod.rtnl, record.spec.attachment.ifname)
            if host is None or end is None or not _are_recorded(record, host, end, pod):
                raise NotFound(f"link {ifname} of {record.spec.attachment} is gone: DEL and ADD make another one")
            wrong = [*host_problems(record, HostEnd(host.ifindex, host.mac, host.mtu)), *pod_problems(record, end)]
            if wrong:
                # Giving it the MAC that it has already would take the neighbours behind it away.
                mac = record.host_mac if host.mac != record.host_mac else None
                own.batch([rtnl.set_link(ifindex=host.ifindex, mac=mac, mtu=record.mtu)])
                self._configure(pod, record)
        return wrong

    def forget_rules(self, record: LinkRecord) -> None:
        """Take a secondary interface's rules away; with its namespace they are gone. Its routes go with it."""
        with contextlib.suppress(OSError, PodlaneError), visit(record.spec.netns_path) as pod:
            if pod.cookie == record.netns_cookie:
                pod.rtnl.batch(list(map(rtnl_rule.delete, record.rules)))

    def _remove(self, own: Rtnl, ifname: str) -> None:
        """Remove what an earlier attempt left, whatever it is."""
        _log.info("replacing what is left of a link", ifname=ifname)
        own.batch([rtnl.delete_link(ifname=ifname)])
        self._records.remove(ifname)

    def _make(self, own: Rtnl, pod: PodSide, spec: LinkSpec, mtu: int, watch: Stopwatch) -> tuple[LinkRecord, LinkInfo]:
        record = LinkRecord(
            spec=spec,
            mtu=mtu,
            host_mac=random_mac(),
            pod_mac=spec.pod_mac or random_mac(),
            netns_inode=pod.netns.inode,
            netns_cookie=pod.cookie,
            asked_at=uptime(),
        )
        with contextlib.ExitStack() as undo:
            with watch.phase("record"):
                self._records.put(record)
                undo.callback(self._undo, own, record)
            with watch.phase("link"):
                host = self._pair(own, pod, record)
            record = replace(
                record,
                done=True,
                host_ifindex=host.ifindex,
                pod_ifindex=host.peer_ifindex,
                secondary=led_elsewhere(pod, host.peer_ifindex),
            )
            with watch.phase("pod"):
                self._configure(pod, record)
            with watch.phase("done"):
                self._records.put(record)
            undo.pop_all()
        return record, host

    def _undo(self, own: Rtnl, record: LinkRecord) -> None:
        """Take the link away again. If that fails the record stays, and says that the link is a remainder."""
        try:
            own.batch([rtnl.delete_link(ifname=record.host_ifname)])
            self._records.remove(record.host_ifname)
        except (OSError, PodlaneError) as error:
            _log.warning("a failed link could not be undone", ifname=record.host_ifname, reason=str(error))

    def _pair(self, own: Rtnl, pod: PodSide, record: LinkRecord) -> LinkInfo:
        """Make both ends; what carries the node's end's name is a remainder nobody has a record of."""
        requests = _pair_requests(pod, record)
        try:
            return _made(own, requests)
        except NetlinkError as error:
            if error.errno != errno.EEXIST:
                raise _refusal(record, error) from error
        if find(own, ifname=record.host_ifname) is None:
            raise _taken(pod, record)
        _log.info("replacing a link without a record", ifname=record.host_ifname)
        own.batch([rtnl.delete_link(ifname=record.host_ifname)])
        try:
            return _made(own, requests)
        except NetlinkError as error:
            raise _taken(pod, record) if error.errno == errno.EEXIST else _refusal(record, error) from error

    def _configure(self, pod: PodSide, record: LinkRecord) -> None:
        """Bring the pod's end up with its addresses and routes; what is there stays."""
        spec = record.spec
        if pod.ipv6_disabled and any(one.address.version == 6 for one in spec.addresses):
            self._enable_ipv6(pod, spec.attachment.ifname)
        index = record.pod_ifindex
        requests = [
            rtnl.set_link(ifindex=index, up=True, mac=record.pod_mac, mtu=record.mtu),
            *(rtnl_ip.new_address(index, one.address) for one in spec.addresses),
            *(rtnl_ip.new_route(index, route) for route in record.routes),
            *map(rtnl_rule.add, record.rules),
        ]
        try:
            pod.rtnl.batch(requests)
        except NetlinkError as error:
            raise _refusal(record, error) from error

    def _enable_ipv6(self, pod: PodSide, ifname: str) -> None:
        """Container runtimes switch IPv6 off for all interfaces of a sandbox; this one is to have it."""
        path = IPV6_CONF / ifname / "disable_ipv6"
        with pod.netns.visit():
            try:
                path.write_text("0")
            except OSError as error:
                raise FailedPrecondition(
                    f"{ifname} can't have an IPv6 address: {path}: {error.strerror}", path=path
                ) from error


def _are_recorded(record: LinkRecord, host: LinkInfo, end: PodEnd, pod: PodSide) -> bool:
    """Whether both ends are those that the record is about."""
    there = (host.ifindex, end.ifindex, pod.cookie)
    return there == (record.host_ifindex, record.pod_ifindex, record.netns_cookie)


def _pair_requests(pod: PodSide, record: LinkRecord) -> list[Request]:
    offload = record.spec.offload
    host = EndOfPair(record.host_ifname, record.host_mac, record.mtu, offload=offload)
    ifname = record.spec.attachment.ifname
    peer = EndOfPair(ifname, record.pod_mac, record.mtu, netns_fd=pod.netns.fileno(), offload=offload)
    return [
        rtnl.new_veth(host, peer),
        rtnl.set_link(ifname=record.host_ifname, inet_conf=_HOST_CONF),
        rtnl.no_link_local(record.host_ifname),
        rtnl.get_link(ifname=record.host_ifname),
    ]


def _made(own: Rtnl, requests: list[Request]) -> LinkInfo:
    return rtnl.read_link(own.batch(requests)[-1].bodies[0])


def _refuse_chained(own: Rtnl, spec: LinkSpec, record: LinkRecord) -> None:
    """Raise AlreadyExists while another plugin's interface, which the attachment was chained to, is there."""
    if find(own, ifname=record.host_ifname) is not None:
        raise AlreadyExists(
            f"{spec.attachment} has link {record.host_ifname}, and {'; '.join(differences(spec, record))}: delete it "
            "first",
            host_ifname=record.host_ifname,
        )


def _refuse_difference(pod: PodSide, spec: LinkSpec, record: LinkRecord) -> None:
    found = differences(spec, record)
    if pod.cookie != record.netns_cookie:
        found.insert(0, f"it leads into another namespace ({record.spec.netns_path}, inode {record.netns_inode})")
    if found:
        raise AlreadyExists(
            f"{spec.attachment} has link {record.host_ifname}, and {'; '.join(found)}: delete it first",
            host_ifname=record.host_ifname,
        )


def _taken(pod: PodSide, record: LinkRecord) -> PodlaneError:
    ifname = record.spec.attachment.ifname
    other = find(pod.rtnl, ifname=ifname)
    what = (
        f"a {other.kind or 'plain'} interface with MAC {format_mac(other.mac)}" if other is not None else "another one"
    )
    return AlreadyExists(
        f"ifname: {ifname} exists in {pod.netns.path} already and is not podlane's: {what}",
        field="ifname",
        ifname=ifname,
    )


def _refusal(record: LinkRecord, error: NetlinkError) -> PodlaneError:
    what = f"link {record.host_ifname} of {record.spec.attachment}"
    if error.errno in _NONSENSE:
        return InvalidArgument(f"{what}: {error}", errno=error.errno)
    if error.errno in {errno.EAFNOSUPPORT, errno.EOPNOTSUPP}:
        return FailedPrecondition(f"{what}: {error}: this kernel lacks what it needs", errno=error.errno)
    return explain(what, error)
