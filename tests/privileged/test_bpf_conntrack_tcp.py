"""Connection tracking in the programs: a TCP connection from its first packet to its last."""

from collections.abc import Iterator

import pytest
from scapy.layers.inet import UDP

from services.loader.conntrack import FlowState
from services.loader.model import PolicyEntry
from tests.bpf_support import ALLOW_ALL, Datapath
from tests.conntrack_support import (
    ACK,
    DATA,
    IN,
    OUT,
    RST,
    SYN,
    SYN_ACK,
    TO_POD,
    TO_WORLD,
    flow,
    play,
    received,
    sent,
    tcp_in,
    tcp_out,
)

pytestmark = pytest.mark.privileged


@pytest.fixture
def datapath() -> Iterator[Datapath]:
    """A pod that may open flows to anybody, and nobody to it."""
    with Datapath() as datapath:
        datapath.enforce([PolicyEntry(OUT)])
        yield datapath


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


def test_a_tightened_policy_cuts_a_flow_with_its_next_packet_and_its_replies_with_it(datapath: Datapath) -> None:
    play(datapath, ">S <SA >A")
    datapath.enforce([PolicyEntry(OUT, 0, 6, 443, 16)])
    assert tcp_in(datapath, DATA)  # nothing of the opener has been asked about yet

    assert not tcp_out(datapath, ACK)

    assert not tcp_in(datapath, DATA)
    assert datapath.flows.dump() == []
