"""How one creation went: its phases, put together of what the plugin, ipam, the loader and this service measured. Pure.

    start ▸ configuration ▸ addresses ▸ link ▸ handover ▸ node ▸ identity ▸ turn ▸ record ▸ peers ▸ datapath ▸ agreement
    └────────────── the plugin ──────────────┘           └──────────────── this service ─────────────────────────────┘

Those follow each other, so together they are at most the total; what is missing of it is between them. Inside them are
the parts that ipam and the loader tell (`link/netns`), and beside them runs `confirm`. `publish` comes after the end:
nobody waits for it. What the plugin does once it has its answer, it can tell nobody; a pod waits for that, too.

All of them measure by one clock (`services/common/stopwatch.py`), so an offset is a difference. What a plugin says can
be anything: what it says is taken when it fits into the time before its call, and left out otherwise, whole.

Invariants: names are those of PHASES, which bounds what metrics and memory can come to; spans are sorted by offset.
"""

import hashlib
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from services.common.model import Phase
from services.common.stopwatch import Stopwatch

SHIM, IPAM, LOADER, ENDPOINT = "podlane-shim", "podlane-ipam", "podlane-loader", "podlane-endpoint"

_LINK = ("wait", "netns", "existing", "adopt", "record", "link", "pod", "done")
_DATAPATH = {
    "resolve": "resolve",
    "headers": "headers",
    "template": "template",
    "compile": "template/compile",
    "observe": "observe",
    "load": "load",
    "rewrite": "load/rewrite",
    "verify": "load/verify",
    "policy": "policy",
    "attach": "attach",
    "host": "host",
    "maps": "maps",
    "commit": "commit",
}
PHASES: Mapping[str, str] = {
    "start": SHIM,
    "configuration": SHIM,
    "addresses": SHIM,
    **{f"addresses/{name}": IPAM for name in ("lock", "choose", "store")},
    "link": SHIM,
    **{f"link/{name}": LOADER for name in _LINK},
    "handover": SHIM,
    "node": ENDPOINT,
    "identity": ENDPOINT,
    "turn": ENDPOINT,
    "record": ENDPOINT,
    "confirm": ENDPOINT,
    "peers": ENDPOINT,
    "datapath": ENDPOINT,
    **({f"datapath/{path}": LOADER for path in _DATAPATH.values()} | {"datapath/resolve": ENDPOINT}),
    "agreement": ENDPOINT,
    "publish": ENDPOINT,
}
"""Each phase and the process that measures it, in the order in which they come."""

REGENERATION = {f"regenerate:{name}": path for name, path in _DATAPATH.items()}
"""The parts of a regeneration, and where in a creation's `datapath` they are."""

BESIDE = frozenset({"confirm", "publish"})
"""What runs beside the others, or after them."""

_STEPS = ("start", "configuration", "addresses", "link")
_LONGEST = 3600 * 10**6
_MOST = 64
# https://www.w3.org/TR/trace-context/#traceparent-header
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}")


@dataclass(frozen=True, slots=True)
class Before:
    """How an ADD went before this service was asked, as it was told. `began_us` 0: it wasn't told."""

    began_us: int = 0
    steps: tuple[Phase, ...] = ()
    ipam: tuple[Phase, ...] = ()
    link: tuple[Phase, ...] = ()
    traceparent: str = ""

    def within(self, received_us: int) -> Self:
        """Return it, or nothing but its trace when what it says can't be: not all before `received_us`, or too much."""
        phases = (*self.steps, *self.ipam, *self.link)
        fits = len(phases) <= _MOST and received_us - _LONGEST <= self.began_us <= received_us
        if fits and all(
            self.began_us <= one.started_us <= one.started_us + one.duration_us <= received_us for one in phases
        ):
            return self
        return replace(self, began_us=0, steps=(), ipam=(), link=())

    def named(self) -> list[Phase]:
        """Return its phases by the names that they have here."""
        return [
            *(one for one in self.steps if one.name in _STEPS),
            *(replace(one, name=f"addresses/{one.name}") for one in self.ipam),
            *(replace(one, name=f"link/{one.name}") for one in self.link),
        ]


