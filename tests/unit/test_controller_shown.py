"""What a controller shows and says: outcomes, alarms, log lines, and that nothing hangs on one that waits."""

import asyncio
import contextvars
import gc
import math
import weakref
from typing import Any
from uuid import UUID

import pytest
import structlog

from services.common.controller_parameters import Parameters
from services.common.controller_status import HISTORY, Outcome, Result
from services.common.controllers import Manager, Registry
from services.common.errors import Unavailable
from tests.controller_support import Clocks, Work, capture, only, settle

request: contextvars.ContextVar[Work] = contextvars.ContextVar("request")


@pytest.fixture
async def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    return Clocks(monkeypatch)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    return capture(monkeypatch, "services.common.controller")


@pytest.fixture
async def manager(clocks: Clocks):  # noqa: ARG001 - its clocks are in place before the first timer
    registry = Registry()
    manager = Manager("endpoint-7", registry)
    yield manager
    await manager.remove_all()
    assert list(registry) == []


async def test_a_run_past_its_alarm_shows_as_hanging_and_is_logged_once(
    manager: Manager, clocks: Clocks, log: list[dict[str, Any]]
):
    work = Work(held=True)
    manager.update("sync", Parameters(work.run, alarm=30))
    await settle()
    began = clocks.wall
    await clocks.advance(29)
    assert not only(manager).hanging

    await clocks.advance(2)
    await clocks.advance(1000)

    assert only(manager).hanging
    assert only(manager).running_since == began
    (line,) = log
    assert (line["event"], line["resource"], line["controller"]) == ("controller run hangs", "endpoint-7", "sync")
    work.gate.set()
    await settle()
    assert not only(manager).hanging
    assert only(manager).running_since == 0
    assert log[1]["event"] == "controller run that hung has ended"
    assert log[1]["seconds"] == 1031


async def test_a_run_in_time_raises_no_alarm(manager: Manager, clocks: Clocks, log: list[dict[str, Any]]):
    manager.update("sync", Parameters(Work().run, alarm=30))
    await settle()
    await clocks.advance(1000)

    assert log == []


async def test_an_alarm_can_be_switched_off(manager: Manager, clocks: Clocks, log: list[dict[str, Any]]):
    manager.update("sessions", Parameters(Work(held=True).run, alarm=math.inf))
    await clocks.advance(1_000_000)

    assert not only(manager).hanging
    assert log == []


async def test_the_status_has_everything_that_happened(manager: Manager, clocks: Clocks):
    work = Work(fail=2, held=True)
    manager.update("sync", Parameters(work.run, retry_base=4, retry_cap=4))
    for took in (1, 2, 3):
        await settle()
        await clocks.advance(took)
        work.gate.set()
        await settle()
        work.gate.clear()
        await clocks.advance(5)

    controller, status = only(manager), only(manager).status
    history = list(status.history)
    assert (controller.resource, controller.name) == ("endpoint-7", "sync")
    assert controller.uuid == str(UUID(controller.uuid)) == controller.uuid
    assert controller.parameters.retry_cap == 4
    assert [(one.result.value, one.duration, one.error) for one in history] == [
        ("failure", 1, "run 1 fails"),
        ("failure", 2, "run 2 fails"),
        ("success", 3, ""),
    ]
    assert (status.last_success, status.last_failure) == (history[2].finished, history[1].finished)
    assert (status.last_error, status.last_duration) == ("run 2 fails", 3)
    assert history[0].finished < history[1].finished < history[2].finished == clocks.wall - 5


async def test_the_last_16_outcomes_are_kept(manager: Manager, clocks: Clocks):
    work = Work(fail=HISTORY + 5)
    manager.update("sync", Parameters(work.run, retry_base=1, retry_cap=1))
    for _ in range(HISTORY + 6):
        await clocks.advance(1.001)

    status = only(manager).status
    outcomes: list[Outcome] = list(status.history)
    assert HISTORY == 16
    assert len(status.history) == len(outcomes) == 16
    assert [one.error for one in outcomes] == [f"run {number} fails" for number in range(7, 22)] + [""]
    assert [one.result for one in outcomes] == [Result.FAILURE] * 15 + [Result.SUCCESS]
    assert status.failures == HISTORY + 5


async def test_an_endless_error_is_kept_short(manager: Manager):
    async def verbose() -> None:
        raise Unavailable("x" * 100_000)

    manager.update("sync", Parameters(verbose))
    await settle()

    assert len(only(manager).status.last_error) == 500


async def test_hours_of_one_failure_are_a_dozen_lines(manager: Manager, clocks: Clocks, log: list[dict[str, Any]]):
    work = Work(fail=1_000)
    manager.update("sync", Parameters(work.run))
    for _ in range(1_000):
        await clocks.advance(60.001)

    failed = [line for line in log if line["event"] == "controller run failed"]
    assert only(manager).status.failures == 1_000
    assert [line["failures"] for line in failed] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    assert failed[0]["error"] == "run 1 fails"
    assert failed[0]["resource"] == "endpoint-7"
    await clocks.advance(61)
    assert log[-1]["event"] == "controller recovered"
    assert log[-1]["failures"] == 1_000


async def test_a_run_never_has_the_request_id_of_the_call_that_asked_for_it(clocks: Clocks):
    with structlog.contextvars.bound_contextvars(service="ipam"):
        registry = Registry()
    manager = Manager("ipam", registry)
    seen: list[dict[str, Any]] = []

    async def run() -> None:
        seen.append(structlog.contextvars.get_contextvars())
        if len(seen) == 3:
            raise Unavailable("once more")

    with structlog.contextvars.bound_contextvars(request_id="the call's", attachment="the call's"):
        manager.update("sync", Parameters(run, interval=100))
        await settle()
        manager.trigger("sync")
        await settle()
        manager.update("sync", Parameters(run, interval=100))
        await settle()
    await clocks.advance(2)

    assert len(seen) == 4
    ids = {one["request_id"] for one in seen}
    assert len(ids) == 4
    assert "the call's" not in ids
    for one in seen:
        assert (one["service"], one["resource"], one["controller"]) == ("ipam", "ipam", "sync")
        assert "attachment" not in one
    await manager.remove_all()


async def test_one_that_waits_keeps_nothing_alive_of_the_call_that_asked_for_it(manager: Manager):
    def call() -> "weakref.ref[Work]":
        held = Work()
        request.set(held)
        manager.update("sync", Parameters(Work().run), delay=1000)
        return weakref.ref(held)

    of_the_call = contextvars.copy_context().run(call)

    gc.collect()
    assert of_the_call() is None


async def test_one_that_waits_holds_no_task(manager: Manager):
    """Hundreds of endpoints have several: what waits must cost next to nothing."""
    before = asyncio.all_tasks()

    for number in range(100):
        manager.update(f"sync-{number}", Parameters(Work().run, interval=1000))
    await settle()

    assert asyncio.all_tasks() == before
