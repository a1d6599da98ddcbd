"""Assembly of the endpoint service, in the order in which its parts start. The last ones stop first."""

from collections.abc import Awaitable, Sequence

import grpc
from podlane.endpoint.v1 import (
    cluster_pb2,
    cluster_pb2_grpc,
    endpoint_pb2,
    endpoint_pb2_grpc,
    monitor_pb2,
    monitor_pb2_grpc,
    policy_pb2,
    policy_pb2_grpc,
    trace_pb2,
    trace_pb2_grpc,
    why_pb2,
    why_pb2_grpc,
)

from services.common import controller_service, controllers, lifecycle
from services.common.client import Peer
from services.common.config import EndpointSettings, Settings
from services.common.db import Database
from services.common.edge import Server
from services.common.exporter import Exporter
from services.common.kvstore.choose import choose
from services.common.kvstore.embedded import EmbeddedKvstore
from services.common.kvstore.keys import Keys
from services.common.metrics import Metrics
from services.endpoint import otlp, plan, settingscheck
from services.endpoint import policies as policies_parts
from services.endpoint.admission import Admission, width
from services.endpoint.buildmetrics import Builds, Restorations
from services.endpoint.check import Checker
from services.endpoint.chronicle import Chronicle
from services.endpoint.cluster.assembly import Cluster, Late
from services.endpoint.clusterservicer import ClusterServicer
from services.endpoint.deletions import Journal
from services.endpoint.events import Request
from services.endpoint.flowwatch import FlowWatch
from services.endpoint.gc import Collector
from services.endpoint.identities import LocalBackend
from services.endpoint.ipampeer import IpamPeer
from services.endpoint.loaderpeer import LoaderPeer
from services.endpoint.managed import ManagedEndpoint
from services.endpoint.manager import Manager
from services.endpoint.metrics import Creations, Deletions, Phases, States
from services.endpoint.model import Level
from services.endpoint.monitor.hub import Monitor
from services.endpoint.monitor.names import Names
from services.endpoint.monitor.peercontrollers import PeerControllers
from services.endpoint.monitorservicer import MonitorServicer
from services.endpoint.node import NodeKeeper, Readiness
from services.endpoint.operate import Operator
from services.endpoint.packettrace import LoaderPeer as TracingLoader
from services.endpoint.packettrace import PacketTracer
from services.endpoint.parts import Parts
from services.endpoint.policies import Policies
from services.endpoint.policy.labels import LabelFilter
from services.endpoint.policydirectory import PolicyDirectory
from services.endpoint.policymetrics import PolicyChanges, PolicyCounts
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
from services.endpoint.traceservicer import TraceServicer
from services.endpoint.watch import Watchers
from services.endpoint.whyservicer import WhyServicer

WHY = why_pb2.DESCRIPTOR.services_by_name["WhyService"].full_name
NAME = endpoint_pb2.DESCRIPTOR.services_by_name["EndpointService"].full_name
CLUSTER = cluster_pb2.DESCRIPTOR.services_by_name["ClusterService"].full_name
MONITOR = monitor_pb2.DESCRIPTOR.services_by_name["MonitorService"].full_name
POLICY = policy_pb2.DESCRIPTOR.services_by_name["PolicyService"].full_name
TRACE = trace_pb2.DESCRIPTOR.services_by_name["TraceService"].full_name
NAMES = (NAME, POLICY, MONITOR, CLUSTER, TRACE, WHY, controller_service.NAME)
_QUIET = controller_service.QUIET | {
    "GetEndpoint",
    "ListEndpoints",
    "WatchEndpoints",
    "CheckEndpoint",
    "ListOptions",
    "GetCluster",
    "ListDeletions",
    "ListCreations",
    "ListStuck",
    "ListFlows",
}


