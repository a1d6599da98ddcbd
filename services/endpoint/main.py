"""Assembly of the endpoint service, in the order in which its parts start. The last ones stop first."""

from collections.abc import Awaitable, Sequence

import grpc
from podlane.endpoint.v1 import endpoint_pb2, endpoint_pb2_grpc, policy_pb2, policy_pb2_grpc

from services.common import controller_service, controllers, lifecycle
from services.common.client import Peer
from services.common.config import EndpointSettings, Settings
from services.common.controller import Parameters
from services.common.db import Database
from services.common.edge import Server
from services.common.errors import InvalidArgument
from services.common.exporter import Exporter
from services.common.kvstore.embedded import EmbeddedKvstore
from services.common.metrics import Metrics
from services.endpoint import policies as policies_parts
from services.endpoint.events import Request
from services.endpoint.flowwatch import FlowWatch
from services.endpoint.gc import Collector
from services.endpoint.managed import ManagedEndpoint
from services.endpoint.manager import Manager, Parts
from services.endpoint.metrics import States
from services.endpoint.model import Level
from services.endpoint.node import NodeKeeper, Readiness
from services.endpoint.operate import Operator
from services.endpoint.peers import IpamPeer, LoaderPeer
from services.endpoint.policies import Policies
from services.endpoint.policy.labels import LabelFilter
from services.endpoint.policy.settings import InitPolicy
from services.endpoint.policy.settings import Settings as PolicySettings
from services.endpoint.policydirectory import PolicyDirectory
from services.endpoint.policyservicer import PolicyServicer
from services.endpoint.policystore import PolicyStore
from services.endpoint.policyview import PolicyView
from services.endpoint.publisher import Publisher
from services.endpoint.regeneration import permits
from services.endpoint.registry import Registry
from services.endpoint.restore import Restorer
from services.endpoint.schema import MIGRATIONS
from services.endpoint.servicer import EndpointServicer
from services.endpoint.store import Store
from services.endpoint.watch import Watchers

NAME = endpoint_pb2.DESCRIPTOR.services_by_name["EndpointService"].full_name
POLICY = policy_pb2.DESCRIPTOR.services_by_name["PolicyService"].full_name
_QUIET = controller_service.QUIET | {"GetEndpoint", "ListEndpoints", "WatchEndpoints", "CheckEndpoint", "ListOptions"}
# A year: beyond it a typo is likelier than a wish.
_LONGEST = 366 * 86400


