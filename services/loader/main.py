"""Assembly of the loader: what it needs, what it finds, what it does, the server, in the order in which they start."""

from collections.abc import Sequence
from pathlib import Path

import grpc
from podlane.loader.v1 import loader_pb2, loader_pb2_grpc, trace_pb2, trace_pb2_grpc

from services.common import controller_service, lifecycle, sockets, telemetry
from services.common.config import LoaderSettings, Settings
from services.common.controller_parameters import Parameters
from services.common.controllers import Manager, Registry
from services.common.edge import Server
from services.common.exporter import Exporter
from services.common.lifecycle import Hook, Shielded
from services.common.locks import KeyedLocks
from services.common.metrics import Metrics
from services.loader import flowgc, hostaddresses, othernodes, privileges
from services.loader.addresswatch import AddressMonitor
from services.loader.adopt import adopt
from services.loader.attach import Attachers, Tc, Tcx, check_mode
from services.loader.blocking import Blocking
from services.loader.compile import OVERLAY_SOURCE, SOURCE
from services.loader.datapath import Datapath
from services.loader.events import Events
from services.loader.flowgc import FlowGc
from services.loader.flowledger import FlowLedger
from services.loader.host import Host
from services.loader.hostaddresses import HostAddresses
from services.loader.image import Images
from services.loader.inventory import Inventory
from services.loader.links import Links
from services.loader.mapmetrics import Drops, MapUse
from services.loader.metrics import Datapaths, EventCounts, Regenerations, SpareCounts, TemplateCounts
from services.loader.netlink_worker import NetlinkWorker
from services.loader.node import NodeSide
from services.loader.nodeconfig import NodeConfigurer
from services.loader.othernodes import OtherNodes
from services.loader.overlay import Overlay
from services.loader.overlayhooks import OverlayHooks
from services.loader.packettrace import PacketTracer
from services.loader.pins import Pins
from services.loader.policies import Policies
from services.loader.prepare import Preparation
from services.loader.probe import Prober
from services.loader.regenerate import Regenerator
from services.loader.remotenodes import Routes
from services.loader.servicer import LoaderServicer, Parts
from services.loader.spares import CALM, Spares
from services.loader.statedir import StateDir
from services.loader.steps import Kernel
from services.loader.tc import TcFilters
from services.loader.template import Templates
from services.loader.traceservicer import TraceServicer

NAME = loader_pb2.DESCRIPTOR.services_by_name["LoaderService"].full_name
TRACE = trace_pb2.DESCRIPTOR.services_by_name["TraceService"].full_name
_QUIET = controller_service.QUIET | {"GetNode", "ListLinks", "ListEndpointDatapaths", "DumpMap", "ListFlowCounts"}

_log = telemetry.logger("main")


