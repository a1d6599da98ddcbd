"""The state directory: what the loader has put in force, in files that a person can read and a restart can trust.

    globals/node_config.h, node.json      the node's configuration: for the compiler, and for the next start
    globals/nodes.json                    the other nodes, for the next start
    templates/<hash>/…                    compiled shapes (template.py's)
    <id>/ep_config.h                      the endpoint's switches
    <id>/template.txt                     the hash of its template
    <id>/endpoint.json                    what is in force: constants, programs, policy map
    <id>_next/                            the same while a build runs
    <id>_next_fail/                       what a failed build left, with verifier.log (or clang's)

A build works in `<id>_next` and becomes `<id>` in one step: a rename for the first one, for a later one an exchange of
the two names (renameat2(2), RENAME_EXCHANGE) after which the old content, now called `_next`, is removed. So at any
moment `<id>` is whole, or absent. `endpoint.json` is written into `_next` before the kernel is told: after a kill
-9, `_next` says what was about to happen and the kernel says whether it did (`unfinished`, see adopt.py).
A removal begins with `endpoint.json`: a directory without it is residue. Failures of endpoints that never came to be
stay, the newest 16 of them: their logs are all that tells why an ADD failed.

Nothing is synced to disk: the directory lives as long as the machine's links and maps do.
"""

import contextlib
import ctypes
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from services.common.errors import PodlaneError, Unavailable
from services.loader import files
from services.loader import record as written
from services.loader.model import LARGEST_ID, EndpointRecord, NodeConfig, RemoteNode

RECORD = "endpoint.json"
NEXT, FAILED = "_next", "_next_fail"
KEPT_FAILURES = 16

# linux/fcntl.h, linux/fs.h
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


class Build:
    """One `<id>_next`: files are written, then it is committed, failed or discarded. `begun` is whether it is there."""

    def __init__(self, root: Path, id_: int) -> None:
        """Name the directories; nothing is touched."""
        self.path = root / f"{id_}{NEXT}"
        self._live = root / str(id_)
        self._failed = root / f"{id_}{FAILED}"
        self.begun = False

    def begin(self, header: str) -> None:
        """Make the directory, with ep_config.h alone: what an earlier attempt left goes. Twice is once."""
        if self.begun:
            return
        _discard(self.path)
        with _explained(self.path):
            self.path.mkdir(mode=0o750)
        self.begun = True
        self.write("ep_config.h", header)

    def write(self, name: str, content: str) -> None:
        """Write one file."""
        path = f"{self.path}/{name}"
        with _explained(path):
            files.write(path, content)

    def intend(self, record: EndpointRecord) -> None:
        """Write down what is about to be put in force."""
        self.write("template.txt", f"{record.template_hash}\n")
        self.write(RECORD, written.write_endpoint(record))

    def commit(self) -> None:
        """Make it the endpoint's directory, in one step, and remove the one before and the last failure."""
        with _explained(self.path):
            if self._live.exists():
                exchange(self.path, self._live)
                _discard(self.path)
            else:
                self.path.rename(self._live)
        _discard(self._failed)

    def fail(self, header: str, log: str) -> Path:
        """Keep it as `<id>_next_fail` with the compiler's or verifier's log, and return the log's path."""
        self.begin(header)
        self.write("verifier.log", log)
        _discard(self._failed)
        with _explained(self._failed):
            (self.path / RECORD).unlink(missing_ok=True)
            self.path.rename(self._failed)
        _keep_newest_failures(self._failed.parent)
        return self._failed / "verifier.log"

    def discard(self) -> None:
        """Take it away."""
        _discard(self.path)


