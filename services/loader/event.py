"""What the datapath tells of packets: the records of `podlane_events` as values, and as one line. Pure.

A record is the beginning of `struct packet` (bpf/lib/packet.h); that of a connection goes on to its flow's entry. What
it doesn't know is 0: an identity before the peer was looked up, addresses when the packet was dropped before they were
read.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum

from services.common.model import Address
from services.loader import conntrack as flows
from services.loader import layout
from services.loader.conntrack import ConnectionChange, ConntrackState, Flow
from services.loader.model import Direction
from services.loader.refusal import DropReason, place_text, reason_text

RECORD = struct.Struct("=Q4sBBHIIIHBB20s20s2s2sBBBB")
CREDIT = struct.Struct("=Q")
PACKET = struct.Struct(RECORD.format + "28sI16s8s12s24siBBBBB3sQ40s40s80s32s")

# endpoint_id, event, peer_id where a record has them: what is looked at before anything else is.
_KIND = struct.Struct("=8xH2xBxH")
# Where a record has them, each a byte.
_REASON, _TYPE = 10, 12
_NOT_SENT = struct.Struct("=4Q")
# Where the record of a connection has its flow's key, and the entry.
_KEY = PACKET.size - struct.calcsize("=40s40s80s32s")
_ENTRY = PACKET.size - struct.calcsize("=80s32s")

TCP, UDP, SCTP, ICMP, ICMPV6 = 6, 17, 132, 1, 58
WITH_PORTS = frozenset({TCP, UDP, SCTP})
_PROTOCOLS = {TCP: "TCP", UDP: "UDP", SCTP: "SCTP", ICMP: "ICMP", ICMPV6: "ICMPv6"}
_TCP_FLAGS = ("FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR")
_ECHO = {(ICMP, 8): "echo request", (ICMP, 0): "echo reply", (ICMPV6, 128): "echo request", (ICMPV6, 129): "echo reply"}
_IDENTITIES = {0: "unknown", 1: "host", 2: "world", 5: "init"}


class EventType(IntEnum):
    """`enum event_type`, without its prefix; the numbers are the API's, too, but for that of a connection, there 4."""

    CONNECTION = 0
    DROP = 1
    TRACE = 2
    POLICY_VERDICT = 3


class TracePoint(IntEnum):
    """`enum trace_point`, without its prefix; the numbers are the API's, too."""

    FROM_ENDPOINT = 1
    FROM_STACK = 2
    TO_ENDPOINT = 3
    TO_STACK = 4
    TO_OVERLAY = 5
    FROM_OVERLAY = 6


@dataclass(frozen=True, slots=True)
class Event:
    """One record. `time` is in nanoseconds of the monotonic clock, `length` in bytes with the Ethernet header.

    `reason` is a drop reason's number, of a verdict that allows 0; `point` is a trace's. `source` and `destination` are
    None when the packet was dropped before they were read; `source_port` is an ICMP echo's identifier,
    `destination_port` an ICMP type, `flags` TCP's flags or the ICMP code. `peer_id` is the endpoint of this node at the
    other end, 0 when there is none. `conntrack` is a ConntrackState, 0 where nothing is tracked or wasn't yet.
    """

    time: int
    type: EventType
    endpoint_id: int
    direction: Direction
    reason: int
    point: int
    peer_id: int
    length: int
    source_identity: int
    destination_identity: int
    file: int
    line: int
    source: Address | None
    destination: Address | None
    protocol: int
    has_ports: bool
    source_port: int
    destination_port: int
    flags: int
    conntrack: int
    flow: Flow | None = None
    """Of a connection: its entry as it was then."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A connection that has expired, or whose endpoint has gone, without having been closed."""

    flow: Flow
    time: int


@dataclass(frozen=True, slots=True)
class Lost:
    """Events that somebody wanted and nobody gets: how many of which type (None: of any), and why."""

    type: EventType | None
    events: int
    why: str


def kind_of(record: bytes) -> tuple[int, int, int]:
    """Return a record's type, its endpoint and its peer, which costs a tenth of `read`."""
    endpoint_id, type_, peer_id = _KIND.unpack_from(record)
    return type_, endpoint_id, peer_id


def is_noise(record: bytes) -> bool:
    """Return whether a record is of a drop that every pod has when it starts: what looks for routers and neighbours."""
    return record[_TYPE] == EventType.DROP and record[_REASON] == DropReason.LINK_LOCAL_NOISE


