"""Events: what the programs tell of packets, and that they tell nothing nobody asked for."""

import re
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, ICMPv6ND_NS, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

from services.loader import event, headers, libbpf_programs
from services.loader.event import Event, EventType, TracePoint
from services.loader.model import Direction, PolicyEntry
from services.loader.refusal import DropReason, place_text, reason_text
from tests.bpf_support import (
    BPF,
    ETHER,
    GATEWAY_V4,
    HOST_MAC,
    PEER_ID,
    PEER_IDENTITY,
    PEER_IFINDEX,
    PEER_MAC,
    PEER_V4,
    PEER_V6,
    POD_ID,
    POD_IDENTITY,
    POD_MAC,
    POD_V4,
    POD_V6,
    WORLD_V4,
    WORLD_V6,
    Datapath,
    compiled,
)

pytestmark = pytest.mark.privileged

V4, V6 = IP(src=POD_V4, dst=PEER_V4), IPv6(src=POD_V6, dst=PEER_V6)
INBOUND = Ether(src=HOST_MAC, dst=POD_MAC)
IN, OUT = Direction.INGRESS, Direction.EGRESS
ALL = ("trace", "policy-verdict", "connection-events")


@pytest.fixture
def datapath() -> Iterator[Datapath]:
    """The default switches: drops only."""
    with Datapath() as datapath:
        yield datapath.allow_all()


@pytest.fixture
def talkative() -> Iterator[Datapath]:
    """All switches on that make events."""
    with Datapath(compiled(*ALL)) as datapath:
        yield datapath.allow_all()


def only(datapath: Datapath) -> Event:
    """Return the one event that was sent."""
    (found,) = datapath.events()
    return found


def test_nobody_listening_nothing_is_sent(talkative: Datapath) -> None:
    for packet in (ETHER / V4 / TCP(), ETHER / IP(src=PEER_V4, dst=WORLD_V4) / TCP()):
        talkative.send(packet)

    assert (talkative.events(), talkative.drops()) == ([], {"invalid source ip": 1})


def test_only_the_types_that_somebody_wants_are_sent(talkative: Datapath) -> None:
    spoofed = ETHER / IP(src=PEER_V4, dst=WORLD_V4) / TCP()
    sent = {}
    for type_ in EventType:
        talkative.listen(type_)
        for packet in (ETHER / V4 / TCP(sport=1000 + type_), spoofed):  # a new flow each
            talkative.send(packet)
        sent[type_] = {one.type for one in talkative.events()}

    assert sent == {type_: {type_} for type_ in EventType}


def test_without_drop_notify_a_drop_is_counted_but_not_told() -> None:
    with Datapath(compiled("drop-notify")) as silent:
        silent.listen().send(ETHER / V4 / TCP())

        assert (silent.events(), silent.drops()) == ([], {"policy": 1})


# A packet for each reason that one packet can have.
REFUSED = {
    DropReason.LINK_LOCAL_NOISE: ETHER / IP(src=POD_V4, dst="224.0.0.22") / Raw(b"igmp"),
    DropReason.ARP_TARGET: ETHER / ARP(hwsrc=POD_MAC, psrc=POD_V4, pdst=PEER_V4),
    DropReason.ARP_SENDER: ETHER / ARP(hwsrc=POD_MAC, psrc=PEER_V4, pdst=GATEWAY_V4),
    DropReason.ND_TARGET: ETHER / IPv6(src=POD_V6, dst="ff02::1", hlim=255) / ICMPv6ND_NS(tgt=PEER_V6),
    DropReason.ND_SENDER: ETHER / IPv6(src=PEER_V6, dst="ff02::1", hlim=255) / ICMPv6ND_NS(tgt=PEER_V6),
    DropReason.IPV6_EXTENSIONS: ETHER
    / V6
    / (IPv6ExtHdrDestOpt() / IPv6ExtHdrDestOpt())
    / IPv6ExtHdrDestOpt()
    / IPv6ExtHdrDestOpt()
    / TCP(),
    DropReason.INVALID_SOURCE_MAC: Ether(src=PEER_MAC, dst=HOST_MAC) / V4 / TCP(),
    DropReason.INVALID_SOURCE_IP: ETHER / IP(src=PEER_V4, dst=WORLD_V4) / TCP(),
    DropReason.POLICY: ETHER / IP(src=POD_V4, dst=WORLD_V4) / TCP(dport=81),
    DropReason.INVALID_PACKET: ETHER / IP(src=POD_V4, dst=PEER_V4, ihl=4) / TCP(),
    DropReason.UNKNOWN_L3: ETHER / Dot1Q(vlan=5) / V4,
    DropReason.PORTS_MISSING: ETHER / IP(src=POD_V4, dst=PEER_V4, proto=6, frag=10) / Raw(b"x" * 16),
    DropReason.POLICY_DENY: ETHER / V4 / UDP(dport=53),
    DropReason.ENDPOINT_NOT_READY: ETHER / V4 / TCP(dport=80),
}
RULES = (
    PolicyEntry(OUT, 0, 6, 80, 16),
    PolicyEntry(OUT, 0, 17, 53, 16, deny=True),
    PolicyEntry(IN),
)


