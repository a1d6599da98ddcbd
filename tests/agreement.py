"""What everybody on a node says about its endpoints: services, kernel, directories, databases.

agreement = Agreement(node)
agreement.reached()              # waits until all say the same, and nothing is half done
agreement.left_beside(one, two)  # what there is of anybody else: after a DEL, nothing
"""

import contextlib
import select
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from ipaddress import ip_address
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from podlane.endpoint.v1 import endpoint_pb2 as pb
from podlane.endpoint.v1 import endpoint_pb2_grpc, policy_pb2_grpc
from podlane.ipam.v1 import ipam_pb2, ipam_pb2_grpc
from podlane.loader.v1 import loader_pb2, loader_pb2_grpc

from services.loader import libbpf, maps, pathmaps
from tests.node_support import SERVICES, Node, Pod

PATIENCE = 20.0
_SLOTS = 1024
_STUBS: dict[str, Any] = {
    "ipam": ipam_pb2_grpc.IpamServiceStub,
    "loader": loader_pb2_grpc.LoaderServiceStub,
    "endpoint": endpoint_pb2_grpc.EndpointServiceStub,
    "policy": policy_pb2_grpc.PolicyServiceStub,
}
_SOCKETS = {"policy": "endpoint"}


def until(holds: Callable[[], Any], what: Callable[[], str]) -> Any:
    """Return the first true answer of `holds`; after 20 seconds fail with what `what` says."""
    deadline, pause = time.monotonic() + PATIENCE, 0.01
    while not (answer := holds()):
        assert time.monotonic() < deadline, what()
        select.select([], [], [], pause)
        # Who asks all the time takes the CPU from those who are asked.
        pause = min(2 * pause, 0.1)
    return answer


