"""IpamService: messages in, messages out, no decisions."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Iterable
from ipaddress import ip_network
from typing import Any

import structlog
from podlane.common.v1 import types_pb2 as common
from podlane.ipam.v1 import ipam_pb2 as pb
from podlane.ipam.v1 import ipam_pb2_grpc

from services.common import wire
from services.common.errors import FailedPrecondition, InvalidArgument
from services.common.model import Address, Route
from services.common.stopwatch import Stopwatch
from services.ipam.allocator import PATIENCE, Allocator
from services.ipam.claimoperations import ClaimOperations, ClaimView, Whose
from services.ipam.model import Allocation, AllocationRequest, HeldAddress, PoolStatus, RangeStatus
from services.ipam.supply import Changes

_FAMILIES = {common.IP_FAMILY_IPV4: 4, common.IP_FAMILY_IPV6: 6}
_FAMILY_NUMBERS = {family: number for number, family in _FAMILIES.items()}
_DEFAULTS = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}
_PAGE, _LONGEST_PAGE = 1000, 10000
# Allocations that are written before other calls get their turn.
_CHUNK = 200
_LARGEST_UINT64 = 2**64 - 1
_LARGEST_ENDPOINT_ID = 65535
# Seconds of a call's time that are left for its answer.
_TO_ANSWER = 0.5
_CLAIM_STATES = {whose: pb.ClaimState.Value(f"CLAIM_STATE_{whose.name}") for whose in Whose}


class IpamServicer(ipam_pb2_grpc.IpamServiceServicer):
    """The RPCs of ipam.proto."""

    def __init__(self, allocator: Allocator, changes: Changes, claims: ClaimOperations | None) -> None:
        """Serve what `allocator` and `claims` do; `claims` None: no pool is a cluster's."""
        self._allocator = allocator
        self._changes = changes
        self._claims = claims
        self._routes = functools.cache(_routes)

    async def AllocateAddresses(  # noqa: N802 - the name that grpc calls
        self, request: pb.AllocateAddressesRequest, context: Any
    ) -> pb.AllocateAddressesResponse:
        """Reserve one address per family, or return what the owner holds."""
        wanted = _read_request(request)
        structlog.contextvars.bind_contextvars(attachment=str(wanted.owner))
        watch = Stopwatch()
        allocation, created = await self._allocator.allocate(wanted, _patience(context.time_remaining()), watch)
        structlog.contextvars.bind_contextvars(addresses=allocation.describe(), created=created)
        return pb.AllocateAddressesResponse(
            allocation=_write_allocation(allocation),
            routes=self._routes(tuple(held.gateway for held in allocation.addresses)),
            mtu=self._allocator.mtu(allocation.pool),
            created=created,
            phases=wire.write_phases(watch.phases),
        )

    async def ConfirmAllocation(  # noqa: N802 - the name that grpc calls
        self, request: pb.ConfirmAllocationRequest, _context: Any
    ) -> pb.ConfirmAllocationResponse:
        """Make a reservation permanent."""
        owner, id_ = wire.read_attachment(request.owner, "owner"), _read_endpoint_id(request.endpoint_id, least=0)
        structlog.contextvars.bind_contextvars(attachment=str(owner), endpoint_id=id_)
        return pb.ConfirmAllocationResponse(allocation=_write_allocation(await self._allocator.confirm(owner, id_)))

    async def UnconfirmAllocation(  # noqa: N802 - the name that grpc calls
        self, request: pb.UnconfirmAllocationRequest, _context: Any
    ) -> pb.UnconfirmAllocationResponse:
        """Make what an endpoint has confirmed a reservation again."""
        owner, id_ = wire.read_attachment(request.owner, "owner"), _read_endpoint_id(request.endpoint_id)
        structlog.contextvars.bind_contextvars(attachment=str(owner), endpoint_id=id_)
        held = await self._allocator.unconfirm(owner, id_)
        return pb.UnconfirmAllocationResponse(allocation=_write_allocation(held) if held else None)

    async def ReleaseAddresses(  # noqa: N802 - the name that grpc calls
        self, request: pb.ReleaseAddressesRequest, _context: Any
    ) -> pb.ReleaseAddressesResponse:
        """Take back everything the owner holds."""
        owner = wire.read_attachment(request.owner, "owner")
        structlog.contextvars.bind_contextvars(attachment=str(owner))
        if request.endpoint_id and request.without_endpoint:
            raise InvalidArgument(
                f"without_endpoint: it is asked for together with endpoint_id {request.endpoint_id}",
                field="without_endpoint",
            )
        released = await self._allocator.release(owner, request.endpoint_id, without_endpoint=request.without_endpoint)
        structlog.contextvars.bind_contextvars(addresses=released.describe() if released else "")
        return pb.ReleaseAddressesResponse(released=_write_allocation(released) if released else None)

    async def ListAllocations(  # noqa: N802 - the name that grpc calls
        self, request: pb.ListAllocationsRequest, _context: Any
    ) -> pb.ListAllocationsResponse:
        """List one page."""
        if request.page_size > _LONGEST_PAGE:
            raise InvalidArgument(f"page_size: {request.page_size} is more than {_LONGEST_PAGE}", field="page_size")
        size = request.page_size or _PAGE
        owner = wire.read_attachment(request.owner, "owner") if request.HasField("owner") else None
        # One more than asked for tells whether there is another page.
        found = await self._allocator.page(request.pool, owner, _read_token(request.page_token), size + 1)
        response = pb.ListAllocationsResponse(next_page_token=str(found[size - 1].id) if len(found) > size else "")
        for start in range(0, min(size, len(found)), _CHUNK):
            response.allocations.extend(map(_write_allocation, found[start : min(start + _CHUNK, size)]))
            await asyncio.sleep(0)
        return response

    async def ListPools(  # noqa: N802 - the name that grpc calls
        self, _request: pb.ListPoolsRequest, _context: Any
    ) -> pb.ListPoolsResponse:
        """List the pools and how full they are."""
        return pb.ListPoolsResponse(pools=map(_write_pool, self._allocator.status()))

    async def WatchPools(  # noqa: N802 - the name that grpc calls
        self, _request: pb.WatchPoolsRequest, _context: Any
    ) -> AsyncIterator[pb.WatchPoolsResponse]:
        """Stream the pools, once now and then after each change of ranges."""
        async with contextlib.aclosing(self._changes.watch()) as changes:
            async for _ in changes:
                yield pb.WatchPoolsResponse(pools=map(_write_pool, self._allocator.status()))

    async def ListClaims(  # noqa: N802 - the name that grpc calls
        self, _request: pb.ListClaimsRequest, _context: Any
    ) -> pb.ListClaimsResponse:
        """List the claims of all nodes."""
        views, error = await self._claiming.views()
        return pb.ListClaimsResponse(claims=map(_write_claim, views), error=error)

    async def TakeOverClaim(  # noqa: N802 - the name that grpc calls
        self, request: pb.TakeOverClaimRequest, _context: Any
    ) -> pb.TakeOverClaimResponse:
        """Become the holder of a dead node's range."""
        prefix = wire.read_network(request.range, "range")
        node = wire.check_name(request.from_node, "from_node")
        structlog.contextvars.bind_contextvars(range=str(prefix), from_node=node)
        view = await self._allocator.shielded.run(self._claiming.take_over(prefix, node, force=request.force))
        return pb.TakeOverClaimResponse(claim=_write_claim(view))

    async def ReleaseClaim(  # noqa: N802 - the name that grpc calls
        self, request: pb.ReleaseClaimRequest, _context: Any
    ) -> pb.ReleaseClaimResponse:
        """Give a range back."""
        prefix = wire.read_network(request.range, "range")
        structlog.contextvars.bind_contextvars(range=str(prefix))
        await self._allocator.shielded.run(self._claiming.release(prefix))
        return pb.ReleaseClaimResponse()

    @property
    def _claiming(self) -> ClaimOperations:
        if self._claims is None:
            raise FailedPrecondition("no pool of this node is a cluster's: [[ipam.pools]] cluster_ranges makes one")
        return self._claims


