"""What the loader is told of other nodes, and what it knows of this one: the RPCs that only a cluster needs."""

import functools
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from podlane.loader.v1 import loader_pb2, loader_pb2_grpc

from services.common import wire
from services.common.client import Peer as ServicePeer
from services.common.errors import FailedPrecondition
from services.common.model import Address
from services.endpoint.cluster.ipcache import IpcacheChanges, Peer
from services.endpoint.cluster.records import NodeRecord

_CALL_SECONDS, _SYNC_SECONDS = 10.0, 60.0
_PART = 4096


@dataclass(frozen=True, slots=True)
class Underlay:
    """Where other nodes find this one: the address that they send to, and all that it has. `mtu` in bytes."""

    device: str
    address: Address
    addresses: tuple[Address, ...]
    mtu: int


class LoaderCluster:
    """follow.Datapath by gRPC, and the underlay."""

    def __init__(self, peer: ServicePeer) -> None:
        """`peer` must be started before the first call."""
        self._peer = peer

    @functools.cached_property
    def _stub(self) -> "loader_pb2_grpc.LoaderServiceAsyncStub":
        return loader_pb2_grpc.LoaderServiceStub(self._peer.channel)

    async def underlay(self) -> Underlay:
        """Return where this node is found. Raises FailedPrecondition when the node isn't configured for a cluster."""
        reply = await self._peer.call(self._stub.GetNode, loader_pb2.GetNodeRequest(), timeout=_CALL_SECONDS)
        if not reply.HasField("underlay"):
            raise FailedPrecondition("the loader has no underlay: it wasn't configured for other nodes")
        found = reply.underlay
        return Underlay(
            found.device,
            wire.read_address(found.address, "underlay.address"),
            tuple(wire.read_address(one, "underlay.addresses") for one in found.addresses),
            found.mtu,
        )

    async def update_ipcache(self, changes: IpcacheChanges) -> None:
        """See follow.Datapath."""
        request = loader_pb2.UpdateIpcacheRequest(
            upserts=(_entry(address, peer) for address, peer in changes.upserts.items()),
            removals=map(wire.write_address, changes.removals),
        )
        await self._peer.call(self._stub.UpdateIpcache, request, timeout=_CALL_SECONDS)

    async def sync_ipcache(self, entries: Sequence[tuple[Address, Peer]]) -> tuple[int, int]:
        """See follow.Datapath."""

        async def parts() -> AsyncIterator[loader_pb2.SyncIpcacheRequest]:
            rest = iter(entries)
            while part := list(islice(rest, _PART)):
                yield loader_pb2.SyncIpcacheRequest(entries=(_entry(*one) for one in part))
            yield loader_pb2.SyncIpcacheRequest(complete=True)

        reply = await self._peer.call(self._stub.SyncIpcache, parts(), timeout=_SYNC_SECONDS)
        return reply.written, reply.removed

    async def sync_nodes(self, nodes: Iterable[NodeRecord]) -> tuple[str, ...]:
        """See follow.Datapath."""
        request = loader_pb2.SyncNodesRequest(nodes=map(_node, nodes))
        reply = await self._peer.call(self._stub.SyncNodes, request, timeout=_CALL_SECONDS)
        return tuple(reply.problems)


def _entry(address: Address, peer: Peer) -> loader_pb2.IpcacheEntry:
    node = wire.write_address(peer.node) if peer.node is not None else None
    return loader_pb2.IpcacheEntry(address=wire.write_address(address), identity=peer.identity, node=node)


def _node(record: NodeRecord) -> loader_pb2.RemoteNode:
    return loader_pb2.RemoteNode(
        name=record.name,
        address=wire.write_address(record.address),
        pod_cidrs=map(wire.write_network, record.pod_cidrs),
        addresses=map(wire.write_address, record.addresses),
    )
