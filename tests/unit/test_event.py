"""Events as values and as lines: every kind of record, and names for all that the datapath numbers."""

import struct
from ipaddress import ip_address
from typing import Any

import pytest

from services.loader import event, layout, refusal
from services.loader.conntrack import ConntrackState
from services.loader.event import Event, EventType, TracePoint
from services.loader.model import Direction
from services.loader.refusal import DropReason, SourceFile


def an_event(**changes: Any) -> Event:
    """Return a dropped TCP segment, some of it changed."""
    ours: dict[str, Any] = {
        "time": 5_000_000_000,
        "type": EventType.DROP,
        "endpoint_id": 7,
        "direction": Direction.EGRESS,
        "reason": DropReason.POLICY,
        "point": 0,
        "peer_id": 0,
        "length": 74,
        "source_identity": 300,
        "destination_identity": 2,
        "file": SourceFile.POLICY,
        "line": 85,
        "source": ip_address("10.0.0.7"),
        "destination": ip_address("192.0.2.1"),
        "protocol": event.TCP,
        "has_ports": True,
        "source_port": 4242,
        "destination_port": 80,
        "flags": 2,
        "conntrack": 0,
    }
    return Event(**{**ours, **changes})


def record_of(one: Event) -> bytes:
    """Return the record that the datapath would send of an event."""
    keys = [layout.endpoint_key(address) if address else bytes(20) for address in (one.source, one.destination)]
    return event.RECORD.pack(
        one.time,
        layout.METRICS_KEY.pack(one.endpoint_id, one.reason, one.direction),
        one.type,
        one.point,
        one.peer_id,
        one.length,
        one.source_identity,
        one.destination_identity,
        one.line,
        one.file,
        one.has_ports,
        *keys,
        one.source_port.to_bytes(2, "big"),
        one.destination_port.to_bytes(2, "big"),
        one.protocol,
        one.flags,
        0,
        one.conntrack,
    )


@pytest.mark.parametrize(
    "one",
    [
        an_event(),
        an_event(source=None, destination=None, protocol=0, has_ports=False),
        an_event(type=EventType.TRACE, point=TracePoint.TO_STACK, reason=0),
        an_event(source=ip_address("fd00::7"), destination=ip_address("::"), peer_id=8),
        an_event(conntrack=ConntrackState.RELATED),
        an_event(source=ip_address("0.0.0.0")),
    ],
)
def test_a_record_reads_back_as_the_event_it_was(one: Event) -> None:
    assert event.read(record_of(one)) == one


def test_what_an_event_is_about_is_found_without_reading_it() -> None:
    assert event.kind_of(record_of(an_event(peer_id=8, type=EventType.TRACE))) == (EventType.TRACE, 7, 8)


@pytest.mark.parametrize(
    ("one", "line"),
    [
        (
            an_event(),
            (
                "drop (policy) at bpf/lib/policy.h:85: endpoint 7 egress, identity 300 -> world: "
                "10.0.0.7:4242 -> 192.0.2.1:80 TCP SYN, 74 bytes"
            ),
        ),
        (
            an_event(source=None, destination=None, file=SourceFile.BPF_LXC, destination_identity=0),
            "drop (policy) at bpf/bpf_lxc.c:85: endpoint 7 egress, identity 300 -> unknown: 74 bytes",
        ),
        (
            an_event(type=EventType.TRACE, point=TracePoint.TO_ENDPOINT, peer_id=8, flags=0x10),
            (
                "to-endpoint: endpoint 7 egress, peer 8, identity 300 -> world: "
                "10.0.0.7:4242 -> 192.0.2.1:80 TCP ACK, 74 bytes"
            ),
        ),
        (
            an_event(type=EventType.POLICY_VERDICT, reason=0, conntrack=ConntrackState.NEW),
            ("allowed: endpoint 7 egress, identity 300 -> world: 10.0.0.7:4242 -> 192.0.2.1:80 TCP SYN, new, 74 bytes"),
        ),
        (
            an_event(type=EventType.POLICY_VERDICT, reason=0, protocol=event.UDP),
            "allowed: endpoint 7 egress, identity 300 -> world: 10.0.0.7:4242 -> 192.0.2.1:80 UDP, 74 bytes",
        ),
        (
            an_event(type=EventType.POLICY_VERDICT, reason=DropReason.POLICY_DENY, protocol=event.SCTP, flags=0),
            (
                "denied (policy deny): endpoint 7 egress, identity 300 -> world: "
                "10.0.0.7:4242 -> 192.0.2.1:80 SCTP, 74 bytes"
            ),
        ),
        (
            an_event(protocol=event.ICMP, destination_port=8, source_port=77, flags=0),
            (
                "drop (policy) at bpf/lib/policy.h:85: endpoint 7 egress, identity 300 -> world: "
                "10.0.0.7 -> 192.0.2.1 ICMP echo request id 77, 74 bytes"
            ),
        ),
        (
            an_event(protocol=event.ICMPV6, destination_port=2, flags=0),
            (
                "drop (policy) at bpf/lib/policy.h:85: endpoint 7 egress, identity 300 -> world: "
                "10.0.0.7 -> 192.0.2.1 ICMPv6 type 2 code 0, 74 bytes"
            ),
        ),
        (
            an_event(protocol=50, has_ports=True, source_port=1),
            (
                "drop (policy) at bpf/lib/policy.h:85: endpoint 7 egress, identity 300 -> world: "
                "10.0.0.7 -> 192.0.2.1 protocol 50, 74 bytes"
            ),
        ),
        (
            an_event(has_ports=False, source=ip_address("fd00::7"), destination=ip_address("fd00::8")),
            (
                "drop (policy) at bpf/lib/policy.h:85: endpoint 7 egress, identity 300 -> world: "
                "fd00::7 -> fd00::8 TCP without ports, 74 bytes"
            ),
        ),
    ],
)
def test_an_event_is_one_line(one: Event, line: str) -> None:
    assert event.describe(one) == line


def test_places_are_paths_and_unknown_ones_keep_their_number() -> None:
    assert refusal.place_text(SourceFile.ND, 5) == "bpf/lib/nd.h:5"
    assert refusal.place_text(99, 5) == "file 99:5"


def test_events_that_were_not_sent_are_summed_over_the_cpus_by_type() -> None:
    def of_one_cpu(drops: int, traces: int) -> bytes:
        counts = struct.pack("=4Q", 0, drops, traces, 0)
        return bytes(event.PACKET.size - len(counts)) + counts

    assert event.not_sent_by_type(of_one_cpu(3, 0) + of_one_cpu(4, 5)) == {
        EventType.CONNECTION: 0,
        EventType.DROP: 7,
        EventType.TRACE: 5,
        EventType.POLICY_VERDICT: 0,
    }
