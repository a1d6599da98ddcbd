"""Switches and regenerations as `podlane config` and `podlane endpoint` show and set them."""

from collections.abc import Iterable, Sequence
from typing import Any

from cli import connect
from cli.present import level_name, plain, show_json, show_table
from services.common.config import Settings
from services.common.errors import InvalidArgument

_VALUES = {"on": True, "true": True, "enabled": True, "off": False, "false": False, "disabled": False, "default": None}


def parse(text: str) -> tuple[str, bool | None]:
    """Return KEY=VALUE as name and value; None: back to the default. Raises InvalidArgument."""
    name, equals, value = text.partition("=")
    if not name or not equals or value.lower() not in _VALUES:
        raise InvalidArgument(f"{text!r} is not KEY=VALUE with a value of on, off or default")
    return name, _VALUES[value.lower()]


def show_or_set(settings: Settings, selector: Any, changes: Sequence[str], output: str) -> None:
    """Show the switches of an endpoint, or with None of the node; with changes set them and show what came of it."""
    if changes:
        _set(settings, selector, changes, output)
    else:
        _show(settings, selector, output)


def _show(settings: Settings, selector: Any, output: str) -> None:
    from podlane.endpoint.v1 import endpoint_pb2

    request = endpoint_pb2.ListOptionsRequest(selector=selector)
    found = connect.ask(connect.endpoint(settings), "ListOptions", request).options
    if output == "json":
        show_json([plain(one) for one in found])
        return
    rows = [
        (
            one.info.name,
            _word(one.enabled),
            _word(one.endpoint) if one.HasField("endpoint") else "-",
            _word(one.node) if one.HasField("node") else "-",
            _word(one.info.default),
            one.info.text,
        )
        for one in found
    ]
    show_table(("OPTION", "VALUE", "ENDPOINT", "NODE", "DEFAULT", "WHAT IT DOES"), rows, "no options")


def _set(settings: Settings, selector: Any, changes: Sequence[str], output: str) -> None:
    from podlane.endpoint.v1 import endpoint_pb2

    request = endpoint_pb2.SetOptionsRequest(selector=selector)
    for text in changes:
        name, enabled = parse(text)
        request.changes.add(name=name, enabled=enabled)
    show_results(connect.ask(connect.endpoint(settings), "SetOptions", request).results, output)


def show_results(results: Iterable[Any], output: str, *, dry_run: bool = False) -> None:
    """Show what became of regenerations. Exit code 1 when one failed."""
    results = list(results)
    if output == "json":
        show_json([plain(one) for one in results])
    else:
        done = "WOULD CHANGE" if dry_run else "CHANGED"
        show_table(("ENDPOINT", "LEVEL", "TOOK", done), [_row(one) for one in results], "no endpoints")
    if any(one.error for one in results):
        raise SystemExit(1)


def _row(result: Any) -> tuple[str, ...]:
    told = "; ".join(filter(None, (result.reload_reason, *result.changes))) or "nothing"
    return (
        str(result.id),
        level_name(result.level),
        f"{result.duration_us / 1000:.1f} ms",
        f"failed: {result.error}" if result.error else told,
    )


def _word(enabled: bool) -> str:
    return "on" if enabled else "off"
