"""The demo of a cluster: etcd and three nodes, pods on each, a policy, and a node that dies.

The nodes are network namespaces on a bridge in a namespace of its own, where etcd runs, too. Pods get their addresses
from ranges that the nodes claim for themselves; packets between nodes are in VXLAN, with the sender's identity.
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from stage import Failure, Node, Pod, Story, main, reaches, run, say

BRIDGE, LEASE_SECONDS = "10.99.0.254", 25
POLICY = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: demo}
spec:
  podSelector:
    matchLabels: {app: db}
  ingress:
  - from:
    - podSelector:
        matchLabels: {app: web}
    ports:
    - {port: 5432}
"""


class Fabric:
    """The bridge and etcd, in a namespace of their own."""

    def __init__(self) -> None:
        """Choose the name."""
        self.name = f"podlane-fabric-{secrets.token_hex(3)}"
        self.dir = Path(tempfile.mkdtemp(prefix=f"{self.name}-", dir="/tmp"))
        self._etcd: subprocess.Popen[bytes] | None = None

    def inside(self, *argv: str) -> str:
        """Run a command there."""
        return run("ip", "netns", "exec", self.name, *argv)

    def make(self) -> None:
        """Make the bridge, and start etcd."""
        run("ip", "netns", "add", self.name)
        self.inside("ip", "link", "set", "lo", "up")
        self.inside("ip", "link", "add", "br0", "type", "bridge")
        self.inside("ip", "address", "add", f"{BRIDGE}/24", "dev", "br0")
        self.inside("ip", "link", "set", "br0", "up")
        client, peer = f"http://{BRIDGE}:2379", "http://127.0.0.1:2380"
        command = [
            *("ip", "netns", "exec", self.name, "etcd", "--name", "m0", "--data-dir", str(self.dir / "data")),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"m0={peer}"),
        ]
        with (self.dir / "log").open("wb") as log:
            self._etcd = subprocess.Popen(command, stdout=log, stderr=log)
        self.etcdctl("--dial-timeout=20s", "--command-timeout=20s", "endpoint", "health")

    def etcdctl(self, *argv: str) -> str:
        """Ask etcd."""
        return self.inside("etcdctl", "--endpoints", f"http://{BRIDGE}:2379", *argv)

    def join(self, node: Node, number: int) -> str:
        """Give a node its eth0 and return its address."""
        address = f"10.99.0.{number}"
        port = f"port{number}"
        self.inside("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", node.name)
        self.inside("ip", "link", "set", port, "master", "br0", "up")
        node.inside("ip", "link", "set", "eth0", "up")
        node.inside("ip", "address", "add", f"{address}/24", "dev", "eth0")
        node.inside("ip", "route", "add", "default", "via", BRIDGE)
        return address

    def clean(self) -> None:
        """Take it away."""
        if self._etcd is not None:
            self._etcd.kill()
            self._etcd.wait()
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True, check=False)
        shutil.rmtree(self.dir, ignore_errors=True)


def settings() -> dict[str, dict[str, object]]:
    """Return what all nodes have."""
    return {
        "kvstore": {"endpoints": [f"http://{BRIDGE}:2379"], "lease_seconds": LEASE_SECONDS},
        "cluster": {"routing": "overlay", "cidrs": ["10.244.0.0/16"]},
        "pool": {"cluster_ranges": ["10.244.0.0/16"]},
    }


def bring_up(node: Node) -> None:
    """Start a node's services and install its plugin."""
    node.podlane("node", "up")
    node.podlane("cni", "install", "--bin-dir", str(node.bin), "--conf-dir", str(node.conf))


def show_reach(pods: list[Pod], silent: tuple[Pod, ...] = (), closed: tuple[Pod, ...] = ()) -> None:
    """Show who reaches whose port 5432. Of those in `silent` nobody hears; whom policy keeps out, `closed` says."""
    say(f"{'from':<10}" + "".join(f"{pod.name:<12}" for pod in pods))
    for one in pods:
        if one in silent:
            continue
        row = []
        for other in pods:
            found = "" if other is one else reaches(one, other.addresses[0], 5432)
            allowed = other not in silent and not (other in closed and not one.name.startswith("web"))
            if found and (found == "reached") != allowed:
                raise Failure(
                    f"{one.name} to {other.name}: {found}, and {'reached' if allowed else 'no answer'} was due"
                )
            row.append(found or "-")
        say(f"{one.name:<10}" + "".join(f"{found:<12}" for found in row))


