"""Several nodes on one underlay: network namespaces joined by a bridge in a namespace of its own.

    with Cluster(3) as cluster:                      # real services, as tests.node_support.Node has them
        one, two, three = cluster.nodes
        pod = one.pod(); one.add(pod)

    async with LoaderCluster(tmp_path, 2) as cluster:    # only loaders, which are told by RPC what a cluster would say
        await cluster.configure(ROUTING_OVERLAY)
        one, two = await cluster.pod(0), await cluster.pod(1)
        await cluster.tell()
        assert one.pings(two.v4) == []

Each node has `eth0` on the bridge with the addresses 10.99.0.<n>/24 and fd00:99::<n>/64, n from 1 on, and default
routes to the bridge, 10.99.0.254 and fd00:99::fe, which stands for the world. Nodes' pods have ranges of their own:
10.<100+n>.0.0/24 and fd00:<100+n>::/112. Everything is private to the test and gone with it.
"""

import asyncio
import contextlib
import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, Self

from podlane.loader.v1 import loader_pb2 as pb

from services.common import wire
from services.common.client import Peer
from services.loader import libbpf, maps
from tests.loader_support import LoaderNode, Pod
from tests.netns_support import Netns
from tests.node_support import Node

WORLD_V4, WORLD_V6 = "10.99.0.254", "fd00:99::fe"
REMOTE_NODE = 6
MTU = 1500


def underlay_v4(number: int) -> str:
    """Return a node's IPv4 address."""
    return f"10.99.0.{number}"


def underlay_v6(number: int) -> str:
    """Return a node's IPv6 address."""
    return f"fd00:99::{number:x}"


def ranges(number: int) -> tuple[str, str]:
    """Return the ranges of a node's pods."""
    return f"10.{100 + number}.0.0/24", f"fd00:{100 + number}::/112"


