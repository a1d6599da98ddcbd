"""TraceService: messages in, values through, messages out, no decisions."""

from typing import Any

from podlane.endpoint.v1 import policy_pb2, trace_pb2, trace_pb2_grpc

from services.common import wire
from services.endpoint import policymessages
from services.endpoint.packettrace import PacketTracer, Question


class TraceServicer(trace_pb2_grpc.TraceServiceServicer):
    """The RPC of trace.proto."""

    def __init__(self, tracer: PacketTracer) -> None:
        """Serve what the tracer does."""
        self._tracer = tracer

    async def TracePacket(  # noqa: N802 - the name that grpc calls
        self, request: trace_pb2.TracePacketRequest, _context: Any
    ) -> trace_pb2.TracePacketResponse:
        """Follow one packet."""
        return await self._tracer.trace(read_question(request))


def read_question(request: trace_pb2.TracePacketRequest) -> Question:
    """Return the packet to follow."""
    # `from` is a word of Python's, so the field goes by its name.
    ends = (
        policymessages.read_end(getattr(request, "from"), "from"),
        policymessages.read_end(request.to, "to"),
    )
    packet = policy_pb2.ExplainPolicyRequest(protocol=request.protocol, port=request.port, family=request.family)
    protocol, port, version = policymessages.read_packet(packet)
    claimed = (
        wire.read_address(request.claimed_source, "claimed_source") if request.HasField("claimed_source") else None
    )
    return Question(ends, protocol, port or 0, request.source_port, request.tcp_flags, version, claimed)
