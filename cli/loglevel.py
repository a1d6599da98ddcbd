"""`podlane node log-level`: from which level on the services write into their logs, while they run."""

from typing import Any, NamedTuple

import click

from cli import connect, exits
from cli.listing import How, Listing, listing_options, show
from services.common.config import Settings
from services.common.errors import PodlaneError

_LEVELS = ("debug", "info", "warning", "error")


class _Level(NamedTuple):
    """A service's level now, and that which it goes back to."""

    service: str
    level: str
    configured: str


@click.command("log-level")
@click.argument("level", required=False, type=click.Choice(_LEVELS))
@click.option(
    "--service", type=click.Choice(["ipam", "loader", "endpoint"]), help="This service only. Default: all three."
)
@listing_options
@click.pass_obj
def command(settings: Settings, level: str | None, service: str | None, how: How) -> None:
    """Show from which LEVEL on the services write into their logs, or change it at once.

    A change lasts until the service ends; `log_level` in podlane.toml lasts longer. Exit code 4 when a service doesn't
    answer.

    \b
    Examples:
      podlane node log-level
      podlane node log-level debug --service loader
    """
    peers = [one for one in connect.logs(settings) if service in {None, one.name}]
    silent = _set(peers, level) if level is not None else []
    show(_LISTING, lambda: _levels(peers, silent), how)
    for message in dict.fromkeys(error.message for error in silent):
        click.echo(f"podlane: {message}", err=True)
    if silent:
        raise SystemExit(exits.UNREACHABLE)


_LISTING = Listing(
    titles=("SERVICE", "LEVEL", "AFTER A RESTART"),
    rows=lambda one: [one],
    empty="no service answers",
    name=lambda one: str(one.service),
    plain=lambda one: one._asdict(),
)


def _set(peers: list[connect.Service], level: str) -> list[PodlaneError]:
    """Change the level of each; return why others didn't."""
    from podlane.common.v1 import log_pb2

    request = log_pb2.SetLevelRequest(level=log_pb2.LogLevel.Value(f"LOG_LEVEL_{level.upper()}"))
    replies = connect.ask_each(peers, "SetLevel", request)
    return [reply for _, reply in replies if isinstance(reply, PodlaneError)]


def _levels(peers: list[connect.Service], silent: list[PodlaneError]) -> list[_Level]:
    """Return the levels of those who answer; why others don't is added to `silent`."""
    from podlane.common.v1 import log_pb2

    found: list[_Level] = []
    for peer, reply in connect.ask_each(peers, "GetLevel", log_pb2.GetLevelRequest()):
        if isinstance(reply, PodlaneError):
            silent.append(reply)
        else:
            found.append(_Level(peer.name, _name(reply.level), _name(reply.configured)))
    return found


def _name(level: Any) -> str:
    from podlane.common.v1 import log_pb2

    return str(log_pb2.LogLevel.Name(level)).removeprefix("LOG_LEVEL_").lower()
