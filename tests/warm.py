"""Processes of services and of the command that begin where their imports end: `python -m tests.warm MODULE SOCKET`.

process = warm.spawn("services.loader", ["--config", file], netns="/run/netns/pl-1", stderr=log)
process.pid, process.poll(), process.wait(10)
done = warm.run("cli", ["endpoint", "list"])        # as subprocess.run(capture_output=True, text=True)

Two thirds of what a service takes to start, and nine tenths of what a command takes, are imports, the same each time;
a run of all tests starts thousands. So each worker keeps one launcher per module, which has imported it and forks: what
comes of it is a process like any other, with its own pid, namespace, files and signals. That `python -m MODULE` starts
it, too, is for the tests of `podlane node up`, of the systemd units and of the README.

A request is one JSON line on a connection to the launcher's socket, and with it the three standard files; the answer is
the pid, and the exit code once the process has ended. Processes die with their launcher, and it with its worker.
"""

import asyncio
import contextlib
import ctypes
import functools
import gc
import importlib
import json
import os
import pkgutil
import random
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

_REPOSITORY = Path(__file__).resolve().parents[1]
# linux/prctl.h, linux/sched.h
_PR_SET_PDEATHSIG, _CLONE_NEWNET = 1, 0x40000000
_LONGEST = 1 << 20

Done = subprocess.CompletedProcess[str]


