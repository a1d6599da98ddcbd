"""What happens to packets, with names: the loader's events, and who and which rules they are about.

The loader knows numbers. Here they become pods, labels, and the documents that decide; as they are when the event is
told, which is moments after it happened.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from ipaddress import ip_address

from podlane.common.v1 import types_pb2 as types
from podlane.endpoint.v1 import policy_pb2 as pb
from podlane.loader.v1 import loader_pb2

from services.common import wire
from services.common.errors import PodlaneError
from services.endpoint.peers import Loader
from services.endpoint.policies import Policies
from services.endpoint.policy.desired import EndpointPolicy
from services.endpoint.policy.entry import PROTOCOLS, Direction
from services.endpoint.policy.explain import Decision, Packet, decide
from services.endpoint.policy.identity import SMALLEST, Reserved
from services.endpoint.policyview import name_of
from services.endpoint.registry import Registry, Selector

_POLICY_REASONS = {"policy", "policy deny", "ports missing"}


class FlowWatch:
    """Names events."""

    def __init__(self, policies: Policies, registry: Registry, loader: Loader) -> None:
        """Wire."""
        self._policies = policies
        self._registry = registry
        self._loader = loader

    async def watch(
        self, types_: Iterable[int], endpoint_id: int, begun: Callable[[], Awaitable[None]], *, background: bool = False
    ) -> AsyncIterator[pb.WatchFlowsResponse]:
        """Yield events with names; `begun` is awaited once when the loader has begun to tell of them.

        `background`: nobody looks on, so a small part of a flood will do.
        """
        async for event in self._loader.events(types_, endpoint_id, begun, background=background):
            yield self.named(event)

    def named(self, event: loader_pb2.WatchEventsResponse) -> pb.WatchFlowsResponse:
        """Return an event with names."""
        told = pb.WatchFlowsResponse(event=event, summary=event.summary)
        if not event.endpoint_id:
            return told
        outgoing = event.direction == loader_pb2.TRAFFIC_DIRECTION_EGRESS
        packet = event.packet
        here, there = event.endpoint_id, packet.peer_endpoint_id
        source, destination = (here, there) if outgoing else (there, here)
        told.source.CopyFrom(self._end(source, packet.source_identity, packet.source))
        told.destination.CopyFrom(self._end(destination, packet.destination_identity, packet.destination))
        self._explain(told, outgoing=outgoing)
        told.summary = _summary(told)
        return told

    def _end(self, id_: int, identity: int, address: types.IpAddress) -> pb.FlowEnd:
        managed = self._registry.find(Selector(id=id_)) if id_ else None
        if managed is None and address.packed and not id_:
            # What has expired is told of without the other end's number.
            known = self._registry.find(Selector(address=ip_address(address.packed)))
            managed = known if known is not None and known.endpoint.identity == identity else None
        if managed is not None:
            endpoint = managed.endpoint
            return pb.FlowEnd(
                endpoint_id=endpoint.id,
                pod=wire.write_pod(endpoint.spec.pod),
                identity=identity,
                labels=endpoint.identity_labels,
                name=name_of(endpoint),
            )
        name = str(ip_address(address.packed)) if address.packed else ""
        if identity < SMALLEST and identity in set(Reserved) and identity:
            reserved = Reserved(identity)
            return pb.FlowEnd(identity=identity, labels=reserved.labels, name=f"{name} ({reserved})".lstrip())
        return pb.FlowEnd(endpoint_id=id_, identity=identity, name=name or (f"endpoint {id_}" if id_ else ""))

    def _explain(self, told: pb.WatchFlowsResponse, *, outgoing: bool) -> None:
        """Say which rules decided, of a verdict and of a drop by policy."""
        event = told.event
        by_policy = event.HasField("drop") and event.drop.reason in _POLICY_REASONS
        if not (by_policy or event.HasField("policy_verdict")):
            return
        try:
            policy = self._policies.wanted(event.endpoint_id)
        except PodlaneError:
            return  # it is gone by now, or its policy can't be in force
        decision = self._decide(policy, event, outgoing=outgoing)
        way = Direction.EGRESS if outgoing else Direction.INGRESS
        told.rules.extend(map(str, decision.origins))
        if not decision.allowed:
            told.isolated_by.extend(map(str, policy.side(way).isolated_by))

    def _decide(self, policy: EndpointPolicy, event: loader_pb2.WatchEventsResponse, *, outgoing: bool) -> Decision:
        packet = event.packet
        identity = packet.destination_identity if outgoing else packet.source_identity
        address = ip_address((packet.destination if outgoing else packet.source).packed)
        cidr_identity = self._policies.resolver.prefixes().lookup(address)
        port = packet.destination_port if packet.protocol_number in PROTOCOLS.values() else None
        way = Direction.EGRESS if outgoing else Direction.INGRESS
        return decide(policy, way, Packet(identity, cidr_identity, packet.protocol_number, port))


def _summary(told: pb.WatchFlowsResponse) -> str:
    """Return the loader's line with names in front, and what decided behind."""
    line = f"{told.source.name or '?'} => {told.destination.name or '?'}: {told.event.summary}"
    if told.isolated_by:
        return f"{line}; isolated by {', '.join(told.isolated_by)}"
    return f"{line}; allowed by {'; '.join(told.rules)}" if told.rules else line
