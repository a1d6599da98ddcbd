"""The threads that talk netlink, and the queue before them.

The loader's RTNL work passes here: the kernel has one RTNL lock, and a second thread would only wait for it. The
exception is deletion, which gives the lock up and then waits for RCU for 25 ms: it has threads of its own
(linkdelete.py), so that a pod that starts doesn't queue behind one that ends.

A piece of work is a function of the worker's own socket. It runs from beginning to end on one thread, so what it finds
stays true until it is done, as far as the loader is concerned. Abandoning the `await` doesn't stop it.
"""

import asyncio
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from services.common import telemetry
from services.common.errors import FailedPrecondition, Internal, Unavailable
from services.loader.netlink import Rtnl
from services.loader.netns import Stranded

T = TypeVar("T")

_log = telemetry.logger("netlink")


class NetlinkWorker:
    """One thread with one socket, in the namespace of whoever starts it. A component."""

    def __init__(self, name: str) -> None:
        """Nothing runs yet."""
        self._name = name
        self._executor: ThreadPoolExecutor | None = None
        self._rtnl: Rtnl | None = None
        self._stranded: weakref.WeakSet[ThreadPoolExecutor] = weakref.WeakSet()

    async def start(self) -> None:
        """Open the socket. Raises FailedPrecondition when the kernel refuses."""
        try:
            self._rtnl = Rtnl()
        except OSError as error:
            raise FailedPrecondition(f"no netlink socket: {error}") from error
        self._executor = self._thread()

    def _thread(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, thread_name_prefix=self._name)

    async def stop(self) -> None:
        """Finish what is queued and close the socket."""
        executor, rtnl = self._executor, self._rtnl
        self._executor = self._rtnl = None
        if executor is not None:
            await asyncio.to_thread(executor.shutdown)
        if rtnl is not None:
            rtnl.close()

    async def run(self, work: Callable[[Rtnl], T]) -> T:
        """Run `work` on the thread after what was asked for earlier, and return its result."""
        executor, rtnl = self._executor, self._rtnl
        if executor is None or rtnl is None:
            raise Internal(f"the {self._name} worker isn't running")
        return await asyncio.get_running_loop().run_in_executor(executor, self._guarded, executor, work, rtnl)

    def _guarded(self, executor: ThreadPoolExecutor, work: Callable[[Rtnl], T], rtnl: Rtnl) -> T:
        """On the thread: do the work, unless an earlier piece of it left the thread in a pod's namespace."""
        if executor in self._stranded:
            raise Unavailable(f"the {self._name} worker had to be replaced; repeat the request")
        try:
            return work(rtnl)
        except Stranded as error:
            self._stranded.add(executor)
            if self._executor is executor:
                self._executor = self._thread()
            executor.shutdown(wait=False)
            _log.error("gave up a thread", worker=self._name, reason=error.message)
            raise
