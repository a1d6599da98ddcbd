"""What follows from the maps for one packet: a second reading of bpf_lxc.c, held against the programs elsewhere."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from services.common.model import Address, Attachment, Network
from services.loader import conntrack
from services.loader.conntrack import ConntrackState
from services.loader.layout import EndpointEntry, IpcacheEntry
from services.loader.model import Direction, EndpointSpec, PolicyEntry, Routing
from services.loader.packettrace import longest
from services.loader.probepacket import Probe
from services.loader.replay import Replay
from services.loader.replayadmit import flow_key
from services.loader.replaysteps import Node, Step, Verdict

WEB, DB, AWAY, OUT = map(ip_address, ("10.0.0.2", "10.0.0.3", "10.0.1.9", "192.0.2.1"))
WEB6, DB6 = map(ip_address, ("fd00::2", "fd00::3"))
NODE = ip_address("10.0.0.1")
TCP, UDP, ICMP, ESP = 6, 17, 1, 50
ACK = 16
OPEN = (PolicyEntry(Direction.INGRESS), PolicyEntry(Direction.EGRESS))
NOW, REVISION = 1000, 7
ALONE = Node()
OVERLAY = Node(Routing.OVERLAY, 8472, 3)


def spec(id_: int, *addresses: Address, **options: bool) -> EndpointSpec:
    return EndpointSpec(
        id_, 1, Attachment("net", "c", "eth0"), f"lxc{id_}", 10 + id_, bytes(6), bytes(6), addresses, 300 + id_, options
    )


@dataclass
class Maps:
    """Tables as a test has them: web is endpoint 1, db is endpoint 2."""

    specs: dict[int, EndpointSpec] = field(default_factory=lambda: {1: spec(1, WEB, WEB6), 2: spec(2, DB, DB6)})
    rules: dict[int, Sequence[PolicyEntry]] = field(default_factory=lambda: {1: OPEN, 2: OPEN})
    slots: dict[int, int] = field(default_factory=lambda: {1: 101, 2: 102, 0: 100})
    others: dict[Address, IpcacheEntry] = field(default_factory=dict)
    prefixes: dict[Network, int] = field(default_factory=dict)
    flows: dict[bytes, bytes] = field(default_factory=dict)
    hidden: set[Address] = field(default_factory=set)
    revision: int = REVISION
    now: int = NOW

    def endpoint(self, address: Address) -> EndpointEntry | None:
        if address == NODE:
            return EndpointEntry(address, 0, 0, 1, bytes(6), bytes(6), host=True)
        for one in self.specs.values():
            if address in one.addresses and address not in self.hidden:
                return EndpointEntry(
                    address, one.host_ifindex, one.id, one.identity, bytes(6), bytes(6), chained=one.chained
                )
        return None

    def ipcache(self, address: Address) -> IpcacheEntry | None:
        return self.others.get(address)

    def prefix(self, address: Address) -> tuple[Network, int] | None:
        return longest(self.prefixes, address)

    def policy(self, endpoint_id: int) -> Sequence[PolicyEntry]:
        return self.rules[endpoint_id]

    def flow(self, key: bytes) -> bytes | None:
        return self.flows.get(key)

    def slot(self, endpoint_id: int) -> int | None:
        return self.slots.get(endpoint_id)

    def spec(self, endpoint_id: int) -> EndpointSpec | None:
        return self.specs.get(endpoint_id)

    def track(self, probe: Probe, id_: int, direction: Direction, opener: Direction, allowed: int, **more: Any) -> None:
        value = {"expires": NOW + 1, "seen": b"\x80\x00"} | more
        self.flows[flow_key(probe, id_, direction)] = conntrack.VALUE.pack(
            value["expires"], allowed, opener, value["seen"], 0, 0, bytes(16), bytes(16)
        )


def send(maps: Maps, probe: Probe, node: Node = ALONE) -> list[Step]:
    return Replay(maps, node, probe).egress(maps.specs[1])


def receive(maps: Maps, probe: Probe, ifindex: int = 0, node: Node = ALONE) -> list[Step]:
    return Replay(maps, node, probe).ingress(maps.specs[2], ifindex)


def way(steps: Sequence[Step]) -> list[tuple[str, Verdict, str]]:
    return [(step.program, step.verdict, step.reason) for step in steps]


def asked(step: Step) -> list[str]:
    return [lookup.map for lookup in step.lookups]


@pytest.mark.parametrize("ends", [(WEB, DB), (WEB6, DB6)])
def test_between_pods_the_senders_program_jumps_into_the_receivers(ends: tuple[Address, Address]):
    one, other = send(Maps(), Probe(*ends, TCP, 80))

    assert way([one, other]) == [("from_container", Verdict.TAIL_CALL, ""), ("policy", Verdict.REDIRECT, "")]
    assert asked(one) == ["endpoints", "conntrack", "policy", "policy", "prefixes", "call_policy"]
    assert asked(other) == ["conntrack", "policy", "policy", "prefixes"]
    assert (other.endpoint_id, other.source_identity, other.destination_identity) == (2, 301, 302)
    assert one.conntrack == other.conntrack == ConntrackState.NEW


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        ((), "policy"),
        ((PolicyEntry(Direction.INGRESS, 301, TCP, 80, 16),), ""),
        ((PolicyEntry(Direction.INGRESS, 301, TCP, 64, 10),), ""),  # 64–127
        ((PolicyEntry(Direction.INGRESS, 301, TCP, 81, 16),), "policy"),
        ((PolicyEntry(Direction.INGRESS, 301, UDP, 80, 16),), "policy"),
        ((PolicyEntry(Direction.INGRESS, 999, TCP, 80, 16),), "policy"),
        ((PolicyEntry(Direction.EGRESS, 301, TCP, 80, 16),), "policy"),
        ((*OPEN, PolicyEntry(Direction.INGRESS, 301, deny=True)), "policy deny"),
        # Within one identity a narrow entry hides a wider one.
        ((PolicyEntry(Direction.INGRESS, 301, deny=True), PolicyEntry(Direction.INGRESS, 301, TCP, 80, 16)), ""),
    ],
)
def test_the_receivers_rules_decide(rules: Sequence[PolicyEntry], reason: str):
    steps = send(Maps(rules={1: OPEN, 2: rules}), Probe(WEB, DB, TCP, 80))

    assert steps[-1].reason == reason
    assert steps[-1].verdict is (Verdict.SHOT if reason else Verdict.REDIRECT)
    assert len(steps) == 2


def test_a_longer_prefix_hides_a_shorter_one():
    rules = (PolicyEntry(Direction.EGRESS, 5000),)
    maps = Maps(rules={1: rules, 2: OPEN}, prefixes={ip_network("192.0.2.0/24"): 5000})

    allowed = send(maps, Probe(WEB, OUT, TCP, 443))
    maps.prefixes[ip_network("192.0.2.1/32")] = 5001
    excepted = send(maps, Probe(WEB, OUT, TCP, 443))

    assert way(allowed) == [("from_container", Verdict.OK, "")]
    assert way(excepted) == [("from_container", Verdict.SHOT, "policy")]
    assert [lookup.found for lookup in allowed[0].lookups if lookup.map == "prefixes"] == [
        "192.0.2.0/24, identity 5000"
    ]


@pytest.mark.parametrize(
    ("probe", "reason"),
    [
        (Probe(ip_address("10.9.9.9"), DB, TCP, 80), "invalid source ip"),
        (Probe(WEB, ip_address("224.0.0.1"), UDP, 5353), "link local noise"),
        (Probe(WEB, ip_address("255.255.255.255"), UDP, 67), "link local noise"),
        (Probe(WEB6, ip_address("ff02::1"), UDP, 5353), "link local noise"),
        (Probe(WEB6, ip_address("fe80::1"), TCP, 80), "link local noise"),
    ],
)
def test_what_no_pod_may_send_asks_no_map(probe: Probe, reason: str):
    (step,) = send(Maps(), probe)

    assert (step.verdict, step.reason, step.lookups) == (Verdict.SHOT, reason, [])


def test_a_family_that_the_endpoint_has_no_address_of_is_unknown():
    maps = Maps(specs={1: spec(1, WEB), 2: spec(2, DB)})

    assert send(maps, Probe(WEB6, DB6, TCP, 80))[0].reason == "unknown l3"
    assert receive(maps, Probe(WEB6, DB6, TCP, 80))[0].reason == "unknown l3"


def test_an_entry_that_is_gone_changes_the_way():
    maps = Maps()
    maps.slots.pop(2)
    assert way(send(maps, Probe(WEB, DB, TCP, 80))) == [("from_container", Verdict.SHOT, "endpoint not ready")]

    maps.hidden.add(DB)
    (step,) = send(maps, Probe(WEB, DB, TCP, 80))
    assert (step.verdict, step.destination_identity) == (Verdict.OK, 2)
    assert "routes it away" in step.next


@pytest.mark.parametrize(
    ("opener", "allowed", "state", "passes"),
    [
        (Direction.EGRESS, REVISION << 32 | 302, ConntrackState.ESTABLISHED, True),
        (Direction.EGRESS, REVISION - 1 << 32 | 302, ConntrackState.ESTABLISHED, False),
        (Direction.EGRESS, REVISION << 32 | 999, ConntrackState.ESTABLISHED, False),
        (Direction.INGRESS, REVISION - 1 << 32 | 302, ConntrackState.REPLY, True),
        (Direction.INGRESS, 0, ConntrackState.REPLY, False),
    ],
)
def test_a_flow_lets_its_packets_pass_as_long_as_policy_is_what_allowed_it(
    opener: Direction, allowed: int, state: ConntrackState, passes: bool
):
    probe = Probe(WEB, DB, TCP, 80, 4000, ACK)
    maps = Maps(rules={1: (), 2: OPEN})
    maps.track(probe, 1, Direction.EGRESS, opener, allowed)

    step = send(maps, probe)[0]

    assert (step.conntrack, step.verdict is not Verdict.SHOT) == (state, passes)
    assert ("policy" in asked(step)) is not passes


def test_a_dead_flow_and_one_that_a_syn_replaces_are_none():
    probe = Probe(WEB, DB, TCP, 80, 4000)
    maps = Maps(rules={1: (), 2: OPEN})
    maps.track(probe, 1, Direction.EGRESS, Direction.EGRESS, REVISION << 32 | 302, expires=NOW)
    assert send(maps, probe)[0].conntrack == ConntrackState.NEW

    maps.track(probe, 1, Direction.EGRESS, Direction.INGRESS, REVISION << 32 | 302)  # against its direction
    assert send(maps, probe)[0].conntrack == ConntrackState.NEW
    maps.track(probe, 1, Direction.EGRESS, Direction.EGRESS, REVISION << 32 | 302, seen=b"\x84\x00")  # was reset
    assert send(maps, probe)[0].conntrack == ConntrackState.NEW
    assert send(maps, replace(probe, flags=ACK))[0].conntrack == ConntrackState.ESTABLISHED


def test_an_answer_to_what_the_stack_has_brought_goes_back_by_it():
    probe = Probe(WEB, DB, TCP, 80, 4000, ACK)
    maps = Maps()
    maps.track(probe, 1, Direction.EGRESS, Direction.INGRESS, REVISION << 32 | 302, seen=b"\xc0\x00")

    (step,) = send(maps, probe)

    assert (step.verdict, step.conntrack) == (Verdict.OK, ConntrackState.REPLY)
    assert "may have translated" in step.next


@pytest.mark.parametrize(
    ("options", "asks"), [({"conntrack": False}, False), ({"policy-accounting": True}, True), ({}, False)]
)
def test_switches_count(options: Mapping[str, bool], asks: bool):
    probe = Probe(WEB, DB, TCP, 80, 4000, ACK)
    maps = Maps(specs={1: spec(1, WEB, **options), 2: spec(2, DB)})
    maps.track(probe, 1, Direction.EGRESS, Direction.EGRESS, REVISION << 32 | 302)

    step = send(maps, probe)[0]

    assert ("policy" in asked(step)) is (asks or "conntrack" in options)
    assert bool(step.conntrack) is ("conntrack" not in options)


def test_host_routing_and_other_plugins_leave_it_to_the_stack():
    by_stack = Maps(specs={1: spec(1, WEB, **{"host-routing": True}), 2: spec(2, DB)})
    chained = Maps(specs={1: replace(spec(1, WEB), chained=True), 2: spec(2, DB)})
    to_chained = Maps(specs={1: spec(1, WEB), 2: replace(spec(2, DB), chained=True)})

    for maps, words in ((by_stack, "routes it to"), (chained, "another plugin"), (to_chained, "routes it to")):
        (step,) = send(maps, Probe(WEB, DB, TCP, 80))
        assert step.verdict is Verdict.OK
        assert words in step.next


def test_a_false_source_passes_where_nobody_looks():
    maps = Maps(specs={1: spec(1, WEB, **{"source-ip-verification": False}), 2: spec(2, DB)})

    assert send(maps, Probe(OUT, DB, TCP, 80))[-1].verdict is Verdict.REDIRECT


def test_to_another_node_it_goes_through_the_tunnel_or_by_the_stack():
    tunnelled = {AWAY: IpcacheEntry(AWAY, 400, ip_address("172.16.0.2"))}
    routed = {AWAY: IpcacheEntry(AWAY, 400)}

    overlay = send(Maps(others=tunnelled), Probe(WEB, AWAY, TCP, 80), OVERLAY)
    native = send(Maps(others=routed), Probe(WEB, AWAY, TCP, 80), Node(Routing.NATIVE, 0, 3))
    alone = send(Maps(others=tunnelled), Probe(WEB, AWAY, TCP, 80))

    assert way(overlay) == [("from_container", Verdict.TAIL_CALL, ""), ("tunnel", Verdict.REDIRECT, "")]
    assert "172.16.0.2" in overlay[1].next
    assert overlay[0].destination_identity == native[0].destination_identity == 400
    assert way(native) == [("from_container", Verdict.OK, "")]
    assert alone[0].destination_identity == 2
    assert "ipcache" not in asked(alone[0])


def test_a_tunnel_that_a_pod_forges_is_dropped_where_there_is_one():
    probe = Probe(WEB, OUT, UDP, 8472)

    assert send(Maps(), probe, OVERLAY)[0].reason == "encap prohibited"
    assert send(Maps(), probe)[0].verdict is Verdict.OK
    assert send(Maps(), Probe(WEB, DB, UDP, 8472), OVERLAY)[-1].verdict is Verdict.REDIRECT


def test_without_the_tunnels_program_nobody_knows_where_to():
    maps = Maps(others={AWAY: IpcacheEntry(AWAY, 400, ip_address("172.16.0.2"))})
    maps.slots.pop(0)

    assert send(maps, Probe(WEB, AWAY, TCP, 80), OVERLAY)[0].reason == "no tunnel endpoint"


@pytest.mark.parametrize(
    ("source", "ifindex", "identity"),
    [(NODE, 0, 1), (OUT, 1, 2), (WEB, 11, 301), (WEB, 99, 2), (AWAY, 3, 400), (AWAY, 4, 2)],
)
def test_who_a_packet_of_the_stack_is_from(source: Address, ifindex: int, identity: int):
    maps = Maps(others={AWAY: IpcacheEntry(AWAY, 400)})

    first, second = receive(maps, Probe(source, DB, TCP, 80), ifindex, Node(Routing.NATIVE, 0, 3))

    assert way([first, second]) == [("to_container", Verdict.TAIL_CALL, ""), ("policy", Verdict.OK, "")]
    assert first.source_identity == second.source_identity == identity


def test_what_another_node_tunnels_has_the_identity_that_is_known_of_it():
    there = IpcacheEntry(AWAY, 400, ip_address("172.16.0.2"))
    maps = Maps(rules={1: OPEN, 2: (PolicyEntry(Direction.INGRESS, 400),)})
    replay = Replay(maps, OVERLAY, Probe(AWAY, DB, TCP, 80))

    first, second = replay.overlay(maps.specs[2], there)
    maps.hidden.add(DB)
    (unroutable,) = replay.overlay(maps.specs[2], there)

    assert way([first, second]) == [("from_overlay", Verdict.TAIL_CALL, ""), ("policy", Verdict.REDIRECT, "")]
    assert unroutable.reason == "unroutable"


def test_protocols_without_ports_are_asked_about_without():
    rules: dict[int, Sequence[PolicyEntry]] = {
        1: OPEN,
        2: (PolicyEntry(Direction.INGRESS, 301, ESP), PolicyEntry(Direction.INGRESS, 301, ICMP)),
    }

    assert send(Maps(rules=rules), Probe(WEB, DB, ESP))[-1].verdict is Verdict.REDIRECT
    echo = send(Maps(rules=rules), Probe(WEB, DB, ICMP))
    assert echo[-1].verdict is Verdict.REDIRECT
    # An echo's key says which end asks.
    assert echo[0].flow_key[-1] == 1 + 4
    assert echo[1].flow_key[-1] == 1
    # ICMP of the other family is nobody's echo.
    assert send(Maps(), Probe(WEB6, DB6, ICMP))[0].flow_key == b""
