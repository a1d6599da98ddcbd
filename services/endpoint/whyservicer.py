"""WhyService: why creations took so long, and why endpoints aren't ready; messages in, messages out."""

import asyncio
from collections.abc import Iterator
from typing import Any

from podlane.endpoint.v1 import why_pb2 as pb
from podlane.endpoint.v1 import why_pb2_grpc

from services.common import wire
from services.common.client import Peer
from services.common.controllers import Manager as Controllers
from services.common.errors import InvalidArgument, PodlaneError
from services.common.kvstore import Kvstore
from services.endpoint import stuck, whymessages
from services.endpoint.manager import Manager
from services.endpoint.node import Readiness
from services.endpoint.usual import Memory, slowest

_MOST = 1000
# A kvstore that is asked for its state while it is away must not keep who asks why.
_KVSTORE_SECONDS = 1.0


class WhyServicer(why_pb2_grpc.WhyServiceServicer):
    """The RPCs of why.proto. `peers` are the services that this one needs, by name."""

    def __init__(
        self, manager: Manager, memory: Memory, readiness: Readiness, *, kvstore: Kvstore, peers: dict[str, Peer]
    ) -> None:
        """Serve what they know."""
        self._manager, self._memory, self._readiness = manager, memory, readiness
        self._kvstore, self._peers = kvstore, peers

    async def ListCreations(  # noqa: N802 - the name that grpc calls
        self, request: pb.ListCreationsRequest, _context: Any
    ) -> pb.ListCreationsResponse:
        """List the slowest creations and what is usual."""
        if request.limit > _MOST:
            raise InvalidArgument(f"limit: {request.limit} is more than {_MOST}", field="limit")
        there = {one.endpoint.id: one.endpoint for one in self._manager}
        kept = {id_: one.timeline for id_, one in there.items() if one.timeline is not None}
        return pb.ListCreationsResponse(
            creations=[whymessages.write_creation(there[id_]) for id_ in slowest(kept, request.limit)],
            usual=whymessages.write_usual(self._memory.usual()),
        )

    async def ListStuck(  # noqa: N802 - the name that grpc calls
        self, _request: pb.ListStuckRequest, _context: Any
    ) -> pb.ListStuckResponse:
        """List what waits, the longest first."""
        node, places = await self._node(), self._manager.places()
        found = [
            one
            for managed in self._manager
            for one in stuck.of_endpoint(
                managed.endpoint, node, _failing(managed.controllers), places.get(managed.endpoint.id)
            )
        ]
        # Since when isn't known of what has no time: it comes last.
        found.sort(key=lambda one: one.since or wire.now())
        return pb.ListStuckResponse(
            stuck=map(whymessages.write_stuck, found),
            node_waits_for=node.waits_for,
            node_since=wire.write_time(node.since) if node.waits_for else None,
            node_unblock=node.unblock(),
        )

    async def _node(self) -> stuck.Node:
        ready = self._readiness.ready
        return stuck.Node(
            waits_for="" if ready else self._readiness.waiting_for,
            since=0.0 if ready else self._readiness.since,
            away=tuple(name for name, peer in self._peers.items() if peer.away),
            kvstore_error=await self._kvstore_error(),
        )

    async def _kvstore_error(self) -> str:
        try:
            async with asyncio.timeout(_KVSTORE_SECONDS):
                status = await self._kvstore.status()
        except TimeoutError:
            return f"it has not answered in {_KVSTORE_SECONDS:g} s"
        except PodlaneError as error:
            return error.message
        return "" if status.reachable else status.error or "it was not reached yet"


def _failing(controllers: Controllers) -> Iterator[stuck.Failing]:
    for one in controllers:
        if one.failing:
            status = one.status
            yield stuck.Failing(
                one.name, status.consecutive_failures, status.last_error, status.failing_since, one.next_run
            )
