"""Exports the traces of ADDs to an OpenTelemetry collector, by OTLP over gRPC, when one is set.

    creation ends ─▶ queue (bounded; full: dropped and counted) ─▶ a thread: spans by the official SDK ─▶ the collector

All of it happens after the fact, beside the loop, so that no pod waits for it, and a collector that is away or slow
costs nothing but what is dropped. The thread and all of opentelemetry are there only when `[telemetry] otlp_endpoint`
is set: the SDK is 8 MiB. What it knows about TLS, headers and samplers comes from its own environment variables
(OTEL_EXPORTER_OTLP_HEADERS and the like), as with every other program.

The spans of four services come out of this one process, each under its own `service.name`: it is the one that knows.
"""

import asyncio
import queue
import threading
from collections.abc import Iterable
from typing import Any

from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from services.common import telemetry
from services.common.config import TelemetrySettings
from services.common.errors import InvalidArgument
from services.endpoint import tracing
from services.endpoint.model import Endpoint
from services.endpoint.timeline import ENDPOINT, IPAM, LOADER, SHIM, Timeline

_log = telemetry.logger("otlp")

LONGEST = 256
"""Traces that may wait."""
_BATCH = 32
_STOP_SECONDS = 1.0
# For how long one batch is tried.
_EXPORT_SECONDS = 5
_Item = tuple[Endpoint, Timeline, str]


def exporter(settings: TelemetrySettings, node: str) -> "Exporter | None":
    """Return what exports, None when nothing is to be exported. Raises InvalidArgument when it can't be."""
    endpoint = settings.otlp_endpoint
    if not endpoint:
        return None
    if not endpoint.startswith(("http://", "https://")):
        raise InvalidArgument(
            f"[telemetry] otlp_endpoint: {endpoint!r} must begin with http:// or https://, like http://127.0.0.1:4317",
            key="otlp_endpoint",
        )
    try:
        return Exporter(_Sdk(endpoint, node))
    except ImportError as error:
        raise InvalidArgument(
            f"[telemetry] otlp_endpoint is set, but {error.name} isn't installed: pip install 'podlane[otel]'",
            key="otlp_endpoint",
        ) from None


class Exporter:
    """A component: `start` begins the thread, `stop` gives what waits a second."""

    def __init__(self, sdk: "_Sdk", longest: int = LONGEST) -> None:
        """Wire."""
        self._sdk = sdk
        self._waiting: queue.Queue[_Item | None] = queue.Queue(longest)
        self._thread = threading.Thread(target=self._run, name="otlp", daemon=True)
        self.exported = self.failed = self.dropped = 0

    def trace(self, endpoint: Endpoint, timeline: Timeline, error: str) -> None:
        """Have a creation exported; never waits."""
        try:
            self._waiting.put_nowait((endpoint, timeline, error))
        except queue.Full:
            self.dropped += 1

    async def start(self) -> None:
        """Begin the thread."""
        self._thread.start()

    async def stop(self) -> None:
        """Export what waits, as far as that is quick."""
        await asyncio.to_thread(self._end)

    def _end(self) -> None:
        try:
            self._waiting.put(None, timeout=_STOP_SECONDS)
        except queue.Full:
            _log.warning("traces are lost: the collector is slow", traces=self._waiting.qsize())
        self._thread.join(_STOP_SECONDS)
        self._sdk.shutdown()  # what is being tried fails
        self._thread.join(_STOP_SECONDS)

    def _run(self) -> None:
        well = True
        while batch := self._batch():
            if self._sdk.export(batch):
                self.exported += len(batch)
                well = True
            else:
                self.failed += len(batch)
                if well:  # once, not for each
                    _log.warning("traces can't be exported", traces=len(batch))
                well = False

    def _batch(self) -> list[_Item]:
        """Wait for what is to be exported and return it; nothing: it is over."""
        item = self._waiting.get()
        batch: list[_Item] = []
        while item is not None and len(batch) < _BATCH:
            batch.append(item)
            try:
                item = self._waiting.get_nowait() if len(batch) < _BATCH else None
            except queue.Empty:
                return batch
            if item is None and len(batch) < _BATCH:
                self._waiting.put(None)  # the end, for the next time
        return batch


class Traces(Collector):
    """podlane_telemetry_traces_total{outcome}: exported, failed, or dropped because too many waited."""

    def __init__(self, exporter_: Exporter) -> None:
        """Look at `exporter_`."""
        self._exporter = exporter_

    def collect(self) -> Iterable[Metric]:
        """Return the family."""
        family = CounterMetricFamily("podlane_telemetry_traces", "Traces of ADDs, by outcome.", labels=["outcome"])
        for outcome in ("exported", "failed", "dropped"):
            family.add_metric([outcome], getattr(self._exporter, outcome))
        yield family


class _Sdk:
    """The official SDK: a provider for each service, ids that are given, and one exporter. Used by one thread."""

    def __init__(self, endpoint: str, node: str) -> None:
        """Import it. Raises ImportError."""
        import logging

        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
        from opentelemetry.sdk.trace.export import SpanExportResult
        from opentelemetry.sdk.trace.id_generator import IdGenerator

        class Given(IdGenerator):
            span = trace_id = 0

            def generate_span_id(self) -> int:
                return self.span

            def generate_trace_id(self) -> int:
                return self.trace_id

        class Kept(SpanProcessor):
            def __init__(self, ended: list[Any]) -> None:
                self._ended = ended

            def on_end(self, span: Any) -> None:
                self._ended.append(span)

        # It tells its failures by lines of its own; ours say it once.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        self._api, self._ids, self._ended = trace, Given(), list[Any]()
        self._exporter, self._success = (
            OTLPSpanExporter(endpoint=endpoint, timeout=_EXPORT_SECONDS),
            SpanExportResult.SUCCESS,
        )
        self._tracers = {}
        for service in (SHIM, IPAM, LOADER, ENDPOINT):
            resource = Resource.create({"service.name": service, "host.name": node})
            provider = TracerProvider(resource=resource, id_generator=self._ids, shutdown_on_exit=False)
            provider.add_span_processor(Kept(self._ended))
            self._tracers[service] = provider.get_tracer("podlane")

    def export(self, batch: Iterable[_Item]) -> bool:
        """Export the traces of creations; return whether the collector has taken them."""
        for endpoint, timeline, error in batch:
            for span in tracing.spans(endpoint, timeline, error):
                self._make(span)
        made = tuple(self._ended)
        self._ended.clear()
        return self._exporter.export(made) is self._success

    def shutdown(self) -> None:
        """Give up what is under way."""
        self._exporter.shutdown()

    def _make(self, span: tracing.TraceSpan) -> None:
        api = self._api
        self._ids.trace_id, self._ids.span = span.trace, span.id
        above = None
        if span.parent:
            flags = api.TraceFlags(api.TraceFlags.SAMPLED)
            parent = api.SpanContext(span.trace, span.parent, is_remote=True, trace_flags=flags)
            above = api.set_span_in_context(api.NonRecordingSpan(parent))
        kind = api.SpanKind.CLIENT if span.call else api.SpanKind.INTERNAL
        made = self._tracers[span.service].start_span(
            span.name, above, kind, attributes=dict(span.attributes), start_time=span.start
        )
        if span.error:
            made.set_status(api.Status(api.StatusCode.ERROR, span.error))
        made.end(span.end)
