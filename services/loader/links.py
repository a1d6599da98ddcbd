"""Pods' veth pairs: created, deleted, listed, compared with what was asked for, and missed when they go.

    create   record intended → both ends in the kernel → pod's end configured → record done      (linkmaker.py)
    delete   the kernel reports it gone → record removed                                         (linkdelete.py)
    watch    every removal, whoever caused it                                                    (linkwatch.py)

Invariants
- One attachment's requests are served one at a time, in their order; attachments don't wait for each other except
  for the kernel's own lock.
- Every `lxc` link has a record from before it exists until after it is gone. A kill -9 at any point leaves at most an
  intended record and half a link; the next start removes both, and so does a repeat of the request.
- A finished link is never replaced by a request that differs from it: that is AlreadyExists, and the pod keeps its
  network.
- `create` and `delete` must run to their end once begun: the servicer shields them from callers that hang up.

Not here: programs, host routes and the node's end going up (regenerate.py, host.py).

Measured on 2 CPUs, Linux 6.18, in milliseconds: creating 1.1 (pair 0.35, pod's end 0.2, namespace 0.15, record twice
0.1), deleting 0.9 where the kernel's own answer takes 25; neither waits for the other.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

from services.common import telemetry
from services.common.errors import PodlaneError
from services.common.locks import KeyedLocks
from services.common.model import Attachment, Phase
from services.loader import linkspec, rtnl
from services.loader.linkdelete import LinkDeletions
from services.loader.linkmaker import LinkMaker, look, visit
from services.loader.linkrecord import LinkRecords
from services.loader.linkspec import CreatedLink, HostEnd, Link, LinkRecord, LinkRemoval, LinkSpec, LinkStatus
from services.loader.linkwatch import LinkMonitor
from services.loader.netlink import Rtnl, explain
from services.loader.netlink_worker import NetlinkWorker
from services.loader.phases import Stopwatch
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
        self._monitor = LinkMonitor(linkspec.is_link)
        self._deletions = LinkDeletions(self._monitor)
        self._locks = KeyedLocks()

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

    async def create(self, spec: LinkSpec) -> CreatedLink:
        """Make a link, or return it when it is there as asked for. The node's end is down until host.py raises it.

        Raises InvalidArgument (naming the field), NotFound (no such namespace), AlreadyExists (a foreign interface
        of that name, or a link that differs), FailedPrecondition or Unavailable (the kernel refuses).
        """
        linkspec.check(spec)
        mtu = spec.mtu or self._node_mtu()
        watch, asked = Stopwatch(), time.perf_counter_ns()

        def work(own: Rtnl) -> tuple[LinkRecord, LinkInfo, bool]:
            watch.phases.append(Phase("wait", (time.perf_counter_ns() - asked) // 1000))
            return self._maker.create(own, spec, mtu, watch)

        async with self._locks.hold(spec.attachment.host_ifname()):
            record, host, created = await self._worker.run(work)
            self._monitor.appeared(host.ifname, host.ifindex)
        if created:
            _log.debug("link created", attachment=str(spec.attachment), ifname=host.ifname, ifindex=host.ifindex)
        return CreatedLink(_link(record, host), created, tuple(watch.phases))

    async def delete(self, attachment: Attachment) -> bool:
        """Delete a link; return whether there was one. Both its ends are gone from all lists on return; the kernel
        frees their memory some 20–40 ms later.

        Raises FailedPrecondition or Unavailable when the kernel refuses.
        """
        ifname = attachment.host_ifname()
        async with self._locks.hold(ifname):
            record = self._records.get(ifname)
            if record is not None and record.spec.attachment != attachment:
                return False  # the same container and interface on another network: that one isn't meant
            existed = await self._deletions.delete(ifname)
            self._records.remove(ifname)
        if existed:
            _log.debug("link deleted", attachment=str(attachment), ifname=ifname)
        return existed

    async def list(self, attachment: Attachment | None = None, *, verify: bool = False) -> list[LinkStatus]:
        """Return all links, or one attachment's, with what is wrong with them; `verify` looks into the pods, too.

        A link of our name that has no record is listed with an empty attachment.
        """
        found = {link.ifname: link for link in await self._worker.run(_our_links)}
        records = [one for one in self._records.all() if attachment in {None, one.spec.attachment}]
        statuses = [await self._status(record, found.get(record.host_ifname), verify=verify) for record in records]
        if attachment is None:
            statuses += [_stranger(link) for name, link in found.items() if self._records.get(name) is None]
        return statuses

    async def _status(self, record: LinkRecord, host: LinkInfo | None, *, verify: bool) -> LinkStatus:
        end = HostEnd(host.ifindex, host.mac, host.mtu) if host is not None else None
        problems = linkspec.host_problems(record, end)
        if verify and not problems:
            inode, inside = await self._worker.run(lambda _: _inside(record))
            problems += inside
        else:
            inode = record.netns_inode
        return LinkStatus(_link(record, host, inode), tuple(problems))

    async def watch(self) -> AsyncGenerator[LinkRemoval, None]:
        """Yield each removal of a link from now on, until the caller ends the iteration."""
        queue: asyncio.Queue[LinkRemoval] = asyncio.Queue()

        def removed(ifname: str, ifindex: int) -> None:
            # The record goes once the deletion that caused this is answered, so here it is still there.
            record = self._records.get(ifname)
            attachment = record.spec.attachment if record is not None else None
            queue.put_nowait(LinkRemoval(ifname, ifindex, attachment))

        unsubscribe = self._monitor.subscribe(removed)
        try:
            while True:
                yield await queue.get()
        finally:
            unsubscribe()


def _our_links(own: Rtnl) -> list[LinkInfo]:
    try:
        links = [rtnl.read_link(body) for body in own.dump(rtnl.dump_links())]
    except OSError as error:
        raise explain("listing links", error) from error
    return [link for link in links if linkspec.is_link(link.ifname)]


def _inside(record: LinkRecord) -> tuple[int, list[str]]:
    """Return the inode of the pod's namespace, 0 when it is gone, and what is wrong inside."""
    path = record.spec.netns_path
    try:
        with visit(path) as pod:
            if pod.cookie != record.netns_cookie:
                return 0, [f"{path} is another namespace now (inode {pod.netns.inode}, it was {record.netns_inode})"]
            return pod.netns.inode, linkspec.pod_problems(record, look(pod.rtnl, record.spec.attachment.ifname))
    except PodlaneError as error:
        return 0, [error.message]
    except OSError as error:
        raise explain(f"looking into {path}", error) from error


