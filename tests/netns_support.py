"""Network namespaces for privileged tests: cheap, private, and gone with the test whatever happens.

    def test_x(node: Netns, pod: Netns):            # fixtures: from tests.netns_support import node, pod
        ...                                         # this thread, its new threads and children are inside `node`
        pod.command("ip", "addr")                   # a process inside `pod`
        pod.run(lambda: socket.socket(...))         # a callable inside `pod`, in a thread of its own
        loader.create_link(netns_path=pod.path)

A namespace is held by a file descriptor and named `/proc/<pid>/fd/<n>`: any process can open that path, nothing is
mounted, and a killed test run leaves nothing. `bound(path)` gives it a name of its own, as `ip netns add` would.
"""

import contextlib
import ctypes
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self, TypeVar

import pytest

T = TypeVar("T")

# linux/sched.h, linux/mount.h
CLONE_NEWNET = 0x40000000
MS_BIND = 0x1000
MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)


def _call(function: str, *arguments: Any) -> None:
    if getattr(_libc, function)(*arguments):
        code = ctypes.get_errno()
        raise OSError(code, f"{function}: {os.strerror(code)}")


def in_thread(work: Callable[[], T]) -> T:
    """Run `work` in a thread of its own: whatever namespace it enters is left with the thread."""
    outcome: list[T] = []
    failure: list[BaseException] = []

    def body() -> None:
        try:
            outcome.append(work())
        except BaseException as error:  # noqa: BLE001 - carried to the caller's thread
            failure.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


def in_netns(path: str, work: Callable[[], T]) -> T:
    """Run `work` in the namespace that a path names, in a thread of its own: sockets that it opens stay there."""

    def inside() -> T:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _call("setns", fd, CLONE_NEWNET)
        finally:
            os.close(fd)
        return work()

    return in_thread(inside)


class Netns:
    """One network namespace with its loopback up. A context manager; `close` may be called early and twice."""

    def __init__(self) -> None:
        """Make it."""
        self._fd: int | None = in_thread(self._make)
        self.command("ip", "link", "set", "lo", "up")

    @staticmethod
    def _make() -> int:
        _call("unshare", CLONE_NEWNET)
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        """Return it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let it go."""
        self.close()

    def close(self) -> None:
        """Let the kernel remove it, with all links that have an end in it."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def hide(self) -> None:
        """Hold it by another descriptor only: what was its path leads nowhere any more, or to something else."""
        before, self._fd = self.fd, os.dup(self.fd)
        os.close(before)

    @property
    def fd(self) -> int:
        """The descriptor that holds it."""
        assert self._fd is not None, "the namespace was closed"
        return self._fd

    @property
    def path(self) -> str:
        """A path that any process can open while this one lives."""
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    @property
    def inode(self) -> int:
        """The namespace's inode number, as `ls -l /proc/self/ns/net` shows it."""
        return os.fstat(self.fd).st_ino

    @contextlib.contextmanager
    def bound(self, path: Path) -> Iterator[str]:
        """Give it a name in the file system, as `ip netns add` does, for the block."""
        path.touch()
        _call("mount", self.path.encode(), os.fsencode(path), None, MS_BIND, None)
        try:
            yield str(path)
        finally:
            _call("umount2", os.fsencode(path), MNT_DETACH)
            path.unlink()

    @contextlib.contextmanager
    def enter(self) -> Iterator[None]:
        """Move this thread inside for the block; threads and processes that it starts are born there."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _call("setns", self.fd, CLONE_NEWNET)
            yield
        finally:
            _call("setns", before, CLONE_NEWNET)
            os.close(before)

    def run(self, work: Callable[[], T]) -> T:
        """Call `work` inside, in a thread of its own, and return what it returns."""

        def inside() -> T:
            with self.enter():
                return work()

        return in_thread(inside)

    def command(self, *argv: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command inside to its end; a failure shows what it said."""
        done: subprocess.CompletedProcess[str] = subprocess.run(
            self.argv(*argv), capture_output=True, text=True, timeout=60, check=False, **options
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(argv)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def argv(self, *argv: str) -> list[str]:
        """Return the command line that runs `argv` inside."""
        return ["nsenter", f"--net={self.path}", "--", *argv]

    def ping(self, address: str, count: int = 1) -> bool:
        """Return whether all of `count` echo requests from inside are answered."""
        return (
            self.command("ping", "-n", "-q", "-c", str(count), "-i", "0.01", "-W", "2", address, check=False).returncode
            == 0
        )


@pytest.fixture
def node() -> Iterator[Netns]:
    """A node's namespace; the test, its threads and its children run inside."""
    with Netns() as namespace, namespace.enter():
        yield namespace


@pytest.fixture
def pod() -> Iterator[Netns]:
    """A pod's namespace."""
    with Netns() as namespace:
        yield namespace


@pytest.fixture
def outside() -> Iterator[Netns]:
    """A namespace that stands for the rest of the world."""
    with Netns() as namespace:
        yield namespace
