"""The deletion journal for tests: entries as the plugin writes them, and what is in the directory.

entry = journalled(directory, attachment)
with locked(directory, attachment) as entry: ...
assert files(directory) == []
"""

import contextlib
import fcntl
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cni import journal
from services.common.deletions import file_name
from services.common.model import Attachment


def journalled(directory: Path, attachment: Attachment, *, days: float = 0.0) -> Path:
    """Journal a deletion as if it had been so many days ago; return its file."""
    path = directory / file_name(attachment)
    directory.mkdir(mode=0o750, parents=True, exist_ok=True)
    fields = {name: getattr(attachment, name) for name in ("network", "container_id", "ifname")}
    if not days:
        journal.write(str(path), fields, "/run/netns/gone", "cni-DEL-test")
        return path
    content = {
        "version": 1,
        "attachment": fields,
        "netns": "",
        "when": time.time() - days * 86400,
        "request_id": "cni-DEL-test",
    }
    # Whole at once, as the plugin's are.
    (directory / f".{path.name}").write_text(json.dumps(content))
    return (directory / f".{path.name}").rename(path)


def entries(directory: Path) -> list[dict[str, Any]]:
    """Return what all entries hold, in the order of their names."""
    return [json.loads(path.read_text()) for path in files(directory)]


def files(directory: Path) -> list[Path]:
    """Return all that is in the directory, hidden or not."""
    return sorted(directory.iterdir()) if directory.exists() else []


@contextlib.contextmanager
def locked(directory: Path, attachment: Attachment) -> Iterator[Path]:
    """Journal a deletion that is locked from its beginning to the end of the block, as by whoever carries it out."""
    elsewhere = journalled(directory.with_name("elsewhere"), attachment)
    with elsewhere.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        directory.mkdir(exist_ok=True)
        elsewhere.rename(directory / elsewhere.name)
        yield directory / elsewhere.name
