"""The real programs on maps of their own, run over packets by BPF_PROG_TEST_RUN: no interface, no pin, no process.

    with Datapath() as datapath:
        datapath.allow_all()
        result = datapath.send(ETHER / IP(src=POD_V4, dst=PEER_V4) / TCP())
        assert (result.verdict, datapath.drops()) == (REDIRECT, {})

The endpoint under test is POD; PEER is another one on the node; both have the same policy program. Everything lives in
descriptors, which `close` closes.
"""

import struct
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self

from scapy.layers.l2 import Ether
from scapy.packet import Packet

from services.loader import (
    conntrack,
    event,
    eventmaps,
    headers,
    layout,
    layoutcheck,
    libbpf,
    libbpf_programs,
    maps,
    objects,
    pathmaps,
    policymaps,
)
from services.loader.compile import SOURCE, Compiler, arguments
from services.loader.event import Event, EventType
from services.loader.flows import Flows
from services.loader.ipcache import Ipcache
from services.loader.layout import EndpointEntry
from services.loader.libbpf_ring import Ring
from services.loader.model import Direction, NodeConfig, PolicyEntry
from services.loader.objects import ObjectCode
from tests.objects import REMEMBERING

BPF = Path(__file__).resolve().parents[1] / "bpf"

OK, SHOT, REDIRECT, UNSPEC = 0, 2, 7, 0xFFFFFFFF

POD_ID, POD_IDENTITY = 7, 300
PEER_ID, PEER_IDENTITY = 8, 301
POD_MAC, HOST_MAC = "02:00:00:00:00:07", "02:00:00:00:01:07"
PEER_MAC, PEER_HOST_MAC = "02:00:00:00:00:08", "02:00:00:00:01:08"
POD_V4, POD_V6 = "10.0.0.7", "fd00::7"
PEER_V4, PEER_V6 = "10.0.0.8", "fd00::8"
GATEWAY_V4, GATEWAY_V6 = "10.0.0.1", "fd00::1"
WORLD_V4, WORLD_V6 = "192.0.2.1", "2001:db8::1"
LOOPBACK, PEER_IFINDEX = 1, 99

# The map of flows takes its memory at once.
SIZES = {**headers.SIZES, "CONNTRACK_MAP_SIZE": 4096, "IPCACHE_MAP_SIZE": 4096}

ETHER = Ether(src=POD_MAC, dst=HOST_MAC)
ALLOW_ALL = (PolicyEntry(Direction.INGRESS), PolicyEntry(Direction.EGRESS))

# struct __sk_buff as far as it is used: eight words, priority, ingress_ifindex, ifindex.
_CONTEXT = struct.Struct("=11I")


@cache
def compiled(*turned: str, **sizes: int) -> ObjectCode:
    """Return the programs compiled with these switches turned from their defaults and these map sizes."""
    return _compile(turned, headers.node_config({**headers.SIZES, **sizes}), SOURCE)


@cache
def compiled_for(config: NodeConfig, source: str = SOURCE, turned: tuple[str, ...] = ()) -> ObjectCode:
    """Return the programs of a source as a node with this configuration has them."""
    return _compile(turned, headers.of_node(config), source)


def _compile(turned: Iterable[str], header: str, source: str) -> ObjectCode:
    options = {name: not headers.OPTIONS[name].default for name in turned}
    with tempfile.TemporaryDirectory() as scratch:
        Path(scratch, "ep_config.h").write_text(headers.ep_config(options))
        Path(scratch, "node_config.h").write_text(header)
        argv = arguments(Compiler(REMEMBERING, ""), BPF, Path(scratch), source)
        content = subprocess.run(argv, check=True, capture_output=True).stdout
    code, btf = objects.read(content, Path(source).stem)
    layoutcheck.check(btf, source)
    return code


def octets(mac: str) -> bytes:
    """Return a MAC address's bytes."""
    return bytes.fromhex(mac.replace(":", ""))


def constants(**changes: Any) -> dict[str, int | bytes]:
    """Return POD's constants, some changed."""
    ours: dict[str, Any] = {
        "endpoint_id": POD_ID,
        "identity": POD_IDENTITY,
        "addresses": [ip_address(POD_V4), ip_address(POD_V6)],
        "gateways": [ip_address(GATEWAY_V4), ip_address(GATEWAY_V6)],
        "pod_mac": octets(POD_MAC),
        "host_mac": octets(HOST_MAC),
        "host_ifindex": LOOPBACK,
    }
    return layout.endpoint_constants(**{**ours, **changes})


def peer(address: str, **changes: Any) -> EndpointEntry:
    """Return the endpoint map's entry of PEER for one of its addresses."""
    ours: dict[str, Any] = {
        "address": ip_address(address),
        "ifindex": PEER_IFINDEX,
        "endpoint_id": PEER_ID,
        "identity": PEER_IDENTITY,
        "pod_mac": octets(PEER_MAC),
        "host_mac": octets(PEER_HOST_MAC),
    }
    return EndpointEntry(**{**ours, **changes})


