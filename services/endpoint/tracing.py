"""The spans of an ADD, from its timeline. Pure.

    CNI ADD                          podlane-shim         the plugin's process, until the endpoint is ready
    ├── start, configuration         podlane-shim
    ├── AllocateAddresses            podlane-shim         and its parts, podlane-ipam
    ├── CreateLink                   podlane-shim         and its parts, podlane-loader
    ├── handover                     podlane-shim
    └── CreateEndpoint               podlane-endpoint
        ├── node, identity, …        podlane-endpoint
        ├── datapath                 podlane-endpoint     and its parts, podlane-loader
        └── publish                  podlane-endpoint     after the end: it comes alone, later

Nobody carries a trace from process to process while a pod waits: who measured what is in the phases' table, and the ids
follow from the trace's, so that a part that comes later finds its parent. A creation whose plugin told nothing begins
with CreateEndpoint.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from services.endpoint.model import Endpoint
from services.endpoint.timeline import ENDPOINT, PHASES, SHIM, Timeline

ROOT, CREATE = "CNI ADD", "CreateEndpoint"
_CALLS = {"addresses": "AllocateAddresses", "link": "CreateLink"}


@dataclass(frozen=True, slots=True)
class TraceSpan:
    """One span: ids as numbers, `parent` 0: none; times in nanoseconds since the epoch; `error` empty: it succeeded.

    `call`: it is a call of another service.
    """

    service: str
    name: str
    trace: int
    id: int
    parent: int
    start: int
    end: int
    attributes: Mapping[str, str | int]
    call: bool = False
    error: str = ""


def spans(endpoint: Endpoint, timeline: Timeline, error: str = "") -> Iterator[TraceSpan]:
    """Yield the spans of a timeline, parents first; of one that has `publish` alone, that one."""
    trace = int(timeline.trace_id, 16)
    began = round(timeline.began * 1e9)
    ended = began + timeline.total_us * 1000
    ids = {name: _id(timeline.trace_id, name) for name in (ROOT, CREATE)}
    told = [one for one in timeline.spans if PHASES[one.name] == SHIM and "/" not in one.name]
    if [one.name for one in timeline.spans] != ["publish"]:
        parent = int(timeline.parent_id, 16) if timeline.parent_id else 0
        about = {**_attributes(endpoint), "podlane.request_id": timeline.request_id}
        if told:
            yield TraceSpan(SHIM, ROOT, trace, ids[ROOT], parent, began, ended, about, error=error)
            parent = ids[ROOT]
        begin = began + max((one.offset_us + one.duration_us for one in told), default=0) * 1000
        yield TraceSpan(ENDPOINT, CREATE, trace, ids[CREATE], parent, begin, ended, about, error=error)
    for number, span in enumerate(timeline.spans):
        # The same twice, when a load was repeated: the first one is whose parts follow.
        id_ = _id(timeline.trace_id, span.name if span.name not in ids else f"{span.name} {number}")
        ids.setdefault(span.name, id_)
        above = span.name.rpartition("/")[0] or (ROOT if span in told else CREATE)
        start = began + span.offset_us * 1000
        yield TraceSpan(
            PHASES[span.name],
            _CALLS.get(span.name, span.name.rpartition("/")[2]),
            trace,
            id_,
            ids.get(above, ids[CREATE]),
            start,
            start + span.duration_us * 1000,
            {"podlane.phase": span.name},
            call=span.name in _CALLS,
        )


def _id(trace_id: str, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{trace_id} {name}".encode()).digest()[:8])


def _attributes(endpoint: Endpoint) -> dict[str, str | int]:
    """Return whom it is about, by OpenTelemetry's own names where there are any."""
    spec = endpoint.spec
    return {
        "k8s.namespace.name": spec.pod.namespace,
        "k8s.pod.name": spec.pod.name,
        "k8s.pod.uid": spec.pod.uid,
        "container.id": spec.attachment.container_id,
        "cni.network": spec.attachment.network,
        "cni.ifname": spec.attachment.ifname,
        "podlane.endpoint": endpoint.id,
        "podlane.identity": endpoint.identity,
    }
