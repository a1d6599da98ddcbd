"""Connection tracking in the programs: what is a reply, for how long, and what nobody gets past policy with."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
)
from scapy.layers.l2 import Ether
from scapy.layers.sctp import SCTP
from scapy.packet import Packet, Raw

from services.loader import conntrack, libbpf, libbpf_programs, maps, objects
from services.loader.conntrack import ConntrackState, Flow, FlowState
from services.loader.event import EventType
from services.loader.libbpf import MapType
from services.loader.model import Direction, PolicyEntry
from services.loader.refusal import place_text
from tests.bpf_support import (
    ALLOW_ALL,
    ETHER,
    HOST_MAC,
    OK,
    PEER_V4,
    PEER_V6,
    POD_ID,
    POD_MAC,
    POD_V4,
    POD_V6,
    REDIRECT,
    SIZES,
    WORLD_V4,
    WORLD_V6,
    Datapath,
    compiled,
    constants,
)

pytestmark = pytest.mark.privileged

IN, OUT = Direction.INGRESS, Direction.EGRESS
INBOUND = Ether(src=HOST_MAC, dst=POD_MAC)
UPLINK = 5  # where packets of the world came in
WORLD = 2

ROUTER_V4, ROUTER_V6 = "198.51.100.9", "2001:db8:9::1"
TO_WORLD = {4: IP(src=POD_V4, dst=WORLD_V4), 6: IPv6(src=POD_V6, dst=WORLD_V6)}
TO_POD = {4: IP(src=WORLD_V4, dst=POD_V4), 6: IPv6(src=WORLD_V6, dst=POD_V6)}
TO_PEER = {4: IP(src=POD_V4, dst=PEER_V4), 6: IPv6(src=POD_V6, dst=PEER_V6)}
FROM_PEER = {4: IP(src=PEER_V4, dst=POD_V4), 6: IPv6(src=PEER_V6, dst=POD_V6)}
FAMILIES = pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])


@dataclass(frozen=True)
class Exchange:
    """The transport part of a question and of its answer."""

    name: str
    question: dict[int, Packet]
    answer: dict[int, Packet]


def both(question: Packet, answer: Packet) -> tuple[dict[int, Packet], dict[int, Packet]]:
    return {4: question, 6: question}, {4: answer, 6: answer}


EXCHANGES = [
    Exchange("TCP", *both(TCP(sport=4242, dport=80, flags="S"), TCP(sport=80, dport=4242, flags="SA"))),
    Exchange("UDP", *both(UDP(sport=4242, dport=53) / b"question", UDP(sport=53, dport=4242) / b"answer")),
    Exchange("UDP, short", *both(UDP(sport=4242, dport=53), UDP(sport=53, dport=4242))),
    Exchange("SCTP", *both(SCTP(sport=4242, dport=36412) / b"init", SCTP(sport=36412, dport=4242) / b"ack ")),
    Exchange(
        "echo",
        {4: ICMP(type=8, id=77) / b"ping", 6: ICMPv6EchoRequest(id=77, data="ping")},
        {4: ICMP(type=0, id=77) / b"ping", 6: ICMPv6EchoReply(id=77, data="ping")},
    ),
    Exchange(
        "echo of nothing",
        {4: ICMP(type=8, id=77), 6: ICMPv6EchoRequest(id=77)},
        {4: ICMP(type=0, id=77), 6: ICMPv6EchoReply(id=77)},
    ),
    Exchange("protocol 50", *both(Raw(b"\0\0\1\1" + b"esp-" * 3), Raw(b"\0\0\2\2" + b"esp-" * 3))),
]
ALL_EXCHANGES = pytest.mark.parametrize("exchange", EXCHANGES, ids=lambda exchange: exchange.name)


def packet(l3: Packet, l4: Packet) -> Packet:
    """Return the two together, with protocol 50 for what scapy has no layer for."""
    if isinstance(l4, Raw):
        l3 = l3.copy()
        l3.setfieldval("nh" if isinstance(l3, IPv6) else "proto", 50)
    return l3 / l4


@pytest.fixture
def datapath() -> Iterator[Datapath]:
    """A pod that may open flows to anybody, and nobody to it."""
    with Datapath() as datapath:
        datapath.enforce([PolicyEntry(OUT)])
        yield datapath


def sent(datapath: Datapath, what: Packet) -> bool:
    """Return whether what the pod sends passes."""
    return datapath.send(ETHER / what).verdict in {OK, REDIRECT}


def received(datapath: Datapath, what: Packet) -> bool:
    """Return whether what the world sends reaches the pod."""
    return datapath.receive(INBOUND / what, came_in_at=UPLINK).verdict == OK


def flow(datapath: Datapath) -> Flow:
    """Return the one flow that is live."""
    (found,) = datapath.flows.dump()
    return found


# ── replies ──


@FAMILIES
@ALL_EXCHANGES
def test_an_answer_passes_where_nobody_may_open_a_flow(datapath: Datapath, exchange: Exchange, family: int) -> None:
    question, answer = exchange.question[family], exchange.answer[family]
    assert not received(datapath, packet(TO_POD[family], answer))

    assert sent(datapath, packet(TO_WORLD[family], question))

    assert received(datapath, packet(TO_POD[family], answer))
    assert (flow(datapath).direction, flow(datapath).peer_identity) == (OUT, WORLD)


@FAMILIES
@ALL_EXCHANGES
def test_a_pod_that_may_open_nothing_answers_whoever_may_ask(
    datapath: Datapath, exchange: Exchange, family: int
) -> None:
    datapath.enforce([PolicyEntry(IN)])
    question, answer = exchange.question[family], exchange.answer[family]
    assert not sent(datapath, packet(TO_WORLD[family], answer))

    assert received(datapath, packet(TO_POD[family], question))

    assert sent(datapath, packet(TO_WORLD[family], answer))
    assert (flow(datapath).direction, flow(datapath).endpoint_id) == (IN, POD_ID)


@FAMILIES
def test_only_the_answer_is_one(datapath: Datapath, family: int) -> None:
    """Another port, another host, another protocol, the other family's tuple: none of them was asked."""
    assert sent(datapath, TO_WORLD[family] / UDP(sport=4242, dport=53))
    stranger = IP(src="192.0.2.2", dst=POD_V4) if family == 4 else IPv6(src="2001:db8::2", dst=POD_V6)

    for other in (
        TO_POD[family] / UDP(sport=53, dport=4243),
        TO_POD[family] / UDP(sport=54, dport=4242),
        TO_POD[family] / TCP(sport=53, dport=4242, flags="A"),
        stranger / UDP(sport=53, dport=4242),
        TO_POD[10 - family] / UDP(sport=53, dport=4242),
    ):
        assert not received(datapath, other)
    assert received(datapath, TO_POD[family] / UDP(sport=53, dport=4242))


