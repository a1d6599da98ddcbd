"""Calling another service: errors arrive as raised, a restart is waited for, a dead peer is told as such."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from podlane.ipam.v1 import ipam_pb2 as pb
from podlane.ipam.v1 import ipam_pb2_grpc
from podlane.loader.v1 import loader_pb2, loader_pb2_grpc

from services.common import edge, errors
from services.common.client import Peer
from services.common.lifecycle import running
from tests.fake_kernel import FakeKernel
from tests.fake_loader import FakeLoader


class Fake(ipam_pb2_grpc.IpamServiceServicer):
    """Remembers request ids, and fails or hangs when told to."""

    def __init__(self) -> None:
        self.request_ids: list[str] = []
        self.error: Exception | None = None
        self.hang = False

    async def ListPools(self, _request: Any, _context: Any) -> pb.ListPoolsResponse:  # noqa: N802 - grpc's name
        self.request_ids.append(structlog.contextvars.get_contextvars()["request_id"])
        if self.error is not None:
            raise self.error
        if self.hang:
            await asyncio.Event().wait()
        return pb.ListPoolsResponse(pools=[pb.Pool(name="there")])

    async def _never(self, request: Any, context: Any) -> Any:
        raise AssertionError(f"no test here calls this: {request} {context}")

    AllocateAddresses = ConfirmAllocation = UnconfirmAllocation = ReleaseAddresses = ListAllocations = _never
    ListClaims = TakeOverClaim = ReleaseClaim = _never

    async def WatchPools(  # noqa: N802 - grpc's name
        self, _request: pb.WatchPoolsRequest, _context: Any
    ) -> AsyncIterator[pb.WatchPoolsResponse]:
        yield pb.WatchPoolsResponse()


def server(socket: Path, fake: Fake) -> edge.Server:
    return edge.Server(socket, (), lambda grpc: ipam_pb2_grpc.add_IpamServiceServicer_to_server(fake, grpc))


async def list_pools(peer: Peer, seconds: float = 10.0) -> list[str]:
    stub: Any = ipam_pb2_grpc.IpamServiceStub(peer.channel)
    reply = await peer.call(stub.ListPools, pb.ListPoolsRequest(), timeout=seconds)
    return [pool.name for pool in reply.pools]


@pytest.mark.parametrize(
    "error",
    [
        errors.InvalidArgument("owner: no", field="owner"),
        errors.Exhausted("full", pool="x", size=5),
        errors.FailedPrecondition("first that"),
        errors.Unavailable("the disk is full"),
        errors.CorruptState("damaged", path="/x"),
    ],
)
async def test_an_error_arrives_as_it_was_raised(tmp_path: Path, error: errors.PodlaneError):
    fake, peer = Fake(), Peer("ipam", tmp_path / "a.sock", 5.0)
    fake.error = error
    async with running([server(tmp_path / "a.sock", fake), peer]):
        with pytest.raises(type(error)) as arrived:
            await list_pools(peer)

    assert (arrived.value.message, arrived.value.fields) == (error.message, error.fields)


async def test_the_request_id_goes_along(tmp_path: Path):
    fake, peer = Fake(), Peer("ipam", tmp_path / "a.sock", 5.0)
    async with running([server(tmp_path / "a.sock", fake), peer]):
        with structlog.contextvars.bound_contextvars(request_id="from-the-cni-call"):
            await list_pools(peer)

    assert fake.request_ids == ["from-the-cni-call"]


async def test_a_peer_that_is_down_is_unavailable_by_name_after_the_wait(tmp_path: Path):
    peer = Peer("ipam", tmp_path / "a.sock", 0.1)
    async with running([peer]):
        with pytest.raises(errors.Unavailable, match=r"podlane-ipam does not answer on .*a\.sock"):
            await list_pools(peer)


async def test_a_peer_that_comes_up_meanwhile_is_waited_for(tmp_path: Path):
    peer = Peer("ipam", tmp_path / "a.sock", 30.0)
    async with running([peer]):
        call = asyncio.create_task(list_pools(peer, 30.0))
        await asyncio.sleep(0)
        async with running([server(tmp_path / "a.sock", Fake())]):
            assert await call == ["there"]


async def test_a_restart_of_the_peer_is_survived(tmp_path: Path):
    peer = Peer("ipam", tmp_path / "a.sock", 30.0)
    async with running([peer]):
        for _ in range(3):
            async with running([server(tmp_path / "a.sock", Fake())]):
                assert await list_pools(peer, 30.0) == ["there"]


async def test_a_peer_that_hangs_costs_the_deadline_not_more(tmp_path: Path):
    fake, peer = Fake(), Peer("ipam", tmp_path / "a.sock", 5.0)
    fake.hang = True
    async with running([server(tmp_path / "a.sock", fake), peer]):
        with pytest.raises(errors.DeadlineExceeded, match="podlane-ipam did not finish in time"):
            await list_pools(peer, 0.2)


async def test_a_stream_that_is_closed_between_two_messages_ends_at_the_service(tmp_path: Path):
    loader, peer = FakeLoader(tmp_path / "a.sock", FakeKernel()), Peer("loader", tmp_path / "a.sock", 5.0)
    async with running([loader, peer]):
        stub: Any = loader_pb2_grpc.LoaderServiceStub(peer.channel)
        stream: Any = peer.stream(stub.WatchLinks, loader_pb2.WatchLinksRequest())
        first = asyncio.ensure_future(anext(stream))
        async with asyncio.timeout(10):
            while not loader.watchers:
                await asyncio.sleep(0.01)
            for name in ("lxc1", "lxc2"):
                next(iter(loader.watchers)).put_nowait(loader_pb2.WatchLinksResponse(host_ifname=name))
            assert (await first).host_ifname == "lxc1"

            await stream.aclose()

            while loader.watchers:
                await asyncio.sleep(0.01)


async def test_a_peer_that_is_not_started_is_a_bug():
    with pytest.raises(errors.Internal, match="the channel to ipam is not open"):
        _ = Peer("ipam", Path("/x"), 1.0).channel
