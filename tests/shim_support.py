"""Scripted services behind real grpcio servers, and the installed plugin as a process, as a runtime runs it.

    async with Services(tmp_path) as services:
        services.script["CreateLink"] = refuse(grpc.StatusCode.ALREADY_EXISTS, "eth0 is somebody else's")
        outcome = await plugin.cni("ADD", services.conf())
        assert services.calls == ["AllocateAddresses", "CreateLink", "ReleaseAddresses"]

What the services answer is written by hand here; tests/privileged runs the same plugin against the real ones.
"""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_interface
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from podlane.common.v1 import types_pb2 as common
from podlane.endpoint.v1 import endpoint_pb2, endpoint_pb2_grpc
from podlane.ipam.v1 import ipam_pb2, ipam_pb2_grpc
from podlane.loader.v1 import loader_pb2, loader_pb2_grpc

from cni import install
from services.common import edge, errors

Answer = Callable[[Any, Any], Awaitable[Message]]

CONTAINER = "0123456789abcdef" * 4
NETNS = "/run/netns/pod-1"
HOST_MAC, POD_MAC = bytes.fromhex("0200000000aa"), bytes.fromhex("0200000000bb")


def attachment(container_id: str = CONTAINER, network: str = "podlane", ifname: str = "eth0") -> common.Attachment:
    """Return an attachment."""
    return common.Attachment(network=network, container_id=container_id, ifname=ifname)


def prefix(text: str) -> common.IpPrefix:
    """Return an address with prefix length as the contract has it."""
    parsed = ip_interface(text)
    return common.IpPrefix(address=common.IpAddress(packed=parsed.ip.packed), length=parsed.network.prefixlen)


def address(text: str) -> common.IpAddress:
    """Return an address as the contract has it."""
    return common.IpAddress(packed=ip_interface(text).ip.packed)


def assigned() -> list[common.AssignedAddress]:
    """Return a pod's two addresses."""
    return [
        common.AssignedAddress(address=prefix("10.1.0.5/32"), gateway=address("10.1.0.1"), range=prefix("10.1.0.0/24")),
        common.AssignedAddress(
            address=prefix("fd00:1::5/128"), gateway=address("fd00:1::1"), range=prefix("fd00:1::/64")
        ),
    ]


def routes() -> list[common.Route]:
    """Return the routes of `assigned`."""
    return [
        common.Route(destination=prefix("10.1.0.1/32")),
        common.Route(destination=prefix("fd00:1::1/128")),
        common.Route(destination=prefix("0.0.0.0/0"), gateway=address("10.1.0.1")),
        common.Route(destination=prefix("::/0"), gateway=address("fd00:1::1")),
    ]


def link(owner: common.Attachment | None = None) -> loader_pb2.Link:
    """Return the link that CreateLink makes."""
    return loader_pb2.Link(
        attachment=owner or attachment(),
        host_ifname="lxc0123456789ab",
        host_ifindex=7,
        host_mac=common.MacAddress(packed=HOST_MAC),
        pod_mac=common.MacAddress(packed=POD_MAC),
        netns_path=NETNS,
        mtu=1500,
        pod_ifindex=2,
    )


def allocated(*, created: bool = True, state: int = 1, mtu: int = 0) -> ipam_pb2.AllocateAddressesResponse:
    """Return what AllocateAddresses answers; `state` 1 is reserved, 2 confirmed."""
    allocation = ipam_pb2.Allocation(
        owner=attachment(), pool="default", addresses=assigned(), state=ipam_pb2.AllocationState.ValueType(state)
    )
    return ipam_pb2.AllocateAddressesResponse(allocation=allocation, routes=routes(), created=created, mtu=mtu)


def pool(name: str = "default", used4: int = 1, used6: int = 1, **changes: Any) -> ipam_pb2.Pool:
    """Return a pool of two ranges."""
    ranges = [
        ipam_pb2.PoolRange(prefix=prefix("10.1.0.0/24"), gateway=address("10.1.0.1"), size=253, used=used4),
        ipam_pb2.PoolRange(prefix=prefix("fd00:1::/64"), gateway=address("fd00:1::1"), size=2**64 - 2, used=used6),
    ]
    values = {"ranges": ranges, "families": [common.IP_FAMILY_IPV4, common.IP_FAMILY_IPV6], **changes}
    return ipam_pb2.Pool(name=name, **values)


