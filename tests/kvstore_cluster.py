"""A whole cluster for tests: etcd in the bridge's namespace, nodes with the three real services, all on one machine.

    with KvstoreCluster(2) as cluster:
        one, two = cluster.nodes
        web = cluster.pod(one, "web"); db = cluster.pod(two, "db")
        cluster.settled()                    # every node knows every pod
        assert web.ping(db.v4)

etcd is at the bridge's own address, which no test cuts off: `fabric.cut` is for nodes.
"""

import base64
import contextlib
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self

import grpc
from podlane.endpoint.v1 import endpoint_pb2, endpoint_pb2_grpc
from podlane.loader.v1 import loader_pb2, loader_pb2_grpc

from services.common.kvstore.keys import Keys
from tests.certificates import Certificates
from tests.cluster_support import WORLD_V4, Cluster, ClusterNode
from tests.etcd_support import Etcd, EtcdCluster
from tests.node_support import Pod, run

PATIENCE = 60.0
PORT = 2379
# The shortest that settings allow.
LEASE_SECONDS = 25
USER = "podlane"
KEYS = Keys()
_REMOTE_NODE = 6


def until(holds: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
    """Wait for a condition; `what` is said when it doesn't come."""
    deadline, pause = time.monotonic() + patience, 0.05
    last: object = None
    while time.monotonic() < deadline:
        try:
            if last := holds():
                return
        except AssertionError as error:
            last = error
        time.sleep(pause)
        pause = min(2 * pause, 0.2)
    raise AssertionError(f"not in {patience:g} s: {what}; last: {last}")


@dataclass
class ClusterPod:
    """A pod with its addresses, and the node that it is on."""

    node: ClusterNode
    pod: Pod
    addresses: Sequence[str]

    @property
    def v4(self) -> str:
        """Its IPv4 address."""
        return self.addresses[0]

    @property
    def v6(self) -> str:
        """Its IPv6 address."""
        return self.addresses[1]

    def ping(self, *addresses: str) -> bool:
        """Return whether all of them answer."""
        return all(self.pod.ping(address) for address in addresses)

    def reaches(self, other: "ClusterPod") -> bool:
        """Return whether both families get through."""
        return self.ping(*other.addresses)

    @property
    def identity(self) -> int:
        """Its identity's number."""
        return int(self.endpoint()["identity"])

    def endpoint(self) -> Any:
        """Return what `podlane endpoint list` says of it."""
        found = self.node.show("endpoint", "list")
        return next(one for one in found if one["attachment"]["container_id"] == self.pod.container_id)


@dataclass
class KvstoreCluster:
    """`size` nodes and `members` of etcd. `settings` as of Cluster; `tls` and `password_file`: etcd wants them."""

    size: int = 2
    members: int = 1
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    tls: Certificates | None = None
    password_file: Path | None = None
    etcd_options: Sequence[str] = ()

    def __enter__(self) -> Self:
        """Bring it up: etcd first, then all nodes at once."""
        self._stack = contextlib.ExitStack()
        try:
            self.cluster = Cluster(0)
            self._stack.enter_context(self.cluster)
            self.fabric = self.cluster.fabric
            self.cluster.settings = self._settings()
            self._begin_etcd()
            # Services are started side by side below: their start is mostly waiting.
            self.cluster.start = False
            for _ in range(self.size):
                self.cluster.join()
            together([node.up for node in self.nodes])
            self.cluster.start = True
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Take it away."""
        self._stack.close()

    def _settings(self) -> dict[str, dict[str, Any]]:
        scheme = "https" if self.tls is not None else "http"
        kvstore: dict[str, Any] = {
            "endpoints": [f"{scheme}://{WORLD_V4}:{PORT + number}" for number in range(self.members)],
            "lease_seconds": LEASE_SECONDS,
            "timeout_seconds": 2.0,
        }
        if self.tls is not None:
            kvstore |= {
                "ca": str(self.tls.ca),
                "certificate": str(self.tls.client),
                "key": str(self.tls.client_key),
            }
        if self.password_file is not None:
            kvstore |= {"username": USER, "password_file": str(self.password_file)}
        settings = {"kvstore": kvstore, "cluster": {"cidrs": ["10.64.0.0/10", "fd00:100::/24"]}}
        for table, values in self.settings.items():
            settings.setdefault(table, {}).update(values)
        return settings

    def _begin_etcd(self) -> None:
        where: dict[str, Any] = {
            "netns": self.fabric.netns.path,
            "addresses": [WORLD_V4],
            "tls": self.tls,
            "options": self.etcd_options,
        }
        if self.members == 1:
            self.etcds = [self._stack.enter_context(Etcd(port=PORT, **where))]
            if self.password_file is not None:
                self.etcd.protect(USER, self.password_file.read_text())
            return
        cluster = EtcdCluster(self.members, **where)
        for number, member in enumerate(cluster.members):
            member.port = PORT + number
        self.etcd_cluster = self._stack.enter_context(cluster)
        self.etcds = cluster.members

    @property
    def nodes(self) -> list[ClusterNode]:
        """The nodes."""
        return self.cluster.nodes

    @property
    def etcd(self) -> Etcd:
        """A member of etcd that runs."""
        return next(one for one in self.etcds if one.process is not None)

    def pod(self, node: ClusterNode, app: str, **labels: str) -> ClusterPod:
        """Make a pod with labels on a node."""
        pod = node.pod()
        outcome = node.add(pod, args={"cni": {"labels": [{"key": "app", "value": app}, *_labels(labels)]}})
        return ClusterPod(node, pod, outcome.addresses)

    def clear(self) -> None:
        """Take pods and documents away, for the next test."""
        for node in self.nodes:
            for pod in node.pods:
                node.delete(pod)
                run("ip", "netns", "del", pod.netns)
            node.pods.clear()
        for key in self.keys(f"{KEYS.policies}"):
            self.etcd.ctl("del", key)
        until(lambda: not any(self.ipcache(node) for node in self.nodes), "all nodes have forgotten all pods")
        until(lambda: not any(node.show("policy", "list") for node in self.nodes), "and all documents")

    def keys(self, prefix: str = "podlane/") -> dict[str, Any]:
        """Return what etcd has: values by key."""
        found = json.loads(self.etcd.ctl("get", "--prefix", "-w", "json", prefix).stdout).get("kvs", [])
        return {
            base64.b64decode(one["key"]).decode(): json.loads(base64.b64decode(one["value"]).decode()) for one in found
        }

    def settled(self) -> None:
        """Wait until each node knows all nodes and all published addresses."""
        until(lambda: all(self.knows_all(node) for node in self.nodes), "all nodes know all pods")

    def knows_all(self, node: ClusterNode) -> bool:
        """Return whether a node's datapath has all other nodes' pods, as they are published."""
        published = {
            key.rpartition("/")[2]: value["identity"]
            for key, value in self.keys("podlane/state/ip/").items()
            if value["node"] != node.name
        }
        others = [one for one in self.nodes if one is not node and one.pods]
        if any(address not in published for other in others for one in running(other) for address in one):
            return False
        return self.ipcache(node) == published

    def ipcache(self, node: ClusterNode) -> dict[str, int]:
        """Return the pods' addresses in a node's datapath, with their identities."""
        with _asked(node, "loader") as channel:
            request = loader_pb2.DumpMapRequest(map="ipcache")
            found = loader_pb2_grpc.LoaderServiceStub(channel).DumpMap(request, timeout=10.0).entries
        entries = [one.ipcache for one in found]
        return {str(ip_address(one.address.packed)): one.identity for one in entries if one.identity != _REMOTE_NODE}


def running(node: ClusterNode) -> list[list[str]]:
    """Return the addresses of a node's endpoints; none while its services don't answer."""
    with _asked(node, "endpoint") as channel:
        stub = endpoint_pb2_grpc.EndpointServiceStub(channel)
        try:
            found = stub.ListEndpoints(endpoint_pb2.ListEndpointsRequest(), timeout=10.0).endpoints
        except grpc.RpcError:
            return []
    return [[str(ip_address(address.address.address.packed)) for address in one.addresses] for one in found]


def _asked(node: ClusterNode, service: str) -> grpc.Channel:
    # Of its own: one that is shared backs off while its service is away.
    options = (("grpc.use_local_subchannel_pool", 1),)
    return grpc.insecure_channel(f"unix:{node.dir}/run/{service}/{service}.sock", options=options)


def together(works: Sequence[Callable[[], object]]) -> None:
    """Do several things at the same time; raise the first error."""
    errors: list[BaseException] = []

    def run(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - it is raised below
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def _labels(labels: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in labels.items()]
