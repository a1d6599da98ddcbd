"""What the kernel's drop reasons mean for whoever looks for a packet. Pure.

The names are those of `enum skb_drop_reason`, without their prefix; what each says in the kernel is in
include/net/dropreason-core.h. Here is what to look at next, for those that people meet.
"""

from collections.abc import Mapping

ORDINARY = frozenset(
    {
        "CONSUMED",
        "SOCKET_CLOSE",
        "QUEUE_PURGE",
        "UNIX_DISCONNECT",
        "UNIX_SKIP_OOB",
        "TCP_OLD_ACK",
        "TCP_OLD_DATA",
        "TCP_OFOMERGE",
    }
)
"""Ends of packets that nobody misses: what was still queued when a socket closed, what TCP had twice."""

TC = frozenset({"TC_INGRESS", "TC_EGRESS"})
"""Dropped by a program or filter of tc, which podlane's are."""

_WORDS = {
    "NOT_SPECIFIED": "the kernel gives no reason here; many ordinary ends of packets are among these",
    "CONSUMED": "it was used up as it should be",
    "NO_SOCKET": "nobody listens on that port at that address: is the server up, and bound to this address?",
    "SOCKET_CLOSE": "it was waiting in a socket that was closed",
    "SOCKET_FILTER": "a filter that a program has put on its own socket refuses it",
    "SOCKET_RCVBUFF": "the socket's receive buffer is full: its program reads too slowly",
    "SOCKET_BACKLOG": "the socket's backlog is full: its program reads too slowly",
    "PROTO_MEM": "all sockets of this protocol together have used up their memory (net.ipv4.tcp_mem, udp_mem)",
    "PKT_TOO_SMALL": "it is shorter than its headers say",
    "TCP_CSUM": "its TCP checksum is wrong: hardware, or an offload that should be off",
    "UDP_CSUM": "its UDP checksum is wrong: hardware, or an offload that should be off",
    "IP_CSUM": "its IP checksum is wrong: hardware, or an offload that should be off",
    "SKB_CSUM": "a checksum could not be computed",
    "NETFILTER_DROP": "a rule of iptables or nftables drops it: `nft list ruleset` where it was dropped",
    "OTHERHOST": "its hardware address is another machine's",
    "IP_INHDR": "its IP header is damaged, or has a version that doesn't fit",
    "IP_RPFILTER": "its source would not be answered by the way it came in (rp_filter), or a route is missing",
    "UNICAST_IN_L2_MULTICAST": "it was sent to everybody on the link but to one address",
    "XFRM_POLICY": "an IPsec policy forbids it",
    "IP_NOPROTO": "nobody here speaks its protocol",
    "TCP_FLAGS": "its TCP flags make no sense in the connection's state",
    "TCP_ZEROWINDOW": "the receiver has said that it has no room: its program reads too slowly",
    "TCP_OLD_DATA": "its data had arrived before",
    "TCP_OVERWINDOW": "it has more data than the receiver has said it has room for",
    "TCP_OFOMERGE": "its data had arrived before, out of order",
    "TCP_RFC7323_PAWS": "its TCP timestamp is older than the last one",
    "TCP_LISTEN_OVERFLOW": "the server's queue of new connections is full: it accepts too slowly",
    "TCP_OLD_SEQUENCE": "its sequence number is old",
    "TCP_INVALID_SEQUENCE": "its sequence number is outside of the window",
    "TCP_INVALID_ACK_SEQUENCE": "it acknowledges what was never sent",
    "TCP_RESET": "it is a reset that ends a connection",
    "TCP_INVALID_SYN": "it is a SYN in the middle of a connection",
    "TCP_CLOSE": "its connection is closed already",
    "TCP_OLD_ACK": "it acknowledges what was acknowledged before",
    "TCP_OFO_QUEUE_PRUNE": "the receiver ran out of room for what came out of order",
    "IP_OUTNOROUTES": "the sender has no route to its destination: `ip route get` where it was dropped",
    "IP_INNOROUTES": "there is no route to its destination: `ip route get` where it was dropped",
    "IP_INADDRERRORS": "its destination is not an address that could be delivered to here, or forwarding is off",
    "IP_INVALID_SOURCE": "no packet may have its source address",
    "IP_LOCAL_SOURCE": "it came from outside with an address of this machine for a source",
    "IP_LOCALNET": "it came from outside for a loopback address",
    "IP_INVALID_DEST": "no packet may have its destination address",
    "BPF_CGROUP_EGRESS": "a program on the sender's cgroup refuses it",
    "IPV6DISABLED": "IPv6 is off here (net.ipv6.conf.*.disable_ipv6)",
    "NEIGH_CREATEFAIL": "no neighbour entry could be made: the table is full (net.ipv4.neigh.default.gc_thresh3)",
    "NEIGH_FAILED": "nobody on the link answers for the next hop: is it up, is its address right?",
    "NEIGH_QUEUEFULL": "too many packets wait for the next hop's hardware address: does it answer?",
    "NEIGH_DEAD": "the next hop's neighbour entry was being removed",
    "TC_INGRESS": "a program or filter of tc at an interface's ingress dropped it",
    "TC_EGRESS": "a program or filter of tc at an interface's egress dropped it",
    "SECURITY_HOOK": "a security module (LSM) refuses it",
    "QDISC_DROP": "a queueing discipline dropped it: the interface is to send more than it may (`tc -s qdisc`)",
    "QDISC_OVERLIMIT": "a queueing discipline's queue is full (`tc -s qdisc`)",
    "QDISC_CONGESTED": "a queueing discipline dropped it because of congestion (`tc -s qdisc`)",
    "CPU_BACKLOG": "a CPU has more packets waiting than it may (net.core.netdev_max_backlog)",
    "XDP": "an XDP program dropped it",
    "UNHANDLED_PROTO": "nobody here knows its protocol",
    "SKB_GSO_SEG": "it could not be cut into segments",
    "DEV_HDR": "the device could not write its header",
    "DEV_READY": "the device is down, or not ready",
    "FULL_RING": "a device's or a packet socket's ring is full",
    "NOMEM": "there was no memory",
    "HDR_TRUNC": "it ends within its headers",
    "ICMP_CSUM": "its ICMP checksum is wrong",
    "INVALID_PROTO": "its protocol doesn't fit where it came in",
    "PKT_TOO_BIG": "it is larger than the way's MTU and may not be fragmented",
    "DUP_FRAG": "this fragment had arrived before",
    "FRAG_REASM_TIMEOUT": "its other fragments did not arrive in time",
    "QUEUE_PURGE": "it was in a queue that was emptied, as where an interface goes",
    "PACKET_SOCK_ERROR": "a packet socket could not take it",
    "VXLAN_INVALID_HDR": "its VXLAN header is not valid",
    "VXLAN_VNI_NOT_FOUND": "no VXLAN device here has its VNI",
    "MAC_INVALID_SOURCE": "its source hardware address is not valid",
    "NO_TX_TARGET": "there is no device to send it by",
    "LOCAL_MAC": "its source hardware address is this machine's own",
    "RECURSION_LIMIT": "it went through too many devices, one inside the other",
}


def explanation(reason: str) -> str:
    """Return what a reason means, empty for one that has no words here."""
    return _WORDS.get(reason, "")


def explained() -> frozenset[str]:
    """Return the reasons that have words."""
    return frozenset(_WORDS)


def name_of(number: int, names: Mapping[int, str]) -> str:
    """Return a reason's name; parts of the kernel that number their own have theirs in the upper half."""
    if number >> 16:
        return f"SUBSYSTEM_{number >> 16}_{number & 0xFFFF}"
    return names.get(number, f"REASON_{number}")
