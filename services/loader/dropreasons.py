"""What each drop reason means and what to do about it, for people. `python -m services.loader.dropreasons` prints the
table that docs/monitor.md has; a test holds the two together. Pure.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from services.loader.refusal import DropReason, reason_text


@dataclass(frozen=True, slots=True)
class Explanation:
    """What has happened, and what to do."""

    means: str
    do: str


_NOTHING = "Nothing: it is harmless."
_R = DropReason

EXPLANATIONS: Mapping[DropReason, Explanation] = {
    _R.LINK_LOCAL_NOISE: Explanation(
        "What a pod's kernel sends to its link without being asked: MLD, router solicitations, duplicate address "
        "detection, mDNS. Multicast and broadcast have nowhere to go here.",
        _NOTHING,
    ),
    _R.ARP_TARGET: Explanation(
        "An ARP request for something else than the gateway.",
        "Look at the pod's routes: all of them lead through the gateway. What a pod adds to its link itself has no "
        "neighbours.",
    ),
    _R.ARP_SENDER: Explanation(
        "ARP in the name of somebody else.",
        "Look for an address in the pod that podlane didn't give it (`ip address`); for pods that forward for others "
        "`podlane endpoint config ID source-ip-verification=off`.",
    ),
    _R.ND_TARGET: Explanation(
        "A neighbour solicitation for something else than the gateway, or an advertisement to it.",
        "As for `arp target`.",
    ),
    _R.ND_SENDER: Explanation("Neighbour discovery in the name of somebody else.", "As for `arp sender`."),
    _R.IPV6_EXTENSIONS: Explanation(
        "More IPv6 extension headers than are followed to find the ports.",
        "Nothing ordinary sends such packets: find out what in the pod does.",
    ),
    _R.INVALID_SOURCE_MAC: Explanation(
        "A frame whose source isn't the pod's own hardware address.",
        "Something in the pod bridges or has changed the address: only the one that eth0 was made with may send.",
    ),
    _R.INVALID_SOURCE_IP: Explanation(
        "A packet whose source address isn't the endpoint's.",
        "A pod that forwards for others (a VPN, a router) needs `podlane endpoint config ID "
        "source-ip-verification=off`. Otherwise an address was added in the pod, or it forges.",
    ),
    _R.POLICY: Explanation(
        "The endpoint is isolated in this direction, and no policy allows the packet.",
        "`podlane policy explain --from A --to B --port N` says which policies isolate; one of them has to allow it.",
    ),
    _R.INVALID_PACKET: Explanation(
        "Truncated or malformed headers.",
        "Rarely anything. If it goes on, capture on the pod's eth0 and look for a broken sender.",
    ),
    _R.UNKNOWN_L3: Explanation(
        "Neither ARP nor an IP version that the endpoint has an address of; or a VLAN tag.",
        "A pod without IPv6 that sends IPv6 is harmless. Otherwise give its pool ranges of that family.",
    ),
    _R.NO_TUNNEL_KEY: Explanation(
        "Came through the tunnel's device without a tunnel key.",
        "Something else than podlane sends into `podlane_vxlan`: find out what.",
    ),
    _R.UNROUTABLE: Explanation(
        "Came through the tunnel for an address that isn't here.",
        "The other node believes an old record: `podlane status` there. During a pod's move a few are usual.",
    ),
    _R.CONNTRACK_FULL: Explanation(
        "The flow is allowed, but the map of flows could not take its entry.",
        "The kernel pushes out old flows, so this is a lack of memory: look at the node's (`free`, `dmesg`).",
    ),
    _R.PORTS_MISSING: Explanation(
        "A fragment after the first, or a packet too short for its ports, where policy asks for ports.",
        "Avoid fragments (path MTU, a smaller datagram), or allow the peer without naming ports.",
    ),
    _R.NO_TUNNEL_ENDPOINT: Explanation(
        "Is to go through the tunnel, but nobody knows to which node.",
        "The record of the other pod has gone while the packet was under way: `podlane kvstore list state/ip`.",
    ),
    _R.ENCAP_PROHIBITED: Explanation(
        "A pod sends to the tunnel's port what other nodes would take for this node's tunnel.",
        "A pod may not make VXLAN to the nodes' port. Give one or the other another port (`[cluster] tunnel_port`).",
    ),
    _R.INVALID_IDENTITY: Explanation(
        "Came through the tunnel under an identity, or from a node, that isn't its source's.",
        "For a moment after a pod's labels or node have changed it is usual. If it stays: `podlane status` on both "
        "nodes, and whether somebody else can send to the tunnel's port.",
    ),
    _R.POLICY_DENY: Explanation(
        "A policy entry denies it, whatever allows it.",
        "`podlane policy explain --from A --to B --port N` names the entry's origin.",
    ),
    _R.ENDPOINT_NOT_READY: Explanation(
        "The destination is known, and its policy program isn't in its slot.",
        "For a moment while an endpoint goes it is usual. If it stays: `podlane endpoint health ID`, then `podlane "
        "endpoint regenerate ID`.",
    ),
}


def table() -> str:
    """Return the table of all reasons, in Markdown."""
    lines = ["| reason | number | what has happened | what to do |", "|---|---|---|---|"]
    for reason in DropReason:
        told = EXPLANATIONS[reason]
        lines.append(f"| `{reason_text(reason)}` | {reason.value} | {told.means} | {told.do} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())  # noqa: T201 - what it is for
