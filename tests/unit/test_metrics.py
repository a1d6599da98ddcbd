"""Metrics: what is counted, and that it reads as Prometheus' own library reads and writes it."""

from collections.abc import AsyncIterator, Iterable

import prometheus_client
import pytest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from services.common.controller_parameters import Parameters
from services.common.controllers import Manager, Registry
from services.common.metrics import Metrics, render
from tests.controller_support import Clocks, Work, settle


class Odd(Collector):
    """Values and labels that need care."""

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily("podlane_odd", 'a back\\slash, a "quote"\nand a line', labels=["z", "a"])
        family.add_metric(['say "hi"', "back\\slash\nline"], float("inf"))
        family.add_metric(["", "ü"], -1e-9)
        yield family
        yield CounterMetricFamily("podlane_plain", "without labels", 12345678901234567890)


def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """Return what a scrape tells, by name and sorted label values, as the library's parser reads it."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.page().decode())
        for sample in family.samples
    }


@pytest.fixture
async def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    return Clocks(monkeypatch)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def controllers(metrics: Metrics) -> AsyncIterator[Registry]:
    registry = Registry(metrics.ran)
    metrics.watch(registry)
    yield registry
    await registry.stop()


def test_the_page_is_byte_for_byte_what_the_library_writes(metrics: Metrics):
    for code in ("OK", "NOT_FOUND"):
        metrics.rpc("AllocateAddresses", code, 0.003)
    metrics.rpc("WatchLinks", "CANCELLED", None)
    metrics.registry.register(Odd())
    # The library's process collector looks anew each time; two looks differ.
    process = next(iter(metrics.registry._collector_to_names))
    metrics.registry.unregister(process)

    assert render(metrics.registry) == prometheus_client.generate_latest(metrics.registry)


def test_no_two_families_share_a_name_and_all_are_documented(metrics: Metrics):
    metrics.rpc("AllocateAddresses", "OK", 0.003)
    families = list(text_string_to_metric_families(metrics.page().decode()))

    assert len({family.name for family in families}) == len(families)
    assert all(family.documentation and family.type != "unknown" for family in families)
    assert {family.name.partition("_")[0] for family in families} == {"podlane", "process"}


def test_calls_are_counted_by_method_and_code_and_their_time_by_method(metrics: Metrics):
    for seconds in (0.0004, 0.003, 0.003):
        metrics.rpc("AllocateAddresses", "OK", seconds)
    metrics.rpc("AllocateAddresses", "RESOURCE_EXHAUSTED", 20.0)

    found = samples(metrics)

    assert found["podlane_rpc_handled_total", "OK", "AllocateAddresses"] == 3
    assert found["podlane_rpc_handled_total", "RESOURCE_EXHAUSTED", "AllocateAddresses"] == 1
    buckets = {le: found["podlane_rpc_duration_seconds_bucket", le, "AllocateAddresses"] for le in ("0.0005", "0.005")}
    assert buckets == {"0.0005": 1, "0.005": 3}
    assert found["podlane_rpc_duration_seconds_count", "AllocateAddresses"] == 4
    assert found["podlane_rpc_duration_seconds_sum", "AllocateAddresses"] == pytest.approx(20.0064)


def test_a_stream_has_a_count_and_no_time(metrics: Metrics):
    metrics.rpc("WatchLinks", "CANCELLED", None)

    found = samples(metrics)

    assert found["podlane_rpc_handled_total", "CANCELLED", "WatchLinks"] == 1
    assert ("podlane_rpc_duration_seconds_count", "WatchLinks") not in found


async def test_runs_are_counted_by_group_and_outcome_whatever_resource_they_are_of(
    metrics: Metrics, clocks: Clocks, controllers: Registry
):
    for number in range(3):
        work = Work(fail=number, held=True)
        Manager(f"endpoint-{number}", controllers).update("sync", Parameters(work.run, retry=False))
        await settle()
        await clocks.advance(2)
        work.gate.set()
        await settle()

    found = samples(metrics)

    assert found["podlane_controllers_runs_total", "sync", "success"] == 1
    assert found["podlane_controllers_runs_total", "sync", "failure"] == 2
    assert found["podlane_controllers_runs_total", "sync", "cancelled"] == 0
    assert found["podlane_controllers_run_duration_seconds_sum", "sync"] == 6
    assert found["podlane_controllers_run_duration_seconds_bucket", "sync", "1.0"] == 0
    assert found["podlane_controllers_run_duration_seconds_bucket", "sync", "10.0"] == 3
    assert "endpoint-" not in metrics.page().decode()


async def test_what_a_removed_controller_counted_stays(metrics: Metrics, controllers: Registry):
    manager = Manager("endpoint-7", controllers)
    manager.update("sync", Parameters(Work().run))
    await settle()
    await manager.remove_all()

    found = samples(metrics)

    assert found["podlane_controllers_runs_total", "sync", "success"] == 1
    assert ("podlane_controllers", "sync") not in found


async def test_failing_and_hanging_controllers_are_shown_while_they_are(
    metrics: Metrics, clocks: Clocks, controllers: Registry
):
    held = Work(held=True)
    Manager("endpoint-7", controllers).update("sync", Parameters(Work(fail=1).run))
    Manager("endpoint-8", controllers).update("sync", Parameters(held.run, alarm=30))
    await clocks.advance(0.1)
    assert (
        samples(metrics)["podlane_controllers", "sync"],
        samples(metrics)["podlane_controllers_failing", "sync"],
    ) == (*(2, 1),)
    assert samples(metrics)["podlane_controllers_hanging", "sync"] == 0

    await clocks.advance(31)
    assert samples(metrics)["podlane_controllers_failing", "sync"] == 0
    assert samples(metrics)["podlane_controllers_hanging", "sync"] == 1
    held.gate.set()
    await settle()
    assert samples(metrics)["podlane_controllers_hanging", "sync"] == 0


def test_the_process_tells_of_itself(metrics: Metrics):
    found = samples(metrics)

    for name in ("cpu_seconds_total", "resident_memory_bytes", "open_fds", "start_time_seconds"):
        assert found[(f"process_{name}",)] > 0
