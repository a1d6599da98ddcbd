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
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from services.common import telemetry
from services.common.errors import PodlaneError, Unavailable
from services.loader import rtnl
from services.loader.linkwatch import LinkMonitor
from services.loader.netlink import Rtnl
from services.loader.netlink_messages import explain

_log = telemetry.logger("linkdelete")

# Waits for RCU overlap: however many there are, each takes at most two grace periods. Above this many batches under
# way new requests gather, and share.
BATCHES = 16

# IFLA_GROUP is a signed number to some tools; 0 is every device's group
_LARGEST_GROUP = 0x7FFFFFFF
_DRAWS = 8


@dataclass(frozen=True, slots=True)
class _Deletion:
    """One link and who waits for its end.

    It is known by its index, which is never given again: the name may belong to the pod's next link by the time a
    thread gets to the request.
    """

    ifname: str
    ifindex: int
    gone: asyncio.Future[None]


class LinkDeletions:
    """Deletes links by name. A component; `monitor` must run for as long as it does."""

    def __init__(self, monitor: LinkMonitor) -> None:
        """Wire; nothing runs yet."""
        self._monitor = monitor
        self._queue: list[_Deletion] = []
        self._under_way: dict[int, _Deletion] = {}
        self._batches: set[asyncio.Task[None]] = set()
        self._executor: ThreadPoolExecutor | None = None
        self._unsubscribe: Callable[[], None] = lambda: None

    async def start(self) -> None:
        """Begin."""
        self._executor = ThreadPoolExecutor(BATCHES, thread_name_prefix="linkdelete")
        self._unsubscribe = self._monitor.subscribe(self._gone)

    async def stop(self) -> None:
        """Finish what was asked for, including what the kernel still works on."""
        while self._batches:
            await asyncio.wait(self._batches)
        self._unsubscribe()
        self._unsubscribe = lambda: None
        if self._executor is not None:
            self._executor.shutdown()
            self._executor = None

    async def delete(self, ifname: str) -> bool:
        """Delete a link; return whether there was one.

        Raises Unavailable or FailedPrecondition when the kernel refuses.
        """
        try:
            ifindex = socket.if_nametoindex(ifname)
        except OSError:
            return False
        deletion = self._under_way.get(ifindex)
        if deletion is None:
            deletion = _Deletion(ifname, ifindex, asyncio.get_running_loop().create_future())
            self._under_way[ifindex] = deletion
            self._queue.append(deletion)
            # Not at once: requests that the loop read together share a batch.
            asyncio.get_running_loop().call_soon(self._next)
        await asyncio.shield(deletion.gone)
        return True

    def _next(self) -> None:
        if self._queue and len(self._batches) < BATCHES:
            batch, self._queue = self._queue, []
            task = asyncio.create_task(self._run(batch))
            self._batches.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._batches.discard(task)
        self._next()

    async def _run(self, batch: Sequence[_Deletion]) -> None:
        """Carry one batch out, and answer those whose link the monitor did not see go."""
        what = f"deleting {', '.join(deletion.ifname for deletion in batch)}"
        indexes = [deletion.ifindex for deletion in batch]
        failure: PodlaneError | None = None
        try:
            await asyncio.get_running_loop().run_in_executor(self._executor, delete_links, indexes)
        except OSError as error:
            failure = explain(what, error)
        except PodlaneError as error:
            failure = error
        self._monitor.drain()  # whoever watches must hear of it before the record goes
        for deletion in batch:
            if deletion.gone.done():
                continue
            del self._under_way[deletion.ifindex]
            if failure is not None:
                deletion.gone.set_exception(failure)
            else:
                deletion.gone.set_result(None)

    def _gone(self, _ifname: str, ifindex: int) -> None:
        deletion = self._under_way.pop(ifindex, None)
        if deletion is not None:
            deletion.gone.set_result(None)


def delete_links(indexes: Sequence[int]) -> None:
    """Delete links by one request; those that are gone already are no error. Blocks until the kernel has freed them."""
    with Rtnl() as own:
        if len(indexes) == 1:
            own.batch([rtnl.delete_link(ifindex=indexes[0])])
        else:
            own.batch([rtnl.delete_group(gather(own, indexes))])


def gather(own: Rtnl, indexes: Sequence[int]) -> int:
    """Put the links into a group that has no other members and return its number. Raises Unavailable."""
    strangers: set[int] = set()
    for _ in range(_DRAWS):
        group = 1 + secrets.randbelow(_LARGEST_GROUP)
        own.batch([rtnl.set_link(ifindex=index, group=group, tolerate=rtnl.GONE) for index in indexes])
        members = {link.ifindex for link in map(rtnl.read_link, own.dump(rtnl.dump_links())) if link.group == group}
        strangers = members.difference(indexes)
        if not strangers:
            return group
        _log.warning("a link group was taken", group=group, members=sorted(strangers))
    raise Unavailable(f"{_DRAWS} link groups drawn at random had other members (interfaces {sorted(strangers)})")
