"""Unix sockets that are private and never stolen.

gRPC binds a Unix socket by unlinking whatever is at the path: a second server silently takes a live service's socket
away and, when it ends, leaves none. So `prepare` asks first whether somebody answers there. Permissions come from
the directory (0750), because the socket file itself appears with the umask's mode in the middle of gRPC's bind.
"""

import errno
import socket
from pathlib import Path

from services.common.errors import FailedPrecondition, InvalidArgument, Unavailable

# sun_path has 108 bytes, one for the final NUL (unix(7)).
_LONGEST = 107


def answers(path: Path) -> bool:
    """Return whether a process accepts connections on the socket at `path`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError as error:
            # A full backlog is a living server.
            return error.errno in {errno.EAGAIN, errno.ETIMEDOUT}
    return True


def prepare(path: Path) -> None:
    """Make the socket's directory and refuse a path on which somebody serves already."""
    if len(str(path).encode()) > _LONGEST:
        raise InvalidArgument(
            f"socket path {path} has {len(str(path).encode())} bytes, Unix sockets allow {_LONGEST}: "
            "choose a shorter run_dir",
            path=path,
        )
    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(f"{path.parent} can't be made: {error.strerror}", path=path) from None
    if path.exists() and answers(path):
        raise FailedPrecondition(
            f"another process serves on {path}: stop it first (`podlane node status` shows its pid)", path=path
        )
