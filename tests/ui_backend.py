"""A node that isn't there, for the page: the three services as gRPC servers on Unix sockets, with a made-up shop.

    with Backend(tmp_path, 1000) as backend:      # backend.config_file is for `podlane --config`
        backend.drop("shop/web-0", "pay/ledger-0", 5432)

Everything is the same each time. What real services say is held by `tests/privileged/test_ui_node.py`.
"""

import asyncio
import functools
import threading
import time
from collections.abc import AsyncIterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from podlane.common.v1 import controllers_pb2, controllers_pb2_grpc, types_pb2
from podlane.endpoint.v1 import (
    cluster_pb2,
    cluster_pb2_grpc,
    endpoint_pb2,
    endpoint_pb2_grpc,
    monitor_pb2,
    monitor_pb2_grpc,
    why_pb2,
    why_pb2_grpc,
)
from podlane.ipam.v1 import ipam_pb2, ipam_pb2_grpc

from tests.ui_world import PHASES, World


@functools.cache
def _thread() -> asyncio.AbstractEventLoop:
    """Return the loop of the thread that serves: one for good, because grpcio polls for the first that it has met."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()

    async def hold() -> None:
        # Held for good: where the last of grpcio's objects goes, what it polls with is closed under the loop. There,
        # because this thread may have no loop any more.
        grpc.aio.init_grpc_aio()

    asyncio.run_coroutine_threadsafe(hold(), loop).result(30)
    return loop


class Backend:
    """The services, in a thread of their own. Methods are called from the test's thread and return when it is done."""

    def __init__(self, directory: Path, size: int) -> None:
        """Make up a node with so many endpoints."""
        self._directory = directory
        self._loop = _thread()
        self._servers: dict[str, grpc.aio.Server] = {}
        self._endpoint_readers: set[asyncio.Queue[Any]] = set()
        self._event_readers: set[asyncio.Queue[Any]] = set()
        self.began = time.time() - 7200
        self.world = World(size, self.began)
        self.config_file = directory / "podlane.toml"

    def __enter__(self) -> Self:
        """Serve."""
        text = f'[node]\nname = "node-1"\nrun_dir = "{self._directory}/run"\nlib_dir = "{self._directory}/lib"\n'
        self.config_file.write_text(text)
        for service in ("ipam", "loader", "endpoint"):
            self.up(service)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        for service in tuple(self._servers):
            self.down(service)

    def _do(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    def up(self, service: str) -> None:
        """Start one service."""
        self._do(self._up(service))

    def down(self, service: str) -> None:
        """Take one away, as a kill does: what is open breaks."""
        server = self._servers.pop(service)
        self._do(server.stop(None))

    async def _up(self, service: str) -> None:
        socket = self._directory / "run" / service / f"{service}.sock"
        socket.parent.mkdir(parents=True, exist_ok=True)
        server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        checks = health.aio.HealthServicer()
        await checks.set("", health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(checks, server)
        # What the page doesn't ask, these don't answer.
        classes: Any = [(controllers_pb2_grpc.add_ControllerServiceServicer_to_server, _Controllers, (service,))]
        if service == "ipam":
            classes.append((ipam_pb2_grpc.add_IpamServiceServicer_to_server, _Ipam, ()))
        if service == "endpoint":
            readers = (self._endpoint_readers,)
            classes += [
                (endpoint_pb2_grpc.add_EndpointServiceServicer_to_server, _Endpoints, readers),
                (cluster_pb2_grpc.add_ClusterServiceServicer_to_server, _Cluster, ()),
                (monitor_pb2_grpc.add_MonitorServiceServicer_to_server, _Monitor, (self._event_readers,)),
                (why_pb2_grpc.add_WhyServiceServicer_to_server, _Why, ()),
            ]
        for add, kind, arguments in classes:
            add(kind(self.world, *arguments), server)
        server.add_insecure_port(f"unix:{socket}")
        await server.start()
        self._servers[service] = server

    def put(self, endpoint: Any) -> None:
        """Add or change an endpoint."""
        self.world.endpoints[endpoint.id] = endpoint
        self._tell(
            self._endpoint_readers,
            endpoint_pb2.WatchEndpointsResponse(
                change=endpoint_pb2.WatchEndpointsResponse.CHANGE_UPSERTED, endpoint=endpoint
            ),
        )

    def remove(self, id_: int) -> None:
        """Delete an endpoint."""
        gone = self.world.endpoints.pop(id_)
        self._tell(
            self._endpoint_readers,
            endpoint_pb2.WatchEndpointsResponse(
                change=endpoint_pb2.WatchEndpointsResponse.CHANGE_DELETED, endpoint=gone
            ),
        )

    def drop(self, source: str, destination: str, port: int) -> None:
        """Have one packet dropped between two pods, by name."""
        event = self.world.drop(source, destination, port, time.time())
        self._tell(self._event_readers, event)

    def _tell(self, readers: set[asyncio.Queue[Any]], message: Any) -> None:
        async def tell() -> None:
            for reader in readers:
                reader.put_nowait(message)

        self._do(tell())


class _Endpoints(endpoint_pb2_grpc.EndpointServiceServicer):
    def __init__(self, world: World, readers: set[asyncio.Queue[Any]]) -> None:
        self._world, self._readers = world, readers

    async def GetEndpoint(self, request: Any, context: Any) -> Any:  # noqa: N802 # gRPC's name
        one = self._world.endpoints.get(request.selector.id)
        if one is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no endpoint {request.selector.id}")
        return endpoint_pb2.GetEndpointResponse(endpoint=one)

    async def ListEndpoints(self, request: Any, _context: Any) -> Any:  # noqa: N802
        size, first = request.page_size or 400, int(request.page_token or 0)
        every = list(self._world.endpoints.values())
        more = str(first + size) if first + size < len(every) else ""
        return endpoint_pb2.ListEndpointsResponse(endpoints=every[first : first + size], next_page_token=more)

    async def WatchEndpoints(self, _request: Any, _context: Any) -> AsyncIterator[Any]:  # noqa: N802
        news: asyncio.Queue[Any] = asyncio.Queue()
        self._readers.add(news)
        try:
            for one in self._world.endpoints.values():
                yield endpoint_pb2.WatchEndpointsResponse(
                    change=endpoint_pb2.WatchEndpointsResponse.CHANGE_EXISTING, endpoint=one
                )
            yield endpoint_pb2.WatchEndpointsResponse(change=endpoint_pb2.WatchEndpointsResponse.CHANGE_SYNCED)
            while True:
                yield await news.get()
        finally:
            self._readers.discard(news)


class _Cluster(cluster_pb2_grpc.ClusterServiceServicer):
    def __init__(self, world: World) -> None:
        self._world = world

    async def GetCluster(self, _request: Any, _context: Any) -> Any:  # noqa: N802
        nodes = [cluster_pb2.ClusterNode(name=f"node-{number}") for number in (1, 2, 3)]
        store = cluster_pb2.Kvstore(kind="etcd", reachable=True)
        return cluster_pb2.GetClusterResponse(kvstore=store, name="blue", node="node-1", routing="overlay", nodes=nodes)


class _Monitor(monitor_pb2_grpc.MonitorServiceServicer):
    def __init__(self, world: World, readers: set[asyncio.Queue[Any]]) -> None:
        self._world, self._readers = world, readers

    async def WatchEvents(self, request: Any, _context: Any) -> AsyncIterator[Any]:  # noqa: N802
        news: asyncio.Queue[Any] = asyncio.Queue()
        self._readers.add(news)
        try:
            for one in self._world.history[-request.last :]:
                yield one
            while True:
                yield await news.get()
        finally:
            self._readers.discard(news)

    async def ListFlows(self, _request: Any, _context: Any) -> Any:  # noqa: N802
        denied = sum(flow.packets for flow in self._world.flows if flow.reason)
        reply = monitor_pb2.ListFlowsResponse(
            flows=self._world.flows, total=len(self._world.flows), pairs=[monitor_pb2.FlowPair(drops=denied)]
        )
        reply.since.FromMicroseconds(int(self._world.began * 1e6))
        return reply


class _Why(why_pb2_grpc.WhyServiceServicer):
    def __init__(self, world: World) -> None:
        self._world = world

    async def ListCreations(self, _request: Any, _context: Any) -> Any:  # noqa: N802
        usual = [why_pb2.UsualPhase(name="total", count=500, median_us=21300, p99_us=39800)]
        usual += [why_pb2.UsualPhase(name=name, count=500, median_us=took, p99_us=2 * took) for name, _, took in PHASES]
        return why_pb2.ListCreationsResponse(usual=usual)


class _Controllers(controllers_pb2_grpc.ControllerServiceServicer):
    def __init__(self, world: World, service: str) -> None:
        self._world, self._service = world, service

    async def ListControllers(self, _request: Any, _context: Any) -> Any:  # noqa: N802
        names = {
            "ipam": ["expire-reservations", "cluster-pool"],
            "loader": ["prepare-template", "node-addresses", "node-routes"],
            "endpoint": ["endpoint-gc", "policy-dir", "resolve-identity"],
        }[self._service]
        found = [self._controller(self._service, name, 0) for name in names]
        if self._service == "endpoint":
            for id_ in self._world.endpoints:
                failing = 14 if id_ == 9 else 0
                found.append(
                    self._controller(
                        f"endpoint-{id_}", "regeneration-recovery" if failing else "sync-to-kvstore", failing
                    )
                )
        return controllers_pb2.ListControllersResponse(controllers=found)

    def _controller(self, resource: str, name: str, failing: int) -> Any:
        one = controllers_pb2.Controller(
            resource=resource,
            name=name,
            state=controllers_pb2.CONTROLLER_STATE_FAILING if failing else controllers_pb2.CONTROLLER_STATE_OK,
        )
        one.status.success_count, one.status.failure_count, one.status.consecutive_failure_count = 41, failing, failing
        one.status.last_error = "from_container: the verifier refused it: invalid access to packet" if failing else ""
        one.status.next_run.FromMicroseconds(int((time.time() + 30) // 60 * 60e6 + 60e6))
        return one


class _Ipam(ipam_pb2_grpc.IpamServiceServicer):
    def __init__(self, world: World) -> None:
        self._world = world

    async def ListPools(self, _request: Any, _context: Any) -> Any:  # noqa: N802
        used = len(self._world.endpoints)

        def range_(text: str, length: int, size: int) -> Any:
            prefix = types_pb2.IpPrefix(address=types_pb2.IpAddress(packed=ip_address(text).packed), length=length)
            return ipam_pb2.PoolRange(prefix=prefix, size=size, used=used, reserved=min(2, used), cooling=5)

        default = ipam_pb2.Pool(name="default", ranges=[range_("10.44.0.0", 21, 2045), range_("fd00:44::", 112, 65534)])
        bridges = ipam_pb2.Pool(
            name="bridges",
            delegated=True,
            ranges=[ipam_pb2.PoolRange(prefix=range_("10.45.0.0", 26, 0).prefix, size=61, used=58)],
        )
        return ipam_pb2.ListPoolsResponse(pools=[default, bridges])
