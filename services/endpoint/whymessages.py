"""Between why.proto's messages and this service's values. What the plugin says about time is never refused, only left
out (`timeline.py`): no pod fails for a stopwatch.
"""

from collections.abc import Sequence

from podlane.endpoint.v1 import why_pb2 as pb

from services.common import wire
from services.common.model import Phase
from services.endpoint.model import Endpoint
from services.endpoint.stuck import Stuck
from services.endpoint.timeline import Before, Timeline
from services.endpoint.usual import Usual


def read_addition(message: pb.Addition) -> Before:
    """Return how an ADD went before this service was asked."""
    began, first = message.began_us, message.addresses_at_us or message.link_at_us
    steps = (
        ("start", 0, message.started_us),
        ("configuration", message.started_us, first - message.started_us),
        ("addresses", message.addresses_at_us, message.addresses_us),
        ("link", message.link_at_us, message.link_us),
    )
    return Before(
        began,
        tuple(Phase(name, took, began + at) for name, at, took in steps if at or took) if began else (),
        wire.read_phases(message.ipam),
        wire.read_phases(message.link),
        message.traceparent,
    )


def write_timeline(timeline: Timeline) -> pb.Timeline:
    """Return the message of a creation's times."""
    return pb.Timeline(
        began=wire.write_time(timeline.began),
        total_us=timeline.total_us,
        phases=[
            pb.TimelinePhase(name=one.name, offset_us=one.offset_us, duration_us=one.duration_us)
            for one in timeline.spans
        ],
        request_id=timeline.request_id,
        trace_id=timeline.trace_id,
    )


def write_creation(endpoint: Endpoint) -> pb.Creation:
    """Return the message of an endpoint's creation; it has a timeline."""
    assert endpoint.timeline is not None  # noqa: S101 - the caller has chosen those that have
    spec = endpoint.spec
    return pb.Creation(
        id=endpoint.id,
        attachment=wire.write_attachment(spec.attachment),
        pod=wire.write_pod(spec.pod),
        timeline=write_timeline(endpoint.timeline),
    )


def write_usual(usual: Sequence[Usual]) -> list[pb.UsualPhase]:
    """Return the messages of what phases take."""
    return [pb.UsualPhase(name=one.name, count=one.count, median_us=one.median_us, p99_us=one.p99_us) for one in usual]


def write_stuck(stuck: Stuck) -> pb.Stuck:
    """Return the message of what an endpoint waits for."""
    spec = stuck.endpoint.spec
    return pb.Stuck(
        id=stuck.endpoint.id,
        attachment=wire.write_attachment(spec.attachment),
        pod=wire.write_pod(spec.pod),
        state=stuck.endpoint.state,
        controller=stuck.controller,
        waits_for=stuck.waits_for,
        since=wire.write_time(stuck.since) if stuck.since else None,
        last_error=stuck.last_error,
        failures=stuck.failures,
        next_attempt=wire.write_time(stuck.next_attempt) if stuck.next_attempt else None,
        unblock=stuck.unblock,
    )
