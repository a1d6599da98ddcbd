"""`podlane bugtool`: everything that is known of this node in one archive, and what contradicts itself in it."""

import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from cli import exits
from cli.present import show_json
from services.common.config import Settings
from services.common.errors import InvalidArgument, PodlaneError

_CONF = Path("/etc/cni/net.d")


@click.group("bugtool", invoke_without_command=True)
@click.option(
    "-o", "--output", default="", metavar="FILE|-", help="Where to write it. Default: a new file here; -: stdout."
)
@click.option(
    "--conf-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=_CONF,
    show_default=True,
    help="Where the runtime finds its network configurations.",
)
@click.pass_context
def group(context: click.Context, output: str, conf_dir: Path) -> None:
    """Write all that is known of this node into one archive, podlane-bugtool-NODE-TIME.tar.gz.

    States, addresses, links, programs, maps, policies, controllers, metrics, logs and what the kernel has, also of a
    node whose services are down. Passwords, keys and tokens are taken out of all of it. Names, labels and addresses of
    pods and nodes stay: without them it would say nothing. manifest.json tells what is in it, and what is missing and
    why.

    \b
    Examples:
      podlane bugtool
      podlane bugtool -o - | ssh desk podlane bugtool check -
      podlane bugtool check podlane-bugtool-node-7-20260807T101500Z.tar.gz
    """
    if context.invoked_subcommand is not None:
        return
    import asyncio

    from cli.report import archive, collect

    settings: Settings = context.obj
    if output == "-" and sys.stdout.isatty():
        raise InvalidArgument("an archive isn't written to a terminal: name a file with -o, or send it on with a pipe")
    begin = time.time()
    gathered = asyncio.run(collect.gather(settings, conf_dir))
    name, packed = collect.build(settings, gathered, begin)
    if output == "-":
        sys.stdout.buffer.write(packed)
        sys.stdout.buffer.flush()
    else:
        path = Path(output or f"{name}.tar.gz")
        archive.write(path, packed)
        click.echo(f"wrote {path}: {len(packed) / 1e3:.0f} kB, readable for its owner only")
    for what, why in _missing({one["collector"]: one["why"] for one in gathered.failed}):
        click.echo(f"! {what} missing: {why}", err=True)


def _missing(failed: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield what is missing for one reason, and the reason: a service that is down is one line, not ten."""
    for why in dict.fromkeys(failed.values()):
        names = [name for name in failed if failed[name] == why]
        yield f"{', '.join(names)} {'is' if len(names) == 1 else 'are'}", why


@group.command("check")
@click.argument("file", metavar="FILE|-")
@click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="How to print."
)
def check(file: str, output: str) -> None:
    """Find what contradicts itself in an archive. It asks nobody: the same archive gives the same answer anywhere.

    Exit code 0: nothing was found; 1: something was; 2: the archive can't be read. docs/bugtool.md has all checks.

    \b
    Examples:
      podlane bugtool check report.tar.gz
      podlane bugtool check report.tar.gz -o json | jq -r '.findings[] | .object + ": " + .problem'
    """
    from cli.report import checks, load

    try:
        report = load.report(_read(file), file)
    except PodlaneError as error:
        click.echo(f"podlane: {error.message}", err=True)
        raise SystemExit(exits.USAGE) from None
    found, skipped = checks.run(report)
    if output == "json":
        show_json(_as_json(report, found, skipped))
    else:
        _show(report, found, skipped)
    if found:
        raise SystemExit(exits.FINDING)


def _read(file: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise InvalidArgument(f"{file}: can't be read: {error.strerror}") from None


def _as_json(report: Any, found: Any, skipped: Any) -> dict[str, Any]:
    return {
        "node": report.node,
        "created": report.created,
        "findings": [
            {"check": one.check, "object": one.object, "problem": one.problem, "advice": one.advice} for one in found
        ],
        "skipped": [{"check": name, "why": why} for name, why in skipped],
        "missing": [{"collector": name, "why": why} for name, why in report.failed.items()],
    }


def _show(report: Any, found: Any, skipped: Any) -> None:
    click.echo(f"node {report.node} at {report.created}: {len(report.endpoints)} endpoints")
    for one in found:
        click.echo(f"! {one.object}: {one.problem}  [{one.check}]")
        if one.advice:
            click.echo(f"    {one.advice}")
    for what, why in _missing(report.failed):
        click.echo(f"- {what} not in it: {why}")
    for name, why in skipped:
        click.echo(f"podlane: check {name} could not be made: {why}", err=True)
    click.echo(f"{len(found)} contradictions" if found else "no contradictions")
