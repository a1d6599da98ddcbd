"""Policy's revision in the programs: an open flow is asked about again after a change of policy or of its peer."""

from collections.abc import Iterator

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from services.loader import layout, libbpf, maps
from services.loader.model import Direction, PolicyEntry
from tests.bpf_support import (
    ALLOW_ALL,
    ETHER,
    HOST_MAC,
    OK,
    PEER_IDENTITY,
    PEER_IFINDEX,
    PEER_V4,
    PEER_V6,
    POD_MAC,
    POD_V4,
    POD_V6,
    REDIRECT,
    WORLD_V4,
    WORLD_V6,
    Datapath,
    compiled,
    peer,
)

pytestmark = pytest.mark.privileged

IN, OUT = Direction.INGRESS, Direction.EGRESS
BOTH_WAYS = pytest.mark.parametrize("opener", Direction, ids=lambda direction: direction.name.lower())
FAMILIES = pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])


@pytest.fixture
def datapath() -> Iterator[Datapath]:
    """PEER's packets come through the stack, in at its interface: one program decides over each direction."""
    with Datapath() as datapath:
        for address in (PEER_V4, PEER_V6):
            datapath.endpoints.put(peer(address, endpoint_id=0))
        yield datapath


def goes(datapath: Datapath, direction: Direction, family: int, l4: Packet) -> bool:
    """Return whether a packet between the pod and PEER passes."""
    ends = {4: (POD_V4, PEER_V4), 6: (POD_V6, PEER_V6)}[family]
    source, destination = ends if direction is OUT else ends[::-1]
    l3: Packet = (IP if family == 4 else IPv6)(src=source, dst=destination)
    if isinstance(l4, Raw):
        l3.setfieldval("proto" if family == 4 else "nh", 17)
    if direction is OUT:
        return datapath.send(ETHER / l3 / l4).verdict in {OK, REDIRECT}
    return datapath.receive(Ether(src=HOST_MAC, dst=POD_MAC) / l3 / l4, came_in_at=PEER_IFINDEX).verdict == OK


QUESTION, ANSWER = UDP(sport=4242, dport=53), UDP(sport=53, dport=4242)


def other(direction: Direction) -> Direction:
    return IN if direction is OUT else OUT


@BOTH_WAYS
@FAMILIES
def test_an_open_flow_is_asked_about_again_with_the_next_revision_and_not_before(
    datapath: Datapath, opener: Direction, family: int
) -> None:
    datapath.enforce([PolicyEntry(opener)])
    assert goes(datapath, opener, family, QUESTION)

    datapath.policy.sync([])
    assert goes(datapath, opener, family, QUESTION)
    assert goes(datapath, other(opener), family, ANSWER)

    datapath.revision.bump()
    assert goes(datapath, other(opener), family, ANSWER)  # replies are never asked about
    assert not goes(datapath, opener, family, QUESTION)
    assert not goes(datapath, other(opener), family, ANSWER)
    assert datapath.flows.dump() == []


@BOTH_WAYS
@FAMILIES
def test_what_policy_allows_again_isnt_asked_about_until_the_next_change(
    datapath: Datapath, opener: Direction, family: int
) -> None:
    datapath.enforce([PolicyEntry(opener)])
    assert goes(datapath, opener, family, QUESTION)
    for _ in range(3):
        datapath.enforce([PolicyEntry(opener, 0, 17)])
        assert goes(datapath, opener, family, QUESTION)
        datapath.policy.sync([])
        assert goes(datapath, opener, family, QUESTION)

    datapath.revision.bump()
    assert not goes(datapath, opener, family, QUESTION)


@BOTH_WAYS
@FAMILIES
def test_a_new_flow_is_always_asked_about(datapath: Datapath, opener: Direction, family: int) -> None:
    datapath.enforce([PolicyEntry(opener)])
    assert goes(datapath, opener, family, QUESTION)

    datapath.policy.sync([])

    assert not goes(datapath, opener, family, UDP(sport=4243, dport=53))
    assert goes(datapath, opener, family, QUESTION)


@BOTH_WAYS
@FAMILIES
def test_a_flow_whose_peer_is_another_now_is_asked_about(datapath: Datapath, opener: Direction, family: int) -> None:
    """An address that went to another pod, or labels that have changed: no map of rules did."""
    datapath.enforce([PolicyEntry(opener, PEER_IDENTITY), PolicyEntry(opener, PEER_IDENTITY + 1)])
    assert goes(datapath, opener, family, QUESTION)

    def becomes(identity: int) -> None:
        datapath.endpoints.put(peer({4: PEER_V4, 6: PEER_V6}[family], endpoint_id=0, identity=identity))

    becomes(PEER_IDENTITY + 1)
    assert goes(datapath, opener, family, QUESTION)
    assert [flow.peer_identity for flow in datapath.flows.dump()] == [PEER_IDENTITY + 1]
    datapath.policy.sync([])
    assert goes(datapath, opener, family, QUESTION)

    becomes(PEER_IDENTITY)
    assert not goes(datapath, opener, family, QUESTION)
    assert datapath.flows.dump() == []


def test_without_tracking_every_packet_is_asked_about() -> None:
    with Datapath(compiled("conntrack")) as datapath:
        datapath.allow_all()
        assert goes(datapath, OUT, 4, QUESTION)

        datapath.policy.sync([])

        assert not goes(datapath, OUT, 4, QUESTION)