# What takes a full map, and what only a node of a cluster refuses (test_bpf_cluster.py, test_overlay.py).
ELSEWHERE = {
    DropReason.CONNTRACK_FULL,
    DropReason.NO_TUNNEL_KEY,
    DropReason.UNROUTABLE,
    DropReason.NO_TUNNEL_ENDPOINT,
    DropReason.ENCAP_PROHIBITED,
    DropReason.INVALID_IDENTITY,
}


def test_no_reason_is_left_out() -> None:
    assert REFUSED.keys() == set(DropReason) - ELSEWHERE


@pytest.mark.parametrize("reason", REFUSED, ids=lambda reason: reason.name)
def test_a_drop_names_its_reason_and_the_line_that_decided(datapath: Datapath, reason: DropReason) -> None:
    datapath.listen().enforce(RULES)
    datapath.call_policy.clear(PEER_ID)

    datapath.send(REFUSED[reason])

    told = only(datapath)
    assert (told.type, told.reason, told.endpoint_id, told.direction) == (EventType.DROP, reason, POD_ID, OUT)
    file, _, line = place_text(told.file, told.line).rpartition(":")
    source = (BPF.parent / file).read_text().splitlines()
    near = "".join(source[int(line) - 1 : int(line) + 1])  # the formatter may have broken the line
    assert f"DROP_{reason.name}" in near, f"{file}:{line}"


def test_every_file_that_refuses_says_its_name() -> None:
    for file in [*BPF.glob("*.c"), *BPF.glob("lib/*.h")]:
        text = file.read_text()
        if "refused(DROP_" in text:
            assert re.search(rf"#define THIS_FILE SOURCE_{file.stem.upper()}$", text, re.MULTILINE), file


@pytest.mark.parametrize(
    ("l3", "source", "destination"), [(V4, POD_V4, PEER_V4), (V6, POD_V6, PEER_V6)], ids=["IPv4", "IPv6"]
)
def test_a_drop_tells_who_what_and_how_much(datapath: Datapath, l3: Packet, source: str, destination: str) -> None:
    datapath.listen().enforce([PolicyEntry(IN)])
    packet = ETHER / l3 / TCP(sport=4242, dport=80, flags="SA") / b"data"

    datapath.send(packet)

    told = only(datapath)
    assert (told.source, told.destination) == (ip_address(source), ip_address(destination))
    assert (told.source_port, told.destination_port, told.protocol) == (4242, 80, 6)
    assert event.tcp_flags(told) == ("SYN", "ACK")
    assert (told.source_identity, told.destination_identity, told.peer_id) == (POD_IDENTITY, PEER_IDENTITY, PEER_ID)
    assert (told.length, told.has_ports) == (len(bytes(packet)), True)
    assert 0 <= time_since(told) < 60


def time_since(told: Event) -> float:
    """Return the seconds since an event by the clock that it has."""
    return time.monotonic() - told.time / 1e9


@pytest.mark.parametrize(
    ("packet", "type_", "code"),
    [(V4 / ICMP(type=3, code=4), 3, 4), (V6 / ICMPv6EchoRequest(id=77, code=0), 128, 0), (V4 / ICMP(id=77), 8, 0)],
    ids=["unreachable", "echo IPv6", "echo IPv4"],
)
def test_of_icmp_it_tells_type_and_code_and_the_identifier(
    datapath: Datapath, packet: Packet, type_: int, code: int
) -> None:
    datapath.listen().enforce([])

    datapath.send(ETHER / packet)

    told = only(datapath)
    assert (told.destination_port, told.flags) == (type_, code)
    assert told.source_port == (0 if type_ == 3 else 77)


