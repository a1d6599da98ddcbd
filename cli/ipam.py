"""`podlane ipam`: who holds which address, how full the pools are, and which node has which range of the cluster."""

import time
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

import click

from cli import garbage
from cli.connect import ask, ask_all, ipam
from cli.listing import How, Listing, listing_options, show
from cli.present import age, enum_name, output_option, plain, pod_name
from services.common.config import Settings


@click.group("ipam", help="Addresses and pools.")
def group() -> None:
    """Hold the verbs."""


@group.command("list")
@click.option("--pool", default="", help="Only this pool.")
@listing_options
@click.pass_obj
def list_allocations(settings: Settings, pool: str, how: How) -> None:
    """List allocations with their owners. `ipam only`: another plugin's interface has them, by podlane-ipam.

    \b
    Examples:
      podlane ipam list --pool default
      podlane ipam list -o json | jq '.[] | select(.state == "reserved")'
    """
    from podlane.ipam.v1 import ipam_pb2

    request = ipam_pb2.ListAllocationsRequest(pool=pool)
    show(_ALLOCATIONS, lambda: _allocations(settings, request), how)


def _allocations(settings: Settings, request: Any) -> list[Any]:
    request.page_token = ""
    return ask_all(ipam(settings), "ListAllocations", request, "allocations")


def _rows(allocation: Any) -> list[tuple[str, ...]]:
    state = enum_name(allocation.DESCRIPTOR.fields_by_name["state"].enum_type, allocation.state)
    return [
        (
            plain(assigned.address),
            allocation.pool,
            state,
            str(allocation.endpoint_id or ("ipam only" if state == "confirmed" else "-")),
            pod_name(allocation.pod),
            allocation.owner.container_id[:12],
            allocation.owner.ifname,
            age(time.time() - allocation.created.seconds),
            allocation.owner.network,
        )
        for assigned in allocation.addresses
    ]


_ALLOCATIONS = Listing(
    titles=("ADDRESS", "POOL", "STATE", "ENDPOINT", "POD", "CONTAINER", "IFNAME", "AGE"),
    wide=("NETWORK",),
    rows=_rows,
    empty="no addresses are allocated",
    name=lambda allocation: f"allocation/{_owner(allocation.owner)}",
    flexible="POD",
)


def _owner(owner: Any) -> str:
    return f"{owner.network}/{owner.container_id}/{owner.ifname}"


@group.command("pools")
@listing_options
@click.pass_obj
def list_pools(settings: Settings, how: How) -> None:
    """List the pools with their ranges and how full each is.

    \b
    Examples:
      podlane ipam pools
      podlane ipam pools --watch --interval 1
    """
    from podlane.ipam.v1 import ipam_pb2

    found = show(_POOLS, lambda: ask(ipam(settings), "ListPools", ipam_pb2.ListPoolsRequest()).pools, how)
    if how.output in {"table", "wide"}:
        _complain(found)


def _ranges(pool: Any) -> list[tuple[str, ...]]:
    return [
        (
            pool.name,
            plain(part.prefix),
            plain(part.gateway),
            *(str(number) for number in (part.size, part.used, part.reserved, part.cooling, part.size - part.used)),
        )
        for part in pool.ranges
    ]


_POOLS = Listing(
    titles=("POOL", "RANGE", "GATEWAY", "SIZE", "USED", "RESERVED", "COOLING", "FREE"),
    rows=_ranges,
    empty="no range is there yet",
    name=lambda pool: f"pool/{pool.name}",
)


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
    Examples:
      podlane ipam audit || podlane ipam audit --repair
    """
    from podlane.ipam.v1 import ipam_pb2

    findings = garbage.collect(context.obj, ("address",), dry_run=not repair)
    garbage.show(findings, output, "ipam's books are right")
    wrong = _complain(ask(ipam(context.obj), "ListPools", ipam_pb2.ListPoolsRequest()).pools)
    if wrong or any(garbage.is_open(finding) for finding in findings):
        context.exit(1)


@group.command("claims")
@listing_options
@click.pass_obj
def list_claims(settings: Settings, how: How) -> None:
    """List what the nodes of the cluster have claimed of its ranges.

    \b
    claiming, held, returning: this node's
    lost:      was this node's, and is another's by now
    other:     another node's
    absent:    of a node that is not in the kvstore: it is down, or gone for good
    stranger:  of a second node of this name, or of this one before it lost its database

    \b
    Examples:
      podlane ipam claims
      podlane ipam claims -o json | jq -r '.[] | select(.state == "absent") | .node'
    """
    show(_CLAIMS, lambda: _claims(settings), how)


def _claims(settings: Settings) -> list[Any]:
    from podlane.ipam.v1 import ipam_pb2

    reply = ask(ipam(settings), "ListClaims", ipam_pb2.ListClaimsRequest())
    if reply.error:
        click.echo(f"podlane: other nodes' claims are missing: {reply.error}", err=True)
    return list(reply.claims)


def _claim_row(claim: Any) -> tuple[str, ...]:
    state = enum_name(claim.DESCRIPTOR.fields_by_name["state"].enum_type, claim.state)
    own = state in {"claiming", "held", "returning", "lost"}
    since = age(time.time() - claim.claimed.seconds) if claim.HasField("claimed") else "-"
    note = f"{state} (gateway)" if claim.gateway else state
    return claim.pool, plain(claim.range), claim.node or "?", since, str(claim.allocations) if own else "-", note


_CLAIMS = Listing(
    titles=("POOL", "RANGE", "NODE", "SINCE", "ALLOCATIONS", "STATE"),
    rows=lambda claim: [_claim_row(claim)],
    empty="nothing is claimed",
    name=lambda claim: f"claim/{claim.pool}/{plain(claim.range)}",
)


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
    Examples:
      podlane ipam takeover 10.1.2.0/24 --from node-7 --yes
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
    """Give a range that this node has claimed back to the cluster now, if nobody has an address of it.

    \b
    Examples:
      podlane ipam release-claim 10.1.2.0/24
    """
    from podlane.ipam.v1 import ipam_pb2

    from services.common import wire

    prefix = _read_range(range_)
    ask(ipam(settings), "ReleaseClaim", ipam_pb2.ReleaseClaimRequest(range=wire.write_network(prefix)))
    click.echo(f"{prefix} is given back")


def _read_range(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text)
    except ValueError as error:
        raise click.BadParameter(f"{error}", param_hint="RANGE") from None