def test_two_pods_of_one_node_have_a_flow_each(datapath: Datapath) -> None:
    """Both programs are POD's in this test, so both entries have its id; their ends are the other way round."""
    datapath.enforce(ALLOW_ALL)

    assert sent(datapath, IP(src=POD_V4, dst=PEER_V4) / TCP(sport=4242, dport=80))

    ends = {(one.direction, str(one.local), one.local_port, str(one.remote)) for one in datapath.flows.dump()}
    assert ends == {(OUT, POD_V4, 4242, PEER_V4), (IN, PEER_V4, 80, POD_V4)}


@FAMILIES
@ALL_EXCHANGES
def test_an_answer_goes_by_the_stack_if_the_question_came_from_it(
    datapath: Datapath, exchange: Exchange, family: int
) -> None:
    """Only the stack can translate it back; what the pod asks itself goes past the stack, as ever."""
    datapath.allow_all()
    question, answer = exchange.question[family], exchange.answer[family]
    assert datapath.send(ETHER / packet(TO_PEER[family], question)).verdict == REDIRECT
    datapath.age(10_000)

    assert received(datapath, packet(FROM_PEER[family], question))

    assert datapath.send(ETHER / packet(TO_PEER[family], answer)).verdict == OK


@FAMILIES
def test_an_error_about_what_the_stack_brought_goes_by_the_stack(datapath: Datapath, family: int) -> None:
    datapath.allow_all()
    asked = FROM_PEER[family] / UDP(sport=4242, dport=53) / b"question"
    error = {4: ICMP(type=3, code=3), 6: ICMPv6DestUnreach(code=4)}[family]
    report = ETHER / TO_PEER[family] / error / Raw(bytes(asked))
    assert datapath.send(report).verdict == REDIRECT

    assert received(datapath, asked)

    assert datapath.send(report).verdict == OK


