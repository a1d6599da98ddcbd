"""Entries of the deletion journal: which can be held, and what becomes of files that are none."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.common import deletions
from services.common.model import Attachment
from tests.journal_support import journalled


def test_an_entry_that_was_replaced_is_not_held(tmp_path: Path):
    """Between a look and the lock an ADD may have carried it out, and a DEL of what it added may be journalled."""
    attachment = Attachment("podlane", "c1", "eth0")
    first = journalled(tmp_path, attachment)
    (seen,) = deletions.scan(tmp_path, {}).values()
    keeper = first.open()
    first.unlink()
    journalled(tmp_path, attachment)

    assert deletions.hold(tmp_path, seen) is None
    (now,) = deletions.scan(tmp_path, {seen.name: seen}).values()
    held = deletions.hold(tmp_path, now)
    assert held is not None
    os.close(held)
    keeper.close()


def _change(entry: Path, **changes: Any) -> Path:
    document = json.loads(entry.read_text()) | changes
    entry.write_text(json.dumps(document))
    return entry


def named(container_id: str) -> dict[str, str]:
    return {"network": "podlane", "container_id": container_id, "ifname": "eth0"}


def _pipe(entry: Path) -> None:
    entry.unlink()
    os.mkfifo(entry)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda entry: entry.write_bytes(b""), "isn't JSON"),
        (lambda entry: entry.write_bytes(b"\xff\x00" * 400), "isn't JSON"),
        (lambda entry: entry.write_text("[1]"), "isn't JSON with a version"),
        (lambda entry: entry.write_text("[" * 60000), "isn't JSON"),
        (lambda entry: _change(entry, version=3), "newer"),
        (lambda entry: _change(entry, version=2), "a field is missing"),
        (lambda entry: _change(entry, version=2, addresses_only=True), "renamed"),
        (lambda entry: _change(entry, attachment=5), "another type"),
        (lambda entry: _change(entry, when="yesterday"), "another type"),
        (lambda entry: _change(entry, when=1e300), "another type"),
        (lambda entry: _change(entry, attachment=named("../x")), "container_id"),
        (lambda entry: _change(entry, attachment=named("c2")), "renamed"),
        (lambda entry: entry.rename(entry.with_suffix(".bak")), "none of the journal's files"),
        (lambda entry: (entry.unlink(), entry.mkdir()), "no regular file"),
        (_pipe, "no regular file"),
        (lambda entry: (entry.unlink(), entry.symlink_to("/etc/passwd")), "can't be opened"),
    ],
    ids=[
        "empty", "noise", "a list", "nested", "newer", "not its version", "podlane-ipam's",
        "no attachment", "no time", "no such time", "a bad name",
        "another attachment", "another suffix", "a directory", "a pipe", "a link",
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_an_entry_that_says_why(tmp_path: Path, spoil: Callable[[Path], Any], told: str):
    spoil(journalled(tmp_path, Attachment("podlane", "c1", "eth0")))

    (entry,) = deletions.scan(tmp_path, {}).values()

    assert entry.attachment is None
    assert told in entry.error
