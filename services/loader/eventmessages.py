"""Between the messages about packets and flows and the values of event.py and conntrack.py. Reading names the field;
writing never fails.
"""

import time
from collections.abc import Iterable

from podlane.loader.v1 import loader_pb2 as pb

from services.common import wire
from services.common.errors import InvalidArgument
from services.loader import event
from services.loader.conntrack import Flow
from services.loader.event import ICMP, ICMPV6, Event, EventType, Lost
from services.loader.refusal import place_text, reason_text


def read_types(numbers: Iterable[int], field: str) -> frozenset[EventType]:
    """Return the types; none is all. Raises InvalidArgument for an unknown one."""
    found = set()
    for number in numbers:
        try:
            found.add(EventType(number))
        except ValueError:
            raise InvalidArgument(f"{field}: {number} is no type of event", field=field) from None
    return frozenset(found)


def write_event(one: Event | Lost, clock: float) -> pb.WatchEventsResponse:
    """Return the message of an event. `clock` is what `clock_offset` returned."""
    if isinstance(one, Lost):
        return _lost(one)
    message = pb.WatchEventsResponse(
        time=wire.write_time(one.time / 1e9 + clock),
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
    return message


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


def write_flow(flow: Flow) -> pb.ConntrackEntry:
    """Return the message of a tracked flow."""
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
        expires_in=round(flow.expires_in),
        packets=flow.packets,
        bytes=flow.bytes,
        protocol_number=flow.protocol,
    )


def _lost(one: Lost) -> pb.WatchEventsResponse:
    of = "events" if one.type is None else f"{one.type.name.lower().replace('_', '-')} events"
    return pb.WatchEventsResponse(
        time=wire.write_time(time.time()),
        lost=pb.LostEvents(events=one.events, type=pb.EventType.ValueType(one.type or 0), reason=one.why),
        summary=f"{one.events} {of} lost: {one.why}",
    )
