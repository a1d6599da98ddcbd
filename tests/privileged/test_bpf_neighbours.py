"""ARP and neighbour discovery of a pod: the gateway answers, nobody else does, and nobody is impersonated."""

from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import pytest
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    in6_chksum,
)
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

from tests.bpf_support import (
    ETHER,
    GATEWAY_V4,
    GATEWAY_V6,
    HOST_MAC,
    OK,
    PEER_MAC,
    PEER_V4,
    PEER_V6,
    POD_MAC,
    POD_V4,
    POD_V6,
    REDIRECT,
    SHOT,
    Datapath,
)

pytestmark = pytest.mark.privileged

BROADCAST = Ether(src=POD_MAC, dst="ff:ff:ff:ff:ff:ff")
SOLICITED = Ether(src=POD_MAC, dst="33:33:ff:00:00:01")


@pytest.fixture
def datapath() -> Iterator[Datapath]:
    """No policy at all: finding the gateway doesn't depend on it."""
    with Datapath() as datapath:
        yield datapath


def request(**fields: Any) -> Packet:
    """Return the pod's ARP request for the gateway, with some fields changed."""
    ours = {"op": "who-has", "hwsrc": POD_MAC, "psrc": POD_V4, "hwdst": "00:00:00:00:00:00", "pdst": GATEWAY_V4}
    return ARP(**{**ours, **fields})


def solicitation(target: str = GATEWAY_V6, source: str = POD_V6, **ip: Any) -> Packet:
    """Return the pod's neighbour solicitation as Linux sends it."""
    return IPv6(**{"src": source, "dst": "ff02::1:ff00:1", "hlim": 255, **ip}) / ICMPv6ND_NS(tgt=target)


OPTION = ICMPv6NDOptSrcLLAddr(lladdr=POD_MAC)


def test_arp_for_the_gateway_is_answered_with_the_nodes_end_of_the_link(datapath: Datapath) -> None:
    done = datapath.send(BROADCAST / request())
    arp = done.packet[ARP]

    assert done.verdict == REDIRECT
    assert (done.packet.src, done.packet.dst) == (HOST_MAC, POD_MAC)
    assert (arp.op, arp.hwsrc, arp.psrc, arp.hwdst, arp.pdst) == (2, HOST_MAC, GATEWAY_V4, POD_MAC, POD_V4)
    assert datapath.drops() == {}


def test_a_unicast_arp_probe_of_the_gateway_is_answered_too(datapath: Datapath) -> None:
    assert datapath.send(ETHER / request(hwdst=HOST_MAC)).verdict == REDIRECT


def test_the_pods_own_arp_answers_reach_the_node(datapath: Datapath) -> None:
    assert datapath.send(ETHER / request(op="is-at", hwdst=HOST_MAC, pdst="192.0.2.9")).verdict == OK


@pytest.mark.parametrize(
    ("arp", "reason"),
    [
        (request(pdst=PEER_V4), "arp target"),
        (request(op=3), "arp target"),
        (request(hwsrc=PEER_MAC), "arp sender"),
        (request(psrc=PEER_V4), "arp sender"),
        (request(op="is-at", psrc=PEER_V4), "arp sender"),
        (request(op="is-at", psrc=GATEWAY_V4), "arp sender"),
        (request(op="is-at", hwsrc=HOST_MAC), "arp sender"),
        (request(psrc="0.0.0.0", pdst=POD_V4), "link local noise"),
        (request(pdst=POD_V4), "link local noise"),
        (request(hwtype=6), "invalid packet"),
        (request(ptype=0x86DD), "invalid packet"),
        (request(hwlen=8), "invalid packet"),
        (request(plen=16), "invalid packet"),
    ],
)
def test_other_arp_is_dropped_by_name(datapath: Datapath, arp: Packet, reason: str) -> None:
    assert datapath.send(BROADCAST / arp).verdict == SHOT
    assert datapath.drops() == {reason: 1}


def test_truncated_arp_is_invalid_wherever_it_ends(datapath: Datapath) -> None:
    whole = bytes(BROADCAST / request())
    lengths = range(15, len(whole))
    for length in lengths:
        datapath.send(whole[:length])

    assert datapath.drops() == {"invalid packet": len(lengths)}


