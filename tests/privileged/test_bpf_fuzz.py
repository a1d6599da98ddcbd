"""Whatever comes, in whatever order: the programs run, decide, and let nothing pass that policy forbids.

An independent reader (tests/packet_reader.py) says of what passed what it was. It must be what an entry allows, or a
reply of a flow that an entry allowed, or an error about one, or neighbour discovery.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptDstLLAddr, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from services.common.model import Address
from services.loader import libbpf
from services.loader.model import Direction, PolicyEntry
from tests.bpf_support import (
    ETHER,
    GATEWAY_V4,
    GATEWAY_V6,
    HOST_MAC,
    OK,
    PEER_IDENTITY,
    PEER_IFINDEX,
    PEER_V4,
    PEER_V6,
    POD_IDENTITY,
    POD_MAC,
    POD_V4,
    POD_V6,
    REDIRECT,
    SHOT,
    WORLD_V6,
    Datapath,
    compiled,
)
from tests.examples import examples
from tests.packet_maker import PacketMaker
from tests.packet_reader import ARP, Read, ethertype, opposite, read

pytestmark = [pytest.mark.privileged, pytest.mark.long]

IN, OUT = Direction.INGRESS, Direction.EGRESS
HOST, WORLD, NEAR, FAR = 1, 2, (1 << 24) + 1, (1 << 24) + 2
PREFIXES = {
    ip_network("192.0.2.0/24"): FAR,
    ip_network("192.0.2.0/25"): NEAR,
    ip_network("10.0.0.8/32"): NEAR,
    ip_network("2001:db8::/32"): FAR,
    ip_network("2001:db8::/121"): NEAR,
    ip_network("fd00::8/128"): NEAR,
}
UPLINK = 5
INBOUND = Ether(src=HOST_MAC, dst=POD_MAC)
ND_TYPES = range(133, 138)

IDENTITIES = (0, HOST, WORLD, PEER_IDENTITY, POD_IDENTITY, NEAR, FAR)
PLACES = (
    *((0, 0, 0), (6, 0, 0), (6, 80, 16), (6, 80, 15), (17, 53, 16), (17, 0, 0)),
    *((1, 8, 16), (1, 0, 16), (58, 128, 16), (50, 0, 0), (50, 80, 16)),
)
"""Protocol, port and the port's prefix length."""
WIDE: tuple[list[PolicyEntry], ...] = ([], [], [PolicyEntry(IN)], [PolicyEntry(OUT)], [PolicyEntry(IN, POD_IDENTITY)])


def any_policy(random: Random) -> list[PolicyEntry]:
    """Return a few entries, at times with a wide one."""
    entries = [
        PolicyEntry(
            random.choice(tuple(Direction)),
            random.choice(IDENTITIES),
            *random.choice(PLACES),
            deny=random.random() < 0.25,
        )
        for _ in range(random.randrange(7))
    ]
    return random.choice(WIDE) + entries


@dataclass
class Judge:
    """What may pass under a policy, and which flows it has let begin."""

    policy: list[PolicyEntry]
    flows: dict[Direction, set[tuple[object, ...]]] = field(default_factory=lambda: {IN: set(), OUT: set()})
    """By the direction of their openers."""

    def allows(self, direction: Direction, peer_identity: int, address: Address, one: Read) -> bool:
        """Return whether entries allow a packet."""
        around = [network for network in PREFIXES if address.version == network.version and address in network]
        prefix = [PREFIXES[network] for network in sorted(around, key=lambda one: one.prefixlen)[-1:]]
        votes = [self._vote(direction, identity, one) for identity in (peer_identity, 0, *prefix)]
        return True in votes and False not in votes

    def _vote(self, direction: Direction, identity: int, one: Read) -> bool | None:
        found = [
            entry
            for entry in self.policy
            if (entry.direction, entry.identity) == (direction, identity) and _covers(entry, one)
        ]
        if not found:
            return None
        return not max(found, key=lambda entry: (entry.protocol != 0, entry.port_prefix_length)).deny

    def passes(self, direction: Direction, peer_identity: int, one: Read) -> bool:
        """Return whether a packet may pass one policy program, and remember the flow that it may have begun."""
        address = one.destination if direction is OUT else one.source
        flow, theirs = one.flow, self.flows[IN if direction is OUT else OUT]
        is_reply = flow is not None and opposite(flow) in theirs and not one.opens_tcp
        allowed = self.allows(direction, peer_identity, address, one)
        if allowed and flow is not None:
            self.flows[direction].add(flow)
        return allowed or is_reply or self._is_about_a_flow(direction, one)

    def _is_about_a_flow(self, direction: Direction, one: Read) -> bool:
        quoted = one.quoted
        if quoted is None or quoted.flow is None or quoted.source != one.destination:
            return False
        # The quoted packet went the other way: as its flow's opener or as a reply.
        other = IN if direction is OUT else OUT
        return quoted.flow in self.flows[other] or opposite(quoted.flow) in self.flows[direction]


