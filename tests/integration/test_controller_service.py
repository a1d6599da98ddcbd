"""ControllerService over a real socket: what a controller is and did, as messages."""

import asyncio
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from podlane.common.v1 import controllers_pb2 as pb
from podlane.common.v1 import controllers_pb2_grpc

from services.common import controller_service, edge, wire
from services.common.controller_parameters import Parameters
from services.common.controllers import Manager, Registry
from tests.controller_support import Work


class Rig:
    """A server with a registry, and a client's stub."""

    def __init__(self, directory: Path) -> None:
        self.registry = Registry()
        self.server = edge.Server(
            directory / "s.sock",
            (controller_service.NAME,),
            lambda server: controller_service.register(self.registry, server),
            quiet=controller_service.QUIET,
        )
        self.channel = grpc.aio.insecure_channel(f"unix:{directory / 's.sock'}")
        self.stub: Any = controllers_pb2_grpc.ControllerServiceStub(self.channel)

    async def list(self, **fields: Any) -> list[pb.Controller]:
        return list((await self.stub.ListControllers(pb.ListControllersRequest(**fields), timeout=10)).controllers)

    async def one(self, **fields: Any) -> pb.Controller:
        (found,) = await self.list(outcomes=True, **fields)
        return found

    async def until(self, **status: int) -> pb.Controller:
        """Return the only controller once its status has these counts."""
        while True:
            found = await self.one()
            if all(getattr(found.status, name) >= count for name, count in status.items()):
                return found


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    made = Rig(tmp_path)
    await made.server.start()
    try:
        yield made
    finally:
        await made.channel.close()
        await made.server.stop()
        await made.registry.stop()


async def test_everything_about_a_controller_is_told(rig: Rig):
    work = Work(fail=2)
    parameters = Parameters(
        work.run,
        interval=60,
        interval_jitter=0.1,
        retry_base=0.001,
        retry_cap=5,
        stop=work.stop,
        cancel_on_update=True,
        alarm=2.5,
        group="sync",
    )
    before = wire.now()
    Manager("endpoint-7", rig.registry).update("sync-7", parameters)

    told = await rig.until(success_count=1)

    (controller,) = rig.registry
    assert (told.resource, told.name, told.uuid) == ("endpoint-7", "sync-7", controller.uuid)
    assert told.state == pb.CONTROLLER_STATE_OK
    assert told.configuration == pb.ControllerConfiguration(
        group="sync",
        interval_ms=60_000,
        interval_jitter_ms=6_000,
        retry=True,
        retry_base_ms=1,
        retry_cap_ms=5_000,
        cancel_on_update=True,
        stop_function=True,
        alarm_ms=2_500,
    )
    status = told.status
    assert (status.success_count, status.failure_count, status.consecutive_failure_count) == (1, 2, 0)
    assert status.last_error == "run 2 fails"
    assert before < wire.read_time(status.last_failure) < wire.read_time(status.last_success) < wire.now()
    assert 60 <= wire.read_time(status.next_run) - wire.read_time(status.last_success) < 67
    assert not status.HasField("running_since")
    assert [(one.result, one.error) for one in told.outcomes] == [
        (pb.CONTROLLER_RESULT_FAILURE, "run 1 fails"),
        (pb.CONTROLLER_RESULT_FAILURE, "run 2 fails"),
        (pb.CONTROLLER_RESULT_SUCCESS, ""),
    ]
    assert told.outcomes[2].finished == status.last_success
    assert told.outcomes[2].duration_us == status.last_duration_us


async def test_what_never_happened_is_absent(rig: Rig):
    Manager("node", rig.registry).update("sync", Parameters(Work().run, retry=False, alarm=math.inf), delay=1000)

    told = await rig.one()

    assert told.state == pb.CONTROLLER_STATE_OK
    assert (told.configuration.retry, told.configuration.alarm_ms, told.configuration.group) == (False, 0, "sync")
    assert [field.name for field, _ in told.status.ListFields()] == ["next_run"]


