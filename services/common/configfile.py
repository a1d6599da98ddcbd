"""How the settings (config.py) are read: the file, then the environment, then what follows from both.

    file          --config FILE, or PODLANE_CONFIG, or /etc/podlane/podlane.toml when it exists
    environment   `PODLANE_IPAM_COOLDOWN_SECONDS=5` is `[ipam] cooldown_seconds = 5`
    derived       paths that aren't set, from the two directories of `[node]`

An unknown or ill-typed key is refused by name: a typo must not become a default. Whether values make sense together is
asked by those whom they concern.
"""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

from services.common.config import DERIVED, PoolSettings, Settings
from services.common.errors import InvalidArgument

DEFAULT_FILE = Path("/etc/podlane/podlane.toml")

# As every program with OpenTelemetry has them.
_OTLP = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def load(file: Path | None, environment: Mapping[str, str]) -> Settings:
    """Read the settings: file (None: PODLANE_CONFIG, else the default file if it exists), then environment.

    Raises InvalidArgument that names the file and the key.
    """
    if file is None and "PODLANE_CONFIG" in environment:
        file = Path(environment["PODLANE_CONFIG"])
    if file is None and DEFAULT_FILE.exists():
        file = DEFAULT_FILE
    document = _read(file) if file is not None else {}
    sections: dict[str, Any] = {}
    for section in dataclasses.fields(Settings):
        origin = f"{file}: [{section.name}]"
        table = document.pop(section.name, {})
        if not isinstance(table, dict):
            raise InvalidArgument(f"{file}: {section.name} must be a table", file=file, key=section.name)
        kind = get_type_hints(Settings)[section.name]
        values = _parse_table(kind, table, origin) | _from_environment(kind, section.name, environment)
        if section.name == "telemetry" and not values.get("otlp_endpoint"):
            values["otlp_endpoint"] = next(filter(None, map(environment.get, _OTLP)), "")
        sections[section.name] = kind(**values)
    if document:
        known = ", ".join(section.name for section in dataclasses.fields(Settings))
        raise InvalidArgument(f"{file}: unknown table {min(document)!r}; there are {known}", file=file)
    return _derive(Settings(**sections))


def _read(file: Path) -> dict[str, Any]:
    import tomllib  # many a command has no file to read

    try:
        return tomllib.loads(file.read_text())
    except OSError as error:
        raise InvalidArgument(f"{file}: cannot be read: {error.strerror}", file=file) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"{file}: not TOML: {error}", file=file) from None


def _parse_table(kind: type, table: Mapping[str, Any], origin: str) -> dict[str, Any]:
    hints = get_type_hints(kind)
    values = {}
    for key, value in table.items():
        if key not in hints:
            raise InvalidArgument(f"{origin} {key}: unknown key; there are {', '.join(hints)}", key=key)
        values[key] = _convert(hints[key], value, f"{origin} {key}")
    return values


def _from_environment(kind: type, section: str, environment: Mapping[str, str]) -> dict[str, Any]:
    values = {}
    for key, hint in get_type_hints(kind).items():
        variable = f"PODLANE_{section}_{key}".upper()
        if variable in environment and hint in _SCALARS:
            values[key] = _convert(hint, _SCALARS[hint](environment[variable], variable), variable)
    return values


def _number(text: str, variable: str, kind: type) -> object:
    try:
        return kind(text)
    except ValueError:
        raise InvalidArgument(f"{variable}: {text!r} is not a number", key=variable) from None


def _flag(text: str, variable: str) -> object:
    flags = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in flags:
        raise InvalidArgument(f"{variable}: {text!r} is neither true nor false", key=variable)
    return flags[text.lower()]


_SCALARS: dict[Any, Any] = {
    str: lambda text, _variable: text,
    Path: lambda text, _variable: text,
    int: lambda text, variable: _number(text, variable, int),
    float: lambda text, variable: _number(text, variable, float),
    bool: _flag,
}


def _convert(hint: Any, value: Any, origin: str) -> Any:
    if hint == tuple[PoolSettings, ...]:
        if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
            raise InvalidArgument(f"{origin}: must be an array of tables", key=origin)
        return tuple(_pool(entry, f"{origin}[{index}]") for index, entry in enumerate(value))
    if hint == tuple[str, ...]:
        if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
            raise InvalidArgument(f"{origin}: must be an array of strings", key=origin)
        return tuple(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise InvalidArgument(f"{origin}: {value!r} must be of type {hint.__name__}", key=origin)
    return value


def _pool(entry: Mapping[str, Any], origin: str) -> PoolSettings:
    values = _parse_table(PoolSettings, entry, origin)
    missing = {"name", "ranges"} - set(values) - ({"ranges"} if "cluster_ranges" in values else set())
    if missing:
        raise InvalidArgument(f"{origin}: needs {' and '.join(sorted(missing))}", key=origin)
    return PoolSettings(**values)


def _derive(settings: Settings) -> Settings:
    """Fill in the paths that follow from the node's two directories."""
    run, lib = settings.node.run_dir, settings.node.lib_dir
    unset = Path()

    def default(path: Path, derived: Path) -> Path:
        return derived if path == unset else path

    def listen(address: str, derived: Path) -> str:
        return str(derived) if address == DERIVED else address

    replace = dataclasses.replace
    return replace(
        settings,
        ipam=replace(
            settings.ipam,
            socket=default(settings.ipam.socket, run / "ipam" / "ipam.sock"),
            metrics_listen=listen(settings.ipam.metrics_listen, run / "ipam" / "metrics.sock"),
            database=default(settings.ipam.database, lib / "ipam.sqlite"),
        ),
        loader=replace(
            settings.loader,
            socket=default(settings.loader.socket, run / "loader" / "loader.sock"),
            metrics_listen=listen(settings.loader.metrics_listen, run / "loader" / "metrics.sock"),
            state_dir=default(settings.loader.state_dir, run / "state"),
        ),
        endpoint=replace(
            settings.endpoint,
            socket=default(settings.endpoint.socket, run / "endpoint" / "endpoint.sock"),
            metrics_listen=listen(settings.endpoint.metrics_listen, run / "endpoint" / "metrics.sock"),
            database=default(settings.endpoint.database, lib / "endpoint.sqlite"),
            journal_dir=default(settings.endpoint.journal_dir, lib / "deletions"),
        ),
    )


def load_from_process(file: Path | None) -> Settings:
    """Read the settings with this process's environment."""
    return load(file, os.environ)
