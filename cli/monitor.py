"""`podlane monitor`: what happens to packets, as it happens."""

import json
from datetime import datetime
from typing import Any

import click
from podlane.endpoint.v1 import policy_pb2
from podlane.loader.v1 import loader_pb2

from cli import connect
from cli.endpoint import selector
from cli.present import plain
from services.common.config import Settings
from services.common.errors import FailedPrecondition, InvalidArgument, Unavailable

_TYPES = {"drop": "EVENT_TYPE_DROP", "trace": "EVENT_TYPE_TRACE", "verdict": "EVENT_TYPE_POLICY_VERDICT"}
# Known everywhere.
_HOST = 1
_SWITCHES = {"drop": "drop-notify", "trace": "trace", "verdict": "policy-verdict"}


@click.command("monitor")
@click.option(
    "--type", "types", default="", metavar="TYPES", help="drop, trace, verdict, several with commas. Default: all."
)
@click.option("--endpoint", default="", help="Its packets only: an id, an address or namespace/pod.")
@click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="How to print."
)
@click.pass_obj
def group(settings: Settings, types: str, endpoint: str, output: str) -> None:
    """Watch what happens to packets, until Ctrl-C.

    Drops are told of by default; traces and verdicts where the options `trace` and `policy-verdict` are on. Names and
    rules are the endpoint service's; while it is away, events are the loader's, with numbers only.

    \b
    Examples:
      podlane monitor --type drop
      podlane endpoint config 7 trace=on && podlane monitor --endpoint 7
      podlane monitor --type drop,verdict --endpoint shop/web-0
      podlane monitor -o json | jq 'select(.drop.reason == "policy")'
    """
    names = _names(types)
    wanted = [loader_pb2.EventType.Value(_TYPES[name]) for name in names]
    show = _show_json if output == "json" else _show

    def begun(note: str = "") -> None:
        click.echo(_greeting(names, endpoint) + note, err=True)

    try:
        # Of a stream that is refused the header can't be told from one that begins, so something else is asked first.
        connect.ask(connect.policy(settings), "ListIdentities", policy_pb2.ListIdentitiesRequest(identity=_HOST))
    except (Unavailable, FailedPrecondition) as error:
        # Only the endpoint service knows which number a name has.
        if endpoint and not endpoint.isdigit():
            raise
        events = loader_pb2.WatchEventsRequest(types=wanted, endpoint_id=int(endpoint or 0))
        note = f"; without names: {error.message}"
        connect.follow(
            connect.loader(settings),
            "WatchEvents",
            events,
            begun=lambda: begun(note),
            each=lambda event: show(event, plain(event)),
        )
        return
    flows = policy_pb2.WatchFlowsRequest(types=wanted, selector=selector(endpoint) if endpoint else None)
    connect.follow(
        connect.policy(settings), "WatchFlows", flows, begun, each=lambda flow: show(flow.event, _named(flow))
    )


def _named(flow: Any) -> dict[str, Any]:
    """Return an event with names: the loader's fields where they always are, and what the endpoint service knows."""
    told: dict[str, Any] = plain(flow)
    event: dict[str, Any] = told.pop("event")
    return event | told


def _names(types: str) -> list[str]:
    names = [name.strip() for name in types.split(",") if name.strip()]
    for name in names:
        if name not in _TYPES:
            raise InvalidArgument(f"--type: {name!r} is no type of event; there are {', '.join(_TYPES)}")
    return names


def _greeting(names: list[str], endpoint: str) -> str:
    wanted = names or list(_TYPES)
    of = f"endpoint {endpoint}" if endpoint else "all endpoints"
    switches = ", ".join(_SWITCHES[name] for name in wanted)
    return f"listening for {', '.join(wanted)} events of {of} (options: {switches}); Ctrl-C ends"


def _show(event: Any, told: dict[str, Any]) -> None:
    moment = datetime.fromtimestamp(event.time.seconds + event.time.nanos / 1e9).astimezone()
    click.echo(f"{moment:%H:%M:%S.%f} {told['summary']}")


def _show_json(_event: Any, told: dict[str, Any]) -> None:
    click.echo(json.dumps(told, ensure_ascii=False))
