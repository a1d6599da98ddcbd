"""LoaderService: messages in, values through, messages out, no decisions.

Calls that change something run shielded: a caller that hangs up stops waiting, the work is finished.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import structlog
from podlane.loader.v1 import loader_pb2 as pb
from podlane.loader.v1 import loader_pb2_grpc

from services.common import wire
from services.common.errors import InvalidArgument
from services.common.lifecycle import Shielded
from services.loader import clustermessages, eventmessages, linkmessages, messages, policymessages, probemessages
from services.loader.blocking import Blocking
from services.loader.datapath import Datapath
from services.loader.dump import dump
from services.loader.events import Events
from services.loader.flowledger import FlowLedger
from services.loader.inventory import Inventory
from services.loader.links import Links
from services.loader.model import Routing
from services.loader.nodeconfig import NodeConfigurer
from services.loader.othernodes import OtherNodes
from services.loader.policies import Policies
from services.loader.probe import Prober
from services.loader.regenerate import Regenerator


@dataclass(frozen=True, slots=True)
class Parts:
    """What answers."""

    node: NodeConfigurer
    links: Links
    regenerator: Regenerator
    policies: Policies
    prober: Prober
    datapath: Datapath
    inventory: Inventory
    events: Events
    ledger: FlowLedger
    others: OtherNodes
    blocking: Blocking
    shielded: Shielded


class LoaderServicer(loader_pb2_grpc.LoaderServiceServicer):
    """The RPCs of loader.proto."""

    def __init__(self, parts: Parts) -> None:
        """Serve what the parts do."""
        self._parts = parts

    async def ConfigureNode(  # noqa: N802 - the name that grpc calls
        self, request: pb.ConfigureNodeRequest, _context: Any
    ) -> pb.ConfigureNodeResponse:
        """Put the node's configuration in force."""
        config = messages.read_node_config(request.config, "config")
        changed, digest = await self._parts.shielded.run(self._parts.node.configure(config))
        return pb.ConfigureNodeResponse(changed=changed, hash=digest)

    async def GetNode(  # noqa: N802 - the name that grpc calls
        self, _request: pb.GetNodeRequest, _context: Any
    ) -> pb.GetNodeResponse:
        """Show the node's configuration and what was found out about the machine."""
        return messages.write_node(self._parts.node.view())

    async def CreateLink(  # noqa: N802 - the name that grpc calls
        self, request: pb.CreateLinkRequest, _context: Any
    ) -> pb.CreateLinkResponse:
        """Make a veth pair, or return the one that is there."""
        spec = linkmessages.read_link(request)
        structlog.contextvars.bind_contextvars(attachment=str(spec.attachment))
        gone = False
        try:
            created = await self._parts.shielded.run(self._parts.links.create(spec, lambda: gone))
        except asyncio.CancelledError:
            gone = True
            raise
        return linkmessages.write_created(created)

    async def DeleteLink(  # noqa: N802 - the name that grpc calls
        self, request: pb.DeleteLinkRequest, _context: Any
    ) -> pb.DeleteLinkResponse:
        """Delete a veth pair."""
        attachment = wire.read_attachment(request.attachment, "attachment")
        structlog.contextvars.bind_contextvars(attachment=str(attachment))
        work = self._parts.links.delete(attachment, ifindex=request.host_ifindex, idle=request.idle_seconds)
        return pb.DeleteLinkResponse(deleted=await self._parts.shielded.run(work))

    async def RepairLink(  # noqa: N802 - the name that grpc calls
        self, request: pb.RepairLinkRequest, _context: Any
    ) -> pb.RepairLinkResponse:
        """Make a link what it was made as."""
        attachment = wire.read_attachment(request.attachment, "attachment")
        structlog.contextvars.bind_contextvars(attachment=str(attachment))
        return pb.RepairLinkResponse(repaired=await self._parts.shielded.run(self._parts.links.repair(attachment)))

    async def ListLinks(  # noqa: N802 - the name that grpc calls
        self, request: pb.ListLinksRequest, _context: Any
    ) -> pb.ListLinksResponse:
        """Show the links as they are."""
        wanted = wire.read_attachment(request.attachment, "attachment") if request.HasField("attachment") else None
        found = await self._parts.links.list(wanted, verify=request.verify, namespaces=request.namespaces)
        return pb.ListLinksResponse(links=map(linkmessages.write_link_status, found))

    async def WatchLinks(  # noqa: N802 - the name that grpc calls
        self, _request: pb.WatchLinksRequest, _context: Any
    ) -> AsyncIterator[pb.WatchLinksResponse]:
        """Stream the removals of links."""
        async with contextlib.aclosing(self._parts.links.watch()) as removals:
            async for removal in removals:
                yield linkmessages.write_removal(removal)

    async def RegenerateEndpoint(  # noqa: N802 - the name that grpc calls
        self, request: pb.RegenerateEndpointRequest, _context: Any
    ) -> pb.RegenerateEndpointResponse:
        """Put an endpoint's datapath in force."""
        spec = messages.read_endpoint(request.endpoint, "endpoint")
        structlog.contextvars.bind_contextvars(attachment=str(spec.attachment), endpoint=spec.id)
        level = messages.read_level(request.level, "level")
        policy = policymessages.read_policy(request.policy, "policy") if not request.keep_policy else None
        regenerator = self._parts.regenerator
        if request.dry_run:
            outcome = await regenerator.preview(spec, level, policy)
        else:
            outcome = await self._parts.shielded.run(regenerator.regenerate(spec, level, policy))
        return pb.RegenerateEndpointResponse(
            datapath=messages.write_status(outcome.status),
            level=pb.RegenerationLevel.ValueType(outcome.level),
            phases=wire.write_phases(outcome.phases),
            reason=outcome.reason or "",
            changes=outcome.changes,
        )

    async def RemoveEndpoint(  # noqa: N802 - the name that grpc calls
        self, request: pb.RemoveEndpointRequest, _context: Any
    ) -> pb.RemoveEndpointResponse:
        """Take an endpoint's datapath down."""
        id_ = policymessages.read_id(request.id, "id")
        structlog.contextvars.bind_contextvars(endpoint=id_)
        work = self._parts.regenerator.remove(id_, request.generation, unrecorded=request.unrecorded)
        return pb.RemoveEndpointResponse(removed=await self._parts.shielded.run(work))

    async def UpdatePolicies(  # noqa: N802 - the name that grpc calls
        self, request: pb.UpdatePoliciesRequest, _context: Any
    ) -> pb.UpdatePoliciesResponse:
        """Change many policy maps and the prefixes."""
        update = policymessages.read_update(request)
        return policymessages.write_refusals(await self._parts.shielded.run(self._parts.policies.update(update)))

    async def SyncPrefixes(  # noqa: N802 - the name that grpc calls
        self, request: pb.SyncPrefixesRequest, _context: Any
    ) -> pb.SyncPrefixesResponse:
        """Make the map of prefixes what it is to be."""
        wanted = policymessages.read_prefixes(request.prefixes, "prefixes")
        done = await self._parts.shielded.run(self._parts.policies.sync(wanted))
        return pb.SyncPrefixesResponse(written=done.written, removed=done.removed)

    async def UpdateIpcache(  # noqa: N802 - the name that grpc calls
        self, request: pb.UpdateIpcacheRequest, _context: Any
    ) -> pb.UpdateIpcacheResponse:
        """Change who is behind addresses of other nodes."""
        reader = self._ipcache_reader()
        upserts, removals = reader.update(request)
        await self._parts.shielded.run(self._parts.others.update_ipcache(upserts, removals))
        return pb.UpdateIpcacheResponse()

    async def SyncIpcache(  # noqa: N802 - the name that grpc calls
        self, requests: AsyncIterator[pb.SyncIpcacheRequest], _context: Any
    ) -> pb.SyncIpcacheResponse:
        """Make the ipcache what it is to be; a stream that breaks off ends here, before anything is changed."""
        reader, wanted, complete = self._ipcache_reader(), dict[bytes, bytes](), False
        async for request in requests:
            reader.add(wanted, request.entries, "entries")
            complete = request.complete
        if not complete:
            raise InvalidArgument("complete: the stream has ended before its last message", field="complete")
        done = await self._parts.shielded.run(self._parts.others.sync_ipcache(wanted))
        return pb.SyncIpcacheResponse(written=done.written, removed=done.removed)

    def _ipcache_reader(self) -> clustermessages.IpcacheReader:
        config = self._parts.node.config
        family = config.underlay_family if config.routing is Routing.OVERLAY else 0
        return clustermessages.IpcacheReader(family)

    async def SyncNodes(  # noqa: N802 - the name that grpc calls
        self, request: pb.SyncNodesRequest, _context: Any
    ) -> pb.SyncNodesResponse:
        """Make the routes to other nodes what they are to be."""
        nodes = clustermessages.read_nodes(request.nodes, "nodes")
        done = await self._parts.shielded.run(self._parts.node.sync_nodes(nodes))
        return pb.SyncNodesResponse(added=done.added, removed=done.removed, problems=done.problems)

    async def ProbeEndpoint(  # noqa: N802 - the name that grpc calls
        self, request: pb.ProbeEndpointRequest, _context: Any
    ) -> pb.ProbeEndpointResponse:
        """Ask the programs about a packet that nobody sends."""
        id_ = policymessages.read_id(request.endpoint_id, "endpoint_id")
        probe, direction = probemessages.read_probe(request)
        work = self._parts.prober.run(id_, probe, direction, forwarded=request.forwarded)
        return probemessages.write_outcome(await self._parts.shielded.run(work))

    async def ListEndpointDatapaths(  # noqa: N802 - the name that grpc calls
        self, request: pb.ListEndpointDatapathsRequest, _context: Any
    ) -> pb.ListEndpointDatapathsResponse:
        """Compare state directory and kernel."""
        id_ = policymessages.read_id(request.id, "id") if request.id else 0
        found = await self._parts.inventory.statuses(id_, slots=request.slots)
        return pb.ListEndpointDatapathsResponse(datapaths=map(messages.write_status, found))

    async def DumpMap(  # noqa: N802 - the name that grpc calls
        self, request: pb.DumpMapRequest, _context: Any
    ) -> pb.DumpMapResponse:
        """Show a map's entries."""
        id_ = policymessages.read_id(request.endpoint_id, "endpoint_id") if request.endpoint_id else 0
        entries = await self._parts.blocking.run(lambda: dump(self._parts.datapath, request.map, id_))
        return pb.DumpMapResponse(entries=map(messages.write_map_entry, entries))

    async def ListFlowCounts(  # noqa: N802 - the name that grpc calls
        self, _request: pb.ListFlowCountsRequest, _context: Any
    ) -> pb.ListFlowCountsResponse:
        """Show who talks to whom, and how much."""
        rows, left_out = await self._parts.ledger.rows()
        return eventmessages.write_counts(self._parts.ledger.counts, rows, left_out, eventmessages.clock_offset())

    async def WatchEvents(  # noqa: N802 - the name that grpc calls
        self, request: pb.WatchEventsRequest, context: Any
    ) -> AsyncIterator[pb.WatchEventsResponse]:
        """Stream what happens to packets."""
        types = eventmessages.read_types(request.types, "types")
        id_ = policymessages.read_id(request.endpoint_id, "endpoint_id") if request.endpoint_id else 0
        listener = self._parts.events.listen(types, id_, background=request.background)
        try:
            async with contextlib.aclosing(self._parts.events.watch(listener)) as events:
                await context.send_initial_metadata(())
                clock = eventmessages.clock_offset()
                async for one in events:
                    yield eventmessages.write_event(one, clock)
        finally:
            # A caller that hangs up before the first look: a generator that never ran has nothing to clean up.
            self._parts.events.forget(listener)