def test_a_packet_that_was_not_read_has_no_addresses_and_not_those_of_the_packet_before(datapath: Datapath) -> None:
    datapath.listen().send(ETHER / IP(src=PEER_V4, dst=WORLD_V4) / TCP(sport=1))
    datapath.send(Ether(src=PEER_MAC, dst=HOST_MAC) / V4 / TCP())

    before, told = datapath.events()
    assert before.source is not None
    assert (told.source, told.destination, told.destination_identity, told.peer_id) == (None, None, 0, 0)
    assert event.describe(told).endswith(f": {told.length} bytes")


def test_a_later_fragment_has_no_ports_and_not_those_of_the_packet_before(datapath: Datapath) -> None:
    datapath.listen().enforce([])
    datapath.send(ETHER / V6 / UDP(sport=7, dport=9) / b"12345678")
    datapath.send(ETHER / V6 / IPv6ExtHdrFragment(offset=10, nh=17) / Raw(b"x" * 16))

    _, told = datapath.events()
    assert (told.has_ports, told.source_port, told.destination_port, told.flags) == (False, 0, 0, 0)


def test_a_drop_in_the_destinations_policy_is_the_destinations_with_the_source_as_peer(datapath: Datapath) -> None:
    """In this test both slots have POD's program: it is told of as POD's, with POD as the sender."""
    datapath.listen().enforce([PolicyEntry(OUT)])

    datapath.send(ETHER / V4 / TCP(dport=80))

    told = only(datapath)
    assert (told.direction, told.endpoint_id, told.peer_id) == (IN, POD_ID, POD_ID)
    assert (told.source_identity, told.destination_identity) == (POD_IDENTITY, POD_IDENTITY)


@pytest.mark.parametrize(
    ("source", "came_in_at", "identity", "peer"),
    [(GATEWAY_V4, 0, 1, 0), (WORLD_V4, 5, 2, 0), (PEER_V4, PEER_IFINDEX, PEER_IDENTITY, PEER_ID), (PEER_V4, 5, 2, 0)],
)
def test_a_drop_of_what_the_stack_sends_tells_where_it_came_from(
    datapath: Datapath, source: str, came_in_at: int, identity: int, peer: int
) -> None:
    datapath.listen().enforce([])

    datapath.receive(INBOUND / IP(src=source, dst=POD_V4) / TCP(), came_in_at=came_in_at)

    told = only(datapath)
    assert (told.direction, told.endpoint_id) == (IN, POD_ID)
    assert (told.source_identity, told.peer_id, told.destination_identity) == (identity, peer, POD_IDENTITY)


def test_a_trace_follows_a_packet(talkative: Datapath) -> None:
    talkative.listen(EventType.TRACE)
    ways = []
    for packet in (ETHER / V4 / TCP(), ETHER / V6 / TCP(), ETHER / IPv6(src=POD_V6, dst=WORLD_V6) / TCP()):
        talkative.send(packet)
        ways.append([TracePoint(one.point) for one in talkative.events()])
    talkative.receive(INBOUND / IP(src=WORLD_V4, dst=POD_V4) / TCP())
    ways.append([TracePoint(one.point) for one in talkative.events()])

    to_pod = [TracePoint.FROM_ENDPOINT, TracePoint.TO_ENDPOINT]
    assert ways == [
        to_pod,
        to_pod,
        [TracePoint.FROM_ENDPOINT, TracePoint.TO_STACK],
        [TracePoint.FROM_STACK, TracePoint.TO_ENDPOINT],
    ]


def test_a_trace_ends_where_the_packet_is_dropped(talkative: Datapath) -> None:
    talkative.listen(EventType.TRACE, EventType.DROP).policy.sync([PolicyEntry(OUT)])

    talkative.send(ETHER / V4 / TCP())

    assert [one.type for one in talkative.events()] == [EventType.TRACE, EventType.DROP]