def read(record: bytes) -> Event:
    """Return what a record says."""
    (
        time,
        where,
        type_,
        point,
        peer_id,
        length,
        source_identity,
        destination_identity,
        line,
        file,
        has_ports,
        source,
        destination,
        source_port,
        destination_port,
        protocol,
        flags,
        _,
        conntrack,
    ) = RECORD.unpack_from(record)
    endpoint_id, reason, direction = layout.METRICS_KEY.unpack(where)
    known = any(layout.ENDPOINT_KEY.unpack(source)[1:])
    return Event(
        time=time,
        type=EventType(type_),
        endpoint_id=endpoint_id,
        direction=Direction(direction),
        reason=reason,
        point=point,
        peer_id=peer_id,
        length=length,
        source_identity=source_identity,
        destination_identity=destination_identity,
        file=file,
        line=line,
        source=layout.read_address(source) if known else None,
        destination=layout.read_address(destination) if known else None,
        protocol=protocol,
        has_ports=bool(has_ports),
        source_port=int.from_bytes(source_port, "big"),
        destination_port=int.from_bytes(destination_port, "big"),
        flags=flags,
        conntrack=conntrack,
        flow=_flow(record, time) if type_ == EventType.CONNECTION else None,
    )


def _flow(record: bytes, now_ns: int) -> Flow:
    key = record[_KEY : _KEY + flows.KEY.size]
    return flows.decode(key, record[_ENTRY : _ENTRY + flows.VALUE.size], now_ns)


def not_sent_by_type(packets: bytes) -> dict[EventType, int]:
    """Return how many records of each type were not sent, given the value of `podlane_packet` of every CPU."""
    counts = [
        _NOT_SENT.unpack_from(packets, start + PACKET.size - _NOT_SENT.size)
        for start in range(0, len(packets), PACKET.size)
    ]
    return {type_: sum(one[type_] for one in counts) for type_ in EventType}


def protocol_name(protocol: int) -> str:
    """Return a protocol as people call it, those without a name here by their number."""
    return _PROTOCOLS.get(protocol, f"protocol {protocol}")


def tcp_flags(event: Event) -> tuple[str, ...]:
    """Return the names of a TCP segment's flags."""
    if event.protocol != TCP:
        return ()
    return tuple(name for bit, name in enumerate(_TCP_FLAGS) if event.flags >> bit & 1)


def describe(event: Event) -> str:
    """Return an event in one line: what happened where, the identities, the packet."""
    what = {
        EventType.DROP: lambda: f"drop ({reason_text(event.reason)}) at {place_text(event.file, event.line)}",
        EventType.TRACE: lambda: TracePoint(event.point).name.lower().replace("_", "-"),
        EventType.CONNECTION: lambda: connection_text(ConnectionChange(event.point), event.flow),
        EventType.POLICY_VERDICT: lambda: f"denied ({reason_text(event.reason)})" if event.reason else "allowed",
    }[event.type]()
    peer = f", peer {event.peer_id}" if event.peer_id else ""
    who = f"endpoint {event.endpoint_id} {event.direction.name.lower()}{peer}"
    identities = f"{identity_name(event.source_identity)} -> {identity_name(event.destination_identity)}"
    return f"{what}: {who}, identity {identities}: {_packet(event)}"


def describe_end(one: Ended) -> str:
    """Return the end of a connection that no packet has ended in one line."""
    flow = one.flow
    out = flow.direction is Direction.EGRESS
    opener, server = (flow.local, flow.local_port), (flow.remote, flow.remote_port)
    source, destination = (opener, server) if out else (server, opener)
    ends = " -> ".join(
        _with_port(*end) if flow.protocol in WITH_PORTS else str(end[0]) for end in (source, destination)
    )
    what = connection_text(ConnectionChange.EXPIRED, flow)
    return f"{what}: endpoint {flow.endpoint_id} {flow.direction.name.lower()}: {ends} {protocol_name(flow.protocol)}"


def connection_text(change: ConnectionChange, flow: Flow | None) -> str:
    """Say what has become of a connection, and of one that has ended what it had counted, if anything."""
    if change is ConnectionChange.OPENED or flow is None or not flow.counts.packets:
        return f"connection {change.name.lower()}"
    counts = flow.counts
    return (
        f"connection {change.name.lower()} ({counts.packets_out} packets, {counts.bytes_out} bytes out, "
        f"{counts.packets_in} packets, {counts.bytes_in} bytes in)"
    )


def identity_name(identity: int) -> str:
    """Return a reserved identity's name, another one's number."""
    return _IDENTITIES.get(identity, str(identity))


def _packet(event: Event) -> str:
    if event.source is None or event.destination is None:
        return f"{event.length} bytes"
    source, destination = str(event.source), str(event.destination)
    if event.has_ports and event.protocol in WITH_PORTS:
        source = _with_port(event.source, event.source_port)
        destination = _with_port(event.destination, event.destination_port)
    what = " ".join((protocol_name(event.protocol), *_details(event)))
    state = f", {ConntrackState(event.conntrack).name.lower()}" if event.conntrack else ""
    return f"{source} -> {destination} {what}{state}, {event.length} bytes"


def _with_port(address: Address, port: int) -> str:
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def _details(event: Event) -> tuple[str, ...]:
    if not event.has_ports:
        return ("without ports",)
    if event.protocol not in {ICMP, ICMPV6}:
        return tcp_flags(event)
    echo = _ECHO.get((event.protocol, event.destination_port))
    if echo:
        return (echo, f"id {event.source_port}")
    return (f"type {event.destination_port} code {event.flags}",)