def test_a_flow_of_one_endpoint_is_not_anothers(datapath: Datapath) -> None:
    """An endpoint with the same address under another id, as after a reuse, starts with no flows."""
    assert sent(datapath, TO_WORLD[4] / UDP(sport=4242, dport=53))
    answer = bytes(INBOUND / TO_POD[4] / UDP(sport=53, dport=4242))

    with objects.load(compiled(), constants(endpoint_id=9), datapath.fds) as other:
        datapath.call_policy.set(9, other["policy"])
        mine = libbpf_programs.prog_test_run(datapath.programs["to_container"], answer).retval
        theirs = libbpf_programs.prog_test_run(other["to_container"], answer).retval

    assert (mine == OK, theirs == OK) == (True, False)


def test_what_policy_denies_leaves_no_flow(datapath: Datapath) -> None:
    datapath.enforce([])
    for family in (4, 6):
        assert not sent(datapath, TO_WORLD[family] / TCP(flags="S"))
        assert not received(datapath, TO_POD[family] / UDP())

    assert datapath.flows.dump() == []


def test_without_the_switch_every_packet_is_asked_about() -> None:
    with Datapath(compiled("conntrack")) as datapath:
        datapath.enforce([PolicyEntry(OUT)])

        assert sent(datapath, TO_WORLD[4] / UDP(sport=4242, dport=53))
        assert not received(datapath, TO_POD[4] / UDP(sport=53, dport=4242))


# ── TCP's life ──

SYN, SYN_ACK, ACK, DATA, FIN, RST = "S", "SA", "A", "PA", "FA", "R"


def tcp_out(datapath: Datapath, flags: str) -> bool:
    return sent(datapath, TO_WORLD[4] / TCP(sport=4242, dport=80, flags=flags))


def tcp_in(datapath: Datapath, flags: str) -> bool:
    return received(datapath, TO_POD[4] / TCP(sport=80, dport=4242, flags=flags))


def play(datapath: Datapath, script: str) -> None:
    """Play `>S <SA >A`: each must pass."""
    for step in script.split():
        passes = tcp_out if step[0] == ">" else tcp_in
        assert passes(datapath, step[1:]), step


@pytest.mark.parametrize(
    ("script", "state", "lifetime"),
    [
        (">S", FlowState.OPENING, 60),
        (">S >S", FlowState.OPENING, 60),
        (">S <SA", FlowState.OPENING, 60),
        (">S >A >PA", FlowState.OPENING, 60),  # nobody answers
        (">S <SA >A", FlowState.ESTABLISHED, 8000),
        (">S <SA >A <PA >A", FlowState.ESTABLISHED, 8000),
        (">PA <A", FlowState.ESTABLISHED, 8000),  # met in the middle
        (">S <SA >A >FA", FlowState.ESTABLISHED, 8000),
        (">S <SA >A >FA <A <PA", FlowState.ESTABLISHED, 8000),  # half closed, data the other way
        (">S <SA >A >FA <FA", FlowState.CLOSING, 10),
        (">S <SA >A <FA >FA <A", FlowState.CLOSING, 10),
        (">S <RA", FlowState.CLOSING, 10),
        (">S <SA >A >R", FlowState.CLOSING, 10),
        (">FA <FA", FlowState.CLOSING, 10),
        (">A <SA", FlowState.ESTABLISHED, 8000),
        (">S <SA >A <R >PA", FlowState.CLOSING, 10),
    ],
)
def test_a_connection_lives_as_long_as_its_state_says(
    datapath: Datapath, script: str, state: FlowState, lifetime: int
) -> None:
    play(datapath, script)

    assert (flow(datapath).state, round(flow(datapath).expires_in)) == (state, lifetime)


