"""Each command explains itself, with examples that are right; and the page of them all is up to date."""

import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from cli import reference
from cli.main import podlane

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cli.md"
COMMANDS = {path: command for path, command, _ in reference.commands()}


def examples(command: click.Command) -> list[str]:
    """Return the lines below `Examples:` of a command's help."""
    _, _, below = (command.help or "").partition("Examples:\n")
    return [line.strip() for line in below.splitlines() if line.strip()]


def calls(line: str) -> Iterator[list[str]]:
    """Yield the arguments of each call of podlane in a line of shell."""
    tokens = shlex.shlex(line, posix=True, punctuation_chars=True)
    tokens.whitespace_split = True
    found: list[str] | None = None
    for token in tokens:
        if set(token) <= set("|&;()<>"):
            if found is not None:
                yield found
            found = None
        elif found is not None:
            found.append(token)
        elif token == "podlane":
            found = []
    if found is not None:
        yield found


def parse(arguments: list[str]) -> str:
    """Return the name of the command that arguments lead to, all of them understood and none of it run."""
    context = podlane.make_context("podlane", list(arguments))
    while isinstance(context.command, click.Group):
        rest = [*context._protected_args, *context.args]
        if not rest and context.command.invoke_without_command:
            break
        name, command, rest = context.command.resolve_command(context, rest)
        assert command is not None
        context = command.make_context(name, rest, parent=context)
    return context.command_path


@pytest.mark.parametrize("path", COMMANDS)
def test_a_command_has_a_first_line_and_examples_that_can_be_typed(path: str):
    command = COMMANDS[path]

    first = (command.help or "").partition("\n")[0]
    assert first.endswith((".", ":"))
    lines = examples(command)
    assert lines, f"{path} --help has no `Examples:`"
    shown = {parse(arguments) for line in lines for arguments in calls(line)}
    assert path in shown


def test_an_example_that_is_wrong_would_be_found():
    (call,) = calls("podlane endpoint list --sideways | jq .")

    with pytest.raises(click.NoSuchOption, match="sideways"):
        parse(call)


def test_the_page_of_all_commands_is_what_would_be_written():
    assert PAGE.read_text() == reference.page(), "run: python -m cli.reference > docs/cli.md"


def test_the_version_is_told_both_ways():
    said = [
        subprocess.run([sys.executable, "-m", "cli", *argv], capture_output=True, text=True, check=True).stdout.split()
        for argv in (["--version"], ["version"])
    ]

    assert said[0] == said[1][:2]
    assert said[0][0] == "podlane"


def test_help_is_there_although_the_settings_cannot_be_read(tmp_path: Path):
    (tmp_path / "bad.toml").write_text("[nonsense")
    command = [sys.executable, "-m", "cli", "--config", str(tmp_path / "bad.toml")]

    told = subprocess.run([*command, "endpoint", "list", "-h"], capture_output=True, text=True, check=False)
    refused = subprocess.run([*command, "endpoint", "list"], capture_output=True, text=True, check=False)

    assert (told.returncode, told.stderr) == (0, "")
    assert "Examples:" in told.stdout
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"podlane: {tmp_path}/bad.toml: not TOML: ")
