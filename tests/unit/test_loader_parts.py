"""The small parts that the loader is put together from."""

import asyncio
import errno

import pytest

from services.common.errors import Unavailable
from services.common.locks import KeyedLocks
from services.loader.phases import Stopwatch
from services.loader.teardown import Teardown


async def test_work_on_one_key_is_serial_and_keys_do_not_wait_for_each_other() -> None:
    locks = KeyedLocks()
    running: list[str] = []
    most = 0

    async def work(key: int, name: str) -> None:
        nonlocal most
        async with locks.hold(key):
            running.append(name)
            most = max(most, len(running))
            assert len([one for one in running if one[0] == name[0]]) == 1
            await asyncio.sleep(0)
            running.remove(name)

    await asyncio.gather(*(work(key, f"{key}{number}") for key in (1, 2) for number in range(3)))

    assert most == 2


async def test_a_cancelled_waiter_leaves_the_lock_to_the_others() -> None:
    locks = KeyedLocks()

    async def wait() -> None:
        async with locks.hold(1):
            pass

    async with locks.hold(1):
        waiter = asyncio.create_task(wait())
        await asyncio.sleep(0)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
    async with locks.hold(1):
        pass


def test_a_teardown_tries_every_step_and_says_what_failed() -> None:
    done: list[int] = []

    def fail() -> None:
        raise OSError(errno.EBUSY, "busy")

    def take_down() -> None:
        with Teardown("endpoint 7") as teardown:
            teardown.step(fail)
            teardown.step(lambda: done.append(1))
            teardown.step(fail)

    with pytest.raises(Unavailable, match=r"endpoint 7 is not wholly gone: .*busy; .*busy; repeat the request"):
        take_down()

    assert done == [1]


def test_phases_are_kept_in_order_and_a_failing_one_is_among_them() -> None:
    watch = Stopwatch()
    with watch.phase("load"):
        pass
    with pytest.raises(ValueError, match="no"), watch.phase("attach"):
        raise ValueError("no")

    assert [phase.name for phase in watch.phases] == ["load", "attach"]
