"""How much policy there is, and how fast a change of it is in force.

podlane_policy_documents{kind}                  from files, the kvstore and by hand
podlane_identity{type}                          labels; provisional: labels that the cluster hasn't numbered yet; cidr:
                                                prefixes of ipBlocks
podlane_policy_changes_total{outcome}           failure: refused, nothing has changed, or not everywhere yet
podlane_policy_implementation_delay_seconds     for all endpoints that it concerns
"""

from collections import Counter as Tally
from collections.abc import Iterable

from prometheus_client.metrics import Counter, Histogram
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from services.endpoint.policies import Policies
from services.endpoint.policy.document import DocumentKind
from services.endpoint.policy.identity import LOCAL_SCOPE

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class PolicyCounts(Collector):
    """Looks at documents and identities when it is asked."""

    def __init__(self, policies: Policies, changes: "PolicyChanges") -> None:
        """Look at `policies`, and have `changes` told of theirs."""
        self._policies = policies
        policies.changes.observe = changes.ended

    def collect(self) -> Iterable[Metric]:
        """Return the families."""
        kinds = Tally(stored.name.kind for stored in self._policies.repository)
        documents = GaugeMetricFamily("podlane_policy_documents", "Documents in force.", labels=["kind"])
        for kind in DocumentKind:
            documents.add_metric([kind.name.lower().replace("_", "")], kinds[kind])
        yield documents
        known = self._policies.backend.known()
        provisional = sum(number >= LOCAL_SCOPE for number in known)
        cidrs = len(self._policies.resolver.prefixes()) if self._policies.begun else 0
        identities = GaugeMetricFamily("podlane_identity", "Identities by what they are of.", labels=["type"])
        identities.add_metric(["labels"], len(known) - provisional)
        identities.add_metric(["provisional"], provisional)
        identities.add_metric(["cidr"], cidrs)
        yield identities


class PolicyChanges:
    """Counts changes of documents and labels."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Start at zero, with every series there."""
        self._total = Counter(
            "podlane_policy_changes", "Changes of documents or labels that ended.", ("outcome",), registry=registry
        )
        self._seconds = Histogram(
            "podlane_policy_implementation_delay_seconds",
            "Time from a change of policy until the kernel enforces it.",
            buckets=_SECONDS,
            registry=registry,
        )
        for outcome in ("success", "failure"):
            self._total.labels(outcome)

    def ended(self, succeeded: bool, seconds: float) -> None:
        """Count one; only what came into force has a delay."""
        self._total.labels("success" if succeeded else "failure").inc()
        if succeeded:
            self._seconds.observe(seconds)
