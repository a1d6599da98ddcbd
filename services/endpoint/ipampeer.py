"""ipam by gRPC: what `peers.Ipam` promises, said in ipam's messages.

A request is written, sent, and its answer read; what either looks like is `peer_messages.py`'s. Nothing is tried again
here: who asks knows whether that helps.
"""

import functools
from collections.abc import AsyncIterator

import grpc
from podlane.ipam.v1 import ipam_pb2, ipam_pb2_grpc

from services.common import wire
from services.common.client import Peer
from services.common.errors import Unavailable
from services.common.model import Address, Attachment, Pod
from services.endpoint import peer_messages
from services.endpoint.observed import Allocation, PoolRange
from services.endpoint.peers import CALL_SECONDS, trusting

_PAGE = 1000


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
        reply = await self._peer.call(self._stub.ListPools, ipam_pb2.ListPoolsRequest(), timeout=CALL_SECONDS)
        if missing := peer_messages.missing_ranges(reply.pools):
            raise Unavailable(missing, service="ipam")
        with trusting("ipam"):
            return peer_messages.read_ranges(reply.pools)

    async def range_changes(self) -> AsyncIterator[tuple[PoolRange, ...]]:
        """See Ipam."""
        async for reply in self._peer.stream(self._stub.WatchPools, ipam_pb2.WatchPoolsRequest()):
            with trusting("ipam"):
                yield peer_messages.read_ranges(reply.pools)

    async def confirm(self, owner: Attachment, endpoint_id: int) -> Allocation:
        """See Ipam."""
        request = ipam_pb2.ConfirmAllocationRequest(owner=wire.write_attachment(owner), endpoint_id=endpoint_id)
        reply = await self._peer.call(self._stub.ConfirmAllocation, request, timeout=CALL_SECONDS)
        with trusting("ipam"):
            return peer_messages.read_allocation(reply.allocation)

    async def unconfirm(self, owner: Attachment, endpoint_id: int) -> None:
        """See Ipam."""
        request = ipam_pb2.UnconfirmAllocationRequest(owner=wire.write_attachment(owner), endpoint_id=endpoint_id)
        await self._peer.call(self._stub.UnconfirmAllocation, request, timeout=CALL_SECONDS)

    async def allocate(self, owner: Attachment, pod: Pod, requested: tuple[Address, ...]) -> Allocation:
        """See Ipam."""
        request = ipam_pb2.AllocateAddressesRequest(
            owner=wire.write_attachment(owner),
            pod=wire.write_pod(pod),
            families=[peer_messages.FAMILIES[address.version] for address in requested],
            requested=map(wire.write_address, requested),
        )
        reply = await self._peer.call(self._stub.AllocateAddresses, request, timeout=CALL_SECONDS)
        with trusting("ipam"):
            return peer_messages.read_allocation(reply.allocation)

    async def release(self, owner: Attachment, endpoint_id: int = 0, *, ipam_only: bool = False) -> bool:
        """See Ipam."""
        request = ipam_pb2.ReleaseAddressesRequest(
            owner=wire.write_attachment(owner), endpoint_id=endpoint_id, without_endpoint=ipam_only
        )
        reply = await self._peer.call(self._stub.ReleaseAddresses, request, timeout=CALL_SECONDS)
        return bool(reply.HasField("released"))

    async def allocations(self, owner: Attachment | None = None) -> tuple[Allocation, ...]:
        """See Ipam."""
        asked = wire.write_attachment(owner) if owner is not None else None
        request = ipam_pb2.ListAllocationsRequest(owner=asked, page_size=_PAGE)
        found: list[Allocation] = []
        while True:
            reply = await self._peer.call(self._stub.ListAllocations, request, timeout=CALL_SECONDS)
            with trusting("ipam"):
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
