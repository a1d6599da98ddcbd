"""The pure parts of `podlane trace`: who pods are, whose drop it was, how it reads."""

import struct
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from podlane.common.v1 import types_pb2
from podlane.endpoint.v1 import trace_pb2

from cli.tracer import packet as packets
from cli.tracer import reasons, send, show
from cli.tracer.kernel_types import KernelTypes, UnknownTypeError
from cli.tracer.pairs import WAIT, Pairs
from cli.tracer.pods import Pod, Pods
from cli.tracer.seen import BY_TC, KERNEL, PODLANE, Machine, Seen, of_kernel
from services.common.errors import InvalidArgument
from services.loader.probepacket import Probe, frame

WEB = Pod(1, "shop/web-0", ("10.0.0.2", "fd00::2"), 11, 4026532001)
DB = Pod(2, "shop/db-0", ("10.0.0.3",), 12, 4026532002)
NODE = 4026531840
MACHINE = Machine({3: "NO_SOCKET", 12: "NETFILTER_DROP", 73: "TC_INGRESS"}, 1000.0, NODE)
TOLD: dict[str, Any] = {
    "time": 5_000_000_000,
    "reason": 3,
    "function": "__udp4_lib_rcv+0x4bc",
    "netns": DB.namespace,
    "ifindex": 2,
    "device": "eth0",
    "length": 30,
    "cpu": 1,
    "ethertype": 0x0800,
    "source": "10.0.0.2",
    "destination": "10.0.0.3",
    "protocol": 17,
    "has_ports": True,
    "source_port": 4000,
    "destination_port": 53,
    "flags": 0,
}
POLICY = Seen(
    time=1005.0,
    by=PODLANE,
    reason="policy",
    place="bpf/lib/policy.h:85",
    explanation="isolated by shop/db",
    endpoint=2,
    endpoints=frozenset({1, 2}),
    source="10.0.0.2",
    destination="10.0.0.3",
    source_port=4000,
    destination_port=53,
    protocol=17,
    has_ports=True,
)


def known() -> Pods:
    pods = Pods()
    for pod in (WEB, DB):
        pods.put(pod)
    return pods


def dropped(**fields: Any) -> Seen:
    return of_kernel(TOLD | fields, MACHINE, known())


def by_tc(**fields: Any) -> Seen:
    return dropped(reason=73, netns=NODE, ifindex=WEB.interface, device="lxc1", **fields)


# ── pods ──


def test_a_tracer_is_told_what_is_new_and_what_is_gone():
    pods = Pods()

    assert pods.put(DB) == {"add": {"addresses": ["0a000003"], "interfaces": [12], "namespaces": [4026532002]}}
    assert pods.put(DB) == {}
    assert pods.put(replace(DB, interface=13)) == {"add": {"interfaces": [13]}, "remove": {"interfaces": [12]}}
    assert pods.drop(2) == {
        "remove": {"addresses": ["0a000003"], "interfaces": [13], "namespaces": [4026532002]},
    }
    assert pods.drop(2) == {}
    assert len(pods) == 0


def test_an_address_that_another_pod_has_by_now_is_not_taken_away():
    pods = Pods()
    pods.put(DB)

    pods.put(Pod(3, "shop/db-1", ("10.0.0.3",)))
    told = pods.drop(2)

    assert told == {"remove": {"interfaces": [12], "namespaces": [4026532002]}}
    assert pods.by_address("10.0.0.3") == Pod(3, "shop/db-1", ("10.0.0.3",))


def test_after_a_new_list_only_those_on_it_are_there():
    pods = known()

    assert [told["remove"]["interfaces"] for told in pods.keep({1})] == [[12]]
    assert (pods.by_id(1), pods.by_id(2), pods.by_interface(12), pods.by_namespace(DB.namespace)) == (
        WEB,
        None,
        None,
        None,
    )


# ── drops ──


