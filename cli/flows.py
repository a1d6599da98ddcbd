"""`podlane flows`: who talks to whom, and how much."""

import time
from typing import Any

import click
from podlane.endpoint.v1 import monitor_pb2

from cli import connect
from cli.peers import filter_options, read_filter
from cli.present import age, enum_name, output_option, plain, show_json, show_table
from services.common.config import Settings
from services.common.errors import InvalidArgument

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_BYTES = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


@click.command("flows")
@click.option("--top", type=click.IntRange(min=1), default=None, metavar="N", help="The N greatest.")
@click.option(
    "--by",
    type=click.Choice(["bytes", "packets", "drops", "recent"]),
    default=None,
    help="What greatest is. Default: bytes with --top, else recent.",
)
@click.option("--pairs", is_flag=True, help="By pair of ends, all protocols and ports together.")
@filter_options
@click.option("--since", default="", metavar="AGE", help="Seen since then: 30s, 10m, 2h, 1d.")
@output_option
@click.pass_obj
def group(
    settings: Settings, /, *, top: int | None, by: str | None, pairs: bool, since: str, output: str, **filters: Any
) -> None:
    """Show who talks to whom: packets and bytes there and back, and what was denied or dropped.

    What is allowed is counted by the kernel, packet by packet (option `flow-accounting`); of a flood of drops only a
    part is told of, and the rest is a number below the table. An END is an endpoint's id, an address or prefix,
    namespace/pod, or namespace/ for all of its pods.

    \b
    Examples:
      podlane flows --top 10
      podlane flows --by drops --verdict denied
      podlane flows --endpoint shop/web-0 --since 10m
      podlane flows --pairs -o json | jq '.pairs[] | [.source.name, .destination.name, .bytes]'
    """
    wanted = read_filter(**filters)
    order = by or ("bytes" if top else "recent")
    request = monitor_pb2.ListFlowsRequest(filter=wanted, order=_order(order), top=top or 0)
    if since:
        request.since.FromNanoseconds(int((time.time() - _seconds(since)) * 1e9))
    reply = connect.ask(connect.monitor(settings), "ListFlows", request)
    if output == "json":
        show_json(plain(reply))
        return
    _show_pairs(reply) if pairs else _show(reply)
    _notes(reply)


def _order(name: str) -> monitor_pb2.ListFlowsRequest.Order.ValueType:
    if name == "recent":
        return monitor_pb2.ListFlowsRequest.ORDER_UNSPECIFIED
    return monitor_pb2.ListFlowsRequest.Order.Value(f"ORDER_{name.upper()}")


def _seconds(text: str) -> float:
    if not text[:-1].isdecimal() or text[-1] not in _UNITS:
        raise InvalidArgument(f"--since: {text!r} is not an age: 30s, 10m, 2h, 1d")
    return int(text[:-1]) * _UNITS[text[-1]]


def _show(reply: Any) -> None:
    columns = ("SOURCE", "DESTINATION", "PORT", "VERDICT", "PACKETS", "BYTES", "BACK", "BYTES BACK", "CONNS", "SEEN")
    show_table(columns, [_row(flow) for flow in reply.flows], "no flows")


def _row(flow: Any) -> tuple[str, ...]:
    verdict = enum_name(flow.DESCRIPTOR.fields_by_name["verdict"].enum_type, flow.verdict)
    return (
        flow.source.name,
        flow.destination.name,
        f"{flow.port}/{flow.protocol}" if flow.port else flow.protocol,
        f"{verdict} ({flow.reason})" if flow.reason else verdict,
        str(flow.packets),
        size(flow.bytes),
        str(flow.packets_back),
        size(flow.bytes_back),
        str(flow.connections) if flow.connections else "-",
        _ago(flow.last_seen),
    )


def _show_pairs(reply: Any) -> None:
    rows = [
        (
            pair.source.name,
            pair.destination.name,
            str(pair.packets),
            size(pair.bytes),
            str(pair.drops),
            _ago(pair.last_seen),
        )
        for pair in reply.pairs
    ]
    show_table(("SOURCE", "DESTINATION", "PACKETS", "BYTES", "DROPS", "SEEN"), rows, "no flows")


def _ago(moment: Any) -> str:
    return age(time.time() - moment.seconds)


def size(octets: int) -> str:
    """Return a number of bytes as people read it, exact below 10 KiB."""
    unit, name = next(((unit, name) for unit, name in _BYTES if octets >= 10 * unit), (1, ""))
    return f"{octets / unit:.1f} {name}" if name else str(octets)


def _notes(reply: Any) -> None:
    """Say what the table hasn't got."""
    if len(reply.flows) < reply.total:
        click.echo(f"{len(reply.flows)} of {reply.total}")
    if reply.drops_not_told:
        click.echo(f"{reply.drops_not_told} more drops were not told of: too many at once")
    if reply.forgotten:
        click.echo(f"{reply.forgotten} flows are not kept any more: the least recently active ones")
    if reply.not_counting:
        ids = ", ".join(map(str, reply.not_counting))
        click.echo(
            f"endpoints that count nothing: {ids}; `podlane endpoint config ID flow-accounting=on conntrack=on` "
            "switches it on"
        )
