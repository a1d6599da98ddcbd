"""What `podlane … list` commands have in common: how they print, and `--watch`.

    Listing    columns and rows of a kind of thing, and what it is called
    How        what the command line asked for: -o table|wide|json|yaml|name, --watch, --interval

`--watch` asks again and again. On a terminal the table is drawn anew; where nobody looks, and with -o json, yaml or
name, there is first everything and then whatever has changed, with `ADDED`, `MODIFIED` or `DELETED` before it: in JSON
one document a line, `{"type": …, "object": …}`, as `kubectl get --watch --output-watch-events` has it. It ends by
Ctrl-C, with exit code 130.
"""

import functools
import json
import select
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import click

from cli import table
from cli.present import as_yaml, plain, read_output, show_json, show_table, spelled_as_yaml

Row = Sequence[str]
ADDED, MODIFIED, DELETED = "ADDED", "MODIFIED", "DELETED"
_ERASE = "\x1b[H\x1b[2J"


class Listing(NamedTuple):
    """A kind of thing in rows. A thing can have several; `rows` gives each its cells of `titles` and then of `wide`."""

    titles: tuple[str, ...]
    rows: Callable[[Any], Iterable[Row]]
    empty: str
    name: Callable[[Any], str]
    """`endpoint/7`: unique, and what -o name prints."""
    wide: tuple[str, ...] = ()
    flexible: str = ""
    """The column that is cut first where a terminal is too narrow."""
    plain: Callable[[Any], Any] = plain

    def columns(self, output: str) -> tuple[str, ...]:
        """Return the titles that are shown."""
        return self.titles + self.wide if output == "wide" else self.titles

    def cells(self, things: Iterable[Any], output: str) -> list[Row]:
        """Return the rows of things as they are shown."""
        count = len(self.columns(output))
        return [row[:count] for thing in things for row in self.rows(thing)]


class How(NamedTuple):
    """How to print."""

    output: str = "table"
    watch: bool = False
    interval: float = 2.0


def listing_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command -o, --watch and --interval; it gets them as `how`."""

    @click.option(
        "-o",
        "--output",
        type=click.Choice(["table", "wide", "json", "yaml", "name"]),
        default="table",
        show_default=True,
        callback=read_output,
        help="How to print; wide: with further columns; name: names only.",
    )
    @click.option("-w", "--watch", is_flag=True, help="Go on and show what changes, until Ctrl-C.")
    @click.option(
        "--interval",
        type=click.FloatRange(min=0.1),
        default=2.0,
        show_default=True,
        metavar="SECONDS",
        help="How often --watch looks.",
    )
    @functools.wraps(command)
    def wrapped(*args: Any, output: str, watch: bool, interval: float, **others: Any) -> Any:
        return command(*args, how=How(output, watch, interval), **others)

    return wrapped


def show(listing: Listing, fetch: Callable[[], Iterable[Any]], how: How) -> list[Any]:
    """Print what `fetch` returns, and return it; with --watch go on for good."""
    found = list(fetch())
    if not how.watch:
        present(listing, found, how.output)
        return found
    if how.output in {"table", "wide"} and sys.stdout.isatty():
        _redraw(listing, found, fetch, how)
    feed = Feed(listing, how.output)
    feed.tell_differences(found)
    while True:
        _pause(how.interval)
        feed.tell_differences(fetch())


def present(listing: Listing, found: Sequence[Any], output: str) -> None:
    """Print things once."""
    if output == "json":
        show_json([listing.plain(one) for one in found])
    elif output == "name":
        for one in found:
            click.echo(listing.name(one))
    else:
        show_table(listing.columns(output), listing.cells(found, output), listing.empty, listing.flexible)


def _pause(seconds: float) -> None:
    select.select((), (), (), seconds)


def _redraw(listing: Listing, found: Sequence[Any], fetch: Callable[[], Iterable[Any]], how: How) -> None:
    while True:
        click.echo(_ERASE + "\n".join(_page(listing, found, how)), color=True)
        _pause(how.interval)
        found = list(fetch())


def _page(listing: Listing, found: Sequence[Any], how: How) -> list[str]:
    """Return a screen full of the table, below a line that says when it was drawn."""
    rows = listing.cells(found, how.output)
    lines = [f"every {how.interval:g} s, {time.strftime('%H:%M:%S')}; Ctrl-C ends", ""]
    lines += table.fitted(listing.columns(how.output), rows, table.of_stdout(), listing.flexible)
    room = table.size().lines - 1
    if not rows:
        lines[2:] = [listing.empty]
    elif len(lines) > room > 0:
        hidden = len(lines) - room + 1
        lines[room - 1 :] = [f"… and {hidden} more rows"]
    return lines


class Feed:
    """Prints changes as they come, each below the last one."""

    def __init__(self, listing: Listing, output: str) -> None:
        """Begin with nothing known."""
        self._listing = listing
        self._output = output
        self._known: dict[str, Any] = {}
        self._titles: tuple[str, ...] = ("EVENT", *listing.columns(output))
        self._widths: list[int] = []

    def tell_differences(self, found: Iterable[Any]) -> None:
        """Print how what there is differs from what there was."""
        now = {self._listing.name(one): one for one in found}
        changes = [(DELETED, one) for name, one in self._known.items() if name not in now]
        for name, one in now.items():
            if name not in self._known:
                changes.append((ADDED, one))
            elif self._listing.plain(one) != self._listing.plain(self._known[name]):
                changes.append((MODIFIED, one))
        self._known = now
        self.tell(changes)

    def tell(self, changes: Sequence[tuple[str, Any]]) -> None:
        """Print changes."""
        if self._output == "json":
            self._tell_data(changes)
        elif self._output == "name":
            for event, one in changes:
                click.echo(f"{event} {self._listing.name(one)}")
        elif changes:
            self._tell_rows(changes)
        sys.stdout.flush()

    def _tell_data(self, changes: Sequence[tuple[str, Any]]) -> None:
        for event, one in changes:
            told = {"type": event, "object": self._listing.plain(one)}
            if spelled_as_yaml():
                click.echo(f"---\n{as_yaml(told)}", nl=False)
            else:
                click.echo(json.dumps(told, ensure_ascii=False))

    def _tell_rows(self, changes: Sequence[tuple[str, Any]]) -> None:
        rows = [(event, *row) for event, one in changes for row in self._listing.cells([one], self._output)]
        look, begins = table.of_stdout(), not self._widths
        self._widths = table.measure(self._titles, rows, self._widths)
        fitted = table.fit(self._titles, self._widths, look, self._listing.flexible)
        shown = table.lines(self._titles, rows, look, fitted)
        for line in shown if begins else list(shown)[1:]:
            click.echo(line)
