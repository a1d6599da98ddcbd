"""`podlane bpf`: what is in the kernel, each map with names in place of numbers.

    endpoint   address → local endpoint             call      endpoint → its policy program (a PROG_ARRAY)
    policy     rules of one endpoint (bpf_policy)   prefixes  address prefix → identity
    ipcache    address elsewhere → identity, node   ct        live flows (bpf_traffic)
    metrics    drops (bpf_traffic)                  prog, fs  programs and pins (bpf_kernel)

The loader reads the maps, the endpoint service knows the names (bpf_names). Nothing here changes a map. There is no map
of tunnels: where a packet goes is with its address in the ipcache.
"""

from collections.abc import Callable
from ipaddress import ip_address, ip_network
from typing import Any

import click

from cli import bpf_kernel, bpf_policy, bpf_traffic
from cli.bpf_names import Names, dump, fetching
from cli.listing import How, Listing, Row, listing_options, show
from cli.present import output_option, plain, show_json, show_table
from services.common.config import Settings
from services.common.errors import NotFound


@click.group("bpf", help="What is in the kernel: each map with names, programs, pins.")
def group() -> None:
    """Hold the maps."""


def _map(name: str, text: str) -> click.Group:
    """Make a map's group of verbs."""
    made = click.Group(name, help=text)
    group.add_command(made)
    return made


group.add_command(bpf_policy.group)
group.add_command(bpf_kernel.programs)
group.add_command(bpf_kernel.pins)
group.add_command(bpf_traffic.flows)
group.add_command(bpf_traffic.drops)
_endpoint = _map("endpoint", "Address → endpoint of this node.")
_call = _map("call", "Endpoint → the policy program that decides what may come in.")
_prefixes = _map("prefixes", "Address prefix → identity, of policies' ipBlocks.")
_ipcache = _map("ipcache", "Address of another node's pod → identity and node.")


def _with_identity(names: Names) -> Callable[[Any], Any]:
    return lambda entry: plain(entry) | {"identity_name": names.identity(entry.identity)}


@_endpoint.command("list")
@listing_options
@click.pass_obj
def list_endpoints(settings: Settings, how: How) -> None:
    """List the addresses that are on this node: endpoints, and the node's own (without an endpoint).

    \b
    Examples:
      podlane bpf endpoint list
      podlane bpf endpoint list -o json | jq -r '.[] | select(.pod == "shop/web-0") | .address'
    """
    names = Names(settings)

    def row(entry: Any) -> list[Row]:
        macs = (plain(entry.pod_mac), plain(entry.host_mac))
        id_ = str(entry.endpoint_id or "-")
        pod = names.pod(entry.endpoint_id) if entry.endpoint_id else "(the node)"
        identity = names.identity(entry.identity)
        return [(plain(entry.address), id_, pod, str(entry.identity), str(entry.ifindex or "-"), *macs, identity)]

    listing = Listing(
        titles=("ADDRESS", "ENDPOINT", "POD", "IDENTITY", "IFINDEX", "POD MAC", "HOST MAC"),
        wide=("STANDS FOR",),
        rows=row,
        empty="no addresses",
        name=lambda entry: f"endpoints/{plain(entry.address)}",
        flexible="POD",
        plain=lambda entry: _with_identity(names)(entry) | {"pod": names.pod(entry.endpoint_id)},
    )
    show(listing, fetching(names, lambda: dump(settings, "endpoints", "endpoint")), how)


@_call.command("list")
@listing_options
@click.pass_obj
def list_calls(settings: Settings, how: How) -> None:
    """List the filled slots of the PROG_ARRAY that delivery tail-calls into: one for each endpoint.

    \b
    Examples:
      podlane bpf call list
    """
    names = Names(settings)
    listing = Listing(
        titles=("ENDPOINT", "POD", "PROGRAM ID"),
        rows=lambda entry: [(str(entry.endpoint_id), names.pod(entry.endpoint_id), str(entry.program_id))],
        empty="no slot is filled",
        name=lambda entry: f"call_policy/{entry.endpoint_id}",
        plain=lambda entry: plain(entry) | {"pod": names.pod(entry.endpoint_id)},
    )
    show(listing, fetching(names, lambda: dump(settings, "call_policy", "call_policy")), how)


