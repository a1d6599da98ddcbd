"""How regenerations and comparisons fare, and how endpoints are.

podlane_endpoint_regenerations_total{outcome}       folded: triggers that cost none of their own; changes of policy
                                                    alone aren't here
podlane_endpoint_failing{part}                      by the part of their health that isn't (`podlane endpoint health`)
podlane_endpoint_queue_waiting                      of all endpoints together
podlane_endpoint_queue_longest                      at `queue_size` it refuses more
podlane_endpoint_restorations_total{action}         keep: it was as it should be
podlane_endpoint_restoration_duration_seconds       absent: there was none yet
podlane_endpoint_node_ready                         0: the loader or ipam isn't there
"""

from collections.abc import Iterable

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.endpoint.health import HealthStatus, health
from services.endpoint.manager import Manager
from services.endpoint.node import Readiness
from services.endpoint.restore import Restorer

_PARTS = ("bpf", "policy", "connected")
_WRONG = {HealthStatus.WARNING, HealthStatus.FAILURE}


class Builds(Collector):
    """Looks at endpoints and their queues when it is asked."""

    def __init__(self, manager: Manager) -> None:
        """Look at the endpoints of `manager`."""
        self._manager = manager

    def collect(self) -> Iterable[Metric]:
        """Return the families."""
        tally = self._manager.regenerator.tally
        ended = CounterMetricFamily("podlane_endpoint_regenerations", "Regenerations by outcome.", labels=["outcome"])
        for outcome, count in (("success", tally.succeeded), ("failure", tally.failed), ("folded", tally.folded)):
            ended.add_metric([outcome], count)
        yield ended
        each = [health(managed.endpoint) for managed in self._manager]
        failing = GaugeMetricFamily("podlane_endpoint_failing", "Endpoints that are not right.", labels=["part"])
        for part in _PARTS:
            failing.add_metric([part], sum(getattr(one, part) in _WRONG for one in each))
        yield failing
        depths = [len(managed.queue) for managed in self._manager]
        name, text = "podlane_endpoint_queue_waiting", "Events that wait in endpoints' queues."
        yield GaugeMetricFamily(name, text, sum(depths))
        name, text = "podlane_endpoint_queue_longest", "Events that wait in the longest queue of an endpoint."
        yield GaugeMetricFamily(name, text, max(depths, default=0))


class Restorations(Collector):
    """Looks at what has become of the comparisons when it is asked."""

    def __init__(self, restorer: Restorer, readiness: Readiness) -> None:
        """Look at these."""
        self._restorer = restorer
        self._readiness = readiness

    def collect(self) -> Iterable[Metric]:
        """Return the families."""
        name, text = "podlane_endpoint_restorations", "What comparisons with the kernel have decided about endpoints."
        decided = CounterMetricFamily(name, text, labels=["action"])
        for action, count in self._restorer.decided.items():
            decided.add_metric([action.name.lower()], count)
        yield decided
        name, text = "podlane_endpoint_restoration_duration_seconds", "Time of the last comparison with the kernel."
        took = GaugeMetricFamily(name, text)
        if self._restorer.seconds is not None:
            took.add_metric([], self._restorer.seconds)
        yield took
        yield GaugeMetricFamily(
            "podlane_endpoint_node_ready", "Whether the node takes endpoints.", float(self._readiness.ready)
        )
