"""Pods' veth pairs: created, deleted, listed, compared with what was asked for, and missed when they go.

    create   record intended → both ends in the kernel → pod's end configured → record done      (linkmaker.py)
    adopt    both ends found, which another plugin has made → record done                        (linkadopt.py)
    delete   the kernel reports it gone → record removed                                         (linkdelete.py)
    list     records beside the kernel's list, and a look into the pods                          (linklist.py)
    watch    every removal, whoever caused it                                                    (linkwatch.py)

Invariants
- One attachment's requests are served one at a time, in their order; attachments don't wait for each other except
  for the kernel's own lock.
- Every `lxc` link has a record from before it exists until after it is gone. A kill -9 at any point leaves at most an
  intended record and half a link; the next start removes both, and so does a repeat of the request.
- A chained link is only remembered: deleting it forgets the record, and its plugin deletes the interface.
- A finished link is never replaced by a request that differs from it: that is AlreadyExists, and the pod keeps its
  network.
- `create` and `delete` must run to their end once begun: the servicer shields them from callers that hang up.

Not here: programs, host routes and the node's end going up (regenerate.py, host.py).

Measured on 2 CPUs, Linux 6.18, in milliseconds: creating 1.1 (pair 0.35, pod's end 0.2, namespace 0.15, record twice
0.1), deleting 0.9 where the kernel's own answer takes 25; neither waits for the other.
"""

import asyncio
import socket
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

from services.common import telemetry
from services.common.errors import FailedPrecondition, NotFound, Unavailable
from services.common.locks import KeyedLocks
from services.common.model import Attachment
from services.common.stopwatch import Stopwatch
from services.loader import linkspec
from services.loader.linkadopt import LinkAdopter
from services.loader.linkdelete import LinkDeletions
from services.loader.linklist import LinkList, describe
from services.loader.linkmaker import LinkMaker
from services.loader.linkrecord import LinkRecords, uptime
from services.loader.linkspec import CreatedLink, LinkRecord, LinkRemoval, LinkSpec, LinkStatus
from services.loader.linkwatch import LinkMonitor
from services.loader.netlink import Rtnl
from services.loader.netlink_worker import NetlinkWorker
from services.loader.rtnl import LinkInfo

_log = telemetry.logger("links")


