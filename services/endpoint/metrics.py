"""What the endpoint service counts beyond what every process does.

podlane_endpoint_state{state}                 endpoints by state; every state is there
podlane_endpoint_creations_waiting            endpoints that wait for their turn to be created
podlane_endpoint_creations_working            endpoints that are being created
podlane_endpoint_creation_wait_seconds        how many have had their turn, and what they have waited for it in all
podlane_endpoint_creation_cost_seconds        what a creation takes from its turn on, lately; absent: not known yet
podlane_endpoint_creation_phase_seconds{phase}      what each phase of a creation took (docs/why-slow.md); `total`: all
podlane_endpoint_regeneration_phase_seconds{phase}  the same of each regeneration
podlane_endpoint_unready_oldest_seconds       for how long one endpoint at most hasn't been ready; 0: all are
podlane_endpoint_creations_unmade_total{why}  refused: its turn would have come too late; withdrawn while it waited
podlane_deletion_journal_entries{state}       waiting: to be carried out; failing: of those, tried in vain; unreadable
podlane_deletion_journal_oldest_seconds       age of the oldest that waits; 0 when none does
podlane_deletion_journal_ended_total{how}     carried_out, or dropped: it was too old
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from prometheus_client.metrics import Histogram
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from services.endpoint.admission import Admission
from services.endpoint.deletions import Journal
from services.endpoint.manager import Manager
from services.endpoint.model import EndpointState

_PHASES_WAITING = 64
_PHASE_SECONDS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


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
        now = time.time()
        since = min((one.endpoint.unready_since or now for one in self._manager), default=now)
        name = "podlane_endpoint_unready_oldest_seconds"
        yield GaugeMetricFamily(name, "For how long the endpoint has not been ready that waits longest.", now - since)


class Phases(Collector):
    """A histogram of phases. Their names come from a table, so there are some forty series of eleven buckets at most.

    Operations are counted when somebody looks, or when many wait for that: a pod isn't to wait for forty counters.
    """

    def __init__(self, of: str, text: str) -> None:
        """Count phases of `of`: creation or regeneration."""
        name = f"podlane_endpoint_{of}_phase_seconds"
        self._histogram = Histogram(name, text, ("phase",), buckets=_PHASE_SECONDS, registry=None)
        self._waiting: list[Callable[[], Mapping[str, int]]] = []

    def take(self, durations: Callable[[], Mapping[str, int]]) -> None:
        """Count an operation later; `durations` returns microseconds by phase."""
        self._waiting.append(durations)
        if len(self._waiting) >= _PHASES_WAITING:
            self._settle()

    def collect(self) -> Iterable[Metric]:
        """Return the family."""
        self._settle()
        return self._histogram.collect()

    def _settle(self) -> None:
        waiting, self._waiting = self._waiting, []
        for durations in waiting:
            for phase, microseconds in durations().items():
                self._histogram.labels(phase).observe(microseconds / 1e6)


class Deletions(Collector):
    """Looks at the deletion journal when it is asked, as it was a second ago."""

    def __init__(self, journal: Journal) -> None:
        """Look at `journal`."""
        self._journal = journal

    def collect(self) -> Iterable[Metric]:
        """Return the families."""
        journal, waiting = self._journal, self._journal.waiting()
        name = "podlane_deletion_journal"
        entries = GaugeMetricFamily(f"{name}_entries", "Journalled deletions by state.", labels=["state"])
        entries.add_metric(["waiting"], len(waiting))
        entries.add_metric(["failing"], len(journal.failing()))
        entries.add_metric(["unreadable"], len(journal.unreadable()))
        yield entries
        oldest = waiting[0].age() if waiting else 0.0
        yield GaugeMetricFamily(f"{name}_oldest_seconds", "Age of the oldest journalled deletion.", value=oldest)
        ended = CounterMetricFamily(f"{name}_ended", "Journalled deletions that are over.", labels=["how"])
        ended.add_metric(["carried_out"], journal.carried_out)
        ended.add_metric(["dropped"], journal.dropped)
        yield ended


class Creations(Collector):
    """Looks at the line of those who wait to be created when it is asked."""

    def __init__(self, admission: Admission) -> None:
        """Look at the line of `admission`."""
        self._admission = admission

    def collect(self) -> Iterable[Metric]:
        """Return the families."""
        line, tally = self._admission.line, self._admission.tally
        name = "podlane_endpoint_creation"
        yield GaugeMetricFamily(f"{name}s_waiting", "Endpoints that wait for their turn to be created.", line.waiting)
        yield GaugeMetricFamily(f"{name}s_working", "Endpoints that are being created.", line.working)
        yield SummaryMetricFamily(
            f"{name}_wait_seconds", "Waiting for the turn to be created.", tally.admitted, tally.waited_seconds
        )
        cost = GaugeMetricFamily(f"{name}_cost_seconds", "What a creation takes from its turn on, lately.")
        if line.cost is not None:
            cost.add_metric([], line.cost)
        yield cost
        unmade = CounterMetricFamily(f"{name}s_unmade", "Endpoints that never had their turn.", labels=["why"])
        unmade.add_metric(["refused"], tally.refused)
        unmade.add_metric(["withdrawn"], tally.withdrawn)
        yield unmade
