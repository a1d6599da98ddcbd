"""What programs of a node do that isn't alone, packet by packet. What a tunnel key says only real devices carry:
test_overlay.py.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6ND_NA, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

from services.loader import layout, libbpf, objects
from services.loader.compile import OVERLAY_SOURCE
from services.loader.event import EventType
from services.loader.layout import IpcacheEntry
from services.loader.model import Direction, NodeConfig, PolicyEntry, Routing
from services.loader.pathmaps import CallPolicy
from services.loader.refusal import DropReason
from tests.bpf_support import (
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
    SHOT,
    WORLD_V4,
    WORLD_V6,
    Datapath,
    Sent,
    compiled,
    compiled_for,
)

NODE_V4, NODE_V6 = ip_address("172.16.0.2"), ip_address("fd00:9::2")
UNDERLAY_IFINDEX, OVERLAY_IFINDEX = 50, 51
REMOTE_IDENTITY, OTHER_IDENTITY = 5000, 5001
REMOTE_V4, REMOTE_V6 = ip_address("10.1.0.5"), ip_address("fd00:1::5")
OTHER_V4 = ip_address("10.1.0.6")
OVERLAY = NodeConfig((), (), routing=Routing.OVERLAY)
OVERLAY_V6 = NodeConfig((), (), routing=Routing.OVERLAY, underlay_family=6)
NATIVE = NodeConfig((), (), routing=Routing.NATIVE)
IN, OUT = Direction.INGRESS, Direction.EGRESS


def learn(datapath: Datapath, *entries: IpcacheEntry) -> None:
    datapath.ipcache.update({layout.endpoint_key(one.address): layout.ipcache_value(one) for one in entries}, [])


def node(config: NodeConfig) -> Datapath:
    """Return POD on a node that knows of others."""
    datapath = Datapath(compiled_for(config))
    datapath.underlay.put(UNDERLAY_IFINDEX, OVERLAY_IFINDEX, ip_address("172.16.0.1"))
    behind = {4: NODE_V4, 6: NODE_V6}[config.underlay_family or 4] if config.routing is Routing.OVERLAY else None
    learn(
        datapath,
        IpcacheEntry(REMOTE_V4, REMOTE_IDENTITY, behind),
        IpcacheEntry(REMOTE_V6, REMOTE_IDENTITY, behind),
        IpcacheEntry(OTHER_V4, OTHER_IDENTITY, behind),
        IpcacheEntry(NODE_V4, 6),
        IpcacheEntry(NODE_V6, 6),
    )
    if config.routing is Routing.OVERLAY:
        with objects.load(compiled_for(config, OVERLAY_SOURCE), {}, datapath.fds) as programs:
            datapath.call_policy.set(CallPolicy.TUNNEL, programs["tunnel"])
    return datapath.allow_all()


@pytest.fixture(params=[OVERLAY, OVERLAY_V6, NATIVE], ids=["overlay", "overlay over IPv6", "native"])
def config(request: pytest.FixtureRequest) -> NodeConfig:
    chosen: NodeConfig = request.param
    return chosen


@pytest.fixture
def datapath(config: NodeConfig) -> Iterator[Datapath]:
    with node(config) as datapath:
        yield datapath


@pytest.fixture
def tunnelled() -> Iterator[Datapath]:
    with node(OVERLAY) as datapath:
        yield datapath


@pytest.fixture
def routed() -> Iterator[Datapath]:
    with node(NATIVE) as datapath:
        yield datapath


def to(address: object) -> Packet:
    return ETHER / (IPv6(src=POD_V6, dst=str(address)) if ":" in str(address) else IP(src=POD_V4, dst=str(address)))


# ── what a pod sends ──


def test_egress_policy_knows_pods_of_other_nodes(datapath: Datapath, config: NodeConfig) -> None:
    datapath.enforce([PolicyEntry(OUT, REMOTE_IDENTITY)])
    leaves = OK if config is NATIVE else REDIRECT

    verdicts = [
        datapath.send(to(address) / TCP(dport=80)).verdict
        for address in (REMOTE_V4, REMOTE_V6, OTHER_V4, NODE_V4, WORLD_V4, WORLD_V6, PEER_V4)
    ]

    assert verdicts == [leaves, leaves, SHOT, SHOT, SHOT, SHOT, SHOT]
    datapath.enforce([PolicyEntry(OUT, 6), PolicyEntry(OUT, 2)])
    assert [datapath.send(to(one) / UDP()).verdict for one in (NODE_V4, NODE_V6, WORLD_V4)] == [OK, OK, OK]


def test_an_endpoint_of_this_node_is_one_whatever_others_say(datapath: Datapath) -> None:
    learn(datapath, *(IpcacheEntry(ip_address(one), OTHER_IDENTITY, NODE_V4) for one in (PEER_V4, PEER_V6)))
    datapath.enforce([PolicyEntry(OUT, PEER_IDENTITY), PolicyEntry(IN)]).listen(EventType.POLICY_VERDICT)

    assert [datapath.send(to(one) / TCP(dport=80)).verdict for one in (PEER_V4, PEER_V6)] == [REDIRECT, REDIRECT]


def test_an_address_of_the_node_itself_is_never_tunnelled_to(datapath: Datapath) -> None:
    datapath.endpoints.put_host(ip_address(WORLD_V4))

    assert datapath.send(to(WORLD_V4) / TCP()).verdict == OK


def test_a_tunnelled_packet_has_gone_one_hop(tunnelled: Datapath) -> None:
    over_v4, over_v6 = (tunnelled.send(to(one) / UDP()).packet for one in (REMOTE_V4, REMOTE_V6))
    checksum = over_v4[IP].chksum
    del over_v4[IP].chksum

    assert (over_v4[IP].ttl, over_v6[IPv6].hlim) == (63, 63)
    assert IP(bytes(over_v4[IP])).chksum == checksum


def test_a_ttl_that_ends_here_is_the_stacks_matter(tunnelled: Datapath) -> None:
    expiring = [ETHER / IP(src=POD_V4, dst=str(REMOTE_V4), ttl=1) / UDP()]
    expiring.append(ETHER / IPv6(src=POD_V6, dst=str(REMOTE_V6), hlim=1) / UDP())

    assert [(sent.verdict, sent.raw) for sent in map(tunnelled.send, expiring)] == [
        (OK, bytes(packet)) for packet in expiring
    ]


def test_what_nodes_would_take_for_a_tunnel_is_dropped(tunnelled: Datapath) -> None:
    """But not on its way to a pod, which may have a service there."""
    packets = [
        to(NODE_V4) / UDP(dport=8472),
        to(NODE_V6) / UDP(dport=8472),
        to(WORLD_V4) / UDP(dport=8472),
        to(NODE_V4) / TCP(dport=8472),
        to(NODE_V4) / UDP(dport=8473),
        to(REMOTE_V4) / UDP(dport=8472),
        to(PEER_V4) / UDP(dport=8472),
    ]

    assert [tunnelled.send(packet).verdict for packet in packets] == [SHOT, SHOT, SHOT, OK, OK, REDIRECT, REDIRECT]
    assert tunnelled.drops() == {"encap prohibited": 3}


def test_where_nothing_is_tunnelled_that_port_is_like_any_other(routed: Datapath) -> None:
    assert routed.send(to(NODE_V4) / UDP(dport=8472)).verdict == OK


# ── what comes from the stack ──


def from_(address: object) -> Packet:
    layer = IPv6(src=str(address), dst=POD_V6) if ":" in str(address) else IP(src=str(address), dst=POD_V4)
    return Ether(src=HOST_MAC, dst=POD_MAC) / layer / UDP(dport=7)


def identity_of(datapath: Datapath, address: object, came_in_at: int) -> int:
    datapath.listen(EventType.DROP).enforce([])
    assert datapath.receive(from_(address), came_in_at=came_in_at).verdict == SHOT
    (dropped,) = datapath.events()
    return dropped.source_identity


def test_who_is_routed_to_is_known_when_it_comes_by_the_underlay(routed: Datapath) -> None:
    senders = [(REMOTE_V4, UNDERLAY_IFINDEX), (REMOTE_V6, UNDERLAY_IFINDEX), (NODE_V4, UNDERLAY_IFINDEX)]
    senders += [(REMOTE_V4, PEER_IFINDEX), (ip_address(WORLD_V4), UNDERLAY_IFINDEX), (REMOTE_V4, 0)]

    assert [identity_of(routed, *sender) for sender in senders] == [REMOTE_IDENTITY, REMOTE_IDENTITY, 6, 2, 2, 1]


def test_who_is_tunnelled_to_does_not_come_by_the_underlay(tunnelled: Datapath) -> None:
    senders = [(REMOTE_V4, UNDERLAY_IFINDEX), (NODE_V4, UNDERLAY_IFINDEX), (NODE_V4, OVERLAY_IFINDEX)]

    assert [identity_of(tunnelled, *sender) for sender in senders] == [2, 6, 2]


def test_an_endpoint_of_this_node_does_not_come_by_the_underlay(datapath: Datapath) -> None:
    learn(datapath, IpcacheEntry(ip_address(PEER_V4), OTHER_IDENTITY))

    assert identity_of(datapath, PEER_V4, UNDERLAY_IFINDEX) == 2


# ── the overlay's device ──


class Device:
    """The programs of podlane_vxlan beside POD's, on the same maps."""

    def __init__(self, datapath: Datapath, config: NodeConfig) -> None:
        self.datapath = datapath
        self.programs = objects.load(compiled_for(config, OVERLAY_SOURCE), {}, datapath.fds)

    def run(self, program: str, packet: Packet, came_in_at: int = 0) -> Sent:
        own, self.datapath.programs = self.datapath.programs, self.programs
        try:
            return self.datapath.run(program, packet, came_in_at=came_in_at)
        finally:
            self.datapath.programs = own