def test_a_drop_has_names_a_place_and_words():
    drop = dropped()

    assert (drop.by, drop.reason, drop.time) == (KERNEL, "NO_SOCKET", 1005.0)
    assert (drop.source_name, drop.destination_name, drop.endpoints) == ("shop/web-0", "shop/db-0", frozenset({1, 2}))
    assert drop.where == "in shop/db-0, eth0"
    assert "nobody listens" in drop.explanation
    line = show.line(drop).partition(" ")[2]
    assert line.startswith(
        "shop/web-0 10.0.0.2:4000 => shop/db-0 10.0.0.3:53 UDP 30 bytes: drop (NO_SOCKET) (__udp4_lib_rcv+0x4bc): "
        "in shop/db-0, eth0, nobody listens"
    )


@pytest.mark.parametrize(
    ("fields", "where", "endpoints"),
    [
        ({"netns": NODE, "ifindex": 11, "device": "lxc1"}, "on the node, at shop/web-0's lxc1", {1, 2}),
        ({"netns": NODE, "ifindex": 5}, "on the node, eth0", {1, 2}),
        ({"netns": 4026539999}, "in another network namespace, eth0", {1, 2}),
        ({"netns": 0, "device": ""}, "", {1, 2}),
        ({"source": "192.0.2.1", "netns": NODE, "ifindex": 5}, "on the node, eth0", {2}),
        ({"source": "", "destination": "", "netns": WEB.namespace, "device": ""}, "in shop/web-0", {1}),
    ],
)
def test_where_it_was_and_whom_it_concerns(fields: dict[str, Any], where: str, endpoints: set[int]):
    drop = dropped(**fields)

    assert (drop.where, set(drop.endpoints)) == (where, endpoints)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"protocol": 6, "flags": 18}, "TCP SYN ACK"),
        ({"protocol": 1, "destination_port": 8, "flags": 0}, "10.0.0.2 => shop/db-0 10.0.0.3 ICMP type 8 code 0"),
        ({"protocol": 50, "has_ports": False}, "protocol 50"),
        ({"source": "", "destination": "", "ethertype": 0x0806}, "? => ? ARP"),
        ({"source": "fd00::2"}, "shop/web-0 [fd00::2]:4000"),
        ({"reason": 99}, "REASON_99"),
        ({"reason": 2 << 16 | 7}, "SUBSYSTEM_2_7"),
    ],
)
def test_lines_for_all_kinds_of_packets(fields: dict[str, Any], words: str):
    assert words in show.line(dropped(**fields))


def test_json_has_the_same_keys_for_all_kinds():
    tcp, arp = show.plain(dropped()), show.plain(dropped(source="", destination="", ethertype=0x0806))

    assert tcp.keys() == arp.keys()
    assert tcp["source"] == {"address": "10.0.0.2", "port": 4000, "name": "shop/web-0"}
    assert (tcp["time"], tcp["by"], tcp["icmp_type"]) == ("1970-01-01T00:16:45.000000Z", "kernel", None)
    assert show.plain(dropped(protocol=1, destination_port=3, flags=1))["icmp_code"] == 1


def test_a_summary_counts_by_reason_function_and_pod():
    summary = show.Summary()
    for drop in (dropped(), dropped(function="__udp4_lib_rcv+0x11"), POLICY):
        summary.add(drop, {1: "shop/web-0", 2: "shop/db-0"})

    assert summary.rows()[0] == {
        "reason": "NO_SOCKET",
        "by": "kernel",
        "function": "__udp4_lib_rcv",
        "pod": "shop/db-0",
        "packets": 2,
    }
    assert [(row["function"], row["packets"]) for row in summary.rows()[2:]] == [("bpf/lib/policy.h:85", 1)] * 2


# ── whose drop it was ──


@pytest.mark.parametrize("kernel_first", [True, False])
def test_podlanes_drop_is_told_once_with_both_words(kernel_first: bool):
    pairs = Pairs()

    if kernel_first:
        assert pairs.kernel(by_tc(), 0.0) is None
        told = pairs.podlane(POLICY, 0.1)
    else:
        assert pairs.podlane(POLICY, 0.0) is None
        told = pairs.kernel(by_tc(), 0.1)

    assert told is not None
    assert (told.by, told.reason, told.kernel_reason) == (PODLANE, "policy", "TC_INGRESS")
    assert (told.place, told.where) == ("bpf/lib/policy.h:85", "on the node, at shop/web-0's lxc1")
    assert list(pairs.rest()) == []


