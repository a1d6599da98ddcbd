"""`podlane trace`: where packets die, and what the programs would do with one."""

import asyncio
import json
from typing import Any

import click

from cli.present import show_json, show_table
from services.common.config import Settings

_BCC_MISSING = 3


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
    Exit code 3: bcc is not installed (Debian: python3-bpfcc).

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

    tracing = DropTrace(settings, Wanted(endpoint, reasons, ordinary), each, lambda text: click.echo(text, err=True))
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