@pytest.mark.parametrize(
    ("script", "state"),
    [(">S <SA >A", FlowState.ESTABLISHED), (">S", FlowState.OPENING), (">S <SA >A <R", FlowState.CLOSING)],
)
def test_a_connection_that_expired_is_dead_and_its_answers_with_it(
    datapath: Datapath, script: str, state: FlowState
) -> None:
    play(datapath, script)
    lifetime = {FlowState.ESTABLISHED: 8000, FlowState.OPENING: 60, FlowState.CLOSING: 10}[state]
    datapath.age(lifetime - 2)
    assert tcp_in(datapath, SYN_ACK)
    assert flow(datapath).state is state

    datapath.age(lifetime + 1)

    assert datapath.flows.dump() == []
    assert not tcp_in(datapath, ACK)
    assert tcp_out(datapath, SYN)
    assert tcp_in(datapath, SYN_ACK)


def test_each_packet_puts_the_end_off_but_not_more_than_once_a_second(datapath: Datapath) -> None:
    assert sent(datapath, TO_WORLD[4] / UDP(sport=4242, dport=53))
    datapath.age(30)
    assert received(datapath, TO_POD[4] / UDP(sport=53, dport=4242))
    assert round(flow(datapath).expires_in) == 60

    datapath.age(0.5)
    before = datapath.uncounted()
    assert received(datapath, TO_POD[4] / UDP(sport=53, dport=4242))

    assert datapath.uncounted() == before


def test_a_syn_against_the_flow_asks_policy(datapath: Datapath) -> None:
    """The peer of a connection that the pod opened can't open one back through it; the flow is left alone."""
    play(datapath, ">S <SA >A")

    assert not tcp_in(datapath, SYN)

    play(datapath, "<PA >A")


def test_a_syn_against_the_flow_that_policy_allows_turns_it_around(datapath: Datapath) -> None:
    datapath.enforce(ALLOW_ALL)
    play(datapath, ">S <SA >A >FA <FA")

    play(datapath, "<S")

    assert (flow(datapath).direction, flow(datapath).state) == (IN, FlowState.OPENING)


def test_a_syn_on_a_closing_flow_opens_a_new_one(datapath: Datapath) -> None:
    play(datapath, ">S <SA >A >FA <FA >S")
    assert (flow(datapath).state, round(flow(datapath).expires_in)) == (FlowState.OPENING, 60)

    play(datapath, "<SA >A")

    assert flow(datapath).state is FlowState.ESTABLISHED


def test_a_reset_opens_nothing(datapath: Datapath) -> None:
    assert tcp_out(datapath, RST)

    assert datapath.flows.dump() == []


# ── policy over what is open ──


def test_a_tightened_policy_cuts_a_flow_with_its_next_packet_and_its_replies_with_it(datapath: Datapath) -> None:
    play(datapath, ">S <SA >A")
    datapath.enforce([PolicyEntry(OUT, 0, 6, 443, 16)])
    assert tcp_in(datapath, DATA)  # nothing of the opener has been asked about yet

    assert not tcp_out(datapath, ACK)

    assert not tcp_in(datapath, DATA)
    assert datapath.flows.dump() == []


def test_a_policy_that_still_allows_it_leaves_a_flow_alone(datapath: Datapath) -> None:
    play(datapath, ">S <SA >A")
    datapath.enforce([PolicyEntry(OUT, WORLD, 6, 80, 16), PolicyEntry(OUT, 0, 17)])

    play(datapath, ">PA <A")


def test_a_datagram_flow_that_is_forbidden_is_cut_too(datapath: Datapath) -> None:
    question, answer = TO_WORLD[6] / UDP(sport=4242, dport=53), TO_POD[6] / UDP(sport=53, dport=4242)
    assert sent(datapath, question)
    datapath.enforce([PolicyEntry(OUT, 0, 17, deny=True), PolicyEntry(OUT)])

    assert not sent(datapath, question)
    assert not received(datapath, answer)


# ── ICMP ──


@FAMILIES
def test_an_echo_of_the_peer_with_our_identifier_is_no_answer(datapath: Datapath, family: int) -> None:
    ours = {4: ICMP(type=8, id=77), 6: ICMPv6EchoRequest(id=77)}[family]
    assert sent(datapath, TO_WORLD[family] / ours)

    assert not received(datapath, TO_POD[family] / ours)


