"""The real loader as a process, on a node of its own: network namespace, bpffs, directories.

    async with LoaderNode(tmp_path) as node:
        await node.configure()
        pod = await node.add()                 # CreateLink and RegenerateEndpoint
        assert pod.netns.ping(other.v4)

Everything is private to the test and gone with it, whatever it did.
"""

import asyncio
import contextlib
import json
import secrets
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any, Self

from podlane.common.v1 import types_pb2 as types
from podlane.loader.v1 import loader_pb2 as pb
from podlane.loader.v1 import loader_pb2_grpc

from services.common import wire
from services.common.client import Peer
from services.common.model import Address, AssignedAddress, Network, Route
from tests import warm
from tests.netns_support import Netns
from tests.objects import REMEMBERING, prebuilt

RANGES = (ip_network("10.77.0.0/24"), ip_network("fd00:77::/112"))
GATEWAYS = (ip_address("10.77.0.1"), ip_address("fd00:77::1"))
ALLOW_ALL = [pb.PolicyEntry(direction=pb.TrafficDirection.ValueType(direction)) for direction in (1, 2)]
REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass
class Pod:
    """A pod's namespace, its link, and the endpoint that the loader was told of."""

    netns: Netns
    link: pb.Link
    endpoint: pb.EndpointConfig

    @property
    def v4(self) -> str:
        """Its IPv4 address."""
        return str(ip_address(self.endpoint.addresses[0].packed))

    @property
    def v6(self) -> str:
        """Its IPv6 address."""
        return str(ip_address(self.endpoint.addresses[1].packed))

    def ping(self, address: str) -> bool:
        """Return whether an address answers."""
        return self.netns.ping(address)

    def pings(self, *addresses: str) -> list[str]:
        """Return the addresses that do not answer. All are asked at once: silence takes its time."""
        with ThreadPoolExecutor(len(addresses) or 1) as executor:
            answered = list(executor.map(self.netns.ping, addresses))
        return [address for address, one in zip(addresses, answered, strict=True) if not one]