class Process:
    """A process that a launcher has forked, as subprocess.Popen shows it. Negative codes are signals."""

    def __init__(self, connection: socket.socket) -> None:
        """Wait until it has its pid."""
        self._connection = connection
        self._answers = connection.makefile("rb")
        self.pid = int(self._answers.readline())
        self.returncode: int | None = None

    def fileno(self) -> int:
        """Return what can be read once it has ended."""
        return self._connection.fileno()

    def ready(self) -> bool:
        """Whether it has ended."""
        return bool(select.select([self], [], [], 0.0)[0])

    def poll(self) -> int | None:
        """Return the exit code, None while it runs."""
        return self._ended(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code once it has ended. Raises subprocess.TimeoutExpired."""
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        return code

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._connection], [], [], timeout)[0]:
            # A launcher that is killed takes its processes along.
            self.returncode = int(self._answers.readline() or -signal.SIGKILL)
            self.let_go()
        return self.returncode

    def let_go(self) -> None:
        """Be told nothing of its end."""
        self._answers.close()
        self._connection.close()

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it is known to have ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


class AsyncProcess:
    """A process as asyncio.subprocess.Process shows it."""

    def __init__(self, process: Process) -> None:
        """Take one over, in a running loop."""
        self._process = process
        self.pid = process.pid
        self._end = asyncio.Event()
        asyncio.get_running_loop().add_reader(process, self._ended)

    @property
    def returncode(self) -> int | None:
        """The exit code, None while it runs."""
        if self._process.returncode is None and self._process.ready():
            self._ended()
        return self._process.returncode

    async def wait(self) -> int:
        """Return the exit code once it has ended."""
        await self._end.wait()
        return self._process.wait()

    def _ended(self) -> None:
        if not self._end.is_set():
            asyncio.get_running_loop().remove_reader(self._process)
            self._process.wait()
            self._end.set()

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


def spawn(module: str, argv: Sequence[str], *, netns: str = "", stdout: Any = None, stderr: Any = None) -> Process:
    """Start `python -m MODULE ARGV`, in a session of its own. `netns` is a path; a file that is None is ours.

    There is no input.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(_launcher(module).path)
    request = {"argv": [module, *argv], "netns": netns, "environment": dict(os.environ), "directory": os.getcwd()}  # noqa: PTH109 - as a child has it
    content = json.dumps(request).encode() + b"\n"
    with Path(os.devnull).open("rb") as nothing:
        files = [nothing.fileno(), *(one.fileno() if one else number for number, one in ((1, stdout), (2, stderr)))]
        sent = socket.send_fds(connection, [content], files)
    connection.sendall(content[sent:])
    return Process(connection)


def run(
    module: str, argv: Sequence[str], *, netns: str = "", timeout: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """Run `python -m MODULE ARGV` to its end, without input, and return what it said."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = spawn(module, argv, netns=netns, stdout=out, stderr=err)
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return Done([module, *argv], code, _read(out), _read(err))


def _read(file: BinaryIO) -> str:
    file.seek(0)
    return file.read().decode()


class _Launcher:
    """The launcher of one module: it ends when its stdin does, which is when this process ends."""

    def __init__(self, module: str) -> None:
        """Start it and wait until it listens."""
        self._directory = tempfile.TemporaryDirectory(prefix="podlane-warm-")
        self.path = f"{self._directory.name}/socket"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.warm", module, self.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=_REPOSITORY,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"


_lock = threading.Lock()


def _launcher(module: str) -> _Launcher:
    with _lock:
        return _started(module)


@functools.cache
def _started(module: str) -> _Launcher:
    return _Launcher(module)


# The launcher's side.


def main() -> None:
    """Import, listen, fork; see the module."""
    module, path = sys.argv[1:]
    before = dict(os.environ)
    work = _work(module)
    # A service's own collection, as it becomes ready, is not to walk and so to copy what it shares with its launcher.
    gc.collect()
    gc.freeze()
    # What the module's own start has set for its libraries.
    made = {name: value for name, value in os.environ.items() if name not in before}
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen(64)
        os.write(1, b"ready\n")
        waiting: dict[int, tuple[int, socket.socket]] = {}
        while True:
            ready: list[int] = select.select([0, listener.fileno(), *waiting], [], [])[0]
            if 0 in ready:
                return
            for handle in ready:
                if handle == listener.fileno():
                    connection, _ = listener.accept()
                    pid = _fork(listener, connection, work, made)
                    waiting[os.pidfd_open(pid)] = pid, connection
                else:
                    pid, connection = waiting.pop(handle)
                    os.close(handle)
                    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                    with contextlib.suppress(OSError), connection:
                        connection.sendall(f"{code}\n".encode())


def _work(module: str) -> Any:
    """Import all that a process of the module would import; return what it does then."""
    importlib.import_module(f"{module}.__main__" if module != "cli" else "cli.main")
    if module == "cli":
        package = importlib.import_module(module)
        for one in pkgutil.iter_modules(package.__path__):
            if one.name != "__main__":
                importlib.import_module(f"{module}.{one.name}")
        for name in ("grpc", "grpc.aio", "grpc_health.v1.health_pb2_grpc"):
            importlib.import_module(name)
    return importlib.import_module(f"{module}.main").main


def _fork(listener: socket.socket, connection: socket.socket, work: Any, made: dict[str, str]) -> int:
    content, files, _, _ = socket.recv_fds(connection, _LONGEST, 3)
    while not content.endswith(b"\n"):
        content += connection.recv(_LONGEST)
    pid = os.fork()
    if pid == 0:
        listener.close()
        code = 1
        try:
            connection.sendall(f"{os.getpid()}\n".encode())
            connection.close()
            request = json.loads(content)
            code = _become({**request, "environment": {**made, **request["environment"]}}, files, work)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        except BaseException:  # noqa: BLE001 - as the interpreter does
            sys.excepthook(*sys.exc_info())
        finally:
            with contextlib.suppress(BaseException):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)
    for one in files:
        os.close(one)
    return pid


def _become(request: dict[str, Any], files: list[int], work: Any) -> int:
    """Be the process that was asked for."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.setsid()
    if request["netns"]:
        handle = os.open(request["netns"], os.O_RDONLY)
        if libc.setns(handle, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns {request['netns']}")
        os.close(handle)
    for number, one in enumerate(files):
        os.dup2(one, number)
    os.closerange(3, 4096)  # the launcher's, of all its other processes
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["directory"])
    random.seed()
    time.tzset()
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", errors="backslashreplace")  # noqa: SIM115 - as the interpreter opens them
    sys.argv = request["argv"]
    return int(work() or 0)


if __name__ == "__main__":
    main()