def test_each_of_two_alike_has_its_own_and_others_have_none():
    pairs = Pairs()
    assert pairs.kernel(by_tc(), 0.0) is None
    assert pairs.kernel(by_tc(source_port=4001), 0.0) is None

    assert pairs.podlane(POLICY, 0.0) is not None
    assert pairs.podlane(POLICY, 0.0) is None
    assert pairs.kernel(by_tc(), 0.0) is not None
    (alone,) = pairs.rest()
    assert (alone.by, alone.source_port) == (BY_TC, 4001)


def test_who_waits_in_vain_is_told_alone():
    pairs = Pairs()
    pairs.kernel(by_tc(), 0.0)
    pairs.podlane(replace(POLICY, source_port=1), WAIT)

    assert [drop.by for drop in pairs.expired(WAIT)] == [BY_TC]
    assert list(pairs.expired(WAIT)) == []
    assert [drop.by for drop in pairs.expired(2 * WAIT)] == [PODLANE]


@pytest.mark.parametrize("kernel_first", [True, False])
def test_a_drop_before_its_addresses_were_read_is_found_by_the_interface(kernel_first: bool):
    early = Seen(time=1005.0, by=PODLANE, reason="invalid source mac", endpoint=1, endpoints=frozenset({1}))
    pairs = Pairs()

    one, other = (pairs.kernel, pairs.podlane) if kernel_first else (pairs.podlane, pairs.kernel)
    first, second = (by_tc(), early) if kernel_first else (early, by_tc())
    assert one(first, 0.0) is None
    told = other(second, 0.0)

    assert told is not None
    assert (told.reason, told.source) == ("invalid source mac", "10.0.0.2")


# ── the kernel's types ──


def test_reasons_with_words_are_the_kernels():
    names = set(KernelTypes(Path("/sys/kernel/btf/vmlinux").read_bytes()).drop_reasons().values())

    assert reasons.explained() <= names
    assert names >= reasons.ORDINARY | reasons.TC
    assert all(len(text) < 110 and not text.endswith(".") for text in map(reasons.explanation, reasons.explained()))


def _btf(*types: tuple[str, int, int, list[tuple[str, int, int]]]) -> bytes:
    """Return BTF of (name, kind, size or type, members as name, type, offset in bits)."""
    strings, body = b"\0", b""

    def text(name: str) -> int:
        nonlocal strings
        if not name:
            return 0
        strings += name.encode() + b"\0"
        return len(strings) - len(name) - 1

    for name, kind, size, members in types:
        body += struct.pack("=III", text(name), kind << 24 | len(members), size)
        if kind == 1:
            body += bytes(4)
        for member in members:
            body += struct.pack("=II", text(member[0]), member[1])
            body += struct.pack("=I", member[2]) if kind in {4, 5} else b""
    return struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(body), len(body), len(strings)) + body + strings


def test_members_are_found_in_members_without_a_name_and_through_typedefs():
    types = KernelTypes(
        _btf(
            ("int", 1, 4, []),
            ("", 5, 8, [("ignored", 1, 0), ("wanted", 1, 32)]),
            ("inner", 4, 8, [("deep", 1, 32)]),
            ("alias", 8, 3, []),
            ("outer", 4, 32, [("first", 1, 0), ("", 2, 64), ("named", 4, 128)]),
            ("reasons", 6, 4, [("NONE", 0, 0), ("SOME", 3, 0)]),
            ("", 13, 0, [("", 1, 0), ("", 1, 0)]),
            ("", 2, 7, []),
            ("hook", 8, 8, []),
        )
    )

    assert types.offset("outer", "wanted") == 12
    assert types.offset("outer", "named.deep") == 20
    assert types.enum("reasons") == {0: "NONE", 3: "SOME"}
    assert types.parameters("hook") == 2
    for name, path in (("outer", "nothing"), ("nobody", "x"), ("outer", "first.deep")):
        with pytest.raises(UnknownTypeError):
            types.offset(name, path)
    with pytest.raises(UnknownTypeError, match="no BTF"):
        KernelTypes(b"something else, and longer than a header")


