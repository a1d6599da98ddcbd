"""`podlane endpoint`: the pods' endpoints as the endpoint service knows them."""

import time
from ipaddress import ip_address
from typing import Any

import click

from cli import connect
from cli.present import age, enum_name, output_option, plain, show_json, show_table
from services.common.config import Settings
from services.common.errors import InvalidArgument


@click.group("endpoint", help="The pods' endpoints.")
def group() -> None:
    """Hold the verbs."""


@group.command("list")
@output_option
@click.pass_obj
def list_endpoints(settings: Settings, output: str) -> None:
    """List the endpoints of this node.

    \b
    Example: podlane endpoint list -o json | jq -r '.[] | select(.state != "ready") | .id'
    """
    from podlane.endpoint.v1 import endpoint_pb2

    request = endpoint_pb2.ListEndpointsRequest()
    found = connect.ask_all(connect.endpoint(settings), "ListEndpoints", request, "endpoints")
    if output == "json":
        show_json([plain(endpoint) for endpoint in found])
        return
    columns = ("ENDPOINT", "STATE", "IDENTITY", "POD", "IPV4", "IPV6", "INTERFACE", "CONTAINER", "AGE")
    show_table(columns, [_row(endpoint) for endpoint in found], "no endpoints")


def _row(endpoint: Any) -> tuple[str, ...]:
    by_version = {4: "-", 6: "-"}
    for assigned in endpoint.addresses:
        address = ip_address(assigned.address.address.packed)
        by_version[address.version] = str(address)
    return (
        str(endpoint.id),
        enum_name(endpoint.DESCRIPTOR.fields_by_name["state"].enum_type, endpoint.state),
        str(endpoint.identity),
        f"{endpoint.pod.namespace}/{endpoint.pod.name}" if endpoint.pod.name else "-",
        by_version[4],
        by_version[6],
        endpoint.link.host_ifname,
        endpoint.attachment.container_id[:12],
        age(time.time() - endpoint.created.seconds),
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
    from podlane.endpoint.v1 import endpoint_pb2

    request = endpoint_pb2.GetEndpointRequest(selector=selector(endpoint))
    reply = connect.ask(connect.endpoint(settings), "GetEndpoint", request)
    if output == "json":
        show_json(plain(reply.endpoint))
        return
    for line in _describe(reply.endpoint):
        click.echo(line)


def _describe(endpoint: Any) -> list[str]:
    told = plain(endpoint)
    pod = f"{endpoint.pod.namespace}/{endpoint.pod.name}" if endpoint.pod.name else "-"
    state = told["state"] + (f" (waiting for {endpoint.waiting_for})" if endpoint.waiting_for else "")
    link, attachment = endpoint.link, endpoint.attachment
    lines = [
        f"endpoint    {endpoint.id} (generation {endpoint.generation})",
        f"state       {state}",
        f"identity    {endpoint.identity}",
        f"pod         {pod}",
        f"attachment  network {attachment.network}, container {attachment.container_id}, {attachment.ifname}",
        f"addresses   {', '.join(one['address'] for one in told['addresses'])}",
        f"link        {link.host_ifname} (ifindex {link.host_ifindex}, {plain(link.host_mac)}), MTU {link.mtu}",
        f"pod mac     {plain(link.pod_mac)}",
        f"created     {told['created']}",
    ]
    if endpoint.HasField("last_regeneration"):
        lines += _describe_regeneration(endpoint.last_regeneration)
    return lines + [
        f"log         {entry['time']} {entry['type']} {entry['code']}: {entry['message']}"
        for entry in told["log"][-10:]
    ]


def _describe_regeneration(regeneration: Any) -> list[str]:
    level = enum_name(regeneration.DESCRIPTOR.fields_by_name["level"].enum_type, regeneration.level)
    outcome = f"failed: {regeneration.error}" if regeneration.error else "ok"
    phases = ", ".join(f"{phase.name} {phase.duration_us / 1000:.2f} ms" for phase in regeneration.phases)
    lines = [f"regenerated {level}, {outcome} ({'; '.join(regeneration.reasons)})", f"phases      {phases}"]
    return lines + [
        f"program     {program.name} id {program.id} tag {program.tag.hex()} at {program.hook}: "
        f"{program.instructions} instructions, {program.verified_instructions} verified"
        for program in regeneration.programs
    ]
