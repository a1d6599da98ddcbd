"""Deleting veth pairs: quickly for the one who asked, cheaply for the kernel.

A deletion has two parts. Under the RTNL lock the kernel closes the pair, takes both ends out of every list and says so
(RTM_DELLINK): 1–2 ms, after which the names are free and nobody finds the link any more. Then, without the lock, it
waits for RCU before it frees the memory and answers: 20–45 ms on every machine.

    delete() ──► queue ──► batch ──► thread: one RTM_DELLINK ─ ─ ─ (RCU) ─ ─► answer: only a failure matters
       ▲                                    │
       └──── the monitor sees it go ◄───────┘

- Who asks is answered when the kernel has said that the link is gone, not when its memory is free.
- Each batch has a thread for as long as the kernel keeps it. What is asked for while all are busy forms the next batch.
- A batch of several links is one request for a group that is made for it, so the links share one wait. The group's
  number is drawn anew each time, and nothing is deleted while a device that isn't of the batch carries it.
"""

import asyncio
import secrets
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from services.common import telemetry
from services.common.errors import Unavailable
from services.loader import rtnl
from services.loader.linkwatch import LinkMonitor
from services.loader.netlink import Request, Rtnl, explain

_log = telemetry.logger("linkdelete")

# Waits for RCU overlap: however many there are, each takes at most two grace periods. Above this many batches under
# way new requests gather, and share.
BATCHES = 8


class LinkDeletions:
    """Deletes links by name. A component; `monitor` must run for as long as it does."""

    def __init__(self, monitor: LinkMonitor) -> None:
        """Wire; nothing runs yet."""
        self._monitor = monitor
        self._queue: list[str] = []
        self._waiting: dict[str, asyncio.Future[bool]] = {}
        self._batches: set[asyncio.Task[None]] = set()
        self._executor: ThreadPoolExecutor | None = None
        self._unsubscribe = lambda: None

    async def start(self) -> None:
        """Begin."""
        self._executor = ThreadPoolExecutor(BATCHES, thread_name_prefix="linkdelete")
        self._unsubscribe = self._monitor.subscribe(self._gone)

    async def stop(self) -> None:
        """Finish what was asked for, including what the kernel still works on."""
        while self._batches:
            await asyncio.wait(self._batches)
        self._unsubscribe()
        if self._executor is not None:
            self._executor.shutdown()
            self._executor = None

    async def delete(self, ifname: str) -> bool:
        """Delete a link; return whether there was one. One caller per name at a time.

        Raises Unavailable or FailedPrecondition when the kernel refuses.
        """
        self._monitor.drain()  # whatever it says from here on is about this request
        waiting = self._waiting[ifname] = asyncio.get_running_loop().create_future()
        try:
            self._queue.append(ifname)
            self._next()
            return await waiting
        finally:
            del self._waiting[ifname]

    def _next(self) -> None:
        if self._queue and len(self._batches) < BATCHES:
            names, self._queue = self._queue, []
            task = asyncio.create_task(self._run(names))
            self._batches.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._batches.discard(task)
        self._next()

    async def _run(self, names: Sequence[str]) -> None:
        """Carry one batch out, and answer those who couldn't be answered earlier."""
        failure: Exception | None = None
        missing: frozenset[str] = frozenset()
        try:
            missing = await asyncio.get_running_loop().run_in_executor(self._executor, delete_links, names)
        except OSError as error:
            failure = explain(f"deleting {', '.join(names)}", error)
        except Unavailable as error:
            failure = error
        self._monitor.drain()
        for name in names:
            waiting = self._waiting.get(name)
            if waiting is None or waiting.done():
                continue
            if failure is not None:
                waiting.set_exception(failure)
            else:
                waiting.set_result(name not in missing)

    def _gone(self, ifname: str, _ifindex: int) -> None:
        waiting = self._waiting.get(ifname)
        if waiting is not None and not waiting.done():
            waiting.set_result(True)


def delete_links(names: Sequence[str]) -> frozenset[str]:
    """Delete links, by one request; return those that were not there. Blocks until the kernel has freed them."""
    with Rtnl() as own:
        if len(names) == 1:
            return _missing(own, [rtnl.delete_link(names[0])])
        group = _gather(own, names)
        own.batch([rtnl.delete_group(group)])
    return frozenset()


def _gather(own: Rtnl, names: Sequence[str]) -> int:
    raise NotImplementedError(own, names)


def _missing(own: Rtnl, requests: Sequence[Request]) -> frozenset[str]:
    replies = own.batch(requests)
    return frozenset(request.about for request, reply in zip(requests, replies, strict=True) if reply.errno)


def _draw() -> int:
    return 1 + secrets.randbelow(0x7FFFFFFE)
