"""The messages of rtnetlink about links. Pure.

Each builder returns one `Request`; each reader takes a message's body. Numbers are from linux/rtnetlink.h,
linux/if_link.h and linux/veth.h. Addresses, routes and neighbours are in rtnl_ip.py, filters in tc.py.
"""

import errno
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from services.loader.linkspec import OffloadSizes
from services.loader.netlink_messages import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    Request,
    attribute,
    attributes,
    nested,
    number,
    string,
    text,
    u8,
    u32,
)

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
_RTM_GETNSID = 90

_LINK = struct.Struct("=BxHiII")

IFF_UP, IFF_NOARP = 0x1, 0x80
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK, _IFLA_TXQLEN = 1, 3, 4, 5, 13
_IFLA_OPERSTATE, _IFLA_LINKINFO, _IFLA_AF_SPEC, _IFLA_GROUP = 16, 18, 26, 27
_IFLA_NET_NS_FD, _IFLA_EXT_MASK, _IFLA_NUM_TX_QUEUES, _IFLA_NUM_RX_QUEUES = 28, 29, 31, 32
_IFLA_LINK_NETNSID, _IFLA_GSO_MAX_SIZE, _IFLA_TARGET_NETNSID = 37, 41, 46
_IFLA_GRO_MAX_SIZE, _IFLA_GSO_IPV4_MAX_SIZE, _IFLA_GRO_IPV4_MAX_SIZE = 58, 63, 64
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _VETH_INFO_PEER = 1, 2, 1
_IFLA_VXLAN_LEARNING, _IFLA_VXLAN_PORT, _IFLA_VXLAN_COLLECT_METADATA = 7, 15, 25
_RTEXT_FILTER_SKIP_STATS = 0x8
_IFLA_INET_CONF, _IFLA_INET6_ADDR_GEN_MODE, _IN6_ADDR_GEN_MODE_NONE = 1, 8, 1
_IF_OPER_UP = 6

# linux/net_namespace.h, and struct rtgenmsg padded
_NETNSA_NSID, _NETNSA_PID = 1, 2
_GENERIC = struct.Struct("=B3x")

# linux/ip.h, IPV4_DEVCONF_*: the indexes of IFLA_INET_CONF
IPV4_FORWARDING, IPV4_PROXY_ARP, IPV4_ACCEPT_REDIRECTS, IPV4_SEND_REDIRECTS = 1, 3, 4, 6
IPV4_RP_FILTER, IPV4_ACCEPT_LOCAL = 8, 19

# What the kernel says of a device, address, route or neighbour that isn't there (any more)
GONE = frozenset({errno.ENODEV, errno.ENXIO, errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL})


@dataclass(frozen=True, slots=True)
class EndOfPair:
    """One end of a veth pair about to be made. `netns_fd` None: in the sender's namespace."""

    ifname: str
    mac: bytes
    mtu: int
    up: bool = False
    netns_fd: int | None = None
    offload: OffloadSizes = field(default_factory=OffloadSizes)


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """A network device as the kernel lists it. `peer_ifindex` of a veth is its other end's, 0 for others.

    `peer_netnsid` is this namespace's number for the peer's namespace, None when that is the same one. Of a VXLAN
    device its UDP port, and whether each packet says by its tunnel key where it goes.
    """

    ifindex: int
    ifname: str
    mac: bytes
    mtu: int
    flags: int
    group: int
    kind: str
    peer_ifindex: int
    peer_netnsid: int | None
    running: bool
    vxlan_port: int = 0
    vxlan_by_key: bool = False

    @property
    def up(self) -> bool:
        """Administratively up."""
        return bool(self.flags & IFF_UP)


def new_veth(host: EndOfPair, peer: EndOfPair) -> Request:
    """Make a veth pair, both ends in place."""
    data = nested(_IFLA_INFO_DATA, nested(_VETH_INFO_PEER, _end(peer)))
    info = nested(_IFLA_LINKINFO, text(_IFLA_INFO_KIND, "veth"), data)
    about = f"veth {host.ifname} ↔ {peer.ifname}"
    return Request(RTM_NEWLINK, _end(host) + info, NLM_F_CREATE | NLM_F_EXCL, about)


