"""A whole podlane node for tests: its own network namespace, bpffs, directories, and the three real services.

    with Node() as node:
        pod = node.pod()
        result = node.add(pod)

Everything is named at random, so that tests run side by side, and `close` takes all of it away again, whatever the
test did. Pods are named network namespaces, and the plugin is the installed one, run exactly as a runtime runs it.
"""

import contextlib
import functools
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cli import processes
from cni import install
from services.common import config, configfile
from services.common.errors import PodlaneError
from tests import warm
from tests.objects import REMEMBERING, prebuilt

SERVICES = ("loader", "ipam", "endpoint")
MOUNTS = {"bpf": "bpf", "run": "tmpfs"}
PODLANE = [sys.executable, "-m", "cli"]


def run(*argv: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; a failure shows what it said."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, **options)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(argv)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done


@functools.lru_cache(maxsize=64)
def _loaded(file: Path, _written: int) -> config.Settings:
    """Reading a file takes some milliseconds, and each call of a service asks where that is."""
    return configfile.load(file, {})


def _delete_netns(name: str) -> None:
    """Delete a namespace's name; `ip netns` of another worker at the same moment makes it fail."""
    deadline, pause = time.monotonic() + 10.0, 0.01
    while Path("/run/netns", name).exists() and time.monotonic() < deadline:
        if run("ip", "netns", "del", name, check=False).returncode:
            time.sleep(pause)
            pause = min(2 * pause, 0.5)


@dataclass
class Pod:
    """A network namespace that stands for a pod's sandbox, and the names a runtime would call it by."""

    netns: str
    container_id: str
    ifname: str = "eth0"
    name: str = "web"
    namespace: str = "default"
    network: str = "podlane"

    @property
    def path(self) -> str:
        """What CNI_NETNS holds."""
        return f"/run/netns/{self.netns}"

    def exec(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command inside."""
        return run("nsenter", f"--net={self.path}", *argv, check=check)

    def ping(self, address: str, count: int = 1) -> bool:
        """Return whether every one of `count` echo requests is answered."""
        return self.exec("ping", "-c", str(count), "-i", "0.01", "-W", "2", address, check=False).returncode == 0


@dataclass
class Outcome:
    """What a plugin call left: exit code, the JSON on stdout, stderr."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """The parsed stdout."""
        return json.loads(self.stdout)

    @property
    def addresses(self) -> list[str]:
        """The result's addresses without prefix lengths."""
        return [one["address"].partition("/")[0] for one in self.json["ips"]]


@dataclass
class Node:
    """One node. `settings` are TOML lines by section that override the test's own."""

    ranges: Sequence[str] = ("10.44.0.0/24", "fd00:44::/112")
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    start: bool = True
    clock: str = ""
    """How far the clock of services that are launched from now on is off, as libfaketime has it: `+1h`."""
    pools: str = ""
    """Further `[[ipam.pools]]`, as TOML."""
    frugal: bool = True
    """Whether to have fewer spare programs than other nodes, of which few of the thousands that tests start have any
    use, and a clang that remembers what it has compiled."""

    def __post_init__(self) -> None:
        """Choose names; `open` makes everything."""
        self.name = f"pl-{secrets.token_hex(4)}"
        self.dir = Path(tempfile.mkdtemp(prefix=f"{self.name}-", dir="/tmp"))
        self.config_file = self.dir / "podlane.toml"
        self.bin_dir, self.conf_dir = self.dir / "cni-bin", self.dir / "cni-conf"
        self.pods: list[Pod] = []

    def __enter__(self) -> Self:
        """Bring the node up."""
        try:
            self.open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Take it away."""
        self.close()

    def open(self) -> None:
        """Make the namespace and the mounts, write the settings, start the services, install the plugin."""
        run("ip", "netns", "add", self.name)
        run("ip", "-n", self.name, "link", "set", "lo", "up")
        # As on a real node: /run is a tmpfs.
        for name, kind in MOUNTS.items():
            (self.dir / name).mkdir()
            run("mount", "-t", kind, kind, str(self.dir / name))
        self.write_config()
        self.prepare()
        if self.start:
            self.up()
        sockets = {service: getattr(self.loaded, service).socket for service in SERVICES}
        journal = {"journalDir": str(self.loaded.endpoint.journal_dir)}
        install.install(self.bin_dir, self.conf_dir, sockets=sockets, settings=journal)

    def prepare(self) -> None:
        """Do what is to be done in the namespace before the services start."""

    def write_config(self) -> None:
        """Write podlane.toml."""
        loader: dict[str, Any] = {"spare_programs": 2, "clang": REMEMBERING} if self.frugal else {}
        if "clang" not in self.settings.get("loader", {}):
            loader["objects_dir"] = str(prebuilt())
        tables: dict[str, dict[str, Any]] = {
            "node": {
                "name": self.name,
                "run_dir": f"{self.dir}/run",
                "lib_dir": f"{self.dir}/lib",
                "bpffs": f"{self.dir}/bpf",
            },
            "ipam": {},
            "loader": loader,
            "endpoint": {"policy_dir": f"{self.dir}/policy.d"},
            "cluster": {},
            "kvstore": {},
            "telemetry": {},
        }
        for table, values in self.settings.items():
            tables[table].update(values)
        lines = []
        for table, values in tables.items():
            lines.append(f"[{table}]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
        lines += ["[[ipam.pools]]", 'name = "default"', f"ranges = {json.dumps(list(self.ranges))}"]
        self.config_file.write_text("\n".join([*lines, self.pools]) + "\n")

    @property
    def loaded(self) -> config.Settings:
        """The settings as the services read them."""
        try:
            written = self.config_file.stat().st_mtime_ns
        except FileNotFoundError:
            written = 0
        return _loaded(self.config_file, written)

    def close(self) -> None:
        """Stop what runs, unmount, delete the namespaces and the directory."""
        with contextlib.suppress(PodlaneError):
            self.down()
        for name in (*(pod.netns for pod in self.pods), self.name):
            _delete_netns(name)
        for name in MOUNTS:
            # Lazily: a service that was killed a moment ago may still hold it.
            run("umount", "-l", str(self.dir / name), check=False)
        shutil.rmtree(self.dir, ignore_errors=True)

    def exec(self, *argv: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command in the node's network namespace."""
        return run("nsenter", f"--net=/run/netns/{self.name}", *argv, check=check, **options)

    def command(self, config_file: Path) -> list[str]:
        """Return the operator's command line with these settings."""
        return [*PODLANE, "--config", str(config_file)]

    def podlane(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the operator's command on this node."""
        done = warm.run("cli", ["--config", str(self.config_file), *argv], netns=f"/run/netns/{self.name}")
        if check and done.returncode:
            raise AssertionError(f"podlane {' '.join(argv)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def show(self, *argv: str) -> Any:
        """Run the operator's command with `-o json` and return what it says."""
        return json.loads(self.podlane(*argv, "-o", "json").stdout)

    def up(self) -> None:
        """Do what `podlane node up` does, without its process: most of a test run would be starting it."""
        (self.dir / "run" / "log").mkdir(mode=0o750, parents=True, exist_ok=True)
        for service in SERVICES:
            self.launch(service)
        deadline = time.monotonic() + 60
        for service in SERVICES:
            while not self._serves(service):
                log = self.dir / "run" / "log" / f"{service}.log"
                assert time.monotonic() < deadline, f"{service} doesn't serve: {log.read_text()[-2000:]}"
                time.sleep(0.03)

    def _serves(self, service: str) -> bool:
        socket = getattr(self.loaded, service).socket
        if not socket.exists():
            return False
        options = (("grpc.use_local_subchannel_pool", 1),)
        with grpc.insecure_channel(f"unix:{socket}", options=options) as channel:
            try:
                stub: Any = health_pb2_grpc.HealthStub(channel)
                reply = stub.Check(health_pb2.HealthCheckRequest(), timeout=2.0)
            except grpc.RpcError:
                return False
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)

    def down(self) -> None:
        """Do what `podlane node down` does."""
        for service in reversed(SERVICES):
            processes.stop(self.loaded, service, 15.0)

    def pid(self, service: str) -> int:
        """Return the pid of a running service."""
        return int((self.dir / "run" / f"{service}.pid").read_text())

    def signal(self, service: str, number: signal.Signals) -> None:
        """Send a signal to a service."""
        os.kill(self.pid(service), number)

    def kill(self, service: str) -> None:
        """End a service by SIGKILL and wait until it is gone."""
        handle = os.pidfd_open(self.pid(service))
        try:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            import select

            assert select.select([handle], [], [], 10)[0]
        finally:
            os.close(handle)

    def launch(self, service: str) -> None:
        """Start one service as `podlane node up` does; whether it answers is not waited for."""
        run_dir = self.dir / "run"
        if not self.clock:
            with (run_dir / "log" / f"{service}.log").open("ab") as log:
                argv = ["--config", str(self.config_file)]
                process = warm.spawn(
                    f"services.{service}", argv, netns=f"/run/netns/{self.name}", stdout=log, stderr=log
                )
            process.let_go()
            (run_dir / f"{service}.pid").write_text(f"{process.pid}\n")
            return
        script = f'echo $$ >{run_dir}/{service}.pid; exec "$@" >>{run_dir}/log/{service}.log 2>&1 </dev/null'
        argv = [*self._clock(), sys.executable, "-P", "-m", f"services.{service}", "--config", str(self.config_file)]
        self.exec("setsid", "--fork", "sh", "-c", script, "sh", *argv)

    def _clock(self) -> Sequence[str]:
        """Return what lets a command have another wall clock; the monotonic one stays."""
        if not self.clock:
            return ()
        (library,) = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
        return ("env", f"LD_PRELOAD={library}", f"FAKETIME={self.clock}", "FAKETIME_DONT_FAKE_MONOTONIC=1")

    def pod(self, ifname: str = "eth0") -> Pod:
        """Make a pod's namespace with loopback up."""
        netns = f"{self.name}-p{len(self.pods)}"
        run("ip", "netns", "add", netns)
        pod = Pod(netns, secrets.token_hex(32), ifname, name=f"web-{len(self.pods)}")
        self.pods.append(pod)
        run("ip", "-n", netns, "link", "set", "lo", "up")
        return pod

    def conf(self, **overrides: Any) -> dict[str, Any]:
        """Return the plugin's configuration as a new runtime makes it of the installed conflist."""
        conflist = json.loads(next(self.conf_dir.glob("*.conflist")).read_text())
        return {
            **conflist["plugins"][0],
            "name": conflist["name"],
            "cniVersion": conflist["cniVersions"][-1],
            **overrides,
        }

    def environment(self, verb: str, pod: Pod) -> dict[str, str]:
        """Return the environment of one call (CNI spec 1.1, section 2)."""
        return {
            "PATH": os.environ["PATH"],
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": pod.container_id,
            "CNI_NETNS": pod.path,
            "CNI_IFNAME": pod.ifname,
            "CNI_PATH": str(self.bin_dir),
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE={pod.namespace};K8S_POD_NAME={pod.name};K8S_POD_UID=u1",
        }

    def argv(self, plugin: Path | str = "podlane") -> list[str]:
        """Return the command line of an installed plugin, or of one by its path, in the node's namespace."""
        return ["nsenter", f"--net=/run/netns/{self.name}", str(self.bin_dir / plugin)]

    def cni(
        self,
        verb: str,
        pod: Pod,
        conf: dict[str, Any] | str | None = None,
        plugin: Path | str = "podlane",
        **environment: str,
    ) -> Outcome:
        """Run a plugin, the installed one or another by its path."""
        stdin = conf if isinstance(conf, str) else json.dumps(conf if conf is not None else self.conf())
        done = subprocess.run(
            self.argv(plugin),
            input=stdin,
            env=self.environment(verb, pod) | environment,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    def add(self, pod: Pod, **overrides: Any) -> Outcome:
        """ADD that must succeed."""
        outcome = self.cni("ADD", pod, self.conf(**overrides))
        assert outcome.code == 0, outcome
        return outcome

    def delete(self, pod: Pod) -> None:
        """DEL that must succeed."""
        outcome = self.cni("DEL", pod)
        assert outcome.code == 0, outcome

    def leftovers(self) -> list[str]:
        """Return everything of any pod that is still there: links, routes, pins, state, records, addresses."""
        found = [f"link {link['ifname']}" for link in self.links() if link["ifname"].startswith("lxc")]
        for family in ("-4", "-6"):
            routes = json.loads(self.exec("ip", "-j", family, "route", "show", "table", "main").stdout or "[]")
            found += [f"route {route['dst']}" for route in routes if str(route.get("dev", "")).startswith("lxc")]
        found += [f"pin {path}" for path in sorted((self.dir / "bpf").rglob("*policy_*")) if path.name[-1].isdigit()]
        state = self.dir / "run" / "state"
        found += (
            [
                f"state {path.name}"
                for path in state.iterdir()
                if path.name[:1].isdigit() and not path.name.endswith("_next_fail")
            ]
            if state.exists()
            else []
        )
        found += [f"link record {path.name}" for path in (state / "links").glob("*")]
        found += [f"address {allocation['addresses']}" for allocation in self.show("ipam", "list")]
        found += [f"endpoint {endpoint['id']}" for endpoint in self.show("endpoint", "list")]
        journal = self.loaded.endpoint.journal_dir
        found += [f"deletion {path.name}" for path in (journal.iterdir() if journal.exists() else ())]
        return found

    def links(self) -> list[dict[str, Any]]:
        """Return the node's interfaces as `ip -j link` shows them."""
        found: list[dict[str, Any]] = json.loads(self.exec("ip", "-j", "link").stdout)
        return found


@contextlib.contextmanager
def stopped(node: Node, service: str) -> Iterator[None]:
    """Hold a service still (SIGSTOP) for the block."""
    node.signal(service, signal.SIGSTOP)
    try:
        yield
    finally:
        node.signal(service, signal.SIGCONT)
