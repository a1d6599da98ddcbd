"""Between MonitorService's messages and the values of filters.py and flowtable.py. Reading names the field."""

from collections.abc import Mapping
from enum import IntEnum
from ipaddress import ip_address
from typing import Literal, TypeVar

from podlane.endpoint.v1 import monitor_pb2 as pb
from podlane.endpoint.v1 import policy_pb2
from podlane.loader.v1 import loader_pb2

from services.common import wire
from services.common.errors import InvalidArgument
from services.common.model import Address, Pod
from services.endpoint.ids import LARGEST
from services.endpoint.monitor.filters import Facts, Filter, Kind, Party, PeerFilter, Verdict
from services.endpoint.monitor.flowtable import End, Pair, Row, Traffic
from services.endpoint.monitor.names import Names
from services.endpoint.policy.entry import Direction, protocol_name

T = TypeVar("T")
E = TypeVar("E", bound=IntEnum)

POLICY_REASONS = frozenset({"policy", "policy deny", "ports missing"})
"""The drop reasons by which policy has denied."""

_KINDS = {"drop": Kind.DROP, "trace": Kind.TRACE, "policy_verdict": Kind.VERDICT, "connection": Kind.CONNECTION}
_LOST_KINDS = {
    loader_pb2.EVENT_TYPE_DROP: Kind.DROP,
    loader_pb2.EVENT_TYPE_TRACE: Kind.TRACE,
    loader_pb2.EVENT_TYPE_POLICY_VERDICT: Kind.VERDICT,
    loader_pb2.EVENT_TYPE_CONNECTION: Kind.CONNECTION,
}
TYPES = {kind: type_ for type_, kind in _LOST_KINDS.items()}
"""What the loader calls the kinds that it tells of."""

_PEERS: tuple[Literal["any", "from", "to"], ...] = ("any", "from", "to")
_UNKNOWN = (1 << 64) - 1  # the loader's generation of endpoints that nobody had a record of


# ── filters ──


def read_filter(message: pb.EventFilter, field: str) -> Filter:
    """Return what is wanted. Raises InvalidArgument."""
    if not 0 <= message.port <= 0xFFFF:
        raise InvalidArgument(f"{field}.port: {message.port} is no port (1–65535)", field=f"{field}.port")
    if not 0 <= message.protocol <= 0xFF:
        raise InvalidArgument(
            f"{field}.protocol: {message.protocol} is no IP protocol number (1–255)", field=f"{field}.protocol"
        )
    either, source, destination = (_read_peer(message, name, field) for name in _PEERS)
    return Filter(
        kinds=frozenset(_read(Kind, number, f"{field}.kinds") for number in message.kinds),
        either=either,
        source=source,
        destination=destination,
        port=message.port,
        protocol=message.protocol,
        reason=message.reason,
        verdict=_read(Verdict, message.verdict, f"{field}.verdict"),
    )


def _read(kind: type[E], number: int, field: str) -> E:
    try:
        return kind(number)
    except ValueError:
        raise InvalidArgument(f"{field}: {number} is none of {', '.join(f'{one.value}' for one in kind)}") from None


def _read_peer(message: pb.EventFilter, name: Literal["any", "from", "to"], field: str) -> PeerFilter | None:
    if not message.HasField(name):
        return None
    peer: pb.PeerFilter = getattr(message, name)  # `from` is a word of Python's
    if peer.endpoint_id > LARGEST:
        where = f"{field}.{name}.endpoint_id"
        raise InvalidArgument(f"{where}: {peer.endpoint_id} is not an endpoint id (1–{LARGEST})", field=where)
    network = wire.read_network(peer.prefix, f"{field}.{name}.prefix") if peer.HasField("prefix") else None
    return PeerFilter(peer.endpoint_id, network, peer.namespace, peer.pod, dict(peer.labels), peer.identity)


# ── events ──


def kind_of(event: loader_pb2.WatchEventsResponse) -> Kind:
    """Return what one of the loader's events is about."""
    return _KINDS.get(event.WhichOneof("event") or "", Kind.LOST)


def write_flow_event(told: policy_pb2.WatchFlowsResponse) -> pb.WatchEventsResponse:
    """Return what the loader tells, by its names, as an event."""
    event = told.event
    kind = kind_of(event)
    if kind is Kind.LOST:
        of = _LOST_KINDS.get(event.lost.type)
        return lost(event.lost.events, "loader", event.lost.reason, of)
    return pb.WatchEventsResponse(time=event.time, kind=pb.EventKind.ValueType(kind), flow=told, summary=told.summary)


def lost(events: int, where: str, reason: str, kind: Kind | None = None) -> pb.WatchEventsResponse:
    """Return an event of events that nobody gets; 0: nobody knows how many."""
    of = f"{kind.name.lower()} events" if kind is not None else "events"
    return pb.WatchEventsResponse(
        time=wire.write_time(wire.now()),
        kind=pb.EVENT_KIND_LOST,
        lost=pb.Loss(
            events=events,
            where=where,
            kind=pb.EventKind.ValueType(kind) if kind is not None else pb.EVENT_KIND_UNSPECIFIED,
            reason=reason,
        ),
        summary=f"{events or 'an unknown number of'} {of} lost: {reason}",
    )


