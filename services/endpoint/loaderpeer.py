"""The loader by gRPC: what `peers.Loader` promises, said in the loader's messages.

A request is written, sent, and its answer read; what either looks like is `peer_messages.py`'s. Nothing is tried again
here: who asks knows whether that helps.
"""

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping

from podlane.loader.v1 import loader_pb2, loader_pb2_grpc

from services.common import wire
from services.common.client import Peer
from services.common.errors import FailedPrecondition
from services.common.model import Address, Attachment, Network
from services.endpoint import peer_messages
from services.endpoint.model import Endpoint, Level, Link
from services.endpoint.observed import (
    Built,
    Datapath,
    Flow,
    LinkRemoval,
    LinkState,
    NodeConfig,
    PolicyChange,
    Probe,
    ProbePacket,
)
from services.endpoint.options import OptionInfo, Options
from services.endpoint.peers import CALL_SECONDS, trusting
from services.endpoint.policy import PolicyEntry
from services.endpoint.policy.prefixes import PrefixChanges

# A first regeneration of a new shape compiles.
_BUILD_SECONDS = 60.0


class LoaderPeer:
    """The loader by gRPC."""

    def __init__(self, peer: Peer) -> None:
        """`peer` must be started before the first call."""
        self._peer = peer

    @functools.cached_property
    def _stub(self) -> "loader_pb2_grpc.LoaderServiceAsyncStub":
        return loader_pb2_grpc.LoaderServiceStub(self._peer.channel)

    async def configure_node(self, config: NodeConfig) -> bool:
        """See Loader."""
        request = loader_pb2.ConfigureNodeRequest(config=peer_messages.write_node_config(config))
        reply = await self._peer.call(self._stub.ConfigureNode, request, timeout=_BUILD_SECONDS)
        return bool(reply.changed)

    async def options(self) -> tuple[OptionInfo, ...]:
        """See Loader."""
        reply = await self._peer.call(self._stub.GetNode, loader_pb2.GetNodeRequest(), timeout=CALL_SECONDS)
        return tuple(map(peer_messages.read_option, reply.options))

    async def regenerate(
        self,
        endpoint: Endpoint,
        level: Level,
        policy: tuple[PolicyEntry, ...] | None,
        options: Options,
        *,
        dry_run: bool,
    ) -> Built:
        """See Loader."""
        request = loader_pb2.RegenerateEndpointRequest(
            endpoint=peer_messages.write_config(endpoint, options),
            level=loader_pb2.RegenerationLevel.ValueType(level),
            policy=map(peer_messages.write_policy_entry, policy or ()),
            dry_run=dry_run,
            keep_policy=policy is None,
        )
        reply = await self._peer.call(self._stub.RegenerateEndpoint, request, timeout=_BUILD_SECONDS)
        with trusting("loader"):
            return peer_messages.read_built(reply)

    async def update_policies(self, changes: Iterable[PolicyChange], prefixes: PrefixChanges) -> Mapping[int, str]:
        """See Loader."""
        request = loader_pb2.UpdatePoliciesRequest(
            changes=map(peer_messages.write_policy_change, changes),
            prefixes_added=peer_messages.write_prefixes(prefixes.added),
            prefixes_removed=map(wire.write_network, prefixes.removed),
        )
        reply = await self._peer.call(self._stub.UpdatePolicies, request, timeout=_BUILD_SECONDS)
        return {one.id: one.error for one in reply.refusals}

    async def prefixes(self) -> dict[Network, int]:
        """See Loader."""
        request = loader_pb2.DumpMapRequest(map="prefixes")
        reply = await self._peer.call(self._stub.DumpMap, request, timeout=CALL_SECONDS)
        with trusting("loader"):
            return {wire.read_network(one.prefix.prefix, "prefix"): one.prefix.identity for one in reply.entries}

    async def sync_prefixes(self, prefixes: Mapping[Network, int]) -> None:
        """See Loader."""
        request = loader_pb2.SyncPrefixesRequest(prefixes=peer_messages.write_prefixes(prefixes))
        await self._peer.call(self._stub.SyncPrefixes, request, timeout=CALL_SECONDS)

    async def flows(self, endpoint_id: int) -> tuple[Flow, ...]:
        """See Loader."""
        request = loader_pb2.DumpMapRequest(map="conntrack", endpoint_id=endpoint_id)
        reply = await self._peer.call(self._stub.DumpMap, request, timeout=CALL_SECONDS)
        with trusting("loader"):
            found = (one.conntrack for one in reply.entries)
            return tuple(peer_messages.read_flow(flow) for flow in found if flow.state != loader_pb2.FLOW_STATE_CLOSING)

    async def policy(self, endpoint_id: int) -> tuple[PolicyEntry, ...]:
        """See Loader."""
        request = loader_pb2.DumpMapRequest(map="policy", endpoint_id=endpoint_id)
        reply = await self._peer.call(self._stub.DumpMap, request, timeout=CALL_SECONDS)
        return tuple(peer_messages.read_policy_entry(one.policy.entry) for one in reply.entries)

    async def node_addresses(self) -> frozenset[Address]:
        """See Loader."""
        reply = await self._peer.call(
            self._stub.DumpMap, loader_pb2.DumpMapRequest(map="endpoints"), timeout=CALL_SECONDS
        )
        with trusting("loader"):
            own = [one.endpoint.address for one in reply.entries if not one.endpoint.endpoint_id]
            return frozenset(wire.read_address(address, "endpoint.address") for address in own)

    async def probe(self, packet: ProbePacket) -> Probe:
        """See Loader."""
        request = peer_messages.write_probe(packet)
        reply = await self._peer.call(self._stub.ProbeEndpoint, request, timeout=CALL_SECONDS)
        with trusting("loader"):
            return peer_messages.read_probe(reply)

    async def events(
        self, types: Iterable[int], endpoint_id: int, begun: Callable[[], Awaitable[None]], *, background: bool = False
    ) -> AsyncIterator[loader_pb2.WatchEventsResponse]:
        """See Loader."""
        wanted = map(loader_pb2.EventType.ValueType, types)
        request = loader_pb2.WatchEventsRequest(types=wanted, endpoint_id=endpoint_id, background=background)
        async for event in self._peer.stream(self._stub.WatchEvents, request, begun=begun):
            yield event

    async def flow_counts(self) -> loader_pb2.ListFlowCountsResponse:
        """See Loader."""
        request = loader_pb2.ListFlowCountsRequest()
        reply: loader_pb2.ListFlowCountsResponse = await self._peer.call(
            self._stub.ListFlowCounts, request, timeout=CALL_SECONDS
        )
        return reply

    async def remove(self, endpoint_id: int, generation: int) -> bool:
        """See Loader."""
        return await self._remove(loader_pb2.RemoveEndpointRequest(id=endpoint_id, generation=generation))

    async def remove_unrecorded(self, endpoint_id: int) -> bool:
        """See Loader."""
        return await self._remove(loader_pb2.RemoveEndpointRequest(id=endpoint_id, unrecorded=True))

    async def _remove(self, request: loader_pb2.RemoveEndpointRequest) -> bool:
        try:
            reply = await self._peer.call(self._stub.RemoveEndpoint, request, timeout=CALL_SECONDS)
        except FailedPrecondition:
            # A newer generation holds the id, so nothing of this one is left to remove.
            return False
        return bool(reply.removed)

    async def datapaths(self, endpoint_id: int = 0, *, slots: bool = False) -> tuple[Datapath, ...]:
        """See Loader."""
        request = loader_pb2.ListEndpointDatapathsRequest(id=endpoint_id, slots=slots)
        reply = await self._peer.call(self._stub.ListEndpointDatapaths, request, timeout=CALL_SECONDS)
        with trusting("loader"):
            return tuple(map(peer_messages.read_datapath, reply.datapaths))

    async def links(self, attachment: Attachment | None = None) -> tuple[Link, ...]:
        """See Loader."""
        asked = wire.write_attachment(attachment) if attachment is not None else None
        request = loader_pb2.ListLinksRequest(attachment=asked)
        reply = await self._peer.call(self._stub.ListLinks, request, timeout=CALL_SECONDS)
        with trusting("loader"):
            # Index 0 is a record whose link the kernel has lost.
            there = [status.link for status in reply.links if status.link.host_ifindex]
            return tuple(peer_messages.read_link(link, "links.link", recorded=False) for link in there)

    async def link_states(self, attachment: Attachment | None = None) -> tuple[LinkState, ...]:
        """See Loader."""
        asked = wire.write_attachment(attachment) if attachment is not None else None
        request = loader_pb2.ListLinksRequest(attachment=asked, namespaces=True)
        reply = await self._peer.call(self._stub.ListLinks, request, timeout=CALL_SECONDS)
        with trusting("loader"):
            return tuple(map(peer_messages.read_link_state, reply.links))

    async def repair_link(self, attachment: Attachment) -> tuple[str, ...]:
        """See Loader."""
        request = loader_pb2.RepairLinkRequest(attachment=wire.write_attachment(attachment))
        reply = await self._peer.call(self._stub.RepairLink, request, timeout=CALL_SECONDS)
        return tuple(reply.repaired)

    async def delete_link(self, attachment: Attachment, host_ifindex: int, idle: int = 0) -> bool:
        """See Loader."""
        request = loader_pb2.DeleteLinkRequest(
            attachment=wire.write_attachment(attachment), host_ifindex=host_ifindex, idle_seconds=idle
        )
        reply = await self._peer.call(self._stub.DeleteLink, request, timeout=CALL_SECONDS)
        return bool(reply.deleted)

    async def removals(self) -> AsyncIterator[LinkRemoval]:
        """See Loader."""
        request = loader_pb2.WatchLinksRequest()
        async for message in self._peer.stream(self._stub.WatchLinks, request):
            yield LinkRemoval(message.host_ifname, message.host_ifindex)