def endpoint(owner: common.Attachment | None = None) -> endpoint_pb2.Endpoint:
    """Return the endpoint that CreateEndpoint makes."""
    return endpoint_pb2.Endpoint(id=42, attachment=owner or attachment(), addresses=assigned(), link=link())


def healthy() -> dict[str, Any]:
    """Return what every method answers on a good day."""
    return {
        "AllocateAddresses": allocated(),
        "ReleaseAddresses": ipam_pb2.ReleaseAddressesResponse(),
        "ListAllocations": ipam_pb2.ListAllocationsResponse(),
        "ConfirmAllocation": ipam_pb2.ConfirmAllocationResponse(),
        "ListPools": ipam_pb2.ListPoolsResponse(pools=[pool()]),
        "CreateLink": loader_pb2.CreateLinkResponse(link=link(), created=True),
        "DeleteLink": loader_pb2.DeleteLinkResponse(deleted=True),
        "ListLinks": loader_pb2.ListLinksResponse(links=[loader_pb2.LinkStatus(link=link())]),
        "CreateEndpoint": endpoint_pb2.CreateEndpointResponse(endpoint=endpoint(), created=True),
        "DeleteEndpoint": endpoint_pb2.DeleteEndpointResponse(deleted=True),
        "CheckEndpoint": endpoint_pb2.CheckEndpointResponse(endpoint=endpoint()),
        "ListEndpoints": endpoint_pb2.ListEndpointsResponse(),
    }


def refuse(code: grpc.StatusCode, message: str, **fields: str) -> Answer:
    """Answer with an error of the service's own, with the details that podlane's services add."""

    async def answer(_request: Any, context: Any) -> Message:
        kinds = {status: kind for kind, status in edge.CODES.items()}
        await context.abort_with_status(edge.status_of(kinds.get(code, errors.Internal)(message, **fields)))
        raise AssertionError

    return answer


def never() -> Answer:
    """Take the call and don't answer it."""

    async def answer(_request: Any, _context: Any) -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    return answer


SERVICERS: dict[str, tuple[Any, Any]] = {
    "ipam": (ipam_pb2_grpc.IpamServiceServicer, ipam_pb2_grpc.add_IpamServiceServicer_to_server),
    "loader": (loader_pb2_grpc.LoaderServiceServicer, loader_pb2_grpc.add_LoaderServiceServicer_to_server),
    "endpoint": (endpoint_pb2_grpc.EndpointServiceServicer, endpoint_pb2_grpc.add_EndpointServiceServicer_to_server),
}


