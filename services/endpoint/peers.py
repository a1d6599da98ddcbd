"""ipam and the loader as this service sees them: two Protocols in its own values, and the stubs behind them.

Every call has a timeout of its own and none inherits the caller's deadline: what was begun is finished or undone even
when nobody waits any more. An answer that makes no sense is Internal and names the peer; the caller of this service
did nothing wrong.
"""

import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Protocol

import grpc
from podlane.ipam.v1 import ipam_pb2, ipam_pb2_grpc
from podlane.loader.v1 import loader_pb2, loader_pb2_grpc

from services.common import wire
from services.common.client import Peer
from services.common.errors import FailedPrecondition, Internal, InvalidArgument, Unavailable
from services.common.model import Address, Attachment, Network, Pod
from services.endpoint import peer_messages
from services.endpoint.model import Endpoint, Level, Link
from services.endpoint.observed import (
    Allocation,
    Built,
    Datapath,
    Flow,
    LinkRemoval,
    LinkState,
    NodeConfig,
    PolicyChange,
    PoolRange,
    Probe,
    ProbePacket,
)
from services.endpoint.options import OptionInfo, Options
from services.endpoint.policy import PolicyEntry
from services.endpoint.policy.prefixes import PrefixChanges

# A first regeneration of a new shape compiles.
_BUILD_SECONDS = 60.0
_CALL_SECONDS = 10.0
_PAGE = 1000


class Loader(Protocol):
    """The privileged room."""

    async def configure_node(self, config: NodeConfig) -> bool:
        """Put the node's configuration in force; return whether it changed."""

    async def options(self) -> tuple[OptionInfo, ...]:
        """Return the switches that endpoint programs have."""

    async def regenerate(
        self,
        endpoint: Endpoint,
        level: Level,
        policy: tuple[PolicyEntry, ...] | None,
        options: Options,
        *,
        dry_run: bool,
    ) -> Built:
        """Put an endpoint's datapath in force, or only say what that would change. `policy` None: its map stays.

        Raises NotFound (link), FailedPrecondition (verifier, compiler).
        """

    async def update_policies(self, changes: Iterable[PolicyChange], prefixes: PrefixChanges) -> Mapping[int, str]:
        """Change policy maps and prefixes; return whom it refused, and why. Raises Exhausted (prefixes)."""

    async def prefixes(self) -> dict[Network, int]:
        """Return the prefixes that have identities in the kernel."""

    async def sync_prefixes(self, prefixes: Mapping[Network, int]) -> None:
        """Make the kernel have exactly these. Raises Exhausted."""

    async def policy(self, endpoint_id: int) -> tuple[PolicyEntry, ...]:
        """Return what an endpoint's policy map holds. Raises NotFound."""

    async def flows(self, endpoint_id: int) -> tuple[Flow, ...]:
        """Return an endpoint's live flows; of TCP those that aren't closed."""

    async def node_addresses(self) -> frozenset[Address]:
        """Return the addresses that are the node's own to the datapath."""

    async def probe(self, packet: ProbePacket) -> Probe:
        """Ask an endpoint's programs about a packet. Raises NotFound (no programs), Unavailable."""

    def events(
        self, types: Iterable[int], endpoint_id: int, begun: Callable[[], Awaitable[None]], *, background: bool = False
    ) -> AsyncIterator[loader_pb2.WatchEventsResponse]:
        """Yield what happens to packets, as the loader says it; 0: of all endpoints. `begun`: from now on.

        `background`: nobody looks on, so a small part of a flood will do.
        """

    async def flow_counts(self) -> loader_pb2.ListFlowCountsResponse:
        """Return what flows have counted, as the loader says it."""

    async def remove(self, endpoint_id: int, generation: int) -> bool:
        """Take an endpoint's datapath down; False when there was none, or another generation's."""

    async def remove_unrecorded(self, endpoint_id: int) -> bool:
        """Remove what is left of a datapath that the loader has no record of; False when there is none, or it has."""

    async def datapaths(self, endpoint_id: int = 0, *, slots: bool = False) -> tuple[Datapath, ...]:
        """Return what is in the kernel for one endpoint, or for all; `slots`: see ListEndpointDatapathsRequest."""

    async def links(self, attachment: Attachment | None = None) -> tuple[Link, ...]:
        """Return the podlane links of the kernel, of one attachment or all; of a lost record's nobody's."""

    async def link_states(self, attachment: Attachment | None = None) -> tuple[LinkState, ...]:
        """Return links and records of links, and what has become of their pods' namespaces."""

    async def repair_link(self, attachment: Attachment) -> tuple[str, ...]:
        """Make a link what it was made as; return what wasn't. Raises NotFound when it is gone."""

    async def delete_link(self, attachment: Attachment, host_ifindex: int, idle: int = 0) -> bool:
        """Delete a link; False when it was gone. Raises FailedPrecondition: see DeleteLinkRequest."""

    def removals(self) -> AsyncIterator[LinkRemoval]:
        """Yield each link that goes, until the loader does."""