def build(settings: Settings) -> Sequence[lifecycle.Component]:
    """Construct and wire everything; nothing is started. Raises InvalidArgument for settings that can't work."""
    loader = settings.loader
    mode = check_mode(loader.attach_mode)
    metrics = Metrics()
    controllers = Registry(metrics.ran)
    pins, state = Pins(settings.node.bpffs), StateDir(loader.state_dir)
    blocking, worker, shielded = Blocking(), NetlinkWorker("netlink"), Shielded()
    templates, locks = _templates(loader, state), KeyedLocks()
    attachers = Attachers({"tc": Tc(TcFilters(worker)), "tcx": Tcx(pins, blocking)}, mode)
    host = Host(worker, lambda: node.config.gateways)
    datapath = Datapath(pins, attachers, host)
    overlay_templates = _templates(loader, state, OVERLAY_SOURCE)
    hooks = OverlayHooks(loader.overlay_attach_mode, TcFilters(worker), pins, blocking)
    overlay = Overlay(worker, overlay_templates, datapath, hooks, blocking)
    others = OtherNodes(datapath, state, overlay, Routes(worker), blocking)
    node = NodeConfigurer(
        state,
        NodeSide(worker),
        HostAddresses(worker, datapath),
        others,
        templates,
        settings=loader,
        shape_changed=lambda: manager.trigger("prepare-template"),
    )
    policies = Policies(datapath, state, blocking)
    events, prober = Events(datapath), Prober(datapath, state, blocking)
    ledger = FlowLedger(datapath, blocking, events.expired)
    kernel = Kernel(datapath, Inventory(datapath, pins, state, locks), policies, attachers, host, blocking, ledger)
    links, flow_gc = Links(state.root / "links", worker, node.mtu), FlowGc(datapath, ledger)
    images = Images(blocking)
    spares = Spares(images, loader.spare_programs, missing=lambda: manager.trigger("prepare-spares", CALM))
    regenerator = Regenerator(
        state,
        templates,
        kernel,
        locks,
        lambda: node.config,
        images=images,
        spares=spares,
        observe=Regenerations(metrics.registry).ended,
    )
    servicer = LoaderServicer(
        Parts(
            node,
            links,
            regenerator,
            policies,
            prober,
            datapath,
            kernel.inventory,
            events,
            ledger,
            others,
            blocking,
            shielded,
        )
    )
    metrics.watch(controllers)
    metrics.register(
        TemplateCounts((templates, overlay_templates)),
        Drops(datapath),
        MapUse(datapath, policies, flow_gc),
        SpareCounts(spares),
        EventCounts(events),
        Datapaths(state),
    )

    def register(server: grpc.aio.Server) -> None:
        loader_pb2_grpc.add_LoaderServiceServicer_to_server(servicer, server)
        trace_pb2_grpc.add_TraceServiceServicer_to_server(
            TraceServicer(PacketTracer(prober, datapath, state), lambda: node.config, shielded), server
        )
        controller_service.register(controllers, server)

    server = Server(loader.socket, (NAME, TRACE, controller_service.NAME), register, quiet=_QUIET, observe=metrics.rpc)
    exporter = Exporter("[loader] metrics_listen", loader.metrics_listen, metrics.page)

    preparation = Preparation(datapath, templates, node, spares, blocking)

    async def before_anything_else() -> None:
        privileges.require()
        # A second loader must end here: taking over is for those who are alone.
        sockets.prepare(loader.socket)
        state.open()
        # What damage or a newer loader has made unreadable ends the start here, before anything is touched.
        state.check()
        links.check()

    async def take_over() -> None:
        _log.info("adopted", endpoints=await adopt(state, kernel))
        # The one before may have been killed after it had changed a policy, and before it said so.
        datapath.revise()

    manager = Manager("loader", controllers)

    async def begin_controllers() -> None:
        manager.update("prepare-template", Parameters(preparation.run))
        manager.update("prepare-spares", Parameters(spares.fill))
        manager.update("conntrack-gc", Parameters(flow_gc.run, interval=flowgc.INTERVAL))
        manager.update("node-routes", Parameters(node.compare_others, interval=othernodes.INTERVAL))
        manager.update("node-addresses", Parameters(node.compare_addresses, interval=hostaddresses.INTERVAL))

    # The server is the last to come and the first to go: whoever is answered finds everything in place.
    return (
        Hook(before_anything_else),
        blocking,
        spares,
        worker,
        Hook(templates.open, templates.close),
        Hook(overlay_templates.open, overlay_templates.close),
        controllers,
        datapath,
        Hook(take_over),
        Hook(begin_controllers),
        AddressMonitor(lambda: (manager.trigger("node-addresses"), manager.trigger("node-routes"))),
        node,
        links,
        Hook(events.start),
        shielded,
        exporter,
        server,
        # Streams of events have no end of their own: the server would wait for them.
        Hook(lambda: server.serving(ready=True), events.stop),
    )


def _templates(loader: LoaderSettings, state: StateDir, source: str = SOURCE) -> Templates:
    prebuilt = loader.objects_dir if loader.objects_dir != Path() else None
    return Templates(state.templates, loader.bpf_dir, prebuilt=prebuilt, clang=loader.clang, source=source)


def main() -> int:
    """Run the service; return its exit code."""
    return lifecycle.main("loader", build)
