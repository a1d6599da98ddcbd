"""Debian's podman with its CNI backend on a node: the other runtime that brings the real libcni.

    with Podman(node) as podman:
        container = podman.run("web", "nc", "-ll", "-p", "7000", "-e", "cat", publish=["8080:7000"])
        podman("exec", container, "true")

Its containers, images and settings are in a directory of its own. libcni's cache isn't: it is the machine's
(`CACHE`), by network and container.
"""

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from tests import image_support
from tests.containerd_support import cgroups, link_plugins, mounts, processes
from tests.node_support import Node, run

CACHE = Path("/var/lib/cni/results")
# podman keeps the cgroup of what waits for its containers.
KEPT = {"conmon"}
# What it would ask for otherwise, not everybody who is root may have.
ENOUGH = 4096
LIMITS = {"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC}
SETTINGS = """\
[containers]
default_ulimits = {limits}
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
runtime = "runc"
lock_type = "file"
tmp_dir = "{dir}/tmp"
static_dir = "{dir}/static"
volume_path = "{dir}/volumes"
[network]
network_backend = "cni"
cni_plugin_dirs = ["{bin_dir}"]
network_config_dir = "{conf_dir}"
default_network = "podlane"
"""
STORAGE = """\
[storage]
driver = "overlay"
graphroot = "{dir}/root"
runroot = "{dir}/run"
"""


class Podman:
    """podman on a node. Called, it runs a command of podman's and returns what that said."""

    def __init__(self, node: Node) -> None:
        """Choose names; `open` makes everything."""
        self._node = node
        self.dir = Path(tempfile.mkdtemp(prefix="pl-pod-", dir="/tmp"))
        self._ids: list[str] = []
        self._namespaces: list[str] = []

    def __enter__(self) -> Self:
        """Write the settings, load the image."""
        try:
            self.open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Take all of it away."""
        self.close()

    def open(self) -> None:
        """Write the settings, load the image."""
        link_plugins(self._node.bin_dir)
        allowed = {name: resource.getrlimit(kind)[1] for name, kind in LIMITS.items()}
        limits = {
            name: ENOUGH if hard == resource.RLIM_INFINITY else min(ENOUGH, hard) for name, hard in allowed.items()
        }
        told = json.dumps([f"{name}={limit}:{limit}" for name, limit in limits.items()])
        places = {"dir": self.dir, "bin_dir": self._node.bin_dir, "conf_dir": self._node.conf_dir}
        self._write("containers.conf", SETTINGS.format(limits=told, **places))
        self._write("storage.conf", STORAGE.format(dir=self.dir))
        self("load", "-i", str(image_support.write(self.dir / "image.tar")))

    def _write(self, name: str, text: str) -> None:
        (self.dir / name).write_text(text)

    def attempt(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run a command of podman's in the node's network namespace, whatever comes of it."""
        settings = {
            "CONTAINERS_CONF": str(self.dir / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(self.dir / "storage.conf"),
        }
        return self._node.exec("podman", *argv, check=False, env=os.environ | settings)

    def __call__(self, *argv: str) -> str:
        """Run a command that must succeed; return its stdout."""
        done = self.attempt(*argv)
        assert done.returncode == 0, (argv, done.stdout, done.stderr)
        return done.stdout.strip()

    def run(self, name: str, *command: str, publish: Sequence[str] = (), network: str = "podlane") -> str:
        """Start a container; return its id, which is CNI's container id."""
        ports = [f"--publish={one}" for one in publish]
        parent = f"--cgroup-parent=/{self.dir.name}"
        options = ["--detach", f"--name={name}", f"--network={network}", parent, *ports]
        container = self("run", *options, image_support.NAME, *(command or image_support.FOREVER))
        self._ids.append(container)
        self._namespaces.append(str(self.inspect(container)["NetworkSettings"]["SandboxKey"]))
        return container

    def inspect(self, container: str) -> Any:
        """Return what podman knows of a container."""
        return json.loads(self("inspect", container))[0]

    def remove(self, *containers: str) -> None:
        """End and remove containers."""
        self("rm", "--force", "--time", "0", *containers)

    def leftovers(self) -> list[str]:
        """Return what is still there of any container."""
        return [
            *(f"container {name}" for name in self("ps", "--all", "--quiet").split()),
            *(f"process {pid}" for pid in processes(self.dir)),
            *(f"mount {path}" for path in mounts(self.dir) if path != f"{self.dir}/root/overlay"),
            *(f"cgroup {path}" for path in cgroups(self.dir.name) if path.name not in KEPT | {self.dir.name}),
            *(f"namespace {path}" for path in self._namespaces if Path(path).exists()),
            *(f"cache {path}" for container in self._ids for path in CACHE.glob(f"*{container}*")),
        ]

    def close(self) -> None:
        """End all of it."""
        self.attempt("rm", "--all", "--force", "--time", "0")
        for pid in processes(self.dir):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for path in reversed(mounts(self.dir)):
            run("umount", "-l", path, check=False)
        for cgroup in reversed(cgroups(self.dir.name)):
            with contextlib.suppress(OSError):
                cgroup.rmdir()
        shutil.rmtree(self.dir, ignore_errors=True)