def _covers(entry: PolicyEntry, one: Read) -> bool:
    if entry.protocol and entry.protocol != one.protocol:
        return False
    if not entry.port_prefix_length:
        return True
    return one.port is not None and (one.port ^ entry.port) >> (16 - entry.port_prefix_length) == 0


@pytest.fixture(scope="module", params=[(), ("conntrack",)], ids=["tracked", "not tracked"])
def datapath(request: pytest.FixtureRequest) -> Iterator[Datapath]:
    with Datapath(compiled(*request.param)) as datapath:
        datapath.prefixes.put(PREFIXES)
        for gateway in (GATEWAY_V4, GATEWAY_V6):
            datapath.endpoints.put_host(ip_address(gateway))
        yield datapath


def begin(datapath: Datapath, policy: list[PolicyEntry]) -> Judge:
    """Return the judge of a policy that is in force, with no flows open."""
    libbpf.map_delete_batch(datapath.flows.fd, [key for key, _ in datapath.entries()])
    datapath.enforce(policy)
    # Of entries with one key the last is in force.
    return Judge(
        list({(e.direction, e.identity, e.protocol, e.port, e.port_prefix_length): e for e in policy}.values())
    )


def identity_of(address: Address) -> int:
    """Return whom the endpoint map knows under an address."""
    if str(address) in {PEER_V4, PEER_V6}:
        return PEER_IDENTITY
    return HOST if str(address) in {GATEWAY_V4, GATEWAY_V6} else WORLD


def is_nd(one: Read) -> bool:
    """Return whether it is neighbour discovery that a neighbour has sent."""
    return one.kind in ND_TYPES and one.protocol == 58 and not one.behind_extensions and one.hop_limit == 255


def may_leave(judge: Judge, frame: bytes, verdict: int) -> bool:
    """Return whether what a pod sends may have passed."""
    if ethertype(frame) == ARP:
        return True
    one = read(frame)
    if one is None or frame[6:12] != bytes.fromhex(POD_MAC.replace(":", "")):
        return False
    local = one.destination in LINK or one.destination.is_multicast or str(one.destination) == GATEWAY_V6
    if is_nd(one) and (local or verdict == REDIRECT):
        return True
    if str(one.source) not in {POD_V4, POD_V6} or not judge.passes(OUT, identity_of(one.destination), one):
        return False
    return verdict != REDIRECT or judge.passes(IN, POD_IDENTITY, one)


LINK = ip_network("fe80::/10")


def may_enter(judge: Judge, frame: bytes, came_in_at: int) -> bool:
    """Return whether what the stack sends to a pod may have passed."""
    if ethertype(frame) == ARP:
        return True
    one = read(frame)
    if one is None:
        return False
    if is_nd(one):
        return True
    known = identity_of(one.source) == PEER_IDENTITY and came_in_at == PEER_IFINDEX
    return judge.passes(IN, PEER_IDENTITY if known else WORLD if came_in_at else HOST, one)