class Agreement:
    """The views of one node."""

    def __init__(self, node: Node) -> None:
        """Ask nobody yet."""
        self._node = node
        self._state = node.dir / "run" / "state"
        self._maps = node.dir / "bpf" / "podlane" / "maps"

    def call(self, service: str, method: str, request: Any) -> Any:
        """Call an RPC; a service that is just starting is waited for."""
        with self._channel(service) as channel:
            return getattr(_STUBS[service](channel), method)(request, timeout=PATIENCE, wait_for_ready=True)

    @contextlib.contextmanager
    def asking(self, service: str) -> Iterator[Any]:
        """Yield a stub for many calls of a service that stays up: a connection takes longer than an answer."""
        with self._channel(service) as channel:
            yield _STUBS[service](channel)

    @contextlib.contextmanager
    def watch(
        self, type_: "loader_pb2.EventType.ValueType", each: Callable[[loader_pb2.WatchEventsResponse], None]
    ) -> Iterator[None]:
        """Have `each` told of events of a type, on a thread, for the block; it begins when the loader tells of them."""
        with self._channel("loader") as channel:
            stub: Any = loader_pb2_grpc.LoaderServiceStub(channel)
            call = stub.WatchEvents(loader_pb2.WatchEventsRequest(types=[type_]), wait_for_ready=True)
            call.initial_metadata()

            def read() -> None:
                with contextlib.suppress(grpc.RpcError):
                    for event in call:
                        each(event)

            reader = threading.Thread(target=read)
            reader.start()
            try:
                yield
            finally:
                call.cancel()
                reader.join()

    def serving(self, service: str) -> bool:
        """Whether a service says that it can do its work."""
        return bool(self._health(service) == health_pb2.HealthCheckResponse.SERVING)

    def answers(self, service: str) -> bool:
        """Whether a service says anything."""
        return self._health(service) is not None

    def _health(self, service: str) -> Any:
        with self._channel(service) as channel:
            try:
                stub: Any = health_pb2_grpc.HealthStub(channel)
                return stub.Check(health_pb2.HealthCheckRequest(), timeout=2.0).status
            except grpc.RpcError:
                return None

    def _channel(self, service: str) -> Any:
        # Each call its own connection: one that is kept backs off while its service is away.
        options = (("grpc.use_local_subchannel_pool", 1),)
        return grpc.insecure_channel(
            f"unix:{getattr(self._node.loaded, _SOCKETS.get(service, service)).socket}", options=options
        )

    def reached(self, *, deleting: Pod | None = None) -> None:
        """Wait until all services serve, all views agree and nothing is half done.

        What a pod that somebody is `deleting` still has of link and addresses is for the repeat of that DEL to free.
        """
        found: list[str] = []

        def agree() -> bool:
            found[:] = self.differences(deleting)
            return not found

        until(agree, lambda: "\n".join(found))

    def differences(self, deleting: Pod | None = None) -> list[str]:
        """Say who differs from whom, one sentence each."""
        if missing := [service for service in SERVICES if not self.serving(service)]:
            return [f"{', '.join(missing)} not serving"]
        looks = (
            self.wrong_endpoints,
            self._published,
            lambda: self._addresses(deleting),
            lambda: self._links(deleting),
            self._kernel,
        )
        return next((found for look in looks if (found := list(look()))), [])

    def endpoints(self) -> list[pb.Endpoint]:
        """Return what the endpoint service lists."""
        return list(self.call("endpoint", "ListEndpoints", pb.ListEndpointsRequest()).endpoints)

    def _has(self, pod: Pod) -> bool:
        return any(endpoint.attachment.container_id == pod.container_id for endpoint in self.endpoints())

    def wrong_endpoints(self) -> Iterator[str]:
        """Say what is wrong with endpoints, as CHECK does."""
        for endpoint in self.endpoints():
            if endpoint.state != pb.ENDPOINT_STATE_READY:
                yield f"endpoint {endpoint.id} waits for {endpoint.waiting_for}"
            else:
                request = pb.CheckEndpointRequest(selector=pb.EndpointSelector(id=endpoint.id))
                for problem in self.call("endpoint", "CheckEndpoint", request).problems:
                    yield f"endpoint {endpoint.id}: {problem}"

    def _kernel(self) -> Iterator[str]:
        endpoints = self.endpoints()
        ids = {endpoint.id for endpoint in endpoints}
        views: dict[str, set[Any]] = {
            "datapaths": self._datapaths(),
            "call_policy": self._slots(),
            "policy pins": {int(path.name.rpartition("_")[2]) for path in self._maps.glob("policy_*")},
            "the state directory": self._directories(),
        }
        for whose, seen in views.items():
            if seen != ids:
                yield f"{whose}: {sorted(seen)}, endpoints: {sorted(ids)}"
        leads = {(entry.endpoint.address.packed, entry.endpoint.endpoint_id) for entry in self._dump("endpoints")}
        have = {(one.address.address.packed, endpoint.id) for endpoint in endpoints for one in endpoint.addresses}
        if (ours := {entry for entry in leads if entry[1]}) != have:
            yield f"the endpoint map: {sorted(ours)}, endpoints: {sorted(have)}"

    def _slots(self) -> set[int]:
        """Return the slots that are filled, of the first ones: to ask for all 65,536 takes 0.1 s."""
        pinned = libbpf.object_get(self._maps / maps.CALL_POLICY)
        assert pinned is not None
        with pathmaps.CallPolicy(pinned) as slots:
            return set(slots.dump(range(1, _SLOTS)))  # the first is the node's

    def _published(self) -> Iterator[str]:
        """The embedded kvstore has a record of each endpoint and no other."""
        database = self._node.dir / "lib" / "endpoint.sqlite"
        with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            keys = [key for (key,) in connection.execute("SELECT key FROM kvstore")]
        published = {int(key.rpartition("/")[2]) for key in keys}
        if published != (ids := {endpoint.id for endpoint in self.endpoints()}):
            yield f"published: {sorted(published)}, endpoints: {sorted(ids)}"

    def _directories(self) -> set[int | str]:
        names = {path.name for path in self._state.iterdir() if path.name[0].isdigit()}
        return {int(name) if name.isdecimal() else name for name in names if not name.endswith("_next_fail")}

    def _datapaths(self) -> set[int]:
        reply = self.call("loader", "ListEndpointDatapaths", loader_pb2.ListEndpointDatapathsRequest())
        return {one.id for one in reply.datapaths}

    def _dump(self, name: str) -> list[loader_pb2.MapEntry]:
        return list(self.call("loader", "DumpMap", loader_pb2.DumpMapRequest(map=name)).entries)

    def _links(self, deleting: Pod | None) -> Iterator[str]:
        reply = self.call("loader", "ListLinks", loader_pb2.ListLinksRequest(verify=True))
        for status in reply.links:
            if deleting is not None and status.link.attachment.container_id == deleting.container_id:
                continue
            yield from (f"link {status.link.host_ifname}: {problem}" for problem in status.problems)
        listed = {status.link.host_ifname for status in reply.links}
        records = {path.name for path in (self._state / "links").iterdir()}
        if records != {f"{name}.json" for name in listed}:
            yield f"link records: {sorted(records)}, links: {sorted(listed)}"
        if missing := {endpoint.link.host_ifname for endpoint in self.endpoints()} - listed:
            yield f"endpoints have links that nobody lists: {sorted(missing)}"

    def _addresses(self, deleting: Pod | None) -> Iterator[str]:
        """Every endpoint has its addresses confirmed; beside them there are reservations, which expire."""
        confirmed = {
            (one.address.address.packed, allocation.endpoint_id)
            for allocation in self._allocations()
            if allocation.endpoint_id
            and (deleting is None or allocation.owner.container_id != deleting.container_id or self._has(deleting))
            for one in allocation.addresses
        }
        have = {(one.address.address.packed, one_of.id) for one_of in self.endpoints() for one in one_of.addresses}
        if confirmed != have:
            yield f"ipam: {_readable(confirmed)}, endpoints: {_readable(have)}"

    def _allocations(self) -> list[ipam_pb2.Allocation]:
        return list(self.call("ipam", "ListAllocations", ipam_pb2.ListAllocationsRequest()).allocations)

    def left_beside(self, *pods: Pod) -> list[str]:
        """Return what there is of any pod but these."""
        known = {pod.container_id for pod in pods}
        endpoints = [one for one in self.endpoints() if one.attachment.container_id not in known]
        links = self.call("loader", "ListLinks", loader_pb2.ListLinksRequest()).links
        return [
            *(f"endpoint {one.id}" for one in endpoints),
            *(f"link {one.link.host_ifname}" for one in links if one.link.attachment.container_id not in known),
            *(f"allocation {one.owner}" for one in self._allocations() if one.owner.container_id not in known),
        ]


def _readable(pairs: Iterable[tuple[bytes, int]]) -> list[str]:
    return sorted(f"{ip_address(packed)} of {id_}" for packed, id_ in pairs)
