"""The contestants: podlane and the reference plugins, each on a node of its own, behind one interface.

bridge and ptp come from Debian's containernetworking-plugins with host-local as their IPAM; `bare` is a veth pair
between two namespaces and no more, the floor of what a pod's path can cost.
"""

import contextlib
import json
import os
import secrets
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from benchmarks.harness import Ran, spawn
from tests.node_support import SERVICES, Node, run

PLUGINS = Path("/usr/lib/cni")


class Contestant(Protocol):
    """A plugin on a node; `services` are the processes that work for it, by their names."""

    name: str
    services: Mapping[str, int]

    def call(self, verb: str, netns: str, container_id: str) -> Ran:
        """Run one CNI verb as a whole process."""

    def command(self, verb: str, netns: str, container_id: str) -> tuple[str, dict[str, str], bytes]:
        """Return the binary, the environment and the stdin of one CNI verb."""


class _Plugin:
    """Runs a plugin binary in this process's network namespace.

    bridge and ptp take that for the node; podlane's node is where its services run.
    """

    def __init__(self, name: str, binary: Path, conf: dict[str, Any], services: Mapping[str, int]) -> None:
        self.name = name
        self.services = services
        self._binary = binary
        self._stdin = json.dumps(conf).encode()

    def command(self, verb: str, netns: str, container_id: str) -> tuple[str, dict[str, str], bytes]:
        """Return the binary, the environment and the stdin of one CNI verb."""
        environment = {
            "PATH": os.environ["PATH"],
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": container_id,
            "CNI_NETNS": f"/run/netns/{netns}",
            "CNI_IFNAME": "eth0",
            "CNI_PATH": str(self._binary.parent),
        }
        return str(self._binary), environment, self._stdin

    def call(self, verb: str, netns: str, container_id: str) -> Ran:
        """Run one CNI verb as a whole process; a failure ends the benchmark with what the plugin said."""
        binary, environment, stdin = self.command(verb, netns, container_id)
        ran = spawn([binary], environment, stdin)
        if ran.code:
            raise RuntimeError(f"{self.name} {verb}: exit {ran.code}: {ran.stdout.decode()} {ran.stderr.decode()}")
        return ran


def podlane(node: Node, name: str = "podlane") -> _Plugin:
    """Return podlane on a node that is up."""
    services = {service: node.pid(service) for service in SERVICES}
    return _Plugin(name, node.bin_dir / "podlane", node.conf(), services)


@contextlib.contextmanager
def reference(kind: str, subnet: str) -> Iterator[_Plugin]:
    """Yield `bridge` or `ptp` with host-local, its allocations in a directory of its own."""
    with tempfile.TemporaryDirectory(prefix="pl-peer-") as data:
        conf: dict[str, Any] = {
            "cniVersion": "1.0.0",
            "name": f"bench-{kind}",
            "type": kind,
            "ipam": {"type": "host-local", "dataDir": data, "ranges": [[{"subnet": subnet}]]},
        }
        if kind == "bridge":
            conf |= {"bridge": "plbr0", "isGateway": True}
        yield _Plugin(kind, PLUGINS / kind, conf, {})


@contextlib.contextmanager
def namespaces(count: int) -> Iterator[list[str]]:
    """Yield fresh pod namespaces."""
    names = [f"plb-{secrets.token_hex(4)}" for _ in range(count)]
    try:
        for name in names:
            run("ip", "netns", "add", name)
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


@contextlib.contextmanager
def bare_pair() -> Iterator[tuple[str, str, str]]:
    """Yield (client namespace, server namespace, server address) joined by one veth pair."""
    with namespaces(2) as (client, server):
        run("ip", "-n", client, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", server)
        for name, address in ((client, "10.99.0.1/24"), (server, "10.99.0.2/24")):
            run("ip", "-n", name, "address", "add", address, "dev", "eth0")
            run("ip", "-n", name, "link", "set", "eth0", "up")
            run("ip", "-n", name, "link", "set", "lo", "up")
        yield client, server, "10.99.0.2"


@contextlib.contextmanager
def pair(kind: str, subnet: str) -> Iterator[tuple[str, str, str]]:
    """Yield (client namespace, server namespace, server address) of two pods made by a reference plugin."""
    with reference(kind, subnet) as plugin, namespaces(2) as names:
        ids = [secrets.token_hex(32) for _ in names]
        try:
            results = [json.loads(plugin.call("ADD", name, one).stdout) for name, one in zip(names, ids, strict=True)]
            yield names[0], names[1], results[1]["ips"][0]["address"].partition("/")[0]
        finally:
            for name, one in zip(names, ids, strict=True):
                plugin.call("DEL", name, one)
