"""`podlane kvstore`: what the nodes tell each other."""

from typing import Any

import click
from podlane.endpoint.v1 import cluster_pb2

from cli.connect import ask, cluster, follow
from cli.listing import How, Listing, listing_options, show
from services.common.config import Settings


@click.group("kvstore", help="What the nodes of a cluster tell each other; of a node that is alone, its own records.")
def group() -> None:
    """Hold the verbs."""


@group.command("list")
@click.argument("prefix", default="")
@listing_options
@click.pass_obj
def list_entries(settings: Settings, prefix: str, how: How) -> None:
    """List entries, with names in place of numbers. PREFIX is a path below the root.

    \b
    Examples:
      podlane kvstore list state/nodes
      podlane kvstore list state/ip -o json | jq -r '.[] | select(.text | contains("shop/web")) | .key'
    """
    show(_LISTING, lambda: _entries(settings, prefix), how)


def _entries(settings: Settings, prefix: str) -> list[Any]:
    found: list[Any] = []
    request = cluster_pb2.ListEntriesRequest(prefix=prefix)
    follow(cluster(settings), "ListEntries", request, lambda: None, lambda part: found.extend(part.entries))
    return found


@group.command("get")
@click.argument("key")
@click.pass_obj
def get_entry(settings: Settings, key: str) -> None:
    """Show the value of one key, as it is there.

    \b
    Examples:
      podlane kvstore get state/ip/v1/10.244.1.7 | jq .identity
    """
    click.echo(ask(cluster(settings), "GetEntry", cluster_pb2.GetEntryRequest(key=key)).entry.value)


@group.command("watch")
@click.argument("prefix", default="")
@click.option("--changes", is_flag=True, help="Only what changes from now on, not what is there.")
@click.pass_obj
def watch_entries(settings: Settings, prefix: str, changes: bool) -> None:
    """Show entries and then every change, until interrupted. A key that is gone is shown with `-`.

    \b
    Examples:
      podlane kvstore watch state/nodes --changes
    """

    def show(message: Any) -> None:
        if changes and not message.changed:
            return
        for one in message.entries:
            click.echo(f"+ {one.key}  {one.text}")
        for key in message.removed:
            click.echo(f"- {key}")

    follow(cluster(settings), "WatchEntries", cluster_pb2.WatchEntriesRequest(prefix=prefix), lambda: None, show)


def _row(entry: Any) -> tuple[str, ...]:
    return (entry.key, str(entry.revision), "yes" if entry.leased else "-", entry.text)


_LISTING = Listing(
    titles=("KEY", "REVISION", "LEASED", "SAYS"),
    rows=lambda entry: [_row(entry)],
    empty="no entries",
    name=lambda entry: str(entry.key),
)
