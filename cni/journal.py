"""The deletion journal: what DEL leaves behind for podlane-endpoint when a service that it needs is away.

    <journalDir>/<network>~<containerID>~<ifname>.json      one file for each attachment: the same DEL twice is one
    {"version": 1, "attachment": {…}, "netns": "/run/netns/…", "when": 1760000000.123, "request_id": "cni-DEL-…"}
    <journalDir>/~<network>~<containerID>~<ifname>.json     podlane-ipam's: addresses alone, and no endpoint's
    {"version": 2, "addresses_only": true, …}

An entry comes into being whole: written beside its place, synced, and linked there; one that is there already stays,
and with it its lock. Whoever carries an entry out (podlane-endpoint, an ADD of the same attachment, a repeated DEL, GC)
holds its lock, flock(2), makes sure that the name still stands for the file that it has locked, and removes the
name before it lets go. So an entry can't be applied to what a later ADD makes: that ADD has found it and dealt with it,
or waited for whoever did.

The names are read by people, and finding one costs an ADD a single stat: hashing would take five times as long. Only
what a name has no room for is hashed.

The directory is its services' (a plugin is root, they are not): what is made in it is given to its owner, and no
symbolic link is followed. Not here: when to journal (delete.py), and what podlane-endpoint does (services/endpoint/
deletions.py).
"""

import posix
import time

from cni import jsontext, teardown
from cni.spec import IO_FAILURE, TRY_AGAIN, CniError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.session import Session
    from cni.teardown import Caller
    from cni.wire import Values

VERSION, VERSION_ADDRESSES_ONLY = 1, 2
SUFFIX = ".json"
LATELY_SECONDS = 60.0
_POLL_SECONDS = 0.02
# podlane-endpoint looks every second.
_GONE_SECONDS = 3.0
_DIRECTORY = posix.O_RDONLY | posix.O_DIRECTORY | posix.O_NOFOLLOW | posix.O_CLOEXEC


def write(path: str, attachment: "Values", netns: str, request_id: str, *, addresses_only: bool = False) -> None:
    """Have an entry on disk when this returns. Raises OSError."""
    kind = {"version": VERSION_ADDRESSES_ONLY, "addresses_only": True} if addresses_only else {"version": VERSION}
    entry = {
        **kind,
        "attachment": attachment,
        "netns": netns,
        "when": round(time.time(), 3),
        "request_id": request_id,
    }
    directory, _, name = path.rpartition("/")
    opened = _open_directory(directory or "/")
    try:
        temporary = f".{name}.{posix.getpid()}"
        try:
            _write_file(opened, temporary, jsontext.dumps(entry).encode() + b"\n")
            _link(temporary, name, opened)
        finally:
            _remove(temporary, opened)
        posix.fsync(opened)
    finally:
        posix.close(opened)


def _open_directory(directory: str) -> int:
    try:
        return posix.open(directory, _DIRECTORY)
    except FileNotFoundError:
        pass
    # Only the last part: where all of it is missing, nothing is mounted, or this isn't a node of podlane's.
    try:  # noqa: SIM105 - importing contextlib costs 3 ms
        posix.mkdir(directory, 0o750)
    except FileExistsError:
        pass
    opened = posix.open(directory, _DIRECTORY)
    _give(opened, posix.stat(directory.rpartition("/")[0] or "/"))
    return opened


def _write_file(directory: int, name: str, content: bytes) -> None:
    flags = posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC
    try:
        file = posix.open(name, flags, 0o640, dir_fd=directory)
    except FileExistsError:
        # Of a plugin that was killed and had the same pid.
        _remove(name, directory)
        file = posix.open(name, flags, 0o640, dir_fd=directory)
    try:
        _give(file, posix.fstat(directory))
        while content:
            content = content[posix.write(file, content) :]
        posix.fsync(file)
    finally:
        posix.close(file)