@_prefixes.command("list")
@listing_options
@click.pass_obj
def list_prefixes(settings: Settings, how: How) -> None:
    """List the prefixes that have identities, and with -o wide the policies that name them.

    \b
    Examples:
      podlane bpf prefixes list -o wide
    """
    names = Names(settings)
    listing = Listing(
        titles=("PREFIX", "IDENTITY"),
        wide=("POLICIES",),
        rows=lambda entry: [
            (plain(entry.prefix), str(entry.identity), ",".join(names.policies(entry.identity)) or "-")
        ],
        empty="no prefixes",
        name=lambda entry: f"prefixes/{plain(entry.prefix)}",
        plain=lambda entry: plain(entry) | {"policies": names.policies(entry.identity)},
    )
    show(listing, fetching(names, lambda: dump(settings, "prefixes", "prefix")), how)


@_ipcache.command("list")
@listing_options
@click.pass_obj
def list_ipcache(settings: Settings, how: How) -> None:
    """List who is behind the addresses of other nodes' pods, and which node packets to them are tunnelled to.

    \b
    Examples:
      podlane bpf ipcache list
      podlane bpf ipcache list -o json | jq -r '.[] | select(.node == "192.0.2.7") | .address'
    """
    names = Names(settings)
    listing = Listing(
        titles=("ADDRESS", "IDENTITY", "NODE", "STANDS FOR"),
        rows=lambda entry: [
            (
                plain(entry.address),
                str(entry.identity),
                plain(entry.node) if entry.HasField("node") else "(routed)",
                names.identity(entry.identity),
            )
        ],
        empty="no addresses of other nodes",
        name=lambda entry: f"ipcache/{plain(entry.address)}",
        plain=_with_identity(names),
    )
    show(listing, fetching(names, lambda: dump(settings, "ipcache", "ipcache", long=True)), how)


@_ipcache.command("get")
@click.argument("address")
@output_option
@click.pass_obj
def get_address(settings: Settings, address: str, output: str) -> None:
    """Say whom the programs take an address for: an endpoint, another node's pod, or what a prefix stands for.

    They look in this order: the endpoint map, the ipcache, the longest prefix. Exit code 3 when none has it: then it is
    reserved:world.

    \b
    Examples:
      podlane bpf ipcache get 10.244.3.7
    """
    try:
        wanted = ip_address(address)
    except ValueError:
        raise click.BadParameter(f"{address!r} is no address", param_hint="ADDRESS") from None
    found = _lookup(settings, wanted)
    if found is None:
        raise NotFound(f"no map has {wanted}: the programs take it for reserved:world")
    where, entry = found
    names = Names(settings)
    names.refresh()
    name = names.identity(entry.identity)
    if output == "json":
        show_json({"map": where, "entry": plain(entry), "identity_name": name})
        return
    told = plain(entry)
    key = told["prefix"] if where == "prefixes" else told["address"]
    behind = names.pod(entry.endpoint_id) if where == "endpoints" else told.get("node", "-")
    show_table(
        ("MAP", "KEY", "BEHIND IT", "IDENTITY", "STANDS FOR"), [(where, key, behind, str(entry.identity), name)], ""
    )


def _lookup(settings: Settings, wanted: Any) -> tuple[str, Any] | None:
    for name, field in (("endpoints", "endpoint"), ("ipcache", "ipcache")):
        for entry in dump(settings, name, field, long=name == "ipcache"):
            if entry.address.packed == wanted.packed:
                return name, entry
    prefixes = [one for one in dump(settings, "prefixes", "prefix") if wanted in ip_network(plain(one.prefix))]
    return ("prefixes", max(prefixes, key=lambda one: one.prefix.length)) if prefixes else None
