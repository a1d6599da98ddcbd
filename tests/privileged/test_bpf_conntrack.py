"""Connection tracking in the programs: what is a reply, for how long, and what nobody gets past policy with."""

from collections.abc import Iterator

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, IPv6, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop
from scapy.packet import Packet, Raw

from services.loader import conntrack, libbpf, libbpf_programs, maps, objects
from services.loader.conntrack import ConntrackState
from services.loader.event import EventType
from services.loader.libbpf import MapType
from services.loader.model import PolicyEntry
from services.loader.refusal import place_text
from tests.bpf_support import (
    ALLOW_ALL,
    ETHER,
    OK,
    PEER_V4,
    POD_ID,
    POD_V4,
    POD_V6,
    REDIRECT,
    SIZES,
    WORLD_V4,
    Datapath,
    compiled,
    constants,
)
from tests.conntrack_support import (
    ALL_EXCHANGES,
    FAMILIES,
    FROM_PEER,
    IN,
    INBOUND,
    OUT,
    TO_PEER,
    TO_POD,
    TO_WORLD,
    WORLD,
    Exchange,
    flow,
    from_router,
    packet,
    play,
    received,
    sent,
)

pytestmark = pytest.mark.privileged


@pytest.fixture
def datapath() -> Iterator[Datapath]:
    """A pod that may open flows to anybody, and nobody to it."""
    with Datapath() as datapath:
        datapath.enforce([PolicyEntry(OUT)])
        yield datapath


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


# ── policy over what is open ──


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