def until(node: Node, *argv: str, holds: str) -> None:
    """Wait until the command of the operator says something."""
    deadline = time.monotonic() + 60
    while holds not in (told := node.podlane(*argv, answers=(0, 1))):
        if time.monotonic() > deadline:
            raise Failure(f"{' '.join(argv)} does not say {holds!r}:\n{told}")
        time.sleep(0.1)


def known(nodes: list[Node], pods: int) -> None:
    """Wait until every node has all other nodes' pods in its datapath."""
    for node in nodes:
        deadline = time.monotonic() + 60
        # Beside pods each other node has an address of its own and a gateway.
        wanted = pods - len(node.pods) + 2 * (len(nodes) - 1)
        while True:
            ipcache = json.loads(node.podlane("status", "-o", "json", answers=(0, 1)))["cluster"]["ipcache"]
            if (ipcache["entries"], ipcache["pending"]) == (wanted, 0):
                break
            if time.monotonic() > deadline:
                raise Failure(f"{node.name} knows {ipcache} of {wanted} addresses")
            time.sleep(0.1)


def tell(stack: contextlib.ExitStack) -> None:
    """Tell the whole story."""
    story, fabric, nodes = Story(), Fabric(), [Node(settings()) for _ in range(3)]
    stack.callback(fabric.clean)
    for node in nodes:
        stack.callback(node.clean)
    with story.step("A bridge, and etcd beside it"):
        fabric.make()
    with story.step("Three nodes on the bridge: podlane node up on each"):
        for number, node in enumerate(nodes, 1):
            node.make()
            say(f"{node.name} at {fabric.join(node, number)}")
        with ThreadPoolExecutor() as pool:
            list(pool.map(bring_up, nodes))
    pods: list[Pod] = []
    with story.step("A web and a db pod on each: addresses from ranges that the nodes have claimed for themselves"):
        for number, node in enumerate(nodes, 1):
            for app in ("web", "db"):
                pod = node.pod(f"{app}-{number}")
                result = node.cni("ADD", pod, app)
                pod.addresses = tuple(one["address"].partition("/")[0] for one in result["ips"])
                pods.append(pod)
                say(f"{node.name}  demo/{pod.name}  {pod.addresses[0]}")
        known(nodes, len(pods))
    with story.step("podlane status"):
        say(nodes[0].podlane("status"))
    with story.step("podlane kvstore list: what the nodes tell each other"):
        say(nodes[0].podlane("kvstore", "list", "state/ip"))
        say(nodes[0].podlane("kvstore", "list", "state/identities/v1/id"))
        say(nodes[0].podlane("ipam", "claims"))
    with story.step("No policy: everybody reaches everybody, across nodes"):
        show_reach(pods)
    databases = tuple(pod for pod in pods if pod.name.startswith("db"))
    with story.step("podlane policy apply --cluster: only web pods may reach databases, wherever they are"):
        file = nodes[0].dir / "policy.yaml"
        file.write_text(POLICY)
        say(nodes[0].podlane("policy", "apply", "--cluster", "-f", str(file)))
        for node in nodes:
            until(node, "policy", "list", holds="kvstore")
        show_reach(pods, closed=databases)
    with story.step(f"{nodes[2].name} dies: its services are killed and its cable is pulled"):
        for service in ("endpoint", "loader", "ipam"):
            os.kill(int((nodes[2].dir / "run" / f"{service}.pid").read_text()), signal.SIGKILL)
        fabric.inside("ip", "link", "set", "port3", "down")
        show_reach(pods, silent=tuple(nodes[2].pods), closed=databases)
    with story.step(f"Its lease ends, within {LEASE_SECONDS} s: the others forget its addresses, not its ranges"):
        known(nodes[:2], 4)
        say(nodes[0].podlane("status"))
        say(nodes[0].podlane("ipam", "claims"))
        show_reach(pods, silent=tuple(nodes[2].pods), closed=databases)


if __name__ == "__main__":
    sys.exit(main("podlane: three nodes, from etcd to a node's death", tell, "make demo-cluster"))
