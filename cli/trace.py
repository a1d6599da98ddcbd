"""`podlane trace`: where packets die, and what the programs would do with one."""

import asyncio
import json
from typing import Any

import click

from cli import connect, exits
from cli.endpoint import get
from cli.policy_questions import errors_are_2
from cli.present import output_option, plain, show_json, show_table
from services.common.config import Settings

_BCC_MISSING = exits.REFUSED


@click.group("trace", help="Where packets die, and what the programs would do with one.")
def group() -> None:
    """Hold the verbs."""


@group.command("drops")
@click.option("--endpoint", default="", metavar="ENDPOINT", help="Of one only: an id, an address or namespace/pod.")
@click.option("--reason", default="", metavar="REASONS", help="These only, several with commas: NO_SOCKET, policy.")
@click.option("--all", "ordinary", is_flag=True, help="Also ends of packets that nobody misses.")
@click.option("--duration", type=click.FloatRange(min=0.0), metavar="SECONDS", help="End after so long.")
@click.option("--summary", is_flag=True, help="Show no packets, but at the end how many by reason, function and pod.")
@click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="How to print."
)
@click.pass_obj
def drops(
    settings: Settings,
    *,
    endpoint: str,
    reason: str,
    ordinary: bool,
    duration: float | None,
    summary: bool,
    output: str,
) -> None:
    """Show each packet of the node's pods that is dropped, by the kernel or by podlane, and why, until Ctrl-C.

    The kernel says itself why it drops and where (the tracepoint skb:kfree_skb, by bcc), wherever that is: in a pod's
    namespace, on the node, in the stack, in iptables, in a queue. What podlane drops has podlane's reason and line.
    Exit code 5: bcc is not installed (Debian: python3-bpfcc).

    \b
    Examples:
      podlane trace drops
      podlane trace drops --endpoint shop/db-0
      podlane trace drops --reason NO_SOCKET,policy --duration 60
      podlane trace drops --summary --duration 10
      podlane trace drops -o json | jq 'select(.by == "kernel")'
    """
    from cli.tracer import show
    from cli.tracer.drops import DropTrace, Wanted
    from cli.tracer.process import BccMissing

    reasons = frozenset(word.strip().lower() for word in reason.split(",") if word.strip())
    counted = show.Summary()

    def each(drop: Any) -> None:
        if summary:
            counted.add(drop, tracing.names)
        elif output == "json":
            click.echo(json.dumps(show.plain(drop), ensure_ascii=False))
        else:
            click.echo(show.line(drop))

    # Before anything is compiled: a name that is wrong, a service that is away.
    only = get(settings, endpoint).id if endpoint else 0
    tracing = DropTrace(settings, Wanted(only, reasons, ordinary), each, lambda text: click.echo(text, err=True))
    try:
        asyncio.run(tracing.run(duration))
    except BccMissing as error:
        click.echo(f"podlane: {error.message}", err=True)
        raise SystemExit(_BCC_MISSING) from None
    finally:
        if summary:
            _show_summary(counted.rows(), output)
        for line in _unseen(tracing.counts):
            click.echo(line, err=True)


def _show_summary(rows: list[dict[str, Any]], output: str) -> None:
    if output == "json":
        show_json(rows)
        return
    cells = [(str(row["packets"]), row["reason"], row["by"], row["function"], row["pod"]) for row in rows]
    show_table(("PACKETS", "REASON", "BY", "FUNCTION", "POD"), cells, "nothing was dropped")


def _unseen(counts: Any) -> list[str]:
    lines = []
    if counts.lost:
        lines.append(f"{counts.lost} more drops were lost: the tracer could not keep up")
    if counts.lost_events:
        lines.append(f"{counts.lost_events} of podlane's own events were lost: those drops are told as tc's")
    if counts.ordinary:
        lines.append(f"{counts.ordinary} ordinary ends of packets are not shown: --all shows them")
    return lines


@group.command("packet")
@click.option(
    "--from", "source", required=True, metavar="END", help="NAMESPACE/POD, endpoint id, address, node, world."
)
@click.option("--to", "target", required=True, metavar="END", help="Likewise.")
@click.option("--port", metavar="PORT", help="The destination's: 443, 443/TCP, 53/UDP; or icmp.")
@click.option("--protocol", metavar="PROTOCOL", help="tcp, udp, sctp, icmp (an echo request), or a number.")
@click.option("--source-port", type=click.IntRange(0, 65535), default=0, help="Default: one that nobody has.")
@click.option("--flags", default="", metavar="FLAGS", help="TCP's, several with commas. Default: syn.")
@click.option("--source", "claimed", metavar="ADDRESS", help="What the sender says that its address is.")
@click.option("--send", is_flag=True, help="Then really send it from the pod, and say where it is seen and dropped.")
@click.option("--family", type=click.Choice(["4", "6"]), help="IP version. Default: what the ends have; 4 if both do.")
@output_option
@click.pass_obj
@errors_are_2()
def packet(
    settings: Settings,
    *,
    source: str,
    target: str,
    port: str | None,
    protocol: str | None,
    source_port: int,
    flags: str,
    claimed: str | None,
    send: bool,
    family: str | None,
    output: str,
) -> None:
    """Follow one packet through each program: what it asks the maps, what it decides, what it writes.

    The programs in force run over the packet, which nobody sends (BPF_PROG_TEST_RUN); flows are afterwards as they
    were, a drop is counted and told of. What they did is held against the maps, and a difference is said. With --send
    it then leaves the pod's interface for real. Exit code 0: it passes; 1: it is dropped; 2: an error.

    \b
    Examples:
      podlane trace packet --from shop/web-0 --to shop/db-0 --port 5432
      podlane trace packet --from shop/web-0 --to world --protocol icmp
      podlane trace packet --from world --to shop/web-0 --port 443
      podlane trace packet --from shop/web-0 --to shop/db-0 --port 5432 --source 10.0.0.9
      podlane trace packet --from shop/web-0 --to shop/db-0 --port 5432 --source-port 40112 --flags ack
      podlane trace packet --from shop/web-0 --to shop/db-0 --port 5432 --send
    """
    from podlane.common.v1 import types_pb2
    from podlane.endpoint.v1 import trace_pb2

    from cli.tracer import packet as packets

    version = int(family) if family else 6 if ":" in source + target else 4
    number, to_port = packets.read_protocol(protocol, port, version)
    request = trace_pb2.TracePacketRequest(
        to=packets.read_end(target, version),
        protocol=number,
        port=to_port,
        source_port=source_port or (packets.free_port(number) if send else 0),
        tcp_flags=packets.read_flags(flags),
        **{"from": packets.read_end(source, version)},
    )
    if family:
        request.family = types_pb2.IP_FAMILY_IPV6 if version == 6 else types_pb2.IP_FAMILY_IPV4
    if claimed is not None:
        request.claimed_source.CopyFrom(packets.claimed_source(claimed))
    reply = connect.ask(connect.tracing(settings), "TracePacket", request)
    sent = None
    if send:
        from cli.tracer import send as sending

        sent = asyncio.run(sending.send(settings, reply))
    if output == "json":
        show_json(plain(reply) | ({"sent": sending.plain(sent)} if sent is not None else {}))
    else:
        told = [*packets.lines(reply, packets.describe(request))]
        told += sending.lines(sent, reply.destination_name) if sent is not None else []
        for line in told:
            click.echo(line)
    if not reply.passed or (sent is not None and sent.drops):
        raise SystemExit(1)
