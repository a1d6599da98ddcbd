"""`podlane status`: how it is with this node, in one page."""

from typing import Any

import click
from podlane.endpoint.v1 import cluster_pb2

from cli import cni, node
from cli.connect import ask, cluster
from cli.present import age, duration, output_option, plain, show_json, show_table
from services.common.config import Settings
from services.common.errors import PodlaneError


@click.command("status")
@output_option
@click.pass_obj
def group(settings: Settings, output: str) -> None:
    """Show the services, the kvstore, the other nodes and the deletion journal. Exit code 1 when something isn't right.

    \b
    Examples:
      podlane status
      podlane status -o json | jq .cluster.kvstore.lease_left_ms
    """
    services = node.states(settings)
    found: Any = None
    lost = ""
    try:
        found = ask(cluster(settings), "GetCluster", cluster_pb2.GetClusterRequest())
    except PodlaneError as error:
        lost = error.message
    wrong = [f"podlane-{one['service']} is {one['health']}" for one in services if one["health"] != "serving"]
    wrong += _wrong(found) if found is not None else [lost]
    journal = _journal(settings, lost, wrong)
    if output == "json":
        told = plain(found) if found is not None else None
        show_json({"services": services, "cluster": told, "deletion_journal": journal, "problems": wrong})
    else:
        _show(services, found, wrong, journal)
    if wrong:
        raise SystemExit(1)


def _wrong(found: Any) -> list[str]:
    wrong = []
    if not found.kvstore.reachable:
        wrong.append(f"kvstore: {found.kvstore.error}")
    if found.registration_error and found.registration_error != found.kvstore.error:
        wrong.append(f"registration: {found.registration_error}")
    wrong += [f"kvstore member {one.endpoint}: {one.error}" for one in found.kvstore.members if one.error]
    wrong += list(found.problems)
    if found.provisional:
        ids = ", ".join(map(str, found.provisional))
        wrong.append(f"endpoints {ids}: other nodes don't know their identity yet; see `podlane endpoint get`")
    return wrong


def _journal(settings: Settings, lost: str, wrong: list[str]) -> dict[str, Any]:
    """Return depth and age of the deletion journal, and add to what is wrong."""
    try:
        found, _ = cni.deletions(settings, lost)
    except PodlaneError as error:
        wrong.append(error.message)
        found = []
    waiting = [one for one in found if one.HasField("attachment")]
    failing = [one for one in found if one.last_error]
    if failing:
        first = failing[0]
        more = f", and {len(failing) - 1} more" if len(failing) > 1 else ""
        wrong.append(f"deletion {first.file}{more}: {first.last_error}; see `podlane cni journal`")
    oldest = max(map(cni.waited, waiting), default=0.0)
    return {"waiting": len(waiting), "unreadable": len(found) - len(waiting), "oldest_seconds": round(oldest, 1)}


def _show(services: list[dict[str, Any]], found: Any, wrong: list[str], journal: dict[str, Any]) -> None:
    for one in services:
        click.echo(f"{'podlane-' + one['service']:18}{one['health']}")
    if journal["waiting"]:
        click.echo(f"{'deletions':18}{journal['waiting']} wait, the oldest for {age(journal['oldest_seconds'])}")
    if found is not None:
        for name, text in _lines(found):
            click.echo(f"{name:18}{text}")
        if found.nodes:
            click.echo()
            rows = [_row(one, found.node) for one in found.nodes]
            show_table(("NODE", "ADDRESS", "POD RANGES", "ROUTING"), rows, "")
    for problem in wrong:
        click.echo(f"! {problem}")


def _lines(found: Any) -> list[tuple[str, str]]:
    store = found.kvstore
    health = "reachable" if store.reachable else f"unreachable for {duration(store.unreachable_ms / 1000)}"
    lines = [("kvstore", f"{store.kind}, {health}, {store.waiting} requests waiting")]
    lines += [("  member", _member(one)) for one in store.members]
    if store.lease:
        lost = f", {store.leases_lost} lost" if store.leases_lost else ""
        lines.append(("  lease", f"{store.lease:x}, {duration(store.lease_left_ms / 1000)} left{lost}"))
    if store.HasField("event_age_ms"):
        lines.append(("  last event", f"{duration(store.event_age_ms / 1000)} ago"))
    if found.nodes or found.routing:
        registered = found.registration_error or "registered"
        lines.append(("cluster", f"{found.name}: this node is {found.node}, {registered}; {found.routing} routing"))
        lines.append(("ipcache", f"{found.ipcache.entries} addresses, {found.ipcache.pending} not in the datapath yet"))
    return lines


def _member(member: Any) -> str:
    if member.error:
        return f"{member.endpoint}: {member.error}"
    return f"{member.endpoint}, etcd {member.version}{', leader' if member.leader else ''}"


def _row(one: Any, own: str) -> tuple[str, ...]:
    shown = plain(one)
    name = f"{one.name} (this)" if one.name == own else one.name
    return (name, shown["address"], ",".join(shown["pod_cidrs"]) or "-", one.routing)
