"""`podlane ipam`: who holds which address, how full the pools are, and which node has which range of the cluster."""

import time
from collections.abc import Iterable
from ipaddress import ip_network
from typing import Any

import click

from cli import garbage
from cli.connect import ask, ask_all, ipam
from cli.present import age, enum_name, output_option, plain, show_json, show_table
from services.common.config import Settings
from services.common.model import Network


@click.group("ipam", help="Addresses and pools.")
def group() -> None:
    """Hold the verbs."""


@group.command("list")
@click.option("--pool", default="", help="Only this pool.")
@output_option
@click.pass_obj
def list_allocations(settings: Settings, pool: str, output: str) -> None:
    """List allocations with their owners. `ipam only`: another plugin's interface has them, by podlane-ipam.

    \b
    Example: podlane ipam list -o json | jq '.[] | select(.state == "reserved")'
    """
    from podlane.ipam.v1 import ipam_pb2

    request = ipam_pb2.ListAllocationsRequest(pool=pool)
    found = ask_all(ipam(settings), "ListAllocations", request, "allocations")
    if output == "json":
        show_json([plain(allocation) for allocation in found])
        return
    columns = ("ADDRESS", "POOL", "STATE", "ENDPOINT", "POD", "CONTAINER", "IFNAME", "AGE")
    rows = [row for allocation in found for row in _rows(allocation)]
    show_table(columns, rows, "no addresses are allocated")


def _rows(allocation: Any) -> list[tuple[str, ...]]:
    state = enum_name(allocation.DESCRIPTOR.fields_by_name["state"].enum_type, allocation.state)
    pod = f"{allocation.pod.namespace}/{allocation.pod.name}" if allocation.pod.name else "-"
    return [
        (
            plain(assigned.address),
            allocation.pool,
            state,
            str(allocation.endpoint_id or ("ipam only" if state == "confirmed" else "-")),
            pod,
            allocation.owner.container_id[:12],
            allocation.owner.ifname,
            age(time.time() - allocation.created.seconds),
        )
        for assigned in allocation.addresses
    ]


@group.command("pools")
@output_option
@click.pass_obj
def list_pools(settings: Settings, output: str) -> None:
    """List the pools with their ranges and how full each is."""
    from podlane.ipam.v1 import ipam_pb2

    reply = ask(ipam(settings), "ListPools", ipam_pb2.ListPoolsRequest())
    if output == "json":
        show_json([plain(pool) for pool in reply.pools])
        return
    columns = ("POOL", "RANGE", "GATEWAY", "SIZE", "USED", "RESERVED", "COOLING", "FREE")
    rows = [
        (
            pool.name,
            plain(part.prefix),
            plain(part.gateway),
            *(str(number) for number in (part.size, part.used, part.reserved, part.cooling, part.size - part.used)),
        )
        for pool in reply.pools
        for part in pool.ranges
    ]
    show_table(columns, rows, "no range is there yet")
    _complain(reply.pools)


def _complain(pools: Iterable[Any]) -> bool:
    """Say on stderr what is wrong with pools; return whether anything is."""
    problems = [f"pool {pool.name!r}: {problem}" for pool in pools for problem in pool.problems]
    for problem in problems:
        click.echo(f"podlane: {problem}", err=True)
    return bool(problems)


@group.command("audit")
@click.option("--repair", is_flag=True, help="Release what leaked, claim what endpoints use.")
@output_option
@click.pass_context
def audit(context: click.Context, repair: bool, output: str) -> None:
    """Compare ipam's books with endpoints and links.

    Shows addresses whose owner is gone, and endpoints whose addresses ipam does not hold for them; and on stderr what
    is wrong with the ranges. Exit code 1 when there is anything that was not repaired.

    \b
    Example: podlane ipam audit || podlane ipam audit --repair
    """
    from podlane.ipam.v1 import ipam_pb2

    findings = garbage.collect(context.obj, ("address",), dry_run=not repair)
    garbage.show(findings, output, "ipam's books are right")
    wrong = _complain(ask(ipam(context.obj), "ListPools", ipam_pb2.ListPoolsRequest()).pools)
    if wrong or any(garbage.is_open(finding) for finding in findings):
        context.exit(1)


