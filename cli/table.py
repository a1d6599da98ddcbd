"""Tables as text: aligned, no wider than the terminal, states in colour.

    Look(width, colour)   where they are shown; where nobody looks (a pipe, a file) neither: whole cells, for grep

Where a table is too wide, cells are cut with `…`: first those of the flexible column, then those of the widest ones,
to what still tells most cells apart; and where that isn't enough, once more. No column becomes narrower than its title,
and the first is never cut, so a terminal can be too narrow all the same, above all for -o wide.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import click

_GAP = "  "
_NARROWEST = (16, 8)
_STATES = ("STATUS", "STATE", "HEALTH", "OUTCOME", "ACTION", "VERDICT")
# fmt: off
_COLOURS = {
    **dict.fromkeys(("ready", "ok", "serving", "running", "confirmed", "held", "allow", "removed", "claimed"), "green"),
    **dict.fromkeys(("failure", "failing", "failed", "down", "invalid", "hanging", "lost", "deny"), "red"),
    **dict.fromkeys((
        "warning", "pending", "not serving", "waiting-to-regenerate", "waiting-for-identity", "regenerating",
        "restoring", "disconnecting", "reserved", "busy", "keep",
    ), "yellow"),
}
# fmt: on


class Look(NamedTuple):
    """Where a table is shown; `width` 0: as wide as it is."""

    width: int = 0
    colour: bool = False


def of_stdout() -> Look:
    """Return what stdout is like."""
    if not sys.stdout.isatty():
        return Look()
    colour = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return Look(size().columns, colour)


def size() -> os.terminal_size:
    """Return the terminal's size, as COLUMNS and LINES have it, or as it is."""
    import shutil  # brings compression along, which nobody needs who writes into a pipe

    return shutil.get_terminal_size()


def lines(titles: Sequence[str], rows: Sequence[Sequence[str]], look: Look, widths: Sequence[int]) -> Iterator[str]:
    """Yield the titles' line and one for each row, in columns of these widths."""
    yield _line(titles, widths, [""] * len(titles))
    for row in rows:
        colours = [_colour(title, cell) if look.colour else "" for title, cell in zip(titles, row, strict=True)]
        yield _line(row, widths, colours)


def measure(titles: Sequence[str], rows: Sequence[Sequence[str]], least: Sequence[int] = ()) -> list[int]:
    """Return how wide each column has to be."""
    return [max(*(len(row[at]) for row in (titles, *rows)), *least[at : at + 1]) for at in range(len(titles))]


def fit(titles: Sequence[str], widths: Sequence[int], look: Look, flexible: str = "") -> list[int]:
    """Return the widths that the terminal has room for. `flexible`: what is cut first; the last, if none is named."""
    fitted = list(widths)
    if not look.width:
        return fitted
    first = titles.index(flexible) if flexible in titles else len(titles) - 1
    others = sorted(set(range(1, len(titles))) - {first}, key=lambda at: -fitted[at])
    for narrowest in _NARROWEST:
        for at in (first, *others):
            excess = sum(fitted) + len(_GAP) * (len(fitted) - 1) - look.width
            if excess > 0 and at:
                fitted[at] = max(fitted[at] - excess, min(fitted[at], max(narrowest, len(titles[at]))))
    return fitted


def _line(cells: Sequence[str], widths: Sequence[int], colours: Sequence[str]) -> str:
    shown = []
    for cell, width, colour in zip(cells, widths, colours, strict=True):
        text = (cell if len(cell) <= width else f"{cell[: width - 1]}…").ljust(width)
        shown.append(click.style(text, fg=colour) if colour else text)
    return _GAP.join(shown).rstrip()


def _colour(title: str, cell: str) -> str:
    if title not in _STATES:
        return ""
    return _COLOURS.get(cell) or _COLOURS.get(cell.partition(" ")[0], "")


def fitted(titles: Sequence[str], rows: Sequence[Sequence[str]], look: Look, flexible: str = "") -> Iterator[str]:
    """Yield the lines of a whole table."""
    return lines(titles, rows, look, fit(titles, measure(titles, rows), look, flexible))
