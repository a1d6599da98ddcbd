"""TraceService: messages in, values through, messages out, no decisions."""

from collections.abc import Callable
from typing import Any

from podlane.loader.v1 import loader_pb2, trace_pb2, trace_pb2_grpc

from services.common.errors import InvalidArgument
from services.common.lifecycle import Shielded
from services.loader import probemessages
from services.loader.event import TCP, WITH_PORTS
from services.loader.model import Direction, NodeConfig
from services.loader.packettrace import PacketTrace, PacketTracer, TracedStep
from services.loader.policymessages import read_id, write_policy_entry
from services.loader.probepacket import SYN, Probe
from services.loader.replaysteps import Lookup


class TraceServicer(trace_pb2_grpc.TraceServiceServicer):
    """The RPC of trace.proto."""

    def __init__(self, tracer: PacketTracer, config: Callable[[], NodeConfig], shielded: Shielded) -> None:
        """Serve what the tracer does; `config` is the node's."""
        self._tracer, self._config, self._shielded = tracer, config, shielded

    async def TracePacket(  # noqa: N802 - the name that grpc calls
        self, request: trace_pb2.TracePacketRequest, _context: Any
    ) -> trace_pb2.TracePacketResponse:
        """Follow one packet."""
        id_ = read_id(request.endpoint_id, "endpoint_id")
        probe, direction = read_packet(request)
        work = self._tracer.trace(id_, probe, direction, self._config(), forwarded=request.forwarded)
        return write_trace(await self._shielded.run(work))


def read_packet(message: trace_pb2.TracePacketRequest) -> tuple[Probe, Direction]:
    """Return the packet and its direction."""
    named = loader_pb2.ProbeEndpointRequest(
        direction=message.direction,
        source=message.source,
        destination=message.destination,
        protocol=message.protocol,
        port=message.port,
        forwarded=message.forwarded,
    )
    probe, direction = probemessages.read_probe(named)
    for name, largest in (("source_port", 0xFFFF), ("tcp_flags", 0xFF)):
        if getattr(message, name) > largest:
            raise InvalidArgument(f"{name}: {getattr(message, name)} is more than {largest}", field=name)
    if message.source_port and probe.protocol not in WITH_PORTS:
        raise InvalidArgument(f"source_port: protocol {probe.protocol} has none", field="source_port")
    if message.tcp_flags and probe.protocol != TCP:
        raise InvalidArgument(f"tcp_flags: protocol {probe.protocol} has none", field="tcp_flags")
    flags = message.tcp_flags or SYN
    return Probe(probe.source, probe.destination, probe.protocol, probe.port, message.source_port, flags), direction


def write_trace(trace: PacketTrace) -> trace_pb2.TracePacketResponse:
    """Return the message of what became of a packet."""
    return trace_pb2.TracePacketResponse(
        passed=trace.passed,
        steps=map(_write_step, trace.steps),
        disagreements=trace.disagreements,
        packet=trace.packet,
    )


def _write_step(traced: TracedStep) -> trace_pb2.TraceStep:
    step = traced.step
    return trace_pb2.TraceStep(
        program=step.program,
        program_id=traced.program_id,
        hook=traced.hook,
        endpoint_id=step.endpoint_id,
        direction=loader_pb2.TrafficDirection.ValueType(step.direction),
        verdict=trace_pb2.TraceVerdict.ValueType(step.verdict),
        reason=step.reason,
        source=traced.place,
        lookups=map(_write_lookup, step.lookups),
        rewrites=[trace_pb2.Rewrite(field=one.field, before=one.before, after=one.after) for one in traced.rewrites],
        conntrack=loader_pb2.ConntrackState.ValueType(step.conntrack),
        source_identity=step.source_identity,
        destination_identity=step.destination_identity,
        next=step.next,
        ran=traced.ran,
    )


def _write_lookup(lookup: Lookup) -> trace_pb2.MapLookup:
    entry = write_policy_entry(lookup.entry) if lookup.entry is not None else None
    return trace_pb2.MapLookup(map=lookup.map, key=lookup.key, found=lookup.found, entry=entry)