@group.command("claims")
@output_option
@click.pass_obj
def list_claims(settings: Settings, output: str) -> None:
    """List what the nodes of the cluster have claimed of its ranges.

    \b
    claiming, held, returning: this node's
    lost:      was this node's, and is another's by now
    other:     another node's
    absent:    of a node that is not in the kvstore: it is down, or gone for good
    stranger:  of a second node of this name, or of this one before it lost its database
    """
    from podlane.ipam.v1 import ipam_pb2

    reply = ask(ipam(settings), "ListClaims", ipam_pb2.ListClaimsRequest())
    if output == "json":
        show_json([plain(claim) for claim in reply.claims])
    else:
        columns = ("POOL", "RANGE", "NODE", "SINCE", "ALLOCATIONS", "STATE")
        show_table(columns, [_claim_row(claim) for claim in reply.claims], "nothing is claimed")
    if reply.error:
        click.echo(f"podlane: other nodes' claims are missing: {reply.error}", err=True)


def _claim_row(claim: Any) -> tuple[str, ...]:
    state = enum_name(claim.DESCRIPTOR.fields_by_name["state"].enum_type, claim.state)
    own = state in {"claiming", "held", "returning", "lost"}
    since = age(time.time() - claim.claimed.seconds) if claim.HasField("claimed") else "-"
    note = f"{state} (gateway)" if claim.gateway else state
    return claim.pool, plain(claim.range), claim.node or "?", since, str(claim.allocations) if own else "-", note


@group.command("takeover")
@click.argument("range_", metavar="RANGE")
@click.option("--from", "node", required=True, metavar="NODE", help="The node that holds it and is gone for good.")
@click.option("--yes", is_flag=True, help="Really do it.")
@click.option("--force", is_flag=True, help="Although the node is in the kvstore, so that it seems to be alive.")
@click.pass_obj
def take_over(settings: Settings, range_: str, node: str, yes: bool, force: bool) -> None:
    """Make this node the holder of a range that a dead node has claimed.

    The dead node must never come back with its pods: their addresses are given out again, here. A node that does come
    back gives nothing out of the range any more, but its pods keep their addresses until they are deleted, and
    whichever node was heard last has the traffic.

    \b
    Example: podlane ipam takeover 10.1.2.0/24 --from node-7 --yes
    """
    from podlane.ipam.v1 import ipam_pb2

    from services.common import wire

    prefix = _read_range(range_)
    if not yes:
        raise click.UsageError(
            f"the addresses of {prefix} will be given out again on this node, whatever pods of {node} still use them: "
            f"{node} must be dead for good; --yes says so"
        )
    request = ipam_pb2.TakeOverClaimRequest(range=wire.write_network(prefix), from_node=node, force=force)
    ask(ipam(settings), "TakeOverClaim", request)
    click.echo(f"{prefix} is this node's now; {node} had it")


@group.command("release-claim")
@click.argument("range_", metavar="RANGE")
@click.pass_obj
def release_claim(settings: Settings, range_: str) -> None:
    """Give a range that this node has claimed back to the cluster now, if nobody has an address of it."""
    from podlane.ipam.v1 import ipam_pb2

    from services.common import wire

    prefix = _read_range(range_)
    ask(ipam(settings), "ReleaseClaim", ipam_pb2.ReleaseClaimRequest(range=wire.write_network(prefix)))
    click.echo(f"{prefix} is given back")


def _read_range(text: str) -> Network:
    try:
        return ip_network(text)
    except ValueError as error:
        raise click.BadParameter(f"{error}", param_hint="RANGE") from None