# ── packets ──


@pytest.mark.parametrize(
    ("protocol", "port", "version", "read"),
    [
        (None, "443", 4, (6, 443)),
        (None, "53/UDP", 4, (17, 53)),
        (None, "icmp", 6, (58, 0)),
        ("udp", "53", 4, (17, 53)),
        ("SCTP", "3868", 6, (132, 3868)),
        ("icmp", None, 4, (1, 0)),
        ("50", None, 4, (50, 0)),
    ],
)
def test_what_to_send(protocol: str | None, port: str | None, version: int, read: tuple[int, int]):
    assert packets.read_protocol(protocol, port, version) == read


@pytest.mark.parametrize(
    ("protocol", "port", "words"),
    [
        (None, None, "--port or --protocol"),
        ("tcp", None, "needs a port"),
        ("udp", "53/UDP", "needs a port"),
        ("icmp", "80", "has no ports"),
        ("256", None, "a number to 255"),
        ("gre", None, "neither tcp"),
    ],
)
def test_what_can_not_be_sent(protocol: str | None, port: str | None, words: str):
    with pytest.raises(InvalidArgument, match=words):
        packets.read_protocol(protocol, port, 4)


def test_flags():
    assert packets.read_flags("") == 0
    assert packets.read_flags("syn, ack") == 18
    with pytest.raises(InvalidArgument, match="'sin' is no flag"):
        packets.read_flags("sin")


@pytest.mark.parametrize("ends", [("10.0.0.2", "10.0.0.3"), ("fd00::2", "fd00::3")])
def test_what_was_sent_is_recognised_in_a_tunnel_too(ends: tuple[str, str]):
    one, other = map(ip_address, ends)
    packet = frame(Probe(one, other, 6, 80, 40000), bytes(6), bytes(6))

    needle = send.needle(packet)

    assert needle == one.packed + other.packed + (40000).to_bytes(2, "big") + (80).to_bytes(2, "big")
    assert needle in bytes(50) + packet


def test_what_became_of_what_was_sent_in_the_order_of_its_way():
    sent = send.Sent(("shop/web-0", "the node", "shop/db-0"))
    sent.note(2.0, ("shop/db-0", "eth0", False))
    sent.note(2.0, ("the node", "lxc1", False))
    assert "seen last at shop/db-0's eth0" in send.lines(sent, "")[-1]
    sent.note(1.0, ("shop/web-0", "eth0", True))

    assert send.lines(sent, "shop/db-0")[2:] == [
        "  leaves shop/web-0, eth0",
        "  comes to the node, lxc1",
        "  comes to shop/db-0, eth0",
        "it arrived at shop/db-0, and nobody dropped it there",
    ]
    sent.drops.append(dropped())
    assert send.lines(sent, "shop/db-0")[-1] == "it died: NO_SOCKET in shop/db-0, eth0"
    assert "nowhere" in send.lines(send.Sent(("a",)), "b")[-1]


def test_a_way_that_was_not_run_or_that_differs_says_so():
    address = types_pb2.IpAddress(packed=b"\x0a\0\0\x02")
    reply = trace_pb2.TracePacketResponse(source=address, destination=address, outcome="x", passed=True)
    reply.steps.add().step.ran = True
    assert list(packets.lines(reply, "80/TCP"))[-1] == "the programs in force did what follows from the maps"

    reply.steps[0].step.ran = False
    assert "were not run" in list(packets.lines(reply, "80/TCP"))[-1]
    reply.disagreements.append("it ends with ok by the maps, and shot by the programs")
    assert list(packets.lines(reply, "80/TCP"))[-1] == "  it ends with ok by the maps, and shot by the programs"
