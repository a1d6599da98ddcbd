"""What ipam counts beyond what every process does.

podlane_ipam_addresses{pool,range,state}    how full each range is; the states add up to its size
podlane_ipam_early_reuses_total             addresses given out before their cool-down had passed: the pool is small
"""

from collections.abc import Iterable

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.ipam.allocator import Allocator


class Pools(Collector):
    """Looks at the pools when it is asked."""

    def __init__(self, allocator: Allocator) -> None:
        """Look through `allocator`."""
        self._allocator = allocator

    def collect(self) -> Iterable[Metric]:
        """Return the families."""
        addresses = GaugeMetricFamily(
            "podlane_ipam_addresses", "Addresses by what they are to their range.", labels=["pool", "range", "state"]
        )
        for pool in self._allocator.status():
            for part in pool.ranges:
                free = part.size - part.used - part.cooling
                counts = {
                    "confirmed": part.used - part.reserved,
                    "reserved": part.reserved,
                    "cooling": part.cooling,
                    "free": free,
                }
                for state, count in counts.items():
                    addresses.add_metric([pool.name, str(part.prefix), state], count)
        yield addresses
        yield CounterMetricFamily(
            "podlane_ipam_early_reuses",
            "Addresses given out before their cool-down had passed.",
            self._allocator.early_reuses,
        )
