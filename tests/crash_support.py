"""A whole node whose services can be killed right before any of their effects (`tests/killed.py`).

with CrashNode() as node:
    with node.traced("loader") as effects:       # what there is to die before
        node.add(pod)
    adding = node.begin("ADD", pod)
    node.arm("loader", "rename state/<id>_next")
    node.dies("loader", during=adding)
    node.revive("loader")
    node.agreement.reached()
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.agreement import PATIENCE, Agreement, until
from tests.node_support import SERVICES, Node, Outcome, Pod

REPOSITORY = Path(__file__).resolve().parents[1]


class Service:
    """One service of the node: its launcher, and the process that it has forked last."""

    def __init__(self, node: Node, service: str) -> None:
        """Start the launcher."""
        # `podlane node` knows a service by the name of its module.
        argv = [sys.executable, "-m", "tests.killed", f"services.{service}", str(node.dir)]
        with (node.dir / f"{service}.log").open("ab") as log:
            self._launcher = subprocess.Popen(
                ["nsenter", f"--net=/run/netns/{node.name}", *argv, "--config", str(node.config_file)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=REPOSITORY,
            )
        self._pid_file = node.dir / "run" / f"{service}.pid"
        self._handle = -1

    def _read(self) -> int:
        assert self._launcher.stdout is not None
        return int(self._launcher.stdout.readline())

    def start(self) -> None:
        """Start a process; whether it answers is not waited for."""
        assert self._launcher.stdin is not None
        self._launcher.stdin.write(b"\n")
        self._launcher.stdin.flush()
        self.pid = self._read()
        self._handle = os.pidfd_open(self.pid)
        self._pid_file.write_text(f"{self.pid}\n")

    def ended(self, patience: float = 0.0) -> bool:
        """Whether the process has ended, or ends in so many seconds."""
        return bool(select.select([self._handle], [], [], patience)[0])

    def code(self) -> int:
        """Return the exit code of a process that has ended."""
        os.close(self._handle)
        return self._read()

    def kill(self) -> None:
        """End the process by SIGKILL."""
        signal.pidfd_send_signal(self._handle, signal.SIGKILL)
        assert self.ended(PATIENCE)
        self.code()

    def close(self) -> None:
        """End the launcher, and with it the process."""
        self._launcher.kill()
        self._launcher.communicate()


class CrashNode(Node):
    """A node whose services run under `tests.killed`."""

    def open(self) -> None:
        """Bring it up with services that are not armed."""
        self.start = False
        self.agreement = Agreement(self)
        self.services: dict[str, Service] = {}
        super().open()
        for service in SERVICES:
            self.services[service] = Service(self, service)
        self.revive(*SERVICES)

    def close(self) -> None:
        """Kill what runs, and take everything away."""
        for service in self.services.values():
            service.close()
        super().close()

    def launch(self, service: str) -> None:
        """Start a service; whether it answers is not waited for."""
        self.services[service].start()

    def revive(self, *services: str) -> None:
        """Start services, in this order, and wait until all of the node's are serving."""
        for service in services:
            self.launch(service)
        until(lambda: all(map(self.agreement.serving, SERVICES)), self.logs)

    def kill(self, service: str) -> None:
        """End a service by SIGKILL."""
        self.services[service].kill()

    def logs(self) -> str:
        """Return the ends of the services' logs."""
        return "\n".join(f"--- {one}\n{(self.dir / f'{one}.log').read_text()[-3000:]}" for one in SERVICES)

    @contextlib.contextmanager
    def traced(self, service: str) -> Iterator[Callable[[], list[str]]]:
        """Yield what returns the effects of a service in the block so far; after the block, all of them."""
        trace, ended = self.dir / f"{service}.trace", list[str]()
        trace.touch()
        try:
            yield lambda: trace.read_text().splitlines() if trace.exists() else ended
        finally:
            ended += trace.read_text().splitlines()
            trace.unlink()

    def arm(self, service: str, effect: str, number: int = 1, *, together: Sequence[int] = ()) -> None:
        """Let a service die before an effect, and with it the processes `together`."""
        order = self.dir / f"{service}.arming"
        order.write_text("\n".join([f"{number} {effect}", *map(str, together)]))
        order.rename(self.dir / f"{service}.armed")

    def disarm(self, service: str) -> None:
        """Let a service live."""
        (self.dir / f"{service}.armed").unlink(missing_ok=True)

    def lives(self, service: str) -> bool:
        """Whether a service's process is there; False once for each process that was armed and has died."""
        if self.services[service].ended():
            assert self.services[service].code() == -signal.SIGKILL, self.logs()
            return False
        return True

    def ends(self, service: str, patience: float) -> bool:
        """Whether a service's process ends in so many seconds."""
        return self.services[service].ended(patience)

    def dies(self, service: str) -> None:
        """Wait until an armed service is dead."""
        assert self.services[service].ended(PATIENCE), f"{service} still runs\n{self.logs()}"
        assert self.services[service].code() == -signal.SIGKILL, self.logs()

    def begin(self, verb: str, pod: Pod) -> "subprocess.Popen[str]":
        """Start a call of the plugin, which waits for its configuration until `go`."""
        return subprocess.Popen(
            self.argv(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment(verb, pod),
            text=True,
        )

    def go(self, process: "subprocess.Popen[str]") -> None:
        """Let a call that was begun read its configuration."""
        assert process.stdin is not None
        process.stdin.write(json.dumps(self.conf()))
        process.stdin.close()
        process.stdin = None

    @staticmethod
    def end(process: "subprocess.Popen[str]") -> Outcome:
        """Wait for a call and return what it left."""
        stdout, stderr = process.communicate(timeout=90)
        return Outcome(process.returncode, stdout, stderr)
