"""from_container: what a pod may send, where it goes, and how it looks when it gets there."""

from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, ICMPv6MLReport2, ICMPv6ND_RS, IPv6, IPv6ExtHdrHopByHop
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet, Raw

from services.loader import maps
from tests.bpf_support import (
    ETHER,
    GATEWAY_V4,
    GATEWAY_V6,
    HOST_MAC,
    OK,
    PEER_HOST_MAC,
    PEER_ID,
    PEER_MAC,
    PEER_V4,
    PEER_V6,
    POD_MAC,
    POD_V4,
    POD_V6,
    REDIRECT,
    SHOT,
    WORLD_V4,
    WORLD_V6,
    Datapath,
    compiled,
    peer,
)

pytestmark = pytest.mark.privileged

V4 = IP(src=POD_V4, dst=PEER_V4)
V6 = IPv6(src=POD_V6, dst=PEER_V6)
WEB = TCP(dport=80)


@pytest.fixture
def datapath() -> Iterator[Datapath]:
    with Datapath() as datapath:
        yield datapath.allow_all()


@pytest.mark.parametrize("l3", [V4, V6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize(
    "l4", [WEB, UDP(dport=53) / b"query", ICMP(), Raw(b"x" * 9)], ids=["TCP", "UDP", "ICMP", "raw"]
)
def test_a_packet_for_a_pod_of_this_node_is_redirected_to_it(datapath: Datapath, l3: Packet, l4: Packet) -> None:
    assert datapath.send(ETHER / l3 / l4).verdict == REDIRECT
    assert datapath.drops() == {}


def test_local_delivery_writes_the_destinations_hardware_addresses(datapath: Datapath) -> None:
    arrived = datapath.send(ETHER / V4 / WEB).packet

    assert (arrived.src, arrived.dst) == (PEER_HOST_MAC, PEER_MAC)


@pytest.mark.parametrize("ttl", [2, 64, 255])
@pytest.mark.parametrize("ident", [0, 1, 0x1234, 0xFFFF])
def test_local_delivery_is_one_hop_and_the_ipv4_checksum_stays_right(datapath: Datapath, ttl: int, ident: int) -> None:
    """The checksum is changed by hand: recompute it over the packet as it arrived."""
    arrived = datapath.send(ETHER / IP(src=POD_V4, dst=PEER_V4, ttl=ttl, id=ident) / WEB).packet[IP]
    again = IP(bytes(arrived))
    del again.chksum

    assert (arrived.ttl, arrived.chksum) == (ttl - 1, IP(bytes(again)).chksum)


def test_every_ipv4_checksum_survives_the_hop(datapath: Datapath) -> None:
    """Sums around the carry: the identification runs through values that put 0xfeff and 0xffff into the checksum."""
    for ident in range(0, 0x10000, 257):
        arrived = datapath.send(ETHER / IP(src=POD_V4, dst=PEER_V4, id=ident, ttl=64) / WEB).packet[IP]
        again = IP(bytes(arrived))
        del again.chksum
        assert arrived.chksum == IP(bytes(again)).chksum, f"identification {ident}"


def test_local_delivery_is_one_hop_for_ipv6(datapath: Datapath) -> None:
    arrived = datapath.send(ETHER / IPv6(src=POD_V6, dst=PEER_V6, hlim=64) / WEB).packet

    assert (arrived[IPv6].hlim, arrived.src, arrived.dst) == (63, PEER_HOST_MAC, PEER_MAC)


@pytest.mark.parametrize("l3", [V4, V6], ids=["IPv4", "IPv6"])
def test_nothing_else_of_the_packet_changes(datapath: Datapath, l3: Packet) -> None:
    sent = bytes(ETHER / l3 / WEB / b"payload")
    at = 14 + (20 if l3 is V4 else 40)

    assert datapath.send(sent).raw[at:] == sent[at:]


@pytest.mark.parametrize("ttl", [0, 1])
def test_a_ttl_that_ends_here_goes_to_the_stack_untouched(datapath: Datapath, ttl: int) -> None:
    """The stack answers with "time exceeded", so traceroute sees the node."""
    for l3 in (IP(src=POD_V4, dst=PEER_V4, ttl=ttl), IPv6(src=POD_V6, dst=PEER_V6, hlim=ttl)):
        sent = bytes(ETHER / l3 / WEB)
        done = datapath.send(sent)
        assert (done.verdict, done.raw) == (OK, sent)
    assert datapath.drops() == {}


@pytest.mark.parametrize(
    "l3",
    [
        IP(src=POD_V4, dst=WORLD_V4),
        IPv6(src=POD_V6, dst=WORLD_V6),
        IP(src=POD_V4, dst=GATEWAY_V4),
        IPv6(src=POD_V6, dst=GATEWAY_V6),
    ],
    ids=["world IPv4", "world IPv6", "gateway IPv4", "gateway IPv6"],
)
def test_what_is_for_nobody_on_this_node_goes_to_the_stack_untouched(datapath: Datapath, l3: Packet) -> None:
    sent = bytes(ETHER / l3 / WEB)
    done = datapath.send(sent)

    assert (done.verdict, done.raw, datapath.drops()) == (OK, sent, {})


def test_the_nodes_own_addresses_are_the_stacks(datapath: Datapath) -> None:
    for address in (PEER_V4, PEER_V6):
        datapath.endpoints.put(peer(address, host=True, endpoint_id=0, identity=1))

    assert [datapath.send(ETHER / l3 / WEB).verdict for l3 in (V4, V6)] == [OK, OK]


def test_a_pod_reaches_itself_through_its_own_policy_program(datapath: Datapath) -> None:
    datapath.call_policy.set(PEER_ID, datapath.programs["policy"])
    datapath.endpoints.put(peer(POD_V4))

    assert datapath.send(ETHER / IP(src=POD_V4, dst=POD_V4) / WEB).verdict == REDIRECT


def test_a_destination_without_a_policy_program_is_not_ready(datapath: Datapath) -> None:
    datapath.call_policy.clear(PEER_ID)

    assert [datapath.send(ETHER / l3 / WEB).verdict for l3 in (V4, V6)] == [SHOT, SHOT]
    assert datapath.drops() == {"endpoint not ready": 2}


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (Ether(src=PEER_MAC, dst=HOST_MAC) / V4 / WEB, "invalid source mac"),
        (Ether(src=PEER_MAC, dst=HOST_MAC) / V6 / WEB, "invalid source mac"),
        (Ether(src="02:00:00:00:01:07", dst=HOST_MAC) / V4 / WEB, "invalid source mac"),
        (ETHER / IP(src=PEER_V4, dst=WORLD_V4) / WEB, "invalid source ip"),
        (ETHER / IP(src="0.0.0.0", dst=PEER_V4) / WEB, "invalid source ip"),
        (ETHER / IPv6(src=PEER_V6, dst=WORLD_V6) / WEB, "invalid source ip"),
        (ETHER / IPv6(src="fd00::1:7", dst=WORLD_V6) / WEB, "invalid source ip"),
        (ETHER / IPv6(src="::", dst=WORLD_V6) / WEB, "invalid source ip"),
        (ETHER / IPv6(src="fe80::7", dst=WORLD_V6) / WEB, "invalid source ip"),
    ],
)
def test_a_pod_speaks_only_for_itself(datapath: Datapath, packet: Packet, reason: str) -> None:
    assert datapath.send(packet).verdict == SHOT
    assert datapath.drops() == {reason: 1}


