"""The maps by which programs tell what happens to packets: counted, and sent one by one as far as that was granted.

    Metrics       drops, counted always and for everybody
    Packet        the packet under way, and how many events were not sent
    EventRing     the events that wait for a reader
    EventCredits  how many of them may still be sent

What is counted lasts as long as the map; nothing here reads the ring, or decides who is granted what (events.py).
"""

from collections.abc import Mapping

from services.loader import event, layout, libbpf
from services.loader.event import EventType
from services.loader.layout import Metric
from services.loader.libbpf import Fd
from services.loader.maps import EVENT_CREDITS, EVENTS, METRICS, ONLY, PACKET, BpfMap
from services.loader.model import Direction


class Metrics(BpfMap):
    """What was dropped, per endpoint, direction and reason."""

    name = METRICS

    def __init__(self, fd: Fd) -> None:
        """Own the descriptor."""
        super().__init__(fd)
        self._forgotten: list[Metric] = []
        self._before: Mapping[tuple[Direction, str], Metric] = {}
        self._before = {(one.direction, one.reason): one for one in self.since_opened()}

    def dump(self, endpoint_id: int = 0) -> list[Metric]:
        """Return the counters summed over CPUs; of one endpoint, or with 0 of all."""
        metrics = [layout.read_metric(key, values) for key, values in self._entries()]
        return [one for one in metrics if endpoint_id in {0, one.endpoint_id}]

    def forget(self, endpoint_id: int) -> None:
        """Remove an endpoint's counters, so that the id's next holder starts at zero."""
        mine = [(key, value) for key, value in self._entries() if layout.METRICS_KEY.unpack(key)[0] == endpoint_id]
        libbpf.map_delete_batch(self.fd, [key for key, _ in mine])
        self._forgotten = layout.sum_metrics((*self._forgotten, *(layout.read_metric(*entry) for entry in mine)))

    def since_opened(self) -> list[Metric]:
        """Return what was dropped since this map was opened, summed up by direction and reason, as of endpoint 0. With
        what endpoints have taken with them, so that these sums never fall.
        """
        sums = layout.sum_metrics((*self.dump(), *self._forgotten))
        return [layout.subtract_metric(one, self._before.get((one.direction, one.reason))) for one in sums]

    def _entries(self) -> list[tuple[bytes, bytes]]:
        size = layout.METRICS_VALUE.size * libbpf.possible_cpus()
        return libbpf.map_entries(self.fd, layout.METRICS_KEY.size, size)


class Packet(BpfMap):
    """What the programs know of the packet under way: held open so that all of them share one."""

    name = PACKET

    def not_sent(self) -> dict[EventType, int]:
        """Return how many events of each type were not sent since the map was made, whether or not anybody listened."""
        size = event.PACKET.size * libbpf.possible_cpus()
        return event.not_sent_by_type(libbpf.map_lookup(self.fd, ONLY, size) or b"")


class EventRing(BpfMap):
    """The ring that events wait in; libbpf_ring.py reads it."""

    name = EVENTS


class EventCredits(BpfMap):
    """How many events of each type each CPU may still send."""

    name = EVENT_CREDITS

    def grant(self, credits_: Mapping[EventType, int]) -> None:
        """Let each CPU send so many more of these types, and none of the others."""
        for type_ in EventType:
            value = event.CREDIT.pack(credits_.get(type_, 0)) * libbpf.possible_cpus()
            libbpf.map_update(self.fd, layout.SLOT.pack(type_), value)

    def granted(self) -> dict[EventType, list[int]]:
        """Return what each CPU has left, by type."""
        size = event.CREDIT.size * libbpf.possible_cpus()
        values = {type_: libbpf.map_lookup(self.fd, layout.SLOT.pack(type_), size) or b"" for type_ in EventType}
        return {type_: [credit for (credit,) in event.CREDIT.iter_unpack(value)] for type_, value in values.items()}
