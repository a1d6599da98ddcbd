"""From YAML or JSON text to trees that know their lines. PyYAML is imported only here, and only when a text is read.

PyYAML's events are put together here, and not by its composer, because that one calls itself for each level of nesting:
a text of a hundred thousand brackets would overflow the stack of the process that reads it. And because what a text
costs must be known before it is walked: an alias may stand for a tree that is full of aliases, so the nodes that a
document would have if it were written out are counted while it is built, and bounded.

Scalars are typed as YAML 1.1 does it, as kubectl's library does: an unquoted `yes` is a boolean and an unquoted 80 a
number. Who reads the tree says what it wants and gets to name what was written instead. A timestamp is a string:
nothing in Kubernetes has dates of another type.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

MAX_NODES = 1_000_000
MAX_DEPTH = 100

_CORE = "tag:yaml.org,2002:"


class Kind(StrEnum):
    """What a scalar is, in words for errors."""

    STRING = "string"
    INTEGER = "number"
    FLOAT = "fraction"
    BOOLEAN = "boolean"
    NULL = "null"


_KINDS = {"int": Kind.INTEGER, "float": Kind.FLOAT, "bool": Kind.BOOLEAN, "null": Kind.NULL}


@dataclass(slots=True)
class Scalar:
    """A scalar as it was written, without its quotes."""

    line: int
    text: str
    kind: Kind
    size: int = 1


@dataclass(slots=True)
class Sequence:
    """A list."""

    line: int
    items: list["Node"] = field(default_factory=list)
    size: int = 1


@dataclass(slots=True)
class Mapping:
    """An object: its fields in order, and the line of each key."""

    line: int
    fields: dict[str, "Node"] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    size: int = 1


Node = Scalar | Sequence | Mapping


class NotYaml(ValueError):
    """A text that is no YAML, or more of it than anybody means; `line` counts from 1."""

    def __init__(self, line: int, message: str) -> None:
        """Keep both."""
        super().__init__(f"line {line}: {message}")
        self.line = line
        self.message = message


def documents(text: str) -> Iterator[Node]:
    """Yield the root of each document that is not empty. Raises NotYaml, perhaps after some."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        parser = loader(text)
    except (yaml.YAMLError, UnicodeError) as error:
        raise NotYaml(1, f"not text that YAML may hold: {error}") from None
    try:
        builder = _Builder(parser, yaml)
        while parser.check_event():
            event = parser.get_event()
            root = builder.take(event)
            if root is not None and not (isinstance(root, Scalar) and root.kind is Kind.NULL):
                yield root
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark is not None else 1
        if "maximum nesting depth" in str(error):  # libyaml's own limit, since PyYAML 6.0.4
            raise NotYaml(line, f"more than {MAX_DEPTH} levels of nesting") from None
        raise NotYaml(line, " ".join(filter(None, (error.context, error.problem)))) from None
    except yaml.YAMLError as error:
        raise NotYaml(1, f"not text that YAML may hold: {' '.join(str(error).split())}") from None
    finally:
        parser.dispose()


def json_documents(text: str) -> Iterator[Node]:
    """Yield the root of a JSON text, in half the time that YAML's events take. Raises NotYaml.

    Its nodes know no lines. For what this service has written itself: of two fields of one name the last one counts.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise NotYaml(error.lineno, f"not JSON: {error.msg}") from None
    except RecursionError:
        raise NotYaml(0, f"more than {MAX_DEPTH} levels of nesting") from None
    yield _node(value, MAX_DEPTH)


def _node(value: Any, depth: int) -> Node:
    if not depth:
        raise NotYaml(0, f"more than {MAX_DEPTH} levels of nesting")
    match value:
        case str():
            return Scalar(0, value, Kind.STRING)
        case dict():
            return Mapping(0, {key: _node(one, depth - 1) for key, one in value.items()}, dict.fromkeys(value, 0))
        case list():
            return Sequence(0, [_node(one, depth - 1) for one in value])
        case bool():
            return Scalar(0, str(value).lower(), Kind.BOOLEAN)
        case int():
            return Scalar(0, str(value), Kind.INTEGER)
        case float():
            return Scalar(0, repr(value), Kind.FLOAT)
        case _:
            return Scalar(0, "null", Kind.NULL)


class _Builder:
    """Puts events together; hands over a document's root when the document ends."""

    def __init__(self, parser: Any, yaml: Any) -> None:
        self._parser = parser
        self._yaml = yaml
        self._open: list[Sequence | Mapping] = []
        self._keys: list[Scalar | None] = []  # one for each that is open: the key that waits for its value
        self._anchors: dict[str, Node] = {}
        self._root: Node | None = None

    def take(self, event: Any) -> Node | None:
        """Take the next event; return the root with the last one of a document."""
        yaml, line = self._yaml, event.start_mark.line + 1
        if isinstance(event, yaml.ScalarEvent):
            self._anchored(event, scalar := self._scalar(event, line))
            self._place(scalar, line)
        elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            if len(self._open) == MAX_DEPTH:
                raise NotYaml(line, f"more than {MAX_DEPTH} levels of nesting")
            opened = Mapping(line) if isinstance(event, yaml.MappingStartEvent) else Sequence(line)
            self._anchored(event, opened)
            self._open.append(opened)
            self._keys.append(None)
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            closed = self._open.pop()
            self._keys.pop()
            self._place(closed, closed.line)
        elif isinstance(event, yaml.AliasEvent):
            self._place(self._alias(event.anchor, line), line)
        elif isinstance(event, yaml.DocumentEndEvent):
            self._anchors.clear()
            root, self._root = self._root, None
            return root
        return None

    def _scalar(self, event: Any, line: int) -> Scalar:
        tag = event.tag
        if tag is None or tag == "!":
            tag = self._parser.resolve(self._yaml.ScalarNode, event.value, event.implicit)
        return Scalar(line, event.value, _KINDS.get(tag.removeprefix(_CORE), Kind.STRING))

    def _anchored(self, event: Any, node: Node) -> None:
        if event.anchor is not None:
            self._anchors[event.anchor] = node

    def _alias(self, anchor: str, line: int) -> Node:
        node = self._anchors.get(anchor)
        if node is None:
            raise NotYaml(line, f"alias *{anchor} has no anchor before it")
        if any(node is one for one in self._open):
            raise NotYaml(line, f"alias *{anchor} stands within what it stands for")
        return node

    def _place(self, node: Node, line: int) -> None:
        """Put a finished node where it belongs."""
        if not self._open:
            self._root = node
            return
        parent, key = self._open[-1], self._keys[-1]
        parent.size += node.size
        if parent.size > MAX_NODES:
            raise NotYaml(line, f"more than {MAX_NODES:,} values, aliases written out")
        if isinstance(parent, Sequence):
            parent.items.append(node)
        elif key is None:
            if not isinstance(node, Scalar):
                raise NotYaml(line, "the key of a field must be a word, not a list or an object")
            if node.kind is not Kind.STRING:
                raise NotYaml(line, f"the key {node.text} is a {node.kind} in YAML: quote it")
            if node.text in parent.fields:
                raise NotYaml(line, f"field {node.text!r} is there twice, first in line {parent.lines[node.text]}")
            self._keys[-1] = node
        else:
            parent.fields[key.text], parent.lines[key.text] = node, key.line
            self._keys[-1] = None