_NOTHING = Before()


@dataclass(frozen=True, slots=True)
class Span:
    """A phase in its place: when it began after the creation's beginning, and how long it took, in microseconds."""

    name: str
    offset_us: int
    duration_us: int


@dataclass(frozen=True, slots=True)
class Timeline:
    """One creation. `began` in epoch seconds; `parent_id` is the runtime's span, empty when it named none."""

    began: float
    total_us: int
    spans: tuple[Span, ...]
    request_id: str = ""
    trace_id: str = ""
    parent_id: str = ""

    def durations(self) -> dict[str, int]:
        """Return how long each phase took in all, in microseconds."""
        found: dict[str, int] = {}
        for span in self.spans:
            found[span.name] = found.get(span.name, 0) + span.duration_us
        return found

    def published(self, duration_us: int) -> Self:
        """Return it with `publish`, which began when the endpoint was ready."""
        return replace(self, spans=(*self.spans, Span("publish", self.total_us, duration_us)))

    def only_published(self, duration_us: int) -> Self:
        """Return `publish` alone, in its place."""
        return replace(self, spans=(Span("publish", self.total_us, duration_us),))

    def written(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "began": self.began,
            "total_us": self.total_us,
            "spans": [(span.name, span.offset_us, span.duration_us) for span in self.spans],
            "request_id": self.request_id,
            "trace_id": self.trace_id,
            "parent_id": self.parent_id,
        }

    @classmethod
    def read(cls, kept: Mapping[str, Any]) -> Self:
        """Return what `written` made. Raises KeyError, TypeError or ValueError."""
        spans = tuple(Span(*one) for one in kept["spans"])
        return cls(kept["began"], kept["total_us"], spans, kept["request_id"], kept["trace_id"], kept["parent_id"])


class Recorder(Stopwatch):
    """The stopwatch of one creation, from the moment that its call is received."""

    def __init__(
        self,
        before: Before = _NOTHING,
        *,
        request_id: str = "",
        about: str = "",
        clock: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        """Start the clock. `about` is whose creation it is: with what else tells it apart it makes the trace's id."""
        super().__init__()
        self._clock = clock
        self._received_us = clock() // 1000
        self.before = before.within(self._received_us)
        self.request_id, self._about = request_id, about

    def built(self, phases: Iterable[Phase]) -> None:
        """Take in the parts of the regeneration that was this creation's."""
        known = (one for one in phases if one.name in REGENERATION)
        self.phases += [replace(one, name=f"datapath/{REGENERATION[one.name]}") for one in known]

    def timeline(self, now: float) -> Timeline:
        """Return how it went until now, which is `now` in epoch seconds."""
        ended = self._clock() // 1000
        began = self.before.began_us or self._received_us
        phases = [*self.before.named(), *self._handover(), *self.phases]
        spans = [
            Span(one.name, one.started_us - began, one.duration_us)
            for one in phases
            if one.name in PHASES and one.started_us >= began
        ]
        # Of two that begin at once the longer one is around the other.
        spans.sort(key=lambda span: (span.offset_us, -span.duration_us))
        total = ended - began
        trace_id, parent_id = self._trace(began)
        return Timeline(now - total / 1e6, total, tuple(spans), self.request_id, trace_id, parent_id)

    def _handover(self) -> list[Phase]:
        """Return the time from the plugin's last step to the call: sending it, and getting this service's attention."""
        if not self.before.steps:
            return []
        since = max(one.started_us + one.duration_us for one in self.before.steps)
        return [Phase("handover", self._received_us - since, since)]

    def _trace(self, began: int) -> tuple[str, str]:
        given = _TRACEPARENT.fullmatch(self.before.traceparent)
        if given is not None:
            return given[1], given[2]
        return hashlib.sha256(f"{self.request_id} {self._about} {began}".encode()).hexdigest()[:32], ""
