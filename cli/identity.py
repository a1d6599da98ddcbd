"""`podlane identity`: who endpoints are, as policy sees it."""

from typing import Any

import click
from podlane.endpoint.v1 import policy_pb2

from cli.connect import ask, policy
from cli.listing import How, Listing, listing_options, show
from cli.present import duration, labels, output_option, plain, show_json
from services.common.config import Settings
from services.common.errors import NotFound


@click.group("identity", help="Sets of labels, and the numbers that stand for them.")
def group() -> None:
    """Hold the verbs."""


@group.command("list")
@listing_options
@click.pass_obj
def list_identities(settings: Settings, how: How) -> None:
    """List the identities that are known on this node, reserved ones and those of prefixes included.

    \b
    Examples:
      podlane identity list
      podlane identity list -o json | jq '.[] | select(.labels["k8s:app"] == "web") | .id'
    """
    request = policy_pb2.ListIdentitiesRequest()
    show(_LISTING, lambda: ask(policy(settings), "ListIdentities", request).identities, how)


@group.command("get")
@click.argument("identity", type=click.IntRange(1, 0xFFFFFFFF))
@output_option
@click.pass_obj
def get_identity(settings: Settings, identity: int, output: str) -> None:
    """Show one identity: its labels, who has it, and which policies are about it.

    \b
    Examples:
      podlane identity get 300
      podlane identity get 1 -o yaml
    """
    request = policy_pb2.ListIdentitiesRequest(identity=identity)
    found = ask(policy(settings), "ListIdentities", request).identities
    if not found:
        raise NotFound(f"identity {identity} is not known on this node: `podlane identity list` has those that are")
    if output == "json":
        show_json(plain(found[0]))
        return
    for line in _describe(found[0]):
        click.echo(line)


def _row(identity: Any) -> tuple[str, ...]:
    return (str(identity.id), _stands_for(identity), _endpoints(identity), _policies(identity), _expires(identity))


_LISTING = Listing(
    titles=("IDENTITY", "STANDS FOR", "ENDPOINTS", "POLICIES", "EXPIRES"),
    rows=lambda identity: [_row(identity)],
    empty="no identities",
    name=lambda identity: f"identity/{identity.id}",
    flexible="STANDS FOR",
)


def _describe(identity: Any) -> list[str]:
    lines = [f"identity    {identity.id}"]
    if identity.HasField("prefix"):
        lines.append(f"prefix      {plain(identity.prefix)}")
    lines += [f"label       {label}" for label in labels(identity.labels)]
    return [
        *lines,
        f"endpoints   {_endpoints(identity)}",
        f"policies    {_policies(identity)}",
        f"expires     {_expires(identity)}",
    ]


def _stands_for(identity: Any) -> str:
    if identity.HasField("prefix"):
        return str(plain(identity.prefix))
    return ",".join(labels(identity.labels)) or "-"


def _endpoints(identity: Any) -> str:
    return ",".join(map(str, identity.endpoints)) or "-"


def _policies(identity: Any) -> str:
    return ",".join(identity.policies) or "-"


def _expires(identity: Any) -> str:
    return f"in {duration(identity.expires_in_seconds)}" if identity.expires_in_seconds else "-"
