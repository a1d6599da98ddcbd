"""Network namespaces: opening a pod's, and visiting it. The one door to setns(2), which Python 3.11 doesn't have.

A visit moves the calling thread into the namespace and back. What is opened inside (a netlink socket, a file below
/proc/sys/net) stays inside for as long as it is open, so a visit is short: three system calls and what is opened.

Visits are made by the netlink workers' threads only (netlink_worker.py). A thread that can't return would do the
next pod's work in this pod's namespace: `Stranded` says so, and the worker lets that thread end.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from services.common.errors import FailedPrecondition, InvalidArgument, NotFound, PodlaneError, Unavailable

# linux/sched.h, linux/nsfs.h
_CLONE_NEWNET = 0x40000000
_NS_GET_NSTYPE = 0xB703

_OWN = "/proc/thread-self/ns/net"


class NotThePods(InvalidArgument):
    """What is at the path can't be a pod's namespace: another kind of file, or the node's own namespace."""


class Stranded(Unavailable):
    """A thread could not leave a namespace that it visited; it must not be used again."""


class Netns:
    """An open network namespace of a pod. A context manager; holding it open keeps it alive."""

    __slots__ = ("_fd", "inode", "path")

    def __init__(self, path: str, fd: int) -> None:
        """Own the descriptor."""
        self.path = path
        self._fd = fd
        self.inode = os.fstat(fd).st_ino

    @classmethod
    def open(cls, path: str) -> Self:
        """Open and verify the namespace at `path`.

        Raises NotFound when nothing is there, NotThePods when it isn't a network namespace or is the caller's own:
        setting a pod up there would reconfigure the node.
        """
        with _explained(path):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        netns = cls(path, fd)
        try:
            _check_kind(path, fd)
            _check_foreign(path, fd)
        except BaseException:
            netns.close()
            raise
        return netns

    def __enter__(self) -> Self:
        """Return it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._fd

    def close(self) -> None:
        """Let it go; the kernel removes it when nobody else holds it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @contextlib.contextmanager
    def visit(self) -> Iterator[None]:
        """Move the calling thread inside for the block. Raises Stranded when it can't come back."""
        with _explained(_OWN):
            home = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with _explained(self.path):
                _setns(self._fd)
            try:
                yield
            finally:
                try:
                    _setns(home)
                except OSError as error:
                    raise Stranded(
                        f"{self.path}: this thread can't go back to the node's namespace: {error}"
                    ) from error
        finally:
            os.close(home)


def _check_kind(path: str, fd: int) -> None:
    """NS_GET_NSTYPE is answered by nsfs only; anything else says ENOTTY, or something of its own."""
    kind = None
    if stat.S_ISREG(os.fstat(fd).st_mode):
        with contextlib.suppress(OSError):
            kind = fcntl.ioctl(fd, _NS_GET_NSTYPE)
    if kind != _CLONE_NEWNET:
        raise NotThePods(f"netns_path: {path} is not a network namespace", field="netns_path")


def _check_foreign(path: str, fd: int) -> None:
    with _explained(_OWN):
        own = Path(_OWN).stat()
    if os.path.samestat(os.fstat(fd), own):
        raise NotThePods(f"netns_path: {path} is the node's own network namespace", field="netns_path")


def _setns(fd: int) -> None:
    if _LIBC.setns(fd, _CLONE_NEWNET):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


_LIBC = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def _explained(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _refusal(path, error) from None


def _refusal(path: str, error: OSError) -> PodlaneError:
    if error.errno in {errno.ENOENT, errno.ENOTDIR}:
        return NotFound(f"netns_path: there is no network namespace at {path}", field="netns_path", path=path)
    if error.errno in {errno.EACCES, errno.EPERM}:
        return FailedPrecondition(f"netns_path: {path}: {error.strerror}: the loader needs CAP_SYS_ADMIN", path=path)
    if error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOMEM}:
        return Unavailable(f"netns_path: {path}: {error.strerror}", path=path)
    return InvalidArgument(f"netns_path: {path} can't be opened: {error.strerror}", field="netns_path", path=path)