@pytest.mark.parametrize(
    ("rules", "verdicts"),
    [
        (RULES, [(OUT, 0), (IN, 0)]),
        ([PolicyEntry(OUT)], [(OUT, 0), (IN, DropReason.POLICY)]),
        ([PolicyEntry(OUT, deny=True)], [(OUT, DropReason.POLICY_DENY)]),
    ],
    ids=["allowed", "denied by the destination", "denied by the source"],
)
def test_a_verdict_is_told_with_its_reason_and_the_identities(
    talkative: Datapath, rules: list[PolicyEntry], verdicts: list[tuple[Direction, int]]
) -> None:
    talkative.listen(EventType.POLICY_VERDICT).policy.sync(rules)

    talkative.send(ETHER / V4 / TCP(dport=80))

    told = talkative.events()
    assert [(one.direction, one.reason) for one in told] == verdicts
    assert (told[0].source_identity, told[0].destination_identity) == (POD_IDENTITY, PEER_IDENTITY)
    assert {one.destination_port for one in told} == {80}


def test_a_flood_sends_as_much_as_was_granted_and_the_rest_is_counted(datapath: Datapath) -> None:
    credit, packets = 8, 1000
    datapath.listen(credit=credit).policy.sync([])
    libbpf_programs.prog_test_run(datapath.programs["from_container"], bytes(ETHER / V4 / TCP()), repeat=packets)

    assert len(datapath.events()) == credit
    assert datapath.packet.not_sent() == {
        EventType.CONNECTION: 0,
        EventType.DROP: packets - credit,
        EventType.TRACE: 0,
        EventType.POLICY_VERDICT: 0,
    }
    assert datapath.drops() == {"policy": packets}


def test_what_was_granted_is_used_up_and_can_be_granted_again(datapath: Datapath) -> None:
    """The kernel may move us to another CPU in between, so both have had their share when all of it is used up."""
    spoofed = bytes(ETHER / IP(src=PEER_V4, dst=WORLD_V4) / TCP())
    for _ in range(2):
        datapath.listen(credit=3)
        cpus = len(datapath.event_credits.granted()[EventType.DROP])
        for _ in range(100):
            datapath.send(spoofed)
        assert 3 <= len(datapath.events()) <= 3 * cpus
        datapath.send(spoofed)


def test_a_flood_of_one_type_leaves_the_others_their_share(talkative: Datapath) -> None:
    talkative.listen(credit=8)
    flood = bytes(ETHER / IP(src=POD_V4, dst=WORLD_V4) / TCP())  # passes unchanged, so that it can be repeated
    libbpf_programs.prog_test_run(talkative.programs["from_container"], flood, repeat=100)
    assert talkative.packet.not_sent()[EventType.TRACE] > 0
    talkative.events()
    talkative.send(ETHER / IP(src=PEER_V4, dst=WORLD_V4) / TCP())

    assert [(one.type, one.reason) for one in talkative.events() if one.type is EventType.DROP] == [
        (EventType.DROP, DropReason.INVALID_SOURCE_IP)
    ]
    assert talkative.packet.not_sent()[EventType.DROP] == 0


def test_what_finds_the_ring_full_is_counted() -> None:
    size, record = 4096, event.RECORD.size + 8  # the ring's own header of each record
    with Datapath(sizes={**headers.SIZES, "EVENTS_RING_SIZE": size}) as datapath:
        datapath.listen()
        for _ in range(100):
            datapath.send(ETHER / V4 / TCP())

        assert len(datapath.events()) == (size - 1) // record
        assert datapath.packet.not_sent()[EventType.DROP] == 100 - (size - 1) // record


def test_a_line_for_people_has_all_of_it(datapath: Datapath) -> None:
    datapath.listen().enforce([PolicyEntry(OUT)])
    packet = ETHER / V6 / TCP(sport=4242, dport=80, flags="S")

    datapath.send(packet)

    told = only(datapath)
    place = place_text(told.file, told.line)
    assert reason_text(told.reason) == "policy"
    assert Path(place.rpartition(":")[0]) == Path("bpf/lib/policy.h")
    assert event.describe(told) == (
        f"drop (policy) at {place}: endpoint 7 ingress, peer 7, identity 300 -> 300: "
        f"[{POD_V6}]:4242 -> [{PEER_V6}]:80 TCP SYN, new, {len(bytes(packet))} bytes"
    )
