"""Real etcd for tests: Debian's, one member or three, killable, stoppable, and gone with the test whatever happens.

    with Etcd() as etcd:                        # one member on loopback
        etcd.endpoints                          # ("http://127.0.0.1:…",), for [kvstore] endpoints
        etcd.kill(); etcd.start(); etcd.freeze(); etcd.thaw()
        etcd.ctl("put", "a", "1")

    with EtcdCluster() as cluster:              # three; cluster.members are what Etcd is one of
        cluster.leader().kill()

    Etcd(tls=Certificates(directory))           # https, and clients need a certificate (tests/certificates.py)
    etcd.protect("podlane", "secret")           # users and a role for the prefix podlane; root has password `root`
    Etcd(netns=Netns.path, addresses=["10.9.0.1"], port=2379)      # in a namespace, where others reach it

Ports are chosen here, in a range below the kernel's own, and held as long as the member's object lives, so that tests
run side by side and a member comes back on its ports. In a namespace of its own any port is free.
"""

import contextlib
import json
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from tests.certificates import Certificates

_PATIENCE = 30.0
_PORTS = range(12000, 30000)


class Ports:
    """Ports of loopback that nobody else's tests use while this lives.

    What holds one is an abstract Unix socket of its name: those belong to a network namespace, as ports do, and leave
    nothing behind.
    """

    def __init__(self) -> None:
        """None yet."""
        self._holds: list[socket.socket] = []

    def one(self) -> int:
        """Return a port that nobody listens on."""
        while True:
            port = random.choice(_PORTS)
            hold = socket.socket(socket.AF_UNIX)
            try:
                hold.bind(f"\0podlane-test-port-{port}")
                with socket.socket() as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("127.0.0.1", port))
            except OSError:
                hold.close()
                continue
            self._holds.append(hold)
            return port

    def close(self) -> None:
        """Give them back."""
        while self._holds:
            self._holds.pop().close()


