"""Packets for tests of connection tracking: questions and answers of each kind, sent by a pod and received by it."""

from dataclasses import dataclass

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import Ether
from scapy.layers.sctp import SCTP
from scapy.packet import Packet, Raw

from services.loader.conntrack import Flow
from services.loader.model import Direction
from tests.bpf_support import (
    ETHER,
    HOST_MAC,
    OK,
    PEER_V4,
    PEER_V6,
    POD_MAC,
    POD_V4,
    POD_V6,
    REDIRECT,
    WORLD_V4,
    WORLD_V6,
    Datapath,
)

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


def from_router(family: int, error: Packet, quoted: Packet) -> Packet:
    """Return a router's error about a packet of the pod, which it quotes as far as it must."""
    l3 = IP(src=ROUTER_V4, dst=POD_V4) if family == 4 else IPv6(src=ROUTER_V6, dst=POD_V6)
    return l3 / error / Raw(bytes(quoted)[: 28 if family == 4 else 48])