@pytest.fixture(params=[OVERLAY, OVERLAY_V6], ids=["IPv4", "IPv6"])
def device(request: pytest.FixtureRequest) -> Iterator[Device]:
    with ExitStack() as stack:
        device = Device(stack.enter_context(node(request.param)), request.param)
        stack.callback(device.programs.close)
        yield device


OUTSIDE = Ether(src="02:00:00:00:00:11", dst="02:00:00:00:00:12")


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (OUTSIDE / IP(src=str(REMOTE_V4), dst=PEER_V4) / TCP(), DropReason.NO_TUNNEL_KEY),
        (OUTSIDE / IP(src=str(REMOTE_V4), dst=WORLD_V4) / TCP(), DropReason.UNROUTABLE),
        (OUTSIDE / IPv6(src=str(REMOTE_V6), dst="ff02::1") / UDP(), DropReason.UNROUTABLE),
        (OUTSIDE / ARP(pdst=PEER_V4), DropReason.UNKNOWN_L3),
        (OUTSIDE / IPv6(src="fe80::1", dst=PEER_V6, hlim=255) / ICMPv6ND_NA(), DropReason.ND_SENDER),
        (OUTSIDE / IP(src=str(REMOTE_V4), dst=PEER_V4, ihl=4) / TCP(), DropReason.INVALID_PACKET),
    ],
    ids=lambda value: value.name if isinstance(value, DropReason) else "",
)
def test_what_must_not_come_through_the_tunnel(device: Device, packet: Packet, reason: DropReason) -> None:
    device.datapath.listen(EventType.DROP)

    assert device.run("from_overlay", packet).verdict == SHOT
    (told,) = device.datapath.events()
    assert (told.reason, told.direction) == (reason, IN)


