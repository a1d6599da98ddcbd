"""What demos are told with: steps with their times, and a node of its own for each.

A node is a network namespace with its own bpffs and directories, so that nothing of the machine's own network is
touched; everything else is what a real node has: three service processes, the installed plugin called exactly as a
runtime calls it, programs in the kernel.
"""

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class Failure(Exception):
    """A step that didn't do what the story says; the text tells what it saw."""


def run(*argv: str, answers: Sequence[int] = (0,), **options: Any) -> str:
    """Run a command and return its stdout; an exit code that is none of `answers` ends the story with what it said."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False, **options)
    if done.returncode not in answers:
        raise Failure(f"{' '.join(argv)}\n  exit {done.returncode}\n{done.stdout}{done.stderr}".rstrip())
    return done.stdout


def say(text: str) -> None:
    """Print a paragraph, indented."""
    for line in text.rstrip("\n").splitlines() or [""]:
        print(f"     {line}".rstrip(), flush=True)


class Story:
    """Numbers the steps and times them."""

    def __init__(self) -> None:
        """Begin at step 1."""
        self._number = 0

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[None]:
        """One step: its title, what happens, how long it took."""
        self._number += 1
        print(f"\n{self._number:>3}  {title}", flush=True)
        begin = time.perf_counter()
        yield
        print(f"     \N{CHECK MARK} {(time.perf_counter() - begin) * 1000:.0f} ms", flush=True)


@dataclass
class Pod:
    """A sandbox as a runtime would make it: a network namespace and a container id."""

    name: str
    netns: str
    container_id: str
    addresses: tuple[str, ...] = ()

    def exec(self, *argv: str) -> str:
        """Run a command inside."""
        return run("ip", "netns", "exec", self.netns, *argv)


class Node:
    """A node. `settings` are TOML values by section, over its own."""

    def __init__(self, settings: Mapping[str, Mapping[str, Any]], ranges: Sequence[str] = ()) -> None:
        """Choose the names; `ranges` empty: `settings` have the pools."""
        self.name = f"podlane-{secrets.token_hex(3)}"
        self.dir = Path(tempfile.mkdtemp(prefix=f"{self.name}-", dir="/tmp"))
        self.config = self.dir / "podlane.toml"
        self.bin, self.conf = self.dir / "cni" / "bin", self.dir / "cni" / "net.d"
        self._settings, self._ranges = settings, ranges
        self.pods: list[Pod] = []

    def inside(self, *argv: str, **options: Any) -> str:
        """Run a command in the node's network namespace."""
        return run("nsenter", f"--net=/run/netns/{self.name}", *argv, **options)

    def podlane(self, *argv: str, answers: Sequence[int] = (0,)) -> str:
        """Run the operator's command on the node; `answers` are the exit codes that are no failure."""
        command = str(Path(sys.executable).with_name("podlane"))
        return self.inside(command, "--config", str(self.config), *argv, answers=answers)

    def make(self) -> None:
        """Make the namespace, the bpffs and the settings."""
        run("ip", "netns", "add", self.name)
        run("ip", "-n", self.name, "link", "set", "lo", "up")
        (self.dir / "bpf").mkdir()
        run("mount", "-t", "bpf", "bpf", str(self.dir / "bpf"))
        tables: dict[str, dict[str, Any]] = {
            "node": {
                "name": self.name,
                "run_dir": f"{self.dir}/run",
                "lib_dir": f"{self.dir}/lib",
                "bpffs": f"{self.dir}/bpf",
            },
            "endpoint": {"policy_dir": f"{self.dir}/policy.d"},
        }
        for table, values in self._settings.items():
            tables.setdefault(table, {}).update(values)
        pool = tables.pop("pool", {"ranges": list(self._ranges)})
        lines = [line for table, values in tables.items() for line in _section(f"[{table}]", values)]
        lines += _section("[[ipam.pools]]", {"name": "default", **pool})
        self.config.write_text("\n".join(lines) + "\n")

    def pod(self, name: str) -> Pod:
        """Make a sandbox as a runtime would."""
        pod = Pod(name, f"{self.name}-{name}", secrets.token_hex(32))
        run("ip", "netns", "add", pod.netns)
        self.pods.append(pod)
        return pod

    def cni(self, verb: str, pod: Pod, app: str = "") -> Any:
        """Call the installed plugin as a runtime does: environment, JSON on stdin, JSON on stdout.

        `app` is the pod's label; empty: its name.
        """
        conflist = json.loads(next(self.conf.glob("*.conflist")).read_text())
        conf = {**conflist["plugins"][0], "name": conflist["name"], "cniVersion": conflist["cniVersions"][-1]}
        conf["args"] = {"cni": {"labels": [{"key": "app", "value": app or pod.name}]}}
        environment = {
            "PATH": os.environ["PATH"],
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": pod.container_id,
            "CNI_NETNS": f"/run/netns/{pod.netns}",
            "CNI_IFNAME": "eth0",
            "CNI_PATH": str(self.bin),
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=demo;K8S_POD_NAME={pod.name}",
        }
        told = self.inside(str(self.bin / "podlane"), input=json.dumps(conf), env=environment)
        return json.loads(told) if told else None

    def leftovers(self) -> list[str]:
        """Return what is still there of any pod: links, routes, pins, state, addresses, endpoints."""
        links = json.loads(self.inside("ip", "-j", "link"))
        found = [link["ifname"] for link in links if link["ifname"].startswith("lxc")]
        found += [line for line in self.inside("ip", "route").splitlines() if "lxc" in line]
        found += [str(path) for path in (self.dir / "bpf").rglob("*policy_*") if path.name[-1].isdigit()]
        found += [str(path) for path in (self.dir / "run" / "state").iterdir() if path.name[:1].isdigit()]
        found += [str(path) for path in (self.dir / "run" / "state" / "links").iterdir()]
        found += json.loads(self.podlane("ipam", "list", "-o", "json"))
        return found + json.loads(self.podlane("endpoint", "list", "-o", "json"))

    def clean(self) -> None:
        """Take everything away, whatever happened before."""
        with contextlib.suppress(Failure):
            self.podlane("node", "down")
        for netns in (*(pod.netns for pod in self.pods), self.name):
            subprocess.run(["ip", "netns", "del", netns], capture_output=True, check=False)
        subprocess.run(["umount", str(self.dir / "bpf")], capture_output=True, check=False)
        shutil.rmtree(self.dir, ignore_errors=True)


