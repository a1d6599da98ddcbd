"""Messages as people and scripts read them.

`plain` turns any podlane message into dicts and lists with addresses, times and enums spelled out; `-o json` and
`-o yaml` print exactly that. Tables (table.py) are for people and may change, keys are the protobuf field names and may
not. What a listing has beside these is in listing.py.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any

import click
from google.protobuf.message import Message

from cli import table

_YAML = "podlane.yaml"


def _prefix(message: Any) -> str:
    return f"{ip_address(message.address.packed)}/{message.length}"


def _time(message: Any) -> str:
    return datetime.fromtimestamp(message.seconds + message.nanos / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


_SPELLED: dict[str, Callable[[Any], str]] = {
    "podlane.common.v1.IpAddress": lambda message: str(ip_address(message.packed)) if message.packed else "",
    "podlane.common.v1.IpPrefix": _prefix,
    "podlane.common.v1.MacAddress": lambda message: message.packed.hex(":"),
    "google.protobuf.Timestamp": _time,
}


def plain(message: Message) -> Any:
    """Return `message` as JSON-ready values; absent messages are left out, other fields always there."""
    spell = _SPELLED.get(message.DESCRIPTOR.full_name)
    if spell is not None:
        return spell(message)
    result: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            result[field.name] = dict(sorted(value.items()))
        elif field.is_repeated:
            result[field.name] = [_scalar(field, one) for one in value]
        elif not field.has_presence or message.HasField(field.name):
            result[field.name] = _scalar(field, value)
    return result


def _scalar(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return plain(value)
    if field.enum_type is not None:
        return enum_name(field.enum_type, value)
    return value.hex() if isinstance(value, bytes) else value


def enum_name(enum: Any, number: int) -> str:
    """Return an enum value as people write it: ENDPOINT_STATE_WAITING_TO_REGENERATE → waiting-to-regenerate."""
    known = enum.values_by_number.get(number)
    if known is None:
        return str(number)
    names = [value.name for value in enum.values]
    common = names[0].removesuffix("UNSPECIFIED")
    return str(known.name.removeprefix(common).lower().replace("_", "-"))


def level_name(level: int) -> str:
    """Return a regeneration level as people call it: no-rebuild, rewrite+load."""
    return ("invalid", "no-rebuild", "rewrite+load")[level]


def age(seconds: float) -> str:
    """Return a duration as kubectl does: 5s, 3m, 2h, 4d."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(max(seconds, 0))}s"


def duration(seconds: float) -> str:
    """Return how long something took or is to take, three digits at most: 850us, 2.9ms, 1.3s, 10m."""
    if seconds >= 120:
        return age(seconds)
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g}{unit}"
    return f"{seconds * 1e6:.3g}us"


def labels(found: Mapping[str, str]) -> list[str]:
    """Return labels as people write them; a reserved one has no value."""
    return [
        f"{key}={value}" if value or not key.startswith("reserved:") else key for key, value in sorted(found.items())
    ]


def pod_name(pod: Any) -> str:
    """Return a pod as kubectl names it in all namespaces, or `-`."""
    return f"{pod.namespace}/{pod.name}" if pod.name else "-"


def show_json(value: Any) -> None:
    """Print data: as JSON, indented, or as YAML where that was asked for by `output_option`."""
    if spelled_as_yaml():
        click.echo(as_yaml(value), nl=False)
    else:
        click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def as_yaml(value: Any) -> str:
    """Return data as a YAML document."""
    import yaml

    text: str = yaml.dump(
        value, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), allow_unicode=True, sort_keys=False
    )
    return text


def spelled_as_yaml() -> bool:
    """Whether data is to be YAML in the command that runs."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(_YAML))


def show_table(columns: Sequence[str], rows: Sequence[Sequence[str]], empty: str, flexible: str = "") -> None:
    """Print rows under their columns; `empty` when there are none. `flexible` names the column that is cut first where
    a terminal is too narrow: the last, if none is named.
    """
    if not rows:
        click.echo(empty)
        return
    for line in table.fitted(columns, rows, table.of_stdout(), flexible):
        click.echo(line)


def read_output(context: click.Context, _parameter: click.Parameter, value: str) -> str:
    """Make one case of the two ways to spell data: a command knows `json`, and `show_json` how it is to be spelled."""
    if value != "yaml":
        return value
    context.meta[_YAML] = True
    return "json"


output_option = click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "wide", "json", "yaml"]),
    default="table",
    show_default=True,
    callback=read_output,
    help="How to print.",
)
