"""What the loader counts beyond what every process does.

podlane_loader_templates{origin}    compiled shapes in use: made by this process, or found made
"""

from collections.abc import Iterable

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.loader.template import Templates


class TemplateCounts(Collector):
    """Looks at the templates when it is asked."""

    def __init__(self, templates: Templates) -> None:
        """Look at `templates`."""
        self._templates = templates

    def collect(self) -> Iterable[Metric]:
        """Return the family."""
        family = GaugeMetricFamily("podlane_loader_templates", "Compiled shapes in use.", labels=["origin"])
        made = self._templates.list()
        compiled = sum(template.compile_us > 0 for template in made)
        family.add_metric(["compiled"], compiled)
        family.add_metric(["found"], len(made) - compiled)
        yield family
