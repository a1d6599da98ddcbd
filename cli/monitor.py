"""`podlane monitor`: what happens to packets, as it happens."""

from datetime import datetime
from typing import Any

import click

from cli import connect
from cli.present import plain
from services.common.config import Settings
from services.common.errors import InvalidArgument

_TYPES = {"drop": "EVENT_TYPE_DROP", "trace": "EVENT_TYPE_TRACE", "verdict": "EVENT_TYPE_POLICY_VERDICT"}
_SWITCHES = {"drop": "drop-notify", "trace": "trace", "verdict": "policy-verdict"}


@click.command("monitor")
@click.option(
    "--type", "types", default="", metavar="TYPES", help="drop, trace, verdict, several with commas. Default: all."
)
@click.option(
    "--endpoint", default=0, metavar="ID", type=click.IntRange(0, 65535), help="Packets of this endpoint only."
)
@click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="How to print."
)
@click.pass_obj
def group(settings: Settings, types: str, endpoint: int, output: str) -> None:
    """Watch what happens to packets, until Ctrl-C.

    Drops are told of by default; traces and verdicts where the options `trace` and `policy-verdict` are on.

    \b
    Examples:
      podlane monitor --type drop
      podlane endpoint config 7 trace=on && podlane monitor --endpoint 7
      podlane monitor -o json | jq 'select(.drop.reason == "policy")'
    """
    from podlane.loader.v1 import loader_pb2

    names = _names(types)
    request = loader_pb2.WatchEventsRequest(
        types=[loader_pb2.EventType.Value(_TYPES[name]) for name in names], endpoint_id=endpoint
    )
    connect.follow(
        connect.loader(settings),
        "WatchEvents",
        request,
        begun=lambda: click.echo(_greeting(names, endpoint), err=True),
        each=_show_json if output == "json" else _show,
    )


def _names(types: str) -> list[str]:
    names = [name.strip() for name in types.split(",") if name.strip()]
    for name in names:
        if name not in _TYPES:
            raise InvalidArgument(f"--type: {name!r} is no type of event; there are {', '.join(_TYPES)}")
    return names


def _greeting(names: list[str], endpoint: int) -> str:
    wanted = names or list(_TYPES)
    of = f"endpoint {endpoint}" if endpoint else "all endpoints"
    switches = ", ".join(_SWITCHES[name] for name in wanted)
    return f"listening for {', '.join(wanted)} events of {of} (options: {switches}); Ctrl-C ends"


def _show(event: Any) -> None:
    moment = datetime.fromtimestamp(event.time.seconds + event.time.nanos / 1e9).astimezone()
    click.echo(f"{moment:%H:%M:%S.%f} {event.summary}")


def _show_json(event: Any) -> None:
    import json

    click.echo(json.dumps(plain(event), ensure_ascii=False))
