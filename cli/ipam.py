"""`podlane ipam`: who holds which address, and how full the pools are."""

import time
from typing import Any

import click

from cli import garbage
from cli.connect import ask, ask_all, ipam
from cli.present import age, enum_name, output_option, plain, show_json, show_table
from services.common.config import Settings


@click.group("ipam", help="Addresses and pools.")
def group() -> None:
    """Hold the verbs."""


@group.command("list")
@click.option("--pool", default="", help="Only this pool.")
@output_option
@click.pass_obj
def list_allocations(settings: Settings, pool: str, output: str) -> None:
    """List allocations with their owners.

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
            str(allocation.endpoint_id or "-"),
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
    show_table(columns, rows, "no pools are configured")


@group.command("audit")
@click.option("--repair", is_flag=True, help="Release what leaked, claim what endpoints use.")
@output_option
@click.pass_context
def audit(context: click.Context, repair: bool, output: str) -> None:
    """Compare ipam's books with endpoints and links.

    Shows addresses whose owner is gone, and endpoints whose addresses ipam does not hold for them. Exit code 1 when
    there are any that were not repaired.

    \b
    Example: podlane ipam audit || podlane ipam audit --repair
    """
    findings = garbage.collect(context.obj, ("address",), dry_run=not repair)
    garbage.show(findings, output, "ipam's books are right")
    if any(garbage.is_open(finding) for finding in findings):
        context.exit(1)
