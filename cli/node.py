"""`podlane node`: the three services of this node as processes."""

import select
import time
from pathlib import Path
from typing import Any

import click

from cli import loglevel, processes
from cli.call import health
from cli.present import output_option, show_json, show_table
from services.common.config import Settings
from services.common.errors import Unavailable

_PATIENCE = 15.0
_LOOK = 0.02


@click.group("node", help="Start, stop and show the node's services.")
def group() -> None:
    """Hold the verbs."""


group.add_command(loglevel.command)


@group.command("up")
@click.pass_context
def up(context: click.Context) -> None:
    """Start the services and wait until each can do its work. A service that runs already is left alone.

    \b
    Examples:
      podlane node up
      podlane --config /etc/podlane/podlane.toml node up
    """
    settings: Settings = context.obj
    root = context.find_root()
    config: Path | None = root.params.get("file")
    started = [processes.start(settings, service, config) for service in processes.SERVICES]
    _wait_until_serving(settings, started)
    for process in started:
        click.echo(f"podlane-{process.service} is serving on {process.socket} (pid {process.pid})")


def _wait_until_serving(settings: Settings, started: list[processes.Process]) -> None:
    deadline = time.monotonic() + _PATIENCE * 2
    for process in started:
        # A call that nobody can answer yet costs more than the look for its socket, and takes the CPU from the start.
        while not process.socket.exists() or health(process.socket) != "serving":
            for one in started:
                if processes.has_ended(settings, one):
                    raise Unavailable(f"podlane-{one.service} ended at once: {processes.last_words(one)}")
            if time.monotonic() >= deadline:
                raise _slow(started)
            select.select((), (), (), _LOOK)


def _slow(started: list[processes.Process]) -> Unavailable:
    states = [(process.service, health(process.socket)) for process in started]
    slow = ", ".join(f"podlane-{service} is {state}" for service, state in states if state != "serving")
    return Unavailable(
        f"not all services came up in {_PATIENCE * 2:.0f} s: {slow}; see the logs in {started[0].log.parent}"
    )


@group.command("down")
@click.pass_obj
def down(settings: Settings) -> None:
    """Stop the services. Running pods keep their network: links, programs and maps stay in the kernel.

    \b
    Examples:
      podlane node down
    """
    # The reverse of the start: who calls others stops first.
    for service in reversed(processes.SERVICES):
        ran = processes.stop(settings, service, _PATIENCE)
        click.echo(f"podlane-{service} {'stopped' if ran else 'was not running'}")


@group.command("status")
@output_option
@click.pass_obj
def status(settings: Settings, output: str) -> None:
    """Show each service: health, pid, memory, socket. Exit code 1 when one isn't serving.

    \b
    Examples:
      podlane node status
      podlane node status -o json | jq -r '.[] | .pid'
    """
    found = states(settings)
    if output == "json":
        show_json(found)
    else:
        columns = ("SERVICE", "HEALTH", "PID", "MEMORY", "SOCKET", "LOG")
        rows = [
            (
                one["service"],
                one["health"],
                str(one["pid"] or "-"),
                f"{one['rss_kib'] / 1024:.0f} MiB",
                one["socket"],
                one["log"],
            )
            for one in found
        ]
        show_table(columns, rows, "")
    if any(one["health"] != "serving" for one in found):
        raise SystemExit(1)


def states(settings: Settings) -> list[dict[str, Any]]:
    """Return what is known of each service."""
    found = [processes.find(settings, service) for service in processes.SERVICES]
    return [
        {
            "service": process.service,
            "health": health(process.socket),
            "pid": process.pid,
            "rss_kib": process.rss_kib(),
            "socket": str(process.socket),
            "log": str(process.log),
        }
        for process in found
    ]
