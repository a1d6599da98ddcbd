"""The small parts that the loader is put together from."""

import asyncio
import errno
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from podlane.loader.v1 import loader_pb2 as pb

from services.common.errors import Unavailable
from services.common.lifecycle import Shielded
from services.common.locks import KeyedLocks
from services.common.stopwatch import Stopwatch
from services.loader.servicer import LoaderServicer
from services.loader.teardown import Teardown
from tests.shim_support import assigned


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


async def test_a_listener_that_hangs_up_before_the_first_look_is_forgotten() -> None:
    """A generator that never ran runs no `finally` when it is closed."""
    forgotten: list[object] = []

    class Heard:
        def listen(self, _types: object, _id: int, **_how: Any) -> object:
            return "listener"

        async def watch(self, _listener: object) -> AsyncIterator[object]:
            for nothing in tuple[object, ...]():
                yield nothing

        def forget(self, listener: object) -> None:
            forgotten.append(listener)

    class Gone:
        async def send_initial_metadata(self, _metadata: object) -> None:
            raise asyncio.CancelledError

    servicer = LoaderServicer(cast("Any", SimpleNamespace(events=Heard())))

    with pytest.raises(asyncio.CancelledError):
        await anext(servicer.WatchEvents(pb.WatchEventsRequest(), Gone()))

    assert forgotten == ["listener"]


async def test_a_link_whose_caller_hangs_up_is_told_so() -> None:
    """It may still stand in the queue, and is not begun then."""
    asked: list[Any] = []
    began, gone = asyncio.Event(), asyncio.Event()

    async def create(_spec: Any, hung_up: Any) -> None:
        asked.append(hung_up)
        began.set()
        await gone.wait()

    parts = SimpleNamespace(links=SimpleNamespace(create=create), shielded=Shielded())
    request = pb.CreateLinkRequest(netns_path="/run/netns/pod", addresses=assigned())
    request.attachment.network, request.attachment.container_id, request.attachment.ifname = "podnet", "c1", "eth0"
    calling = asyncio.create_task(LoaderServicer(cast("Any", parts)).CreateLink(request, None))
    await asyncio.wait_for(began.wait(), 20)
    assert not asked[0]()

    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert asked[0]()
    gone.set()
    await parts.shielded.stop()
