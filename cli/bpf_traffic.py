"""`podlane bpf ct` and `podlane bpf metrics`: what traffic has left in the maps."""

from typing import Any

import click

from cli.bpf_names import Names, dump, fetching
from cli.complete import endpoints
from cli.listing import How, Listing, listing_options, show
from cli.present import age, enum_name, plain
from services.common.config import Settings

flows = click.Group("ct", help="Live flows, as each endpoint sees them.")
drops = click.Group("metrics", help="Drops by reason.")


@flows.command("list")
@click.option("--endpoint", default="", shell_complete=endpoints, help="Its flows only: id, address or namespace/pod.")
@listing_options
@click.pass_obj
def list_flows(settings: Settings, endpoint: str, how: How) -> None:
    """List the live flows. One between two pods of this node is there twice: as each of them sees it.

    PACKETS and BYTES (-o wide) are counted only where `policy-accounting` is on.

    \b
    Examples:
      podlane bpf ct list --endpoint shop/web-0
      podlane bpf ct list -o json | jq 'map(select(.state == "opening")) | length'
    """
    names = Names(settings)
    id_ = names.endpoint_id(endpoint) if endpoint else 0
    listing = Listing(
        titles=("ENDPOINT", "POD", "DIRECTION", "PROTO", "LOCAL", "REMOTE", "STATE", "EXPIRES", "PEER"),
        wide=("PACKETS", "BYTES", "PEER STANDS FOR"),
        rows=lambda flow: [_flow_row(flow, names)],
        empty="no live flows",
        name=_flow_name,
        flexible="POD",
        plain=lambda flow: (
            plain(flow) | {"pod": names.pod(flow.endpoint_id), "peer_name": names.identity(flow.peer_identity)}
        ),
    )
    show(listing, fetching(names, lambda: dump(settings, "conntrack", "conntrack", id_, long=True)), how)


def _flow_row(flow: Any, names: Names) -> tuple[str, ...]:
    told = plain(flow)
    return (
        str(flow.endpoint_id),
        names.pod(flow.endpoint_id),
        told["direction"],
        flow.protocol,
        _place(told["local"], flow.local_port),
        _place(told["remote"], flow.remote_port),
        told["state"],
        age(flow.expires_in),
        str(flow.peer_identity),
        str(flow.packets),
        str(flow.bytes),
        names.identity(flow.peer_identity),
    )


def _flow_name(flow: Any) -> str:
    ends = f"{_place(plain(flow.local), flow.local_port)}-{_place(plain(flow.remote), flow.remote_port)}"
    return f"conntrack/{flow.endpoint_id}/{flow.direction}/{flow.protocol}/{ends}"


def _place(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


@drops.command("list")
@click.option("--endpoint", default="", shell_complete=endpoints, help="Its drops only: id, address or namespace/pod.")
@listing_options
@click.pass_obj
def list_metrics(settings: Settings, endpoint: str, how: How) -> None:
    """List what was dropped, by endpoint, direction and reason, since the endpoint is there.

    Forwarded packets have no counter of their own: `podlane bpf policy get` counts them by rule where
    `policy-accounting` is on.

    \b
    Examples:
      podlane bpf metrics list --watch
      podlane bpf metrics list -o json | jq 'map(.packets) | add'
    """
    names = Names(settings)
    id_ = names.endpoint_id(endpoint) if endpoint else 0
    listing = Listing(
        titles=("ENDPOINT", "POD", "DIRECTION", "REASON", "PACKETS", "BYTES"),
        rows=lambda one: [
            (
                str(one.endpoint_id),
                names.pod(one.endpoint_id),
                enum_name(one.DESCRIPTOR.fields_by_name["direction"].enum_type, one.direction),
                one.reason,
                str(one.packets),
                str(one.bytes),
            )
        ],
        empty="nothing was dropped",
        name=lambda one: f"metrics/{one.endpoint_id}/{one.direction}/{one.reason.replace(' ', '-')}",
        flexible="POD",
        plain=lambda one: plain(one) | {"pod": names.pod(one.endpoint_id)},
    )
    show(listing, fetching(names, lambda: dump(settings, "metrics", "metrics", id_)), how)