@pytest.mark.parametrize("source", [POD_V6, "fe80::7"])
@pytest.mark.parametrize("option", [OPTION, None], ids=["with option", "without"])
def test_a_solicitation_for_the_gateway_is_answered(datapath: Datapath, source: str, option: Packet | None) -> None:
    sent = solicitation(source=source) / option if option else solicitation(source=source)
    done = datapath.send(SOLICITED / sent)
    ip6, answer = done.packet[IPv6], done.packet[ICMPv6ND_NA]

    assert done.verdict == REDIRECT
    assert (done.packet.src, done.packet.dst) == (HOST_MAC, POD_MAC)
    assert (ip6.src, ip6.dst, ip6.hlim, ip6.plen) == (GATEWAY_V6, source, 255, 32)
    assert (answer.tgt, answer.R, answer.S, answer.O) == (GATEWAY_V6, 0, 1, 1)
    assert done.packet[ICMPv6NDOptDstLLAddr].lladdr == HOST_MAC
    assert len(done.raw) == 14 + 40 + 32
    assert datapath.drops() == {}


@pytest.mark.parametrize("last", range(0, 256, 15))
def test_the_answers_checksum_is_right(last: int) -> None:
    """A sum of zero over header and message, for addresses that make different carries."""
    pod = f"fd00::ffff:{last:x}ff"
    with Datapath(addresses=[ip_address(pod)]) as datapath:
        done = datapath.send(SOLICITED / solicitation(source=pod) / OPTION)

    assert in6_chksum(58, done.packet[IPv6], done.raw[54:]) == 0


def test_an_option_that_is_more_than_a_solicitation_needs_is_cut_off(datapath: Datapath) -> None:
    done = datapath.send(SOLICITED / solicitation() / OPTION / (b"\0" * 16))

    assert (done.verdict, len(done.raw)) == (REDIRECT, 86)


def test_the_pods_own_advertisements_reach_the_node(datapath: Datapath) -> None:
    for source in (POD_V6, "fe80::7"):
        sent = IPv6(src=source, dst="fe80::1", hlim=255) / ICMPv6ND_NA(tgt=POD_V6, R=0)
        assert datapath.send(ETHER / sent).verdict == OK
    assert datapath.drops() == {}


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (solicitation(target=PEER_V6) / OPTION, "nd target"),
        (solicitation(target="fe80::1") / OPTION, "nd target"),
        (solicitation(source=PEER_V6) / OPTION, "nd sender"),
        (IPv6(src=POD_V6, dst="fe80::1", hlim=255) / ICMPv6ND_NA(tgt=PEER_V6), "nd sender"),
        (IPv6(src=POD_V6, dst="fe80::1", hlim=255) / ICMPv6ND_NA(tgt=GATEWAY_V6), "nd sender"),
        (IPv6(src=PEER_V6, dst="fe80::1", hlim=255) / ICMPv6ND_NA(tgt=POD_V6), "nd sender"),
        (solicitation(source="::", target=POD_V6), "link local noise"),
        (IPv6(src="fe80::7", dst="ff02::1", hlim=255) / ICMPv6ND_RA(), "link local noise"),
        (IPv6(src="fe80::7", dst=PEER_V6, hlim=255) / ICMPv6ND_Redirect(), "link local noise"),
        (solicitation(hlim=64) / OPTION, "invalid packet"),
        (IPv6(src=POD_V6, dst="ff02::1:ff00:1", hlim=255) / ICMPv6ND_NS(tgt=GATEWAY_V6, code=1), "invalid packet"),
    ],
)
def test_other_neighbour_discovery_is_dropped_by_name(datapath: Datapath, packet: Packet, reason: str) -> None:
    assert datapath.send(SOLICITED / packet).verdict == SHOT
    assert datapath.drops() == {reason: 1}


def test_a_solicitation_that_ends_in_its_target_is_invalid(datapath: Datapath) -> None:
    whole = bytes(SOLICITED / solicitation())
    lengths = range(62, len(whole))
    for length in lengths:
        datapath.send(whole[:length])

    assert datapath.drops() == {"invalid packet": len(lengths)}


def test_less_than_the_shortest_icmp_message_has_no_type_and_goes_by_its_address(datapath: Datapath) -> None:
    whole = bytes(SOLICITED / solicitation())
    for length in range(55, 62):
        assert datapath.send(whole[:length]).verdict == SHOT

    assert datapath.drops() == {"link local noise": 7}
