"""Traces of ADDs as a collector gets them: a real OTLP server, and the service as it is without one."""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as collector
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as collector_grpc

from services.common import configfile
from services.common.config import TelemetrySettings
from services.common.errors import FailedPrecondition, InvalidArgument
from services.endpoint import otlp
from services.endpoint.timeline import Timeline
from tests.endpoint_support import PATIENCE, FakePod, Surroundings
from tests.unit.test_endpoint_timeline import RUNTIMES, endpoint, recorded


class Collector(collector_grpc.TraceServiceServicer):
    """Keeps what it gets: (service, span)."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Any]] = []
        self.arrived = asyncio.Event()

    async def Export(self, request: Any, context: Any) -> Any:  # noqa: N802, ARG002 - the name that grpc calls
        for resource in request.resource_spans:
            names = {one.key: one.value.string_value for one in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans += [(names["service.name"], span) for span in scope.spans]
        self.arrived.set()
        return collector.ExportTraceServiceResponse()

    async def until(self, name: str) -> None:
        """Wait for a span of that name."""
        async with asyncio.timeout(PATIENCE):
            while name not in {span.name for _, span in self.spans}:
                self.arrived.clear()
                await self.arrived.wait()


@pytest.fixture
async def collecting() -> AsyncIterator[tuple[Collector, str]]:
    """A collector and its address."""
    server, servicer = grpc.aio.server(), Collector()
    collector_grpc.add_TraceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield servicer, f"http://127.0.0.1:{port}"
    await server.stop(None)


@contextlib.asynccontextmanager
async def around(endpoint_: str) -> AsyncIterator[Surroundings]:
    async with Surroundings() as surroundings:
        surroundings.file.write_text(f'{surroundings.file.read_text()}[telemetry]\notlp_endpoint = "{endpoint_}"\n')
        surroundings.reload()
        yield surroundings


def pod(surroundings: Surroundings, name: str) -> FakePod:
    from tests.integration.test_endpoint_why import told

    made = surroundings.pod(name)
    made.request.addition.CopyFrom(told())
    return made


async def test_a_collector_gets_the_tree_of_an_add_with_the_services_that_took_part(
    collecting: tuple[Collector, str],
) -> None:
    """Its runtime's trace goes on in it; what is published comes later, into the same."""
    servicer, address = collecting
    async with around(address) as surroundings, surroundings.service() as client:
        web = pod(surroundings, "web")
        web.request.addition.traceparent = RUNTIMES
        await client.create(web)
        await servicer.until("publish")
        timeline = (await client.get(web)).timeline

    found = {span.name: (service, span) for service, span in servicer.spans}
    assert {name: found[name][0] for name in ("CNI ADD", "CreateLink", "netns", "CreateEndpoint", "publish")} == {
        "CNI ADD": "podlane-shim",
        "CreateLink": "podlane-shim",
        "netns": "podlane-loader",
        "CreateEndpoint": "podlane-endpoint",
        "publish": "podlane-endpoint",
    }
    root = found["CNI ADD"][1]
    assert (root.trace_id.hex(), root.parent_span_id.hex()) == tuple(RUNTIMES.split("-")[1:3])
    assert {span.trace_id for _, span in servicer.spans} == {bytes.fromhex(timeline.trace_id)}
    above = {"CreateLink": "CNI ADD", "netns": "CreateLink", "CreateEndpoint": "CNI ADD", "publish": "CreateEndpoint"}
    for name, parent in above.items():
        assert found[name][1].parent_span_id == found[parent][1].span_id, name
    assert root.end_time_unix_nano - root.start_time_unix_nano == timeline.total_us * 1000
    attributes = {one.key: one.value for one in root.attributes}
    assert attributes["k8s.pod.name"].string_value == "web"


async def test_a_creation_that_fails_is_traced_with_its_error(collecting: tuple[Collector, str]) -> None:
    """There is no endpoint to keep it with."""
    servicer, address = collecting
    async with around(address) as surroundings, surroundings.service() as client:
        surroundings.loader.script.fail("RegenerateEndpoint", FailedPrecondition("the verifier refuses"))
        with pytest.raises(FailedPrecondition):
            await client.create(pod(surroundings, "web"))
        await servicer.until("CNI ADD")

    root = next(span for _, span in servicer.spans if span.name == "CNI ADD")
    assert (root.status.code, root.status.message) == (2, "the verifier refuses")


