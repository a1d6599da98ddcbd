"""Between the messages about packets and flows and the values of event.py and conntrack.py. Reading names the field;
writing never fails.
"""

import time
from collections.abc import Iterable

from podlane.loader.v1 import loader_pb2 as pb

from services.common import wire
from services.common.errors import InvalidArgument
from services.loader import event
from services.loader.conntrack import ConnectionChange, Counts, Flow
from services.loader.event import ICMP, ICMPV6, Ended, Event, EventType, Lost
from services.loader.flowcounts import FlowCounts, Row, RowKey, Sums
from services.loader.model import Direction
from services.loader.refusal import place_text, reason_text

# The API has no type 0.
_TYPES = {type_: pb.EventType.ValueType(type_ or pb.EVENT_TYPE_CONNECTION) for type_ in EventType}
_NUMBERS = {number: type_ for type_, number in _TYPES.items()}


def read_types(numbers: Iterable[int], field: str) -> frozenset[EventType]:
    """Return the types; none is all. Raises InvalidArgument for an unknown one."""
    found = set()
    for number in numbers:
        if number not in _NUMBERS:
            raise InvalidArgument(f"{field}: {number} is no type of event", field=field)
        found.add(_NUMBERS[pb.EventType.ValueType(number)])
    return frozenset(found)


def write_event(one: Event | Ended | Lost, clock: float) -> pb.WatchEventsResponse:
    """Return the message of an event. `clock` is what `clock_offset` returned."""
    if isinstance(one, Lost):
        return _lost(one)
    if isinstance(one, Ended):
        return _ended(one, clock)
    message = pb.WatchEventsResponse(
        time=wire.write_time(one.time / 1e9 + clock),
        boot_ns=one.time,
        endpoint_id=one.endpoint_id,
        direction=pb.TrafficDirection.ValueType(one.direction),
        packet=_packet(one),
        summary=event.describe(one),
    )
    match one.type:
        case EventType.DROP:
            message.drop.reason = reason_text(one.reason)
            message.drop.source = place_text(one.file, one.line)
        case EventType.TRACE:
            message.trace.point = pb.TracePoint.ValueType(one.point)
        case EventType.POLICY_VERDICT:
            message.policy_verdict.allowed = not one.reason
            message.policy_verdict.reason = reason_text(one.reason) if one.reason else ""
        case EventType.CONNECTION:
            change = ConnectionChange(one.point)
            message.connection.change = pb.ConnectionChange.ValueType(change)
            if one.flow is not None:
                message.connection.flow.CopyFrom(write_flow(one.flow, clock))
            if one.flow is not None and change is not ConnectionChange.OPENED:
                message.connection.duration_ms = _duration(one.flow, one.time / 1e9)
    return message


def _ended(one: Ended, clock: float) -> pb.WatchEventsResponse:
    flow = one.flow
    message = pb.WatchEventsResponse(
        time=wire.write_time(one.time / 1e9 + clock),
        boot_ns=one.time,
        endpoint_id=flow.endpoint_id,
        direction=pb.TrafficDirection.ValueType(flow.direction),
        summary=event.describe_end(one),
    )
    message.connection.change = pb.CONNECTION_CHANGE_EXPIRED
    message.connection.flow.CopyFrom(write_flow(flow, clock))
    message.connection.duration_ms = _duration(flow, flow.last)
    packet = message.packet
    packet.protocol, packet.protocol_number = event.protocol_name(flow.protocol), flow.protocol
    local, remote = (flow.local, flow.local_port, 0), (flow.remote, flow.remote_port, flow.peer_identity)
    source, destination = (local, remote) if flow.direction is Direction.EGRESS else (remote, local)
    packet.source.packed, packet.destination.packed = source[0].packed, destination[0].packed
    packet.source_identity, packet.destination_identity = source[2], destination[2]
    if flow.protocol in event.WITH_PORTS:
        packet.source_port, packet.destination_port = source[1], destination[1]
    return message


