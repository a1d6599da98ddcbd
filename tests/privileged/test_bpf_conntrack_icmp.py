"""Connection tracking in the programs: echoes, errors about packets of a flow, and other ICMP."""

from collections.abc import Iterator

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    IPv6,
)
from scapy.packet import Packet, Raw

from services.loader.model import PolicyEntry
from tests.bpf_support import POD_V4, POD_V6, Datapath
from tests.conntrack_support import (
    EXCHANGES,
    FAMILIES,
    IN,
    OUT,
    ROUTER_V4,
    ROUTER_V6,
    TO_POD,
    TO_WORLD,
    Exchange,
    flow,
    from_router,
    packet,
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
