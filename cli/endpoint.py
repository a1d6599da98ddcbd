"""`podlane endpoint`: the pods' endpoints as the endpoint service knows them."""

from ipaddress import ip_address
from typing import Any

import click

from cli import connect, options
from cli.complete import endpoint_argument
from cli.endpoint_text import describe, describe_health, log_lines
from cli.listing import How, listing_options
from cli.present import output_option, plain, show_json
from services.common.config import Settings
from services.common.errors import InvalidArgument


@click.group("endpoint", help="The pods' endpoints.")
def group() -> None:
    """Hold the verbs."""


@group.command("list")
@listing_options
@click.pass_obj
def list_endpoints(settings: Settings, how: How) -> None:
    """List the endpoints of this node.

    INGRESS, EGRESS: whether policy is enforced. -o wide: interfaces, MACs, the policies that isolate, and labels.

    \b
    Examples:
      podlane endpoint list -o wide
      podlane endpoint list --watch
      podlane endpoint list -o name
      podlane endpoint list -o json | jq -r '.[] | select(.state != "ready") | .id'
    """
    from cli import endpoint_list

    endpoint_list.run(settings, how)


def selector(text: str) -> Any:
    """Return an EndpointSelector for what a person names an endpoint by: id, address, or namespace/pod."""
    from podlane.common.v1 import types_pb2
    from podlane.endpoint.v1 import endpoint_pb2

    if text.isdigit():
        return endpoint_pb2.EndpointSelector(id=int(text))
    namespace, slash, name = text.partition("/")
    if slash and namespace and name:
        return endpoint_pb2.EndpointSelector(pod=types_pb2.Pod(namespace=namespace, name=name))
    try:
        return endpoint_pb2.EndpointSelector(address=types_pb2.IpAddress(packed=ip_address(text).packed))
    except ValueError:
        raise InvalidArgument(f"{text!r} is neither an endpoint id, an address nor namespace/pod") from None


@group.command("get")
@endpoint_argument
@output_option
@click.pass_obj
def get_endpoint(settings: Settings, endpoint: str, output: str) -> None:
    """Show one endpoint: ENDPOINT is an id, an address or namespace/pod.

    \b
    Examples:
      podlane endpoint get 7
      podlane endpoint get 10.244.0.5
      podlane endpoint get default/web-0 -o json
    """
    found = get(settings, endpoint)
    if output == "json":
        show_json(plain(found))
        return
    for line in describe(found):
        click.echo(line)


def get(settings: Settings, endpoint: str) -> Any:
    """Return the endpoint that a person names."""
    from podlane.endpoint.v1 import endpoint_pb2

    request = endpoint_pb2.GetEndpointRequest(selector=selector(endpoint))
    return connect.ask(connect.endpoint(settings), "GetEndpoint", request).endpoint


@group.command("labels")
@endpoint_argument
@click.argument("changes", nargs=-1, metavar="[KEY=VALUE | KEY-]...")
@click.option("--reset", "taken_back", multiple=True, metavar="KEY", help="What the pod says counts again.")
@output_option
@click.pass_obj
def labels(
    settings: Settings, endpoint: str, *, changes: tuple[str, ...], taken_back: tuple[str, ...], output: str
) -> None:
    """Show or change an endpoint's labels: ENDPOINT is an id, an address or namespace/pod.

    KEY=VALUE sets a label over what its pod says, KEY- removes it. Returns when everybody enforces what follows.

    \b
    Examples:
      podlane endpoint labels 7
      podlane endpoint labels shop/web-0 quarantine=yes app-
      podlane endpoint labels 7 --reset app
    """
    from cli import endpoint_labels

    if changes or taken_back:
        endpoint_labels.change(settings, selector(endpoint), (changes, taken_back), output)
    else:
        endpoint_labels.show(get(settings, endpoint), output)


@group.command("log")
@endpoint_argument
@output_option
@click.pass_obj
def log(settings: Settings, endpoint: str, output: str) -> None:
    """Show an endpoint's log, its newest 256 entries: ENDPOINT is an id, an address or namespace/pod.

    \b
    Examples:
      podlane endpoint log shop/web-0
      podlane endpoint log 7 -o json | jq '.[-1]'
    """
    found = get(settings, endpoint)
    if output == "json":
        show_json(plain(found)["log"])
        return
    for line in log_lines(found):
        click.echo(line)


@group.command("health")
@endpoint_argument
@output_option
@click.pass_obj
def health(settings: Settings, endpoint: str, output: str) -> None:
    """Show how an endpoint is, and why: ENDPOINT is an id, an address or namespace/pod.

    Exit code 1 when its health is a warning or a failure.

    \b
    Examples:
      podlane endpoint health shop/web-0
    """
    found = get(settings, endpoint)
    if output == "json":
        show_json(plain(found.health))
    else:
        for line in (describe_health(found.health), *found.health.reasons):
            click.echo(line)
    if found.health.overall in {found.health.STATUS_WARNING, found.health.STATUS_FAILURE}:
        raise SystemExit(1)


