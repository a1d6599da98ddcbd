"""What the generators of pages share: where pages are, how sentences of docstrings are found, and tables."""

import ast
import inspect
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    return [_row(titles), "|" + "---|" * len(titles), *map(_row, rows)]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", r"\|") for cell in cells) + " |"


def prose(text: str) -> list[str]:
    """Return the lines of paragraphs, as wide as the other pages'."""
    paragraphs = [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]
    filled = [textwrap.wrap(one, 118, break_long_words=False, break_on_hyphens=False) for one in paragraphs]
    return [line for lines in filled for line in ("", *lines)][1:]


def sentence(text: str) -> str:
    """Return a text as a sentence: one line, a capital and a full stop."""
    plain = " ".join(text.split())
    return f"{plain[:1].upper()}{plain[1:]}" + ("" if plain.endswith((".", ":")) else ".")


def field_docs(module: ModuleType) -> dict[str, dict[str, str]]:
    """Return what stands below the fields of a module's classes, by class and field."""
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.ClassDef):
            pairs = zip(node.body, node.body[1:], strict=False)
            found[node.name] = {
                field.target.id: " ".join(text.value.value.split())
                for field, text in pairs
                if isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
                and isinstance(text.value.value, str)
            }
    return found