def test_the_stacks_packets_go_to_the_node_that_is_known(device: Device) -> None:
    packets = [OUTSIDE / IP(dst=str(REMOTE_V4)) / ICMP(), OUTSIDE / IPv6(dst=str(REMOTE_V6)) / UDP()]
    assert [device.run("to_overlay", packet).verdict for packet in packets] == [OK, OK]

    device.datapath.listen(EventType.DROP)
    unknown = [OUTSIDE / IP(dst=WORLD_V4) / UDP(), OUTSIDE / IP(dst=str(NODE_V4)) / UDP()]
    unknown.append(OUTSIDE / IPv6(dst="ff02::16") / UDP())
    assert [device.run("to_overlay", packet).verdict for packet in unknown] == [SHOT, SHOT, SHOT]
    assert [told.reason for told in device.datapath.events()] == [
        DropReason.NO_TUNNEL_ENDPOINT,
        DropReason.NO_TUNNEL_ENDPOINT,
        DropReason.LINK_LOCAL_NOISE,
    ]


def test_what_the_stack_has_routed_for_a_pod_is_that_pods(device: Device) -> None:
    """As far as the packet has come in at the pod's own interface."""
    device.datapath.listen(EventType.DROP)
    packet = OUTSIDE / IP(src=PEER_V4, dst=WORLD_V4) / UDP()

    for came_in_at in (0, PEER_IFINDEX, UNDERLAY_IFINDEX):
        device.run("to_overlay", packet, came_in_at)

    told = [(one.source_identity, one.endpoint_id) for one in device.datapath.events()]
    assert told == [(6, 0), (PEER_IDENTITY, 8), (2, 0)]


# ── what it costs ──


def verified(datapath: Datapath) -> int:
    return sum(libbpf.program_info(fd).verified_instructions for fd in datapath.programs.fds.values())


def test_other_nodes_cost_an_endpoint_little_to_verify(datapath: Datapath) -> None:
    with Datapath(compiled()) as alone:
        assert verified(alone) < verified(datapath) < 1.06 * verified(alone)


def test_what_all_endpoints_share_is_verified_once_a_node(device: Device) -> None:
    assert sum(libbpf.program_info(fd).verified_instructions for fd in device.programs.fds.values()) < 1700
