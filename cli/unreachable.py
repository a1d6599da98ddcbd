"""Why a service can't be asked, for whoever sits before the terminal: the socket, the service, and what to do."""

import errno
import grp
from pathlib import Path

_START = "start it with `podlane node up` or `systemctl start podlane-{name}`"


def reason(name: str, socket: Path, number: int) -> str:
    """Return why no connection came about, by the errno of connect(2); 0: there was none."""
    start = _START.format(name=name)
    head = f"podlane-{name} does not answer on {socket}"
    match number:
        case errno.ENOENT:
            return f"{head}: there is no such socket, so it does not run, or with other settings (--config): {start}"
        case errno.ECONNREFUSED:
            return f"{head}: the socket is what an ended process has left: {start}; its log says why it ended"
        case errno.EACCES | errno.EPERM:
            return f"{head}: permission denied: run podlane as root{_group(socket)}"
        case errno.ENOTSOCK:
            return f"{head}: that is no socket: remove it, and {start}"
    return f"{head}: see `podlane node status` and its log"


def _group(socket: Path) -> str:
    """Say who else may use a socket: the group of its directory, if that is anybody but root."""
    try:
        number = socket.parent.stat().st_gid
        return f", or in the group {grp.getgrgid(number).gr_name}" if number else ""
    except (OSError, KeyError):
        return ""


def broke(name: str, socket: Path, how: str) -> str:
    """Return what to say when the service went away in the middle."""
    return f"podlane-{name} does not answer on {socket}: {how}: see `podlane node status` and its log"


def late(name: str, socket: Path, seconds: float) -> str:
    """Return what to say when the service took too long."""
    return (
        f"podlane-{name} did not finish in time on {socket}, {seconds:.0f} s: "
        "see `podlane node status`, `podlane controllers --failing` and its log"
    )