class Etcd:
    """One member. A context manager: it is started and waited for, and taken away at the end."""

    def __init__(
        self,
        *,
        tls: Certificates | None = None,
        netns: str = "",
        addresses: Sequence[str] = ("127.0.0.1",),
        port: int = 0,
        options: Sequence[str] = (),
        name: str = "m0",
        ports: Ports | None = None,
    ) -> None:
        """`netns`: a path as nsenter takes it; `addresses`: where clients reach it; `port` 0: a free one."""
        self.name, self._tls, self._netns, self._addresses, self._options = name, tls, netns, addresses, options
        self._own_ports = None if ports else Ports()
        ports = ports or self._own_ports
        assert ports is not None
        self.port = port or ports.one()
        self.peer_port = ports.one()
        self.directory = Path(tempfile.mkdtemp(prefix="podlane-etcd-"))
        self.process: subprocess.Popen[bytes] | None = None
        self._cluster: Sequence[Etcd] = (self,)
        self._user = ""

    def __enter__(self) -> Self:
        """Start it and wait until it answers."""
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Take it away."""
        self.close()

    @property
    def endpoints(self) -> tuple[str, ...]:
        """What [kvstore] endpoints is set to; of the first address, as the others lead to the same member."""
        return (self.endpoint,)

    @property
    def endpoint(self) -> str:
        """Where clients reach it."""
        return _url(self._scheme, self._addresses[0], self.port)

    @property
    def peer(self) -> str:
        """Where other members reach it."""
        return _url("http", "127.0.0.1", self.peer_port)

    @property
    def log(self) -> str:
        """What it has said so far."""
        return (self.directory / "log").read_text(errors="replace")

    def start(self, *, wait: bool = True) -> None:
        """Start the process, again on the same ports and data."""
        self.launch()
        if wait:
            self.wait()

    def launch(self) -> None:
        """Start the process."""
        assert self.process is None, "it runs"
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(self._argv(), stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def wait(self) -> None:
        """Wait until it answers with a leader."""
        deadline = time.monotonic() + _PATIENCE
        while self.ctl("endpoint", "health", check=False).returncode:
            assert self.process is not None, "it was not started"
            assert self.process.poll() is None, f"etcd has ended: {self.log[-2000:]}"
            assert time.monotonic() < deadline, f"etcd does not answer: {self.log[-2000:]}"
            time.sleep(0.02)

    def kill(self) -> None:
        """End it with SIGKILL and see it gone."""
        assert self.process is not None, "it does not run"
        self.process.kill()
        self.process.wait()
        self.process = None

    def freeze(self) -> None:
        """SIGSTOP: it takes connections and says nothing."""
        assert self.process is not None, "it does not run"
        self.process.send_signal(signal.SIGSTOP)
        threads = Path(f"/proc/{self.process.pid}/task")
        deadline = time.monotonic() + _PATIENCE
        # Each of its threads stops when it gets to it, and may still answer before.
        while {(one / "stat").read_text().rpartition(")")[2].split()[0] for one in threads.iterdir()} != {"T"}:
            assert time.monotonic() < deadline, "it does not stop"
            time.sleep(0.001)

    def thaw(self) -> None:
        """SIGCONT."""
        assert self.process is not None, "it does not run"
        self.process.send_signal(signal.SIGCONT)

    def wipe(self) -> None:
        """Lose its data; it must not run."""
        assert self.process is None, "it runs"
        shutil.rmtree(self.directory / "data")

    def close(self) -> None:
        """Take it away; twice is fine."""
        if self.process is not None:
            self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)
        if self._own_ports is not None:
            self._own_ports.close()

    def ctl(self, *argv: str, check: bool = True, user: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run etcdctl against this member; a failure shows what it said."""
        options = ["--endpoints", self.endpoint, "--dial-timeout=1s", "--command-timeout=5s"]
        if self._tls is not None:
            options += ["--cacert", str(self._tls.ca), "--cert", str(self._tls.client)]
            options += ["--key", str(self._tls.client_key)]
        if self._user if user is None else user:
            options += ["--user", self._user if user is None else user]
        command = [*self._inside(), "etcdctl", *options, *argv]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        if check and done.returncode:
            raise AssertionError(f"etcdctl {' '.join(argv)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def txn(self, script: str) -> None:
        """Do a transaction as `etcdctl txn` reads it: conditions, changes, and changes otherwise, by empty lines."""
        command = [*self._inside(), "etcdctl", "--endpoints", self.endpoint, "txn"]
        done = subprocess.run(command, input=script, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def status(self) -> Any:
        """Return what `endpoint status` says: leader, revision, member."""
        return json.loads(self.ctl("endpoint", "status", "-w", "json").stdout)[0]["Status"]

    @property
    def revision(self) -> int:
        """The store's revision."""
        return int(self.status()["header"]["revision"])

    def compact(self) -> None:
        """Forget all that was before the store's revision."""
        self.ctl("compact", "--physical", str(self.revision))

    def protect(self, username: str, password: str, prefix: str = "podlane") -> None:
        """Turn authentication on: root, and a user whose role has the keys below a prefix."""
        steps = (
            "user add root:root",
            "user grant-role root root",
            "role add podlane",
            f"role grant-permission --prefix=true podlane readwrite {prefix}/",
            f"user add {username}:{password}",
            f"user grant-role {username} podlane",
            "auth enable",
        )
        for step in steps:
            # `auth enable` makes the role root if there is none, so granting it first may find none.
            self.ctl(*step.split(), check=step != steps[1])
        self._user = "root:root"

    @property
    def _scheme(self) -> str:
        return "https" if self._tls is not None else "http"

    def _inside(self) -> list[str]:
        return ["nsenter", f"--net={self._netns}", "--"] if self._netns else []

    def _argv(self) -> list[str]:
        clients = ",".join(_url(self._scheme, address, self.port) for address in self._addresses)
        argv = [
            *self._inside(),
            *("etcd", "--name", self.name, "--data-dir", str(self.directory / "data")),
            *("--listen-client-urls", clients, "--advertise-client-urls", clients),
            *("--listen-peer-urls", self.peer, "--initial-advertise-peer-urls", self.peer),
            *("--initial-cluster", ",".join(f"{member.name}={member.peer}" for member in self._cluster)),
            # Leaders are missed in half a second, not two; a disk that is waited for would be tested, too.
            *("--heartbeat-interval", "50", "--election-timeout", "500", "--unsafe-no-fsync"),
            *("--enable-pprof=false", "--logger", "zap"),
        ]
        if self._tls is not None:
            argv += ["--cert-file", str(self._tls.server), "--key-file", str(self._tls.server_key)]
            argv += ["--client-cert-auth", "--trusted-ca-file", str(self._tls.ca)]
        return [*argv, *self._options]


class EtcdCluster:
    """Three members. A context manager, as Etcd; `options` are those of each."""

    def __init__(self, size: int = 3, **options: Any) -> None:
        """Choose ports."""
        self._ports = Ports()
        self.members = [Etcd(name=f"m{number}", ports=self._ports, **options) for number in range(size)]
        for member in self.members:
            member._cluster = self.members

    def __enter__(self) -> Self:
        """Start all and wait until each answers."""
        try:
            for member in self.members:
                member.launch()
            for member in self.members:
                member.wait()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Take it away."""
        self.close()

    @property
    def endpoints(self) -> tuple[str, ...]:
        """What [kvstore] endpoints is set to."""
        return tuple(member.endpoint for member in self.members)

    @property
    def running(self) -> Iterator[Etcd]:
        """Those whose process is there."""
        return (member for member in self.members if member.process is not None)

    def leader(self) -> Etcd:
        """Return the member that leads now."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            for member in self.running:
                with contextlib.suppress(AssertionError):
                    status = member.status()
                    if status.get("leader") == status["header"]["member_id"]:  # left out while there is none
                        return member
            assert time.monotonic() < deadline, "no member leads"

    def followers(self) -> list[Etcd]:
        """Return the others."""
        leader = self.leader()
        return [member for member in self.running if member is not leader]

    def close(self) -> None:
        """Take all away."""
        for member in self.members:
            member.close()
        self._ports.close()


def _url(scheme: str, address: str, port: int) -> str:
    return f"{scheme}://[{address}]:{port}" if ":" in address else f"{scheme}://{address}:{port}"
