"""Listens to the three services and writes what they say onto the board, until it is cancelled.

Each feed is one task that never ends: a stream that is taken up again whenever it breaks, or a question that is asked
again and again. No question takes more than a twentieth of the time, so a node with a
thousand endpoints isn't kept busy by who looks at it. A service that is away leaves what it has said on the board, and
the kind `services` says since when. What a service doesn't know, because it is older than this command, is missing on
the page and nothing else.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from grpc_health.v1 import health_pb2, health_pb2_grpc
from podlane.common.v1 import controllers_pb2
from podlane.endpoint.v1 import cluster_pb2, endpoint_pb2, monitor_pb2, why_pb2
from podlane.ipam.v1 import ipam_pb2

from cli import connect
from cli.present import plain
from cli.ui import edges, shapes
from cli.ui.board import Board
from services.common.client import Peer
from services.common.config import Settings
from services.common.errors import NotFound, PodlaneError

MOST_EVENTS = 1000
MOST_FLOWS = 2000

_WAIT = 0.5
_TIMEOUT = 10.0
_SOON, _OFTEN, _SELDOM = 0.2, 1.0, 5.0


class Feeds:
    """All feeds of one node."""

    def __init__(self, settings: Settings, board: Board) -> None:
        """Name the services."""
        self._settings = settings
        self._board = board
        self._services = {
            one.name: one for one in (connect.ipam(settings), connect.loader(settings), connect.endpoint(settings))
        }
        self._peers = {one.name: Peer(one.name, one.socket, _WAIT) for one in self._services.values()}
        self._monitor = connect.monitor(settings)
        self._events = self._lost = 0
        self._seen: dict[tuple[int, int, int], None] = {}
        self._dropped = 0.0, 0

    async def run(self) -> None:
        """Feed the board until cancelled."""
        for peer in self._peers.values():
            await peer.start()
        try:
            async with asyncio.TaskGroup() as group:
                for name in self._peers:
                    group.create_task(self._again(_OFTEN, lambda name=name: self._health(name), share=1))  # type: ignore[misc]
                    group.create_task(self._again(2 * _OFTEN, lambda name=name: self._controllers(name)))  # type: ignore[misc]
                group.create_task(self._again(2 * _OFTEN, self._pools))
                group.create_task(self._again(_SELDOM, self._policies))
                group.create_task(self._again(_SELDOM, self._cluster))
                group.create_task(self._again(2 * _OFTEN, self._flows))
                group.create_task(self._again(_SOON, self._endpoints))
                group.create_task(self._again(_SOON, self._follow_events))
        finally:
            for peer in self._peers.values():
                await peer.stop()

    async def _again(self, every: float, feed: Callable[[], Awaitable[None]], share: int = 20) -> None:
        """Feed again and again, `every` so many seconds, and with no more than one `share` of the time."""
        while True:
            began = time.monotonic()
            try:
                await feed()
            except PodlaneError:
                # `_health` says which service is away.
                took = 0.0
            else:
                took = time.monotonic() - began
            await asyncio.sleep(max(every, share * took))

    async def _ask(self, service: connect.Service, method: str, request: Any) -> Any:
        peer = self._peers[service.name]
        return await peer.call(getattr(service.stub(peer.channel), method), request, timeout=_TIMEOUT)

    def _listen(self, service: connect.Service, method: str, request: Any) -> AsyncIterator[Any]:
        peer = self._peers[service.name]
        return peer.stream(getattr(service.stub(peer.channel), method), request)

    async def _health(self, name: str) -> None:
        peer = self._peers[name]
        try:
            stub: Any = health_pb2_grpc.HealthStub(peer.channel)
            reply = await peer.call(stub.Check, health_pb2.HealthCheckRequest(), timeout=2.0)
            serving = reply.status == health_pb2.HealthCheckResponse.SERVING
            state, error = (
                ("serving", "") if serving else ("not serving", "it is up and can't do its work yet: see its log")
            )
        except PodlaneError as failure:
            state, error = "down", failure.message
        known = self._board.kind("services").get(name, {})
        since = known["since"] if known.get("state") == state else round(time.time(), 3)
        self._board.put("services", name, {"name": name, "state": state, "error": error, "since": since})

    async def _controllers(self, name: str) -> None:
        (service,) = [one for one in connect.controllers(self._settings) if one.name == name]
        reply = await self._ask(service, "ListControllers", controllers_pb2.ListControllersRequest())
        rows = shapes.by_key((shapes.controller(name, one) for one in reply.controllers), "service", "resource", "name")
        # One kind for each service: who is away keeps what it has said.
        self._board.replace(f"controllers:{name}", rows)

    async def _pools(self) -> None:
        reply = await self._ask(self._services["ipam"], "ListPools", ipam_pb2.ListPoolsRequest())
        self._board.replace("pools", shapes.by_key(map(shapes.pool, reply.pools), "name"))

    async def _policies(self) -> None:
        request = endpoint_pb2.ListEndpointsRequest()
        found: dict[str, Any] = {}
        while True:
            reply = await self._ask(self._services["endpoint"], "ListEndpoints", request)
            found |= {str(one.id): shapes.policies(one) for one in reply.endpoints}
            if not reply.next_page_token:
                break
            request.page_token = reply.next_page_token
        self._board.replace("policies", found)

    async def _cluster(self) -> None:
        reply = await self._ask(connect.cluster(self._settings), "GetCluster", cluster_pb2.GetClusterRequest())
        self._board.put("node", "cluster", shapes.cluster(reply))

    async def _endpoints(self) -> None:
        found: dict[str, Any] | None = {}
        async for message in self._listen(
            self._services["endpoint"], "WatchEndpoints", endpoint_pb2.WatchEndpointsRequest()
        ):
            match shapes.word(message, "change"):
                case "synced":
                    self._board.replace("endpoints", found or {})
                    found = None
                case "deleted":
                    self._board.drop("endpoints", str(message.endpoint.id))
                case _ if found is not None:
                    found[str(message.endpoint.id)] = shapes.endpoint(message.endpoint)
                case _:
                    self._board.put("endpoints", str(message.endpoint.id), shapes.endpoint(message.endpoint))

    async def _follow_events(self) -> None:
        # Each time all of the history, because some of it may have happened meanwhile.
        request = monitor_pb2.WatchEventsRequest(last=MOST_EVENTS)
        async for message in self._listen(self._monitor, "WatchEvents", request):
            # Numbers begin anew with the service.
            key = message.number, message.time.seconds, message.time.nanos
            if message.number and key in self._seen:
                continue
            self._seen[key] = None
            if len(self._seen) > 2 * MOST_EVENTS:
                del self._seen[next(iter(self._seen))]
            self._event(shapes.event(message))

    def _event(self, shown: dict[str, Any]) -> None:
        self._lost += shown.get("lost", 0)
        self._board.put("events", str(self._events), shown)
        self._board.drop("events", str(self._events - MOST_EVENTS))
        self._events += 1

    async def _flows(self) -> None:
        reply = await self._ask(self._monitor, "ListFlows", monitor_pb2.ListFlowsRequest(top=MOST_FLOWS))
        self._board.replace("edges", edges.edges(reply.flows))
        now, dropped = time.monotonic(), edges.drops(reply)
        known, counted = self._dropped
        rate = max(0, dropped - counted) / (now - known) if known else 0.0
        self._dropped = now, dropped
        told = {"per_second": round(rate, 1), "dropped": dropped, "lost": self._lost, "flows": reply.total}
        self._board.put("node", "traffic", told | {"since": shapes.seconds(reply, "since")})

    async def detail(self, id_: int) -> Any:
        """Return one endpoint with all that the service tells of it. Raises NotFound, Unavailable."""
        selector = endpoint_pb2.EndpointSelector(id=id_)
        request = endpoint_pb2.GetEndpointRequest(selector=selector)
        reply = await self._ask(self._services["endpoint"], "GetEndpoint", request)
        if not reply.HasField("endpoint"):
            raise NotFound(f"there is no endpoint {id_}")
        return {"endpoint": plain(reply.endpoint), "usual": await self._usual()}

    async def _usual(self) -> dict[str, Any]:
        """Return what is usual for each phase on this node, in microseconds; nothing where that isn't told."""
        try:
            reply = await self._ask(connect.why(self._settings), "ListCreations", why_pb2.ListCreationsRequest())
        except PodlaneError:
            return {}
        return {one.name: {"median": one.median_us, "p99": one.p99_us, "count": one.count} for one in reply.usual}