def build(settings: Settings) -> Sequence[lifecycle.Component]:
    """Construct and wire everything; nothing is started. Raises InvalidArgument for settings that can't work."""
    endpoint = settings.endpoint
    settingscheck.check(endpoint)
    metrics = Metrics()
    database, registry = Database(endpoint.database, MIGRATIONS), controllers.Registry(metrics.ran)
    ipam_peer = Peer("ipam", settings.ipam.socket, endpoint.peer_wait_seconds)
    loader_peer = Peer("loader", settings.loader.socket, endpoint.peer_wait_seconds)
    ipam, loader, store = IpamPeer(ipam_peer), LoaderPeer(loader_peer), Store(database)
    watchers, endpoints = Watchers(), Registry()
    embedded, keys = EmbeddedKvstore(database), Keys(settings.kvstore.root)
    kvstore, kvstore_client = choose(settings.kvstore, settings.cluster, registry, embedded, metrics)
    publisher = Publisher(kvstore, keys, settings.node.name, endpoint.publish_interval_seconds)
    readiness = Readiness(endpoint.peer_wait_seconds, lambda ready: server.serving(ready=ready))
    own_controllers = controllers.Manager("endpoint-manager", registry)
    cluster: Cluster | None = None
    if settings.kvstore.endpoints:
        late = Late(lambda: policies, publisher.saw, store.instance)
        cluster = Cluster(settings, kvstore, loader_peer, controllers.Manager("cluster", registry), late)
        publisher.join(cluster.registration, cluster.addresses)

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
        settingscheck.policy_settings(endpoint),
        LabelFilter(endpoint.identity_labels),
        cluster.identities if cluster is not None else LocalBackend(endpoint.identity_grace_seconds),
    )
    traces = otlp.exporter(settings.telemetry, settings.node.name)
    chronicle = _chronicle(metrics, traces)
    publisher.published = chronicle.published
    parts = Parts(
        store,
        loader,
        ipam,
        registry,
        publisher,
        watchers,
        readiness,
        endpoints,
        policies,
        Admission(width(endpoint.create_permits), readiness),
        chronicle,
    )
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
    journal = Journal(
        endpoint.journal_dir, endpoint.journal_max_days, manager=manager, loader=loader, ipam=ipam, own=own_controllers
    )
    restorer = Restorer(manager, loader, ipam, publisher, policies, own=own_controllers, first=journal.look_first)
    checker = Checker(manager, operator, restorer, loader=loader, ipam=ipam, publisher=publisher)
    servicer = EndpointServicer(manager, operator, collector, checker, journal)
    view, flows = PolicyView(policies, endpoints, loader), FlowWatch(policies, endpoints, loader)
    directory = PolicyDirectory(endpoint.policy_dir, policies, own_controllers)
    documents = cluster.documents(policies) if cluster is not None else None
    policies.look_first_at = [directory.look_first, *([documents.look_first] if documents is not None else ())]
    policy_servicer = PolicyServicer(policies, view, flows, endpoints, documents=documents)
    monitor = Monitor(flows, Names(endpoints, policies), own_controllers, endpoint.history_size)
    monitor.observe(watchers, registry)
    metrics.watch(registry)
    metrics.register(
        States(manager),
        Deletions(journal),
        Creations(parts.admission),
        Builds(manager),
        Restorations(restorer, readiness),
        PolicyCounts(policies, PolicyChanges(metrics.registry)),
    )

    cluster_servicer = ClusterServicer(
        kvstore,
        keys,
        node=settings.node.name,
        name=settings.cluster.name,
        cluster=cluster,
        registry=endpoints,
        labels_of=lambda number: policies.backend.known().get(number),
    )

    why_servicer = WhyServicer(
        manager, chronicle.memory, readiness, kvstore=kvstore, peers={"loader": loader_peer, "ipam": ipam_peer}
    )

    trace_servicer = TraceServicer(PacketTracer(view, policies, endpoints, TracingLoader(loader_peer)))
    monitor_servicer = MonitorServicer(monitor, loader, endpoints)
    servicers = (servicer, policy_servicer, cluster_servicer, trace_servicer, why_servicer, monitor_servicer)
    server = _server(endpoint, metrics, registry, servicers)
    exporter = Exporter("[endpoint] metrics_listen", endpoint.metrics_listen, metrics.page)
    common = settingscheck.node_config(settings)
    keeper = NodeKeeper(
        lambda ranges: plan.node_config(ranges, common),
        loader,
        ipam,
        restorer,
        configured=cluster.configured if cluster is not None else None,
        readiness=readiness,
        removed=manager.link_removed,
        registry=registry,
    )

    return (
        *(
            database,
            kvstore_client,
            ipam_peer,
            loader_peer,
            *((traces,) if traces is not None else ()),
            manager,
            policies,
            *(cluster.components if cluster is not None else ()),
            *((documents,) if documents is not None else ()),
            operator,
            exporter,
            server,
            watchers,
            monitor,
            PeerControllers({"ipam": ipam_peer, "loader": loader_peer}, monitor.tell, own_controllers),
            journal,
            keeper,
            collector,
            directory,
        ),
        lifecycle.Hook(lambda: operator.begin(own_controllers, endpoint.regenerate_interval_seconds)),
    )


def _server(
    endpoint: EndpointSettings,
    metrics: Metrics,
    registry: controllers.Registry,
    servicers: tuple[EndpointServicer, PolicyServicer, ClusterServicer, TraceServicer, WhyServicer, MonitorServicer],
) -> Server:
    """Return who answers on this service's socket."""

    def register(server: grpc.aio.Server) -> None:
        endpoints, policies, cluster, trace, why, monitor = servicers
        endpoint_pb2_grpc.add_EndpointServiceServicer_to_server(endpoints, server)
        policy_pb2_grpc.add_PolicyServiceServicer_to_server(policies, server)
        cluster_pb2_grpc.add_ClusterServiceServicer_to_server(cluster, server)
        trace_pb2_grpc.add_TraceServiceServicer_to_server(trace, server)
        why_pb2_grpc.add_WhyServiceServicer_to_server(why, server)
        monitor_pb2_grpc.add_MonitorServiceServicer_to_server(monitor, server)
        controller_service.register(registry, server)

    return Server(endpoint.socket, NAMES, register, quiet=_QUIET, observe=metrics.rpc)


def _chronicle(metrics: Metrics, traces: otlp.Exporter | None) -> Chronicle:
    """Return who is told of creations, counting into `metrics` and exporting by `traces`."""
    creations = Phases("creation", "What a phase of a creation took.")
    regenerations = Phases("regeneration", "What a phase of a regeneration took.")
    for collector in (creations, regenerations, *((otlp.Traces(traces),) if traces is not None else ())):
        metrics.registry.register(collector)
    return Chronicle(creations.take, regenerations.take, traces.trace if traces is not None else None)


def main() -> int:
    """Run the service; return its exit code."""
    return lifecycle.main("endpoint", build)