async def test_the_states_and_what_counts_as_failing(rig: Rig):
    fails = Parameters(Work(fail=99).run, retry_base=1000, retry_cap=1000)
    Manager("a", rig.registry).update("ok", Parameters(Work().run))
    Manager("b", rig.registry).update("failing", fails)
    Manager("c", rig.registry).update("running", Parameters(Work(held=True).run))
    Manager("d", rig.registry).update("hanging", Parameters(Work(held=True).run, alarm=0.001))
    while not (await rig.list(name="hanging", failing=True)):
        await asyncio.sleep(0.005)

    states = {one.name: one.state for one in await rig.list()}

    assert states == {
        "ok": pb.CONTROLLER_STATE_OK,
        "failing": pb.CONTROLLER_STATE_FAILING,
        "running": pb.CONTROLLER_STATE_RUNNING,
        "hanging": pb.CONTROLLER_STATE_HANGING,
    }
    assert [one.name for one in await rig.list(failing=True)] == ["failing", "hanging"]
    assert (await rig.one(name="running")).status.HasField("running_since")


async def test_a_list_can_be_of_one_resource_or_one_name_and_leaves_outcomes_out(rig: Rig):
    for resource in ("endpoint-7", "endpoint-8"):
        manager = Manager(resource, rig.registry)
        for name in ("sync", "recover"):
            manager.update(name, Parameters(Work().run))
    await rig.list()

    assert [one.name for one in await rig.list(resource="endpoint-8")] == ["sync", "recover"]
    assert [one.resource for one in await rig.list(name="sync")] == ["endpoint-7", "endpoint-8"]
    assert [one.uuid for one in await rig.list(resource="endpoint-7", name="sync")]
    assert await rig.list(resource="endpoint-9") == []
    assert not any(one.outcomes for one in await rig.list())


async def test_a_list_of_many_lets_others_have_their_turn(rig: Rig):
    for number in range(300):
        Manager(f"endpoint-{number}", rig.registry).update("sync", Parameters(Work().run))

    found = await rig.list()

    assert [one.resource for one in found] == [f"endpoint-{number}" for number in range(300)]


async def test_a_trigger_runs_the_controller_and_not_under_the_callers_request_id(rig: Rig):
    seen = []

    async def run() -> None:
        import structlog

        seen.append(structlog.contextvars.get_contextvars()["request_id"])

    Manager("ipam", rig.registry).update("expire", Parameters(run))
    await rig.until(success_count=1)

    request = pb.TriggerControllerRequest(resource="ipam", name="expire")
    await rig.stub.TriggerController(request, metadata=((edge.REQUEST_ID, "the caller's"),), timeout=10)
    await rig.until(success_count=2)

    assert len(set(seen)) == 2
    assert "the caller's" not in seen


async def test_a_trigger_of_nothing_is_not_found(rig: Rig):
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await rig.stub.TriggerController(pb.TriggerControllerRequest(resource="ipam", name="expire"), timeout=10)

    assert failed.value.code() is grpc.StatusCode.NOT_FOUND
    assert failed.value.details() == "there is no controller 'expire' of 'ipam' (ListControllers shows all)"


async def test_health_and_reflection_know_it(rig: Rig):
    health: Any = health_pb2_grpc.HealthStub(rig.channel)
    channel: Any = rig.channel  # the stubs of grpc know the reflection service's with the other channel only
    reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)

    await rig.server.serving(ready=True)
    healthy = await health.Check(health_pb2.HealthCheckRequest(service=controller_service.NAME), timeout=10)
    question = reflection_pb2.ServerReflectionRequest(list_services="")
    stream = reflection.ServerReflectionInfo(iter([question]), timeout=10)
    listed = [one.name async for answer in stream for one in answer.list_services_response.service]

    assert healthy.status == health_pb2.HealthCheckResponse.SERVING
    assert controller_service.NAME in listed
