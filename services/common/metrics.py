"""What every podlane process counts about itself, and how that reads to Prometheus.

    podlane_rpc_handled_total{method,code}             a stream counts when it ends
    podlane_rpc_duration_seconds{method}               waiting in the handler is in it; the way there and back isn't
    podlane_controllers_runs_total{group,outcome}      an update or the controller's removal cancels
    podlane_controllers_run_duration_seconds{group}    whatever their outcome
    podlane_controllers{group}                         `podlane controllers` lists them
    podlane_controllers_failing{group}                 each is tried again by itself
    podlane_controllers_hanging{group}                 they may still end well
    podlane_build_info{version}                        1: which version this is
    process_*                                          CPU, memory, file descriptors, start time

Here and in the other modules these lines go on where the text of the metric itself ends; docs/metrics.md has both.

What a service counts beyond this is in its own `metrics.py`: a collector that looks when it is asked is better than a
counter that work must remember. Labels have few values: a method, a group, a pool; never an endpoint's id.

Which service a series is of is told by Prometheus' own labels (job, instance): each serves its own (`exporter.py`).

prometheus_client is imported module by module: `lean.py` says why.
"""

import functools
from collections import Counter as Tally
from collections.abc import Callable, Iterable
from importlib import metadata

from prometheus_client.metrics import Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.utils import floatToGoString

from services.common.controller_status import Outcome, Result
from services.common.controllers import Registry

_RPC_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_RUN_SECONDS = (0.001, 0.01, 0.1, 1.0, 10.0, 60.0)


class Metrics:
    """The metrics of one process. Collectors of the service's own are registered with `registry`."""

    def __init__(self) -> None:
        """Start at zero."""
        # A series for when each series was made would be half of what is served.
        disable_created_metrics()  # type: ignore[no-untyped-call] # the library forgot to say that it takes nothing
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        build = Gauge("podlane_build_info", "1, with the version as a label.", ("version",), registry=self.registry)
        build.labels(metadata.version("podlane")).set(1)
        self._handled = _counter(
            self.registry, "podlane_rpc_handled", "Calls that were answered, by gRPC status code.", "method", "code"
        )
        self._rpc_seconds = _histogram(
            self.registry,
            "podlane_rpc_duration_seconds",
            "Time in the handler of a unary call.",
            _RPC_SECONDS,
            "method",
        )
        self._runs = _counter(
            self.registry, "podlane_controllers_runs", "Runs of controllers that ended.", "group", "outcome"
        )
        self._run_seconds = _histogram(
            self.registry,
            "podlane_controllers_run_duration_seconds",
            "Time of a controller's run.",
            _RUN_SECONDS,
            "group",
        )

    def rpc(self, method: str, code: str, seconds: float | None) -> None:
        """Count a call; `seconds` None: a stream, whose time says nothing. It costs every call a microsecond."""
        self._handled(method, code).inc()
        if seconds is not None:
            self._rpc_seconds(method).observe(seconds)

    def ran(self, group: str, outcome: Outcome) -> None:
        """Count a run of a controller."""
        for result in Result:
            # All at once, so that a rate over failures has a zero to begin with.
            self._runs(group, result).inc(result is outcome.result)
        self._run_seconds(group).observe(outcome.duration)

    def page(self) -> bytes:
        """Return all of it as Prometheus reads it."""
        return render(self.registry)

    def register(self, *collectors: Collector) -> None:
        """Show what these collect, too."""
        for collector in collectors:
            self.registry.register(collector)

    def watch(self, controllers: Registry) -> None:
        """Show how many controllers there are, and how many fail and hang."""
        self.registry.register(_Controllers(controllers))


class _Controllers(Collector):
    """Looks at the controllers when it is asked."""

    def __init__(self, controllers: Registry) -> None:
        self._controllers = controllers

    def collect(self) -> Iterable[Metric]:
        there, failing, hanging = Tally[str](), Tally[str](), Tally[str]()
        for controller in self._controllers:
            there[controller.group] += 1
            failing[controller.group] += controller.failing
            hanging[controller.group] += controller.hanging
        for name, text, counts in (
            ("podlane_controllers", "Controllers that there are.", there),
            ("podlane_controllers_failing", "Controllers that failed since they last succeeded.", failing),
            ("podlane_controllers_hanging", "Controllers in a run that is past its alarm.", hanging),
        ):
            family = GaugeMetricFamily(name, text, labels=["group"])
            for group, count in sorted(counts.items()):
                family.add_metric([group], count)
            yield family


def render(registry: Collector) -> bytes:
    """Return what a scrape is answered with: the same bytes as `prometheus_client.generate_latest`.

    That one lives beside the HTTP servers.
    """
    lines = []
    for family in registry.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        text = family.documentation.replace("\\", r"\\").replace("\n", r"\n")
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {family.type}"]
        for sample in family.samples:
            labels = ",".join(f'{key}="{_escape(value)}"' for key, value in sorted(sample.labels.items()))
            series = f"{sample.name}{{{labels}}}" if labels else sample.name
            value: str = floatToGoString(sample.value)  # type: ignore[no-untyped-call] # nor that this takes a number
            lines.append(f"{series} {value}")
    return "".join(f"{line}\n" for line in lines).encode()


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


# The library looks a series up in 0.6 us, under a lock; a cache does in 0.1.


def _counter(registry: CollectorRegistry, name: str, text: str, *labels: str) -> Callable[..., Counter]:
    return functools.cache(Counter(name, text, labels, registry=registry).labels)


def _histogram(
    registry: CollectorRegistry, name: str, text: str, buckets: tuple[float, ...], *labels: str
) -> Callable[..., Histogram]:
    return functools.cache(Histogram(name, text, labels, buckets=buckets, registry=registry).labels)
