"""`podlane controllers`: what the services do by themselves, again and again until it succeeds."""

import time
from typing import Any

import click

from cli import connect, exits
from cli.listing import How, Listing, listing_options, show
from cli.present import age, duration, enum_name, output_option, plain, show_json
from services.common.config import Settings
from services.common.errors import NotFound, PodlaneError

# fmt: off
_COLUMNS = (
    "SERVICE", "RESOURCE", "CONTROLLER", "STATUS", "SUCCESS", "FAILURE", "CONSECUTIVE", "LAST RUN", "DURATION",
    "NEXT RUN", "ERROR",
)
# fmt: on
_service_option = click.option(
    "--service", type=click.Choice(["ipam", "loader", "endpoint"]), help="Ask this service only. Default: all three."
)


@click.group("controllers", invoke_without_command=True)
@click.option("--failing", is_flag=True, help="Only those that failed since they last succeeded, or that hang.")
@_service_option
@listing_options
@click.pass_context
def group(context: click.Context, failing: bool, service: str | None, how: How) -> None:
    """List the controllers of all services. Exit code 4 when a service doesn't answer.

    \b
    Examples:
      podlane controllers --service loader
      podlane controllers --failing -o json | jq -r '.[] | .status.last_error'
      podlane controllers --failing --watch
    """
    if context.invoked_subcommand is not None:
        return
    from podlane.common.v1 import controllers_pb2

    request = controllers_pb2.ListControllersRequest(failing=failing)
    silent: list[PodlaneError] = []

    def fetch() -> list[tuple[str, Any]]:
        found, silent[:] = _list(context.obj, service, request)
        if how.watch:
            _name(silent)
        return found

    show(_LISTING._replace(empty="no controllers are failing") if failing else _LISTING, fetch, how)
    _name(silent)
    if silent:
        raise SystemExit(exits.UNREACHABLE)


@group.command("get")
@click.argument("resource")
@click.argument("name")
@_service_option
@output_option
@click.pass_obj
def get(settings: Settings, resource: str, name: str, service: str | None, output: str) -> None:
    """Show one controller with its configuration and its last 16 outcomes.

    \b
    Examples:
      podlane controllers get ipam expire-reservations
    """
    found = _find(settings, resource, name, service, outcomes=True)
    if output == "json":
        show_json([_plain(service_name, one) for service_name, one in found])
    else:
        for service_name, one in found:
            click.echo("\n".join(_describe(service_name, one)))


@group.command("trigger")
@click.argument("resource")
@click.argument("name")
@_service_option
@click.pass_obj
def trigger(settings: Settings, resource: str, name: str, service: str | None) -> None:
    """Run a controller now instead of when it is due.

    \b
    Examples:
      podlane controllers trigger loader prepare-template
    """
    from podlane.common.v1 import controllers_pb2

    request = controllers_pb2.TriggerControllerRequest(resource=resource, name=name)
    for service_name, _ in _find(settings, resource, name, service, outcomes=False):
        (peer,) = _services(settings, service_name)
        connect.ask(peer, "TriggerController", request)
        click.echo(f"podlane-{service_name} runs {resource}/{name}")


def _services(settings: Settings, service: str | None) -> list[connect.Service]:
    return [one for one in connect.controllers(settings) if service in {None, one.name}]


def _list(settings: Settings, service: str | None, request: Any) -> tuple[list[tuple[str, Any]], list[PodlaneError]]:
    """Return the controllers with their services' names, and why other services said nothing."""
    found: list[tuple[str, Any]] = []
    silent: list[PodlaneError] = []
    for peer, reply in connect.ask_each(_services(settings, service), "ListControllers", request):
        if isinstance(reply, PodlaneError):
            silent.append(reply)
        else:
            found += [(peer.name, one) for one in reply.controllers]
    return found, silent


def _find(
    settings: Settings, resource: str, name: str, service: str | None, *, outcomes: bool
) -> list[tuple[str, Any]]:
    """Return the controllers of that name with their services' names. Raises NotFound."""
    from podlane.common.v1 import controllers_pb2

    request = controllers_pb2.ListControllersRequest(resource=resource, name=name, outcomes=outcomes)
    found, silent = _list(settings, service, request)
    if not found:
        _name(silent)
        raise NotFound(f"there is no controller {resource}/{name}: `podlane controllers` lists those there are")
    return found


