"""Probes: an endpoint's programs, those that are in force, run over a packet that nobody has sent.

    egress     from_container over what the pod sends. A packet for another endpoint of this node runs that one's policy
               program, too, as any does
    ingress    to_container over what the node's stack sends to the pod: its own, or forwarded

BPF_PROG_TEST_RUN delivers nothing. Who decided, and what the programs knew, is in their memory of the CPU that has run
them (podlane_packet), so the thread stays on one CPU for a run and reads it there. A packet that comes in on that CPU
in between overwrites it; then what is there isn't the probe, and it is run again.

A probe leaves no flow: those that it opens are recognised by the ends that no real connection has (probepacket.py), and
removed. It does leave what a packet leaves that is dropped: a count and an event.
"""

import asyncio
import contextlib
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from services.common.errors import InvalidArgument, NotFound, Unavailable
from services.loader import event, layout, libbpf, libbpf_programs
from services.loader.blocking import Blocking
from services.loader.datapath import Datapath, explained
from services.loader.event import Event, EventType
from services.loader.libbpf import Fd
from services.loader.model import Direction, EndpointRecord, EndpointSpec
from services.loader.probepacket import Probe, frame, is_probe
from services.loader.refusal import place_text, reason_text
from services.loader.statedir import StateDir

# struct __sk_buff as far as it is used: eight words, priority, ingress_ifindex, ifindex.
_CONTEXT = struct.Struct("=11I")
_LOOPBACK = 1
# Where a record has its type: behind the time and what drops are counted by.
_TYPE = struct.calcsize("=Q") + layout.METRICS_KEY.size
# TC_ACT_OK, TC_ACT_REDIRECT, and TC_ACT_UNSPEC, which means nobody has an objection (`host-routing`).
_PASSES = frozenset({0, 7, 0xFFFFFFFF})
_ATTEMPTS = 20
# Outer headers of a tunnel.
_ROOM = 128
PROGRAMS = {Direction.EGRESS: "from_container", Direction.INGRESS: "to_container"}


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the programs did. Endpoint and direction are those of the program that decided last; `reason` and `place`
    are a drop's; identities are as the programs found them.
    """

    passed: bool
    endpoint_id: int
    direction: Direction
    reason: str
    place: str
    source_identity: int
    destination_identity: int


@dataclass(frozen=True, slots=True)
class Run:
    """A packet, what came out of the programs, and what they knew of it at the end."""

    packet: bytes
    result: libbpf_programs.TestRun
    seen: Event


class Prober:
    """Runs probes, one at a time."""

    def __init__(self, datapath: Datapath, state: StateDir, blocking: Blocking) -> None:
        """Wire."""
        self._datapath = datapath
        self._state = state
        self._blocking = blocking
        self._lock = asyncio.Lock()

    async def run(self, id_: int, probe: Probe, direction: Direction, *, forwarded: bool = False) -> Outcome:
        """Say what an endpoint's programs do with a packet. `forwarded`: the node has received it, and at the interface
        of the source if that is an endpoint of this node.

        Raises NotFound without programs, InvalidArgument when the packet's end isn't the endpoint's.
        """
        return await self.alone(id_, lambda: self._run(id_, probe, direction, forwarded=forwarded))

    async def alone(self, id_: int, work: Callable[[], T]) -> T:
        """Do something with an endpoint's programs on a thread, while no other probe runs."""
        async with self._lock:
            with explained(f"endpoint {id_}"):
                return await self._blocking.run(work)

    def _run(self, id_: int, probe: Probe, direction: Direction, *, forwarded: bool) -> Outcome:
        record = self.record(id_)
        _check_end(record.spec, probe, direction)
        run = self.observe(record, probe, direction, self.came_in_at(probe) if forwarded else 0)
        return _outcome(run.seen, run.result.retval)

    def record(self, id_: int) -> EndpointRecord:
        """Return what was put in force for an endpoint. Raises NotFound."""
        record = self._state.record(id_)
        if record is None:
            raise NotFound(f"endpoint {id_} has no programs: nobody has a record of it", endpoint=id_)
        return record

    def observe(self, record: EndpointRecord, probe: Probe, direction: Direction, ifindex: int) -> Run:
        """Run an endpoint's program over a packet that has come in at an interface (0: none); only within `alone`.
        Raises Unavailable.
        """
        packet = _frame(record.spec, probe, direction)
        context = _CONTEXT.pack(*(0,) * 9, ifindex, _LOOPBACK)
        with _program(record, PROGRAMS[direction]) as program, _one_cpu() as cpu, self._no_flows(probe):
            for _ in range(_ATTEMPTS):
                result = libbpf_programs.prog_test_run(program, packet, context=context, room=_ROOM)
                seen = self._seen(cpu)
                if is_probe(seen, probe):
                    return Run(packet, result, seen)
        raise Unavailable(
            f"endpoint {record.spec.id}: other packets came in on CPU {cpu} during each of {_ATTEMPTS} attempts to "
            "read what its programs knew; try again"
        )

    def _seen(self, cpu: int) -> Event:
        """Return what the programs know of the packet that a CPU has had last: a record that need not have been sent,
        so that its type is anything.
        """
        size = event.PACKET.size
        packets = libbpf.map_lookup(self._datapath.packet.fd, layout.SLOT.pack(0), size * libbpf.possible_cpus())
        record = bytearray((packets or b"")[cpu * size :][: event.RECORD.size])
        record[_TYPE] = EventType.DROP
        return event.read(bytes(record))

    def came_in_at(self, probe: Probe) -> int:
        """Return where the node has received a packet that it forwards: at its sender's interface if it has one."""
        entry = self._datapath.endpoints.get(probe.source)
        return entry.ifindex if entry is not None and not entry.host else _LOOPBACK

    @contextlib.contextmanager
    def _no_flows(self, probe: Probe) -> Iterator[None]:
        """Remove the flows that the block opens."""
        flows = self._datapath.flows
        if flows is None:
            yield
            return
        ends = (probe.source, probe.source_port), (probe.destination, probe.port)
        before = flows.between(*ends, probe.protocol)
        try:
            yield
        finally:
            flows.remove(flows.between(*ends, probe.protocol) - before)