@FAMILIES
def test_an_echo_reply_that_nobody_asked_for_opens_nothing(datapath: Datapath, family: int) -> None:
    """It would make the pod's peer's echo requests replies."""
    reply = {4: ICMP(type=0, id=77), 6: ICMPv6EchoReply(id=77)}[family]
    assert sent(datapath, TO_WORLD[family] / reply)

    assert datapath.flows.dump() == []
    assert not received(datapath, TO_POD[family] / {4: ICMP(type=8, id=77), 6: ICMPv6EchoRequest(id=77)}[family])


@FAMILIES
def test_other_icmp_is_not_tracked(datapath: Datapath, family: int) -> None:
    other = {4: ICMP(type=13), 6: ICMPv6EchoRequest(type=200)}[family]
    assert sent(datapath, TO_WORLD[family] / other)

    assert datapath.flows.dump() == []


ERRORS = [
    (4, ICMP(type=3, code=1)),
    (4, ICMP(type=3, code=4, nexthopmtu=1400)),
    (4, ICMP(type=11)),
    (4, ICMP(type=12)),
    (6, ICMPv6DestUnreach()),
    (6, ICMPv6PacketTooBig(mtu=1400)),
    (6, ICMPv6TimeExceeded()),
    (6, ICMPv6ParamProblem()),
]
ALL_ERRORS = pytest.mark.parametrize(("family", "error"), ERRORS, ids=lambda value: repr(value)[:30])
QUOTED = [exchange for exchange in EXCHANGES if exchange.name in {"TCP", "UDP", "echo", "protocol 50"}]


def from_router(family: int, error: Packet, quoted: Packet) -> Packet:
    """Return a router's error about a packet of the pod, which it quotes as far as it must."""
    l3 = IP(src=ROUTER_V4, dst=POD_V4) if family == 4 else IPv6(src=ROUTER_V6, dst=POD_V6)
    return l3 / error / Raw(bytes(quoted)[: 28 if family == 4 else 48])


@ALL_ERRORS
@pytest.mark.parametrize("exchange", QUOTED, ids=lambda exchange: exchange.name)
def test_an_error_about_a_packet_of_a_live_flow_passes(
    datapath: Datapath, exchange: Exchange, family: int, error: Packet
) -> None:
    quoted = packet(TO_WORLD[family], exchange.question[family])
    assert not received(datapath, from_router(family, error, quoted))
    assert sent(datapath, quoted)
    datapath.age(30)
    before = flow(datapath)

    assert received(datapath, from_router(family, error, quoted))

    after = flow(datapath)
    assert (after.state, after.expires_in < 31) == (before.state, True)  # an error keeps nothing alive


@ALL_ERRORS
def test_a_pod_that_may_send_nothing_reports_errors_of_what_it_receives(
    datapath: Datapath, family: int, error: Packet
) -> None:
    datapath.enforce([PolicyEntry(IN)])
    asked = TO_POD[family] / UDP(sport=53, dport=4242) / b"question"
    report = TO_WORLD[family] / error / Raw(bytes(asked))
    assert not sent(datapath, report)

    assert received(datapath, asked)

    assert sent(datapath, report)


@FAMILIES
def test_an_error_goes_to_whom_it_quotes_or_policy_is_asked(datapath: Datapath, family: int) -> None:
    """A pod that knows of a live flow must not send to everybody else by quoting it."""
    datapath.enforce([PolicyEntry(IN)])
    error = {4: ICMP(type=3, code=3), 6: ICMPv6DestUnreach()}[family]
    asked = TO_POD[family] / UDP(sport=53, dport=4242)
    assert received(datapath, asked)
    elsewhere = IP(src=POD_V4, dst="192.0.2.99") if family == 4 else IPv6(src=POD_V6, dst="2001:db8::99")

    assert not sent(datapath, elsewhere / error / Raw(bytes(asked)))
    assert sent(datapath, TO_WORLD[family] / error / Raw(bytes(asked)))


