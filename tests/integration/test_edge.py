"""The edge: errors become statuses without leaking, every call has one line in the log, health tells the truth."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from podlane.ipam.v1 import ipam_pb2 as pb
from podlane.ipam.v1 import ipam_pb2_grpc

from services.common import edge, errors
from services.common.client import error_info
from tests.ipam_support import attachment

NAME = "podlane.ipam.v1.IpamService"


class Scripted(ipam_pb2_grpc.IpamServiceServicer):
    """Answers with whatever the test put in `do`."""

    def __init__(self) -> None:
        self.do: Callable[[], Awaitable[Any]] = self.nothing

    async def nothing(self) -> pb.ListPoolsResponse:
        return pb.ListPoolsResponse()

    async def ListPools(self, _request: Any, _context: Any) -> Any:  # noqa: N802 - the name that grpc calls
        return await self.do()

    async def ReleaseAddresses(self, request: Any, _context: Any) -> Any:  # noqa: N802 - the name that grpc calls
        structlog.contextvars.bind_contextvars(attachment=request.owner.container_id)
        return await self.do() and pb.ReleaseAddressesResponse()

    async def _never(self, request: Any, context: Any) -> Any:
        raise AssertionError(f"no test here calls this: {request} {context}")

    AllocateAddresses = ConfirmAllocation = UnconfirmAllocation = ListAllocations = _never
    ListClaims = TakeOverClaim = ReleaseClaim = _never

    async def WatchPools(  # noqa: N802 - the name that grpc calls
        self, _request: Any, _context: Any
    ) -> AsyncIterator[pb.WatchPoolsResponse]:
        yield pb.WatchPoolsResponse()


class Rig:
    """A server with the scripted servicer, and a client's stub."""

    def __init__(self, directory: Path) -> None:
        self.socket = directory / "ipam" / "ipam.sock"
        self.servicer = Scripted()
        self.observed: list[tuple[str, str, float | None]] = []
        self.server = edge.Server(
            self.socket,
            (NAME,),
            self.register,
            quiet=frozenset({"ListPools"}),
            observe=lambda *call: self.observed.append(call),
        )
        self.channel = grpc.aio.insecure_channel(f"unix:{self.socket}")
        self.stub: Any = ipam_pb2_grpc.IpamServiceStub(self.channel)

    def register(self, server: grpc.aio.Server) -> None:
        """Add the scripted service, and a stream of as many answers as the request has bytes; none is a failure."""
        ipam_pb2_grpc.add_IpamServiceServicer_to_server(self.servicer, server)

        async def count(request: bytes, _context: Any) -> AsyncIterator[bytes]:
            for _ in request:
                yield b"."
            if not request:
                raise errors.NotFound("nothing to count")

        handlers: Any = {"Count": grpc.unary_stream_rpc_method_handler(count)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("podlane.test.v1.Test", handlers),))

    def count(self, request: bytes) -> Any:
        """Call the stream."""
        method: Any = self.channel.unary_stream("/podlane.test.v1.Test/Count")
        return method(request, timeout=10)

    def raises(self, error: BaseException) -> None:
        async def do() -> None:
            raise error

        self.servicer.do = do

    async def fails(self) -> grpc.aio.AioRpcError:
        """Call, and return the error that the caller sees."""
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await self.stub.ListPools(pb.ListPoolsRequest(), timeout=10)
        return failed.value


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    made = Rig(tmp_path)
    await made.server.start()
    try:
        yield made
    finally:
        await made.channel.close()
        await made.server.stop()


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The lines that the edge logs."""
    lines: list[dict[str, Any]] = []

    def capture(_logger: Any, _method: str, event: Any) -> Any:
        lines.append(dict(event))
        raise structlog.DropEvent

    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.format_exc_info,
        capture,
    ]
    wrapper = structlog.make_filtering_bound_logger(logging.DEBUG)
    monkeypatch.setattr(edge, "_log", structlog.wrap_logger(None, processors, wrapper))
    return lines


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.InvalidArgument, grpc.StatusCode.INVALID_ARGUMENT),
        (errors.NotFound, grpc.StatusCode.NOT_FOUND),
        (errors.AlreadyExists, grpc.StatusCode.ALREADY_EXISTS),
        (errors.FailedPrecondition, grpc.StatusCode.FAILED_PRECONDITION),
        (errors.Exhausted, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (errors.Unavailable, grpc.StatusCode.UNAVAILABLE),
        (errors.DeadlineExceeded, grpc.StatusCode.DEADLINE_EXCEEDED),
        (errors.Internal, grpc.StatusCode.INTERNAL),
        (errors.CorruptState, grpc.StatusCode.DATA_LOSS),
    ],
)
async def test_each_error_has_its_code_its_sentence_and_its_fields(
    rig: Rig, kind: type[errors.PodlaneError], code: grpc.StatusCode
):
    rig.raises(kind("pool 'x' is full", pool="x", used=7))

    failed = await rig.fails()
    info = error_info(failed)

    assert (failed.code(), failed.details()) == (code, "pool 'x' is full")
    assert info is not None
    assert (info.reason, info.domain, dict(info.metadata)) == (kind.__name__, "podlane", {"pool": "x", "used": "7"})


async def test_a_bug_is_internal_with_an_incident_and_leaks_nothing(rig: Rig, log: list[dict[str, Any]]):
    rig.raises(KeyError("a secret"))

    failed = await rig.fails()

    info = error_info(failed)
    assert info is not None
    incident = info.metadata["incident"]
    assert failed.code() is grpc.StatusCode.INTERNAL
    assert failed.details() == f"internal error {incident}: the service's log has the details"
    assert "secret" not in repr(failed.trailing_metadata())
    (line,) = log
    assert line["incident"] == incident
    assert "KeyError: 'a secret'" in line["exception"]


async def test_one_line_per_call_with_request_id_and_what_the_handler_bound(rig: Rig, log: list[dict[str, Any]]):
    rig.servicer.do = rig.servicer.nothing
    request = pb.ReleaseAddressesRequest(owner=attachment("c1"))

    await rig.stub.ReleaseAddresses(request, metadata=((edge.REQUEST_ID, "abc"),), timeout=10)
    await rig.stub.ReleaseAddresses(request, timeout=10)

    first, second = log
    assert (first["method"], first["code"], first["level"]) == ("ReleaseAddresses", "OK", "info")
    assert (first["request_id"], first["attachment"]) == ("abc", "c1")
    assert len(second["request_id"]) == 12
    assert first["ms"] > 0


async def test_quiet_methods_are_logged_at_debug(rig: Rig, log: list[dict[str, Any]]):
    await rig.stub.ListPools(pb.ListPoolsRequest(), timeout=10)

    assert [line["level"] for line in log] == ["debug"]


async def test_errors_are_logged_with_their_fields_even_of_quiet_methods(rig: Rig, log: list[dict[str, Any]]):
    rig.raises(errors.Exhausted("pool 'x' is full", pool="x"))

    await rig.fails()

    (line,) = log
    assert (line["level"], line["code"], line["error"], line["pool"]) == (
        *("info", "RESOURCE_EXHAUSTED", "pool 'x' is full", "x"),
    )


async def test_a_caller_that_hangs_up_cancels_the_handler_and_is_logged(rig: Rig, log: list[dict[str, Any]]):
    cancelled = asyncio.Event()

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    rig.servicer.do = wait
    with pytest.raises(grpc.aio.AioRpcError):
        await rig.stub.ListPools(pb.ListPoolsRequest(), timeout=0.05)
    await cancelled.wait()
    rig.servicer.do = rig.servicer.nothing
    await rig.stub.ListPools(pb.ListPoolsRequest(), timeout=10)

    assert [line["code"] for line in log] == ["CANCELLED", "OK"]


async def test_each_call_is_told_to_the_observer_with_its_code_and_time(rig: Rig):
    rig.servicer.do = rig.servicer.nothing
    await rig.stub.ListPools(pb.ListPoolsRequest(), timeout=10)
    for error in (errors.Exhausted("full"), errors.CorruptState("bad"), KeyError("a bug")):
        rig.raises(error)
        await rig.fails()
    rig.servicer.do = asyncio.Event().wait
    with pytest.raises(grpc.aio.AioRpcError):
        await rig.stub.ListPools(pb.ListPoolsRequest(), timeout=0.05)
    health: Any = health_pb2_grpc.HealthStub(rig.channel)
    with pytest.raises(grpc.aio.AioRpcError):
        await health.Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=10)

    expected = [
        ("ListPools", "OK"),
        ("ListPools", "RESOURCE_EXHAUSTED"),
        ("ListPools", "DATA_LOSS"),
        ("ListPools", "INTERNAL"),
        ("ListPools", "CANCELLED"),
        ("Check", "NOT_FOUND"),
    ]
    # The answer is on its way before the observer is told.
    async with asyncio.timeout(10):
        while len(rig.observed) < len(expected):
            await asyncio.sleep(0.001)
    assert [(method, code) for method, code, _ in rig.observed] == expected
    assert all(seconds is not None and seconds > 0 for _, _, seconds in rig.observed)


async def test_a_stream_is_told_to_the_observer_when_it_ends_without_a_time(rig: Rig):
    assert [answer async for answer in rig.count(b"abc")] == [b"."] * 3
    with pytest.raises(grpc.aio.AioRpcError):
        await anext(aiter(rig.count(b"")))
    endless = rig.count(b"x" * 1_000_000)
    await anext(aiter(endless))
    assert len(rig.observed) == 2
    endless.cancel()
    while len(rig.observed) < 3:
        await asyncio.sleep(0.005)

    assert rig.observed == [("Count", "OK", None), ("Count", "NOT_FOUND", None), ("Count", "CANCELLED", None)]


async def test_an_unknown_method_is_unimplemented(rig: Rig):
    nonsense: Any = rig.channel.unary_unary(f"/{NAME}/Nonsense")

    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await nonsense(b"", timeout=10)

    assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("service", ["", NAME])
async def test_health_is_not_serving_until_told(rig: Rig, service: str):
    health: Any = health_pb2_grpc.HealthStub(rig.channel)
    request = health_pb2.HealthCheckRequest(service=service)

    before = await health.Check(request, timeout=10)
    await rig.server.serving(ready=True)
    after = await health.Check(request, timeout=10)

    assert before.status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert after.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_live_socket_is_not_taken(rig: Rig, tmp_path: Path):
    second = Rig(tmp_path)

    with pytest.raises(errors.FailedPrecondition, match="another process serves on"):
        await second.server.start()

    await second.channel.close()
    await rig.stub.ListPools(pb.ListPoolsRequest(), timeout=10)


async def test_stopping_lets_a_running_call_finish(tmp_path: Path):
    rig = Rig(tmp_path)
    await rig.server.start()
    running, finish = asyncio.Event(), asyncio.Event()

    async def slow() -> pb.ListPoolsResponse:
        running.set()
        await finish.wait()
        return pb.ListPoolsResponse(pools=[pb.Pool(name="late")])

    rig.servicer.do = slow
    answer = asyncio.ensure_future(_answer(rig))
    await running.wait()
    stopping = asyncio.create_task(rig.server.stop())
    finish.set()

    assert [pool.name for pool in (await answer).pools] == ["late"]
    await stopping
    await rig.channel.close()
    assert not rig.socket.exists()


async def _answer(rig: Rig) -> pb.ListPoolsResponse:
    reply: pb.ListPoolsResponse = await rig.stub.ListPools(pb.ListPoolsRequest(), timeout=10)
    return reply