def _link(temporary: str, name: str, directory: int) -> None:
    # Not renamed: that would put another file in the place of one that somebody may have locked.
    try:  # noqa: SIM105 - importing contextlib costs 3 ms
        posix.link(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except FileExistsError:
        # Journalled before; whoever did that may not have come to the sync.
        pass


def _give(made: int, like: "posix.stat_result") -> None:
    """Give what was just made to whom something else belongs."""
    own = posix.fstat(made)
    if own.st_uid == posix.geteuid() and (own.st_uid, own.st_gid) != (like.st_uid, like.st_gid):
        try:  # noqa: SIM105 - importing contextlib costs 3 ms
            posix.fchown(made, like.st_uid, like.st_gid)
        except PermissionError:
            # A plugin that isn't root shares the group with the services.
            pass


def _remove(name: str, directory: int) -> None:
    try:  # noqa: SIM105 - importing contextlib costs 3 ms
        posix.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        pass


def is_waited_for(directory: str) -> bool:
    """Return whether there are entries, and one came or went lately: a service was away then, and somebody noticed."""
    try:
        lately = time.time() - posix.stat(directory).st_mtime < LATELY_SECONDS
        return lately and any(name.endswith(SUFFIX) and name[0] != "." for name in posix.listdir(directory))
    except OSError:
        return False


def of_network(directory: str, network: str) -> "set[tuple[str, str]]":
    """Return containerID and ifname of a network's entries. What isn't one is left to podlane-endpoint to tell of."""
    try:
        names = [name for name in posix.listdir(directory) if name.endswith(SUFFIX) and name[0] != "."]
    except OSError:
        return set()
    found = set()
    for name in names:
        parts = name.removesuffix(SUFFIX).split("~", 2)
        if len(parts) == 2:  # hashed
            parts = _read(f"{directory}/{name}")
        if len(parts) == 3 and parts[0] == network:
            found.add((parts[1], parts[2]))
    return found


def _read(path: str) -> list[str]:
    try:
        file = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NOFOLLOW)
        try:
            attachment = jsontext.loads(posix.read(file, 65536).decode())["attachment"]
            return [str(attachment[key]) for key in ("network", "container_id", "ifname")]
        finally:
            posix.close(file)
    except (OSError, ValueError, TypeError, KeyError):
        return []


def carry_out(
    session: "Session", caller: "Caller", attachment: "Values", *, addresses: bool = True
) -> "list[CniError]":
    """Take an attachment away, and its entry if there is one; return what failed of the first.

    `caller` makes the calls. `addresses` False: those are another plugin's. Raises CniError when the entry can't be
    locked until the session's deadline, or not be removed.
    """
    only = session.config.addresses_only
    path = session.entry_of(attachment, addresses_only=only)
    file = _hold(path, session)
    try:
        failed = (
            teardown.release(caller, attachment)
            if only
            else teardown.tear_down(caller, attachment, addresses=addresses)
        )
        if file >= 0 and not failed:
            posix.unlink(path)
    except OSError as error:
        raise CniError(IO_FAILURE, f"journal: {path} is carried out and can't be removed: {error.strerror}") from None
    finally:
        if file >= 0:
            posix.close(file)
    return failed


def before_add(session: "Session", *, addresses: bool) -> None:
    """Carry out the entry of this ADD's attachment. Raises CniError: then nothing may be added yet.

    `addresses` False: they were given by the plugin before this one, for this very ADD.
    """
    failed = carry_out(session, session, session.attachment, addresses=addresses)
    if failed:
        first = failed[0]
        message = f"an earlier DEL of this attachment comes first, and can't be finished now: {first.message}"
        raise CniError(first.code, message, f"{teardown.told(failed)}; it is journalled in {session.entry}")


def wait_until_gone(session: "Session") -> None:
    """Wait until the attachment has no entry of podlane's; podlane-ipam knows one service and can't carry it out.

    What it gives out is not to be taken by a DEL that came before. Raises CniError.
    """
    until = time.monotonic() + _GONE_SECONDS
    entry = session.entry_of(session.attachment)
    while session.is_journalled(entry):
        if time.monotonic() >= until:
            message = "an earlier DEL of this attachment comes first, and podlane-endpoint hasn't finished it yet"
            message = f"{message}: {entry}"
            raise CniError(TRY_AGAIN, message, "`podlane cni journal` says what it waits for")
        time.sleep(_POLL_SECONDS)  # noqa: TID251 - nothing tells when a file goes


def _hold(path: str, session: "Session") -> int:
    """Return the entry, open and locked, or -1 when there is none. Raises CniError."""
    while True:
        try:
            file = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NOFOLLOW)
        except (FileNotFoundError, NotADirectoryError):
            return -1
        except OSError as error:
            raise CniError(IO_FAILURE, f"journal: {path} can't be opened: {error.strerror}") from None
        try:
            _lock(file, path, session)
            if _is_there(file, path):
                return file
        except BaseException:
            posix.close(file)
            raise
        posix.close(file)


def _lock(file: int, path: str, session: "Session") -> None:
    import fcntl

    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        except OSError as error:
            raise CniError(IO_FAILURE, f"journal: {path} can't be locked: {error.strerror}") from None
        if session.seconds_left() <= 0:
            message = f"an earlier DEL of this attachment is being carried out and isn't finished: {path}"
            raise CniError(TRY_AGAIN, message, "`podlane cni journal` says what it waits for")
        time.sleep(_POLL_SECONDS)  # noqa: TID251 - flock(2) itself waits for ever


def _is_there(file: int, path: str) -> bool:
    """Return whether a path is still the name of an open file."""
    try:
        there = posix.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    own = posix.fstat(file)
    return (own.st_dev, own.st_ino) == (there.st_dev, there.st_ino)