BROADCAST = Ether(src=POD_MAC, dst="ff:ff:ff:ff:ff:ff")
MULTICAST = Ether(src=POD_MAC, dst="33:33:00:00:00:16")


@pytest.mark.parametrize(
    "packet",
    [
        MULTICAST / IPv6(src="fe80::7", dst="ff02::16", hlim=1) / IPv6ExtHdrHopByHop() / ICMPv6MLReport2(),
        MULTICAST / IPv6(src="fe80::7", dst="ff02::2") / ICMPv6ND_RS(),
        MULTICAST / IPv6(src="::", dst="ff02::2") / ICMPv6ND_RS(),
        MULTICAST / IPv6(src=POD_V6, dst="ff02::fb") / UDP(dport=5353),
        ETHER / IPv6(src=POD_V6, dst="ff02::fb") / UDP(dport=5353),
        ETHER / IPv6(src="fe80::7", dst="fe80::1") / ICMPv6EchoRequest(),
        BROADCAST / IP(src="0.0.0.0", dst="255.255.255.255") / UDP(sport=68, dport=67),
        BROADCAST / IP(src=POD_V4, dst=PEER_V4) / WEB,
        Ether(src=POD_MAC, dst="01:00:5e:00:00:16") / IP(src=POD_V4, dst="224.0.0.22") / Raw(b"igmp"),
        ETHER / IP(src=POD_V4, dst="239.1.2.3") / UDP(dport=9),
    ],
    ids=[
        "MLD",
        "RS",
        "RS from ::",
        "mDNS",
        "multicast, unicast frame",
        "link-local",
        "DHCP",
        "broadcast",
        "IGMP",
        "239",
    ],
)
def test_what_a_pods_kernel_says_to_its_link_is_dropped_quietly(datapath: Datapath, packet: Packet) -> None:
    assert datapath.send(packet).verdict == SHOT
    assert datapath.drops() == {"link local noise": 1}