def _link(record: LinkRecord, host: LinkInfo | None, netns_inode: int | None = None) -> Link:
    return Link(
        attachment=record.spec.attachment,
        host_ifname=record.host_ifname,
        # 0, not the recorded one: a number that names nothing any more, or somebody else's link one day.
        host_ifindex=host.ifindex if host is not None else 0,
        host_mac=host.mac if host is not None else record.host_mac,
        pod_mac=record.pod_mac,
        netns_path=record.spec.netns_path,
        mtu=record.mtu,
        pod_ifindex=record.pod_ifindex,
        netns_inode=record.netns_inode if netns_inode is None else netns_inode,
        up=host is not None and host.up,
    )


def _stranger(host: LinkInfo) -> LinkStatus:
    """A link that a loader with another state directory made, or whose record somebody removed."""
    link = Link(
        attachment=Attachment("", "", ""),
        host_ifname=host.ifname,
        host_ifindex=host.ifindex,
        host_mac=host.mac,
        pod_mac=b"\0" * 6,
        netns_path="",
        mtu=host.mtu,
        pod_ifindex=host.peer_ifindex,
        netns_inode=0,
        up=host.up,
    )
    return LinkStatus(link, (f"the loader has no record of {host.ifname}: delete it with `ip link del {host.ifname}`",))