def _section(header: str, values: Mapping[str, Any]) -> list[str]:
    return [header, *(f"{key} = {json.dumps(value)}" for key, value in values.items())]


def reaches(client: Pod, address: str, port: int) -> str:
    """Knock at a TCP port where nobody listens: what answers with a refusal was reached, what is silent was not."""
    script = (
        "import socket, sys\n"
        "try: socket.create_connection((sys.argv[1], int(sys.argv[2])), 0.2)\n"
        "except ConnectionRefusedError: print('reached')\n"
        "except TimeoutError: print('no answer')\n"
    )
    return client.exec(sys.executable, "-ISc", script, address, str(port)).strip()


def main(title: str, tell: Callable[[contextlib.ExitStack], None], command: str) -> int:
    """Tell a story; exit code 1 and what happened when a step fails. `command` is how it is run."""
    if os.geteuid():
        print(f"root is needed for network namespaces and eBPF: run 'sudo {command}'", file=sys.stderr)
        return 1
    begin = time.perf_counter()
    print(title)
    with contextlib.ExitStack() as stack:
        try:
            tell(stack)
        except Failure as failure:
            print(f"\nThe demo failed: {failure}", file=sys.stderr)
            return 1
    print(f"\nDone in {time.perf_counter() - begin:.1f} s; nothing of it is left.")
    return 0