def _patience(left: float | None) -> float:
    """Return how long a call may wait for another range, so that its caller still hears how that ended."""
    return PATIENCE if left is None else min(PATIENCE, max(0.0, left - _TO_ANSWER))


def _read_request(request: pb.AllocateAddressesRequest) -> AllocationRequest:
    return AllocationRequest(
        owner=wire.read_attachment(request.owner, "owner"),
        pod=wire.read_pod(request.pod),
        pool=wire.check_name(request.pool, "pool") if request.pool else "",
        families=frozenset(_read_family(family) for family in request.families),
        requested=_read_requested(request.requested),
        delegated=request.delegated,
    )


def _read_endpoint_id(id_: int, least: int = 1) -> int:
    if not least <= id_ <= _LARGEST_ENDPOINT_ID:
        raise InvalidArgument(
            f"endpoint_id: {id_} is not between {least} and {_LARGEST_ENDPOINT_ID}", field="endpoint_id"
        )
    return id_


def _read_family(family: int) -> int:
    if family not in _FAMILIES:
        raise InvalidArgument(f"families: {family} is neither IP_FAMILY_IPV4 nor IP_FAMILY_IPV6", field="families")
    return _FAMILIES[common.IpFamily.ValueType(family)]


def _read_requested(messages: Iterable[common.IpAddress]) -> dict[int, Address]:
    requested: dict[int, Address] = {}
    for index, message in enumerate(messages):
        address = wire.read_address(message, f"requested[{index}]")
        if address.version in requested:
            raise InvalidArgument(
                f"requested: {requested[address.version]} and {address} are of one family", field="requested"
            )
        requested[address.version] = address
    return requested


