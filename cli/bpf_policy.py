"""`podlane bpf policy`: the policy maps as they are in the kernel, beside what policy asks for.

Each entry has the rules that it comes from. One that no rule asks for is shown as `no rule`, and those that rules ask
for and the map doesn't hold are named on stderr: for an instant that is a change under way, for longer it is a fault.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import click
from podlane.endpoint.v1 import endpoint_pb2, policy_pb2
from podlane.loader.v1 import loader_pb2

from cli import connect
from cli.bpf_names import Names
from cli.complete import endpoints
from cli.listing import How, Listing, listing_options, show
from cli.present import enum_name, plain
from services.common.config import Settings
from services.common.errors import FailedPrecondition, NotFound, Unavailable

_PROTOCOLS = {0: "any", 1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6", 132: "SCTP"}


@click.group("policy", help="The rules of an endpoint, as the kernel has them.")
def group() -> None:
    """Hold the verbs."""


@dataclass(frozen=True, slots=True)
class Rule:
    """An entry of an endpoint's map; `origins` None: nobody could be asked."""

    endpoint: int
    counted: Any
    origins: tuple[str, ...] | None


@group.command("get")
@click.argument("endpoint", required=False, shell_complete=endpoints)
@click.option("--all", "everybody", is_flag=True, help="Those of all endpoints.")
@listing_options
@click.pass_obj
def get_policy(settings: Settings, endpoint: str | None, everybody: bool, how: How) -> None:
    """Show the policy map of ENDPOINT, an id, an address or namespace/pod: who may use which ports, and by which rule.

    PACKETS and BYTES are counted only where `policy-accounting` is on.

    \b
    Examples:
      podlane bpf policy get 7
      podlane bpf policy get shop/web-0 -o wide
      podlane bpf policy get --all -o json | jq '.[] | select(.origins == [])'
    """
    if bool(endpoint) == everybody:
        raise click.UsageError("name one endpoint, or all of them: --all")
    names = Names(settings)
    chosen = names.endpoint_id(endpoint) if endpoint else 0

    def fetch() -> list[Rule]:
        ids = [chosen] if chosen else [one.id for one in datapaths(settings) if one.policy_digest]
        found = [rule for id_ in ids for rule in _rules(settings, id_, names, several=everybody)]
        names.refresh()
        return found

    show(_listing(names, everybody=everybody), fetch, how)


def datapaths(settings: Settings) -> list[Any]:
    """Return what the kernel and the state directory hold for each endpoint."""
    request = loader_pb2.ListEndpointDatapathsRequest()
    return list(connect.ask(connect.loader(settings), "ListEndpointDatapaths", request).datapaths)


def _rules(settings: Settings, id_: int, names: Names, *, several: bool) -> Iterator[Rule]:
    request = loader_pb2.DumpMapRequest(map="policy", endpoint_id=id_)
    try:
        entries = connect.ask(connect.loader(settings), "DumpMap", request).entries
    except NotFound:
        if several:
            return  # it was deleted a moment ago
        raise
    wanted = _wanted(settings, id_, names)
    for one in sorted((one.policy for one in entries), key=lambda one: _key(one.entry)):
        yield Rule(id_, one, wanted.pop(_key(one.entry), ()) if wanted is not None else None)
    for missing in wanted or ():
        click.echo(f"podlane: endpoint {id_}: the map does not hold {_spelled(missing)}", err=True)


def _wanted(settings: Settings, id_: int, names: Names) -> dict[tuple[int, ...], tuple[str, ...]] | None:
    """Return what the map is to hold, with the rules; None when nobody tells."""
    selector = endpoint_pb2.EndpointSelector(id=id_)
    request = policy_pb2.ListPolicyEntriesRequest(selector=selector)
    try:
        reply = connect.ask(connect.policy(settings), "ListPolicyEntries", request, wait=0.2)
    except (Unavailable, FailedPrecondition) as error:
        names.complain(error)
        return None
    except NotFound:
        return {}
    return {_key(one.entry): tuple(one.origins) for one in reply.entries}