@dataclass
class Services:
    """The three services on sockets in one directory. `script` says what each method answers."""

    directory: Path
    script: dict[str, Any] = field(default_factory=healthy)
    calls: list[str] = field(default_factory=list)
    requests: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, dict[str, str]] = field(default_factory=dict)

    async def __aenter__(self) -> Self:
        """Start all three."""
        self._servers: dict[str, Any] = {}
        for name in SERVICERS:
            await self.start(name)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop them; calls that are never answered are cut off."""
        for name in list(self._servers):
            await self.stop(name)

    def socket(self, name: str) -> Path:
        """Return the socket of a service."""
        return self.directory / f"{name}.sock"

    async def start(self, name: str) -> None:
        """Start one."""
        servicer, register = SERVICERS[name]
        server = grpc.aio.server()
        methods = {method: self._method(method) for method in healthy() if hasattr(servicer, method)}
        register(type("Scripted", (servicer,), methods)(), server)
        self.health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self.health, server)
        await self.health.set("", health_pb2.HealthCheckResponse.SERVING)
        server.add_insecure_port(f"unix:{self.socket(name)}")
        await server.start()
        self._servers[name] = server

    async def stop(self, name: str) -> None:
        """Stop one; its socket goes with it."""
        await self._servers.pop(name).stop(None)
        self.socket(name).unlink(missing_ok=True)

    def _method(self, name: str) -> Any:
        async def method(_self: object, request: Any, context: Any) -> Message:
            self.calls.append(name)
            self.requests[name] = request
            self.metadata[name] = dict(context.invocation_metadata() or ())
            answer = self.script[name]
            return answer if isinstance(answer, Message) else await answer(request, context)

        return method

    def ipam_conf(self, *, ipam: Any = None, **overrides: Any) -> dict[str, Any]:
        """Return a network configuration of another plugin's, with podlane-ipam for its addresses.

        `ipam` has further keys of the object, or is what stands in its place.
        """
        own = {
            "type": "podlane-ipam",
            "ipamSocket": str(self.socket("ipam")),
            "timeoutSeconds": 20,
            "journalDir": str(self.directory / "deletions"),
        }
        return {
            "cniVersion": "1.1.0",
            "name": "podlane",
            "type": "bridge",
            "ipam": own | (ipam or {}) if isinstance(ipam, dict | None) else ipam,
            **overrides,
        }

    def conf(self, **overrides: Any) -> dict[str, Any]:
        """Return a network configuration for these sockets; a value of None leaves the key out."""
        conf = {
            "cniVersion": "1.1.0",
            "name": "podlane",
            "type": "podlane",
            "timeoutSeconds": 20,
            "journalDir": str(self.directory / "deletions"),
            **{f"{name}Socket": str(self.socket(name)) for name in SERVICERS},
            **overrides,
        }
        return {key: value for key, value in conf.items() if value is not None}


@dataclass
class Outcome:
    """What a call left."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """The parsed stdout."""
        return json.loads(self.stdout)

    @property
    def error(self) -> dict[str, Any]:
        """The error object; fails when the call was a success or said anything else."""
        assert self.code == 1, self
        assert self.stderr == ""
        told: dict[str, Any] = self.json
        assert set(told) <= {"cniVersion", "code", "msg", "details"}
        return told

    @property
    def result(self) -> dict[str, Any]:
        """The result; fails when the call failed."""
        assert (self.code, self.stderr) == (0, ""), self
        told: dict[str, Any] = self.json
        return told


@dataclass(frozen=True)
class Plugin:
    """The plugin, installed in a directory."""

    executable: Path
    conflist: Path

    @classmethod
    def installed(cls, directory: Path, name: str = install.PLUGIN) -> Self:
        """Install it; `name` is which of the two."""
        executable, _, conflist = install.install(directory / "bin", directory / "net.d")
        return cls(executable.with_name(name), conflist)

    async def cni(
        self, verb: str, conf: Any = b"", *, without: str = "", arguments: str = "", **environment: str
    ) -> Outcome:
        """Run it; `conf` is an object or the bytes for stdin, `without` a variable to leave out."""
        process = await self.start(verb, environment, without=without, arguments=arguments)
        return await self.started(process, conf)

    async def start(
        self,
        verb: str,
        environment: Mapping[str, str] = MappingProxyType({}),
        *,
        without: str = "",
        arguments: str = "",
        stdout: int = asyncio.subprocess.PIPE,
    ) -> asyncio.subprocess.Process:
        """Start it."""
        variables = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": CONTAINER,
            "CNI_NETNS": NETNS,
            "CNI_IFNAME": "eth0",
            "CNI_PATH": "/opt/cni/bin",
            "CNI_ARGS": arguments,
            **environment,
        }
        variables.pop(without, None)
        return await asyncio.create_subprocess_exec(
            self.executable,
            stdin=asyncio.subprocess.PIPE,
            stdout=stdout,
            stderr=asyncio.subprocess.PIPE,
            env={**variables, "PATH": os.environ["PATH"]},
            cwd="/",
        )

    async def started(self, process: asyncio.subprocess.Process, conf: Any) -> Outcome:
        """Give a started one its stdin and wait for its end."""
        stdin = conf if isinstance(conf, bytes) else json.dumps(conf).encode()
        stdout, stderr = await process.communicate(stdin)
        return Outcome(process.returncode or 0, (stdout or b"").decode(), stderr.decode())