class Ipam(Protocol):
    """Who holds which address."""

    async def ranges(self) -> tuple[PoolRange, ...]:
        """Return all ranges of all pools. Raises Unavailable while a family has none: its router isn't known."""

    def range_changes(self) -> AsyncIterator[tuple[PoolRange, ...]]:
        """Yield all ranges of all pools, and again whenever they change."""

    async def confirm(self, owner: Attachment, endpoint_id: int) -> Allocation:
        """Make a reservation permanent. Raises NotFound when it has expired."""

    async def unconfirm(self, owner: Attachment, endpoint_id: int) -> None:
        """Make what this endpoint has confirmed a reservation again; anything else is left as it is."""

    async def allocate(self, owner: Attachment, pod: Pod, requested: tuple[Address, ...]) -> Allocation:
        """Reserve exactly these addresses. Raises AlreadyExists, FailedPrecondition, InvalidArgument."""

    async def release(self, owner: Attachment, endpoint_id: int = 0, *, ipam_only: bool = False) -> bool:
        """Free all that the owner holds; False when that is nothing.

        With `endpoint_id` only what that endpoint confirmed: FailedPrecondition. `ipam_only`: what no endpoint has.
        """

    async def allocations(self, owner: Attachment | None = None) -> tuple[Allocation, ...]:
        """Return what one owner, or every owner, holds."""

    async def lost(self) -> None:
        """Return when the connection is lost."""


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
        reply = await self._peer.call(self._stub.GetNode, loader_pb2.GetNodeRequest(), timeout=_CALL_SECONDS)
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
        with _trusting("loader"):
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
        reply = await self._peer.call(self._stub.DumpMap, request, timeout=_CALL_SECONDS)
        with _trusting("loader"):
            return {wire.read_network(one.prefix.prefix, "prefix"): one.prefix.identity for one in reply.entries}

    async def sync_prefixes(self, prefixes: Mapping[Network, int]) -> None:
        """See Loader."""
        request = loader_pb2.SyncPrefixesRequest(prefixes=peer_messages.write_prefixes(prefixes))
        await self._peer.call(self._stub.SyncPrefixes, request, timeout=_CALL_SECONDS)

    async def flows(self, endpoint_id: int) -> tuple[Flow, ...]:
        """See Loader."""
        request = loader_pb2.DumpMapRequest(map="conntrack", endpoint_id=endpoint_id)
        reply = await self._peer.call(self._stub.DumpMap, request, timeout=_CALL_SECONDS)
        with _trusting("loader"):
            found = (one.conntrack for one in reply.entries)
            return tuple(peer_messages.read_flow(flow) for flow in found if flow.state != loader_pb2.FLOW_STATE_CLOSING)

    async def policy(self, endpoint_id: int) -> tuple[PolicyEntry, ...]:
        """See Loader."""
        request = loader_pb2.DumpMapRequest(map="policy", endpoint_id=endpoint_id)
        reply = await self._peer.call(self._stub.DumpMap, request, timeout=_CALL_SECONDS)
        return tuple(peer_messages.read_policy_entry(one.policy.entry) for one in reply.entries)

    async def node_addresses(self) -> frozenset[Address]:
        """See Loader."""
        reply = await self._peer.call(
            self._stub.DumpMap, loader_pb2.DumpMapRequest(map="endpoints"), timeout=_CALL_SECONDS
        )
        with _trusting("loader"):
            own = [one.endpoint.address for one in reply.entries if not one.endpoint.endpoint_id]
            return frozenset(wire.read_address(address, "endpoint.address") for address in own)

    async def probe(self, packet: ProbePacket) -> Probe:
        """See Loader."""
        request = peer_messages.write_probe(packet)
        reply = await self._peer.call(self._stub.ProbeEndpoint, request, timeout=_CALL_SECONDS)
        with _trusting("loader"):
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
            self._stub.ListFlowCounts, request, timeout=_CALL_SECONDS
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
            reply = await self._peer.call(self._stub.RemoveEndpoint, request, timeout=_CALL_SECONDS)
        except FailedPrecondition:
            # A newer generation holds the id, so nothing of this one is left to remove.
            return False
        return bool(reply.removed)

    async def datapaths(self, endpoint_id: int = 0, *, slots: bool = False) -> tuple[Datapath, ...]:
        """See Loader."""
        request = loader_pb2.ListEndpointDatapathsRequest(id=endpoint_id, slots=slots)
        reply = await self._peer.call(self._stub.ListEndpointDatapaths, request, timeout=_CALL_SECONDS)
        with _trusting("loader"):
            return tuple(map(peer_messages.read_datapath, reply.datapaths))

    async def links(self, attachment: Attachment | None = None) -> tuple[Link, ...]:
        """See Loader."""
        asked = wire.write_attachment(attachment) if attachment is not None else None
        request = loader_pb2.ListLinksRequest(attachment=asked)
        reply = await self._peer.call(self._stub.ListLinks, request, timeout=_CALL_SECONDS)
        with _trusting("loader"):
            # Index 0 is a record whose link the kernel has lost.
            there = [status.link for status in reply.links if status.link.host_ifindex]
            return tuple(peer_messages.read_link(link, "links.link", recorded=False) for link in there)

    async def link_states(self, attachment: Attachment | None = None) -> tuple[LinkState, ...]:
        """See Loader."""
        asked = wire.write_attachment(attachment) if attachment is not None else None
        request = loader_pb2.ListLinksRequest(attachment=asked, namespaces=True)
        reply = await self._peer.call(self._stub.ListLinks, request, timeout=_CALL_SECONDS)
        with _trusting("loader"):
            return tuple(map(peer_messages.read_link_state, reply.links))

    async def repair_link(self, attachment: Attachment) -> tuple[str, ...]:
        """See Loader."""
        request = loader_pb2.RepairLinkRequest(attachment=wire.write_attachment(attachment))
        reply = await self._peer.call(self._stub.RepairLink, request, timeout=_CALL_SECONDS)
        return tuple(reply.repaired)

    async def delete_link(self, attachment: Attachment, host_ifindex: int, idle: int = 0) -> bool:
        """See Loader."""
        request = loader_pb2.DeleteLinkRequest(
            attachment=wire.write_attachment(attachment), host_ifindex=host_ifindex, idle_seconds=idle
        )
        reply = await self._peer.call(self._stub.DeleteLink, request, timeout=_CALL_SECONDS)
        return bool(reply.deleted)

    async def removals(self) -> AsyncIterator[LinkRemoval]:
        """See Loader."""
        request = loader_pb2.WatchLinksRequest()
        async for message in self._peer.stream(self._stub.WatchLinks, request):
            yield LinkRemoval(message.host_ifname, message.host_ifindex)


