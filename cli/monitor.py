"""`podlane monitor`: what happens on this node, as it happens, and what has happened lately."""

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import click
from podlane.endpoint.v1 import monitor_pb2, policy_pb2
from podlane.loader.v1 import loader_pb2

from cli import connect
from cli.peers import filter_options, read_filter
from cli.present import enum_name, plain
from services.common.config import Settings
from services.common.errors import FailedPrecondition, InvalidArgument, Unavailable

# What the loader alone can tell of, and the options that these kinds need.
_TYPES = {
    "drop": loader_pb2.EVENT_TYPE_DROP,
    "trace": loader_pb2.EVENT_TYPE_TRACE,
    "verdict": loader_pb2.EVENT_TYPE_POLICY_VERDICT,
    "connection": loader_pb2.EVENT_TYPE_CONNECTION,
}
_SWITCHES = {
    "drop": "drop-notify",
    "trace": "trace",
    "verdict": "policy-verdict",
    "connection": "connection-events",
}
_KINDS = (*_TYPES, "endpoint", "controller")
# Known everywhere.
_HOST = 1


@click.command("monitor")
@click.option("--type", "types", default="", metavar="TYPES", help=f"{', '.join(_KINDS)}, several with commas.")
@filter_options
@click.option("--last", type=click.IntRange(min=1), default=None, metavar="N", help="The last N from the history.")
@click.option("-f", "--follow", is_flag=True, help="And go on after --last; without --last this is so anyway.")
@click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="How to print."
)
@click.pass_obj
def group(settings: Settings, /, *, types: str, last: int | None, follow: bool, output: str, **filters: Any) -> None:
    """Watch what happens on this node, until Ctrl-C; or look at what has happened.

    Drops, endpoints and controllers are told of by default; traces, verdicts and connections where the options
    `trace`, `policy-verdict` and `connection-events` are on. Names and rules are the endpoint service's; while it is
    away, events of packets are the loader's, with numbers only. What was lost is told in its place, whatever is asked
    for.

    An END is an endpoint's id, an address or prefix, namespace/pod, or namespace/ for all of its pods. All that is
    asked for must hold.

    \b
    Examples:
      podlane monitor --type drop
      podlane monitor --last 20
      podlane monitor --last 100 --type drop,endpoint --pod shop/web-0 -f
      podlane monitor --from shop/ --to 10.0.0.0/8 --port 5432 --protocol tcp
      podlane endpoint config 7 trace=on && podlane monitor --endpoint 7
      podlane monitor -o json | jq 'select(.drop.reason == "policy")'
    """
    names = _names(types)
    wanted = read_filter(**filters)
    wanted.kinds.extend(monitor_pb2.EventKind.Value(f"EVENT_KIND_{name.upper()}") for name in names)
    show = _show_json if output == "json" else _show
    of = f"endpoint {filters['endpoint']}" if filters["endpoint"] else "all endpoints"
    monitor = connect.monitor(settings)
    request = monitor_pb2.WatchEventsRequest(filter=wanted, last=last or 0, history_only=bool(last) and not follow)
    if request.history_only:
        connect.follow(monitor, "WatchEvents", request, begun=_nothing, each=lambda event: show(event, _flat(event)))
        return
    try:
        # Of a stream that is refused the header can't be told from one that begins, so something else is asked first.
        connect.ask(connect.policy(settings), "ListIdentities", policy_pb2.ListIdentitiesRequest(identity=_HOST))
    except (Unavailable, FailedPrecondition) as error:
        _without_names(settings, names, wanted, show, note=f"; without names: {error.message}")
        return
    connect.follow(
        monitor, "WatchEvents", request, lambda: _greet(names, of), each=lambda event: show(event, _flat(event))
    )


def _without_names(
    settings: Settings, names: list[str], wanted: Any, show: Callable[[Any, dict[str, Any]], None], note: str
) -> None:
    """Follow the loader's own events. Only the endpoint service can filter by more than an endpoint's number."""
    number = wanted.any.endpoint_id
    rest = monitor_pb2.EventFilter()
    rest.CopyFrom(wanted)
    rest.ClearField("kinds")
    rest.any.ClearField("endpoint_id")
    if rest.any == monitor_pb2.PeerFilter():
        rest.ClearField("any")
    known = [name for name in names if name in _TYPES]
    if rest != monitor_pb2.EventFilter() or (names and not known):
        raise Unavailable(f"podlane-endpoint, which knows names and keeps the history, is needed for that{note}")
    request = loader_pb2.WatchEventsRequest(types=[_TYPES[name] for name in known], endpoint_id=number)
    of = f"endpoint {number}" if number else "all endpoints"
    connect.follow(
        connect.loader(settings),
        "WatchEvents",
        request,
        begun=lambda: _greet(known or list(_TYPES), of, note),
        each=lambda event: show(event, plain(event)),
    )


def _flat(event: Any) -> dict[str, Any]:
    """Return an event as one object: the loader's fields where they always are, and what the endpoint service knows."""
    told: dict[str, Any] = plain(event)
    flow: dict[str, Any] = told.pop("flow", {})
    packet: dict[str, Any] = flow.pop("event", {})
    kind = enum_name(event.DESCRIPTOR.fields_by_name["kind"].enum_type, event.kind)
    return packet | flow | told | {"kind": kind}


def _names(types: str) -> list[str]:
    names = [name.strip() for name in types.split(",") if name.strip()]
    for name in names:
        if name not in _KINDS:
            raise InvalidArgument(f"--type: {name!r} is no type of event; there are {', '.join(_KINDS)}")
    return names


def _greet(names: list[str], of: str, note: str = "") -> None:
    wanted = names or list(_KINDS)
    switches = ", ".join(_SWITCHES[name] for name in wanted if name in _SWITCHES)
    options = f" (options: {switches})" if switches else ""
    click.echo(f"listening for {', '.join(wanted)} events of {of}{options}; Ctrl-C ends{note}", err=True)


def _nothing() -> None:
    """Nothing is said before a history."""


def _show(event: Any, told: dict[str, Any]) -> None:
    moment = datetime.fromtimestamp(event.time.seconds + event.time.nanos / 1e9).astimezone()
    click.echo(f"{moment:%H:%M:%S.%f} {told['summary']}")


def _show_json(_event: Any, told: dict[str, Any]) -> None:
    click.echo(json.dumps(told, ensure_ascii=False))