class Fabric:
    """The bridge."""

    def __init__(self, mtu: int = MTU) -> None:
        """Make it."""
        self.mtu = mtu
        self.netns = Netns()
        self.run("ip", "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
        self.run("ip", "link", "set", "br0", "mtu", str(mtu), "up")
        for address in (f"{WORLD_V4}/24", f"{WORLD_V6}/64"):
            self.run("ip", "address", "add", address, "dev", "br0", *_nodad(address))

    def run(self, *argv: str) -> str:
        """Run a command in the bridge's namespace and return what it said."""
        return _checked(self.netns.command(*argv), argv)

    def join(self, path: str, number: int) -> None:
        """Give the namespace at `path` its eth0, addresses and default routes."""
        port = f"port{number}"
        self.run(
            *("ip", "link", "add", port, "mtu", str(self.mtu), "type", "veth", "peer", "name", "eth0"),
            *("mtu", str(self.mtu), "netns", path),
        )
        self.run("ip", "link", "set", port, "master", "br0", "up")
        inside = ("nsenter", f"--net={path}", "ip")
        self.run(*inside, "link", "set", "eth0", "up")
        for address in (f"{underlay_v4(number)}/24", f"{underlay_v6(number)}/64"):
            self.run(*inside, "address", "add", address, "dev", "eth0", *_nodad(address))
        for gateway in (WORLD_V4, WORLD_V6):
            self.run(*inside, "route", "add", "default", "via", gateway)

    def cut(self, number: int) -> None:
        """Take a node off the net."""
        self.run("ip", "link", "set", f"port{number}", "down")

    def mend(self, number: int) -> None:
        """Put it back."""
        self.run("ip", "link", "set", f"port{number}", "up")

    def close(self) -> None:
        """Take the bridge away."""
        self.netns.close()


def _nodad(address: str) -> tuple[str, ...]:
    return ("nodad",) if ":" in address else ()


def _checked(done: "subprocess.CompletedProcess[str]", argv: object) -> str:
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
    return done.stdout


# ── with all services ──


@dataclass
class ClusterNode(Node):
    """A node of a cluster. Its settings are the cluster's."""

    number: int = 1
    fabric: Fabric | None = None

    def prepare(self) -> None:
        """Join the others."""
        if self.fabric is not None:
            self.fabric.join(f"/run/netns/{self.name}", self.number)

    @property
    def v4(self) -> str:
        """Its IPv4 address on the underlay."""
        return underlay_v4(self.number)

    @property
    def v6(self) -> str:
        """Its IPv6 address on the underlay."""
        return underlay_v6(self.number)

    def ipcache_size(self) -> int:
        """Return the number of addresses in the datapath, without keeping the loader from adding some."""
        fd = libbpf.object_get(self.dir / "bpf" / "podlane" / "maps" / maps.IPCACHE)
        if fd is None:
            return 0
        with fd:
            info = libbpf.map_info(fd)
            chunks = libbpf.map_chunks(fd, info.key_size, info.value_size)
            return sum(len(keys) for keys, _ in chunks) // info.key_size


@dataclass
class Cluster:
    """`size` nodes. `settings` are TOML values by section, the same on all nodes; with `start` False the services are
    not started.
    """

    size: int = 2
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    start: bool = True
    mtu: int = MTU
    nodes: list[ClusterNode] = field(default_factory=list)

    def __enter__(self) -> Self:
        """Bring all of it up."""
        self.fabric = Fabric(self.mtu)
        try:
            for _ in range(self.size):
                self.join()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Take it away."""
        self.close()

    def join(self, **settings: Mapping[str, Any]) -> ClusterNode:
        """Add one more node, with settings of its own beside the cluster's."""
        number = len(self.nodes) + 1
        tables = {table: dict(values) for table, values in self.settings.items()}
        for table, values in settings.items():
            tables.setdefault(table, {}).update(values)
        node = ClusterNode(ranges(number), tables, self.start, number=number, fabric=self.fabric)
        self.nodes.append(node)
        node.open()
        return node

    def close(self) -> None:
        """Take nodes and bridge away."""
        for node in self.nodes:
            node.close()
        self.fabric.close()


# ── with loaders only ──


class ClusterLoader(LoaderNode):
    """A loader's node of a cluster."""

    def __init__(self, directory: Path, number: int, fabric: Fabric, **settings: Any) -> None:
        """Choose ranges."""
        super().__init__(directory, **settings)
        self.number = number
        self.fabric = fabric
        self.ranges = tuple(map(ip_network, ranges(number)))
        self.gateways = tuple(network[1] for network in self.ranges)

    def prepare(self) -> None:
        """Join the others."""
        self.fabric.join(self.netns.path, self.number)

    def address(self, family: int) -> str:
        """Return its address on the underlay."""
        return underlay_v4(self.number) if family == 4 else underlay_v6(self.number)

    async def dump(self, name: str, endpoint_id: int = 0) -> list[pb.MapEntry]:
        """Return the entries of a map."""
        return list((await self.call("DumpMap", pb.DumpMapRequest(map=name, endpoint_id=endpoint_id))).entries)

    async def drops(self) -> dict[str, int]:
        """Return how many packets were dropped, by reason."""
        counts: dict[str, int] = {}
        for entry in await self.dump("metrics"):
            counts[entry.metrics.reason] = counts.get(entry.metrics.reason, 0) + entry.metrics.packets
        return counts

    def ip(self, *argv: str) -> Any:
        """Return what `ip -j` says in the node's namespace."""
        return json.loads(_checked(self.netns.command("ip", "-j", *argv), argv) or "[]")

    def counter(self, name: str) -> int:
        """Return a counter of the node's stack, for example IpFragCreates."""
        shown = _checked(self.netns.command("nstat", "-asz", "-j", name), name)
        return int(json.loads(shown)["kernel"][name])


class LoaderCluster:
    """`size` loaders that are told of each other."""

    def __init__(self, directory: Path, size: int = 2, *, mtu: int = MTU, **settings: Any) -> None:
        """Choose names; entering makes everything. `settings` go into the [loader] tables."""
        self._directory = directory
        self._size = size
        self._mtu = mtu
        self._settings = settings
        self.nodes: list[ClusterLoader] = []
        self.routing = pb.ROUTING_UNSPECIFIED
        self.family = 4

    async def __aenter__(self) -> Self:
        """Bring all of it up."""
        self.fabric = Fabric(self._mtu)
        try:
            for number in range(1, self._size + 1):
                directory = self._directory / f"n{number}"
                directory.mkdir()
                node = ClusterLoader(directory, number, self.fabric, **self._settings)
                node.peer = Peer("loader", node.socket, 60.0)
                self.nodes.append(node)
            await asyncio.gather(*(node.__aenter__() for node in self.nodes))
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Take it away."""
        await asyncio.gather(*(node.__aexit__() for node in self.nodes))
        self.fabric.close()

    async def configure(self, routing: "pb.Routing.ValueType", family: int = 4, **fields: Any) -> None:
        """Configure all nodes."""
        self.routing, self.family = routing, family
        await asyncio.gather(
            *(node.configure(routing=routing, underlay_family=family, **fields) for node in self.nodes)
        )

    async def pod(self, index: int) -> Pod:
        """Make a pod that can talk, on a node. Its identity is its own."""
        node = self.nodes[index]
        pod = await node.link()
        pod.endpoint.identity = identity(node, pod)
        await node.regenerate(pod)
        return pod

    async def clear(self) -> None:
        """Take all pods away and what nodes have of each other."""
        for node in self.nodes:
            for pod in node.pods:
                await node.delete(pod)
                pod.netns.close()
            node.pods.clear()
            for entry_ in await node.dump("metrics"):
                assert not entry_.metrics.endpoint_id
        await self.configure(pb.ROUTING_UNSPECIFIED)

    async def regenerate(self) -> None:
        """Regenerate all endpoints, as needed: after a change of the configuration."""
        await asyncio.gather(*(node.regenerate(pod, 1) for node in self.nodes for pod in node.pods))

    async def tell(self) -> None:
        """Tell each loader of the other nodes and of who is behind their addresses."""
        await asyncio.gather(*(self.tell_node(node) for node in self.nodes))

    async def tell_node(self, node: ClusterLoader) -> pb.SyncNodesResponse:
        """Tell one loader."""
        others = [one for one in self.nodes if one is not node]
        await self.sync_ipcache(node, [entry for other in others for entry in self.entries(other)])
        reply: pb.SyncNodesResponse = await node.call(
            "SyncNodes", pb.SyncNodesRequest(nodes=[self.remote(other) for other in others])
        )
        return reply

    async def sync_ipcache(self, node: ClusterLoader, entries: list[pb.IpcacheEntry]) -> pb.SyncIpcacheResponse:
        """Send the whole ipcache to a loader, a thousand entries in a message."""
        parts = (entries[at : at + 1000] for at in range(0, len(entries), 1000))
        requests = (
            *(pb.SyncIpcacheRequest(entries=part) for part in parts),
            pb.SyncIpcacheRequest(complete=True),
        )
        reply: pb.SyncIpcacheResponse = await node.call("SyncIpcache", requests)
        return reply

    def remote(self, node: ClusterLoader) -> pb.RemoteNode:
        """Return a node as the others know it."""
        return pb.RemoteNode(
            name=f"n{node.number}",
            address=wire.write_address(ip_address(node.address(self.family))),
            pod_cidrs=map(wire.write_network, node.ranges),
            addresses=[wire.write_address(ip_address(node.address(family))) for family in (4, 6)],
        )

    def entries(self, node: ClusterLoader) -> list[pb.IpcacheEntry]:
        """Return what the ipcache of others has of a node: its pods and gateways behind it, its own addresses as they
        are.
        """
        behind = ip_address(node.address(self.family)) if self.routing == pb.ROUTING_OVERLAY else None
        found = [entry(ip_address(node.address(family)), REMOTE_NODE) for family in (4, 6)]
        found += [entry(gateway, REMOTE_NODE, behind) for gateway in node.gateways]
        for pod in node.pods:
            found += [entry(ip_address(one.packed), pod.endpoint.identity, behind) for one in pod.endpoint.addresses]
        return found


def entry(address: Any, identity_: int, node: Any = None) -> pb.IpcacheEntry:
    """Return an entry of the ipcache."""
    return pb.IpcacheEntry(
        address=wire.write_address(address),
        identity=identity_,
        node=wire.write_address(node) if node is not None else None,
    )


def identity(node: ClusterLoader, pod: Pod) -> int:
    """Return an identity that no other pod of the cluster has."""
    return 1000 * node.number + pod.endpoint.id


@contextlib.asynccontextmanager
async def process(netns: Netns, *argv: str) -> Any:
    """Run a command in a namespace through the block; it is ended by its pid."""
    running = await asyncio.create_subprocess_exec(
        *netns.argv(*argv), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        yield running
    finally:
        if running.returncode is None:
            running.terminate()
        await running.wait()
