"""The watched directory: files whose documents are in force for as long as they lie there.

    directory ──scan──▶ files as they are ──changes──▶ what differs from the last answer ──▶ owner: taken or refused

Looking costs one stat for each file; only what has changed is read. A file that changed less than two seconds ago is
read again at the next look, because clocks of file systems tick slowly: a second write may leave no other trace.

What keeps policies from opening or closing by accident:

- A file that can't be read, or whose text is refused, leaves in force what was last taken from it.
- A file that is seen half written is most likely refused; it is looked at again when the rest is there.
- Documents go when their file goes. A directory that isn't there is empty; one that can't be listed is an error, and
  nothing changes.
- A file is told of until its owner has answered. Refused, it is told of again when it changes or any other file does:
  the reason may have been a document that stood elsewhere, or too many entries. `retry` is for changes elsewhere.

It blocks, and knows no documents. One look at a time.
"""

import os
import stat
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from services.common.errors import Unavailable

MAX_BYTES = 4 << 20
"""The largest file that is read."""

SUFFIXES = (".yaml", ".yml", ".json")
"""Other files are none of ours: editors' leftovers end in `~` or `.swp`. Neither are hidden ones."""

_SETTLED_NS = 2_000_000_000

Trace = tuple[int, ...]
"""What can't stay the same when a file changes: device, inode, size, times of change. The last one no program sets."""


@dataclass(frozen=True, slots=True)
class FileState:
    """A file as it was found: its text, or why there is none. `settled`: the same trace means the same text."""

    text: str | None
    error: str
    trace: Trace
    settled: bool


class Answer(NamedTuple):
    """What the owner said last, and of which text; None: that the file is gone. An empty `refused`: it was taken."""

    text: str | None
    refused: str = ""


class Directory:
    """The directory between two looks. An unset path: none is watched."""

    def __init__(self, path: Path, known: Iterable[str] = ()) -> None:
        """Begin; `known` are files from which documents were taken before a restart: such a file may be gone."""
        self._path = path
        self._files: dict[str, FileState] = {}
        self._answers: dict[str, Answer | None] = dict.fromkeys(known)

    @property
    def errors(self) -> Mapping[str, str]:
        """What is wrong, by file: it can't be read, or it was refused."""
        refused = {file: one.refused for file, one in self._answers.items() if one is not None and one.refused}
        unread = {file: one.error for file, one in self._files.items() if one.error}
        return dict(sorted((refused | unread).items()))

    def changed(self) -> Mapping[str, str | None]:
        """Look; return the new text of each file that wants an answer, by name; None: it is gone.

        Raises Unavailable when the directory can't be listed.
        """
        if self._path == Path():
            self._files = {}
        else:
            self._files = scan(self._path, self._files)
        return changes(self._files, self._answers)

    def taken(self, file: str) -> None:
        """Remember that what `changed` told of a file is in force, or that it is gone and so are its documents."""
        self._answer(file, "")

    def refused(self, file: str, error: str) -> None:
        """Remember why what `changed` told of a file is not in force."""
        self._answer(file, error)

    def retry(self) -> None:
        """Tell of refused files again: something has changed elsewhere."""
        self._answers |= {file: None for file, one in self._answers.items() if one is not None and one.refused}

    def _answer(self, file: str, refused: str) -> None:
        if file in self._files or refused:
            self._answers[file] = Answer(_text(self._files, file), refused)
        else:
            self._answers.pop(file, None)


def changes(files: Mapping[str, FileState], answers: Mapping[str, Answer | None]) -> dict[str, str | None]:
    """Return what wants an answer, by name: texts, and None for files that are gone. An answer of None is not known."""
    readable = [file for file in files.keys() | answers.keys() if file not in files or not files[file].error]
    told = {file: _text(files, file) for file in sorted(readable)}
    new = {file for file, text in told.items() if (one := answers.get(file)) is None or one.text != text}
    refused = {file for file, one in answers.items() if one is not None and one.refused}
    return {file: text for file, text in told.items() if file in new | refused} if new else {}


def _text(files: Mapping[str, FileState], file: str) -> str | None:
    return files[file].text if file in files else None


def scan(directory: Path, before: Mapping[str, FileState]) -> dict[str, FileState]:
    """Return the files of a directory, by name; those that have not changed since `before` are not read.

    Raises Unavailable when the directory is there and can't be listed.
    """
    try:
        with os.scandir(directory) as listed:
            names = sorted(one.name for one in listed if _is_ours(one.name))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise Unavailable(f"{directory}: cannot be listed: {error.strerror}", file=directory) from None
    return {_printable(name): _look(directory / name, before.get(_printable(name))) for name in names}


def _is_ours(name: str) -> bool:
    return name.endswith(SUFFIXES) and not name.startswith(".")


def _printable(name: str) -> str:
    """Names go into messages and into a database, and a file's may be any bytes."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _look(file: Path, before: FileState | None) -> FileState:
    try:
        found = file.stat()
    except OSError as error:
        return FileState(None, f"{file}: {error.strerror}", (), settled=False)
    trace = _trace(found)
    if not stat.S_ISREG(found.st_mode):
        return FileState(None, f"{file}: is no regular file", trace, settled=False)
    if before is not None and before.settled and before.trace == trace:
        return before
    try:
        return _read(file)
    except OSError as error:
        return FileState(None, f"{file}: cannot be read: {error.strerror}", trace, settled=_is_settled(trace))


def _read(file: Path) -> FileState:
    # It was a regular file a moment ago; a pipe that has taken its place would hold up who opens it.
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    with os.fdopen(descriptor, "rb") as opened:
        trace = _trace(os.fstat(descriptor))
        settled = _is_settled(trace)
        data = opened.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        return FileState(None, f"{file}: has more than {MAX_BYTES >> 20} MiB: split it", trace, settled)
    try:
        return FileState(data.decode(), "", trace, settled)
    except UnicodeDecodeError as error:
        return FileState(None, f"{file}: is not UTF-8: {error.reason} at byte {error.start}", trace, settled)


def _trace(found: os.stat_result) -> Trace:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _is_settled(trace: Trace) -> bool:
    return time.time_ns() - trace[-1] > _SETTLED_NS
