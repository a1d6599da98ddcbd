"""What the kernel's maps tell: drops, and how full maps are.

podlane_drop_count_total{reason,direction}   summed over endpoints, those that are gone, too
podlane_drop_bytes_total{reason,direction}   likewise
podlane_bpf_map_entries{map_name}            of podlane_policy those of the fullest endpoint's map; of podlane_conntrack
                                             what its last sweep has left, up to a minute ago
podlane_bpf_map_capacity{map_name}           it is fixed when the map is made
podlane_bpf_map_pressure{map_name}           entries divided by capacity

The kernel's counters go with their endpoints, and they are older than this process. So a drop counter here is what maps
count now, and what went with endpoints, less what there was at the start: it never falls, and begins at zero
(`eventmaps.Metrics.since_opened`).

A scrape reads the map of counters (entries of whoever has dropped something) and counts endpoints and prefixes, as long
as the loop does nothing else: 0.3 ms with 250 endpoints.
"""

from collections.abc import Iterable

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.loader import maps
from services.loader.datapath import Datapath
from services.loader.flowgc import FlowGc
from services.loader.headers import SIZES
from services.loader.model import Direction
from services.loader.policies import Policies
from services.loader.refusal import DropReason, reason_text


class Drops(Collector):
    """Looks at the map of drop counters when it is asked."""

    def __init__(self, datapath: Datapath) -> None:
        """Look at the maps of `datapath`, once they are open."""
        self._datapath = datapath

    def collect(self) -> Iterable[Metric]:
        """Return the families, with every reason that this loader knows."""
        counts = dict.fromkeys(((way, reason_text(reason)) for way in Direction for reason in DropReason), (0, 0))
        if self._datapath.is_open:
            counted = self._datapath.metrics.since_opened()
            counts.update(((one.direction, one.reason), (one.packets, one.bytes)) for one in counted)
        labels = ["reason", "direction"]
        packets = CounterMetricFamily("podlane_drop_count", "Packets that the datapath has dropped.", labels=labels)
        octets = CounterMetricFamily("podlane_drop_bytes", "Bytes of packets that were dropped.", labels=labels)
        for (direction, reason), (count, size) in counts.items():
            packets.add_metric([reason, direction.name.lower()], count)
            octets.add_metric([reason, direction.name.lower()], size)
        yield packets
        yield octets


class MapUse(Collector):
    """Looks at how full maps are when it is asked."""

    def __init__(self, datapath: Datapath, policies: Policies, flow_gc: FlowGc) -> None:
        """Look at the maps of `datapath`; the others know of those that would take too long."""
        self._datapath = datapath
        self._policies = policies
        self._flow_gc = flow_gc

    def collect(self) -> Iterable[Metric]:
        """Return the families."""
        labels = ["map_name"]
        entries = GaugeMetricFamily("podlane_bpf_map_entries", "Entries of a map.", labels=labels)
        capacity = GaugeMetricFamily("podlane_bpf_map_capacity", "Entries that a map has room for.", labels=labels)
        pressure = GaugeMetricFamily("podlane_bpf_map_pressure", "How full a map is; 1: full.", labels=labels)
        for name, count in self._entries().items():
            size = SIZES[maps.DEFINITIONS[name].size_define]
            entries.add_metric([name], count)
            capacity.add_metric([name], size)
            pressure.add_metric([name], count / size)
        yield from (entries, capacity, pressure)

    def _entries(self) -> dict[str, int]:
        datapath = self._datapath
        if not datapath.is_open:
            return {}
        counted = (datapath.endpoints, datapath.prefixes, datapath.ipcache)
        found = {one.name: one.count() for one in counted if one is not None}
        found[maps.POLICY] = self._policies.fullest()
        if self._flow_gc.left is not None:
            found[maps.CONNTRACK] = self._flow_gc.left
        return found
