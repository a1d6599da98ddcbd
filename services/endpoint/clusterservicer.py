"""ClusterService: the other nodes and the kvstore as this node sees them; messages in, messages out."""

from collections.abc import AsyncIterator, Callable, Iterable
from itertools import islice
from typing import Any

from podlane.endpoint.v1 import cluster_pb2 as pb
from podlane.endpoint.v1 import cluster_pb2_grpc

from services.common import wire
from services.common.errors import NotFound
from services.common.kvstore import Entry, Kvstore, StoreStatus
from services.common.kvstore.keys import Keys
from services.endpoint.cluster import names
from services.endpoint.cluster.assembly import Cluster
from services.endpoint.cluster.records import NodeRecord
from services.endpoint.policy.identity import LOCAL_SCOPE
from services.endpoint.policy.labels import Labels
from services.endpoint.registry import Registry

_PART = 500
_SHOWN = 10


class ClusterServicer(cluster_pb2_grpc.ClusterServiceServicer):
    """The RPCs of cluster.proto. `labels_of` an identity; `cluster` None: this node is alone."""

    def __init__(
        self,
        kvstore: Kvstore,
        keys: Keys,
        *,
        node: str,
        name: str,
        cluster: Cluster | None,
        registry: Registry,
        labels_of: Callable[[int], Labels | None],
    ) -> None:
        """Serve what they do."""
        self._kvstore, self._keys = kvstore, keys
        self._node, self._name = node, name
        self._cluster, self._registry = cluster, registry
        self._labels_of = labels_of

    async def GetCluster(  # noqa: N802 - the name that grpc calls
        self, _request: pb.GetClusterRequest, _context: Any
    ) -> pb.GetClusterResponse:
        """Show the cluster's state."""
        reply = pb.GetClusterResponse(
            kvstore=_status(await self._kvstore.status(), self._keys.root), name=self._name, node=self._node
        )
        reply.provisional.extend(one.endpoint.id for one in self._registry if one.endpoint.identity > LOCAL_SCOPE)
        cluster = self._cluster
        if cluster is None:
            return reply
        reply.registration_error = cluster.registration.error
        reply.routing = cluster.routing.name.lower()
        reply.nodes.extend(_node(record) for _, record in sorted(cluster.follower.nodes.items()))
        ipcache = cluster.follower.ipcache
        reply.ipcache.CopyFrom(pb.Ipcache(entries=len(ipcache), pending=ipcache.pending))
        wrong = cluster.follower.problems()
        reply.problems.extend(wrong[:_SHOWN])
        if len(wrong) > _SHOWN:
            reply.problems.append(f"and {len(wrong) - _SHOWN:,} problems more")
        return reply

    async def ListEntries(  # noqa: N802 - the name that grpc calls
        self, request: pb.ListEntriesRequest, _context: Any
    ) -> AsyncIterator[pb.ListEntriesResponse]:
        """List entries."""
        rest = iter(await self._kvstore.list(self._whole(request.prefix)))
        while part := list(islice(rest, _PART)):
            yield pb.ListEntriesResponse(entries=map(self._entry, part))

    async def GetEntry(  # noqa: N802 - the name that grpc calls
        self, request: pb.GetEntryRequest, _context: Any
    ) -> pb.GetEntryResponse:
        """Show one entry."""
        key = self._whole(request.key)
        found = await self._kvstore.get(key)
        if found is None:
            raise NotFound(f"the kvstore has no {key}: see `podlane kvstore list`", key=key)
        return pb.GetEntryResponse(entry=self._entry(found))

    async def WatchEntries(  # noqa: N802 - the name that grpc calls
        self, request: pb.WatchEntriesRequest, context: Any
    ) -> AsyncIterator[pb.WatchEntriesResponse]:
        """Stream entries and their changes."""
        await context.send_initial_metadata(())
        changed = False
        async for batch in self._kvstore.watch(self._whole(request.prefix)):
            rest: Iterable[tuple[str, Entry | None]] = iter(sorted(batch.items()))
            while part := list(islice(rest, _PART)):
                yield pb.WatchEntriesResponse(
                    entries=[self._entry(entry) for _, entry in part if entry is not None],
                    removed=[key for key, entry in part if entry is None],
                    changed=changed,
                )
            changed = True

    def _whole(self, path: str) -> str:
        """Return the key of a path below the root."""
        root = f"{self._keys.root}/"
        return path if path.startswith(root) else root + path.lstrip("/")

    def _entry(self, entry: Entry) -> pb.KvstoreEntry:
        written = wire.write_time(entry.written) if entry.written else None
        text = names.text(self._keys, entry.key, entry.value, self._labels_of)
        return pb.KvstoreEntry(
            key=entry.key,
            value=entry.value,
            revision=entry.revision,
            written=written,
            leased=entry.leased,
            text=text,
        )


def _node(record: NodeRecord) -> pb.ClusterNode:
    return pb.ClusterNode(
        name=record.name,
        address=wire.write_address(record.address),
        addresses=map(wire.write_address, record.addresses),
        pod_cidrs=map(wire.write_network, record.pod_cidrs),
        gateways=map(wire.write_address, record.gateways),
        routing=record.routing,
        instance=record.instance,
    )


def _status(status: StoreStatus, root: str) -> pb.Kvstore:
    return pb.Kvstore(
        kind=status.kind,
        reachable=status.reachable,
        error=status.error,
        unreachable_ms=_ms(status.unreachable_for),
        members=[
            pb.KvstoreMember(endpoint=one.endpoint, version=one.version, leader=one.leader, error=one.error)
            for one in status.members
        ],
        lease=status.lease or 0,
        lease_left_ms=_ms(status.lease_left),
        leases_lost=status.leases_lost,
        waiting=status.waiting,
        event_age_ms=_ms(status.event_age) if status.event_age is not None else None,
        root=root,
    )


def _ms(seconds: float | None) -> int:
    return max(0, round(1000 * seconds)) if seconds is not None else 0