@FAMILIES
def test_an_error_that_quotes_nothing_of_ours_is_asked_about(datapath: Datapath, family: int) -> None:
    error = {4: ICMP(type=3, code=3), 6: ICMPv6DestUnreach()}[family]
    ours = TO_WORLD[family] / UDP(sport=4242, dport=53)
    assert sent(datapath, ours)
    echo = {4: ICMP(type=8, id=77), 6: ICMPv6EchoRequest(id=77)}[family]
    assert sent(datapath, TO_WORLD[family] / echo)
    whole = bytes(ours)

    for what, quoted in {
        "another port": bytes(TO_WORLD[family] / UDP(sport=4243, dport=53)),
        "the other way round": bytes(TO_POD[family] / UDP(sport=53, dport=4242)),
        "no transport header": whole[:-4],
        "half an IP header": whole[:12],
        "nothing": b"",
        "an error": bytes(TO_WORLD[family] / error),
        "another version": bytes([whole[0] ^ 0x10]) + whole[1:],
        "a header of one word": bytes([whole[0] & 0xF0 | 1 if family == 4 else 0x50]) + whole[1:],
        "a reply that was not asked for": bytes(
            TO_WORLD[family] / {4: ICMP(type=0, id=77), 6: ICMPv6EchoReply(id=77)}[family]
        ),
    }.items():
        l3 = IP(src=ROUTER_V4, dst=POD_V4) if family == 4 else IPv6(src=ROUTER_V6, dst=POD_V6)
        assert not received(datapath, l3 / error / Raw(quoted)), what
    assert received(datapath, from_router(family, error, ours))


@FAMILIES
def test_a_quoted_error_is_not_taken_for_an_echo_with_the_identifier_0(datapath: Datapath, family: int) -> None:
    error = {4: ICMP(type=3, code=3), 6: ICMPv6DestUnreach()}[family]
    echo = {4: ICMP(type=8, id=0), 6: ICMPv6EchoRequest(id=0)}[family]
    assert sent(datapath, TO_WORLD[family] / echo)

    assert not received(datapath, from_router(family, error, TO_WORLD[family] / error / b"quote"))
    assert received(datapath, from_router(family, error, TO_WORLD[family] / echo))


def test_an_error_about_a_flow_that_expired_is_asked_about(datapath: Datapath) -> None:
    ours = TO_WORLD[4] / UDP(sport=4242, dport=53)
    assert sent(datapath, ours)
    datapath.age(61)

    assert not received(datapath, from_router(4, ICMP(type=3, code=3), ours))


def test_a_quote_of_a_later_fragment_names_no_flow(datapath: Datapath) -> None:
    ours = TO_WORLD[4] / UDP(sport=4242, dport=53)
    assert sent(datapath, ours)
    later = IP(bytes(ours))
    later.frag = 5

    assert not received(datapath, from_router(4, ICMP(type=3, code=3), later))


def test_a_redirect_is_no_error(datapath: Datapath) -> None:
    """Where packets go is the node's to say, not a router's that saw one."""
    ours = TO_WORLD[4] / UDP(sport=4242, dport=53)
    assert sent(datapath, ours)

    assert not received(datapath, from_router(4, ICMP(type=5), ours))


# ── fragments, options, room, accounts, events ──


@FAMILIES
def test_the_first_fragment_opens_the_flow_and_later_ones_go_by_entries_without_ports(
    datapath: Datapath, family: int
) -> None:
    datapath.enforce([PolicyEntry(OUT, 0, 17, 53, 16)])
    first: Packet
    later: Packet
    if family == 4:
        first = IP(src=POD_V4, dst=WORLD_V4, flags="MF") / UDP(sport=4242, dport=53) / b"12345678"
        later = IP(src=POD_V4, dst=WORLD_V4, frag=2, proto=17) / Raw(b"12345678")
    else:
        first = TO_WORLD[6] / IPv6ExtHdrFragment(m=1) / UDP(sport=4242, dport=53) / b"12345678"
        later = TO_WORLD[6] / IPv6ExtHdrFragment(offset=2, nh=17) / Raw(b"12345678")

    assert [sent(datapath, first), sent(datapath, later)] == [True, False]
    assert received(datapath, TO_POD[family] / UDP(sport=53, dport=4242))
    assert datapath.drops() == {"ports missing": 1}

    datapath.enforce([PolicyEntry(OUT, 0, 17)])
    assert sent(datapath, later)
    assert len(datapath.flows.dump()) == 1


