"""The deletion journal's directory, for whoever reads it: podlane-endpoint, and the command when that one is down.

Its format and its rules are those of cni/journal.py, which writes it: a file for each attachment, whole from the
moment that it is there and never changed; who carries it out holds its lock, and removes it before letting go.

What can't be read, was written by a newer podlane or is none of its files, is an entry without an attachment: it is
shown and left alone. It all blocks.
"""

import errno
import fcntl
import hashlib
import json
import os
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from podlane.common.v1 import types_pb2

from services.common import wire
from services.common.errors import FailedPrecondition, InvalidArgument, Unavailable
from services.common.model import Attachment

VERSION, VERSION_ADDRESSES_ONLY = 1, 2
SUFFIX = ".json"
_LONGEST_NAME = 180
_MAX_BYTES = 65536
# A plugin writes one within milliseconds; what is left of one that was killed is removed.
_ABANDONED_SECONDS = 3600.0
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of the journal. `attachment` None: it can't be read, `error` says why. `when`: seconds since the epoch."""

    name: str
    inode: int
    when: float
    attachment: Attachment | None = None
    error: str = ""
    netns: str = ""
    request_id: str = ""
    addresses_only: bool = False
    """Journalled by podlane-ipam's DEL: no endpoint and no link are to be taken away."""

    def age(self) -> float:
        """Return how long ago it was journalled, by a clock that may have been set since."""
        return max(0.0, time.time() - self.when)

    def fields(self) -> dict[str, Any]:
        """Return it as fields of a Deletion message."""
        attachment = wire.write_attachment(self.attachment) if self.attachment is not None else None
        return {
            "file": self.name,
            "attachment": attachment,
            "netns_path": self.netns,
            "journalled": wire.write_time(self.when),
            "request_id": self.request_id,
            "last_error": self.error,
            "addresses_only": self.addresses_only,
        }


def file_name(attachment: Attachment, *, addresses_only: bool = False) -> str:
    """Return the name of an attachment's entry: podlane's, or podlane-ipam's."""
    name = f"{attachment.network}~{attachment.container_id}~{attachment.ifname}"
    if len(name) > _LONGEST_NAME:
        name = f"long~{hashlib.sha256(name.encode()).hexdigest()}"
    return f"{'~' if addresses_only else ''}{name}{SUFFIX}"


def scan(directory: Path, known: Mapping[str, Entry]) -> dict[str, Entry]:
    """Return the entries by name; those that are `known` are not read again. A directory that isn't there is empty.

    Raises Unavailable when it can't be listed.
    """
    try:
        with os.scandir(directory) as listed:
            there = [(one.name, one.inode()) for one in listed]
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise Unavailable(f"{directory}: cannot be listed: {error.strerror}", path=directory) from None
    return {entry.name: entry for entry in _entries(directory, there, known)}


def _entries(directory: Path, there: list[tuple[str, int]], known: Mapping[str, Entry]) -> Iterator[Entry]:
    for name, inode in sorted(there):
        if name.startswith("."):
            _forget_abandoned(directory / name)
        elif name in known and known[name].inode == inode:
            yield known[name]
        elif (found := _look(directory, name)) is not None:
            yield found


def _look(directory: Path, name: str) -> Entry | None:
    """Return an entry, None when it is gone by now."""
    shown = os.fsencode(name).decode(errors="backslashreplace")
    try:
        file = os.open(directory / name, _OPEN)
    except FileNotFoundError:
        return None
    except OSError as error:
        return Entry(shown, 0, time.time(), error=f"can't be opened: {error.strerror}")
    try:
        found = os.fstat(file)
        try:
            return parse(name, found.st_ino, _read(file, found))
        except (OSError, InvalidArgument, FailedPrecondition) as error:
            why = error.strerror or "" if isinstance(error, OSError) else error.message
            return Entry(shown, found.st_ino, found.st_mtime, error=why)
    finally:
        os.close(file)


def _read(file: int, found: os.stat_result) -> bytes:
    if not stat.S_ISREG(found.st_mode):
        raise InvalidArgument("is no regular file")
    return os.read(file, _MAX_BYTES)


def parse(name: str, inode: int, data: bytes) -> Entry:
    """Return the entry that a file of this name has. Raises InvalidArgument, or FailedPrecondition for a newer one."""
    if not name.endswith(SUFFIX):
        raise InvalidArgument("is none of the journal's files: move it elsewhere")
    try:
        document = json.loads(data)
        version = document["version"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise InvalidArgument("is damaged: it isn't JSON with a version") from None
    if version not in {VERSION, VERSION_ADDRESSES_ONLY}:
        raise FailedPrecondition(
            f"has the version {version!r}, this podlane knows {VERSION_ADDRESSES_ONLY}: a newer one carries it out"
        )
    try:
        named = types_pb2.Attachment(**document["attachment"])
        when, netns, request_id = float(document["when"]), str(document["netns"]), str(document["request_id"])
        only = document["addresses_only"] is True if version == VERSION_ADDRESSES_ONLY else False
        wire.write_time(when)
    except (ValueError, TypeError, KeyError, OverflowError):
        raise InvalidArgument("is damaged: a field is missing or of another type") from None
    attachment = wire.read_attachment(named, "attachment")
    right = file_name(attachment, addresses_only=only)
    if right != name:
        raise InvalidArgument(f"is damaged or was renamed: {attachment} belongs in {right}")
    return Entry(name, inode, when, attachment, netns=netns, request_id=request_id, addresses_only=only)


def _forget_abandoned(path: Path) -> None:
    """Remove what a plugin was writing when it was killed."""
    if f"{SUFFIX}." not in path.name:
        return
    try:
        if time.time() - path.lstat().st_mtime > _ABANDONED_SECONDS:
            path.unlink()
    except OSError:
        return  # gone, or nothing that anybody waits for


def hold(directory: Path, entry: Entry) -> int | None:
    """Return the entry, open and locked until it is closed; None: it is gone, or somebody else carries it out.

    Raises Unavailable.
    """
    path = directory / entry.name
    try:
        file = os.open(path, _OPEN)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unavailable(f"{path}: can't be opened: {error.strerror}", path=path) from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(file).st_ino == entry.inode == path.lstat().st_ino:
            return file
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno not in {errno.EAGAIN, errno.EACCES}:
            os.close(file)
            raise Unavailable(f"{path}: can't be locked: {error.strerror}", path=path) from None
    os.close(file)
    return None


def forget(directory: Path, entry: Entry) -> None:
    """Remove an entry that is held. Raises Unavailable."""
    path = directory / entry.name
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise Unavailable(
            f"{path}: is carried out and can't be removed: {error.strerror}; "
            f"{directory} must belong to the service's user",
            path=path,
        ) from None