class IpamPeer:
    """ipam by gRPC."""

    def __init__(self, peer: Peer) -> None:
        """`peer` must be started before the first call."""
        self._peer = peer

    @functools.cached_property
    def _stub(self) -> "ipam_pb2_grpc.IpamServiceAsyncStub":
        return ipam_pb2_grpc.IpamServiceStub(self._peer.channel)

    async def ranges(self) -> tuple[PoolRange, ...]:
        """See Ipam."""
        reply = await self._peer.call(self._stub.ListPools, ipam_pb2.ListPoolsRequest(), timeout=_CALL_SECONDS)
        if missing := peer_messages.missing_ranges(reply.pools):
            raise Unavailable(missing, service="ipam")
        with _trusting("ipam"):
            return peer_messages.read_ranges(reply.pools)

    async def range_changes(self) -> AsyncIterator[tuple[PoolRange, ...]]:
        """See Ipam."""
        async for reply in self._peer.stream(self._stub.WatchPools, ipam_pb2.WatchPoolsRequest()):
            with _trusting("ipam"):
                yield peer_messages.read_ranges(reply.pools)

    async def confirm(self, owner: Attachment, endpoint_id: int) -> Allocation:
        """See Ipam."""
        request = ipam_pb2.ConfirmAllocationRequest(owner=wire.write_attachment(owner), endpoint_id=endpoint_id)
        reply = await self._peer.call(self._stub.ConfirmAllocation, request, timeout=_CALL_SECONDS)
        with _trusting("ipam"):
            return peer_messages.read_allocation(reply.allocation)

    async def unconfirm(self, owner: Attachment, endpoint_id: int) -> None:
        """See Ipam."""
        request = ipam_pb2.UnconfirmAllocationRequest(owner=wire.write_attachment(owner), endpoint_id=endpoint_id)
        await self._peer.call(self._stub.UnconfirmAllocation, request, timeout=_CALL_SECONDS)

    async def allocate(self, owner: Attachment, pod: Pod, requested: tuple[Address, ...]) -> Allocation:
        """See Ipam."""
        request = ipam_pb2.AllocateAddressesRequest(
            owner=wire.write_attachment(owner),
            pod=wire.write_pod(pod),
            families=[peer_messages.FAMILIES[address.version] for address in requested],
            requested=map(wire.write_address, requested),
        )
        reply = await self._peer.call(self._stub.AllocateAddresses, request, timeout=_CALL_SECONDS)
        with _trusting("ipam"):
            return peer_messages.read_allocation(reply.allocation)

    async def release(self, owner: Attachment, endpoint_id: int = 0, *, ipam_only: bool = False) -> bool:
        """See Ipam."""
        request = ipam_pb2.ReleaseAddressesRequest(
            owner=wire.write_attachment(owner), endpoint_id=endpoint_id, without_endpoint=ipam_only
        )
        reply = await self._peer.call(self._stub.ReleaseAddresses, request, timeout=_CALL_SECONDS)
        return bool(reply.HasField("released"))

    async def allocations(self, owner: Attachment | None = None) -> tuple[Allocation, ...]:
        """See Ipam."""
        asked = wire.write_attachment(owner) if owner is not None else None
        request = ipam_pb2.ListAllocationsRequest(owner=asked, page_size=_PAGE)
        found: list[Allocation] = []
        while True:
            reply = await self._peer.call(self._stub.ListAllocations, request, timeout=_CALL_SECONDS)
            with _trusting("ipam"):
                found += map(peer_messages.read_allocation, reply.allocations)
            if not reply.next_page_token:
                return tuple(found)
            request.page_token = reply.next_page_token

    async def lost(self) -> None:
        """See Ipam."""
        channel = self._peer.channel
        ready = grpc.ChannelConnectivity.READY
        while channel.get_state() is ready:
            await channel.wait_for_state_change(ready)


@contextlib.contextmanager
def _trusting(peer: str) -> Iterator[None]:
    """Say whose fault it is when an answer can't be read."""
    try:
        yield
    except InvalidArgument as error:
        raise Internal(f"podlane-{peer} answered what can't be: {error.message}", service=peer) from None
