"""Every switch of ep_config.h changes what it says and nothing else; any two of them, and all but one, load."""

import contextlib
import itertools
import re
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import ICMPv6ND_NS, IPv6
from scapy.layers.l2 import ARP, Ether

from services.loader import headers
from services.loader.model import Direction, PolicyEntry
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
    UNSPEC,
    WORLD_V4,
    Datapath,
    compiled,
)
from tests.examples import examples

pytestmark = pytest.mark.privileged

WEB = IP(src=POD_V4, dst=PEER_V4) / TCP(dport=80)
WEB6 = IPv6(src=POD_V6, dst=PEER_V6) / TCP(dport=80)
STRANGER = IP(src=WORLD_V4, dst=PEER_V4) / TCP(dport=80)
STRANGER6 = IPv6(src="2001:db8::9", dst=PEER_V6) / TCP(dport=80)


ALL = tuple(headers.OPTIONS)
# Each compiles for a second. Of two switches some half has the one without the other; with EXAMPLES all pairs are made.
HALVES = [
    tuple(name for number, name in enumerate(ALL) if (number >> bit & 1) == value)
    for bit in range((len(ALL) - 1).bit_length())
    for value in (0, 1)
]
COMBINATIONS = [
    (),
    *itertools.combinations(ALL, 1),
    *(itertools.combinations(ALL, 2) if examples(1) > 1 else HALVES),
    *itertools.combinations(ALL, len(ALL) - 1),
    ALL,
]


@pytest.mark.parametrize("turned", COMBINATIONS, ids=lambda turned: "+".join(turned) or "none")
def test_combinations_of_switches_are_accepted_by_the_verifier(turned: tuple[str, ...]) -> None:
    with Datapath(compiled(*turned)) as datapath:
        datapath.allow_all()
        passes = UNSPEC if "host-routing" in turned else REDIRECT
        assert [datapath.send(ETHER / packet).verdict for packet in (WEB, WEB6)] == [passes, passes]


def test_without_source_ip_verification_a_pod_may_forward_for_others() -> None:
    with Datapath(compiled("source-ip-verification")) as datapath:
        datapath.allow_all()

        assert [datapath.send(ETHER / packet).verdict for packet in (STRANGER, STRANGER6)] == [REDIRECT, REDIRECT]


def test_without_source_ip_verification_the_hardware_address_is_still_checked() -> None:
    with Datapath(compiled("source-ip-verification")) as datapath:
        datapath.allow_all().send(Ether(src=PEER_MAC, dst=HOST_MAC) / STRANGER)

        assert datapath.drops() == {"invalid source mac": 1}


def test_without_the_arp_responder_the_stack_is_asked() -> None:
    arp = ARP(hwsrc=POD_MAC, psrc=POD_V4, pdst=GATEWAY_V4)
    solicitation = IPv6(src=POD_V6, dst="ff02::1:ff00:1", hlim=255) / ICMPv6ND_NS(tgt=GATEWAY_V6)
    with Datapath(compiled("arp-responder")) as datapath:
        for packet in (arp, solicitation):
            sent = bytes(Ether(src=POD_MAC, dst="ff:ff:ff:ff:ff:ff") / packet)
            done = datapath.send(sent)
            assert (done.verdict, done.raw) == (OK, sent)
        assert datapath.drops() == {}


def test_policy_accounting_counts_in_the_entry_that_decided() -> None:
    web = PolicyEntry(Direction.EGRESS, 0, 6, 80, 16)
    rest = PolicyEntry(Direction.EGRESS)
    with Datapath(compiled("policy-accounting")) as datapath:
        datapath.enforce([web, rest, PolicyEntry(Direction.INGRESS)])
        for _ in range(3):
            datapath.send(ETHER / WEB)
        datapath.send(ETHER / IP(src=POD_V4, dst=WORLD_V4) / TCP(dport=81))
        counted = {one.entry: (one.packets, one.bytes) for one in datapath.policy.dump()}

    size = len(bytes(ETHER / WEB))
    assert counted == {web: (3, 3 * size), rest: (1, size), PolicyEntry(Direction.INGRESS): (3, 3 * size)}


def test_without_policy_accounting_nothing_is_counted() -> None:
    with Datapath() as datapath:
        datapath.allow_all().send(ETHER / WEB)

        assert {(one.packets, one.bytes) for one in datapath.policy.dump()} == {(0, 0)}


@contextlib.contextmanager
def traced(directory: Path) -> Iterator[Path]:
    """Mount tracefs for the block; yield the file that shows the trace without consuming it."""
    subprocess.run(["mount", "-t", "tracefs", "none", directory], check=True)
    try:
        yield directory / "trace"
    finally:
        subprocess.run(["umount", directory], check=True)


def test_debug_prints_drops_and_deliveries_to_the_trace(tmp_path: Path) -> None:
    """The trace is shared by the machine: an endpoint id and a length that nobody else prints mark our lines."""
    payload = b"x" * (200 + secrets.randbelow(1000))
    with Datapath(compiled("debug"), endpoint_id=54321) as datapath, traced(tmp_path) as trace:
        datapath.allow_all()
        datapath.send(ETHER / WEB / payload)
        datapath.send(ETHER / STRANGER / payload)
        datapath.send(ETHER / IP(src=POD_V4, dst=WORLD_V4) / TCP(dport=80) / payload)
        size = len(bytes(ETHER / WEB / payload))
        wanted = [
            f"podlane: endpoint 54321 sends {size} bytes to endpoint 8",
            f"podlane: endpoint 54321 dropped {size} bytes, reason 132",
            f"podlane: endpoint 54321 sends {size} bytes to the stack",
        ]

        lines = re.findall(r"podlane: endpoint 54321 .*", trace.read_text(errors="replace"))
        assert [line for line in lines if f" {size} bytes" in line] == wanted
