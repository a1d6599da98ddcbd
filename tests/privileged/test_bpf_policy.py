"""Policy in the programs: which entry decides over which packet, from the pod, to the pod, and from the stack."""

from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_NS,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import ARP, Ether
from scapy.layers.sctp import SCTP
from scapy.packet import Packet, Raw

from services.loader.model import Direction, PolicyEntry
from tests.bpf_support import (
    ALLOW_ALL,
    ETHER,
    GATEWAY_V4,
    GATEWAY_V6,
    HOST_MAC,
    OK,
    PEER_IDENTITY,
    PEER_IFINDEX,
    PEER_V4,
    PEER_V6,
    POD_ID,
    POD_IDENTITY,
    POD_MAC,
    POD_V4,
    POD_V6,
    REDIRECT,
    SHOT,
    WORLD_V4,
    WORLD_V6,
    Datapath,
)

pytestmark = pytest.mark.privileged

V4, V6 = IP(src=POD_V4, dst=PEER_V4), IPv6(src=POD_V6, dst=PEER_V6)
IN, OUT = Direction.INGRESS, Direction.EGRESS
ANY_IN = PolicyEntry(IN)
TCP_NUMBER, UDP_NUMBER, ICMP_NUMBER, SCTP_NUMBER = 6, 17, 1, 132
HOST, WORLD = 1, 2


@pytest.fixture
def datapath() -> Iterator[Datapath]:
    with Datapath() as datapath:
        yield datapath


def out(datapath: Datapath, entries: list[PolicyEntry], packet: Packet) -> str:
    """Return what becomes of a packet of the pod under these egress entries: `passes` or the reason of its drop."""
    datapath.enforce([*entries, ANY_IN])
    before = datapath.drops()
    verdict = datapath.send(ETHER / packet).verdict
    return _outcome(datapath, verdict in {OK, REDIRECT}, before)


def into(datapath: Datapath, entries: list[PolicyEntry], packet: Packet, came_in_at: int = 0) -> str:
    """The same for a packet that the node's stack sends to the pod, under ingress entries."""
    datapath.enforce(entries)
    before = datapath.drops()
    verdict = datapath.receive(Ether(src=HOST_MAC, dst=POD_MAC) / packet, came_in_at=came_in_at).verdict
    return _outcome(datapath, verdict == OK, before)


def _outcome(datapath: Datapath, passed: bool, before: object) -> str:
    now = dict(datapath.drops())
    if passed:
        assert now == before
        return "passes"
    assert isinstance(before, dict)
    (reason,) = [name for name in now if now[name] != before.get(name, 0)]
    return str(reason)


@pytest.mark.parametrize("l3", [V4, V6], ids=["IPv4", "IPv6"])
def test_an_empty_policy_denies_everything(datapath: Datapath, l3: Packet) -> None:
    datapath.enforce([])
    packet = ETHER / l3 / TCP(dport=80)

    assert [datapath.send(packet).verdict, datapath.receive(packet).verdict] == [SHOT, SHOT]
    assert datapath.drops() == {"policy": 2}


