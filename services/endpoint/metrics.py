"""What the endpoint service counts beyond what every process does.

podlane_endpoint_state{state}    endpoints by state; every state is there
"""

from collections import Counter
from collections.abc import Iterable

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.endpoint.manager import Manager
from services.endpoint.model import EndpointState


class States(Collector):
    """Looks at the endpoints when it is asked."""

    def __init__(self, manager: Manager) -> None:
        """Look at the endpoints of `manager`."""
        self._manager = manager

    def collect(self) -> Iterable[Metric]:
        """Return the family."""
        counts = Counter(managed.endpoint.state for managed in self._manager)
        family = GaugeMetricFamily("podlane_endpoint_state", "Endpoints by state.", labels=["state"])
        for state in EndpointState:
            family.add_metric([state], counts[state])
        yield family
