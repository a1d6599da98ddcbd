"""`podlane endpoint why-slow` and `why-stuck`: what the endpoint service knows about time, for people."""

import time
from typing import Any

import click
from podlane.endpoint.v1 import why_pb2

from cli import connect, why_slow
from cli.present import age, duration, plain, show_json, show_table
from services.common.config import Settings
from services.common.errors import NotFound

_TOP_COLUMNS = ("ENDPOINT", "POD", "CREATED", "TOOK", "× USUAL", "MOSTLY", "THERE")


def slow(settings: Settings, found: Any, output: str) -> None:
    """Show where the time of one endpoint's creation went; `found` is that endpoint."""
    if not found.HasField("timeline"):
        raise NotFound(
            f"nothing is known about the time of endpoint {found.id}'s creation: it was made by an older version",
            endpoint=found.id,
        )
    messages = _creations(settings, 0).usual
    usual, timeline = why_slow.usual_of(messages), found.timeline
    took, total = why_slow.durations(timeline), timeline.total_us
    said, blamed = why_slow.sentence(total, took, usual), why_slow.blame(total, took, usual)
    if output == "json":
        told: dict[str, Any] = {"id": found.id, "pod": plain(found.pod), "timeline": plain(timeline)}
        told |= {"usual": list(map(plain, messages)), "between_us": why_slow.between(total, took)}
        show_json(told | {"slowest": blamed.name if blamed is not None else None, "summary": said})
        return
    known = usual.get("total")
    beside = f", usual is {duration(known.median / 1e6)} (of {known.count})" if known is not None else ""
    click.echo(f"endpoint {found.id} ({_pod(found)}): its creation took {duration(total / 1e6)}{beside}")
    traced = f", trace {timeline.trace_id}" if timeline.trace_id else ""
    click.echo(f"began {plain(timeline.began)}, request {timeline.request_id or '-'}{traced}\n")
    columns = ("PHASE", "TOOK", "USUAL", "P99", "× USUAL", "")
    show_table(columns, why_slow.table(total, took, usual), "")
    click.echo(f"\n{said}")


def top(settings: Settings, limit: int, output: str) -> None:
    """Show the slowest creations."""
    reply = _creations(settings, limit)
    if output == "json":
        show_json(plain(reply))
        return
    usual = why_slow.usual_of(reply.usual)
    show_table(_TOP_COLUMNS, [_top_row(one, usual) for one in reply.creations], "no creations are known")


def _top_row(one: Any, usual: dict[str, why_slow.Usual]) -> tuple[str, ...]:
    total, took = one.timeline.total_us, why_slow.durations(one.timeline)
    blamed = why_slow.blame(total, took, usual)
    return (
        str(one.id),
        _pod(one),
        f"{age(time.time() - one.timeline.began.seconds)} ago",
        duration(total / 1e6),
        why_slow.times(total, usual.get("total")),
        blamed.name if blamed is not None else "-",
        duration(blamed.took / 1e6) if blamed is not None else "-",
    )


def stuck(settings: Settings, wanted: int, output: str) -> bool:
    """Show what endpoints wait for, `wanted` 0: all of them; return whether anything waits."""
    reply = connect.ask(connect.why(settings), "ListStuck", why_pb2.ListStuckRequest())
    found = [one for one in reply.stuck if wanted in {0, one.id}]
    if output == "json":
        node = {key: value for key, value in plain(reply).items() if key != "stuck"}
        show_json({**node, "stuck": list(map(plain, found))})
    else:
        for number, lines in enumerate((*_node_lines(reply), *map(_stuck_lines, found))):
            click.echo("\n".join((*([""] if number else []), *lines)))
        if not found and not reply.node_waits_for:
            click.echo("nothing is stuck" if not wanted else f"endpoint {wanted} waits for nothing")
    return bool(found or reply.node_waits_for)


def _node_lines(reply: Any) -> list[list[str]]:
    if not reply.node_waits_for:
        return []
    lines = [f"the node takes no endpoints, for {_since(reply.node_since)}", f"  waits for   {reply.node_waits_for}"]
    return [[*lines, *_unblock(reply.node_unblock)]]


def _stuck_lines(one: Any) -> list[str]:
    since = f", for {_since(one.since)}" if one.HasField("since") else ""
    lines = [f"endpoint {one.id} ({_pod(one)}), {one.state}{since}", f"  waits for   {one.waits_for}"]
    if one.last_error and one.last_error not in one.waits_for:
        lines.append(f"  last error  {' '.join(one.last_error.split())}")
    if one.failures:
        due = one.next_attempt.seconds + one.next_attempt.nanos / 1e9 - time.time()
        later = f"the next in {duration(max(due, 0.0))}" if one.HasField("next_attempt") else "one runs now"
        lines.append(f"  attempts    {one.failures} failed in a row, {later} ({one.controller})")
    return [*lines, *_unblock(one.unblock)]


def _unblock(sentences: Any) -> list[str]:
    return [f"  {'unblock' if not number else '':<12}{text}" for number, text in enumerate(sentences)]


def _since(time_: Any) -> str:
    return age(time.time() - time_.seconds - time_.nanos / 1e9)


def _pod(message: Any) -> str:
    pod, attachment = message.pod, message.attachment
    return f"{pod.namespace}/{pod.name}" if pod.name else f"container {attachment.container_id[:12]}"


def _creations(settings: Settings, limit: int) -> Any:
    return connect.ask(connect.why(settings), "ListCreations", why_pb2.ListCreationsRequest(limit=limit))