def _duration(flow: Flow, until: float) -> int:
    return max(0, round((until - flow.opened) * 1e3))


def clock_offset() -> float:
    """Return the seconds from boot's clock, which events have, to the epoch."""
    return time.time() - time.monotonic()


def _packet(one: Event) -> pb.EventPacket:
    packet = pb.EventPacket(
        source_identity=one.source_identity,
        destination_identity=one.destination_identity,
        peer_endpoint_id=one.peer_id,
        length=one.length,
        conntrack=pb.ConntrackState.ValueType(one.conntrack),
    )
    if one.source is None or one.destination is None:
        return packet
    packet.source.packed, packet.destination.packed = one.source.packed, one.destination.packed
    packet.protocol, packet.protocol_number = event.protocol_name(one.protocol), one.protocol
    if one.protocol in {ICMP, ICMPV6}:
        packet.icmp_type, packet.icmp_code = one.destination_port, one.flags
    elif one.protocol in event.WITH_PORTS:
        packet.source_port, packet.destination_port = one.source_port, one.destination_port
        packet.tcp_flags.extend(event.tcp_flags(one))
    return packet


def write_flow(flow: Flow, clock: float) -> pb.ConntrackEntry:
    """Return the message of a tracked flow. `clock` is what `clock_offset` returned."""
    return pb.ConntrackEntry(
        endpoint_id=flow.endpoint_id,
        direction=pb.TrafficDirection.ValueType(flow.direction),
        protocol=event.protocol_name(flow.protocol),
        local=wire.write_address(flow.local),
        local_port=flow.local_port,
        remote=wire.write_address(flow.remote),
        remote_port=flow.remote_port,
        peer_identity=flow.peer_identity,
        state=pb.FlowState.ValueType(flow.state),
        expires_in=max(0, round(flow.expires_in)),
        packets=flow.counts.packets,
        bytes=flow.counts.bytes,
        protocol_number=flow.protocol,
        traffic=_traffic(flow.counts),
        opened=wire.write_time(flow.opened + clock),
        last_packet=wire.write_time(max(flow.last, flow.opened) + clock),
    )


def write_counts(counts: FlowCounts, rows: Sums, left_out: int, clock: float) -> pb.ListFlowCountsResponse:
    """Return the answer about rows. `clock` is what `clock_offset` returned."""
    return pb.ListFlowCountsResponse(
        rows=[_row(key, row, clock) for key, row in rows],
        since=wire.write_time(counts.since),
        rows_left_out=left_out,
        rows_forgotten=counts.dropped_rows,
    )


def _row(key: RowKey, row: Row, clock: float) -> pb.FlowCount:
    return pb.FlowCount(
        endpoint_id=key.endpoint_id,
        generation=key.generation,
        direction=pb.TrafficDirection.ValueType(key.direction),
        protocol=event.protocol_name(key.protocol),
        protocol_number=key.protocol,
        port=key.port,
        remote=wire.write_address(key.remote) if key.remote is not None else None,
        peer_identity=key.peer_identity,
        traffic=_traffic(row.counts),
        connections=row.connections,
        first_seen=wire.write_time(row.first + clock),
        last_seen=wire.write_time(row.last + clock),
    )


def _traffic(counts: Counts) -> pb.FlowTraffic:
    return pb.FlowTraffic(
        packets_in=counts.packets_in,
        bytes_in=counts.bytes_in,
        packets_out=counts.packets_out,
        bytes_out=counts.bytes_out,
    )


def _lost(one: Lost) -> pb.WatchEventsResponse:
    of = "events" if one.type is None else f"{one.type.name.lower().replace('_', '-')} events"
    return pb.WatchEventsResponse(
        time=wire.write_time(time.time()),
        lost=pb.LostEvents(
            events=one.events,
            type=_TYPES[one.type] if one.type is not None else pb.EVENT_TYPE_UNSPECIFIED,
            reason=one.why,
        ),
        summary=f"{one.events} {of} lost: {one.why}",
    )
