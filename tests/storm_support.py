"""Plugin calls that begin at the same moment, as when a node is started or drained.

    storm = Storm(node.argv(), environments, stdin)
    storm.go()
    outcomes = storm.wait()

Each process waits behind one gate, before the plugin's interpreter starts, until `go` opens it for all of them: started
one after the other they would be a queue already, as starting takes longer than what is started.
"""

import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.node_support import Node, Outcome, Pod

_GATE = 9
_SCRIPT = f'read -r _ <&{_GATE}; exec {_GATE}<&-; exec "$@"'


@dataclass(frozen=True)
class Ended:
    """What a call left, and when it ended: milliseconds from the moment the gate opened."""

    outcome: Outcome
    ms: float


class Storm:
    """Calls that wait for `go`; `pids` are in the order of `environments`."""

    def __init__(self, argv: Sequence[str], environments: Sequence[Mapping[str, str]], stdin: bytes) -> None:
        """Start a process for each, which waits."""
        self._directory = tempfile.TemporaryDirectory(prefix="pl-storm-")
        given = Path(self._directory.name) / "stdin"
        given.write_bytes(stdin)
        gate, self._key = os.pipe()
        self.pids = [self._spawn(argv, environment, given, gate, at) for at, environment in enumerate(environments)]
        os.close(gate)
        self._begin = 0.0

    def _spawn(self, argv: Sequence[str], environment: Mapping[str, str], given: Path, gate: int, at: int) -> int:
        told = os.open(self._told(at), os.O_WRONLY | os.O_CREAT)
        stdin = os.open(given, os.O_RDONLY)
        files = [(stdin, 0), (told, 1), (told, 2), (gate, _GATE)]
        actions = [(os.POSIX_SPAWN_DUP2, ours, theirs) for ours, theirs in files]
        try:
            return os.posix_spawn("/bin/sh", ["sh", "-c", _SCRIPT, "sh", *argv], environment, file_actions=actions)
        finally:
            os.close(told)
            os.close(stdin)

    def _told(self, at: int) -> Path:
        return Path(self._directory.name) / str(at)

    def go(self) -> None:
        """Open the gate."""
        self._begin = time.perf_counter()
        os.close(self._key)

    def kill(self, at: int) -> None:
        """End one by SIGKILL."""
        os.kill(self.pids[at], signal.SIGKILL)

    def wait(self, timeout: float = 120.0) -> list[Ended]:
        """Wait for all of them; what isn't over by then is ended, and an AssertionError."""
        ended: dict[int, Ended] = {}
        poll, deadline = select.poll(), time.monotonic() + timeout
        handles = {os.pidfd_open(pid): at for at, pid in enumerate(self.pids)}
        for handle in handles:
            poll.register(handle, select.POLLIN)
        while len(ended) < len(self.pids):
            for handle, _ in poll.poll(max(0.0, deadline - time.monotonic()) * 1e3) or self._late(handles):
                at = handles.pop(handle)
                _, status = os.waitpid(self.pids[at], 0)
                ms = (time.perf_counter() - self._begin) * 1e3
                poll.unregister(handle)
                os.close(handle)
                ended[at] = Ended(Outcome(os.waitstatus_to_exitcode(status), self._told(at).read_text(), ""), ms)
        self._directory.cleanup()
        return [ended[at] for at in range(len(self.pids))]

    def _late(self, handles: Mapping[int, int]) -> list[tuple[int, int]]:
        for at in handles.values():
            self.kill(at)
        raise AssertionError(f"{len(handles)} of {len(self.pids)} calls have not ended")


def of_node(node: Node, verb: str, pods: Sequence[Pod]) -> Storm:
    """Return one call for each pod, by the installed plugin; it speaks to the services by their sockets."""
    import json

    environments = [node.environment(verb, pod) for pod in pods]
    return Storm([str(node.bin_dir / "podlane")], environments, json.dumps(node.conf()).encode())


def make_pods(node: Node, count: int) -> list[Pod]:
    """Make many pods' namespaces, by one process; `Node.pod` takes three for each."""
    first = len(node.pods)
    names = [f"{node.name}-p{first + at}" for at in range(count)]
    pods = [Pod(name, os.urandom(32).hex(), name=f"storm-{at}") for at, name in enumerate(names)]
    node.pods += pods
    lines = "".join(f"netns add {name}\n" for name in names)
    subprocess.run(["ip", "-batch", "-"], input=lines, text=True, check=True, capture_output=True)
    return pods