@group.command("why-slow")
@click.argument("endpoint", required=False)
@click.option("--top", "top", is_flag=True, help="The slowest creations; the default where no ENDPOINT is named.")
@click.option("--limit", type=click.IntRange(1, 1000), default=10, show_default=True, help="How many --top shows.")
@output_option
@click.pass_obj
def why_slow(settings: Settings, endpoint: str | None, *, top: bool, limit: int, output: str) -> None:
    """Show where the time of an endpoint's creation went, beside what is usual on this node.

    ENDPOINT is an id, an address or namespace/pod. docs/why-slow.md tells what each phase is.

    \b
    Examples:
      podlane endpoint why-slow shop/web-0
      podlane endpoint why-slow --top --limit 3
    """
    from cli import endpoint_why

    if endpoint is not None and top:
        raise InvalidArgument("--top is about all endpoints: leave it or ENDPOINT out")
    if endpoint is None:
        endpoint_why.top(settings, limit, output)
    else:
        endpoint_why.slow(settings, get(settings, endpoint), output)


@group.command("why-stuck")
@click.argument("endpoint", required=False)
@output_option
@click.pass_obj
def why_stuck(settings: Settings, endpoint: str | None, output: str) -> None:
    """Show what endpoints that aren't ready wait for, since when, and what would unblock them.

    ENDPOINT is an id, an address or namespace/pod; without it all are shown. Exit code 1 when something waits.

    \b
    Examples:
      podlane endpoint why-stuck
      podlane endpoint why-stuck -o json | jq -r '.stuck[].unblock[]'
    """
    from cli import endpoint_why

    wanted = get(settings, endpoint).id if endpoint is not None else 0
    raise SystemExit(int(endpoint_why.stuck(settings, wanted, output)))


@group.command("check")
@endpoint_argument
@click.option("--repair", is_flag=True, help="Mend what is wrong, then check again.")
@output_option
@click.pass_obj
def check(settings: Settings, endpoint: str, repair: bool, output: str) -> None:
    """Compare an endpoint with the kernel, its pod, ipam's books and the kvstore, as CNI CHECK does.

    Exit code 1 when something is wrong, and with --repair when something still is.

    \b
    Examples:
      podlane endpoint check shop/web-0
      podlane endpoint check 7 --repair
    """
    from cli import endpoint_check

    raise SystemExit(endpoint_check.run(settings, selector(endpoint), repair=repair, output=output))


@group.command("regenerate")
@endpoint_argument
@click.option(
    "--level",
    type=click.Choice(["1", "2", "no-rebuild", "rewrite+load"]),
    default="rewrite+load",
    show_default=True,
    help="1, no-rebuild: maps, and programs only where that is needed. 2, rewrite+load: programs in any case.",
)
@click.option("--dry-run", is_flag=True, help="Touch nothing, say what would change.")
@output_option
@click.pass_obj
def regenerate(settings: Settings, endpoint: str, level: str, dry_run: bool, output: str) -> None:
    """Put an endpoint's datapath in force again: ENDPOINT is an id, an address, namespace/pod, or `all`.

    Exit code 1 when one failed; its old programs stay live and it is tried again in the background.

    \b
    Examples:
      podlane endpoint regenerate 7
      podlane endpoint regenerate all --level 1 --dry-run
    """
    from podlane.endpoint.v1 import endpoint_pb2
    from podlane.loader.v1 import loader_pb2

    number = 1 if level in {"1", "no-rebuild"} else 2
    request = endpoint_pb2.RegenerateEndpointsRequest(
        level=loader_pb2.RegenerationLevel.ValueType(number), dry_run=dry_run
    )
    if endpoint != "all":
        request.selector.CopyFrom(selector(endpoint))
    reply = connect.ask(connect.endpoint(settings), "RegenerateEndpoints", request)
    options.show_results(reply.results, output, dry_run=dry_run)


@group.command("config")
@endpoint_argument
@click.argument("changes", nargs=-1, metavar="[KEY=VALUE]...")
@output_option
@click.pass_obj
def config(settings: Settings, endpoint: str, changes: tuple[str, ...], output: str) -> None:
    """Show or set one endpoint's switches; VALUE is on, off, or default for what the node has.

    \b
    Examples:
      podlane endpoint config 7
      podlane endpoint config default/web-0 debug=on trace=on
    """
    options.show_or_set(settings, selector(endpoint), changes, output)