class LoaderNode:
    """One node with one loader."""

    ranges: Sequence[Network] = RANGES
    gateways: Sequence[Address] = GATEWAYS

    def __init__(self, directory: Path, **settings: Any) -> None:
        """Choose paths; `settings` go into the [loader] table."""
        self.dir = directory
        self.state = directory / "run" / "state"
        self.bpffs = directory / "bpf"
        self.maps = self.bpffs / "podlane" / "maps"
        self.socket = directory / "run" / "loader" / "loader.sock"
        self.settings = (
            settings if "clang" in settings else {"objects_dir": prebuilt(), "clang": REMEMBERING, **settings}
        )
        self.pods: list[Pod] = []
        self.process: warm.AsyncProcess | None = None
        self.peer = Peer("loader", self.socket, 10.0)

    async def __aenter__(self) -> Self:
        """Make the namespace and start the loader, which mounts the bpffs itself."""
        self.netns = Netns()
        self.bpffs.mkdir()
        try:
            self.prepare()
            await self.start()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    def prepare(self) -> None:
        """Do what is to be done in the namespace before the loader starts."""

    async def __aexit__(self, *_: object) -> None:
        """Take everything away."""
        await self.stop()
        for pod in self.pods:
            pod.netns.close()
        self.netns.close()
        unmount = await asyncio.create_subprocess_exec("umount", "-q", str(self.bpffs))
        await unmount.wait()

    def write_config(self) -> Path:
        """Write podlane.toml."""
        lines = ["[node]", f'run_dir = "{self.dir}/run"', f'bpffs = "{self.bpffs}"', "[loader]"]
        lines += [
            f"{key} = {json.dumps(str(value) if isinstance(value, Path) else value)}"
            for key, value in self.settings.items()
        ]
        file = self.dir / "podlane.toml"
        file.write_text("\n".join(lines) + "\n")
        return file

    async def start(self) -> None:
        """Start the loader and wait until it answers; one that ends instead shows its log."""
        process = await self.launch()
        await self.peer.start()
        self.stub: Any = loader_pb2_grpc.LoaderServiceStub(self.peer.channel)
        answer = asyncio.ensure_future(self.call("GetNode", pb.GetNodeRequest()))
        end = asyncio.ensure_future(process.wait())
        await asyncio.wait([answer, end], return_when=asyncio.FIRST_COMPLETED)
        if end.done():
            answer.cancel()
            raise AssertionError(f"the loader ended with {process.returncode}: {self.log[-2000:]}")
        end.cancel()
        await answer

    def argv(self) -> list[str]:
        """Return the command line of the loader, run from the repository."""
        return [sys.executable, "-m", "services.loader", "--config", str(self.write_config())]

    async def launch(self) -> warm.AsyncProcess:
        """Start the process only; its log is in loader.log."""
        argv = ["--config", str(self.write_config())]
        with (self.dir / "loader.log").open("ab") as log:
            self.process = warm.AsyncProcess(warm.spawn("services.loader", argv, netns=self.netns.path, stderr=log))
        return self.process

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send a signal and wait for the end."""
        await self.peer.stop()
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(number)
            await self.process.wait()

    async def restart(self, number: signal.Signals = signal.SIGTERM, **settings: Any) -> None:
        """End the loader and start another on the same node, with other settings."""
        await self.stop(number)
        self.settings |= settings
        await self.start()

    @property
    def log(self) -> str:
        """What the loader has written."""
        return (self.dir / "loader.log").read_text()

    async def call(self, method: str, request: Any) -> Any:
        """Call an RPC; errors are raised as the service raised them."""
        return await self.peer.call(getattr(self.stub, method), request, timeout=30.0)

    async def configure(self, **fields: Any) -> pb.ConfigureNodeResponse:
        """Configure the node."""
        config = pb.NodeConfig(
            pod_cidrs=map(wire.write_network, self.ranges),
            gateways=map(wire.write_address, self.gateways),
            **fields,
        )
        reply: pb.ConfigureNodeResponse = await self.call("ConfigureNode", pb.ConfigureNodeRequest(config=config))
        return reply

    async def link(self, number: int = 0) -> Pod:
        """Make a pod with a link; the endpoint is not regenerated."""
        number = number or len(self.pods) + 10
        addresses = [
            AssignedAddress(ip_interface(f"{network[number]}/{network.max_prefixlen}"), gateway, network)
            for network, gateway in zip(self.ranges, self.gateways, strict=True)
        ]
        routes = [route for gateway in self.gateways for route in _routes(gateway)]
        netns = Netns()
        request = pb.CreateLinkRequest(
            attachment=types.Attachment(network="net", container_id=secrets.token_hex(8), ifname="eth0"),
            netns_path=netns.path,
            addresses=map(wire.write_assigned, addresses),
            routes=map(wire.write_route, routes),
        )
        try:
            link = (await self.call("CreateLink", request)).link
        except BaseException:
            netns.close()
            raise
        endpoint = pb.EndpointConfig(
            id=number,
            generation=1,
            attachment=request.attachment,
            host_ifindex=link.host_ifindex,
            host_ifname=link.host_ifname,
            host_mac=link.host_mac,
            pod_mac=link.pod_mac,
            addresses=[wire.write_address(one.address.ip) for one in addresses],
            identity=1000 + number,
        )
        pod = Pod(netns, link, endpoint)
        self.pods.append(pod)
        return pod

    async def add(self) -> Pod:
        """Make a pod that can talk."""
        pod = await self.link()
        await self.regenerate(pod)
        return pod

    async def regenerate(
        self,
        pod: Pod,
        level: int = 2,
        policy: list[pb.PolicyEntry] | None = None,
        *,
        dry_run: bool = False,
        **options: bool,
    ) -> pb.RegenerateEndpointResponse:
        """Regenerate a pod's endpoint; options with `_` for `-`."""
        endpoint = pb.EndpointConfig()
        endpoint.CopyFrom(pod.endpoint)
        endpoint.options.extend(
            pb.EndpointOption(name=name.replace("_", "-"), enabled=enabled) for name, enabled in options.items()
        )
        request = pb.RegenerateEndpointRequest(
            endpoint=endpoint,
            level=pb.RegenerationLevel.ValueType(level),
            policy=ALLOW_ALL if policy is None else policy,
            dry_run=dry_run,
        )
        reply: pb.RegenerateEndpointResponse = await self.call("RegenerateEndpoint", request)
        return reply

    async def datapaths(self, id_: int = 0) -> list[pb.EndpointDatapath]:
        """List datapaths."""
        reply = await self.call("ListEndpointDatapaths", pb.ListEndpointDatapathsRequest(id=id_))
        return list(reply.datapaths)

    async def problems(self) -> list[str]:
        """Return the problems of all endpoints."""
        return [problem for one in await self.datapaths() for problem in one.problems]

    async def remove(self, pod: Pod, generation: int = 0) -> bool:
        """Remove a pod's endpoint."""
        reply = await self.call("RemoveEndpoint", pb.RemoveEndpointRequest(id=pod.endpoint.id, generation=generation))
        return bool(reply.removed)

    async def delete(self, pod: Pod) -> None:
        """Remove a pod's endpoint and its link."""
        await self.remove(pod)
        await self.call("DeleteLink", pb.DeleteLinkRequest(attachment=pod.endpoint.attachment))

    def ping(self, address: str) -> bool:
        """Ping from the node."""
        return self.netns.ping(address)

    def directories(self) -> list[str]:
        """Return the endpoint directories in the state directory."""
        return sorted(path.name for path in self.state.iterdir() if path.name[0].isdigit())

    def leftovers(self) -> list[str]:
        """Return everything of any endpoint or link that is still there."""
        links = json.loads(self.netns.command("ip", "-j", "link").stdout)
        found = [f"link {one['ifname']}" for one in links if one["ifname"].startswith("lxc")]
        for family in ("-4", "-6"):
            routes = json.loads(self.netns.command("ip", "-j", family, "route").stdout or "[]")
            found += [f"route {one['dst']}" for one in routes if one.get("dev", "").startswith("lxc")]
        found += [f"pin {path.name}" for path in self.maps.glob("policy_*")]
        found += [f"pin {path}" for path in (self.bpffs / "podlane").glob("links/*")]
        found += [f"directory {name}" for name in self.directories()]
        return found + [f"link record {path.name}" for path in (self.state / "links").glob("*")]


def _routes(gateway: Any) -> list[Route]:
    anywhere = ip_network("0.0.0.0/0" if gateway.version == 4 else "::/0")
    return [Route(ip_network(gateway)), Route(anywhere, gateway)]


@contextlib.asynccontextmanager
async def pinging(source: Netns, address: str) -> Any:
    """Ping every 5 ms through the block; yields a list that holds the lost echo requests afterwards."""
    process = await asyncio.create_subprocess_exec(
        *source.argv("ping", "-n", "-i", "0.005", address), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    lost: list[int] = []
    for _ in range(3):
        await process.stdout.readline()
    try:
        yield lost
    finally:
        process.send_signal(signal.SIGINT)
        output = (await process.stdout.read()).decode()
        await process.wait()
        sent, received = (int(part.split()[0]) for part in output.split("statistics ---\n")[1].split(", ")[:2])
        # The last one may be on its way when the signal comes.
        lost += range(max(0, sent - received - 1))
