"""The controller's promises, without waiting for real time where a promise isn't about time."""

import asyncio
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.controller import HISTORY, ControllerDone, Parameters, Result, backoff
from services.common.controllers import Manager, Registry
from services.common.errors import Unavailable


class Work:
    """A function whose runs a test can count, fail and hold up."""

    def __init__(self, fail: int = 0, *, held: bool = False) -> None:
        self.runs = 0
        self.stopped = 0
        self._fail = fail
        self._ran = asyncio.Condition()
        self.gate = asyncio.Event()
        if not held:
            self.gate.set()

    async def run(self) -> None:
        self.runs += 1
        async with self._ran:
            self._ran.notify_all()
        await self.gate.wait()
        if self.runs <= self._fail:
            raise Unavailable(f"run {self.runs} fails")

    async def stop(self) -> None:
        self.stopped += 1

    async def reached(self, runs: int) -> None:
        async with asyncio.timeout(10), self._ran:
            await self._ran.wait_for(lambda: self.runs >= runs)


@pytest.fixture
async def manager():
    registry = Registry()
    manager = Manager("endpoint-7", registry)
    yield manager
    await manager.remove_all()
    assert list(registry) == []


def only(manager: Manager):
    """Return the manager's one controller."""
    (controller,) = manager
    return controller


async def settled(manager: Manager, runs: int) -> None:
    """Wait until `runs` runs have been recorded."""
    async with asyncio.timeout(10):
        while (status := only(manager).status).successes + status.failures < runs:
            await asyncio.sleep(0)


async def test_it_retries_until_it_succeeds_and_counts(manager: Manager):
    work = Work(fail=3)

    manager.update("sync", Parameters(work.run, retry_base=0.001))
    await settled(manager, 4)

    status = only(manager).status
    assert (status.successes, status.failures, status.consecutive_failures) == (1, 3, 0)
    assert status.last_error == "run 3 fails"
    assert [outcome.result for outcome in status.history] == [Result.FAILURE] * 3 + [Result.SUCCESS]
    assert status.next_run == 0.0


async def test_without_retry_an_error_waits_for_a_trigger(manager: Manager):
    work = Work(fail=1)
    manager.update("sync", Parameters(work.run, retry=False))
    await settled(manager, 1)
    assert only(manager).status.next_run == 0.0

    manager.trigger("sync")

    await settled(manager, 2)
    assert only(manager).status.successes == 1


async def test_triggers_during_a_run_make_exactly_one_more(manager: Manager):
    work = Work(held=True)
    manager.update("sync", Parameters(work.run))
    await work.reached(1)

    for _ in range(5):
        manager.trigger("sync")
    work.gate.set()
    await settled(manager, 2)
    await asyncio.sleep(0)

    assert work.runs == 2
    assert only(manager).status.coalesced == 4


async def test_the_interval_counts_from_the_end_of_a_run(manager: Manager):
    work = Work()
    manager.update("sync", Parameters(work.run, interval=1000))
    await settled(manager, 1)

    status = only(manager).status
    assert status.next_run == pytest.approx(status.history[-1].finished + 1000)


async def test_an_update_keeps_the_counters_and_runs_at_once(manager: Manager):
    first, second = Work(), Work()
    manager.update("sync", Parameters(first.run))
    await settled(manager, 1)
    uuid = only(manager).uuid

    manager.update("sync", Parameters(second.run))
    await settled(manager, 2)

    assert (first.runs, second.runs, only(manager).uuid) == (1, 1, uuid)


async def test_cancel_on_update_cancels_the_run_in_progress(manager: Manager):
    stuck, fresh = Work(held=True), Work()
    manager.update("sync", Parameters(stuck.run, cancel_on_update=True))
    await stuck.reached(1)

    manager.update("sync", Parameters(fresh.run, cancel_on_update=True))
    await settled(manager, 1)

    assert [outcome.result for outcome in only(manager).status.history] == [Result.CANCELLED, Result.SUCCESS]


async def test_done_is_a_success_that_ends_the_repetition(manager: Manager):
    async def once() -> None:
        raise ControllerDone

    manager.update("recover", Parameters(once, interval=0.001))
    await settled(manager, 1)

    assert only(manager).status.next_run == 0.0


async def test_removal_cancels_the_run_and_waits_for_the_stop_function(manager: Manager):
    work = Work(held=True)
    manager.update("sync", Parameters(work.run, stop=work.stop))
    await work.reached(1)

    assert await manager.remove("sync")

    assert work.stopped == 1
    assert list(manager) == []
    assert not await manager.remove("sync")


async def test_a_run_past_its_alarm_shows_as_hanging(manager: Manager):
    work = Work(held=True)
    manager.update("sync", Parameters(work.run, alarm=0))
    await work.reached(1)

    async with asyncio.timeout(10):
        while not only(manager).hanging():
            await asyncio.sleep(0)
    assert only(manager).status.running_since


async def test_an_unforeseen_exception_is_a_failure_like_any_other(manager: Manager):
    runs = itertools.count()

    async def odd() -> None:
        if next(runs) == 0:
            raise ZeroDivisionError("of nothing")

    manager.update("sync", Parameters(odd, retry_base=0.001))
    await settled(manager, 2)

    assert only(manager).status.last_error == "ZeroDivisionError: of nothing"


async def test_the_history_is_bounded(manager: Manager):
    work = Work(fail=HISTORY + 5)
    manager.update("sync", Parameters(work.run, retry_base=0.0001, retry_cap=0.0001))
    await settled(manager, HISTORY + 6)

    status = only(manager).status
    assert len(status.history) == HISTORY
    assert status.failures == HISTORY + 5


@given(st.integers(1, 10_000), st.floats(0.01, 10), st.floats(10, 100), st.floats(0, 0.999))
def test_backoff_is_bounded_and_never_shrinks_with_errors(count: int, base: float, cap: float, jitter: float):
    wait = backoff(count, base, cap, jitter)

    assert min(base, cap) / 2 <= wait <= cap
    assert backoff(count + 1, base, cap, jitter) >= wait
