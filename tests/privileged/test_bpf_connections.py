"""What the programs count of connections, and tell of their beginning and end."""

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from services.loader import libbpf, libbpf_programs, maps
from services.loader.conntrack import ConnectionChange, Counts, Flow
from services.loader.event import Event, EventType
from services.loader.model import Direction, PolicyEntry
from tests.bpf_support import (
    ETHER,
    HOST_MAC,
    OK,
    PEER_ID,
    PEER_V4,
    POD_ID,
    POD_MAC,
    POD_V4,
    WORLD_V4,
    Datapath,
    compiled,
)

pytestmark = pytest.mark.privileged

OUT = [PolicyEntry(Direction.EGRESS)]
INBOUND = Ether(src=HOST_MAC, dst=POD_MAC)
UPLINK = 5


def question(flags: str = "S", data: bytes = b"") -> Packet:
    return ETHER / IP(src=POD_V4, dst=WORLD_V4) / TCP(sport=4242, dport=80, flags=flags) / data


def answer(flags: str = "SA", data: bytes = b"") -> Packet:
    return INBOUND / IP(src=WORLD_V4, dst=POD_V4) / TCP(sport=80, dport=4242, flags=flags) / data


def talk(datapath: Datapath, *way: str) -> Counts:
    """Send `>flags` and receive `<flags`, each with a byte more than the one before; return what should be counted."""
    counts = Counts()
    for number, one in enumerate(way):
        packet = (question if one[0] == ">" else answer)(one[1:], b"x" * number)
        size = len(bytes(packet))
        if one[0] == ">":
            assert datapath.send(packet).verdict == OK
            counts = counts.plus(Counts(packets_out=1, bytes_out=size))
        else:
            assert datapath.receive(packet, came_in_at=UPLINK).verdict == OK
            counts = counts.plus(Counts(packets_in=1, bytes_in=size))
    return counts


def flow(datapath: Datapath) -> Flow:
    (found,) = datapath.flows.dump()
    return found


def connections(datapath: Datapath) -> list[Event]:
    return [one for one in datapath.events() if one.type is EventType.CONNECTION]


# ── counting ──


@pytest.mark.parametrize("turned", [(), ("policy-accounting",), ("drop-notify",)], ids=["usual", "asked", "silent"])
def test_each_packet_of_a_connection_counts_once_in_its_direction(turned: tuple[str, ...]) -> None:
    with Datapath(compiled(*turned)) as datapath:
        datapath.enforce(OUT)
        assert flow_counts(datapath) == Counts()

        expected = talk(datapath, ">S", "<SA", ">A", ">PA", "<PA", "<A", ">FA", "<FA", ">A")

        assert flow(datapath).counts == expected


def flow_counts(datapath: Datapath) -> Counts:
    """Return what all entries have counted."""
    total = Counts()
    for one in datapath.flows.dump():
        total = total.plus(one.counts)
    return total


def test_both_ends_on_the_node_count_for_themselves() -> None:
    with Datapath() as datapath:
        datapath.allow_all()
        packet = ETHER / IP(src=POD_V4, dst=PEER_V4) / UDP(sport=1, dport=2) / b"hello"
        size = len(bytes(packet))
        for _ in range(3):
            datapath.send(packet)

        # One program stands for both ends here: it counts as the sender's, and as the receiver's.
        assert {one.direction: one.counts for one in datapath.flows.dump()} == {
            Direction.EGRESS: Counts(0, 0, 3, 3 * size),
            Direction.INGRESS: Counts(3, 3 * size, 0, 0),
        }


def test_what_a_new_policy_cuts_is_not_counted_and_what_it_allows_again_is() -> None:
    with Datapath() as datapath:
        datapath.enforce(OUT)
        before = talk(datapath, ">S", "<SA", ">A")
        datapath.enforce([])
        assert datapath.send(question("PA", b"cut")).verdict != OK
        datapath.enforce(OUT)

        after = talk(datapath, ">A")

        assert flow(datapath).counts == before.plus(after)


def test_a_connection_with_the_ends_of_a_dead_one_goes_on_counting() -> None:
    """Whoever sums up after that loses nothing of the dead one."""
    with Datapath() as datapath:
        datapath.enforce(OUT)
        first = talk(datapath, ">S", "<SA", ">R")
        datapath.age(11)
        second = talk(datapath, ">S", "<SA")
        assert flow(datapath).counts == first.plus(second)

        third = talk(datapath, "<R", ">S")  # of one that is only closing, too

        assert flow(datapath).counts == first.plus(second).plus(third)


def test_without_flow_accounting_nothing_is_counted() -> None:
    with Datapath(compiled("flow-accounting")) as datapath:
        datapath.enforce(OUT)
        talk(datapath, ">S", "<SA", ">A")

        assert flow(datapath).counts == Counts()