def _read_token(token: str) -> int:
    if token and not (token.isascii() and token.isdigit() and len(token) < 19):
        raise InvalidArgument(
            f"page_token: {token[:40]!r} is no `next_page_token` of an earlier page", field="page_token"
        )
    return int(token or 0)


def _routes(gateways: tuple[Address, ...]) -> list[common.Route]:
    """Return each gateway on-link, then the defaults through them. A node has few gateways: cached."""
    on_link = [Route(ip_network(gateway)) for gateway in gateways]
    defaults = [Route(_DEFAULTS[gateway.version], gateway) for gateway in gateways]
    return [wire.write_route(route) for route in on_link + defaults]


def _write_allocation(allocation: Allocation) -> pb.Allocation:
    return pb.Allocation(
        owner=wire.write_attachment(allocation.owner),
        pod=wire.write_pod(allocation.pod),
        pool=allocation.pool,
        addresses=[_write_held(held) for held in allocation.addresses],
        state=pb.ALLOCATION_STATE_RESERVED if allocation.confirmed is None else pb.ALLOCATION_STATE_CONFIRMED,
        created=wire.write_time(allocation.created),
        expires=wire.write_time(allocation.expires) if allocation.expires is not None else None,
        confirmed=wire.write_time(allocation.confirmed) if allocation.confirmed is not None else None,
        endpoint_id=allocation.endpoint_id,
    )


def _write_held(held: HeldAddress) -> common.AssignedAddress:
    return common.AssignedAddress(
        address=common.IpPrefix(address=wire.write_address(held.address), length=held.address.max_prefixlen),
        gateway=wire.write_address(held.gateway),
        range=wire.write_network(held.range),
    )


def _write_pool(pool: PoolStatus) -> pb.Pool:
    return pb.Pool(
        name=pool.name,
        ranges=map(_write_range, pool.ranges),
        mtu=pool.mtu,
        next_expiry=wire.write_time(pool.next_expiry) if pool.next_expiry is not None else None,
        problems=pool.problems,
        cluster=pool.cluster,
        delegated=pool.delegated,
        families=[_FAMILY_NUMBERS[family] for family in pool.families],
    )


def _write_claim(view: ClaimView) -> pb.Claim:
    return pb.Claim(
        pool=view.pool,
        range=wire.write_network(view.prefix),
        node=view.node,
        instance=view.instance,
        claimed=wire.write_time(view.claimed) if view.claimed else None,
        state=_CLAIM_STATES[view.whose],
        allocations=view.allocations,
        gateway=view.gateway,
    )


def _write_range(status: RangeStatus) -> pb.PoolRange:
    return pb.PoolRange(
        prefix=wire.write_network(status.prefix),
        gateway=wire.write_address(status.gateway),
        # A range shorter than /64 has more addresses than the field can say.
        size=min(status.size, _LARGEST_UINT64),
        used=status.used,
        reserved=status.reserved,
        cooling=status.cooling,
        excluded=map(wire.write_network, status.excluded),
    )
