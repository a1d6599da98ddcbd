"""The node's services as processes: start, stop, look. For machines without systemd, for demos and for tests.

Each service has `<run_dir>/<service>.pid` and `<run_dir>/log/<service>.log`. A pid file is believed only when the
process behind it really is that service: pids are reused.
"""

import contextlib
import os
import select
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from services.common.config import Settings
from services.common.errors import Unavailable

# The loader first: it is the slowest to be ready and waits for nobody.
SERVICES = ("loader", "ipam", "endpoint")


@dataclass(frozen=True, slots=True)
class Process:
    """One service's process; `pid` is 0 when it doesn't run."""

    service: str
    pid: int
    log: Path
    socket: Path

    def rss_kib(self) -> int:
        """Return the resident memory in KiB, 0 when it doesn't run (proc(5), status: VmRSS)."""
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    return int(line.split()[1])
        return 0


def find(settings: Settings, service: str) -> Process:
    """Return the service's process as it is now."""
    run = settings.node.run_dir
    socket: Path = getattr(settings, service).socket
    pid = 0
    with contextlib.suppress(OSError, ValueError):
        pid = int((run / f"{service}.pid").read_text())
    if pid and not _is_service(pid, service):
        pid = 0
    return Process(service, pid, run / "log" / f"{service}.log", socket)


def _is_service(pid: int, service: str) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return f"services.{service}".encode() in words


def start(settings: Settings, service: str, config: Path | None) -> Process:
    """Start a service, in a session of its own, with its log and pid file."""
    import subprocess  # only whoever starts something needs it

    current = find(settings, service)
    if current.pid:
        return current
    run = settings.node.run_dir
    try:
        (run / "log").mkdir(mode=0o750, parents=True, exist_ok=True)
        log = current.log.open("ab")
    except OSError as error:
        raise Unavailable(f"{run} can't be used: {error.strerror}; root is needed, or another run_dir") from None
    argv = [sys.executable, "-P", "-m", f"services.{service}"]
    if config is not None:
        argv += ["--config", str(config.resolve())]
    with log:
        child = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/"
        )
    (run / f"{service}.pid").write_text(f"{child.pid}\n")
    # Not by `find`: until its exec the child still has our command line.
    return Process(service, child.pid, current.log, current.socket)


def has_ended(settings: Settings, process: Process) -> bool:
    """Return whether a process that was started is gone; without reaping it if it is a child of this one."""
    try:
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return find(settings, process.service).pid != process.pid


def last_words(process: Process, lines: int = 5) -> str:
    """Return the end of the service's log."""
    try:
        return "\n".join(process.log.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def stop(settings: Settings, service: str, patience: float) -> bool:
    """End a service by SIGTERM and wait for it; SIGKILL after `patience` seconds. False when it didn't run."""
    process = find(settings, service)
    if process.pid:
        _end(process.pid, patience)
    (settings.node.run_dir / f"{service}.pid").unlink(missing_ok=True)
    return bool(process.pid)


def _end(pid: int, patience: float) -> None:
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        for number, wait in ((signal.SIGTERM, patience), (signal.SIGKILL, patience)):
            signal.pidfd_send_signal(handle, number)
            if select.select([handle], [], [], wait)[0]:
                break
        # Ours to reap only when this very process started it.
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
    except ProcessLookupError:
        pass
    finally:
        os.close(handle)
