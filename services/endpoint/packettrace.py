"""One packet through the programs of both its ends, with the names of who they are of and the rules that decide.

The loader follows a packet through one endpoint's programs at a time (its TraceService). From a pod of this node it
begins there; where the sender's programs leave it to the node's stack and it is for another pod of this node, it goes
on at that one's, as the stack would bring it. From elsewhere it begins at the receiver's.
"""

from dataclasses import dataclass
from typing import Any, Protocol

from podlane.endpoint.v1 import trace_pb2 as pb
from podlane.loader.v1 import loader_pb2, trace_pb2_grpc
from podlane.loader.v1 import trace_pb2 as loader_trace

from services.common import wire
from services.common.client import Peer
from services.common.errors import Internal, InvalidArgument, PodlaneError
from services.common.model import Address
from services.endpoint.policies import Policies
from services.endpoint.policy.entry import PROTOCOLS, Direction
from services.endpoint.policy.explain import Packet, Party, decide
from services.endpoint.policy.identity import Reserved
from services.endpoint.policyview import End, PolicyView, name_of
from services.endpoint.registry import Registry, Selector

_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Question:
    """A packet to follow. `version` 0: IPv4 where both ends have it; `claimed`: what the sender says that it is."""

    ends: tuple[End, End]
    protocol: int
    port: int
    source_port: int = 0
    tcp_flags: int = 0
    version: int = 0
    claimed: Address | None = None


class Loader(Protocol):
    """The loader, as far as it is asked."""

    async def trace_packet(self, request: loader_trace.TracePacketRequest) -> loader_trace.TracePacketResponse:
        """Follow a packet through one endpoint's programs. Raises NotFound, InvalidArgument, Unavailable."""


class LoaderPeer:
    """The loader's TraceService by gRPC."""

    def __init__(self, peer: Peer) -> None:
        """`peer` must be started before the first call."""
        self._peer = peer

    async def trace_packet(self, request: loader_trace.TracePacketRequest) -> loader_trace.TracePacketResponse:
        """See Loader."""
        stub: Any = trace_pb2_grpc.TraceServiceStub(self._peer.channel)
        reply: loader_trace.TracePacketResponse = await self._peer.call(stub.TracePacket, request, timeout=_SECONDS)
        if not reply.steps:
            raise Internal("podlane-loader has followed a packet through no program: restart it")
        return reply


class PacketTracer:
    """Follows packets."""

    def __init__(self, view: PolicyView, policies: Policies, registry: Registry, loader: Loader) -> None:
        """Wire."""
        self._view, self._policies, self._registry, self._loader = view, policies, registry, loader

    async def trace(self, question: Question) -> pb.TracePacketResponse:
        """Follow a packet. Raises NotFound, InvalidArgument (ends, family), Unavailable."""
        source, destination = await self._view.parties(question.ends, question.version)
        if source.address is None or destination.address is None:
            raise InvalidArgument("from, to: an end without an address", field="to")
        if source.name == destination.name:
            raise InvalidArgument("to: a packet from a pod to itself does not leave it: no program sees it", field="to")
        sender, receiver = self._id(source), self._id(destination)
        claimed = question.claimed if question.claimed is not None else source.address
        if claimed.version != destination.address.version:
            raise InvalidArgument(
                f"claimed_source: {claimed} is not of the family of {destination.address}", field="claimed_source"
            )
        request = loader_trace.TracePacketRequest(
            endpoint_id=sender or receiver,
            direction=loader_pb2.TRAFFIC_DIRECTION_EGRESS if sender else loader_pb2.TRAFFIC_DIRECTION_INGRESS,
            source=wire.write_address(claimed),
            destination=wire.write_address(destination.address),
            protocol=question.protocol,
            port=question.port,
            source_port=question.source_port,
            tcp_flags=question.tcp_flags,
            forwarded=not sender and source.identity != Reserved.HOST,
        )
        told = await self._loader.trace_packet(request)
        reply = pb.TracePacketResponse(
            passed=told.passed,
            steps=map(self._named, told.steps),
            disagreements=told.disagreements,
            source=request.source,
            destination=request.destination,
            source_endpoint_id=sender,
            destination_endpoint_id=receiver,
            source_name=source.name,
            destination_name=destination.name,
            packet=told.packet,
        )
        if sender and receiver and told.passed and len(told.steps) == 1:
            await self._from_stack(reply, request, receiver)
        for named in reply.steps:
            self._explain(named, request)
        last = reply.steps[-1]
        reply.outcome = f"{last.endpoint_name}, {last.step.program}: {last.step.next}"
        return reply

    async def _from_stack(
        self, reply: pb.TracePacketResponse, request: loader_trace.TracePacketRequest, receiver: int
    ) -> None:
        """Go on where the node's stack brings what the sender's programs have left to it."""
        onward = loader_trace.TracePacketRequest()
        onward.CopyFrom(request)
        onward.endpoint_id, onward.forwarded = receiver, True
        onward.direction = loader_pb2.TRAFFIC_DIRECTION_INGRESS
        told = await self._loader.trace_packet(onward)
        reply.passed = told.passed
        reply.steps.extend(map(self._named, told.steps))
        reply.disagreements.extend(told.disagreements)

    def _id(self, party: Party) -> int:
        managed = self._registry.find(Selector(address=party.address)) if party.policy is not None else None
        return managed.endpoint.id if managed is not None else 0

    def _named(self, step: loader_trace.TraceStep) -> pb.NamedStep:
        managed = self._registry.find(Selector(id=step.endpoint_id))
        name = name_of(managed.endpoint) if managed is not None else f"endpoint {step.endpoint_id}"
        return pb.NamedStep(step=step, endpoint_name=name)

    def _explain(self, named: pb.NamedStep, request: loader_trace.TracePacketRequest) -> None:
        """Say which rules decided, where policy was asked."""
        step = named.step
        if not any(lookup.map == "policy" for lookup in step.lookups):
            return
        try:
            policy = self._policies.wanted(step.endpoint_id)
        except PodlaneError:
            return  # it is gone by now, or its policy can't be in force
        outgoing = step.direction == loader_pb2.TRAFFIC_DIRECTION_EGRESS
        peer = wire.read_address(request.destination if outgoing else request.source, "peer")
        identity = step.destination_identity if outgoing else step.source_identity
        port = request.port if request.protocol in PROTOCOLS.values() else None
        prefix = self._policies.resolver.prefixes().lookup(peer)
        way = Direction.EGRESS if outgoing else Direction.INGRESS
        decision = decide(policy, way, Packet(identity, prefix, request.protocol, port))
        named.rules.extend(map(str, decision.origins))
        if not decision.allowed:
            named.isolated_by.extend(map(str, policy.side(way).isolated_by))
