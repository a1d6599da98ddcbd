"""What a service counts about its kvstore, where that is etcd.

podlane_kvstore_requests_total{verb,outcome}        ok, unavailable, refused or invalid; cancelled ones aren't there
podlane_kvstore_request_duration_seconds{verb}      from a request's turn to its answer, all attempts
podlane_kvstore_reachable                           1: the last request was answered
podlane_kvstore_waiting                             requests that wait for their turn or an answer
podlane_kvstore_lease_left_seconds                  until what this process has published may go; absent: no lease
podlane_kvstore_leases_lost_total                   leases that were lost
podlane_kvstore_event_age_seconds                   since the last event of any watch; absent: there was none
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from prometheus_client.metrics import Counter, Histogram
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


@dataclass(frozen=True, slots=True)
class Figures:
    """What is known of a store without asking it; as in StoreStatus."""

    reachable: bool
    waiting: int
    lease_left: float | None
    leases_lost: int
    event_age: float | None


class KvstoreMetrics:
    """The metrics of one store."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Start at zero."""
        self._registry = registry
        self._requests = Counter(
            "podlane_kvstore_requests", "Requests to the kvstore.", ("verb", "outcome"), registry=registry
        )
        self._seconds = Histogram(
            "podlane_kvstore_request_duration_seconds",
            "Time from a request's turn to its end.",
            ("verb",),
            buckets=_SECONDS,
            registry=registry,
        )

    def request(self, verb: str, outcome: str, seconds: float) -> None:
        """Count one."""
        self._requests.labels(verb, outcome).inc()
        self._seconds.labels(verb).observe(seconds)

    def watch(self, figures: Callable[[], Figures]) -> None:
        """Show these whenever somebody asks."""
        self._registry.register(_Store(figures))


class _Store(Collector):
    """Looks at the store when it is asked."""

    def __init__(self, figures: Callable[[], Figures]) -> None:
        self._figures = figures

    def collect(self) -> Iterable[Metric]:
        now = self._figures()
        yield CounterMetricFamily("podlane_kvstore_leases_lost", "Leases that were lost.", value=now.leases_lost)
        for name, text, value in (
            ("reachable", "Whether the last request was answered.", float(now.reachable)),
            ("waiting", "Requests that wait for their turn or an answer.", float(now.waiting)),
            ("lease_left_seconds", "Time until what was published may go.", now.lease_left),
            ("event_age_seconds", "Time since the last event of any watch.", now.event_age),
        ):
            family = GaugeMetricFamily(f"podlane_kvstore_{name}", text)
            if value is not None:
                family.add_metric([], value)
            yield family
