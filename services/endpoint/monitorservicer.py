"""MonitorService: messages in, messages out."""

from collections.abc import AsyncIterator, Callable
from typing import Any

from podlane.endpoint.v1 import monitor_pb2 as pb
from podlane.endpoint.v1 import monitor_pb2_grpc

from services.common import wire
from services.endpoint.monitor import messages
from services.endpoint.monitor.flowtable import Row, join, pairs
from services.endpoint.monitor.hub import Monitor
from services.endpoint.peers import Loader
from services.endpoint.registry import Registry

_COUNTERS = ("conntrack", "flow-accounting")

_ORDERS: dict[int, Callable[[Row], float]] = {
    pb.ListFlowsRequest.ORDER_UNSPECIFIED: lambda row: row.last,
    pb.ListFlowsRequest.ORDER_BYTES: lambda row: row.both.bytes,
    pb.ListFlowsRequest.ORDER_PACKETS: lambda row: row.both.packets,
    pb.ListFlowsRequest.ORDER_DROPS: lambda row: row.drops,
}


class MonitorServicer(monitor_pb2_grpc.MonitorServiceServicer):
    """The RPCs of monitor.proto."""

    def __init__(self, monitor: Monitor, loader: Loader, registry: Registry) -> None:
        """Serve what they know."""
        self._monitor = monitor
        self._loader = loader
        self._registry = registry

    async def WatchEvents(  # noqa: N802 - the name that grpc calls
        self, request: pb.WatchEventsRequest, context: Any
    ) -> AsyncIterator[pb.WatchEventsResponse]:
        """Stream what happens."""
        wanted = messages.read_filter(request.filter, "filter")
        if request.history_only:
            for event in self._monitor.last(request.last, wanted):
                yield event
            return
        async for event in self._monitor.watch(wanted, request.last, lambda: context.send_initial_metadata(())):
            yield event

    async def ListFlows(  # noqa: N802 - the name that grpc calls
        self, request: pb.ListFlowsRequest, _context: Any
    ) -> pb.ListFlowsResponse:
        """Show who talks to whom."""
        wanted = messages.read_filter(request.filter, "filter")
        since = wire.read_time(request.since) if request.HasField("since") else 0.0
        order = messages.read_order(request.order, _ORDERS)
        counts = await self._loader.flow_counts()
        drops = self._monitor.drops
        allowed = [messages.read_count(one, self._monitor.names) for one in counts.rows]
        silent = self._not_counting()
        joined = join([*allowed, *drops.rows()], silent)
        rows = [row for row in joined if row.last >= since and wanted.fits_traffic(row.facts)]
        rows.sort(key=order, reverse=True)
        shown = rows[: request.top] if request.top else rows
        return pb.ListFlowsResponse(
            flows=map(messages.write_flow, shown),
            pairs=map(messages.write_pair, pairs(shown)),
            total=len(rows),
            since=counts.since,
            drops_since=wire.write_time(drops.since),
            drops_not_told=drops.not_told,
            forgotten=counts.rows_forgotten + counts.rows_left_out + drops.forgotten,
            not_counting=silent,
        )

    def _not_counting(self) -> list[int]:
        endpoints = (managed.endpoint for managed in self._registry)
        return [one.id for one in endpoints if not all(one.options.get(name, True) for name in _COUNTERS)]
