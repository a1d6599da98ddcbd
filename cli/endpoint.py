"""`podlane endpoint`: the pods' endpoints as the endpoint service knows them."""

import time
from ipaddress import ip_address
from typing import Any

import click

from cli import connect, options
from cli.endpoint_text import describe, describe_health, log_lines
from cli.identity import labels as spelled
from cli.present import age, enum_name, output_option, plain, show_json, show_table
from services.common.config import Settings
from services.common.errors import InvalidArgument


@click.group("endpoint", help="The pods' endpoints.")
def group() -> None:
    """Hold the verbs."""


@group.command("list")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "wide", "json"]),
    default="table",
    show_default=True,
    help="How to print; wide: with the policies that isolate, and what identities are made of.",
)
@click.pass_obj
def list_endpoints(settings: Settings, output: str) -> None:
    """List the endpoints of this node.

    \b
    Examples:
      podlane endpoint list -o wide
      podlane endpoint list -o json | jq -r '.[] | select(.state != "ready") | .id'
    """
    from podlane.endpoint.v1 import endpoint_pb2

    request = endpoint_pb2.ListEndpointsRequest()
    found = connect.ask_all(connect.endpoint(settings), "ListEndpoints", request, "endpoints")
    if output == "json":
        show_json([plain(endpoint) for endpoint in found])
        return
    columns: tuple[str, ...] = ("ENDPOINT", "STATE", "IDENTITY", "POD", "IPV4", "IPV6", "INTERFACE", "CONTAINER", "AGE")
    rows = [_row(endpoint) for endpoint in found]
    if output == "wide":
        columns += ("INGRESS POLICIES", "EGRESS POLICIES", "LABELS")
        rows = [row + _wide(endpoint) for row, endpoint in zip(rows, found, strict=True)]
    show_table(columns, rows, "no endpoints")


def _row(endpoint: Any) -> tuple[str, ...]:
    by_version = {4: "-", 6: "-"}
    for assigned in endpoint.addresses:
        address = ip_address(assigned.address.address.packed)
        by_version[address.version] = str(address)
    return (
        str(endpoint.id),
        _state(endpoint),
        str(endpoint.identity),
        f"{endpoint.pod.namespace}/{endpoint.pod.name}" if endpoint.pod.name else "-",
        by_version[4],
        by_version[6],
        endpoint.link.host_ifname,
        endpoint.attachment.container_id[:12],
        age(time.time() - endpoint.created.seconds),
    )


def _state(endpoint: Any) -> str:
    """Return the state, and where it stands if it waits for its turn: `waiting-to-regenerate 12/190 ~3.4s`."""
    state = enum_name(endpoint.DESCRIPTOR.fields_by_name["state"].enum_type, endpoint.state)
    if not endpoint.HasField("place"):
        return state
    place = endpoint.place
    expected = f" ~{place.estimate_us / 1e6:.1f}s" if place.HasField("estimate_us") else ""
    return f"{state} {place.position}/{place.waiting}{expected}"


def _wide(endpoint: Any) -> tuple[str, ...]:
    return (
        ",".join(endpoint.ingress_policies) or "-",
        ",".join(endpoint.egress_policies) or "-",
        ",".join(spelled(endpoint.identity_labels)) or "-",
    )


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
@click.argument("endpoint")
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
@click.argument("endpoint")
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
@click.argument("endpoint")
@output_option
@click.pass_obj
def log(settings: Settings, endpoint: str, output: str) -> None:
    """Show an endpoint's log, its newest 256 entries: ENDPOINT is an id, an address or namespace/pod."""
    found = get(settings, endpoint)
    if output == "json":
        show_json(plain(found)["log"])
        return
    for line in log_lines(found):
        click.echo(line)


@group.command("health")
@click.argument("endpoint")
@output_option
@click.pass_obj
def health(settings: Settings, endpoint: str, output: str) -> None:
    """Show how an endpoint is, and why: ENDPOINT is an id, an address or namespace/pod.

    Exit code 1 when its health is a warning or a failure.
    """
    found = get(settings, endpoint)
    if output == "json":
        show_json(plain(found.health))
    else:
        for line in (describe_health(found.health), *found.health.reasons):
            click.echo(line)
    if found.health.overall in {found.health.STATUS_WARNING, found.health.STATUS_FAILURE}:
        raise SystemExit(1)


@group.command("check")
@click.argument("endpoint")
@click.option("--repair", is_flag=True, help="Mend what is wrong, then check again.")
@output_option
@click.pass_obj
def check(settings: Settings, endpoint: str, repair: bool, output: str) -> None:
    """Compare an endpoint with the kernel, its pod, ipam's books and the kvstore, as CNI CHECK does.

    Exit code 1 when something is wrong, and with --repair when something still is.
    """
    from cli import endpoint_check

    raise SystemExit(endpoint_check.run(settings, selector(endpoint), repair=repair, output=output))


@group.command("regenerate")
@click.argument("endpoint")
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
@click.argument("endpoint")
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