def test_many_packets_are_none_lost() -> None:
    with Datapath() as datapath:
        datapath.enforce(OUT)
        packet = ETHER / IP(src=POD_V4, dst=WORLD_V4) / UDP(sport=1, dport=2)  # passes unchanged: it can be repeated
        libbpf_programs.prog_test_run(datapath.programs["from_container"], bytes(packet), repeat=1000)

        assert flow(datapath).counts == Counts(0, 0, 1000, 1000 * len(bytes(packet)))


def test_an_entry_says_when_it_was_opened_and_when_its_last_packet_came() -> None:
    with Datapath() as datapath:
        datapath.enforce(OUT)
        talk(datapath, ">S", "<SA", ">A")
        young = flow(datapath)
        datapath.age(100)
        old = flow(datapath)

    assert -2 <= young.last - young.opened <= 2
    assert round(old.last - young.last) == -100  # its end is what was moved


# ── telling ──


def test_an_opened_and_a_closed_connection_are_told_of_once_each() -> None:
    with Datapath(compiled("connection-events")) as datapath:
        datapath.listen().enforce(OUT)
        talk(datapath, ">S", "<SA", ">A", ">PA", "<A")
        (opened,) = connections(datapath)

        talk(datapath, ">FA", "<A")
        assert connections(datapath) == []
        talk(datapath, "<FA")
        (closed,) = connections(datapath)
        talk(datapath, ">A", "<A")

        assert connections(datapath) == []
        counted = flow(datapath).counts
    assert (ConnectionChange(opened.point), ConnectionChange(closed.point)) == (
        ConnectionChange.OPENED,
        ConnectionChange.CLOSED,
    )
    assert (opened.endpoint_id, opened.direction, opened.destination_port) == (POD_ID, Direction.EGRESS, 80)
    assert opened.flow is not None
    assert opened.flow.counts == Counts(0, 0, 1, len(bytes(question())))
    assert closed.flow is not None
    assert (str(closed.flow.local), closed.flow.local_port, str(closed.flow.remote), closed.flow.remote_port) == (
        POD_V4,
        4242,
        WORLD_V4,
        80,
    )
    # Two packets have come since.
    assert (closed.flow.counts.packets, counted.packets) == (8, 10)
    assert closed.direction is Direction.INGRESS  # of the packet that did it


@pytest.mark.parametrize("reset", [">R", "<R"])
def test_a_reset_closes(reset: str) -> None:
    with Datapath(compiled("connection-events")) as datapath:
        datapath.listen().enforce(OUT)
        talk(datapath, ">S", "<SA", reset)

        changes = [ConnectionChange(one.point) for one in connections(datapath)]

    assert changes == [ConnectionChange.OPENED, ConnectionChange.CLOSED]


def test_each_end_on_the_node_tells_of_its_own() -> None:
    with Datapath(compiled("connection-events")) as datapath:
        datapath.listen().allow_all()
        datapath.send(ETHER / IP(src=POD_V4, dst=PEER_V4) / UDP(sport=1, dport=2))
        datapath.send(ETHER / IP(src=POD_V4, dst=PEER_V4) / UDP(sport=1, dport=2))

        told = connections(datapath)

    assert [(one.direction, one.peer_id) for one in told] == [
        (Direction.EGRESS, PEER_ID),
        (Direction.INGRESS, POD_ID),
    ]


def test_nobody_hears_of_what_is_denied_or_where_it_is_off() -> None:
    with Datapath(compiled("connection-events")) as datapath:
        datapath.listen().enforce([])
        datapath.send(question())
        assert connections(datapath) == []
    with Datapath() as datapath:
        datapath.listen().enforce(OUT)
        talk(datapath, ">S", "<SA", ">R")
        assert connections(datapath) == []


def test_a_sweep_finds_the_ends_that_no_packet_has_told_of() -> None:
    with Datapath(compiled("connection-events")) as datapath:
        datapath.listen().enforce(OUT)
        closed = talk(datapath, ">S", "<SA", ">R")
        packet = ETHER / IP(src=POD_V4, dst=WORLD_V4) / UDP(sport=1, dport=2)
        datapath.send(packet)
        datapath.age(61)

        swept = datapath.flows.sweep()
        rows = {key.protocol: row for key, row in swept.counts}

        assert [(one.protocol, one.local_port) for one in swept.ended] == [(17, 1)]
        assert (rows[6].counts, rows[17].counts) == (closed, Counts(0, 0, 1, len(bytes(packet))))
        assert libbpf.map_info(datapath.fds[maps.CONNTRACK]).value_size == 56
        assert datapath.entries() == []
