"""The real ipam service as a process, for tests of ipam and of the shelf it stands on.

async with Ipam.running(tmp_path) as ipam:
    reply = await ipam.allocate("c1")
"""

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from podlane.common.v1 import types_pb2 as common
from podlane.ipam.v1 import ipam_pb2 as pb
from podlane.ipam.v1 import ipam_pb2_grpc

from services.common.client import Peer
from tests import warm

RANGES = ("10.244.0.0/24", "fd00:10:244::/112")


def attachment(name: str) -> common.Attachment:
    """Return the attachment of a container's eth0."""
    return common.Attachment(network="net", container_id=name, ifname="eth0")


def texts(allocation: pb.Allocation) -> list[str]:
    """Return an allocation's addresses as text."""
    return [str(ip_address(one.address.address.packed)) for one in allocation.addresses]


def network(prefix: common.IpPrefix) -> str:
    """Return a prefix as text."""
    return f"{ip_address(prefix.address.packed)}/{prefix.length}"


class Calls:
    """The RPCs of ipam, with the arguments that tests vary."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.stub: Any = ipam_pb2_grpc.IpamServiceStub(peer.channel)

    async def allocate(self, name: str, requested: str = "", **fields: Any) -> pb.AllocateAddressesResponse:
        """Allocate for a container; `requested` holds addresses as text."""
        wanted = [common.IpAddress(packed=ip_address(word).packed) for word in requested.split()]
        request = pb.AllocateAddressesRequest(owner=attachment(name), requested=wanted, **fields)
        reply: pb.AllocateAddressesResponse = await self._call(self.stub.AllocateAddresses, request)
        return reply

    async def confirm(self, name: str, endpoint_id: int) -> pb.Allocation:
        """Confirm a container's reservation."""
        request = pb.ConfirmAllocationRequest(owner=attachment(name), endpoint_id=endpoint_id)
        reply: pb.ConfirmAllocationResponse = await self._call(self.stub.ConfirmAllocation, request)
        return reply.allocation

    async def unconfirm(self, name: str, endpoint_id: int) -> pb.UnconfirmAllocationResponse:
        """Take an endpoint's confirmation back."""
        request = pb.UnconfirmAllocationRequest(owner=attachment(name), endpoint_id=endpoint_id)
        reply: pb.UnconfirmAllocationResponse = await self._call(self.stub.UnconfirmAllocation, request)
        return reply

    async def release(self, name: str, endpoint_id: int = 0) -> pb.ReleaseAddressesResponse:
        """Release what a container holds, if need be only for one endpoint."""
        request = pb.ReleaseAddressesRequest(owner=attachment(name), endpoint_id=endpoint_id)
        reply: pb.ReleaseAddressesResponse = await self._call(self.stub.ReleaseAddresses, request)
        return reply

    async def page(self, **fields: Any) -> pb.ListAllocationsResponse:
        """List one page."""
        request = pb.ListAllocationsRequest(**fields)
        reply: pb.ListAllocationsResponse = await self._call(self.stub.ListAllocations, request)
        return reply

    async def everything(self) -> dict[str, pb.Allocation]:
        """List all pages, by container."""
        found: dict[str, pb.Allocation] = {}
        token = ""
        while True:
            page = await self.page(page_token=token)
            found |= {one.owner.container_id: one for one in page.allocations}
            token = page.next_page_token
            if not token:
                return found

    async def pools(self) -> list[pb.Pool]:
        """List the pools."""
        return list((await self._call(self.stub.ListPools, pb.ListPoolsRequest())).pools)

    async def claims(self) -> dict[str, pb.Claim]:
        """List all claims, by range."""
        reply: pb.ListClaimsResponse = await self._call(self.stub.ListClaims, pb.ListClaimsRequest())
        return {network(one.range): one for one in reply.claims}

    async def _call(self, method: Any, request: Any) -> Any:
        return await self.peer.call(method, request, timeout=60)


class Ipam(Calls):
    """A running `python -m services.ipam` and the calls to it."""

    def __init__(self, process: warm.AsyncProcess, peer: Peer, directory: Path) -> None:
        super().__init__(peer)
        self.process = process
        self.socket = socket_path(directory)

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, directory: Path, **settings: Any) -> AsyncIterator["Ipam"]:
        """Start the service, wait until it serves, stop it at the end; `file`: settings that are written already."""
        file = settings.pop("file", None) or write_settings(directory, **settings)
        process = await start(directory, file)
        peer = Peer("ipam", socket_path(directory), 30.0)
        await peer.start()
        try:
            running = cls(process, peer, directory)
            await running.pools()
            yield running
        finally:
            await peer.stop()
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            await process.wait()

    async def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()
        await self.process.wait()


def socket_path(directory: Path) -> Path:
    """Return where a service started by `write_settings` listens."""
    return directory / "run" / "ipam" / "ipam.sock"


def database_path(directory: Path) -> Path:
    """Return where it keeps its state."""
    return directory / "lib" / "ipam.sqlite"


def write_settings(
    directory: Path, ranges: Sequence[str] = RANGES, cooldown: float = 30.0, reservation: float = 600.0, more: str = ""
) -> Path:
    """Write a configuration for one node in `directory` and return its path."""
    quoted = ", ".join(f'"{one}"' for one in ranges)
    file = directory / "podlane.toml"
    file.write_text(
        f'[node]\nrun_dir = "{directory}/run"\nlib_dir = "{directory}/lib"\n'
        f"[ipam]\ncooldown_seconds = {cooldown}\nreservation_seconds = {reservation}\n"
        f'[[ipam.pools]]\nname = "default"\nranges = [{quoted}]\n{more}'
    )
    return file


def write_cluster_settings(
    directory: Path,
    endpoints: Sequence[str],
    cluster_ranges: Sequence[str],
    *,
    node: str = "a",
    root: str = "podlane",
    pool: str = "",
    more: str = "",
) -> Path:
    """Write a configuration whose pool is a cluster's in `directory` and return its path; `pool`: more lines of it."""
    file = directory / "podlane.toml"
    file.write_text(
        f'[node]\nname = "{node}"\nrun_dir = "{directory}/run"\nlib_dir = "{directory}/lib"\n'
        f'[kvstore]\nendpoints = {json.dumps(list(endpoints))}\nroot = "{root}"\ntimeout_seconds = 1.0\n'
        f"[ipam]\ncooldown_seconds = 0.0\nclaim_check_seconds = 0.05\n"
        f'[[ipam.pools]]\nname = "default"\ncluster_ranges = {json.dumps(list(cluster_ranges))}\n{pool}{more}'
    )
    return file


async def start(directory: Path, settings: Path) -> warm.AsyncProcess:
    """Start the service; its log goes to a file beside its settings, so that no pipe can fill up."""
    with (directory / "log").open("ab") as log:
        argv = ["--config", str(settings)]
        return warm.AsyncProcess(warm.spawn("services.ipam", argv, stderr=log))


async def refusal(directory: Path, settings: Path) -> tuple[int, str]:
    """Start a service that is expected not to come up; return its exit code and what it said."""
    process = await start(directory, settings)
    try:
        code = await asyncio.wait_for(process.wait(), 30)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return code, (directory / "log").read_text()