async def test_a_collector_that_is_away_keeps_nobody_and_what_is_lost_is_counted() -> None:
    """Nobody listens on port 1."""
    async with around("http://127.0.0.1:1") as surroundings, surroundings.service() as client:
        for name in ("one", "two"):
            await client.create(pod(surroundings, name))
        exporter = surroundings.component(otlp.Exporter)
    assert exporter.exported == 0
    assert exporter.failed >= 2


async def test_more_traces_than_may_wait_are_dropped_and_counted() -> None:
    """Without a pod noticing."""

    class Stuck:
        def __init__(self) -> None:
            self.sizes: list[int] = []

        def export(self, batch: Any) -> bool:
            self.sizes.append(len(list(batch)))
            return True

        def shutdown(self) -> None:
            pass

    sdk: Any = Stuck()
    exporter, timeline = otlp.Exporter(sdk, longest=3), recorded()
    for _ in range(5):
        exporter.trace(endpoint(), timeline, "")
    assert exporter.dropped == 2
    await exporter.start()
    await exporter.stop()
    assert (exporter.exported, exporter.failed, sum(sdk.sizes)) == (3, 0, 3)
    (family,) = otlp.Traces(exporter).collect()
    assert {sample.labels["outcome"]: sample.value for sample in family.samples} == {
        "exported": 3,
        "failed": 0,
        "dropped": 2,
    }


def test_without_a_collector_nothing_of_opentelemetry_is_imported_and_no_thread_begun(tmp_path: Path) -> None:
    """In a process of its own, with everything that the service imports."""
    (tmp_path / "podlane.toml").write_text(f'[node]\nrun_dir = "{tmp_path}/run"\nlib_dir = "{tmp_path}/lib"\n')
    program = (
        "import sys, asyncio\n"
        "from pathlib import Path\n"
        "from services.common import configfile, lean\n"
        "lean.shed()\n"
        "from services.endpoint import main, otlp\n"
        "async def build(environment):\n"
        "    return main.build(configfile.load(Path(sys.argv[1]), environment))\n"
        "def there(): return sorted(name for name in sys.modules if name.startswith('opentelemetry'))\n"
        "parts = asyncio.run(build({}))\n"
        "assert not any(isinstance(part, otlp.Exporter) for part in parts)\n"
        "assert not there(), there()\n"
        "parts = asyncio.run(build({'OTEL_EXPORTER_OTLP_ENDPOINT': 'http://127.0.0.1:1'}))\n"
        "assert any(isinstance(part, otlp.Exporter) for part in parts)\n"
        "assert there()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "podlane.toml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_setting_wins_over_opentelemetrys_own_variables_and_must_be_an_address(tmp_path: Path) -> None:
    """As people have them set for everything else on the node."""
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://all:4317",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://t:4317",
    }
    assert configfile.load(None, {}).telemetry.otlp_endpoint == ""
    assert configfile.load(None, variables).telemetry.otlp_endpoint == "http://t:4317"
    (tmp_path / "podlane.toml").write_text('[telemetry]\notlp_endpoint = "http://ours:4317"\n')
    assert configfile.load(tmp_path / "podlane.toml", variables).telemetry.otlp_endpoint == "http://ours:4317"
    assert otlp.exporter(TelemetrySettings(), "n1") is None
    with pytest.raises(InvalidArgument, match=r"otlp_endpoint: 'collector:4317' must begin with http://"):
        otlp.exporter(TelemetrySettings("collector:4317"), "n1")


def test_what_is_missing_is_named_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an extra."""
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", None)
    with pytest.raises(InvalidArgument, match=r"pip install 'podlane\[otel\]'"):
        otlp.exporter(TelemetrySettings("http://127.0.0.1:4317"), "n1")


def test_a_timeline_without_parts_is_a_trace_of_one_span() -> None:
    """Of an older plugin and loader."""
    from services.endpoint import tracing

    (span,) = tracing.spans(endpoint(), Timeline(1000.0, 5, (), "", "ab" * 16))
    assert span.name == "CreateEndpoint"