def build(settings: Settings) -> Sequence[lifecycle.Component]:
    """Construct and wire everything; nothing is started. Raises InvalidArgument for settings that can't work."""
    endpoint = settings.endpoint
    _check(endpoint)
    metrics = Metrics()
    database, registry = Database(endpoint.database, MIGRATIONS), controllers.Registry(metrics.ran)
    ipam_peer = Peer("ipam", settings.ipam.socket, endpoint.peer_wait_seconds)
    loader_peer = Peer("loader", settings.loader.socket, endpoint.peer_wait_seconds)
    ipam, loader, store = IpamPeer(ipam_peer), LoaderPeer(loader_peer), Store(database)
    watchers = Watchers()
    publisher = Publisher(EmbeddedKvstore(database), settings.node.name, endpoint.publish_interval_seconds)
    readiness = Readiness(endpoint.peer_wait_seconds, lambda ready: server.serving(ready=ready))
    own_controllers = controllers.Manager("endpoint-manager", registry)
    endpoints = Registry()

    def regenerate(managed: ManagedEndpoint, why: str) -> Awaitable[None]:
        return manager.again(managed, Request(Level.NO_REBUILD, (why,)))

    policies = Policies(
        policies_parts.Parts(
            loader,
            endpoints,
            store,
            PolicyStore(database),
            own_controllers,
            readiness,
            regenerate,
            publisher.begin,
        ),
        _policy_settings(endpoint),
        LabelFilter(endpoint.identity_labels),
        endpoint.identity_grace_seconds,
    )
    parts = Parts(store, loader, ipam, registry, publisher, watchers, readiness, endpoints, policies)
    manager = Manager(parts, endpoint.queue_size, permits(endpoint.build_permits))
    operator = Operator(manager.registry, manager.regenerator, store, loader)
    collector = Collector(
        manager,
        loader,
        ipam,
        readiness=readiness,
        controllers=own_controllers,
        interval=endpoint.gc_interval_seconds,
        grace=endpoint.gc_grace_seconds,
    )
    servicer = EndpointServicer(manager, operator, collector)
    view, flows = PolicyView(policies, endpoints, loader), FlowWatch(policies, endpoints, loader)
    policy_servicer = PolicyServicer(policies, view, flows, endpoints)
    directory = PolicyDirectory(endpoint.policy_dir, policies, own_controllers)
    policies.before_first = directory.look_first
    metrics.watch(registry)
    metrics.registry.register(States(manager))

    def register(grpc_server: grpc.aio.Server) -> None:
        endpoint_pb2_grpc.add_EndpointServiceServicer_to_server(servicer, grpc_server)
        policy_pb2_grpc.add_PolicyServiceServicer_to_server(policy_servicer, grpc_server)
        controller_service.register(registry, grpc_server)

    server = Server(
        endpoint.socket, (NAME, POLICY, controller_service.NAME), register, quiet=_QUIET, observe=metrics.rpc
    )
    exporter = Exporter("[endpoint] metrics_listen", endpoint.metrics_listen, metrics.page)
    keeper = NodeKeeper(
        settings.loader,
        loader,
        ipam,
        Restorer(manager, loader, ipam, publisher, policies),
        readiness=readiness,
        removed=manager.link_removed,
        registry=registry,
    )

    async def begin_controllers() -> None:
        interval = endpoint.regenerate_interval_seconds
        own_controllers.update(
            "endpoint-regenerate",
            Parameters(run=operator.regenerate_periodically, interval=interval, retry=False),
            delay=interval,
        )

    return (
        *(
            database,
            ipam_peer,
            loader_peer,
            manager,
            policies,
            operator,
            exporter,
            server,
            watchers,
            keeper,
            collector,
            directory,
        ),
        lifecycle.Hook(begin_controllers),
    )


def _check(endpoint: EndpointSettings) -> None:
    if endpoint.queue_size < 1:
        raise InvalidArgument(f"[endpoint] queue_size: {endpoint.queue_size} is less than 1", key="queue_size")
    if endpoint.build_permits < 0:
        raise InvalidArgument(f"[endpoint] build_permits: {endpoint.build_permits} is negative", key="build_permits")
    for key, longest in (
        ("peer_wait_seconds", 3600),
        ("gc_interval_seconds", _LONGEST),
        ("gc_grace_seconds", _LONGEST),
        ("identity_grace_seconds", _LONGEST),
    ):
        seconds = getattr(endpoint, key)
        # Written so that TOML's nan fails too.
        if not 0 <= seconds <= longest:
            raise InvalidArgument(f"[endpoint] {key}: {seconds} is not between 0 and {longest}", key=key)
    for key in ("regenerate_interval_seconds", "publish_interval_seconds"):
        seconds = getattr(endpoint, key)
        if not 0 < seconds <= _LONGEST:
            raise InvalidArgument(f"[endpoint] {key}: {seconds} is not in (0, {_LONGEST}]", key=key)


def _policy_settings(endpoint: EndpointSettings) -> PolicySettings:
    if endpoint.init_policy not in set(InitPolicy):
        words = ", ".join(InitPolicy)
        raise InvalidArgument(f"[endpoint] init_policy: {endpoint.init_policy!r} is none of {words}", key="init_policy")
    return PolicySettings(
        allow_from_host=endpoint.allow_from_host,
        allow_to_host=endpoint.allow_to_host,
        init_policy=InitPolicy(endpoint.init_policy),
    )


def main() -> int:
    """Run the service; return its exit code."""
    return lifecycle.main("endpoint", build)