@FAMILIES
@pytest.mark.parametrize("length", range(8, 20))
def test_a_segment_without_its_flags_is_no_reply(datapath: Datapath, family: int, length: int) -> None:
    """The rest would come in the next fragment, and with it perhaps a SYN; 16 bytes are looked at in one go."""
    question, answer = TCP(sport=80, dport=4242, flags="S"), TCP(sport=4242, dport=80, flags="S")
    assert sent(datapath, TO_WORLD[family] / question)
    whole = IP(src=WORLD_V4, dst=POD_V4, flags="MF") if family == 4 else TO_POD[6] / IPv6ExtHdrFragment(m=1)

    assert not received(datapath, (whole / answer).__class__(bytes(whole / answer)[: len(whole) + length]))


def test_extension_headers_hide_no_flow(datapath: Datapath) -> None:
    assert sent(datapath, TO_WORLD[6] / IPv6ExtHdrHopByHop() / UDP(sport=4242, dport=53))

    assert received(datapath, TO_POD[6] / UDP(sport=53, dport=4242))


def test_more_flows_than_there_is_room_for_push_out_old_ones_and_are_never_refused() -> None:
    room = 512
    with Datapath(sizes={**SIZES, "CONNTRACK_MAP_SIZE": room}) as datapath:
        datapath.enforce([PolicyEntry(OUT)])
        for port in range(1, 4 * room):
            assert sent(datapath, TO_WORLD[4] / UDP(sport=port, dport=53))
            assert received(datapath, TO_POD[4] / UDP(sport=53, dport=port))

        assert len(datapath.flows.dump()) <= room


def test_a_flow_that_finds_no_room_at_all_is_dropped_by_name() -> None:
    """The kernel makes room in the map that it is; here it is one that can't."""
    with (
        Datapath() as datapath,
        libbpf.map_create(MapType.HASH, "tiny", conntrack.KEY.size, conntrack.VALUE.size, 1) as tiny,
        objects.load(compiled(), constants(), {**datapath.fds, maps.CONNTRACK: tiny}) as cramped,
    ):
        datapath.listen().enforce([PolicyEntry(OUT)])
        packets = [bytes(ETHER / TO_WORLD[4] / UDP(sport=port)) for port in (1, 2)]
        verdicts = [libbpf_programs.prog_test_run(cramped["from_container"], one).retval for one in packets]
        (told,) = datapath.events()

        assert (verdicts[0], datapath.drops()) == (OK, {"conntrack full": 1})
        assert place_text(told.file, told.line).startswith("bpf/lib/conntrack.h:")


def test_events_say_what_a_packet_is_to_its_flow() -> None:
    question, answer = TO_WORLD[4] / UDP(sport=4242, dport=53), TO_POD[4] / UDP(sport=53, dport=4242)
    with Datapath(compiled("trace")) as datapath:
        datapath.enforce([PolicyEntry(OUT)])
        datapath.listen(EventType.TRACE)
        states = []
        for passes, what in (
            (sent, question),
            (sent, question),
            (received, answer),
            (received, from_router(4, ICMP(type=3, code=3), question)),
        ):
            assert passes(datapath, what)
            states.append(datapath.events()[-1].conntrack)

    assert states == [
        ConntrackState.NEW,
        ConntrackState.ESTABLISHED,
        ConntrackState.REPLY,
        ConntrackState.RELATED,
    ]


def test_verdicts_are_told_when_a_flow_is_opened_or_denied_and_not_for_each_packet() -> None:
    question, answer = TO_WORLD[4] / UDP(sport=4242, dport=53), TO_POD[4] / UDP(sport=53, dport=4242)
    with Datapath(compiled("policy-verdict")) as datapath:
        datapath.enforce([PolicyEntry(OUT)])
        datapath.listen(EventType.POLICY_VERDICT)
        for _ in range(3):
            assert sent(datapath, question)
            assert received(datapath, answer)
        opened = datapath.events()
        datapath.enforce([])
        assert not sent(datapath, question)
        denied = datapath.events()

    assert [(one.reason, one.conntrack) for one in opened] == [(0, ConntrackState.NEW)]
    assert [(one.reason != 0, one.conntrack) for one in denied] == [(True, ConntrackState.ESTABLISHED)]
