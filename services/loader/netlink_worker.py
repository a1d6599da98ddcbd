"""The threads that talk netlink, and the two queues before them.

The loader's RTNL work passes here: the kernel has one RTNL lock, and a second thread would only wait for it. The
exception is deletion, which gives the lock up and then waits for RCU for 25 ms: it has threads of its own
(linkdelete.py), so that a pod that starts doesn't queue behind one that ends.

What is begun goes before what isn't: new links wait until nothing else does. A hundred pods that start at once want a
hundred links, 0.8 s of this thread while they compete with it for two CPUs. Nobody's programs wait that long to be
attached, and a pod that ends doesn't stand behind all those that begin.

A piece of work is a function of the worker's own socket. It runs from beginning to end on one thread, so what it finds
stays true until it is done, as far as the loader is concerned. Abandoning the `await` doesn't stop it.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from services.common import telemetry
from services.common.errors import FailedPrecondition, Internal, Unavailable
from services.loader.netlink import Rtnl
from services.loader.netns import Stranded

T = TypeVar("T")

_log = telemetry.logger("netlink")


class _Thread:
    """One thread, and what waits for it: (future, work)."""

    def __init__(self, name: str) -> None:
        self.executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        self.first: deque[tuple[Future[Any], Callable[[Rtnl], Any]]] = deque()
        self.last: deque[tuple[Future[Any], Callable[[Rtnl], Any]]] = deque()
        self.stranded = False

    def next(self) -> tuple[Future[Any], Callable[[Rtnl], Any]]:
        return (self.first or self.last).popleft()


class NetlinkWorker:
    """One thread with one socket, in the namespace of whoever starts it. A component."""

    def __init__(self, name: str) -> None:
        """Nothing runs yet."""
        self._name = name
        self._thread: _Thread | None = None
        self._rtnl: Rtnl | None = None

    async def start(self) -> None:
        """Open the socket. Raises FailedPrecondition when the kernel refuses."""
        try:
            self._rtnl = Rtnl()
        except OSError as error:
            raise FailedPrecondition(f"no netlink socket: {error}") from error
        self._thread = _Thread(self._name)

    async def stop(self) -> None:
        """Finish what is queued and close the socket."""
        thread, rtnl = self._thread, self._rtnl
        self._thread = self._rtnl = None
        if thread is not None:
            await asyncio.to_thread(thread.executor.shutdown)
        if rtnl is not None:
            rtnl.close()

    async def run(self, work: Callable[[Rtnl], T], *, last: bool = False) -> T:
        """Run `work` on the thread after what was asked for earlier, and return its result.

        `last`: not before all that isn't `last`.
        """
        thread, rtnl = self._thread, self._rtnl
        if thread is None or rtnl is None:
            raise Internal(f"the {self._name} worker isn't running")
        done: Future[T] = Future()
        (thread.last if last else thread.first).append((done, work))
        # It does one piece, which need not be this one.
        thread.executor.submit(self._do, thread, rtnl)
        return await asyncio.wrap_future(done)

    def _do(self, thread: _Thread, rtnl: Rtnl) -> None:
        """On the thread: do the next piece of work, whichever that is by now."""
        done, work = thread.next()
        if not done.set_running_or_notify_cancel():
            return
        try:
            done.set_result(self._guarded(thread, work, rtnl))
        except BaseException as error:  # noqa: BLE001 - it is for who awaits
            done.set_exception(error)

    def _guarded(self, thread: _Thread, work: Callable[[Rtnl], T], rtnl: Rtnl) -> T:
        """On the thread: do the work, unless an earlier piece of it left the thread in a pod's namespace."""
        if thread.stranded:
            raise Unavailable(f"the {self._name} worker had to be replaced; repeat the request")
        try:
            return work(rtnl)
        except Stranded as error:
            thread.stranded = True
            if self._thread is thread:
                self._thread = _Thread(self._name)
            thread.executor.shutdown(wait=False)
            _log.error("gave up a thread", worker=self._name, reason=error.message)
            raise
