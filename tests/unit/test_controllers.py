"""Managers and the registry: who owns controllers, how they go, and what is left then."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from services.common.controller_parameters import Parameters
from services.common.controller_status import Outcome, Result
from services.common.controllers import Manager, Registry
from tests.controller_support import Work, capture, only, settle, until


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
async def manager(registry: Registry) -> AsyncIterator[Manager]:
    manager = Manager("endpoint-7", registry)
    yield manager
    async with asyncio.timeout(10):
        await manager.remove_all()
    assert list(registry) == []


async def test_a_manager_is_bound_to_one_resource_and_owns_many_controllers(registry: Registry):
    managers = [Manager(f"endpoint-{number}", registry) for number in (7, 8)]
    for manager in managers:
        for name in ("sync", "recover"):
            manager.update(name, Parameters(Work().run))
    await settle()

    assert [(one.resource, one.name) for one in registry] == [
        ("endpoint-7", "sync"),
        ("endpoint-7", "recover"),
        ("endpoint-8", "sync"),
        ("endpoint-8", "recover"),
    ]
    assert len({one.uuid for one in registry}) == 4
    assert registry.find("endpoint-8", "sync") in list(managers[1])
    assert registry.find("endpoint-8", "nothing") is None
    await managers[0].remove_all()
    assert {one.resource for one in registry} == {"endpoint-8"}
    await managers[1].remove_all()


async def test_removal_cancels_the_run_and_waits_for_the_stop_function(manager: Manager):
    work, gate = Work(held=True), asyncio.Event()
    order: list[str] = []

    async def run() -> None:
        try:
            await work.run()
        finally:
            await asyncio.sleep(0)
            order.append("run ended")

    async def stop() -> None:
        order.append("stop began")
        await gate.wait()
        order.append("stop ended")

    manager.update("sync", Parameters(run, stop=stop))
    await settle()
    removal = asyncio.create_task(manager.remove("sync"))
    await settle()
    assert order == ["run ended", "stop began"]
    assert not removal.done()
    gate.set()

    assert await removal
    assert order == ["run ended", "stop began", "stop ended"]
    assert work.cancelled == 1
    assert "sync" not in manager
    assert not await manager.remove("sync")


async def test_removal_of_one_that_waits_runs_the_stop_function_and_no_run_follows(manager: Manager):
    work = Work()
    manager.update("sync", Parameters(work.run, stop=work.stop))
    await settle()
    manager.trigger("sync")

    await manager.remove("sync")
    await settle()

    assert (work.runs, work.stopped) == (1, 1)


async def test_a_removal_finishes_although_its_caller_is_cancelled(manager: Manager):
    work = Work(held=True)
    manager.update("sync", Parameters(work.run, stop=work.stop))
    await settle()

    removal = asyncio.create_task(manager.remove("sync"))
    await asyncio.sleep(0)
    removal.cancel()
    await settle()

    assert (work.cancelled, work.stopped) == (1, 1)
    assert "sync" not in manager


async def test_whoever_removes_at_the_same_time_waits_for_the_same_end(manager: Manager):
    work = Work(held=True)
    manager.update("sync", Parameters(work.run, stop=work.stop))
    await settle()

    assert await asyncio.gather(*(manager.remove("sync") for _ in range(3))) == [True] * 3

    assert (work.cancelled, work.stopped) == (1, 1)


async def test_a_stop_function_that_fails_is_logged_and_stops_nobody(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
):
    log = capture(monkeypatch, "services.common.controller")
    manager, fine = Manager("endpoint-7", registry), Work()

    async def broken() -> None:
        raise ZeroDivisionError("of nothing")

    manager.update("broken", Parameters(Work().run, stop=broken))
    manager.update("fine", Parameters(fine.run, stop=fine.stop))
    await settle()
    await manager.remove_all()

    assert fine.stopped == 1
    assert list(registry) == []
    (line,) = log
    assert (line["event"], line["controller"]) == ("controller stop function failed", "broken")
    assert "ZeroDivisionError" in line["exception"]


async def test_a_controller_can_remove_itself_from_within_its_run(manager: Manager):
    order: list[str] = []

    async def run() -> None:
        assert await manager.remove("recover")
        await asyncio.sleep(0)
        order.append("run ended")

    async def stop() -> None:
        order.append("stopped")

    manager.update("recover", Parameters(run, stop=stop, interval=0.001))
    await until(lambda: "recover" not in manager)

    assert order == ["run ended", "stopped"]


async def test_a_controller_can_remove_its_whole_manager_from_within_its_run(registry: Registry):
    manager, other, order = Manager("endpoint-7", registry), Work(held=True), list[str]()

    async def run() -> None:
        await manager.remove_all()
        order.append(f"others stopped: {other.stopped}")

    async def stop() -> None:
        order.append("stopped")

    manager.update("other", Parameters(other.run, stop=other.stop))
    await settle()
    manager.update("gone", Parameters(run, stop=stop))
    await until(lambda: list(registry) == [])

    assert order == ["others stopped: 1", "stopped"]


async def test_a_task_that_the_run_waits_for_can_remove_it_too(registry: Registry):
    manager, done = Manager("endpoint-7", registry), asyncio.Event()

    async def run() -> None:
        await asyncio.gather(asyncio.create_task(manager.remove_all()))
        done.set()

    manager.update("gone", Parameters(run))
    await until(lambda: list(registry) == [])

    assert done.is_set()


async def test_two_whose_shielded_work_removes_the_other_do_not_wait_for_each_other(registry: Registry):
    manager, both = Manager("endpoint-7", registry), asyncio.Barrier(2)

    async def remove(name: str) -> None:
        await both.wait()
        await manager.remove(name)

    manager.update("a", Parameters(lambda: asyncio.shield(asyncio.create_task(remove("b")))))
    manager.update("b", Parameters(lambda: asyncio.shield(asyncio.create_task(remove("a")))))
    await until(lambda: list(manager) == [])
    await manager.remove_all()


async def test_who_is_outside_cancels_and_waits_for_a_run_that_has_removed_itself(registry: Registry):
    manager, work = Manager("endpoint-7", registry), Work(held=True)

    async def run() -> None:
        await manager.remove("recover")
        await work.run()

    manager.update("recover", Parameters(run, stop=work.stop))
    await settle()
    await manager.remove_all()

    assert (work.cancelled, work.stopped) == (1, 1)
    assert list(registry) == []


async def test_one_of_the_same_name_is_created_after_the_stop_function_of_the_old(manager: Manager):
    """The old one withdraws what the new one publishes."""
    order: list[str] = []
    gate = asyncio.Event()

    async def publish() -> None:
        order.append("published")

    async def withdraw() -> None:
        await gate.wait()
        order.append("withdrawn")

    manager.update("sync", Parameters(publish, stop=withdraw))
    await settle()
    removal = asyncio.create_task(manager.remove("sync"))
    await settle()
    old = only(manager).uuid
    manager.update("sync", Parameters(publish))
    await settle()
    assert manager.trigger("sync")
    gate.set()
    await removal
    await settle()

    assert order == ["published", "withdrawn", "published"]
    assert only(manager).uuid != old
    assert only(manager).status.successes == 1


async def test_a_manager_without_a_resource_creates_nothing_any_more(registry: Registry):
    manager, late = Manager("endpoint-7", registry), Work()
    manager.update("sync", Parameters(Work().run))
    await manager.remove_all()

    manager.update("sync", Parameters(late.run))
    await settle()

    assert late.runs == 0
    assert not manager.trigger("sync")
    assert (list(manager), list(registry)) == ([], [])


async def test_the_end_of_the_process_ends_runs_and_runs_no_stop_functions(registry: Registry):
    """What a stop function withdraws belongs to a resource that outlives the process."""
    busy, idle, late = Work(held=True), Work(), Work()
    manager = Manager("endpoint-7", registry)
    manager.update("busy", Parameters(busy.run, stop=busy.stop))
    manager.update("idle", Parameters(idle.run, stop=idle.stop, interval=1000))
    await settle()

    await registry.stop()
    manager.update("late", Parameters(late.run))
    await settle()

    assert (busy.cancelled, busy.stopped, idle.stopped, late.runs) == (1, 0, 0, 0)
    assert list(registry) == []
    await manager.remove_all()


async def test_each_run_is_told_to_the_observer_by_its_group():
    told: list[tuple[str, Result, bool]] = []

    def observe(group: str, outcome: Outcome) -> None:
        told.append((group, outcome.result, outcome.duration >= 0))

    manager = Manager("endpoint-7", Registry(observe))
    manager.update("sync", Parameters(Work(fail=1).run))
    manager.update("resolve-42", Parameters(Work().run, group="resolve"))
    await settle()
    await manager.remove_all()

    assert sorted(told) == [("resolve", Result.SUCCESS, True), ("sync", Result.FAILURE, True)]


async def test_an_observer_with_a_bug_keeps_no_run_from_coming():
    def observe(_group: str, _outcome: Outcome) -> None:
        raise ZeroDivisionError

    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context["exception"]))
    manager, work = Manager("endpoint-7", Registry(observe)), Work(fail=1)
    manager.update("sync", Parameters(work.run, retry_base=0.001))
    await until(lambda: only(manager).status.successes == 1)
    await manager.remove_all()

    assert [type(one) for one in complaints] == [ZeroDivisionError] * 2


async def test_nothing_is_left_on_the_loop_when_all_are_gone(registry: Registry):
    before = asyncio.all_tasks()
    managers = [Manager(f"endpoint-{number}", registry) for number in range(20)]
    for manager in managers:
        manager.update("sync", Parameters(Work().run, interval=1000, stop=Work().stop))
        manager.update("held", Parameters(Work(held=True).run))
    await settle()

    await asyncio.gather(*(manager.remove_all() for manager in managers))

    loop: Any = asyncio.get_running_loop()
    assert asyncio.all_tasks() == before
    assert not registry._managers
    assert [timer for timer in loop._scheduled if not timer.cancelled() and "Controller" in repr(timer)] == []
