"""The programs on real interfaces: two pods, their node, and the packets that only a real interface can bring.

Attached by tcx links that are held by descriptors alone, so that nothing survives the test.
"""

import contextlib
import json
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet

from services.loader import eventmaps, layout, libbpf, libbpf_programs, maps, objects, pathmaps, policymaps
from services.loader.headers import SIZES
from services.loader.layout import EndpointEntry
from services.loader.libbpf import Fd
from services.loader.libbpf_programs import AttachType
from services.loader.model import Direction, PolicyEntry
from tests.bpf_support import ALLOW_ALL, compiled, octets
from tests.netns_support import Netns, node

pytestmark = pytest.mark.privileged
__all__ = ["node"]

GATEWAYS = ("10.77.0.1", "fd00:77::1")


@dataclass
class Endpoint:
    """A pod with its programs."""

    netns: Netns
    id: int
    v4: str
    v6: str
    pod_mac: str
    host_mac: str
    policy: policymaps.Policy

    def send_raw(self, frame: Packet | bytes) -> None:
        """Put a frame on the pod's interface as it is."""

        def send() -> None:
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
                raw.bind(("eth0", 0))
                raw.send(bytes(frame))

        self.netns.run(send)


class Pair:
    """Two endpoints on one node."""

    def __init__(self, node: Netns, stack: contextlib.ExitStack) -> None:
        self._node = node
        self._stack = stack
        self._shared = {
            name: stack.enter_context(definition.create(SIZES))
            for name, definition in maps.DEFINITIONS.items()
            if name not in {maps.POLICY, maps.CONNTRACK}
        }
        self.endpoints = pathmaps.Endpoints(self._shared[maps.ENDPOINTS])
        self.call_policy = pathmaps.CallPolicy(self._shared[maps.CALL_POLICY])
        self.metrics = eventmaps.Metrics(self._shared[maps.METRICS])
        _script(
            node,
            "link add podlane0 type veth peer name podlane1",
            "link set podlane0 up",
            "link set podlane1 up",
            f"addr add {GATEWAYS[0]}/32 dev podlane0",
            f"addr add {GATEWAYS[1]}/128 dev podlane0 nodad",
        )
        node.command("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        for address in GATEWAYS:
            self.endpoints.put_host(ip_address(address))
        self.ingress_links: dict[int, Fd] = {}
        self.a, self.b = self.add(10), self.add(11)

    def add(self, number: int) -> Endpoint:
        """Make a pod and attach its programs, in the order in which the loader does it."""
        netns = self._stack.enter_context(Netns())
        name, v4, v6 = f"lxc{number}", f"10.77.0.{number}", f"fd00:77::{number}"
        _script(self._node, f"link add {name} type veth peer name eth0 netns {netns.path}")
        _script(
            netns,
            "link set eth0 up",
            f"addr add {v4}/32 dev eth0",
            f"addr add {v6}/128 dev eth0 nodad",
            *(f"route add {gateway} dev eth0 scope link" for gateway in GATEWAYS),
            *(f"route add default via {gateway}" for gateway in GATEWAYS),
        )
        host, pod = _link(self._node, name), _link(netns, "eth0")
        policy = policymaps.Policy(self._stack.enter_context(maps.DEFINITIONS[maps.POLICY].create(SIZES)))
        policy.sync(ALLOW_ALL)
        endpoint = Endpoint(netns, number, v4, v6, pod["address"], host["address"], policy)
        self._attach(endpoint, host["ifindex"])
        _script(self._node, f"link set {name} up")
        for address in (v4, v6):
            family = "-6" if ":" in address else "-4"
            self._node.command("ip", family, "route", "add", address, "dev", name)
            self._node.command("ip", "neigh", "add", address, "lladdr", pod["address"], "dev", name)
        return endpoint

    def _attach(self, endpoint: Endpoint, ifindex: int) -> None:
        pod_mac, host_mac = octets(endpoint.pod_mac), octets(endpoint.host_mac)
        addresses = [ip_address(endpoint.v4), ip_address(endpoint.v6)]
        constants = layout.endpoint_constants(
            endpoint_id=endpoint.id,
            identity=300 + endpoint.id,
            addresses=addresses,
            gateways=[ip_address(gateway) for gateway in GATEWAYS],
            pod_mac=pod_mac,
            host_mac=host_mac,
            host_ifindex=ifindex,
        )
        with objects.load(compiled(), constants, {**self._shared, maps.POLICY: endpoint.policy.fd}) as programs:
            self.call_policy.set(endpoint.id, programs["policy"])
            ingress = libbpf_programs.link_create(programs["from_container"], ifindex, AttachType.TCX_INGRESS)
            self.ingress_links[endpoint.id] = self._stack.enter_context(ingress)
            self._stack.enter_context(
                libbpf_programs.link_create(programs["to_container"], ifindex, AttachType.TCX_EGRESS)
            )
        for address in addresses:
            self.endpoints.put(EndpointEntry(address, ifindex, endpoint.id, 300 + endpoint.id, pod_mac, host_mac))

    def drops(self, endpoint: Endpoint) -> dict[str, int]:
        """Return an endpoint's drops but for its kernel's chatter."""
        metrics = self.metrics.dump(endpoint.id)
        return {metric.reason: metric.packets for metric in metrics if metric.reason != "link local noise"}


def _script(netns: Netns, *lines: str) -> None:
    done = subprocess.run(
        netns.argv("ip", "-force", "-batch", "-"), input="\n".join(lines), text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr


def _link(netns: Netns, name: str) -> dict[str, Any]:
    (link,) = json.loads(netns.command("ip", "-j", "link", "show", name).stdout)
    return dict(link)


@pytest.fixture
def pair(node: Netns) -> Iterator[Pair]:
    with contextlib.ExitStack() as stack:
        yield Pair(node, stack)


def test_pods_their_node_and_its_gateway_reach_each_other(pair: Pair, node: Netns) -> None:
    a, b = pair.a, pair.b

    for address in (b.v4, b.v6, *GATEWAYS):
        assert a.netns.ping(address, 3), address
    for address in (a.v4, a.v6, b.v4, b.v6):
        assert node.ping(address, 3), address
    assert pair.drops(a) == pair.drops(b) == {}


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["IPv4", "IPv6"])
def test_a_megabyte_of_tcp_arrives_whole(pair: Pair, family: socket.AddressFamily) -> None:
    sent = bytes(range(256)) * 4096
    address = pair.b.v4 if family == socket.AF_INET else pair.b.v6
    server = pair.b.netns.run(lambda: socket.create_server((address, 0), family=family))
    client = pair.a.netns.run(lambda: socket.socket(family))
    with server, client:
        client.settimeout(20)
        client.connect(server.getsockname()[:2])
        accepted, _ = server.accept()
        with accepted:
            accepted.settimeout(20)
            received = bytearray()
            view = memoryview(sent)
            while view:
                view = view[client.send(view[:65536]) :]
                received += accepted.recv(1 << 20)
            client.shutdown(socket.SHUT_WR)
            while chunk := accepted.recv(1 << 20):
                received += chunk

    assert bytes(received) == sent
    assert pair.drops(pair.a) == pair.drops(pair.b) == {}


def test_a_ttl_of_one_is_answered_by_the_node(pair: Pair) -> None:
    done = pair.a.netns.command("ping", "-n", "-c", "1", "-t", "1", "-W", "2", pair.b.v4, check=False)
    done6 = pair.a.netns.command("ping", "-n", "-c", "1", "-t", "1", "-W", "2", pair.b.v6, check=False)

    assert "Time to live exceeded" in done.stdout
    assert "Time exceeded" in done6.stdout


def test_policy_changes_take_effect_in_both_directions(pair: Pair, node: Netns) -> None:
    a, b = pair.a, pair.b
    b.policy.sync([PolicyEntry(Direction.INGRESS, 1), PolicyEntry(Direction.EGRESS)])

    assert a.netns.command("ping", "-c", "1", "-W", "0.2", b.v4, check=False).returncode != 0
    assert node.ping(b.v4)
    assert pair.drops(b) == {"policy": 1}

    b.policy.sync(ALLOW_ALL)
    assert a.netns.ping(b.v4)


def test_an_endpoint_whose_policy_program_is_gone_is_not_ready(pair: Pair) -> None:
    pair.call_policy.clear(pair.b.id)

    assert pair.a.netns.command("ping", "-c", "1", "-W", "0.2", pair.b.v4, check=False).returncode != 0
    assert pair.drops(pair.a) == {"endpoint not ready": 1}


def test_frames_that_no_stack_would_send_are_dropped_by_name(pair: Pair) -> None:
    a = pair.a
    ether = Ether(src=a.pod_mac, dst=a.host_mac)
    v4, v6 = IP(src=a.v4, dst=pair.b.v4), IPv6(src=a.v6, dst=pair.b.v6)
    whole4, whole6 = bytes(ether / v4), bytes(ether / v6)

    for length in range(14, len(whole4)):
        a.send_raw(whole4[:length])
    for length in range(14, len(whole6)):
        a.send_raw(whole6[:length])
    a.send_raw(ether / Dot1Q(vlan=5) / v4 / TCP())
    a.send_raw(Ether(src=pair.b.pod_mac, dst=a.host_mac) / v4 / TCP())
    a.send_raw(ether / IP(src=pair.b.v4, dst=GATEWAYS[0]) / TCP())

    assert pair.drops(a) == {"invalid packet": 60, "unknown l3": 1, "invalid source mac": 1, "invalid source ip": 1}


def _flood(netns: Netns, address: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        netns.argv("ping", "-q", "-f", "-c", "2000", "-W", "2", address), stdout=subprocess.PIPE, text=True
    )


def test_replacing_a_program_loses_no_packet(pair: Pair) -> None:
    """A link is updated again and again while a flood of pings runs over it."""
    link = pair.ingress_links[pair.a.id]
    flood = _flood(pair.a.netns, pair.b.v4)
    program = libbpf.program_by_id(libbpf.link_info(link).program_id)
    assert program is not None
    with program:
        while flood.poll() is None:
            libbpf_programs.link_update(link, program)
    output, _ = flood.communicate(timeout=30)

    assert "2000 packets transmitted, 2000 received" in output


def test_replacing_the_program_in_the_slot_loses_no_packet_of_the_stack(pair: Pair, node: Netns) -> None:
    before = pair.call_policy.get(pair.a.id)
    assert before is not None
    flood = _flood(node, pair.a.v4)
    program = libbpf.program_by_id(before)
    assert program is not None
    with program:
        while flood.poll() is None:
            pair.call_policy.set(pair.a.id, program)
    output, _ = flood.communicate(timeout=30)

    assert "2000 packets transmitted, 2000 received" in output
    assert pair.drops(pair.a) == {}


def test_an_empty_slot_keeps_the_stack_out(pair: Pair, node: Netns) -> None:
    pair.call_policy.clear(pair.b.id)

    assert node.command("ping", "-c", "1", "-W", "0.2", pair.b.v4, check=False).returncode != 0
    assert pair.drops(pair.b).keys() == {"endpoint not ready"}