@pytest.mark.parametrize("ethertype", [0x88CC, 0x0805, 0x8847, 0x0000])
def test_unknown_ethertypes_are_dropped(datapath: Datapath, ethertype: int) -> None:
    datapath.send(Ether(src=POD_MAC, dst=HOST_MAC, type=ethertype) / Raw(b"x" * 50))

    assert datapath.drops() == {"unknown l3": 1}


def test_vlan_tags_are_dropped(datapath: Datapath) -> None:
    datapath.send(ETHER / Dot1Q(vlan=5) / V4 / WEB)

    assert datapath.drops() == {"unknown l3": 1}


@pytest.mark.parametrize(("l3", "other"), [(V4, POD_V6), (V6, POD_V4)], ids=["IPv4", "IPv6"])
def test_a_family_that_the_endpoint_has_no_address_of_is_unknown(l3: Packet, other: str) -> None:
    with Datapath(addresses=[ip_address(other)]) as datapath:
        assert datapath.allow_all().send(ETHER / l3 / WEB).verdict == SHOT
        assert datapath.drops() == {"unknown l3": 1}


@pytest.mark.parametrize(
    "l3",
    [
        IP(src=POD_V4, dst=PEER_V4, ihl=4),
        IP(src=POD_V4, dst=PEER_V4, version=6),
        IPv6(src=POD_V6, dst=PEER_V6, version=4),
    ],
    ids=["header of 16 bytes", "version 6 in IPv4", "version 4 in IPv6"],
)
def test_a_malformed_ip_header_is_invalid(datapath: Datapath, l3: Packet) -> None:
    ethertype = 0x86DD if isinstance(l3, IPv6) else 0x0800
    datapath.send(Ether(src=POD_MAC, dst=HOST_MAC, type=ethertype) / Raw(bytes(l3 / WEB)))

    assert datapath.drops() == {"invalid packet": 1}


@pytest.mark.parametrize("l3", [V4, V6], ids=["IPv4", "IPv6"])
def test_a_packet_that_ends_in_its_transport_header_is_the_receivers_affair(datapath: Datapath, l3: Packet) -> None:
    """No port can be read, so only entries without ports apply; under allow-all it passes."""
    whole = bytes(ETHER / l3 / WEB)
    for length in range(len(whole) - 20, len(whole)):
        assert datapath.send(whole[:length]).verdict == REDIRECT
    assert datapath.drops() == {}


def test_drops_are_counted_with_their_bytes_direction_and_endpoint(datapath: Datapath) -> None:
    packet = bytes(ETHER / IP(src=PEER_V4, dst=WORLD_V4) / WEB / (b"x" * 100))
    for _ in range(3):
        datapath.send(packet)

    (metric,) = datapath.metrics.dump()
    assert (metric.endpoint_id, metric.direction.name, metric.packets, metric.bytes) == (
        7,
        "EGRESS",
        3,
        3 * len(packet),
    )


@pytest.mark.parametrize("turned", [(), ("conntrack",)], ids=["tracked", "not tracked"])
def test_a_forwarded_packet_writes_no_map_but_its_flow(turned: tuple[str, ...]) -> None:
    """And that once, but for its counters: the second packet finds it as the first has left it."""
    with Datapath(compiled(*turned)) as datapath:
        datapath.allow_all()
        before = datapath.policy.dump()
        datapath.send(ETHER / V4 / WEB)
        flows = datapath.uncounted()
        datapath.send(ETHER / V4 / WEB)

        assert (datapath.policy.dump(), datapath.metrics.dump(), datapath.uncounted()) == (before, [], flows)
        assert len(flows) == (0 if turned else 2)
        assert datapath.fds.keys() == maps.DEFINITIONS.keys()