@pytest.mark.parametrize("l3", [V4, V6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize(
    ("entries", "outcome"),
    [
        ([PolicyEntry(OUT)], "passes"),
        ([PolicyEntry(OUT, PEER_IDENTITY)], "passes"),
        ([PolicyEntry(OUT, POD_IDENTITY)], "policy"),
        ([PolicyEntry(OUT, WORLD)], "policy"),
        ([PolicyEntry(IN, PEER_IDENTITY)], "policy"),
        ([PolicyEntry(OUT, 0, TCP_NUMBER)], "passes"),
        ([PolicyEntry(OUT, 0, UDP_NUMBER)], "policy"),
        ([PolicyEntry(OUT, PEER_IDENTITY, TCP_NUMBER, 443, 16)], "passes"),
        ([PolicyEntry(OUT, PEER_IDENTITY, TCP_NUMBER, 80, 16)], "policy"),
        ([PolicyEntry(OUT, PEER_IDENTITY, UDP_NUMBER, 443, 16)], "policy"),
        ([PolicyEntry(OUT, 0, TCP_NUMBER, 384, 9)], "passes"),  # 384–511
        ([PolicyEntry(OUT, 0, TCP_NUMBER, 442, 15)], "passes"),  # 442–443
        ([PolicyEntry(OUT, 0, TCP_NUMBER, 444, 15)], "policy"),
        ([PolicyEntry(OUT, deny=True)], "policy deny"),
        ([PolicyEntry(OUT, PEER_IDENTITY, deny=True)], "policy deny"),
        ([PolicyEntry(OUT), PolicyEntry(OUT, PEER_IDENTITY, deny=True)], "policy deny"),
        ([PolicyEntry(OUT, deny=True), PolicyEntry(OUT, PEER_IDENTITY)], "policy deny"),
        ([PolicyEntry(OUT), PolicyEntry(OUT, 0, TCP_NUMBER, 443, 16, deny=True)], "policy deny"),
        ([PolicyEntry(OUT), PolicyEntry(OUT, 0, TCP_NUMBER, 80, 16, deny=True)], "passes"),
        ([PolicyEntry(OUT, 0, TCP_NUMBER, deny=True), PolicyEntry(OUT, 0, TCP_NUMBER, 443, 16)], "passes"),
    ],
)
def test_the_longest_entry_of_the_peer_and_of_any_decide_and_deny_wins(
    datapath: Datapath, l3: Packet, entries: list[PolicyEntry], outcome: str
) -> None:
    assert out(datapath, entries, l3 / TCP(dport=443)) == outcome


@pytest.mark.parametrize(
    ("packet", "entry"),
    [
        (V4 / TCP(dport=5000), PolicyEntry(OUT, 0, TCP_NUMBER, 5000, 16)),
        (V6 / UDP(dport=53), PolicyEntry(OUT, 0, UDP_NUMBER, 53, 16)),
        (V4 / SCTP(dport=132), PolicyEntry(OUT, 0, SCTP_NUMBER, 132, 16)),
        (V4 / ICMP(type=8), PolicyEntry(OUT, 0, ICMP_NUMBER, 8, 16)),
        (V6 / ICMPv6EchoRequest(), PolicyEntry(OUT, 0, 58, 128, 16)),
        (V4 / Raw(b"x" * 8), PolicyEntry(OUT, 0, 0)),
        (IP(src=POD_V4, dst=WORLD_V4) / TCP(dport=80), PolicyEntry(OUT, WORLD, TCP_NUMBER, 80, 16)),
        (IPv6(src=POD_V6, dst=WORLD_V6) / TCP(dport=80), PolicyEntry(OUT, WORLD, TCP_NUMBER, 80, 16)),
    ],
)
def test_protocol_and_port_are_found_in_every_kind_of_packet(
    datapath: Datapath, packet: Packet, entry: PolicyEntry
) -> None:
    other = PolicyEntry(OUT, entry.identity, entry.protocol, entry.port ^ 1, 16) if entry.port else PolicyEntry(OUT, 9)

    assert (out(datapath, [entry], packet), out(datapath, [other], packet)) == ("passes", "policy")


WEB = PolicyEntry(OUT, 0, TCP_NUMBER, 80, 16)
HOP, OPTIONS, ROUTING = IPv6ExtHdrHopByHop(), IPv6ExtHdrDestOpt(), IPv6ExtHdrRouting(addresses=[PEER_V6])
HOP_AND_24_BYTES = IPv6ExtHdrHopByHop(nh=60) / Raw(b"\6\2\1\x14" + bytes(20))


@pytest.mark.parametrize(
    ("packet", "outcome"),
    [
        (IP(src=POD_V4, dst=PEER_V4, options=[IPOption_NOP()] * 8) / TCP(dport=80), "passes"),
        (IP(src=POD_V4, dst=PEER_V4, options=[IPOption_NOP()] * 40) / TCP(dport=80), "passes"),
        (IP(src=POD_V4, dst=PEER_V4, options=[IPOption_NOP()] * 8) / TCP(dport=81), "policy"),
        (IP(src=POD_V4, dst=PEER_V4, flags="MF") / TCP(dport=80), "passes"),
        (IP(src=POD_V4, dst=PEER_V4, flags="MF") / TCP(dport=81), "policy"),
        (IP(src=POD_V4, dst=PEER_V4, proto=6, frag=10) / Raw(b"\0\0\0\x50" * 4), "ports missing"),
        (V6 / HOP / TCP(dport=80), "passes"),
        (V6 / HOP / TCP(dport=81), "policy"),
        (V6 / HOP_AND_24_BYTES / TCP(dport=80), "passes"),
        (V6 / HOP / ROUTING / OPTIONS / TCP(dport=80), "passes"),
        (V6 / IPv6ExtHdrFragment(m=1) / TCP(dport=80), "passes"),
        (V6 / IPv6ExtHdrFragment(m=1) / TCP(dport=81), "policy"),
        # The reserved byte of a fragment header is no length: no sender moves the port with it.
        (V6 / IPv6ExtHdrFragment(m=1, res1=1) / TCP(dport=80), "passes"),
        (V6 / IPv6ExtHdrFragment(m=1, res1=1) / TCP(dport=81, seq=80, ack=80), "policy"),
        (V6 / IPv6ExtHdrFragment(offset=10, nh=6) / Raw(b"\0\0\0\x50" * 4), "ports missing"),
        (V6 / HOP / IPv6ExtHdrFragment(offset=10, nh=6) / Raw(b"\0\0\0\x50" * 4), "ports missing"),
        (V6 / HOP / ROUTING / OPTIONS / OPTIONS / TCP(dport=80), "ipv6 extensions"),
        (V6 / IPv6ExtHdrHopByHop(nh=6), "ports missing"),
        (IPv6(src=POD_V6, dst=PEER_V6, nh=0) / Raw(b"\6\0\0\0"), "invalid packet"),
    ],
)
def test_options_extensions_and_fragments_hide_no_port_and_invent_none(
    datapath: Datapath, packet: Packet, outcome: str
) -> None:
    assert out(datapath, [WEB], packet) == outcome


@pytest.mark.parametrize(
    "packet",
    [
        IP(src=POD_V4, dst=PEER_V4, proto=6, frag=10) / Raw(b"x" * 8),
        IP(src=POD_V4, dst=PEER_V4, proto=17, frag=185) / Raw(b"x"),
        IP(src=POD_V4, dst=PEER_V4, proto=50) / Raw(b"esp"),
        V6 / IPv6ExtHdrFragment(offset=10, nh=6) / Raw(b"x" * 8),
        V6 / HOP / OPTIONS / TCP(dport=80),
        IPv6(src=POD_V6, dst=PEER_V6, nh=59),
        IPv6(src=POD_V6, dst=PEER_V6, nh=50) / Raw(b"esp"),
    ],
)
def test_under_allow_all_none_of_them_is_broken(datapath: Datapath, packet: Packet) -> None:
    assert out(datapath, [PolicyEntry(OUT)], packet) == "passes"


@pytest.mark.parametrize("l3", [V4, V6], ids=["IPv4", "IPv6"])
def test_the_destinations_policy_sees_the_source_identity(datapath: Datapath, l3: Packet) -> None:
    """Both programs are the same endpoint's here, so its map decides over both directions."""
    packet = ETHER / l3 / TCP(dport=80)
    for entry, verdict in (
        (PolicyEntry(IN, POD_IDENTITY), REDIRECT),
        (PolicyEntry(IN, POD_IDENTITY, TCP_NUMBER, 80, 16), REDIRECT),
        (PolicyEntry(IN, PEER_IDENTITY), SHOT),
        (PolicyEntry(IN, POD_IDENTITY, TCP_NUMBER, 81, 16), SHOT),
        (PolicyEntry(IN, POD_IDENTITY, deny=True), SHOT),
    ):
        datapath.enforce([PolicyEntry(OUT), entry])
        assert datapath.send(packet).verdict == verdict, entry
    assert datapath.drops() == {"policy": 2, "policy deny": 1}
    assert {metric.direction for metric in datapath.metrics.dump()} == {IN}


FROM_NODE = [IP(src=GATEWAY_V4, dst=POD_V4) / TCP(dport=80), IPv6(src=GATEWAY_V6, dst=POD_V6) / TCP(dport=80)]


@pytest.mark.parametrize("packet", FROM_NODE, ids=["IPv4", "IPv6"])
@pytest.mark.parametrize(
    ("entry", "outcome"),
    [
        (PolicyEntry(IN), "passes"),
        (PolicyEntry(IN, HOST), "passes"),
        (PolicyEntry(IN, HOST, TCP_NUMBER, 80, 16), "passes"),
        (PolicyEntry(IN, HOST, TCP_NUMBER, 81, 16), "policy"),
        (PolicyEntry(IN, WORLD), "policy"),
        (PolicyEntry(IN, HOST, deny=True), "policy deny"),
    ],
)
def test_what_the_node_sends_itself_has_the_hosts_identity(
    datapath: Datapath, packet: Packet, entry: PolicyEntry, outcome: str
) -> None:
    assert into(datapath, [entry], packet) == outcome


@pytest.mark.parametrize(
    ("source", "came_in_at", "identity"),
    [
        (WORLD_V4, 5, WORLD),
        (WORLD_V6, 5, WORLD),
        (PEER_V4, PEER_IFINDEX, PEER_IDENTITY),
        (PEER_V6, PEER_IFINDEX, PEER_IDENTITY),
        (PEER_V4, 5, WORLD),
        (PEER_V6, 5, WORLD),
    ],
)
def test_what_the_stack_routes_has_the_identity_of_where_it_came_in(
    datapath: Datapath, source: str, came_in_at: int, identity: int
) -> None:
    """A pod's address alone proves nothing: the packet must have come in at that pod's interface."""
    l3 = IP(src=source, dst=POD_V4) if ip_address(source).version == 4 else IPv6(src=source, dst=POD_V6)

    assert into(datapath, [PolicyEntry(IN, identity)], l3 / TCP(dport=80), came_in_at) == "passes"
    others = [PolicyEntry(IN, other) for other in (HOST, WORLD, PEER_IDENTITY) if other != identity]
    assert into(datapath, others, l3 / TCP(dport=80), came_in_at) == "policy"


@pytest.mark.parametrize("packet", FROM_NODE, ids=["IPv4", "IPv6"])
def test_a_pod_whose_own_policy_program_is_missing_is_not_ready_for_the_stack(
    datapath: Datapath, packet: Packet
) -> None:
    datapath.enforce(ALLOW_ALL)
    datapath.call_policy.clear(POD_ID)

    assert datapath.receive(Ether(src=HOST_MAC, dst=POD_MAC) / packet).verdict == SHOT
    assert [(one.endpoint_id, one.direction, one.reason, one.packets) for one in datapath.metrics.dump()] == [
        (POD_ID, IN, "endpoint not ready", 1)
    ]


def test_without_its_policy_program_the_node_still_finds_the_pod(datapath: Datapath) -> None:
    datapath.call_policy.clear(POD_ID)

    assert datapath.receive(Ether(src=HOST_MAC, dst=POD_MAC) / ARP(pdst=POD_V4)).verdict == OK
    assert datapath.drops() == {}


def test_what_comes_from_the_stack_goes_on_and_what_comes_from_a_pod_is_redirected(datapath: Datapath) -> None:
    """One policy program for both; it must not remember the packet before."""
    datapath.enforce(ALLOW_ALL)
    from_pod, from_stack = ETHER / V4 / TCP(), Ether(src=HOST_MAC, dst=POD_MAC) / FROM_NODE[0]

    for _ in range(2):
        assert (datapath.send(from_pod).verdict, datapath.receive(from_stack).verdict) == (REDIRECT, OK)


@pytest.mark.parametrize(("l3", "address"), [(V4, POD_V6), (V6, POD_V4)], ids=["IPv4", "IPv6"])
def test_a_family_that_the_pod_has_no_address_of_is_unknown_from_the_stack_too(l3: Packet, address: str) -> None:
    with Datapath(addresses=[ip_address(address)]) as datapath:
        datapath.enforce(ALLOW_ALL)
        assert into(datapath, list(ALLOW_ALL), l3 / TCP()) == "unknown l3"


def test_to_container_leaves_the_packet_as_it_is(datapath: Datapath) -> None:
    datapath.enforce(ALLOW_ALL)
    for l3 in FROM_NODE:
        sent = bytes(Ether(src=HOST_MAC, dst=POD_MAC) / l3)
        assert datapath.receive(sent).raw == sent


def test_the_node_finds_the_pod_whatever_the_policy(datapath: Datapath) -> None:
    ether = Ether(src=HOST_MAC, dst=POD_MAC)
    datapath.enforce([PolicyEntry(IN, deny=True)])

    assert datapath.receive(ether / ARP(pdst=POD_V4)).verdict == OK
    assert datapath.receive(ether / IPv6(src="fe80::1", dst=POD_V6) / ICMPv6ND_NS(tgt=POD_V6)).verdict == OK
    assert datapath.receive(ether / IPv6(src="fe80::1", dst=POD_V6) / ICMPv6EchoRequest()).verdict == SHOT