def facts_of(event: pb.WatchEventsResponse) -> Facts:
    """Return what filters look at."""
    kind = Kind(event.kind)
    match event.WhichOneof("event"):
        case "flow":
            return _facts_of_packet(kind, event.flow)
        case "endpoint":
            return Facts(kind, about=_party(event.endpoint.endpoint, None))
        case "controller":
            number = event.controller.resource.removeprefix("endpoint-")
            about = Party(endpoint_id=int(number)) if number.isdecimal() else None
            return Facts(kind, about=about)
    return Facts(kind)


def _facts_of_packet(kind: Kind, told: policy_pb2.WatchFlowsResponse) -> Facts:
    event, packet = told.event, told.event.packet
    reason = event.drop.reason or event.policy_verdict.reason
    return Facts(
        kind,
        source=_party(told.source, _address(packet.source)),
        destination=_party(told.destination, _address(packet.destination)),
        ports=tuple(port for port in (packet.source_port, packet.destination_port) if port),
        protocol=packet.protocol_number,
        reason=reason,
        verdict=_verdict(kind, reason),
    )


def _verdict(kind: Kind, reason: str) -> Verdict:
    if kind is Kind.TRACE:
        return Verdict.NONE
    if not reason:
        return Verdict.ALLOWED
    return Verdict.DENIED if reason in POLICY_REASONS else Verdict.DROPPED


def _party(end: policy_pb2.FlowEnd, address: Address | None) -> Party:
    addresses = (address,) if address is not None else ()
    return Party(end.endpoint_id, addresses, end.pod.namespace, end.pod.name, dict(end.labels), end.identity)


def _address(message: object) -> Address | None:
    packed: bytes = getattr(message, "packed", b"")
    return ip_address(packed) if packed else None


# ── flows ──


def read_drop(told: policy_pb2.WatchFlowsResponse, names: Names) -> Row | None:
    """Return a drop as a row of one packet; None of one that was dropped before its addresses were read."""
    event, packet = told.event, told.event.packet
    source, destination = _address(packet.source), _address(packet.destination)
    if source is None or destination is None:
        return None
    out = event.direction == loader_pb2.TRAFFIC_DIRECTION_EGRESS
    here, there = names.endpoint(event.endpoint_id), packet.peer_endpoint_id
    far = destination if out else source
    far_identity = packet.destination_identity if out else packet.source_identity
    other = names.endpoint(there) if there else names.elsewhere(far, far_identity)
    when = wire.read_time(event.time)
    return Row(
        source=here if out else other,
        destination=other if out else here,
        protocol=packet.protocol_number,
        port=packet.destination_port,
        verdict=_verdict(Kind.DROP, event.drop.reason),
        there=Traffic(1, packet.length),
        back=Traffic(),
        first=when,
        last=when,
        reason=event.drop.reason,
        seen_at=Direction.EGRESS if out else Direction.INGRESS,
    )


def read_count(message: loader_pb2.FlowCount, names: Names) -> Row:
    """Return what flows have counted as a row."""
    asks = message.direction == loader_pb2.TRAFFIC_DIRECTION_EGRESS
    generation = message.generation
    here = names.endpoint(message.endpoint_id, generation if generation != _UNKNOWN else 0)
    there = names.elsewhere(_address(message.remote), message.peer_identity)
    traffic = message.traffic
    out, back = Traffic(traffic.packets_out, traffic.bytes_out), Traffic(traffic.packets_in, traffic.bytes_in)
    return Row(
        source=here if asks else there,
        destination=there if asks else here,
        protocol=message.protocol_number,
        port=message.port,
        verdict=Verdict.ALLOWED,
        there=out if asks else back,
        back=back if asks else out,
        first=wire.read_time(message.first_seen),
        last=wire.read_time(message.last_seen),
        connections=message.connections,
        seen_at=Direction.EGRESS if asks else Direction.INGRESS,
    )


def write_flow(row: Row) -> pb.Flow:
    """Return the message of a row."""
    return pb.Flow(
        source=write_end(row.source),
        destination=write_end(row.destination),
        protocol=protocol_name(row.protocol),
        protocol_number=row.protocol,
        port=row.port,
        verdict=pb.Verdict.ValueType(row.verdict),
        reason=row.reason,
        packets=row.there.packets,
        bytes=row.there.bytes,
        packets_back=row.back.packets,
        bytes_back=row.back.bytes,
        connections=row.connections,
        first_seen=wire.write_time(row.first),
        last_seen=wire.write_time(row.last),
        seen_at=loader_pb2.TrafficDirection.ValueType(row.seen_at),
    )


def write_pair(pair: Pair) -> pb.FlowPair:
    """Return the message of a pair."""
    return pb.FlowPair(
        source=write_end(pair.source),
        destination=write_end(pair.destination),
        packets=pair.allowed.packets,
        bytes=pair.allowed.bytes,
        drops=pair.drops,
        last_seen=wire.write_time(pair.last),
    )


def write_end(end: End) -> policy_pb2.FlowEnd:
    """Return the message of an end."""
    return policy_pb2.FlowEnd(
        endpoint_id=end.endpoint_id,
        pod=wire.write_pod(Pod(end.namespace, end.pod)) if end.pod else None,
        identity=end.identity,
        labels=dict(end.labels),
        name=end.name,
    )


def read_order(number: int, orders: Mapping[int, T]) -> T:
    """Return what flows are ordered by. Raises InvalidArgument."""
    if number not in orders:
        raise InvalidArgument(f"order: {number} is none of {', '.join(map(str, orders))}", field="order")
    return orders[number]
