"""Between this service's messages and its values. Reading checks all and names the field; writing never fails."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from podlane.common.v1 import types_pb2 as types
from podlane.endpoint.v1 import endpoint_pb2 as pb
from podlane.loader.v1 import loader_pb2

from services.common import wire
from services.common.errors import InvalidArgument
from services.common.model import Pod
from services.endpoint import whymessages
from services.endpoint.events import QueueStatus
from services.endpoint.health import Health, health
from services.endpoint.ids import LARGEST
from services.endpoint.line import Place
from services.endpoint.model import (
    Endpoint,
    EndpointSpec,
    EndpointState,
    Level,
    LogEntry,
    Publication,
    Regeneration,
)
from services.endpoint.operate import Result
from services.endpoint.options import OptionStatus
from services.endpoint.peer_messages import read_link, write_link, write_option
from services.endpoint.policy import syntax
from services.endpoint.policy.desired import EndpointPolicy
from services.endpoint.policy.entry import Direction
from services.endpoint.registry import Selector
from services.endpoint.watch import Change, Told

_STATES = {state: pb.EndpointState.Value(f"ENDPOINT_STATE_{state.name}") for state in EndpointState}
_CHANGES = {change: pb.WatchEndpointsResponse.Change.Value(f"CHANGE_{change.name}") for change in Change}
_LONGEST_POD = 253


def read_spec(request: pb.CreateEndpointRequest) -> EndpointSpec:
    """Return what is asked for."""
    attachment = wire.read_attachment(request.attachment, "attachment")
    link = read_link(request.link, "link")
    if link.attachment != attachment:
        raise InvalidArgument(
            f"link.attachment: this link is {link.attachment}'s, the endpoint is to be {attachment}'s",
            field="link.attachment",
        )
    return EndpointSpec(
        attachment=attachment,
        pod=_read_pod(request.pod, "pod"),
        link=link,
        addresses=wire.read_assigned_list(request.addresses, "addresses"),
        labels=_read_labels(request.labels),
    )


def _read_pod(message: types.Pod, field: str) -> Pod:
    for name in ("namespace", "name", "uid"):
        value = getattr(message, name)
        if len(value) > _LONGEST_POD:
            raise InvalidArgument(f"{field}.{name}: {len(value)} characters, {_LONGEST_POD} are allowed", field=field)
    return wire.read_pod(message)


def _read_labels(labels: Mapping[str, str]) -> dict[str, str]:
    for key, value in labels.items():
        if wrong := syntax.endpoint_label_key(key) or syntax.label_value(value):
            raise InvalidArgument(f"labels[{syntax.quoted(key)}]: {wrong}", field="labels")
    return dict(labels)


def read_options(settings: Iterable[pb.OptionSetting]) -> dict[str, bool]:
    """Return what the switches are set to."""
    return {one.name: one.enabled for one in settings}


def read_selector(message: pb.EndpointSelector) -> Selector:
    """Return which endpoint is meant."""
    kind = message.WhichOneof("selector")
    if kind == "id":
        if not 0 < message.id <= LARGEST:
            raise InvalidArgument(f"selector.id: {message.id} is not an endpoint id (1–{LARGEST})", field="selector.id")
        return Selector(id=message.id)
    if kind == "attachment":
        return Selector(attachment=wire.read_attachment(message.attachment, "selector.attachment"))
    if kind == "address":
        return Selector(address=wire.read_address(message.address, "selector.address"))
    if kind == "pod":
        if not message.pod.name:
            raise InvalidArgument("selector.pod.name: a value is needed", field="selector.pod.name")
        return Selector(pod=wire.read_pod(message.pod))
    raise InvalidArgument("selector: one of id, attachment, address and pod is needed", field="selector")


def write_endpoint(endpoint: Endpoint) -> pb.Endpoint:
    """Return the message of an endpoint, without its log."""
    spec, last = endpoint.spec, endpoint.last_regeneration
    return pb.Endpoint(
        id=endpoint.id,
        generation=endpoint.generation,
        attachment=wire.write_attachment(spec.attachment),
        pod=wire.write_pod(spec.pod),
        state=_STATES[endpoint.state],
        addresses=map(wire.write_assigned, spec.addresses),
        link=write_link(spec.link),
        labels=spec.labels,
        identity=endpoint.identity,
        created=wire.write_time(endpoint.created),
        last_regeneration=_write_regeneration(last) if last is not None else None,
        waiting_for=endpoint.waiting_for,
        options=endpoint.options,
        health=_write_health(health(endpoint)),
        counters=pb.Counters(**dataclasses.asdict(endpoint.counters)),
        identity_labels=endpoint.identity_labels,
        operator_labels={key: value for key, value in endpoint.label_changes.items() if value is not None},
        removed_labels=[key for key, value in endpoint.label_changes.items() if value is None],
        policy_error=endpoint.policy_error,
        unready_since=wire.write_time(endpoint.unready_since) if endpoint.unready_since else None,
    )


def write_listed(endpoint: Endpoint, policy: EndpointPolicy | None, place: Place | None = None) -> pb.Endpoint:
    """Return the message of an endpoint with the policies that isolate it; None: they aren't known yet.

    `place` is where it stands while it waits for its turn.
    """
    message = write_endpoint(endpoint)
    if place is not None:
        message.place.CopyFrom(_write_place(place))
        message.waiting_for = f"its turn: {place.position} of {place.waiting} that wait{_expected(place)}"
    if policy is not None:
        message.ingress_policies.extend(map(str, policy.side(Direction.INGRESS).isolated_by))
        message.egress_policies.extend(map(str, policy.side(Direction.EGRESS).isolated_by))
    return message


def write_detail(
    endpoint: Endpoint, queue: QueueStatus, policy: EndpointPolicy | None, place: Place | None = None
) -> pb.Endpoint:
    """Return the message of an endpoint with its log, its queue, its policies and what was published of it."""
    message = write_listed(endpoint, policy, place)
    message.log.extend(map(_write_entry, endpoint.log))
    message.queue.CopyFrom(_write_queue(queue))
    if endpoint.timeline is not None:
        message.timeline.CopyFrom(whymessages.write_timeline(endpoint.timeline))
    if endpoint.published is not None:
        message.published.CopyFrom(_write_publication(endpoint.published))
    return message


def _write_place(place: Place) -> pb.Place:
    estimate = None if place.seconds is None else round(place.seconds * 1e6)
    return pb.Place(position=place.position, waiting=place.waiting, estimate_us=estimate)


def _expected(place: Place) -> str:
    return "" if place.seconds is None else f", done in about {place.seconds:.1f} s"


def _write_health(judged: Health) -> pb.EndpointHealth:
    status = pb.EndpointHealth.Status.ValueType
    return pb.EndpointHealth(
        overall=status(judged.overall),
        bpf=status(judged.bpf),
        policy=status(judged.policy),
        connected=status(judged.connected),
        reasons=judged.reasons,
    )


def _write_publication(published: Publication) -> pb.Publication:
    return pb.Publication(
        key=published.key,
        value=published.value,
        revision=published.revision,
        written=wire.write_time(published.written),
    )


def _write_queue(queue: QueueStatus) -> pb.EventQueue:
    return pb.EventQueue(
        size=queue.size,
        waiting=queue.waiting,
        running=queue.running,
        running_since=wire.write_time(queue.running_since) if queue.running else None,
        ended=[
            pb.EndedEvent(
                name=one.name,
                ended=wire.write_time(one.ended),
                waited_us=round(one.waited * 1e6),
                ran_us=round(one.ran * 1e6),
                error=one.error,
            )
            for one in queue.ended
        ],
    )


def _write_regeneration(last: Regeneration) -> pb.Regeneration:
    return pb.Regeneration(
        level=loader_pb2.RegenerationLevel.ValueType(last.level),
        reasons=last.reasons,
        started=wire.write_time(last.started),
        # When they began says nothing after a restart, so it isn't kept, and not told at other times either.
        phases=wire.write_phases(dataclasses.replace(one, started_us=0) for one in last.phases),
        error=last.error,
        programs=[
            loader_pb2.Program(
                name=one.name,
                id=one.id,
                tag=one.tag,
                instructions=one.instructions,
                verified_instructions=one.verified_instructions,
                hook=one.hook,
            )
            for one in last.programs
        ],
        config_hash=last.config_hash,
        reload_reason=last.reload_reason,
        changes=last.changes,
        request_id=last.request_id,
    )


def _write_entry(entry: LogEntry) -> pb.LogEntry:
    return pb.LogEntry(
        time=wire.write_time(entry.time),
        type=entry.type,
        code=entry.code,
        message=entry.message,
        state=_STATES[entry.state],
    )


def write_told(told: Told) -> pb.WatchEndpointsResponse:
    """Return what a watcher is told; without the log, which has a Get of its own."""
    change, endpoint = told
    message = write_endpoint(endpoint) if endpoint is not None else None
    return pb.WatchEndpointsResponse(change=_CHANGES[change], endpoint=message)


def read_level(number: int) -> Level:
    """Return a regeneration level."""
    if number not in {Level.NO_REBUILD, Level.REWRITE_LOAD}:
        raise InvalidArgument(
            f"level: {number} is not a regeneration level: 1 (no-rebuild) or 2 (rewrite+load)", field="level"
        )
    return Level(number)


def write_result(result: Result) -> pb.RegenerationResult:
    """Return what became of one endpoint's regeneration."""
    return pb.RegenerationResult(
        id=result.id,
        level=loader_pb2.RegenerationLevel.ValueType(result.level),
        reload_reason=result.reload_reason,
        changes=result.changes,
        error=result.error,
        duration_us=round(result.seconds * 1e6),
    )


def read_changes(messages: Iterable[pb.OptionChange]) -> dict[str, bool | None]:
    """Return what switches become."""
    changes: dict[str, bool | None] = {}
    for index, message in enumerate(messages):
        if message.name in changes:
            raise InvalidArgument(f"changes[{index}].name: {message.name!r} was given before", field="changes")
        changes[message.name] = message.enabled if message.HasField("enabled") else None
    if not changes:
        raise InvalidArgument("changes: at least one switch is needed", field="changes")
    return changes


def write_options(options: Sequence[OptionStatus]) -> list[pb.OptionStatus]:
    """Return the messages of switches."""
    return [
        pb.OptionStatus(info=write_option(one.info), node=one.node, endpoint=one.endpoint, enabled=one.enabled)
        for one in options
    ]
