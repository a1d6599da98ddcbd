"""docs/settings.md: every setting of podlane.toml, with its default and what stands below it in config.py."""

import dataclasses
from pathlib import Path
from typing import Any, get_type_hints

from services.common import config
from tests.pages.parts import DOCS, field_docs, prose, table

PAGE = DOCS / "settings.md"

_TYPES: dict[Any, str] = {
    str: "string",
    Path: "path",
    int: "integer",
    float: "number",
    bool: "boolean",
    tuple[str, ...]: "array of strings",
    tuple[config.PoolSettings, ...]: "array of tables",
}
# Defaults that are found out, or that would be this machine's.
_DEFAULTS: dict[tuple[str, str], str] = {
    ("node", "name"): "the host's name",
    ("loader", "bpf_dir"): "`bpf/` of the installation",
    ("ipam", "pools"): "one pool `default` with `10.244.0.0/24` and `fd00:10:244::/112`",
}
_ABOVE = """
One TOML file serves the three services and the command: `--config FILE`, or `$PODLANE_CONFIG`, or
`/etc/podlane/podlane.toml` where that exists. Everything is optional. Written by `make docs` from
`services/common/config.py`; a test fails when it isn't. What most nodes set is in
[deploy/podlane.toml](../deploy/podlane.toml).

A single value can be overridden by the environment, in the form of the third column; lists and tables can't. A key that
doesn't exist or a value of another type ends the start with its name. Services read their settings when they start;
`podlane node log-level` changes the level of their logs while they run.
"""
_SCALARS = (str, Path, int, float, bool)


def sections() -> dict[str, type]:
    """Return the tables of podlane.toml and what each is read into; pools are a table, too."""
    hints = get_type_hints(config.Settings)
    found = {field.name: hints[field.name] for field in dataclasses.fields(config.Settings)}
    return {name: kind for section, kind in found.items() for name, kind in _with_pools(section, kind)}


def _with_pools(section: str, kind: type) -> list[tuple[str, type]]:
    return [(section, kind), ("ipam.pools", config.PoolSettings)] if section == "ipam" else [(section, kind)]


def undocumented() -> list[str]:
    """Return the settings that nothing is said of."""
    docs = field_docs(config)
    return [
        f"{section}.{field.name}"
        for section, kind in sections().items()
        for field in dataclasses.fields(kind)
        if not docs[kind.__name__].get(field.name)
    ]


def _default(section: str, field: "dataclasses.Field[Any]") -> str:
    if (section, field.name) in _DEFAULTS:
        return _DEFAULTS[section, field.name]
    value = field.default
    if value is dataclasses.MISSING:
        return "must be given"
    if isinstance(value, Path):
        return "" if value == Path() else f"`{value}`"
    if value == config.DERIVED:
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return "none" if not value else ", ".join(f"`{one}`" for one in value)
    if isinstance(value, float) and value.is_integer():
        return f"`{value:.0f}`"
    return "empty" if value == "" else f"`{value}`"


def page() -> str:
    """Return docs/settings.md."""
    docs = field_docs(config)
    lines = ["# Settings", "", *prose(_ABOVE)]
    for section, kind in sections().items():
        hints = get_type_hints(kind)
        title = f"[[{section}]]" if section == "ipam.pools" else f"[{section}]"
        rows = []
        for field in dataclasses.fields(kind):
            hint = hints[field.name]
            variable = f"PODLANE_{section}_{field.name}".upper()
            shown = f"`{variable}`" if hint in _SCALARS and section != "ipam.pools" else ""
            text = docs[kind.__name__].get(field.name, "").replace("<", "&lt;")
            rows.append((f"`{field.name}`", _TYPES[hint], shown, _default(section, field), text))
        lines += ["", f"## {title}", "", kind.__doc__ or ""]
        lines += ["", *table(("key", "type", "environment", "default", "meaning"), rows)]
    return "\n".join([*lines, ""])