def _end(end: EndOfPair) -> bytes:
    flags = IFF_UP if end.up else 0
    parts = [
        _LINK.pack(socket.AF_UNSPEC, 0, 0, flags, flags),
        text(_IFLA_IFNAME, end.ifname),
        attribute(_IFLA_ADDRESS, end.mac),
        u32(_IFLA_MTU, end.mtu),
        u32(_IFLA_TXQLEN, 1000),
        # By default a veth gets a queue per CPU, which only XDP would use
        u32(_IFLA_NUM_TX_QUEUES, 1),
        u32(_IFLA_NUM_RX_QUEUES, 1),
    ]
    if end.netns_fd is not None:
        parts.append(u32(_IFLA_NET_NS_FD, end.netns_fd))
    return b"".join(parts) + _offload(end.offload)


def _offload(sizes: OffloadSizes) -> bytes:
    pairs = (
        (_IFLA_GSO_MAX_SIZE, sizes.gso_max_size),
        (_IFLA_GRO_MAX_SIZE, sizes.gro_max_size),
        (_IFLA_GSO_IPV4_MAX_SIZE, sizes.gso_ipv4_max_size),
        (_IFLA_GRO_IPV4_MAX_SIZE, sizes.gro_ipv4_max_size),
    )
    return b"".join(u32(kind, size) for kind, size in pairs if size)


def new_vxlan(ifname: str, mac: bytes, mtu: int, port: int) -> Request:
    """Make a VXLAN device, down, whose packets say where they go; it answers no ARP and learns nothing."""
    data = nested(
        _IFLA_INFO_DATA,
        u8(_IFLA_VXLAN_COLLECT_METADATA, 1),
        u8(_IFLA_VXLAN_LEARNING, 0),
        attribute(_IFLA_VXLAN_PORT, port.to_bytes(2, "big")),
    )
    body = b"".join(
        (
            _LINK.pack(socket.AF_UNSPEC, 0, 0, IFF_NOARP, IFF_NOARP),
            text(_IFLA_IFNAME, ifname),
            attribute(_IFLA_ADDRESS, mac),
            u32(_IFLA_MTU, mtu),
            nested(_IFLA_LINKINFO, text(_IFLA_INFO_KIND, "vxlan"), data),
        )
    )
    return Request(RTM_NEWLINK, body, NLM_F_CREATE | NLM_F_EXCL, ifname)


def set_link(
    *,
    ifindex: int = 0,
    ifname: str = "",
    up: bool | None = None,
    noarp: bool | None = None,
    mac: bytes | None = None,
    mtu: int | None = None,
    group: int | None = None,
    inet_conf: Sequence[tuple[int, int]] = (),
    tolerate: frozenset[int] = frozenset(),
) -> Request:
    """Change a device, known by its index or its name. What is None or empty stays.

    `inet_conf` sets net.ipv4.conf values by their IPV4_* index.
    """
    change = (IFF_UP if up is not None else 0) | (IFF_NOARP if noarp is not None else 0)
    flags = (IFF_UP if up else 0) | (IFF_NOARP if noarp else 0)
    parts = [_LINK.pack(socket.AF_UNSPEC, 0, ifindex, flags, change)]
    if not ifindex:
        parts.append(text(_IFLA_IFNAME, ifname))
    if mac is not None:
        parts.append(attribute(_IFLA_ADDRESS, mac))
    if mtu is not None:
        parts.append(u32(_IFLA_MTU, mtu))
    if group is not None:
        parts.append(u32(_IFLA_GROUP, group))
    if inet_conf:
        conf = nested(_IFLA_INET_CONF, *(u32(index, value) for index, value in inet_conf))
        parts.append(nested(_IFLA_AF_SPEC, nested(socket.AF_INET, conf)))
    return Request(RTM_SETLINK, b"".join(parts), about=ifname or f"link {ifindex}", tolerate=tolerate)


def no_link_local(ifname: str) -> Request:
    """Keep IPv6 from giving a device an address of its own (addr_gen_mode none); without IPv6 there is none to keep."""
    mode = u8(_IFLA_INET6_ADDR_GEN_MODE, _IN6_ADDR_GEN_MODE_NONE)
    spec = nested(_IFLA_AF_SPEC, nested(socket.AF_INET6, mode))
    body = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + text(_IFLA_IFNAME, ifname) + spec
    tolerate = frozenset({errno.EAFNOSUPPORT, errno.EOPNOTSUPP})
    return Request(RTM_SETLINK, body, about=ifname, tolerate=tolerate)


