"""A dropped packet: by whom and why, where, between whom. Pure.

by kernel    the kernel's own code, for its own reason
by podlane   podlane's programs, for podlane's reason; the kernel's is TC_INGRESS or TC_EGRESS
by tc        a program or filter of tc of which podlane says nothing: another's, or podlane's and not told
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from cli.tracer.pods import Pods
from cli.tracer.reasons import TC, explanation, name_of

KERNEL, PODLANE, BY_TC = "kernel", "podlane", "tc"

_PROTOCOLS = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6", 132: "SCTP"}
_ETHERTYPES = {0x0806: "ARP", 0x0800: "IPv4", 0x86DD: "IPv6"}
_ICMP = frozenset({1, 58})
_WITH_PORTS = frozenset({6, 17, 132})
_FLAGS = ("FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR")
_UNTOLD = (
    "a program or filter of tc, and podlane says nothing of it: another's, or podlane's own with drop-notify off or "
    "its event lost"
)


@dataclass(frozen=True, slots=True)
class Seen:
    """One drop. `time` in seconds since 1970. Ports are 0 and addresses empty where there are none; of ICMP
    `destination_port` is the type and `flags` the code. `endpoints` are those of this node that it is about.
    """

    time: float
    by: str
    reason: str
    kernel_reason: str = ""
    function: str = ""
    place: str = ""
    explanation: str = ""
    where: str = ""
    device: str = ""
    endpoint: int = 0
    """Where it was dropped: in whose namespace, at whose interface, by whose programs."""
    endpoints: frozenset[int] = frozenset()
    source: str = ""
    destination: str = ""
    source_name: str = ""
    destination_name: str = ""
    source_port: int = 0
    destination_port: int = 0
    protocol: int = 0
    has_ports: bool = False
    flags: int = 0
    ethertype: int = 0
    length: int = 0
    cpu: int = -1

    @property
    def ends(self) -> tuple[Any, ...]:
        """What tells the packet from others, empty where its headers weren't read."""
        if not self.source:
            return ()
        ports = (self.source_port, self.destination_port) if self.protocol in _WITH_PORTS else ()
        return (self.source, self.destination, self.protocol, *ports)

    @property
    def protocol_name(self) -> str:
        """Its protocol as people call it."""
        if not self.source:
            return _ETHERTYPES.get(self.ethertype, f"ethertype {self.ethertype:#06x}" if self.ethertype else "")
        return _PROTOCOLS.get(self.protocol, f"protocol {self.protocol}")

    @property
    def tcp_flags(self) -> tuple[str, ...]:
        """The names of a TCP segment's flags."""
        if self.protocol != 6 or not self.has_ports:
            return ()
        return tuple(name for bit, name in enumerate(_FLAGS) if self.flags >> bit & 1)

    @property
    def icmp(self) -> tuple[int, int] | None:
        """ICMP type and code."""
        return (self.destination_port, self.flags) if self.protocol in _ICMP and self.has_ports else None


@dataclass(frozen=True, slots=True)
class Machine:
    """What the tracer's records are read by: reasons' names, seconds from the monotonic clock to 1970, the node's own
    network namespace.
    """

    reasons: Mapping[int, str]
    clock: float
    namespace: int


def of_kernel(told: Mapping[str, Any], machine: Machine, pods: Pods) -> Seen:
    """Return a drop that the tracer has told."""
    reason = name_of(told["reason"], machine.reasons)
    where, endpoint = _where(told, machine, pods)
    source, destination = pods.by_address(told["source"]), pods.by_address(told["destination"])
    concerned = {pod.id for pod in (source, destination) if pod is not None} | ({endpoint} if endpoint else set())
    return Seen(
        time=told["time"] / 1e9 + machine.clock,
        by=BY_TC if reason in TC else KERNEL,
        reason=reason,
        kernel_reason=reason,
        function=told["function"],
        explanation=_UNTOLD if reason in TC else explanation(reason),
        where=where,
        device=told["device"],
        endpoint=endpoint,
        endpoints=frozenset(concerned),
        source=told["source"],
        destination=told["destination"],
        source_name=source.name if source is not None else "",
        destination_name=destination.name if destination is not None else "",
        source_port=told["source_port"],
        destination_port=told["destination_port"],
        protocol=told["protocol"],
        has_ports=told["has_ports"],
        flags=told["flags"],
        ethertype=told["ethertype"],
        length=told["length"],
        cpu=told["cpu"],
    )


def _where(told: Mapping[str, Any], machine: Machine, pods: Pods) -> tuple[str, int]:
    """Return where it was dropped, in words, and which endpoint that is of."""
    pod, device = pods.by_namespace(told["netns"]), told["device"]
    at = f", {device}" if device else ""
    if pod is not None:
        return f"in {pod.name}{at}", pod.id
    if told["netns"] != machine.namespace:
        return (f"in another network namespace{at}" if told["netns"] else ""), 0
    pod = pods.by_interface(told["ifindex"])
    if pod is not None:
        return f"on the node, at {pod.name}'s {device}", pod.id
    return f"on the node{at}", 0


def joined(kernel: Seen, podlane: Seen) -> Seen:
    """Return the one drop that both have told of: podlane's word for why, the kernel's for where."""
    return replace(
        kernel,
        by=PODLANE,
        reason=podlane.reason,
        place=podlane.place,
        explanation=podlane.explanation,
        endpoint=podlane.endpoint or kernel.endpoint,
        endpoints=kernel.endpoints | podlane.endpoints,
        source_name=podlane.source_name or kernel.source_name,
        destination_name=podlane.destination_name or kernel.destination_name,
    )
