"""Probes are packets that a stack would take: held against scapy, which makes sums of its own."""

from ipaddress import ip_address
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import Ether
from scapy.layers.sctp import SCTP, SCTPChunkInit
from scapy.packet import Packet

from services.common.model import Address
from services.loader.event import Event, EventType
from services.loader.model import Direction
from services.loader.probepacket import Probe, frame, is_probe

POD, HOST = b"\2\0\0\0\0\1", b"\2\0\0\0\0\2"
V4 = (ip_address("10.0.0.7"), ip_address("192.0.2.1"))
V6 = (ip_address("fd00::7"), ip_address("2001:db8::1"))


def sent(addresses: tuple[Address, Address], protocol: int, port: int = 0) -> Packet:
    """Return a probe as scapy reads it, once it has the same octets when scapy makes its sums and lengths."""
    octets = frame(Probe(*addresses, protocol, port), POD, HOST)
    packet: Any = Ether(octets)
    assert (packet.src, packet.dst) == ("02:00:00:00:00:01", "02:00:00:00:00:02")
    layer = packet
    while layer:
        for name in ("chksum", "cksum", "len", "plen"):
            if name in layer.fields:
                del layer.fields[name]
        layer = layer.payload
    packet.clear_cache()
    assert bytes(packet) == octets
    return Ether(octets)


@pytest.mark.parametrize(("addresses", "layer"), [(V4, IP), (V6, IPv6)])
def test_each_protocol_has_the_packet_that_opens_a_connection(addresses: tuple[Address, Address], layer: Any) -> None:
    tcp, udp, sctp = sent(addresses, 6, 443), sent(addresses, 17, 53), sent(addresses, 132, 3868)

    for packet in (tcp, udp, sctp):
        assert (packet[layer].src, packet[layer].dst) == tuple(map(str, addresses))
    assert (tcp[TCP].flags, tcp[TCP].sport, tcp[TCP].dport) == ("S", 0, 443)
    assert (udp[UDP].sport, udp[UDP].dport) == (0, 53)
    assert (sctp[SCTP].sport, sctp[SCTP].dport, SCTPChunkInit in sctp) == (0, 3868, True)


def test_of_icmp_it_is_an_echo_request_with_identifier_0() -> None:
    assert (sent(V4, 1)[ICMP].type, sent(V4, 1)[ICMP].id) == (8, 0)
    assert sent(V6, 58)[ICMPv6EchoRequest].id == 0


@pytest.mark.parametrize("protocol", [47, 50, 1])
def test_of_any_other_protocol_it_is_an_empty_header(protocol: int) -> None:
    """Also of one that belongs to the other family."""
    packet = sent(V6, protocol)

    assert (packet[IPv6].nh, packet[IPv6].plen, packet[IPv6].hlim) == (protocol, 16, 64)


def test_a_sum_of_0_is_written_as_all_ones() -> None:
    """There is one port of which that is so."""
    probes = (frame(Probe(*V4, 17, port), POD, HOST) for port in range(65536))

    assert {probe[-2:] for probe in probes if probe[-2:] in {b"\0\0", b"\xff\xff"}} == {b"\xff\xff"}


def seen(**changes: Any) -> Event:
    """Return what the programs knew of a probe of TCP port 443."""
    fields: dict[str, Any] = dict.fromkeys(
        ("time", "reason", "point", "peer_id", "length", "source_identity", "destination_identity"), 0
    )
    fields |= {"type": EventType.DROP, "direction": Direction.EGRESS, "endpoint_id": 7, "file": 0, "line": 0}
    fields |= {"source": V4[0], "destination": V4[1], "protocol": 6, "source_port": 0, "destination_port": 443}
    return Event(**fields | {"has_ports": True, "flags": 2, "conntrack": 0} | changes)


@pytest.mark.parametrize(
    "other",
    [
        {"source": V4[1]},
        {"destination": V4[0]},
        {"source": None, "destination": None},
        {"protocol": 17},
        {"source_port": 40000},
        {"destination_port": 80},
    ],
)
def test_a_real_packet_is_not_taken_for_a_probe(other: dict[str, Any]) -> None:
    """Which may come in between, at the same programs."""
    probe = Probe(*V4, 6, 443)

    assert is_probe(seen(), probe)
    assert not is_probe(seen(**other), probe)


def test_of_an_echo_the_type_is_no_port() -> None:
    assert is_probe(seen(protocol=1, destination_port=8), Probe(*V4, 1))