def _check_end(spec: EndpointSpec, probe: Probe, direction: Direction) -> None:
    field, address = ("source", probe.source) if direction is Direction.EGRESS else ("destination", probe.destination)
    if address not in spec.addresses:
        raise InvalidArgument(
            f"{field}: {address} is not endpoint {spec.id}'s, which has {', '.join(map(str, spec.addresses))}",
            field=field,
        )


def _frame(spec: EndpointSpec, probe: Probe, direction: Direction) -> bytes:
    if direction is Direction.EGRESS:
        return frame(probe, spec.pod_mac, spec.host_mac)
    return frame(probe, spec.host_mac, spec.pod_mac)


def _program(record: EndpointRecord, name: str) -> Fd:
    ids = {program.name: program.id for program in record.programs}
    program = libbpf.program_by_id(ids[name])
    if program is None:
        raise NotFound(f"endpoint {record.spec.id} has lost program {ids[name]} ({name}): regenerate it")
    return program


@contextlib.contextmanager
def _one_cpu() -> Iterator[int]:
    """Keep this thread on one CPU; the others go on wherever they are."""
    before = os.sched_getaffinity(0)
    cpu = min(before)
    os.sched_setaffinity(0, {cpu})
    try:
        yield cpu
    finally:
        os.sched_setaffinity(0, before)


def _outcome(seen: Event, verdict: int) -> Outcome:
    passed = verdict in _PASSES
    return Outcome(
        passed=passed,
        endpoint_id=seen.endpoint_id,
        direction=seen.direction,
        reason="" if passed else reason_text(seen.reason),
        place="" if passed else place_text(seen.file, seen.line),
        source_identity=seen.source_identity,
        destination_identity=seen.destination_identity,
    )
