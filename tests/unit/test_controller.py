"""What a controller promises, by clocks that the test moves."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.controller_parameters import ControllerDone, Parameters, backoff
from services.common.controller_status import Result
from services.common.controllers import Manager, Registry
from tests.controller_support import Clocks, Work, capture, only, settle


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


async def test_it_retries_until_it_succeeds_and_then_no_more(manager: Manager, clocks: Clocks):
    work = Work(fail=3)

    manager.update("sync", Parameters(work.run))
    for _ in range(10):
        await clocks.advance(100)

    status = only(manager).status
    assert work.runs == 4
    assert (status.successes, status.failures, status.consecutive_failures) == (1, 3, 0)
    assert only(manager).next_run == 0


async def test_retries_back_off_from_the_base_to_the_cap_with_jitter(manager: Manager, clocks: Clocks):
    manager.update("sync", Parameters(Work(fail=100).run, retry_base=2, retry_cap=30))
    await settle()

    waits = []
    for _ in range(8):
        waits.append(only(manager).next_run - clocks.wall)
        await clocks.advance(waits[-1] + 0.001)

    assert only(manager).status.failures == 9
    for wait, full in zip(waits, (2, 4, 8, 16, 30, 30, 30, 30), strict=True):
        assert full / 2 <= wait <= full
    assert len(set(waits)) == 8


@given(st.integers(1, 10_000), st.floats(0.01, 10), st.floats(10, 100), st.floats(0, 0.999))
def test_backoff_is_bounded_and_never_shrinks_with_errors(count: int, base: float, cap: float, jitter: float):
    wait = backoff(count, base, cap, jitter)

    assert min(base, cap) / 2 <= wait <= cap
    assert backoff(count + 1, base, cap, jitter) >= wait


async def test_without_retry_an_error_waits_for_the_interval(manager: Manager, clocks: Clocks):
    work = Work(fail=1)
    manager.update("sync", Parameters(work.run, retry=False, interval=500))
    await settle()

    assert only(manager).next_run == clocks.wall + 500
    await clocks.advance(501)
    assert work.runs == 2


async def test_without_retry_and_interval_an_error_waits_for_a_trigger(manager: Manager, clocks: Clocks):
    work = Work(fail=1)
    manager.update("sync", Parameters(work.run, retry=False))
    await clocks.advance(1_000_000)
    assert (work.runs, only(manager).next_run) == (1, 0)

    manager.trigger("sync")

    await settle()
    assert only(manager).status.successes == 1


async def test_the_interval_counts_from_the_end_of_a_run(manager: Manager, clocks: Clocks):
    work = Work(held=True)
    manager.update("sync", Parameters(work.run, interval=1000))
    await clocks.advance(400)
    assert only(manager).next_run == 0

    work.gate.set()
    await settle()

    assert only(manager).next_run == clocks.wall + 1000
    await clocks.advance(999)
    assert work.runs == 1
    await clocks.advance(1.001)
    assert work.runs == 2


async def test_an_interval_may_be_longer_by_a_random_share(manager: Manager, clocks: Clocks):
    manager.update("sync", Parameters(Work().run, interval=1000, interval_jitter=0.1))

    waits = []
    for _ in range(5):
        await settle()
        waits.append(only(manager).next_run - clocks.wall)
        await clocks.advance(waits[-1] + 0.001)

    assert all(1000 <= wait <= 1100 for wait in waits)
    assert len(set(waits)) == 5


async def test_a_wall_clock_that_is_set_moves_no_run(manager: Manager, clocks: Clocks):
    work = Work()
    manager.update("sync", Parameters(work.run, interval=1000))
    await settle()

    for jump in (1_000_000, -5_000_000):
        clocks.wall += jump
        await settle()
        assert work.runs == 1
        assert only(manager).next_run == clocks.wall + 1000

    await clocks.advance(1000.001)
    assert work.runs == 2


async def test_triggers_during_a_run_make_exactly_one_more(manager: Manager):
    work = Work(held=True)
    manager.update("sync", Parameters(work.run))
    await settle()

    for _ in range(5):
        manager.trigger("sync")
    work.gate.set()
    await settle()

    assert work.runs == 2
    assert only(manager).status.coalesced == 4


async def test_triggers_before_a_run_are_one(manager: Manager):
    work = Work()
    manager.update("sync", Parameters(work.run))

    for _ in range(5):
        manager.trigger("sync")
    await settle()

    assert work.runs == 1
    assert only(manager).status.coalesced == 5


async def test_a_trigger_ends_the_back_off(manager: Manager):
    work = Work(fail=1)
    manager.update("sync", Parameters(work.run, retry_base=1000, retry_cap=1000))
    await settle()

    manager.trigger("sync")
    await settle()

    assert only(manager).status.successes == 1


async def test_a_delayed_trigger_brings_a_run_forward_and_never_puts_it_off(manager: Manager, clocks: Clocks):
    work = Work()
    manager.update("sync", Parameters(work.run, interval=1000))
    await settle()

    manager.trigger("sync", 500)
    manager.trigger("sync", 700)

    assert only(manager).next_run == clocks.wall + 500
    assert only(manager).status.coalesced == 1
    await clocks.advance(499)
    assert work.runs == 1
    await clocks.advance(1.001)
    assert work.runs == 2
    await clocks.advance(201)
    assert work.runs == 2


async def test_a_function_can_say_when_it_wants_to_run_again(manager: Manager, clocks: Clocks):
    times = iter((30, 60))

    async def run() -> None:
        manager.trigger("expire", next(times))

    manager.update("expire", Parameters(run))
    await settle()
    assert only(manager).next_run == clocks.wall + 30
    await clocks.advance(30.001)

    assert only(manager).next_run == clocks.wall + 60
    assert only(manager).status.successes == 2


async def test_the_first_run_can_be_later(manager: Manager, clocks: Clocks):
    work = Work()
    manager.update("sync", Parameters(work.run), delay=10)

    await clocks.advance(9.9)
    assert work.runs == 0
    await clocks.advance(0.2)
    assert work.runs == 1


async def test_a_trigger_of_nothing_says_so(manager: Manager):
    assert not manager.trigger("sync")


async def test_an_update_keeps_counters_and_uuid_and_runs_at_once(manager: Manager):
    first, second = Work(fail=1), Work()
    manager.update("sync", Parameters(first.run, retry_base=1000, retry_cap=1000))
    await settle()
    uuid = only(manager).uuid

    manager.update("sync", Parameters(second.run))
    await settle()

    assert (first.runs, second.runs, only(manager).uuid) == (1, 1, uuid)
    assert (only(manager).status.failures, only(manager).status.successes) == (1, 1)


async def test_an_update_lets_the_run_in_progress_finish_and_then_runs_once_with_the_new_function(manager: Manager):
    first, second = Work(held=True), Work()
    manager.update("sync", Parameters(first.run))
    await settle()

    manager.update("sync", Parameters(second.run))
    await settle()
    assert (first.cancelled, second.runs) == (0, 0)
    first.gate.set()
    await settle()

    assert (first.runs, second.runs, only(manager).status.successes) == (1, 1, 2)


async def test_cancel_on_update_cancels_the_run_in_progress(manager: Manager):
    stuck, fresh = Work(held=True), Work()
    manager.update("sync", Parameters(stuck.run))
    await settle()

    manager.update("sync", Parameters(fresh.run, cancel_on_update=True))
    await settle()

    assert stuck.cancelled == 1
    assert [outcome.result for outcome in only(manager).status.history] == [Result.CANCELLED, Result.SUCCESS]
    assert (only(manager).status.failures, only(manager).failing) == (0, False)


async def test_updates_in_a_row_cancel_a_run_once_so_that_it_can_clean_up(manager: Manager):
    cleaned = asyncio.Event()

    async def careful() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            cleaned.set()

    manager.update("sync", Parameters(careful))
    await settle()
    for _ in range(3):
        manager.update("sync", Parameters(Work().run, cancel_on_update=True))
        await asyncio.sleep(0)
    await settle()

    assert cleaned.is_set()


async def test_a_run_that_is_cancelled_before_its_first_step_is_no_end(manager: Manager):
    work = Work()
    manager.update("sync", Parameters(work.run))
    await asyncio.sleep(0)  # the run's task exists now and has not begun
    await asyncio.sleep(0)

    manager.update("sync", Parameters(work.run, cancel_on_update=True))
    await settle()

    assert work.runs >= 1
    assert only(manager).status.successes >= 1


async def test_done_is_a_success_that_ends_the_repetition_until_a_trigger(manager: Manager, clocks: Clocks):
    runs = 0

    async def once() -> None:
        nonlocal runs
        runs += 1
        raise ControllerDone

    manager.update("recover", Parameters(once, interval=10))
    await clocks.advance(1_000_000)
    assert (runs, only(manager).status.successes, only(manager).next_run) == (1, 1, 0)

    manager.trigger("recover")
    await settle()
    assert runs == 2


async def test_an_unforeseen_exception_is_a_failure_with_its_traceback_in_the_log(
    manager: Manager, clocks: Clocks, log: list[dict[str, Any]]
):
    async def odd() -> None:
        raise ZeroDivisionError("of nothing")

    manager.update("sync", Parameters(odd))
    await settle()
    await clocks.advance(2)

    assert only(manager).status.failures == 2
    assert only(manager).status.last_error == "ZeroDivisionError: of nothing"
    assert "in odd" in log[0]["exception"]


async def test_a_function_that_fails_before_it_can_be_awaited_is_a_failure_too(manager: Manager):
    def odd() -> Any:
        raise ZeroDivisionError

    manager.update("sync", Parameters(odd))
    await settle()

    assert only(manager).status.failures == 1
    assert only(manager).next_run


async def test_what_is_cancelled_from_within_is_retried(manager: Manager, clocks: Clocks):
    """A channel that closes cancels the calls in flight: that must not end the controller."""
    calls: list[asyncio.Future[None]] = []

    async def call() -> None:
        calls.append(asyncio.get_running_loop().create_future())
        await calls[-1]

    manager.update("sync", Parameters(call))
    await settle()
    calls[0].cancel()
    await settle()
    assert only(manager).status.last_error == "what the run waited for was cancelled"
    await clocks.advance(2)
    calls[1].set_result(None)
    await settle()

    assert (only(manager).status.failures, only(manager).status.successes) == (1, 1)
