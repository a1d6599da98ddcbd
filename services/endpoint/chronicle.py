"""What becomes of the creations' times: they are kept with the endpoint, counted, compared with others, and exported.

    creation ends    its timeline is in the endpoint (`flow.py`) ─▶ histograms, what is usual (`usual.py`), a trace
    its publication  one phase more, later
    its failure      a trace alone: there is no endpoint to keep it with, and no usual failure

A pod waits for the answer meanwhile, so all that is done at once is to put it into lists: who asks for metrics or for
what is usual has them counted.
"""

import time
from collections.abc import Callable, Iterable, Mapping

from services.common.errors import PodlaneError
from services.common.model import Phase
from services.endpoint.managed import ManagedEndpoint
from services.endpoint.model import Endpoint
from services.endpoint.timeline import REGENERATION, Timeline
from services.endpoint.usual import TOTAL, Memory

Durations = Mapping[str, int]
"""Microseconds, by phase."""
Count = Callable[[Callable[[], Durations]], None]
"""Given what returns the durations of an operation, to be counted when that is wanted."""
Trace = Callable[[Endpoint, Timeline, str], None]
"""Told of a timeline, or a part of one, and of the error that ended it; empty: it succeeded."""


class Chronicle:
    """The one who is told of creations. `creations` and `regenerations` count; `trace` exports, None: nobody asked."""

    def __init__(self, creations: Count, regenerations: Count, trace: Trace | None = None) -> None:
        """Begin with nothing that is usual."""
        self.memory = Memory()
        self._creations, self._regenerations = creations, regenerations
        self._trace = trace

    def restored(self, endpoints: Iterable[Endpoint]) -> None:
        """Learn what is usual from endpoints that an earlier process has made."""
        for endpoint in sorted(endpoints, key=lambda one: one.created):
            if endpoint.timeline is not None:
                self.memory.learn(endpoint.timeline)

    def created(self, managed: ManagedEndpoint) -> None:
        """Take in the timeline of an endpoint that has just become ready."""
        timeline = managed.endpoint.timeline
        if timeline is None:
            return
        managed.unpublished_since = time.perf_counter_ns()
        self.memory.learn(timeline)
        self._creations(lambda: {TOTAL: timeline.total_us, **timeline.durations()})
        if self._trace is not None:
            self._trace(managed.endpoint, timeline, "")

    def published(self, managed: ManagedEndpoint) -> None:
        """Take in that an endpoint's record is in the kvstore: the first time after its creation counts."""
        since, managed.unpublished_since = managed.unpublished_since, 0
        timeline = managed.endpoint.timeline
        if not since or timeline is None:
            return
        duration_us = (time.perf_counter_ns() - since) // 1000
        managed.update(timeline=timeline.published(duration_us))
        self.memory.learn_phase("publish", duration_us)
        self._creations(lambda: {"publish": duration_us})
        if self._trace is not None:
            self._trace(managed.endpoint, timeline.only_published(duration_us), "")

    def failed(self, endpoint: Endpoint, timeline: Timeline, error: BaseException) -> None:
        """Take in a creation that failed."""
        if self._trace is not None:
            why = error.message if isinstance(error, PodlaneError) else type(error).__name__
            self._trace(endpoint, timeline, why)

    def regenerated(self, phases: Iterable[Phase]) -> None:
        """Take in the phases of a regeneration, be it part of a creation or not."""
        names = {**REGENERATION, "regenerate": TOTAL}
        self._regenerations(lambda: {names[one.name]: one.duration_us for one in phases if one.name in names})
