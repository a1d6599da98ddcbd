"""EndpointService: messages in, messages out, no decisions."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import structlog
from podlane.endpoint.v1 import endpoint_pb2 as pb
from podlane.endpoint.v1 import endpoint_pb2_grpc

from services.common.errors import InvalidArgument
from services.endpoint import gcmessages, messages, whymessages
from services.endpoint.check import Checker
from services.endpoint.deletions import Journal
from services.endpoint.gc import Collector
from services.endpoint.manager import Manager
from services.endpoint.operate import Operator
from services.endpoint.registry import Selector
from services.endpoint.timeline import Recorder

_PAGE, _LONGEST_PAGE = 1000, 10000
# Endpoints that are written before other calls get their turn.
_CHUNK = 100


class EndpointServicer(endpoint_pb2_grpc.EndpointServiceServicer):
    """The RPCs of endpoint.proto."""

    def __init__(
        self, manager: Manager, operator: Operator, collector: Collector, checker: Checker, journal: Journal
    ) -> None:
        """Serve what they do."""
        self._journal = journal
        self._manager = manager
        self._operator = operator
        self._collector = collector
        self._checker = checker

    async def CreateEndpoint(  # noqa: N802 - the name that grpc calls
        self, request: pb.CreateEndpointRequest, context: Any
    ) -> pb.CreateEndpointResponse:
        """Make an endpoint and return when its policy is in force."""
        spec = messages.read_spec(request)
        structlog.contextvars.bind_contextvars(attachment=str(spec.attachment), pod=str(spec.pod))
        given = str(structlog.contextvars.get_contextvars().get("request_id", ""))
        watch = Recorder(whymessages.read_addition(request.addition), request_id=given, about=str(spec.attachment))
        endpoint, created = await self._manager.create(
            spec, context.time_remaining(), messages.read_options(request.options), watch
        )
        structlog.contextvars.bind_contextvars(endpoint=endpoint.id, created=created)
        return pb.CreateEndpointResponse(endpoint=messages.write_endpoint(endpoint), created=created)

    async def DeleteEndpoint(  # noqa: N802 - the name that grpc calls
        self, request: pb.DeleteEndpointRequest, _context: Any
    ) -> pb.DeleteEndpointResponse:
        """Take an endpoint down."""
        selector = messages.read_selector(request.selector)
        structlog.contextvars.bind_contextvars(selector=str(selector))
        deleted = await self._manager.delete(selector)
        structlog.contextvars.bind_contextvars(deleted=deleted)
        return pb.DeleteEndpointResponse(deleted=deleted)

    async def GetEndpoint(  # noqa: N802 - the name that grpc calls
        self, request: pb.GetEndpointRequest, _context: Any
    ) -> pb.GetEndpointResponse:
        """Show one endpoint with its log and its queue."""
        managed = self._manager.get(messages.read_selector(request.selector))
        policy = self._manager.policy_of(managed.endpoint)
        place = self._manager.places().get(managed.endpoint.id)
        return pb.GetEndpointResponse(
            endpoint=messages.write_detail(managed.endpoint, managed.queue.status(), policy, place)
        )

    async def ListEndpoints(  # noqa: N802 - the name that grpc calls
        self, request: pb.ListEndpointsRequest, _context: Any
    ) -> pb.ListEndpointsResponse:
        """List one page, without logs."""
        if request.page_size > _LONGEST_PAGE:
            raise InvalidArgument(f"page_size: {request.page_size} is more than {_LONGEST_PAGE}", field="page_size")
        size = request.page_size or _PAGE
        found = self._manager.page(_read_token(request.page_token), size + 1)
        response = pb.ListEndpointsResponse(next_page_token=str(found[size - 1].id) if len(found) > size else "")
        places = self._manager.places()
        for start in range(0, min(size, len(found)), _CHUNK):
            chunk = found[start : min(start + _CHUNK, size)]
            response.endpoints.extend(
                messages.write_listed(one, self._manager.policy_of(one), places.get(one.id)) for one in chunk
            )
            await asyncio.sleep(0)
        return response

    async def WatchEndpoints(  # noqa: N802 - the name that grpc calls
        self, _request: pb.WatchEndpointsRequest, _context: Any
    ) -> AsyncIterator[pb.WatchEndpointsResponse]:
        """Stream what exists and every change."""
        async for told in self._manager.watch():
            yield messages.write_told(told)

    async def CheckEndpoint(  # noqa: N802 - the name that grpc calls
        self, request: pb.CheckEndpointRequest, _context: Any
    ) -> pb.CheckEndpointResponse:
        """Say what is wrong with an endpoint, and mend it if that is asked for."""
        selector = messages.read_selector(request.selector)
        if not request.repair:
            endpoint, problems = await self._checker.check(selector)
            return pb.CheckEndpointResponse(endpoint=messages.write_endpoint(endpoint), problems=problems)
        structlog.contextvars.bind_contextvars(selector=str(selector))
        endpoint, repaired, problems = await self._checker.repair(selector)
        structlog.contextvars.bind_contextvars(repaired=len(repaired), left=len(problems))
        return pb.CheckEndpointResponse(
            endpoint=messages.write_endpoint(endpoint), problems=problems, repaired=repaired
        )

    async def RegenerateEndpoints(  # noqa: N802 - the name that grpc calls
        self, request: pb.RegenerateEndpointsRequest, _context: Any
    ) -> pb.RegenerateEndpointsResponse:
        """Regenerate one endpoint or all."""
        level = messages.read_level(request.level)
        results = await self._operator.regenerate(_read_one(request), level, dry_run=request.dry_run)
        return pb.RegenerateEndpointsResponse(results=map(messages.write_result, results))

    async def ListOptions(  # noqa: N802 - the name that grpc calls
        self, request: pb.ListOptionsRequest, _context: Any
    ) -> pb.ListOptionsResponse:
        """Show the switches."""
        found = await self._operator.list_options(_read_one(request))
        return pb.ListOptionsResponse(options=messages.write_options(found))

    async def SetOptions(  # noqa: N802 - the name that grpc calls
        self, request: pb.SetOptionsRequest, _context: Any
    ) -> pb.SetOptionsResponse:
        """Set switches."""
        results = await self._operator.set_options(_read_one(request), messages.read_changes(request.changes))
        return pb.SetOptionsResponse(results=map(messages.write_result, results))

    async def CollectGarbage(  # noqa: N802 - the name that grpc calls
        self, request: pb.CollectGarbageRequest, _context: Any
    ) -> pb.CollectGarbageResponse:
        """Remove what is left of pods that are gone, or show it."""
        results = await self._collector.collect(gcmessages.read_kinds(request.kinds), dry_run=request.dry_run)
        structlog.contextvars.bind_contextvars(findings=len(results), dry_run=request.dry_run)
        return pb.CollectGarbageResponse(findings=map(gcmessages.write_settled, results))

    async def ListDeletions(  # noqa: N802 - the name that grpc calls
        self, _request: pb.ListDeletionsRequest, _context: Any
    ) -> pb.ListDeletionsResponse:
        """Show the deletion journal."""
        found = await self._journal.entries()
        response = pb.ListDeletionsResponse()
        for entry, failures in found:
            fields = {**entry.fields(), "failures": failures.count, "last_error": entry.error or failures.last}
            response.deletions.append(pb.Deletion(**fields))
        return response


def _read_one(request: Any) -> Selector | None:
    """Return which endpoint a request is about; None: the node, or all."""
    return messages.read_selector(request.selector) if request.HasField("selector") else None


def _read_token(token: str) -> int:
    if token and not (token.isascii() and token.isdigit() and len(token) <= 5):
        raise InvalidArgument(
            f"page_token: {token[:40]!r} is no `next_page_token` of an earlier page", field="page_token"
        )
    return int(token or 0)
