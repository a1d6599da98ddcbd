"""Tables where somebody looks at them, and where nobody does."""

import io
import sys

import pytest

from cli import table
from cli.table import Look, fitted

TITLES = ("ENDPOINT", "POD", "LABELS", "STATUS")
ROWS = [
    ("7", "shop/web-0", "k8s:app=web,k8s:tier=front", "ready"),
    ("8", "shop/a-pod-of-a-long-name", "-", "waiting-to-regenerate 3/4"),
]


def test_without_a_terminal_nothing_is_cut_and_nothing_is_in_colour():
    assert list(fitted(TITLES, ROWS, Look(), "POD")) == [
        "ENDPOINT  POD                        LABELS                      STATUS",
        "7         shop/web-0                 k8s:app=web,k8s:tier=front  ready",
        "8         shop/a-pod-of-a-long-name  -                           waiting-to-regenerate 3/4",
    ]


def test_the_flexible_column_gives_way_first():
    lines = list(fitted(TITLES, ROWS, Look(80), "LABELS"))

    assert lines[1] == "7         shop/web-0                 k8s:app=web,k8s…  ready"
    assert max(map(len, lines)) == 80


def test_the_last_column_gives_way_when_none_is_flexible_and_then_the_widest():
    lines = list(fitted(TITLES, ROWS, Look(70)))

    assert lines[2] == "8         shop/a-pod-of-a-long-na…  -                 waiting-to-rege…"
    assert lines[1].split("  ")[-1] == "ready"
    assert max(map(len, lines)) == 70


def test_no_column_is_cut_below_its_title_and_the_first_never():
    rows = [("1234567890123", "shop/web-0-of-a-longer-name", "k8s:app=web,k8s:tier=front", "ready")]

    line = list(fitted(TITLES, rows, Look(10)))[1]

    assert line == "1234567890123  shop/we…  k8s:app…  ready"


@pytest.mark.parametrize(
    ("state", "code"),
    [("ready", "32"), ("failure", "31"), ("waiting-to-regenerate 3/4", "33"), ("not serving", "33"), ("odd", "")],
)
def test_states_are_in_colour_on_a_terminal(state: str, code: str):
    line = list(fitted(("ID", "STATUS"), [("ready", state)], Look(80, colour=True)))[1]

    assert line.startswith("ready  ")
    assert (f"\x1b[{code}m{state}" in line) if code else "\x1b" not in line


class Terminal(io.StringIO):
    """Somebody looks."""

    def isatty(self) -> bool:
        """It is one."""
        return True


@pytest.mark.parametrize(
    ("environment", "colour"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False), ({"NO_COLOR": ""}, True)],
)
def test_who_wants_no_colour_gets_none(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], colour: bool):
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in {"TERM": "xterm", "COLUMNS": "77", **environment}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", Terminal())

    assert table.of_stdout() == Look(77, colour)


def test_a_pipe_is_no_terminal(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())

    assert table.of_stdout() == Look()