@dataclass(frozen=True)
class Sent:
    """What a program did with a packet: TC action, and the packet as it left."""

    verdict: int
    packet: Packet
    raw: bytes


class Datapath:
    """One loaded set of programs, its maps, and PEER as a neighbour; both have the policy program in their slots."""

    def __init__(self, code: ObjectCode | None = None, *, sizes: Mapping[str, int] = SIZES, **changes: Any) -> None:
        """Load the programs with POD's constants but for `changes`, on maps of these sizes."""
        code = code or compiled()
        self.fds = {name: one.create(sizes) for name, one in maps.DEFINITIONS.items()}
        self.endpoints = pathmaps.Endpoints(self.fds[maps.ENDPOINTS])
        self.call_policy = pathmaps.CallPolicy(self.fds[maps.CALL_POLICY])
        self.policy = policymaps.Policy(self.fds[maps.POLICY])
        self.prefixes = policymaps.Prefixes(self.fds[maps.PREFIXES])
        self.revision = policymaps.Revision(self.fds[maps.REVISION])
        self.ipcache = Ipcache(self.fds[maps.IPCACHE])
        self.underlay = pathmaps.Underlay(self.fds[maps.UNDERLAY])
        self.metrics = eventmaps.Metrics(self.fds[maps.METRICS])
        self.packet = eventmaps.Packet(self.fds[maps.PACKET])
        self.event_credits = eventmaps.EventCredits(self.fds[maps.EVENT_CREDITS])
        self.ring = Ring(self.fds[maps.EVENTS])
        self.programs = objects.load(code, constants(**changes), self.fds)
        for id_ in (POD_ID, PEER_ID):
            self.call_policy.set(id_, self.programs["policy"])
        for address in (PEER_V4, PEER_V6):
            self.endpoints.put(peer(address))

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close every descriptor."""
        self.programs.close()
        self.ring.close()
        for fd in self.fds.values():
            fd.close()

    def enforce(self, entries: Iterable[PolicyEntry]) -> Self:
        """Put a policy in force as the loader does: flows that are open are asked about again."""
        self.policy.sync(entries)
        self.revision.bump()
        return self

    def allow_all(self) -> Self:
        """Put the allow-all policy in force."""
        return self.enforce(ALLOW_ALL)

    def run(self, program: str, packet: Packet | bytes, *, came_in_at: int = 0) -> Sent:
        """Run one program over a packet. `came_in_at` is the interface by which the node received it."""
        context = _CONTEXT.pack(*(0,) * 8, 0, came_in_at, LOOPBACK)
        done = libbpf_programs.prog_test_run(self.programs[program], bytes(packet), context=context, room=64)
        return Sent(done.retval, Ether(done.data), done.data)

    def send(self, packet: Packet | bytes) -> Sent:
        """Let the pod send a packet."""
        return self.run("from_container", packet)

    def receive(self, packet: Packet | bytes, **how: Any) -> Sent:
        """Let the node's stack send a packet to the pod."""
        return self.run("to_container", packet, **how)

    def verdict(self, frame: bytes, *, out: bool, came_in_at: int = 0) -> int:
        """Return what becomes of a frame that the pod sends, or receives, and nothing more: for many of them."""
        context = _CONTEXT.pack(*(0,) * 8, 0, came_in_at, LOOPBACK)
        program = self.programs["from_container" if out else "to_container"]
        return libbpf_programs.prog_test_run(program, frame, context=context, room=64).retval

    def drops(self) -> Mapping[str, int]:
        """Return how many packets were dropped, by reason."""
        counts: dict[str, int] = {}
        for metric in self.metrics.dump():
            counts[metric.reason] = counts.get(metric.reason, 0) + metric.packets
        return counts

    @property
    def flows(self) -> Flows:
        """The flows that are tracked, on a map that this object closes."""
        return Flows(self.fds[maps.CONNTRACK])

    def entries(self) -> list[tuple[bytes, bytes]]:
        """Return the map of flows as it is, dead ones too."""
        return libbpf.map_entries(self.fds[maps.CONNTRACK], conntrack.KEY.size, conntrack.VALUE.size)

    def uncounted(self) -> list[tuple[bytes, bytes]]:
        """Return the map of flows without what its entries have counted."""
        return [(key, value[: -4 * layout.REVISION.size]) for key, value in self.entries()]

    def age(self, seconds: float) -> None:
        """Let time pass for every flow: it expires that much earlier."""
        for key, value in self.entries():
            expires, *rest = conntrack.VALUE.unpack(value)
            aged = conntrack.VALUE.pack(max(0, expires - int(seconds * 1e9)), *rest)
            libbpf.map_update(self.fds[maps.CONNTRACK], key, aged)

    def listen(self, *types: EventType, credit: int = 1 << 32) -> Self:
        """Let the programs send as many events of these types; none is all of them."""
        self.event_credits.grant(dict.fromkeys(types or tuple(EventType), credit))
        return self

    def events(self) -> list[Event]:
        """Return what the programs have told since the last call."""
        return [event.read(record) for record in self.ring.read(1 << 16)]
