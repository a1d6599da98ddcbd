"""Kubernetes' documents on the command line: files that hold them, and the names that people type."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from podlane.endpoint.v1 import policy_pb2

from cli import connect
from cli.present import enum_name
from services.common.config import Settings
from services.common.errors import InvalidArgument

_SUFFIXES = (".yaml", ".yml", ".json")
_STDIN = "-"
_SHOWN = 5
# What kubectl accepts, and the number of the kind in the API.
_KINDS = {
    **dict.fromkeys(("networkpolicy", "networkpolicies", "netpol"), 1),
    **dict.fromkeys(("namespace", "namespaces", "ns"), 2),
    **dict.fromkeys(("pod", "pods", "po"), 3),
}
_WORDS = {1: "NetworkPolicy", 2: "Namespace", 3: "Pod"}
_NAMESPACE = 2

files_option = click.option(
    "-f",
    "--filename",
    "files",
    multiple=True,
    metavar="FILE",
    help="A file, a directory (its *.yaml, *.yml and *.json), or - for stdin; several times.",
)


@dataclass(frozen=True, slots=True)
class Text:
    """A text of YAML or JSON documents, and what errors call it."""

    source: str
    text: str


@dataclass(frozen=True, slots=True)
class Joined:
    """Texts as one, so that they are taken all or none."""

    parts: Sequence[Text]

    @property
    def source(self) -> str:
        """What errors call it."""
        return ", ".join(part.source for part in self.parts)

    @property
    def text(self) -> str:
        """All documents; each part begins in a line of its own, after a separator."""
        return "\n---\n".join(part.text for part in self.parts)

    def place(self, line: int) -> str:
        """Return `file:line` for a line of the text; 0 is of no line."""
        first = 1
        for part in self.parts if line else ():
            end = first + part.text.count("\n") + 1
            if line < end or part is self.parts[-1]:
                return f"{part.source}:{max(line - first + 1, 1)}"
            first = end + 1
        return self.source


def read(files: Sequence[str]) -> Joined:
    """Read what `-f` names. Raises InvalidArgument, and UsageError when it names nothing."""
    if not files:
        raise click.UsageError("name a file: -f FILE")
    return Joined([_read(path) for file in files for path in _paths(file)])


def _paths(file: str) -> list[str]:
    path = Path(file)
    if file == _STDIN or not path.is_dir():
        return [file]
    found = sorted(str(one) for one in path.iterdir() if one.suffix in _SUFFIXES and not one.name.startswith("."))
    if not found:
        raise InvalidArgument(f"{file}: there is no *.yaml, *.yml or *.json in this directory")
    return found


def _read(file: str) -> Text:
    try:
        if file == _STDIN:
            return Text("stdin", sys.stdin.buffer.read().decode())
        return Text(file, Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidArgument(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"{file}: is not UTF-8: {error.reason} at byte {error.start}") from None


def checked(settings: Settings, files: Sequence[str]) -> Joined:
    """Read what `-f` names, for a change. The service calls one text by its name; of several it is asked beforehand,
    so that problems have their file and line.
    """
    text = read(files)
    problems = check(settings, text)[0] if len(text.parts) > 1 else []
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise InvalidArgument(f"nothing is used: {'; '.join(problems[:_SHOWN])}{more}")
    return text


def check(settings: Settings, text: Joined) -> tuple[list[str], list[str]]:
    """Let the service check texts; return problems and warnings, a line for each."""
    problems, warnings = _check(settings, text)
    if problems and len(text.parts) > 1:
        # Each alone, because an open bracket in one makes nonsense of the next.
        alone = [_check(settings, Joined([part])) for part in text.parts]
        if any(found for found, _ in alone):
            return [line for found, _ in alone for line in found], [line for _, found in alone for line in found]
    return problems, warnings


def _check(settings: Settings, text: Joined) -> tuple[list[str], list[str]]:
    request = policy_pb2.ValidatePoliciesRequest(text=text.text)
    reply = connect.ask(connect.policy(settings), "ValidatePolicies", request)
    return [problem_line(one, text) for one in reply.problems], [warning_line(one, text) for one in reply.warnings]


def problem_line(problem: Any, text: Joined) -> str:
    """Return a problem as a compiler would: `web.yaml:12: NetworkPolicy shop/web: spec.ingress: must be a list`."""
    return ": ".join(filter(None, (text.place(problem.line), problem.document, problem.path, problem.message)))


def warning_line(warning: Any, text: Joined) -> str:
    """Return a warning likewise: `web.yaml:12: warning: NetworkPolicy shop/web: …`."""
    place = text.place(warning.line)
    return ": ".join(filter(None, (place, "warning", warning.document, warning.path, warning.message)))


def parse_name(text: str) -> Any:
    """Return the DocumentName for `networkpolicy/shop/web`, `netpol/web`, `ns/shop`, `pod/shop/web-0`.

    Raises InvalidArgument.
    """
    word, *names = text.split("/")
    kind = _KINDS.get(word.lower())
    if kind is None:
        raise InvalidArgument(f"{text!r}: {word!r} is no kind; write networkpolicy/NAMESPACE/NAME, ns/NAME or pod/…")
    if not all(names) or not 1 <= len(names) <= (1 if kind == _NAMESPACE else 2):
        form = "NAME" if kind == _NAMESPACE else "NAMESPACE/NAME, or NAME in the namespace default"
        raise InvalidArgument(f"{text!r} does not name a {_WORDS[kind]}: write {word}/{form}")
    namespace = "" if kind == _NAMESPACE else names[0] if len(names) > 1 else "default"
    return policy_pb2.DocumentName(kind=policy_pb2.DocumentKind.ValueType(kind), namespace=namespace, name=names[-1])


def kind_word(name: Any) -> str:
    """Return the kind of a DocumentName as Kubernetes writes it."""
    return _WORDS.get(name.kind, str(name.kind))


def full_name(name: Any) -> str:
    """Return a DocumentName as kubectl reports it: `networkpolicy shop/web`."""
    where = f"{name.namespace}/" if name.namespace else ""
    return f"{kind_word(name).lower()} {where}{name.name}"


def changes(documents: Iterable[Any]) -> Iterator[str]:
    """Yield what became of documents, a line for each: `networkpolicy shop/web configured`."""
    for one in documents:
        yield f"{full_name(one.name)} {enum_name(one.DESCRIPTOR.enum_types_by_name['Change'], one.change)}"


def show_effect(effect: Any) -> None:
    """Show what a change came to in the kernel. Exit code 1 when it isn't there yet."""
    changed = "no policy map changes"
    if effect.endpoints:
        added = _counted(effect.entries_added, "entry", "entries")
        changed = (
            f"{_counted(effect.endpoints, 'endpoint', 'endpoints')}: {added} added, {effect.entries_removed} removed"
        )
    outcome = "not enforced everywhere after" if effect.failures else "enforced in"
    click.echo(f"{changed}, {outcome} {effect.duration_us / 1000:.1f} ms")
    for failure in effect.failures:
        click.echo(f"podlane: {failure}; it is tried again in the background", err=True)
    if effect.failures:
        raise SystemExit(1)


def _counted(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
