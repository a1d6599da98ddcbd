"""What the loader counts beyond what every process does, but for what is in maps (`mapmetrics.py`).

podlane_loader_endpoints                                 or are about to have one
podlane_loader_templates{origin}                         compiled by this process, or found made
podlane_loader_compiles_total{outcome}                   a new shape costs one, unless it is prebuilt
podlane_loader_compile_seconds_total                     failed ones count, too
podlane_loader_spares                                    programs that were verified for endpoints to come
podlane_loader_first_builds_total{programs}              spare: they were there; verified: they had to be
podlane_loader_regenerations_total{level,outcome}        of a failure the level is the one that was asked for
podlane_loader_regeneration_duration_seconds{level}      compiling is in it
podlane_loader_event_listeners                           nothing is sent, and nothing can be lost, while it is 0
podlane_loader_events_lost_total{why}                    credit: programs had more to tell than they may; slow_reader:
                                                         who watches was too slow
"""

from collections.abc import Iterable, Sequence

from prometheus_client.metrics import Counter, Histogram
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from services.loader.events import Events
from services.loader.model import Level
from services.loader.spares import Spares
from services.loader.statedir import StateDir
from services.loader.template import Templates

_SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)


class Datapaths(Collector):
    """Looks at the state directory when it is asked."""

    def __init__(self, state: StateDir) -> None:
        """Look at `state`."""
        self._state = state

    def collect(self) -> Iterable[Metric]:
        """Return the family."""
        yield GaugeMetricFamily("podlane_loader_endpoints", "Endpoints with a datapath.", len(self._state.ids()))


class TemplateCounts(Collector):
    """Looks at the templates when it is asked."""

    def __init__(self, each: Sequence[Templates]) -> None:
        """Look at the templates of endpoints and of the overlay."""
        self._each = each

    def collect(self) -> Iterable[Metric]:
        """Return the families."""
        family = GaugeMetricFamily("podlane_loader_templates", "Compiled shapes in use.", labels=["origin"])
        made = [template for templates in self._each for template in templates.list()]
        compiled = sum(template.compile_us > 0 for template in made)
        family.add_metric(["compiled"], compiled)
        family.add_metric(["found"], len(made) - compiled)
        yield family
        tallies = [templates.tally for templates in self._each]
        runs = CounterMetricFamily("podlane_loader_compiles", "Runs of clang that ended.", labels=["outcome"])
        runs.add_metric(["success"], sum(tally.compiled for tally in tallies))
        runs.add_metric(["failure"], sum(tally.failed for tally in tallies))
        yield runs
        seconds = sum(tally.seconds for tally in tallies)
        yield CounterMetricFamily("podlane_loader_compile_seconds", "Time of clang's runs.", value=seconds)


class SpareCounts(Collector):
    """Looks at the spares when it is asked."""

    def __init__(self, spares: Spares) -> None:
        """Look at `spares`."""
        self._spares = spares

    def collect(self) -> Iterable[Metric]:
        """Return the families."""
        text = "Programs that were verified for endpoints to come."
        yield GaugeMetricFamily("podlane_loader_spares", text, len(self._spares))
        builds = CounterMetricFamily(
            "podlane_loader_first_builds", "First builds, by where their programs came from.", labels=["programs"]
        )
        builds.add_metric(["spare"], self._spares.tally.taken)
        builds.add_metric(["verified"], self._spares.tally.missed)
        yield builds


class Regenerations:
    """Counts regenerations; 2 µs for each."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Start at zero, with every series there."""
        self._total = Counter(
            "podlane_loader_regenerations",
            "Regenerations of an endpoint's datapath that ended.",
            ("level", "outcome"),
            registry=registry,
        )
        self._seconds = Histogram(
            "podlane_loader_regeneration_duration_seconds",
            "Time of a regeneration, from its turn on.",
            ("level",),
            buckets=_SECONDS,
            registry=registry,
        )
        for level in Level:
            self._seconds.labels(int(level))
            for outcome in ("success", "failure"):
                self._total.labels(int(level), outcome)

    def ended(self, level: Level, succeeded: bool, seconds: float) -> None:
        """Count one."""
        self._total.labels(int(level), "success" if succeeded else "failure").inc()
        self._seconds.labels(int(level)).observe(seconds)


class EventCounts(Collector):
    """Looks at the events' reader when it is asked."""

    def __init__(self, events: Events) -> None:
        """Look at `events`."""
        self._events = events

    def collect(self) -> Iterable[Metric]:
        """Return the families."""
        name, text = "podlane_loader_event_listeners", "Who watches events of the datapath."
        yield GaugeMetricFamily(name, text, self._events.listening)
        lost = CounterMetricFamily(
            "podlane_loader_events_lost", "Events that somebody wanted and did not get.", labels=["why"]
        )
        lost.add_metric(["credit"], sum(self._events.not_sent.values()))
        lost.add_metric(["slow_reader"], self._events.missed)
        yield lost