class Links:
    """The node's veth pairs. A component; it runs its own monitor and deletions, the worker is shared."""

    def __init__(self, directory: Path, worker: NetlinkWorker, node_mtu: Callable[[], int]) -> None:
        """Records live in `directory`; `node_mtu` returns the MTU of links that don't ask for one, bytes, and may
        raise FailedPrecondition while it isn't known.
        """
        self._worker = worker
        self._node_mtu = node_mtu
        self._records = LinkRecords(directory)
        self._maker = LinkMaker(self._records)
        self._adopter = LinkAdopter(self._records)
        self._monitor = LinkMonitor(lambda ifname: linkspec.is_link(ifname) or self._records.named(ifname) is not None)
        self._deletions = LinkDeletions(self._monitor)
        self._list = LinkList(self._records, worker)
        self._locks = KeyedLocks()

    def check(self) -> None:
        """Raise CorruptState when a record can't be read."""
        self._records.open()

    async def start(self) -> None:
        """Read the records, listen to the kernel, and remove what interrupted creations left.

        Raises CorruptState when a record can't be read.
        """
        self._records.open()
        await self._monitor.start()
        await self._deletions.start()
        for record in self._records.all():
            if not record.done:
                await self._deletions.delete(record.host_ifname)
                self._records.remove(record.host_ifname)
                _log.info("removed what an interrupted creation left", ifname=record.host_ifname)

    async def stop(self) -> None:
        """Finish deletions, listen no more; the links stay."""
        await self._deletions.stop()
        await self._monitor.stop()

    async def create(self, spec: LinkSpec, gone: Callable[[], bool] = lambda: False) -> CreatedLink:
        """Make a link, or return it when it is there as asked for. The node's end is down until host.py raises it. A
        chained one is taken over.

        `gone` says whether the caller has hung up: what nobody waits for isn't begun.

        Raises InvalidArgument (naming the field), NotFound (no such namespace), AlreadyExists (a foreign interface
        of that name, or a link that differs), FailedPrecondition or Unavailable (the kernel refuses).
        """
        linkspec.check(spec)
        mtu = spec.mtu or (0 if spec.chained else self._node_mtu())
        watch, asked = Stopwatch(), time.perf_counter_ns()

        def work(own: Rtnl) -> tuple[LinkRecord, LinkInfo, bool]:
            if gone():
                raise Unavailable(f"link of {spec.attachment}: its caller hung up before its turn came")
            watch.add("wait", asked)
            if spec.chained:
                return self._adopter.adopt(own, spec, watch)
            return self._maker.create(own, spec, mtu, watch)

        async with self._locks.hold(spec.attachment.host_ifname()):
            record, host, created = await self._worker.run(work, last=True)
            self._monitor.appeared(host.ifname, host.ifindex)
        if created:
            _log.debug("link created", attachment=str(spec.attachment), ifname=host.ifname, ifindex=host.ifindex)
        routes = record.routes if record.secondary else ()
        return CreatedLink(describe(record, host), created, tuple(watch.phases), routes)

    async def delete(self, attachment: Attachment, *, ifindex: int = 0, idle: float = 0.0) -> bool:
        """Delete a link; return whether there was one. Both its ends are gone from all lists on return; the kernel
        frees their memory some 20–40 ms later.

        With `ifindex` only the link that has it, with `idle` only one that was not asked for in so many seconds:
        FailedPrecondition. Raises FailedPrecondition or Unavailable when the kernel refuses.
        """
        ifname = attachment.host_ifname()
        async with self._locks.hold(ifname):
            record = self._records.get(ifname)
            if record is not None and record.spec.attachment != attachment:
                return False  # the same container and interface on another network: that one isn't meant
            _check_meant(ifname, record, ifindex, idle)
            chained = record is not None and record.spec.chained
            if record is not None and record.secondary:
                await self._worker.run(lambda _: self._maker.forget_rules(record))
            existed = chained or await self._deletions.delete(ifname)
            self._records.remove(ifname)
        if existed:
            _log.debug("link deleted", attachment=str(attachment), ifname=ifname)
        return existed

    async def repair(self, attachment: Attachment) -> list[str]:
        """Make a link what it was made as, and say what of it wasn't. A chained one is its plugin's matter.

        Raises NotFound (no record, no link, no namespace), FailedPrecondition or Unavailable when the kernel refuses.
        """
        async with self._locks.hold(attachment.host_ifname()):
            record = self._records.get(attachment.host_ifname())
            if record is None or not record.done or record.spec.attachment != attachment:
                raise NotFound(f"there is no link of {attachment}: see `podlane gc`")
            if record.spec.chained:
                return []
            repaired = await self._worker.run(lambda own: self._maker.repair(own, record))
        if repaired:
            _log.info("link repaired", attachment=str(attachment), repaired=repaired)
        return repaired

    async def list(
        self, attachment: Attachment | None = None, *, verify: bool = False, namespaces: bool = False
    ) -> list[LinkStatus]:
        """Return all links, or one attachment's, with what is wrong with them; see LinkList.

        A link of our name that has no record is listed with an empty attachment.
        """
        return await self._list.list(attachment, verify=verify, namespaces=namespaces)

    async def watch(self) -> AsyncGenerator[LinkRemoval, None]:
        """Yield each removal of a link from now on, until the caller ends the iteration."""
        queue: asyncio.Queue[LinkRemoval] = asyncio.Queue()

        def removed(ifname: str, ifindex: int) -> None:
            # The record goes once the deletion that caused this is answered, so here it is still there.
            record = self._records.named(ifname)
            attachment = record.spec.attachment if record is not None else None
            queue.put_nowait(LinkRemoval(ifname, ifindex, attachment))

        unsubscribe = self._monitor.subscribe(removed)
        try:
            while True:
                yield await queue.get()
        finally:
            unsubscribe()


def _check_meant(ifname: str, record: LinkRecord | None, ifindex: int, idle: float) -> None:
    """Raise FailedPrecondition when the link is not the one that a deletion means: its pod's next ADD has begun."""
    there = _index(record.host_ifname if record is not None else ifname)
    if ifindex and there not in {0, ifindex}:
        raise FailedPrecondition(f"{ifname} is another link by now: index {there}, not {ifindex}", ifindex=there)
    if idle and record is None and there:
        raise FailedPrecondition(f"{ifname}: there is no record of when it was last asked for")
    if idle and record is not None and record.idle(uptime()) < idle:
        since = int(record.idle(uptime()))
        raise FailedPrecondition(f"{ifname} was asked for {since} s ago: its ADD may be under way", idle_seconds=since)


def _index(ifname: str) -> int:
    try:
        return socket.if_nametoindex(ifname)
    except OSError:
        return 0
