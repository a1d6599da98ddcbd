"""Strict reading of a tree: every field is known, every value of its type, and all that is wrong is collected. Pure.

A `Field` is a value, where it stands, and the book into which its problems go. Reading one that is wrong notes the
problem and returns what is empty, so that the reader goes on and one look at a file finds all of its mistakes. `Fields`
are those of an object; asking for one that is absent returns what is empty, too.

`null` is absent, as for the API server: a field that is there without a value says nothing.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar, cast

from services.endpoint.policy.networkpolicy import Problem
from services.endpoint.policy.syntax import quoted
from services.endpoint.policy.yamltree import Kind, Mapping, Node, Scalar, Sequence

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DECIMAL = re.compile(r"-?(0|[1-9][0-9]{,17})")

T = TypeVar("T")


@dataclass(slots=True)
class Book:
    """What was found in one document: lines, paths and sentences. `document` becomes its name once that is read."""

    document: str
    problems: list[tuple[int, str, str]] = field(default_factory=list)
    warnings: list[tuple[int, str, str]] = field(default_factory=list)

    def named(self, found: Iterable[tuple[int, str, str]]) -> Iterator[Problem]:
        """Return what was found with the name of the document."""
        return (Problem(line, self.document, path, message) for line, path, message in found)


@dataclass(frozen=True, slots=True)
class Field:
    """A value at a path of a document, `spec.ingress[0].from`; the root's path is empty. `line` is its key's."""

    node: Node
    path: str
    line: int
    book: Book

    def problem(self, message: str | None) -> None:
        """Note what is wrong with it; None: nothing is."""
        if message is not None:
            self.book.problems.append((self.line, self.path, message))

    def warning(self, message: str) -> None:
        """Note what may not be meant."""
        self.book.warnings.append((self.line, self.path, message))

    def object(self, known: Collection[str], required: Collection[str] = ()) -> "Fields":
        """Read an object with these fields and no others."""
        # A null of an unknown name is a typing mistake, too, so this looks at all that is there.
        for key in self.keys:
            if key not in known:
                self._child(key).problem(_unknown(key, known))
        return Fields({key: value for key, value in self.require(*required).items() if key in known})

    def require(self, *keys: str) -> "Fields":
        """Read an object with any fields, these among them."""
        found = self.entries()
        for key in keys:
            if key not in found and isinstance(self.node, Mapping):
                Field(self.node, self._path(key), self.line, self.book).problem("is missing")
        return found

    def entries(self) -> "Fields":
        """Read an object with any fields."""
        if not isinstance(self.node, Mapping):
            return self._mistyped("an object", Fields())
        return Fields({key: self._child(key) for key, value in self.node.fields.items() if not _is_null(value)})

    def items(self) -> list["Field"]:
        """Read a list; a null in it is an item that is null."""
        if not isinstance(self.node, Sequence):
            return self._mistyped("a list", [])
        return [
            Field(item, f"{self.path}[{index}]", item.line, self.book) for index, item in enumerate(self.node.items)
        ]

    def string(self, judge: Callable[[str], str | None] | None = None) -> str | None:
        """Read a string; what `judge` says of it is a problem."""
        text = self.text
        if text is None:
            return self._mistyped("a string", None)
        self.problem(judge(text) if judge is not None else None)
        return text

    def integer(self, judge: Callable[[int], str | None] | None = None) -> int | None:
        """Read a number, written in decimal; what `judge` says of it is a problem."""
        node = self.node
        if not isinstance(node, Scalar) or node.kind is not Kind.INTEGER:
            return self._mistyped("a number", None)
        # YAML 1.1 has 0x50, 010 (eight), 1_000 and 1:30 (ninety): whoever writes those means something else.
        if not _DECIMAL.fullmatch(node.text):
            self.problem(f"{quoted(node.text)} must be written as a plain decimal number")
            return None
        number = int(node.text)
        self.problem(judge(number) if judge is not None else None)
        return number

    def boolean(self) -> bool:
        """Read a boolean."""
        if isinstance(self.node, Scalar) and self.node.kind is Kind.BOOLEAN:
            return self.node.text.lower() in {"true", "yes", "on"}
        return self._mistyped("true or false", instead=False)

    @property
    def text(self) -> str | None:
        """The string that stands here, None when something else does; that is no problem yet."""
        return self.node.text if isinstance(self.node, Scalar) and self.node.kind is Kind.STRING else None

    @property
    def is_object(self) -> bool:
        """Whether an object stands here."""
        return isinstance(self.node, Mapping)

    @property
    def keys(self) -> Collection[str]:
        """The names of an object's fields, null ones too; none for what is no object."""
        return self.node.fields.keys() if isinstance(self.node, Mapping) else ()

    def __len__(self) -> int:
        """Return how many items a list has; 0 for what is no list."""
        return len(self.node.items) if isinstance(self.node, Sequence) else 0

    def _child(self, key: str) -> "Field":
        node = cast("Mapping", self.node)
        return Field(node.fields[key], self._path(key), node.lines[key], self.book)

    def _path(self, key: str) -> str:
        if not _PLAIN.fullmatch(key):
            return f"{self.path}[{quoted(key)}]"
        return f"{self.path}.{key}" if self.path else key

    def _mistyped(self, wanted: str, instead: T) -> T:
        match self.node:
            case Scalar(kind=Kind.NULL):
                hint = ": write {} for one that is empty" if wanted == "an object" else ""
                self.problem(f"must be {wanted}, not null{hint}")
            case Scalar(kind=Kind.STRING, text=text):
                self.problem(f"must be {wanted}, not the string {quoted(text)}")
            case Scalar(kind=kind, text=text):
                hint = ": quote it" if wanted == "a string" else ""
                self.problem(f"must be {wanted}, not the {kind} {text}{hint}")
            case Sequence():
                self.problem(f"must be {wanted}, not a list")
            case Mapping():
                self.problem(f"must be {wanted}, not an object")
        return instead


class Fields(dict[str, Field]):
    """The fields of an object that have values."""

    def string(self, key: str, judge: Callable[[str], str | None] | None = None) -> str | None:
        """Read a string; None when it is absent."""
        return self[key].string(judge) if key in self else None

    def integer(self, key: str, judge: Callable[[int], str | None] | None = None) -> int | None:
        """Read a number; None when it is absent."""
        return self[key].integer(judge) if key in self else None

    def list(self, key: str) -> list[Field]:
        """Read a list; empty when it is absent."""
        return self[key].items() if key in self else []

    def map(self, key: str) -> "Fields":
        """Read an object with any fields; empty when it is absent."""
        return self[key].entries() if key in self else Fields()


def _unknown(key: str, known: Collection[str]) -> str:
    import difflib

    near = difflib.get_close_matches(key, known, 1) or [one for one in known if one.lower() == key.lower()]
    return f"unknown field, perhaps {near[0]}" if near else f"unknown field; there are {', '.join(sorted(known))}"


def _is_null(node: Node) -> bool:
    return isinstance(node, Scalar) and node.kind is Kind.NULL
