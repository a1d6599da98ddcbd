"""Reservations that nobody confirms: when they are taken back, and for whom."""

import asyncio
import time as clock
from pathlib import Path

import pytest

from services.common.config import PoolSettings
from services.common.controllers import Registry
from services.common.errors import Exhausted, NotFound, Unavailable
from services.ipam.store import Store
from tests.allocator_support import Time, allocate, allocator, first, owner, rows


@pytest.fixture
def time() -> Time:
    return Time()


async def test_an_unconfirmed_reservation_is_taken_back_by_the_timer(tmp_path: Path):
    async with allocator(tmp_path, reservation=0.05) as ipam:
        await allocate(ipam, "lost")

        while ipam.status()[0].ranges[0].used:
            await asyncio.sleep(0.01)

        assert rows(tmp_path) == []
        assert ipam.status()[0].ranges[0].cooling == 1
        with pytest.raises(NotFound):
            await ipam.confirm(owner("lost"), 8)


async def test_expiry_is_a_controller_that_waits_for_the_soonest_deadline(tmp_path: Path, time: Time):
    registry = Registry()
    async with allocator(tmp_path, time=time, controllers=registry) as ipam:
        (controller,) = registry
        while not controller.status.successes:
            await asyncio.sleep(0.01)
        assert (controller.resource, controller.name, controller.next_run) == ("ipam", "expire-reservations", 0)

        await allocate(ipam, "c1")
        time.pass_(100.0)
        await allocate(ipam, "c2")
        assert controller.next_run == pytest.approx(clock.time() + 500.0, abs=60)
        assert controller.status.successes == 1

        time.pass_(500.0)
        controller.trigger()
        while controller.status.successes < 2:
            await asyncio.sleep(0.01)

        assert [name for name, _ in rows(tmp_path)] == ["c2"]
        assert controller.next_run == pytest.approx(clock.time() + 100.0, abs=60)
    assert list(registry) == []


async def test_expiry_backs_off_while_the_disk_fails_and_then_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("services.ipam.allocator._RETRY_SECONDS", 0.01)
    registry = Registry()

    async def fail(*_arguments: object) -> None:
        raise Unavailable("the database can't be written")

    async with allocator(tmp_path, reservation=0.05, controllers=registry) as ipam:
        (controller,) = registry
        await allocate(ipam, "lost")
        with monkeypatch.context() as patched:
            patched.setattr(Store, "remove", fail)
            while controller.status.consecutive_failures < 3:
                await asyncio.sleep(0.01)
        assert controller.status.last_error == "the database can't be written"

        while rows(tmp_path):
            await asyncio.sleep(0.01)
        while controller.failing:
            await asyncio.sleep(0.01)


async def test_expiry_goes_on_over_a_restart(tmp_path: Path, time: Time):
    async with allocator(tmp_path, time=time) as ipam:
        await allocate(ipam, "lost")
        await allocate(ipam, "kept")
        await ipam.confirm(owner("kept"), 7)
    time.pass_(600.0)

    async with allocator(tmp_path, time=time) as ipam:
        while await ipam.page("", owner("lost"), 0, 1):
            await asyncio.sleep(0.01)

        assert [name for name, _ in rows(tmp_path)] == ["kept"]


async def test_an_expired_reservation_serves_who_would_find_nothing_left(tmp_path: Path, time: Time):
    """The timer may be late; an allocation that finds the pool full looks for itself."""
    async with allocator(tmp_path, PoolSettings("default", ("10.0.0.0/30",)), time=time) as ipam:
        await allocate(ipam, "lost")
        with pytest.raises(Exhausted):
            await allocate(ipam, "next")

        time.pass_(600.0)

        assert first(await allocate(ipam, "next")) == "10.0.0.2"
        assert ipam.early_reuses == 1
        assert [name for name, _ in rows(tmp_path)] == ["next"]
