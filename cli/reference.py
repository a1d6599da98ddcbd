"""docs/cli.md, made of the commands themselves: `python -m cli.reference > docs/cli.md`.

Each command is there as `--help` shows it, so the page can't say anything else; a test holds that it is what would be
written.
"""

import sys
from collections.abc import Iterator

import click

from cli import exits
from cli.main import podlane

WIDTH = 100
_HEAD = """\
# podlane, the command

Written by `python -m cli.reference > docs/cli.md` from the commands' own help; a test fails when it isn't.

One noun for each thing, and verbs below it, as `kubectl`, `ip` and `cilium-dbg` have it. It talks to the services over
their Unix sockets, whose paths are those of the settings (`--config`, `$PODLANE_CONFIG`, `/etc/podlane/podlane.toml`).

## How it prints

- `-o table`: for people, and for grep and awk. On a terminal it is no wider than that, with `…` where something is cut,
  and states are in colour (not with `NO_COLOR` or `TERM=dumb`); in a pipe it is whole and plain. Columns may change.
- `-o wide`: further columns, where there are any.
- `-o json`, `-o yaml`: all of it, by the names of the contract's fields (`protos/`), which don't change.
- `-o name`: of listings, names only, one a line.

`--watch` goes on: on a terminal a listing is drawn anew every `--interval` seconds; in a pipe, and with `-o json`,
`yaml` or `name`, whatever changes is printed, as `ADDED`, `MODIFIED` or `DELETED`, in JSON a document a line
(`{"type": …, "object": …}`, as `kubectl get --watch --output-watch-events -o json`). `podlane endpoint list --watch`
prints changes everywhere, as the service tells of them. Ctrl-C ends it, with exit code 130.

What goes wrong is one line on stderr: what, of which service, on which socket, and what to do.

## Exit codes

| code | |
|---|---|
"""
_TAIL = """
`podlane policy diff` and `podlane policy explain` answer by their exit code, as diff(1) does: 0, 1, and 2 for any
error, so that a service that is down is not taken for an answer.

## Completion

```sh
source <(podlane completion bash)     # or zsh, fish
```
"""


def commands(
    command: click.Command = podlane, parent: click.Context | None = None, name: str = "podlane"
) -> Iterator[tuple[str, click.Command, click.Context]]:
    """Yield each command that can be run, with its whole name, in alphabetical order."""
    settings = {**command.context_settings, "terminal_width": WIDTH, "max_content_width": WIDTH}
    context = click.Context(command, info_name=name, parent=parent, **settings)
    if not isinstance(command, click.Group):
        yield context.command_path, command, context
        return
    if command.invoke_without_command:
        yield context.command_path, command, context
    for verb in sorted(command.list_commands(context)):
        found = command.get_command(context, verb)
        if found is not None and not found.hidden:
            yield from commands(found, context, verb)


def page() -> str:
    """Return the page."""
    parts = [_HEAD]
    for line in exits.table().splitlines():
        code, _, text = line.strip().partition(" ")
        parts.append(f"| {code} | {text.strip()} |\n")
    parts.append(_TAIL)
    noun = ""
    for path, command, context in commands():
        first = path.split()[1]
        if first != noun:
            noun = first
            parts.append(f"\n## podlane {noun}\n")
        parts.append(f"\n### {path}\n\n```\n{_help(command, context)}\n```\n")
    return "".join(parts)


def _help(command: click.Command, context: click.Context) -> str:
    return "\n".join(line.rstrip() for line in command.get_help(context).splitlines())


if __name__ == "__main__":
    sys.stdout.write(page())