def _key(entry: Any) -> tuple[int, ...]:
    return (entry.direction, entry.identity, entry.protocol, entry.port, entry.port_prefix_length, entry.deny)


def _spelled(key: tuple[int, ...]) -> str:
    direction, identity, protocol, port, length, _ = key
    way = "ingress from" if direction == loader_pb2.TRAFFIC_DIRECTION_INGRESS else "egress to"
    return f"{way} identity {identity or 'any'}, {ports(protocol, port, length)}"


def ports(protocol: int, port: int, length: int) -> str:
    """Return protocol and ports of an entry: `any`, `8080/TCP`, `8080-8095/TCP`, `TCP`."""
    name = _PROTOCOLS.get(protocol, f"protocol {protocol}")
    if not length:
        return name
    last = port | (1 << 16 - length) - 1
    return f"{port}/{name}" if last == port else f"{port}-{last}/{name}"


def _listing(names: Names, *, everybody: bool) -> Listing:
    whose = ("ENDPOINT", "POD") if everybody else ()
    return Listing(
        titles=(*whose, "DIRECTION", "ACTION", "IDENTITY", "STANDS FOR", "PORTS", "PACKETS", "BYTES", "RULE"),
        rows=lambda rule: [
            (*((str(rule.endpoint), names.pod(rule.endpoint)) if everybody else ()), *_cells(rule, names))
        ],
        empty="no entries: nothing may pass",
        name=lambda rule: f"policy/{rule.endpoint}/{'-'.join(map(str, map(int, _key(rule.counted.entry))))}",
        plain=lambda rule: _plain(rule, names),
    )


def _cells(rule: Rule, names: Names) -> tuple[str, ...]:
    entry = rule.counted.entry
    return (
        enum_name(entry.DESCRIPTOR.fields_by_name["direction"].enum_type, entry.direction),
        "deny" if entry.deny else "allow",
        str(entry.identity or "any"),
        names.identity(entry.identity) if entry.identity else "everybody",
        ports(entry.protocol, entry.port, entry.port_prefix_length),
        str(rule.counted.packets),
        str(rule.counted.bytes),
        "?" if rule.origins is None else "; ".join(rule.origins) or "no rule",
    )


def _plain(rule: Rule, names: Names) -> dict[str, Any]:
    return {
        "endpoint_id": rule.endpoint,
        "pod": names.pod(rule.endpoint),
        **plain(rule.counted),
        "identity_name": names.identity(rule.counted.entry.identity) if rule.counted.entry.identity else "",
        "origins": None if rule.origins is None else list(rule.origins),
    }


@group.command("list")
@listing_options
@click.pass_obj
def list_maps(settings: Settings, how: How) -> None:
    """List the policy maps: how many entries each has, and with -o wide the digest of what it holds.

    \b
    Examples:
      podlane bpf policy list
      podlane bpf policy list -o json | jq 'max_by(.policy_entries)'
    """
    names = Names(settings)

    def fetch() -> list[Any]:
        found = [one for one in datapaths(settings) if one.policy_digest]
        names.refresh()
        return found

    def told(one: Any) -> dict[str, Any]:
        fields = ("id", "identity", "policy_entries", "policy_digest")
        shown = plain(one)
        return {field: shown[field] for field in fields} | {"pod": names.pod(one.id)}

    listing = Listing(
        titles=("ENDPOINT", "POD", "IDENTITY", "ENTRIES"),
        wide=("DIGEST",),
        rows=lambda one: [
            (str(one.id), names.pod(one.id), str(one.identity), str(one.policy_entries), one.policy_digest.hex())
        ],
        empty="no policy maps",
        name=lambda one: f"policy/{one.id}",
        flexible="POD",
        plain=told,
    )
    show(listing, fetch, how)
