"""LogService over a real socket: the level of a running process, which holds for all loggers, both ways and at once."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from podlane.common.v1 import log_pb2 as pb
from podlane.common.v1 import log_pb2_grpc

from services.common import edge, log_service, telemetry
from services.common.client import error_info
from services.common.errors import InvalidArgument


class Rig:
    """A server that serves nothing of its own, and a client's stub."""

    def __init__(self, directory: Path) -> None:
        self.server = edge.Server(directory / "s.sock", (), lambda _server: None)
        self.channel = grpc.aio.insecure_channel(f"unix:{directory / 's.sock'}")
        self.stub: Any = log_pb2_grpc.LogServiceStub(self.channel)

    async def set(self, level: int) -> int:
        """Change the level; return the one before."""
        reply = await self.stub.SetLevel(pb.SetLevelRequest(level=pb.LogLevel.ValueType(level)), timeout=10)
        return int(reply.before)


class Lines(list[dict[str, Any]]):
    """The lines of a logger that is of the process's class, as all loggers of a service are."""

    def __init__(self) -> None:
        super().__init__()
        wrapped: Any = structlog.wrap_logger(
            None, [structlog.processors.add_log_level, self._keep], telemetry._Logger, cache_logger_on_first_use=True
        )
        self.log = wrapped

    def _keep(self, _logger: Any, _method: str, event: structlog.typing.EventDict) -> str:
        self.append(dict(event))
        raise structlog.DropEvent

    def say(self) -> list[str]:
        """Say something of three levels; return which of it was written."""
        self.clear()
        self.log.debug("details")
        self.log.info("news")
        self.log.warning("trouble")
        return [line["event"] for line in self]


@pytest.fixture
def process() -> Iterator[None]:
    """What is the process's is put back afterwards."""
    before = telemetry.level()
    telemetry.set_level("info")
    yield
    telemetry.set_level(before)


@pytest.fixture
async def rig(process: None, tmp_path: Path) -> AsyncIterator[Rig]:  # noqa: ARG001
    made = Rig(tmp_path)
    await made.server.start()
    try:
        yield made
    finally:
        await made.channel.close()
        await made.server.stop()


async def test_a_change_holds_at_once_for_loggers_that_have_been_used_already(rig: Rig):
    lines = Lines()
    assert lines.say() == ["news", "trouble"]
    assert await rig.set(pb.LOG_LEVEL_DEBUG) == pb.LOG_LEVEL_INFO
    assert lines.say() == ["details", "news", "trouble"]
    assert await rig.set(pb.LOG_LEVEL_WARNING) == pb.LOG_LEVEL_DEBUG
    assert lines.say() == ["trouble"]
    assert await rig.set(pb.LOG_LEVEL_ERROR) == pb.LOG_LEVEL_WARNING
    assert lines.say() == []
    await rig.set(pb.LOG_LEVEL_INFO)
    assert lines.say() == ["news", "trouble"]


async def test_the_level_is_shown_with_the_one_that_a_restart_goes_back_to(rig: Rig):
    await rig.set(pb.LOG_LEVEL_DEBUG)

    found = await rig.stub.GetLevel(pb.GetLevelRequest(), timeout=10)

    assert (found.level, found.configured) == (pb.LOG_LEVEL_DEBUG, pb.LOG_LEVEL_INFO)


@pytest.mark.parametrize("level", [0, 7])
async def test_what_is_no_level_is_refused_by_name_and_changes_nothing(rig: Rig, level: int):
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await rig.set(level)

    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert failed.value.details() == f"level: {level} is none of debug, info, warning, error"
    info = error_info(failed.value)
    assert info is not None
    assert info.metadata["field"] == "level"
    assert telemetry.level() == "info"


def test_a_name_that_is_no_level_is_refused():
    with pytest.raises(InvalidArgument, match="'loud' is none of debug, info, warning, error"):
        telemetry.set_level("loud")


async def test_the_change_itself_is_in_the_log_whichever_way_it_goes(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    lines = Lines()
    monkeypatch.setattr(log_service, "_log", lines.log)
    for level in (pb.LOG_LEVEL_ERROR, pb.LOG_LEVEL_DEBUG):
        await rig.set(level)

    assert [(line["before"], line["now"]) for line in lines] == [("info", "error"), ("error", "debug")]


async def test_reflection_knows_it(rig: Rig):
    channel: Any = rig.channel
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)

    async def ask() -> AsyncIterator[Any]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")
        await asyncio.sleep(0)

    reply = await anext(aiter(stub.ServerReflectionInfo(ask())))

    assert log_service.NAME in {one.name for one in reply.list_services_response.service}