class StateDir:
    """The directory as a whole. Synchronous: each call is a few system calls on a tmpfs."""

    def __init__(self, root: Path) -> None:
        """Remember where; `open` makes it."""
        self.root = root
        self.globals = root / "globals"
        self.templates = root / "templates"

    def open(self) -> None:
        """Make the directories. Raises Unavailable."""
        for directory in (self.root, self.globals, self.templates):
            with _explained(directory):
                directory.mkdir(mode=0o750, parents=True, exist_ok=True)

    def check(self) -> None:
        """Raise CorruptState when anything that is in force can't be read."""
        self.node()
        self.remote_nodes()
        for _record in self.records():
            pass

    def node(self) -> NodeConfig | None:
        """Return the node's configuration, None before the first. Raises CorruptState."""
        content = _read(self.globals / "node.json")
        return written.read_node(content, self.globals / "node.json") if content is not None else None

    def node_header(self) -> str | None:
        """Return node_config.h as it is."""
        return _read(self.globals / "node_config.h")

    def write_node(self, config: NodeConfig, header: str) -> None:
        """Put the node's configuration in force for the next compile and the next start."""
        self._replace(self.globals / "node_config.h", header)
        self._replace(self.globals / "node.json", written.write_node(config))

    def forget_node(self) -> None:
        """Forget a configuration that never came into force."""
        with _explained(self.globals):
            (self.globals / "node.json").unlink(missing_ok=True)

    def remote_nodes(self) -> tuple[RemoteNode, ...]:
        """Return the other nodes that the loader was last told of. Raises CorruptState."""
        content = _read(self.globals / "nodes.json")
        return written.read_nodes(content, self.globals / "nodes.json") if content is not None else ()

    def write_remote_nodes(self, nodes: Iterable[RemoteNode]) -> None:
        """Remember the other nodes for the next start."""
        self._replace(self.globals / "nodes.json", written.write_nodes(nodes))

    def forget_remote_nodes(self) -> None:
        """Forget the other nodes: this one is alone."""
        with _explained(self.globals):
            (self.globals / "nodes.json").unlink(missing_ok=True)

    def _replace(self, path: Path, content: str) -> None:
        beside = path.with_name(f".{path.name}")
        with _explained(path):
            beside.write_text(content)
            beside.rename(path)

    def build(self, id_: int) -> Build:
        """Return the build of an endpoint; nothing is touched before its `begin`."""
        return Build(self.root, id_)

    def record(self, id_: int) -> EndpointRecord | None:
        """Return what is in force for an endpoint, None when nothing is. Raises CorruptState."""
        return self._record(f"{self.root}/{id_}")

    def header(self, id_: int) -> str | None:
        """Return the ep_config.h that is in force for an endpoint."""
        return _read(f"{self.root}/{id_}/ep_config.h")

    def records(self) -> Iterator[EndpointRecord]:
        """Return what is in force for all endpoints, by id. Raises CorruptState."""
        for id_ in sorted(self._ids("")):
            found = self.record(id_)
            if found is not None:
                yield found

    def ids(self) -> set[int]:
        """Return the ids that a directory is named after, with or without a record, also of a build under way."""
        return {*self._ids(""), *self._ids(NEXT)}

    def unfinished(self) -> list[tuple[int, EndpointRecord | None]]:
        """Return the builds that were interrupted, with what they were about to put in force if they got that far."""
        found: list[tuple[int, EndpointRecord | None]] = []
        for id_ in sorted(self._ids(NEXT)):
            # A kill in the middle of a write leaves half a record: such a build had not told the kernel anything.
            with contextlib.suppress(PodlaneError):
                found.append((id_, self._record(f"{self.root}/{id_}{NEXT}")))
                continue
            found.append((id_, None))
        return found

    def remove(self, id_: int) -> bool:
        """Remove all directories of an endpoint; return whether one was there.

        The failure of an endpoint that never came to be stays: its log is all that tells why an ADD failed.
        """
        existed = _discard(self.root / f"{id_}{NEXT}")
        if _discard(self.root / str(id_)):
            existed = True
            _discard(self.root / f"{id_}{FAILED}")
        return existed

    def sweep(self) -> list[int]:
        """Remove what interrupted removals left: directories without a record. Return their ids."""
        residue = [id_ for id_ in self._ids("") if not (self.root / str(id_) / RECORD).exists()]
        for id_ in residue:
            self.remove(id_)
        return residue

    def _record(self, directory: str) -> EndpointRecord | None:
        content = _read(f"{directory}/{RECORD}")
        return written.read_endpoint(content, Path(directory) / RECORD) if content is not None else None

    def _ids(self, suffix: str) -> list[int]:
        with _explained(self.root):
            names = [entry.name for entry in os.scandir(self.root)]
        numbers = (name.removesuffix(suffix) for name in names if name.endswith(suffix))
        return [int(number) for number in numbers if _is_id(number)]


def exchange(one: Path, other: Path) -> None:
    """Let two existing paths of one file system change names, atomically (renameat2(2)). Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(one), None, str(other))


def _keep_newest_failures(root: Path) -> None:
    """A runtime repeats an ADD that fails, each time with another endpoint id: keep what the last few left."""
    with _explained(root):
        failures = [entry for entry in os.scandir(root) if entry.name.endswith(FAILED)]
        failures.sort(key=lambda entry: entry.stat().st_mtime_ns)
    for entry in failures[:-KEPT_FAILURES]:
        _discard(Path(entry.path))


def _is_id(text: str) -> bool:
    return text.isdecimal() and text == str(int(text)) and 0 < int(text) <= LARGEST_ID


def _read(path: str | Path) -> str | None:
    try:
        return files.read(path)
    except OSError as error:
        raise Unavailable(f"{path} can't be read: {error.strerror}", path=path) from None


def _discard(directory: Path) -> bool:
    """Remove a directory if it is there, its record first; return whether it was."""
    with _explained(directory):
        if not os.path.lexists(directory):  # the usual case; finding out by rmtree takes five times as long
            return False
        (directory / RECORD).unlink(missing_ok=True)
        shutil.rmtree(directory)
    return True


@contextlib.contextmanager
def _explained(path: str | Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(
            f"{path} can't be written: {error.strerror}; loader.state_dir must be on a writable tmpfs, ext4, xfs or "
            "btrfs",
            path=path,
        ) from None