def get_link(*, ifindex: int = 0, ifname: str = "", netnsid: int | None = None) -> Request:
    """Ask for one device, by index or by name; no such device is an empty reply.

    `netnsid`: in another namespace, by this one's number for it. Since Linux 6.6 the kernel first brings the device's
    carrier state up to date, so that a device that is reported as running does transmit.
    """
    parts = [_LINK.pack(socket.AF_UNSPEC, 0, ifindex, 0, 0)]
    if ifname:
        parts.append(text(_IFLA_IFNAME, ifname))
    if netnsid is not None:
        parts.append(attribute(_IFLA_TARGET_NETNSID, struct.pack("=i", netnsid)))
    parts.append(u32(_IFLA_EXT_MASK, _RTEXT_FILTER_SKIP_STATS))
    return Request(RTM_GETLINK, b"".join(parts), about=ifname or f"link {ifindex}", tolerate=GONE)


def dump_links() -> Request:
    """List all devices."""
    body = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + u32(_IFLA_EXT_MASK, _RTEXT_FILTER_SKIP_STATS)
    return Request(RTM_GETLINK, body, about="the list of links")


def delete_link(*, ifindex: int = 0, ifname: str = "") -> Request:
    """Delete a device, known by its index or its name, and with a veth its peer; already gone is success."""
    body = _LINK.pack(socket.AF_UNSPEC, 0, ifindex, 0, 0) + (text(_IFLA_IFNAME, ifname) if not ifindex else b"")
    return Request(RTM_DELLINK, body, about=ifname or f"link {ifindex}", tolerate=GONE)


def delete_group(group: int) -> Request:
    """Delete all devices of a group at once; an empty group is success."""
    body = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + u32(_IFLA_GROUP, group)
    return Request(RTM_DELLINK, body, about=f"links of group {group:#x}", tolerate=GONE)


def get_netnsid(thread: int) -> Request:
    """Ask for this namespace's number for the one that a thread is in; no such thread is an empty reply."""
    body = _GENERIC.pack(socket.AF_UNSPEC) + u32(_NETNSA_PID, thread)
    return Request(_RTM_GETNSID, body, about=f"the namespace of thread {thread}", tolerate=GONE)


def read_netnsid(body: bytes) -> int | None:
    """Read the number, None when that namespace has none: then nothing here has a peer in it."""
    value = int(struct.unpack("=i", attributes(body, _GENERIC.size)[_NETNSA_NSID])[0])
    return value if value >= 0 else None


def read_link(body: bytes) -> LinkInfo:
    """Read a device."""
    _, _, ifindex, flags, _ = _LINK.unpack_from(body)
    found = attributes(body, _LINK.size)
    info = attributes(found.get(_IFLA_LINKINFO, b""))
    kind = string(info.get(_IFLA_INFO_KIND, b""))
    vxlan = attributes(info.get(_IFLA_INFO_DATA, b"")) if kind == "vxlan" else {}
    return LinkInfo(
        ifindex=ifindex,
        ifname=string(found.get(_IFLA_IFNAME, b"")),
        mac=found.get(_IFLA_ADDRESS, b""),
        mtu=number(found.get(_IFLA_MTU, b"")),
        flags=flags,
        group=number(found.get(_IFLA_GROUP, b"")),
        kind=kind,
        peer_ifindex=number(found.get(_IFLA_LINK, b"")) if kind == "veth" else 0,
        peer_netnsid=number(found[_IFLA_LINK_NETNSID]) if _IFLA_LINK_NETNSID in found else None,
        running=number(found.get(_IFLA_OPERSTATE, b"")) == _IF_OPER_UP,
        vxlan_port=int.from_bytes(vxlan.get(_IFLA_VXLAN_PORT, b""), "big"),
        vxlan_by_key=bool(number(vxlan.get(_IFLA_VXLAN_COLLECT_METADATA, b""))),
    )
