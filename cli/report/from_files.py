"""What is on disk: true whether the services run or not, and all that is known of them when they don't.

    files/ipam.json, endpoint.json    every table of their databases, as of one moment
    files/state.json                  the loader's state directory: records, headers, logs of failed builds
    files/journal.json                the deletion journal
    files/cni.json                    the runtime's network configurations
    files/settings.json               the settings as this command reads them
    logs/<service>.log                the end of each service's log, or of what journald has of its unit
    logs/cni.log                      the end of the plugin's log, where a configuration has one

Only plain files are read, none is written, and a service that runs isn't held up.
"""

import dataclasses
import json
import os
import stat
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cli import processes
from cli.report import gathering, tools
from cli.report.gathering import Collector, Member
from services.common import db, deletions
from services.common.config import Settings
from services.common.errors import PodlaneError

# Rows of one table; the log of 1,000 endpoints has more.
_MOST_ROWS = 50_000
_MOST_FILE = 256 << 10
# Compiled objects are as large as all else together, and their hash says what they are.
_KINDS = (".json", ".h", ".txt", ".log")


def collectors(settings: Settings, conf_dir: Path) -> list[Collector]:
    """Return them."""
    threaded = gathering.from_thread
    logs = [
        Collector(f"logs/{service}", lambda service=service: _log(settings, service))  # type: ignore[misc] # mypy can't type a lambda's default
        for service in processes.SERVICES
    ]
    return [
        threaded("files/settings", lambda: [Member("files/settings.json", plain_settings(settings))]),
        threaded("files/ipam", lambda: [_database("files/ipam.json", settings.ipam.database)]),
        threaded("files/endpoint", lambda: [_database("files/endpoint.json", settings.endpoint.database)]),
        threaded("files/state", lambda: [Member("files/state.json", _tree(settings.loader.state_dir))]),
        threaded("files/journal", lambda: [Member("files/journal.json", _journal(settings.endpoint.journal_dir))]),
        threaded("files/cni", lambda: [Member("files/cni.json", _configurations(conf_dir))]),
        threaded("logs/cni", lambda: list(_plugin_logs(conf_dir))),
        *logs,
    ]


def plain_settings(settings: Settings) -> Any:
    """Return the settings as JSON; paths of secrets are among them, never what is in those files."""
    return json.loads(json.dumps(dataclasses.asdict(settings), default=str))


def _database(name: str, path: Path) -> Member:
    tables = db.snapshot(path, _MOST_ROWS)
    cut = [table for table, rows in tables.items() if len(rows) == _MOST_ROWS]
    note = f"of {', '.join(cut)} only the first {_MOST_ROWS} rows" if cut else ""
    return Member(name, {table: [_row(row) for row in rows] for table, rows in tables.items()}, note)


def _row(row: dict[str, Any]) -> dict[str, Any]:
    return {name: _spelled(value) if isinstance(value, bytes) else value for name, value in row.items()}


def _spelled(value: bytes) -> str:
    """Return a blob as people write it: all of ours are addresses of one kind or another."""
    if len(value) in {4, 16}:
        return str(ip_address(value))
    return value.hex(":" if len(value) == 6 else "") if value else ""


def _tree(root: Path) -> dict[str, Any]:
    """Return the files below a directory by their paths: JSON as values, else text. Raises OSError."""
    root.stat()
    found: dict[str, Any] = {}
    for directory, below, files in os.walk(root):
        below.sort()
        for name in sorted(files):
            path = Path(directory, name)
            if path.suffix in _KINDS:
                found[str(path.relative_to(root))] = _content(path)
        if not files and not below:
            found[f"{Path(directory).relative_to(root)}/"] = None
    return found


def _content(path: Path) -> Any:
    text = read(path)
    if path.suffix in {".json", ".conf", ".conflist"}:
        try:
            return json.loads(text)
        except ValueError as error:
            return {"unreadable": str(error), "text": text}
    return text


def read(path: Path, most: int = _MOST_FILE) -> str:
    """Return the end of a plain file. Raises OSError for anything else."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(f"{path} is no plain file")
        left_out = max(0, found.st_size - most)
        file.seek(left_out)
        text = file.read(most).decode("utf-8", "replace")
    return f"[{left_out} bytes before this were cut off]\n{text}" if left_out else text


def _journal(directory: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    try:
        entries = deletions.scan(directory, {}).values()
    except PodlaneError as error:
        return [{"error": error.message}]
    for one in sorted(entries, key=lambda entry: entry.when):
        owner = dataclasses.asdict(one.attachment) if one.attachment is not None else None
        found.append({"file": one.name, "attachment": owner, "when": one.when, "error": one.error, "netns": one.netns})
    return found


def _configurations(directory: Path) -> dict[str, Any]:
    """Return the network configurations by their paths, in the order in which a runtime looks at them."""
    found = [path for path in sorted(directory.iterdir()) if path.suffix in {".conf", ".conflist", ".json"}]
    return {str(path): _content(path) for path in found}


async def _log(settings: Settings, service: str) -> Any:
    path = processes.find(settings, service).log
    if path.is_file():
        yield Member(f"logs/{service}.log", read(path, gathering.MOST_TEXT - 1024), f"the end of {path}")
        return
    unit = f"podlane-{service}"
    done = await tools.run("journalctl", "-u", unit, "-n", "20000", "--no-pager", "-o", "short-iso-precise")
    yield Member(f"logs/{service}.log", done.stdout, f"the journal of {unit}; there is no {path}")


def _plugin_logs(directory: Path) -> Iterator[Member]:
    """Yield the log that podlane's plugins write, by the `logFile` of their configurations."""
    found = set()
    for content in _configurations(directory).values():
        plugins = content.get("plugins", [content]) if isinstance(content, dict) else []
        found |= {str(one["logFile"]) for one in plugins if isinstance(one, dict) and one.get("logFile")}
    for number, path in enumerate(sorted(found)):
        if Path(path).is_file():
            name = f"logs/cni{number or ''}.log"
            yield Member(name, read(Path(path), gathering.MOST_TEXT - 1024), f"the end of {path}")


def link_records(settings: Settings) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the names and the content of the loader's link records, as they are on disk."""
    try:
        files: Sequence[Path] = sorted((settings.loader.state_dir / "links").glob("*.json"))
    except OSError:
        return
    for path in files:
        try:
            content = json.loads(read(path))
        except (OSError, ValueError):
            continue
        if isinstance(content, dict):
            yield path.stem, content