def test_packets_that_no_flow_is_made_of_are_asked_about_each_time(datapath: Datapath) -> None:
    datapath.enforce([PolicyEntry(OUT)])
    later = [
        IP(src=POD_V4, dst=PEER_V4, frag=2, proto=17) / Raw(b"12345678"),
        IP(src=POD_V4, dst=PEER_V4) / ICMP(type=13),
    ]
    assert [datapath.send(ETHER / one).verdict for one in later] == [OK, OK]

    datapath.policy.sync([])

    assert OK not in [datapath.send(ETHER / one).verdict for one in later]


def test_with_policy_accounting_each_packet_counts_in_its_entry_and_is_asked_about() -> None:
    entry = PolicyEntry(OUT, 0, 17, 53, 16)
    with Datapath(compiled("policy-accounting")) as datapath:
        datapath.enforce([entry])
        for _ in range(5):
            assert datapath.send(ETHER / IP(src=POD_V4, dst=WORLD_V4) / QUESTION).verdict == OK
        assert [(one.entry, one.packets) for one in datapath.policy.dump()] == [(entry, 5)]

        datapath.policy.sync([])

        assert datapath.send(ETHER / IP(src=POD_V4, dst=WORLD_V4) / QUESTION).verdict != OK


def test_a_segment_against_the_flow_is_asked_about_under_any_revision(datapath: Datapath) -> None:
    datapath.enforce([PolicyEntry(OUT)])
    assert goes(datapath, OUT, 4, TCP(sport=4242, dport=80, flags="S"))
    assert goes(datapath, IN, 4, TCP(sport=80, dport=4242, flags="SA"))

    assert not goes(datapath, IN, 4, TCP(sport=80, dport=4242, flags="S"))


@pytest.mark.parametrize("before", [0, (1 << 32) - 1, (1 << 32) + 5, (1 << 64) - 1])
def test_the_revision_is_another_one_after_each_change(datapath: Datapath, before: int) -> None:
    """A flow holds the lower half of it."""
    libbpf.map_update(datapath.fds[maps.REVISION], bytes(4), layout.REVISION.pack(before))
    datapath.policy.sync(ALLOW_ALL)
    assert goes(datapath, OUT, 4, QUESTION)
    assert [flow.peer_identity for flow in datapath.flows.dump()] == [PEER_IDENTITY]
    datapath.policy.sync([])
    assert goes(datapath, OUT, 4, QUESTION)

    assert datapath.revision.bump() == datapath.revision.get() == (before + 1) % (1 << 64)

    assert not goes(datapath, OUT, 4, QUESTION)


# ── what has no ports is not taken for a flow with port 0 ──


@FAMILIES
def test_an_echo_with_the_identifier_0_has_its_own_replies_and_no_others(datapath: Datapath, family: int) -> None:
    datapath.enforce([PolicyEntry(OUT)])
    request = {4: ICMP(type=8, id=0), 6: ICMPv6EchoRequest(id=0)}[family]
    reply = {4: ICMP(type=0, id=0), 6: ICMPv6EchoReply(id=0)}[family]
    unknown = {4: ICMP(type=13), 6: ICMPv6EchoRequest(type=200)}[family]
    assert goes(datapath, OUT, family, request)

    assert goes(datapath, IN, family, reply)
    assert not goes(datapath, IN, family, request)
    assert not goes(datapath, IN, family, unknown)

    datapath.policy.sync([])
    assert goes(datapath, OUT, family, request)
    assert not goes(datapath, OUT, family, reply)
    assert not goes(datapath, OUT, family, unknown)
    assert {(one.direction, one.local_port, one.remote_port) for one in datapath.flows.dump()} == {(OUT, 0, 0)}


def test_a_later_fragment_is_no_part_of_a_flow_between_the_ports_0(datapath: Datapath) -> None:
    datapath.enforce([PolicyEntry(OUT)])
    assert goes(datapath, OUT, 4, UDP(sport=0, dport=0))
    assert goes(datapath, IN, 4, UDP(sport=0, dport=0))

    back = Ether(src=HOST_MAC, dst=POD_MAC) / IP(src=PEER_V4, dst=POD_V4, frag=2, proto=17) / Raw(b"12345678")
    assert datapath.receive(back, came_in_at=PEER_IFINDEX).verdict != OK


@FAMILIES
def test_a_protocol_without_ports_is_not_asked_about_as_if_it_had_some(datapath: Datapath, family: int) -> None:
    """The first four bytes of ESP are a number that its sender chooses."""
    l3: Packet = IP(src=POD_V4, dst=WORLD_V4, proto=50) if family == 4 else IPv6(src=POD_V6, dst=WORLD_V6, nh=50)
    packet = ETHER / l3 / Raw(b"\0\0\0\x50" + bytes(12))
    datapath.enforce([PolicyEntry(OUT, 0, 50, 80, 16)])
    assert datapath.send(packet).verdict != OK

    datapath.enforce([PolicyEntry(OUT, 0, 50)])

    assert datapath.send(packet).verdict == OK


@BOTH_WAYS
@FAMILIES
def test_a_denied_flow_is_not_opened_anew_by_its_other_end(datapath: Datapath, opener: Direction, family: int) -> None:
    """Its entry still says who opened it: what was denied doesn't become a reply."""
    datapath.allow_all()
    assert goes(datapath, opener, family, QUESTION)
    assert goes(datapath, other(opener), family, ANSWER)

    datapath.enforce([PolicyEntry(other(opener))])

    assert not goes(datapath, opener, family, QUESTION)
    assert goes(datapath, other(opener), family, ANSWER)
    assert not goes(datapath, opener, family, QUESTION)
    assert not datapath.flows.dump()

    datapath.enforce([])

    assert not goes(datapath, other(opener), family, ANSWER)

    datapath.enforce([PolicyEntry(opener)])

    assert goes(datapath, opener, family, QUESTION)
    assert goes(datapath, other(opener), family, ANSWER)