def _name(silent: list[PodlaneError]) -> None:
    for error in silent:
        click.echo(f"podlane: {error.message}", err=True)


def _plain(service: str, controller: Any) -> dict[str, Any]:
    return {"service": service, **plain(controller)}


def _state(controller: Any) -> str:
    return enum_name(controller.DESCRIPTOR.fields_by_name["state"].enum_type, controller.state)


def _seconds(message: Any) -> float:
    return float(message.seconds + message.nanos / 1e9)


def _row(service: str, controller: Any) -> tuple[str, ...]:
    status, now = controller.status, time.time()
    last = max(_seconds(status.last_success), _seconds(status.last_failure))
    failing = bool(status.consecutive_failure_count)
    return (
        service,
        controller.resource,
        controller.name,
        _state(controller),
        str(status.success_count),
        str(status.failure_count),
        str(status.consecutive_failure_count),
        f"{age(now - last)} ago" if last else "-",
        duration(status.last_duration_us / 1e6) if last else "-",
        _next(status, now),
        " ".join(status.last_error.split()) if failing else "-",
        controller.configuration.group,
        controller.uuid,
    )


_LISTING = Listing(
    titles=_COLUMNS,
    wide=("GROUP", "UUID"),
    rows=lambda one: [_row(*one)],
    empty="no controllers",
    name=lambda one: f"{one[0]}/{one[1].resource}/{one[1].name}",
    plain=lambda one: _plain(*one),
    flexible="ERROR",
)


def _next(status: Any, now: float) -> str:
    if status.HasField("running_since"):
        return f"running {age(now - _seconds(status.running_since))}"
    return f"in {age(_seconds(status.next_run) - now)}" if status.HasField("next_run") else "-"


def _describe(service: str, controller: Any) -> list[str]:
    told, status, setting = plain(controller), controller.status, controller.configuration
    times = told["status"]
    runs = f"{status.success_count} succeeded, {status.failure_count} failed"
    in_a_row = f"{status.consecutive_failure_count} failures in a row"
    lines = [
        f"controller  {controller.resource}/{controller.name} of podlane-{service} ({controller.uuid})",
        f"state       {_state(controller)}",
        f"runs        {runs}; {in_a_row}; {status.coalesced_count} triggers folded",
        f"next run    {_when(times)}",
        f"interval    {_interval(setting)}",
        f"retry       {_retry(setting)}",
        f"alarm       {duration(setting.alarm_ms / 1e3) if setting.alarm_ms else 'none'}",
        f"on update   {'cancels a run in progress' if setting.cancel_on_update else 'lets a run in progress end'}",
        f"on removal  {'runs a stop function' if setting.stop_function else 'runs nothing more'}",
        f"group       {setting.group}",
    ]
    if status.last_error:
        lines.insert(3, f"last error  {times['last_failure']} {status.last_error}")
    for outcome, message in zip(told["outcomes"], controller.outcomes, strict=True):
        took = duration(message.duration_us / 1e6)
        error = f": {message.error}" if message.error else ""
        lines.append(f"outcome     {outcome['finished']} {outcome['result']} in {took}{error}")
    return lines


def _when(times: dict[str, Any]) -> str:
    if "running_since" in times:
        return f"runs since {times['running_since']}"
    return str(times.get("next_run", "when it is triggered"))


def _interval(setting: Any) -> str:
    if not setting.interval_ms:
        return "none: it runs when it is triggered"
    jitter = f", and up to {duration(setting.interval_jitter_ms / 1e3)} more" if setting.interval_jitter_ms else ""
    return f"{duration(setting.interval_ms / 1e3)} from the end of a run{jitter}"


def _retry(setting: Any) -> str:
    if not setting.retry:
        return "no"
    return (
        f"after {duration(setting.retry_base_ms / 1e3)}, doubled each time up to {duration(setting.retry_cap_ms / 1e3)}"
    )
