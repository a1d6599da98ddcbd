"""ipam as an endpoint service meets it: its RPCs over a dictionary. Beliefs (B8 …) are those of tests/fakes.py."""

import asyncio
from collections.abc import AsyncIterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from podlane.common.v1 import types_pb2 as types
from podlane.ipam.v1 import ipam_pb2, ipam_pb2_grpc

from services.common import wire
from services.common.errors import AlreadyExists, FailedPrecondition, NotFound
from services.common.model import Attachment
from tests.fakes import FakeService, Key, key


class FakeIpam(FakeService, ipam_pb2_grpc.IpamServiceServicer):
    """ipam's RPCs over a dictionary; one pool with one range per family."""

    def __init__(self, socket: Path) -> None:
        """Start with nothing allocated."""
        super().__init__(
            socket,
            "podlane.ipam.v1.IpamService",
            lambda server: ipam_pb2_grpc.add_IpamServiceServicer_to_server(self, server),
        )
        self.held: dict[Key, ipam_pb2.Allocation] = {}
        self.ranges: dict[int, Any] = {4: ip_network("10.7.0.0/16"), 6: ip_network("fd07::/112")}
        self._ranges_changed = asyncio.Event()
        self._next = 1

    def reserve(self, attachment: Attachment) -> ipam_pb2.Allocation:
        """Reserve the next address of each family."""
        self._next += 1
        ips = [network[self._next] for network in self.ranges.values()]
        allocation = ipam_pb2.Allocation(
            owner=wire.write_attachment(attachment),
            pool="default",
            addresses=[self._assigned(ip) for ip in ips],
            state=ipam_pb2.ALLOCATION_STATE_RESERVED,
            created=wire.write_time(float(self._next)),
        )
        self.held[key(allocation.owner)] = allocation
        return allocation

    def _assigned(self, ip: Any) -> types.AssignedAddress:
        network = self.ranges[ip.version]
        return types.AssignedAddress(
            address=types.IpPrefix(address=wire.write_address(ip), length=ip.max_prefixlen),
            gateway=wire.write_address(network[1]),
            range=wire.write_network(network),
        )

    def _pools(self) -> list[ipam_pb2.Pool]:
        ranges = [
            ipam_pb2.PoolRange(prefix=wire.write_network(one), gateway=wire.write_address(one[1]), size=65533)
            for one in self.ranges.values()
        ]
        families = [types.IP_FAMILY_IPV4, types.IP_FAMILY_IPV6]
        problems = [f"no IPv{family} range is claimed yet" for family in (4, 6) if family not in self.ranges]
        return [ipam_pb2.Pool(name="default", ranges=ranges, families=families, problems=problems)]

    def change_ranges(self, ranges: dict[int, Any]) -> None:
        """Have other ranges from now on, and tell (B20)."""
        self.ranges = ranges
        self._ranges_changed.set()
        self._ranges_changed = asyncio.Event()

    async def ListPools(self, request: Any, _context: Any) -> Any:  # noqa: N802 - the name that grpc calls
        """Show the pool."""
        return await self.script.run("ListPools", request, lambda: ipam_pb2.ListPoolsResponse(pools=self._pools()))

    async def WatchPools(  # noqa: N802 - the name that grpc calls
        self, _request: Any, _context: Any
    ) -> AsyncIterator[ipam_pb2.WatchPoolsResponse]:
        """Show the pool, and again when its ranges change (B20)."""
        while True:
            changed = self._ranges_changed
            yield ipam_pb2.WatchPoolsResponse(pools=self._pools())
            await changed.wait()

    async def ListClaims(self, _request: Any, _context: Any) -> Any:  # noqa: N802 - the name that grpc calls
        """Refuse: the pool is this node's own."""
        raise FailedPrecondition("no pool of this node is a cluster's")

    async def TakeOverClaim(self, _request: Any, _context: Any) -> Any:  # noqa: N802 - the name that grpc calls
        """Refuse: the pool is this node's own."""
        raise FailedPrecondition("no pool of this node is a cluster's")

    async def ReleaseClaim(self, _request: Any, _context: Any) -> Any:  # noqa: N802 - the name that grpc calls
        """Refuse: the pool is this node's own."""
        raise FailedPrecondition("no pool of this node is a cluster's")

    async def AllocateAddresses(self, request: Any, _context: Any) -> Any:  # noqa: N802 - the name that grpc calls
        """Reserve the requested addresses (B9)."""

        def work() -> ipam_pb2.AllocateAddressesResponse:
            ips = [ip_address(one.packed) for one in request.requested]
            for owner, other in self.held.items():
                taken = {ip_address(one.address.address.packed) for one in other.addresses}
                if owner != key(request.owner) and taken & set(ips):
                    raise AlreadyExists(f"requested: {ips[0]} is held by {owner}")
            created = key(request.owner) not in self.held
            allocation = self.held.setdefault(
                key(request.owner),
                ipam_pb2.Allocation(
                    owner=request.owner,
                    pool="default",
                    addresses=[self._assigned(ip) for ip in ips],
                    state=ipam_pb2.ALLOCATION_STATE_RESERVED,
                ),
            )
            return ipam_pb2.AllocateAddressesResponse(allocation=allocation, created=created)

        return await self.script.run("AllocateAddresses", request, work)

    async def ConfirmAllocation(self, request: Any, _context: Any) -> Any:  # noqa: N802 - the name that grpc calls
        """Make a reservation permanent (B8)."""

        def work() -> ipam_pb2.ConfirmAllocationResponse:
            allocation = self.held.get(key(request.owner))
            if allocation is None:
                raise NotFound("the reservation has expired")
            if allocation.endpoint_id not in {0, request.endpoint_id}:
                raise AlreadyExists(f"endpoint {allocation.endpoint_id} holds them")
            allocation.state = ipam_pb2.ALLOCATION_STATE_CONFIRMED
            allocation.endpoint_id = request.endpoint_id
            return ipam_pb2.ConfirmAllocationResponse(allocation=allocation)

        return await self.script.run("ConfirmAllocation", request, work)

    async def UnconfirmAllocation(self, request: Any, _context: Any) -> Any:  # noqa: N802 - the name that grpc calls
        """Make a reservation of a confirmed allocation (B11)."""

        def work() -> ipam_pb2.UnconfirmAllocationResponse:
            allocation = self.held.get(key(request.owner))
            if allocation is not None and allocation.endpoint_id == request.endpoint_id:
                allocation.state = ipam_pb2.ALLOCATION_STATE_RESERVED
                allocation.endpoint_id = 0
            return ipam_pb2.UnconfirmAllocationResponse(allocation=allocation)

        return await self.script.run("UnconfirmAllocation", request, work)

    async def ReleaseAddresses(self, request: Any, _context: Any) -> Any:  # noqa: N802 - the name that grpc calls
        """Free what the owner holds."""

        def work() -> ipam_pb2.ReleaseAddressesResponse:
            held = self.held.get(key(request.owner))
            if held is not None and request.endpoint_id not in {0, held.endpoint_id}:  # B15
                raise FailedPrecondition(f"endpoint {held.endpoint_id} holds them")
            return ipam_pb2.ReleaseAddressesResponse(released=self.held.pop(key(request.owner), None))

        return await self.script.run("ReleaseAddresses", request, work)

    async def ListAllocations(self, request: Any, _context: Any) -> Any:  # noqa: N802 - the name that grpc calls
        """List what is held, a page at a time."""

        def work() -> ipam_pb2.ListAllocationsResponse:
            found = list(self.held.values())
            if request.HasField("owner"):
                found = [one for one in found if one.owner == request.owner]
            first, size = int(request.page_token or 0), request.page_size or 1000
            more = str(first + size) if len(found) > first + size else ""
            return ipam_pb2.ListAllocationsResponse(allocations=found[first : first + size], next_page_token=more)

        return await self.script.run("ListAllocations", request, work)