def test_nothing_passes_that_policy_forbids(datapath: Datapath) -> None:
    seen: set[tuple[Direction, int]] = set()

    @settings(max_examples=examples(150), deadline=None)
    @given(st.integers(0, 2**32 - 1))
    def whatever_comes(seed: int) -> None:
        random = Random(seed)
        maker, judge = PacketMaker(random), begin(datapath, any_policy(random))
        last = {IN: b"", OUT: b""}
        for _ in range(200):
            direction = random.choice((IN, OUT))
            out = direction is OUT
            frame = maker.frame(out=out, earlier=last[IN if out else OUT])
            came_in_at = 0 if out else random.choice((0, UPLINK, PEER_IFINDEX))
            verdict = datapath.verdict(frame, out=out, came_in_at=came_in_at)

            seen.add((direction, verdict))
            # Of those that were dropped, too: an egress policy may have let a flow begin that the ingress one denied.
            may = may_leave(judge, frame, verdict) if out else may_enter(judge, frame, came_in_at)
            assert may or verdict == SHOT, (direction.name, frame.hex(), verdict, read(frame), judge.policy)
            last[direction] = frame

    whatever_comes()

    # No other verdict; and all of these, or the frames would prove little.
    assert seen == {(OUT, OK), (OUT, SHOT), (OUT, REDIRECT), (IN, OK), (IN, SHOT)}


# ── neighbour discovery, whatever the policy ──

NOBODY = [PolicyEntry(direction, deny=True) for direction in Direction]
OPTIONS = st.sampled_from((None, ICMPv6NDOptSrcLLAddr(lladdr=POD_MAC), ICMPv6NDOptDstLLAddr(lladdr=POD_MAC)))


def with_option(message: Packet, option: Packet | None) -> Packet:
    """Return a message as it is, or with an option."""
    return message / option if option is not None else message


@given(
    st.sampled_from((POD_V6, "fe80::7")), st.sampled_from((GATEWAY_V6, "ff02::1:ff00:1")), OPTIONS, st.integers(0, 7)
)
def test_valid_neighbour_discovery_of_a_pod_is_never_blocked(
    datapath: Datapath, source: str, to: str, option: Packet | None, flags: int
) -> None:
    begin(datapath, NOBODY)
    asks = IPv6(src=source, dst=to, hlim=255) / with_option(ICMPv6ND_NS(tgt=GATEWAY_V6), option)
    tells = with_option(ICMPv6ND_NA(tgt=POD_V6, R=flags & 1, S=flags >> 1 & 1, O=flags >> 2), option)

    assert datapath.send(ETHER / asks).verdict == REDIRECT
    for neighbour in ("fe80::1", GATEWAY_V6, "ff02::1"):
        assert datapath.send(ETHER / IPv6(src=source, dst=neighbour, hlim=255) / tells).verdict == OK


@given(st.sampled_from((POD_V6, "ff02::1:ff00:7")), st.sampled_from(("fe80::1", GATEWAY_V6)), OPTIONS)
def test_valid_neighbour_discovery_of_the_node_is_never_blocked(
    datapath: Datapath, to: str, source: str, option: Packet | None
) -> None:
    begin(datapath, NOBODY)
    for message in (ICMPv6ND_NS(tgt=POD_V6), ICMPv6ND_NA(tgt=GATEWAY_V6)):
        frame = INBOUND / IPv6(src=source, dst=to, hlim=255) / with_option(message, option)
        assert datapath.receive(frame).verdict == OK


@given(st.integers(0, 254), st.sampled_from((WORLD_V6, PEER_V6)), st.integers(133, 137))
def test_what_a_router_has_passed_on_is_no_neighbour_discovery(
    datapath: Datapath, hops: int, source: str, kind: int
) -> None:
    begin(datapath, NOBODY)
    frame = INBOUND / IPv6(src=source, dst=POD_V6, hlim=hops) / ICMPv6ND_NA(type=kind, tgt=source) / b"smuggled"

    assert datapath.receive(frame, came_in_at=UPLINK).verdict == SHOT


@pytest.mark.parametrize("turned", [(), ("arp-responder",)], ids=["answered here", "answered by the stack"])
def test_neighbour_discovery_of_a_pod_ends_on_its_link(turned: tuple[str, ...]) -> None:
    """The stack would route what is for others, past policy."""
    with Datapath(compiled(*turned)) as datapath:
        datapath.enforce(NOBODY)
        for to in (WORLD_V6, PEER_V6, "fd00::2"):
            for hops in (255, 64):
                for message in (ICMPv6ND_NA(tgt=POD_V6), ICMPv6ND_NA(type=133, tgt=POD_V6)):
                    sent = ETHER / IPv6(src=POD_V6, dst=to, hlim=hops) / message / b"smuggled"
                    assert datapath.send(sent).verdict == SHOT, (to, hops)
