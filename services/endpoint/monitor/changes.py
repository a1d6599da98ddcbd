"""What has happened to endpoints and controllers, as events.

Watchers of endpoints are told of whole endpoints, so what is new in one is found by what was told of it before: its
state, and the number of the newest entry of its log. Endpoints that a start finds are not told of: nothing happened to
them.
"""

from collections.abc import Callable
from functools import partial

from podlane.endpoint.v1 import endpoint_pb2
from podlane.endpoint.v1 import monitor_pb2 as pb

from services.common import wire
from services.endpoint.model import Endpoint, EndpointState, LogCode
from services.endpoint.monitor import messages
from services.endpoint.monitor.names import of
from services.endpoint.watch import Change

Tell = Callable[[pb.WatchEventsResponse], None]
TellLater = Callable[[Callable[[], pb.WatchEventsResponse]], None]
_Of = pb.EndpointChange


class EndpointChanges:
    """Tells what is new in endpoints."""

    def __init__(self, tell: TellLater) -> None:
        """Give `tell` what writes an event: five of each creation, and mostly nobody reads them."""
        self._tell = tell
        self._known: dict[int, tuple[int, EndpointState, int]] = {}

    def saw(self, change: Change, endpoint: Endpoint) -> None:
        """See an endpoint that has changed."""
        newest = endpoint.log[-1].number if endpoint.log else 0
        now = endpoint.generation, endpoint.state, newest
        if change is Change.DELETED:
            self._known.pop(endpoint.id, None)
            self._told(endpoint, _Of.CHANGE_DELETED, "")
            return
        before = self._known.get(endpoint.id)
        self._known[endpoint.id] = now
        if before is None or before[0] != endpoint.generation:
            if endpoint.state is not EndpointState.RESTORING:
                self._told(endpoint, _Of.CHANGE_CREATED, endpoint.waiting_for)
            return
        if before[1] is not endpoint.state:
            self._told(endpoint, _Of.CHANGE_STATE, endpoint.waiting_for, before[1])
        for entry in endpoint.log:
            if entry.number > before[2]:
                self._told(endpoint, _Of.CHANGE_NOTED, entry.message, problem=entry.code is not LogCode.OK)

    def _told(
        self,
        endpoint: Endpoint,
        change: pb.EndpointChange.Change.ValueType,
        message: str,
        before: EndpointState | None = None,
        *,
        problem: bool = False,
    ) -> None:
        self._tell(partial(_write, wire.now(), endpoint, change, message, before, problem=problem))


def _write(
    when: float,
    endpoint: Endpoint,
    change: pb.EndpointChange.Change.ValueType,
    message: str,
    before: EndpointState | None,
    *,
    problem: bool,
) -> pb.WatchEventsResponse:
    told = pb.EndpointChange(
        change=change,
        endpoint=messages.write_end(of(endpoint)),
        state=_state(endpoint.state),
        before=_state(before) if before is not None else endpoint_pb2.ENDPOINT_STATE_UNSPECIFIED,
        message=message,
        problem=problem,
    )
    return pb.WatchEventsResponse(
        time=wire.write_time(when),
        kind=pb.EVENT_KIND_ENDPOINT,
        endpoint=told,
        summary=_sentence(endpoint, change, message, before),
    )


def _state(state: EndpointState) -> endpoint_pb2.EndpointState.ValueType:
    return endpoint_pb2.EndpointState.Value(f"ENDPOINT_STATE_{state.name}")


def _sentence(
    endpoint: Endpoint, change: pb.EndpointChange.Change.ValueType, message: str, before: EndpointState | None
) -> str:
    who = f"{of(endpoint).name} (endpoint {endpoint.id})"
    what = {
        _Of.CHANGE_CREATED: f"created, {endpoint.state}",
        _Of.CHANGE_STATE: f"{before} → {endpoint.state}",
        _Of.CHANGE_NOTED: "",
        _Of.CHANGE_DELETED: "deleted",
    }[change]
    waits = f"waits for {message}" if message and change is not _Of.CHANGE_NOTED else message
    return f"{who}: {', '.join(part for part in (what, waits) if part)}"


def of_controller(resource: str, name: str, when: float, *, error: str | None, failures: int) -> pb.WatchEventsResponse:
    """Return the event of a controller that begins to fail, or, `error` None, works again after `failures` in a row.

    `when` is in seconds since the epoch.
    """
    failing = error is not None
    told = pb.ControllerChange(
        resource=resource, name=name, failing=failing, error=error or "", failures=0 if failing else failures
    )
    what = f"fails: {error}" if failing else f"works again after {failures} failures"
    return pb.WatchEventsResponse(
        time=wire.write_time(when),
        kind=pb.EVENT_KIND_CONTROLLER,
        controller=told,
        summary=f"controller {resource}/{name} {what}",
    )
