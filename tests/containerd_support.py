"""A containerd of a node's own, driven over CRI as the kubelet does, with podlane or another plugin below it.

    with Containerd(node) as runtime:
        sandbox = runtime.run("web")
        runtime.start(sandbox)
        runtime.exec(sandbox, "ping", "-c", "1", address)
        runtime.remove(sandbox)

Debian's containerd and runc run in the node's network namespace, where the plugins that they start belong; root, state,
sockets and the pods' namespaces are in a directory of its own, and the cgroups below one of its name. There is one
image, made here (image_support.py), which is also what a sandbox sleeps in.

Sandboxes outlive their containerd: each has a process of its own (containerd-shim). `close` ends them over CRI and
then whatever is left, by pid.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import grpc
from google.protobuf import descriptor_pb2
from google.protobuf.message import DecodeError

from tests import cri, image_support
from tests.agreement import until
from tests.node_support import Node, run

# Debian's reference plugins.
PLUGINS = Path("/usr/lib/cni")
CONFIG = """\
version = 2
root = "{dir}/root"
state = "{dir}/state"
[grpc]
address = "{dir}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{image}"
# Not everybody who is root may set what the kubelet asks for.
restrict_oom_score_adj = true
disable_apparmor = true
netns_mounts_under_state_dir = true
stream_server_port = "0"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{bin_dir}"
conf_dir = "{conf_dir}"
"""


@dataclass(frozen=True)
class Sandbox:
    """A pod's sandbox: its id, which is CNI's container id, and what it was made of."""

    id: str
    config: dict[str, Any]


class Containerd:
    """One containerd. `bin_dir`, `conf_dir`: of CNI, default the node's; `netns`: default the node's."""

    def __init__(
        self, node: Node | None = None, *, netns: str = "", bin_dir: Path | None = None, conf_dir: Path | None = None
    ) -> None:
        """Choose names; `open` makes everything."""
        self._netns = netns or f"/run/netns/{node.name if node else ''}"
        self._bin_dir, self._conf_dir = (
            one or getattr(node, name) for one, name in ((bin_dir, "bin_dir"), (conf_dir, "conf_dir"))
        )
        self.dir = Path(tempfile.mkdtemp(prefix="pl-ctd-", dir="/tmp"))
        self.socket = self.dir / "containerd.sock"
        self.cgroup = self.dir.name
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Bring it up."""
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
        """Put the plugins into one directory, write the settings, start, import the image."""
        # containerd itself makes each sandbox's lo by the plugin `loopback`.
        link_plugins(self._bin_dir)
        self.config_file = self.dir / "config.toml"
        self.config_file.write_text(
            CONFIG.format(
                dir=self.dir,
                image=image_support.NAME,
                bin_dir=self._bin_dir,
                conf_dir=self._conf_dir,
            )
        )
        self.start_daemon()
        archive = image_support.write(self.dir / "image.tar")
        run("ctr", "-a", str(self.socket), "-n", "k8s.io", "images", "import", str(archive))
        # The interface hears of what was imported a moment later.
        until(self._has_image, self.log)

    def _has_image(self) -> bool:
        return any(image_support.NAME in image.repo_tags for image in self.client.ListImages().images)

    def start_daemon(self) -> None:
        """Start containerd and wait until it answers."""
        argv = ["nsenter", f"--net={self._netns}", "setpriv", "--pdeathsig", "KILL", "containerd"]
        with (self.dir / "log").open("ab") as log:
            self._process = subprocess.Popen([*argv, "-c", str(self.config_file)], stdout=log, stderr=log)
        self.client = cri.Client(self.socket)
        until(self._answers, self.log)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log()
        try:
            conditions = self.client.Status(timeout=5.0).status.conditions
        except grpc.RpcError:
            return False
        return all(condition.status for condition in conditions)

    def stop_daemon(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End containerd; sandboxes and containers go on."""
        if self._process is not None:
            self.client.close()
            self._process.send_signal(number)
            self._process.wait(30)
            self._process = None

    def _pid(self) -> int | None:
        return self._process.pid if self._process else None

    def log(self) -> str:
        """Return the end of what it said, without what it always says."""
        lines = (self.dir / "log").read_text().splitlines()
        return "\n".join(line for line in lines if "loading plugin" not in line)[-20_000:]

    def close(self) -> None:
        """End all of it."""
        if self._process is not None:
            with contextlib.suppress(grpc.RpcError):
                for item in self.client.ListPodSandbox().items:
                    self.remove(Sandbox(item.id, {}))
            self.stop_daemon()
        for pid in processes(self.dir):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for path in reversed(mounts(self.dir)):
            run("umount", "-l", path, check=False)
        for cgroup in reversed(cgroups(self.cgroup)):
            with contextlib.suppress(OSError):
                cgroup.rmdir()
        shutil.rmtree(self.dir, ignore_errors=True)

    def run(self, name: str, *, namespace: str = "default", ports: Sequence[dict[str, Any]] = ()) -> Sandbox:
        """Make a pod's sandbox with its network. Raises grpc.RpcError."""
        config = {
            "metadata": {"name": name, "uid": f"uid-{name}", "namespace": namespace},
            "log_directory": str(self.dir / "pods"),
            "linux": {"cgroup_parent": f"/{self.cgroup}"},
            "port_mappings": list(ports),
        }
        return Sandbox(self.client.RunPodSandbox(config=config).pod_sandbox_id, config)

    def start(self, sandbox: Sandbox, *command: str) -> str:
        """Start a container in a sandbox; return its id."""
        container = {
            "metadata": {"name": f"c{time.monotonic_ns()}"},
            "image": {"image": image_support.NAME},
            "command": list(command or image_support.FOREVER),
        }
        made = self.client.CreateContainer(pod_sandbox_id=sandbox.id, config=container, sandbox_config=sandbox.config)
        self.client.StartContainer(container_id=made.container_id)
        return str(made.container_id)

    def exec(self, container: str, *command: str) -> str:
        """Run a command in a container to its end; return what it said."""
        done = self.client.ExecSync(container_id=container, cmd=command, timeout=20)
        assert done.exit_code == 0, (command, done.exit_code, done.stdout, done.stderr)
        return str(done.stdout.decode())

    def status(self, sandbox: Sandbox) -> Any:
        """Return PodSandboxStatus."""
        return self.client.PodSandboxStatus(pod_sandbox_id=sandbox.id).status

    def addresses(self, sandbox: Sandbox) -> list[str]:
        """Return the addresses that the runtime tells of a sandbox."""
        network = self.status(sandbox).network
        return [network.ip, *(one.ip for one in network.additional_ips)]

    def netns(self, sandbox: Sandbox) -> str:
        """Return the path of a sandbox's network namespace."""
        info = self.client.PodSandboxStatus(pod_sandbox_id=sandbox.id, verbose=True).info["info"]
        namespaces = json.loads(info)["runtimeSpec"]["linux"]["namespaces"]
        return next(str(one["path"]) for one in namespaces if one["type"] == "network")

    def stop(self, sandbox: Sandbox) -> None:
        """Stop a sandbox: containers end, the network goes. Repeating it is success."""
        self.client.StopPodSandbox(pod_sandbox_id=sandbox.id)

    def remove(self, sandbox: Sandbox) -> None:
        """Stop and remove a sandbox."""
        self.stop(sandbox)
        self.client.RemovePodSandbox(pod_sandbox_id=sandbox.id)

    def leftovers(self) -> list[str]:
        """Return what is still there of any sandbox. A parent cgroup is the kubelet's, who makes it, to remove."""
        return [
            *(f"sandbox {item.id}" for item in self.client.ListPodSandbox().items),
            *(f"process {pid}" for pid in processes(self.dir) if pid != self._pid()),
            *(f"mount {path}" for path in mounts(self.dir)),
            *(f"cgroup {path}" for path in cgroups(self.cgroup) if path.name != self.cgroup),
            *(f"namespace {path.name}" for path in (self.dir / "state").glob("*.cri/netns/*")),
        ]


def built_from(package: str) -> descriptor_pb2.FileDescriptorProto:
    """Return the interface that containerd was compiled with: Go keeps descriptors in the binary, compressed."""
    binary = Path("/usr/bin/containerd").read_bytes()
    for found in re.finditer(b"\x1f\x8b\x08", binary):
        with contextlib.suppress(zlib.error, DecodeError):
            unpacked = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(binary[found.start() : found.start() + 2**18])
            file = descriptor_pb2.FileDescriptorProto.FromString(unpacked)
            if file.package == package:
                return file
    raise AssertionError(f"containerd has no descriptor of {package}")


def link_plugins(bin_dir: Path) -> None:
    """Put the reference plugins where a runtime searches, as on a node: all are in one directory there."""
    for plugin in PLUGINS.iterdir():
        if not (link := bin_dir / plugin.name).exists():
            link.symlink_to(plugin)


def processes(directory: Path) -> list[int]:
    """Return the pids of processes whose command line names a directory: a runtime's own and those of its pods."""
    found = []
    for one in Path("/proc").iterdir():
        if one.name.isdecimal():
            with contextlib.suppress(OSError):
                if f"{directory}/".encode() in (one / "cmdline").read_bytes():
                    found.append(int(one.name))
    return found


def mounts(directory: Path) -> list[str]:
    """Return what is mounted below a directory: roots, shared memory, network namespaces."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [path for path in (line.split()[4] for line in lines) if path.startswith(f"{directory}/")]


def cgroups(name: str) -> list[Path]:
    """Return the cgroups of a name at the top and all below them, parents first."""
    # Of version 1 each controller has its own tree.
    tops = [path for shape in ("", "*/") for path in Path("/sys/fs/cgroup").glob(f"{shape}{name}")]
    return [one for top in tops for one in (top, *sorted(path for path in top.rglob("*") if path.is_dir()))]
