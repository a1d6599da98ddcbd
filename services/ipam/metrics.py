"""What ipam counts beyond what every process does.

podlane_ipam_addresses{pool,family,range,state}    how full each range is; the states add up to its size
podlane_ipam_early_reuses_total             addresses given out before their cool-down had passed: the pool is small
podlane_ipam_claims{pool,state}             this node's claims of a cluster pool, by state
podlane_ipam_claims_free{pool,family}       addresses that are free in them; below the pool's `spare` more is claimed
"""

from collections.abc import Iterable

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.ipam.allocator import Allocator
from services.ipam.clusterpool import ClusterPools
from services.ipam.model import FAMILIES


class Pools(Collector):
    """Looks at the pools when it is asked."""

    def __init__(self, allocator: Allocator, claims: ClusterPools | None = None) -> None:
        """Look through `allocator` and `claims`; None: no pool is a cluster's."""
        self._allocator = allocator
        self._claims = claims

    def collect(self) -> Iterable[Metric]:
        """Return the families."""
        addresses = GaugeMetricFamily(
            "podlane_ipam_addresses",
            "Addresses by what they are to their range.",
            labels=["pool", "family", "range", "state"],
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
                    addresses.add_metric([pool.name, FAMILIES[part.prefix.version], str(part.prefix), state], count)
        yield addresses
        yield CounterMetricFamily(
            "podlane_ipam_early_reuses",
            "Addresses given out before their cool-down had passed.",
            self._allocator.early_reuses,
        )
        if self._claims is not None:
            yield from _claims(self._claims)


def _claims(pools: ClusterPools) -> Iterable[Metric]:
    counts = GaugeMetricFamily("podlane_ipam_claims", "This node's claims of a cluster pool.", labels=["pool", "state"])
    for (pool, state), count in sorted(pools.counts().items()):
        counts.add_metric([pool, state], count)
    yield counts
    free = GaugeMetricFamily(
        "podlane_ipam_claims_free", "Addresses that are free in this node's claims.", labels=["pool", "family"]
    )
    for (pool, family), count in pools.free().items():
        free.add_metric([pool, FAMILIES[family]], count)
    yield free
