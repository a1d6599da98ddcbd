"""The links as they are: the kernel's list beside the records, and, if asked for, what it looks like inside the pods.

    in both               compared (linkcompare.py)
    only in the records   index 0: the kernel has lost the link, or is about to get it
    only in the kernel    no attachment: a loader with another state directory made it, or somebody removed its record

Going inside tells what has become of each link's namespace. Where its name is lost, processes are looked for
(inhabitants.py): only they tell a pod that runs from a namespace that somebody forgot to close.
"""

import asyncio
import dataclasses
import functools
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path

from services.common import telemetry
from services.common.errors import NotFound, PodlaneError
from services.common.model import Attachment
from services.loader import inhabitants, linkcompare, linkspec, rtnl
from services.loader.linklook import look, visit
from services.loader.linkrecord import LinkRecords, uptime
from services.loader.linkspec import HostEnd, Link, LinkRecord, LinkStatus, Namespace
from services.loader.netlink import Rtnl
from services.loader.netlink_messages import explain
from services.loader.netlink_worker import NetlinkWorker
from services.loader.netns import NotThePods
from services.loader.rtnl import LinkInfo

_log = telemetry.logger("links")


@dataclasses.dataclass(frozen=True, slots=True)
class Inside:
    """What a look into a link's namespace found; `inode` 0: it could not be opened."""

    namespace: Namespace
    inode: int
    problems: list[str]


class LinkList:
    """Lists links."""

    def __init__(self, records: LinkRecords, worker: NetlinkWorker) -> None:
        """Read `records`; look at the kernel from `worker`'s thread."""
        self._records = records
        self._worker = worker

    async def list(
        self, attachment: Attachment | None = None, *, verify: bool = False, namespaces: bool = False
    ) -> list[LinkStatus]:
        """Return all links, or one attachment's, with what is wrong with them.

        `namespaces` tells what has become of the pods' namespaces, too, `verify` also what is wrong inside them.
        """
        inside = functools.partial(_inside, verify=verify) if verify or namespaces else None
        chained = {one.host_ifname for one in self._records.all() if one.spec.chained}
        found = {link.ifname: link for link in await self._worker.run(lambda own: _our_links(own, chained))}
        records = [one for one in self._records.all() if attachment in {None, one.spec.attachment}]
        statuses = [await self._status(record, found.get(record.host_ifname), inside) for record in records]
        for name, link in found.items():
            asked = attachment is None or name == attachment.host_ifname()
            if asked and name not in chained and self._records.get(name) is None:
                statuses.append(_stranger(link, await self._worker.run(functools.partial(_peer, link=link))))
        return await _with_processes(statuses, found)

    async def _status(
        self, record: LinkRecord, host: LinkInfo | None, look_inside: Callable[[LinkRecord], Inside] | None
    ) -> LinkStatus:
        end = HostEnd(host.ifindex, host.mac, host.mtu) if host is not None else None
        problems = linkcompare.host_problems(record, end)
        inside = Inside(Namespace.UNKNOWN, record.netns_inode, [])
        if look_inside is not None and host is not None and host.ifindex == record.host_ifindex:
            inside = await self._worker.run(lambda _: look_inside(record))
        return LinkStatus(
            describe(record, host, inside.inode),
            (*problems, *inside.problems),
            record.idle(uptime()),
            inside.namespace,
        )


async def _with_processes(statuses: Sequence[LinkStatus], found: Mapping[str, LinkInfo]) -> list[LinkStatus]:
    """Add who lives where a link leads whose namespace is lost."""
    if not any(status.namespace.lost for status in statuses):
        return list(statuses)
    living: Mapping[int, tuple[str, ...]] | None = None
    try:
        living = await asyncio.to_thread(inhabitants.by_namespace)
    except OSError as error:
        _log.warning("processes can't be looked at: whether pods without a namespace run is unknown", reason=str(error))
    return [
        _inhabited(status, found[status.link.host_ifname], living) if status.namespace.lost else status
        for status in statuses
    ]


def _inhabited(status: LinkStatus, host: LinkInfo, living: Mapping[int, tuple[str, ...]] | None) -> LinkStatus:
    # No number: somebody moved the pod's end into the node's own namespace.
    if living is None or host.peer_netnsid is None:
        return dataclasses.replace(status, namespace=Namespace.UNKNOWN)
    return dataclasses.replace(status, processes=living.get(host.peer_netnsid, ()))


def _our_links(own: Rtnl, chained: Container[str]) -> list[LinkInfo]:
    try:
        links = [rtnl.read_link(body) for body in own.dump(rtnl.dump_links())]
    except OSError as error:
        raise explain("listing links", error) from error
    return [link for link in links if linkspec.is_link(link.ifname) or link.ifname in chained]


def _inside(record: LinkRecord, *, verify: bool) -> Inside:
    """Go into the pod's namespace and, with `verify`, compare what is there."""
    path = record.spec.netns_path
    try:
        with visit(path) as pod:
            if pod.cookie != record.netns_cookie:
                was = f"{path} is another namespace now (inode {pod.netns.inode}, it was {record.netns_inode})"
                return Inside(Namespace.OTHER, 0, [was])
            ifname = record.spec.attachment.ifname
            problems = linkcompare.pod_problems(record, look(pod.rtnl, ifname)) if verify else []
            return Inside(Namespace.THERE, pod.netns.inode, problems)
    except NotFound as error:
        return Inside(_absent(Path(path)), 0, [error.message])
    except NotThePods as error:
        return Inside(Namespace.OTHER, 0, [error.message])
    except PodlaneError as error:
        return Inside(Namespace.UNKNOWN, 0, [error.message])
    except OSError as error:
        raise explain(f"looking into {path}", error) from error


def _absent(path: Path) -> Namespace:
    """Tell a name that is gone from a place that can't be seen: a loader in another mount namespace sees none of it."""
    visible = path.parent.is_dir() or path.is_relative_to("/proc")
    return Namespace.GONE if visible else Namespace.UNKNOWN


def describe(record: LinkRecord, host: LinkInfo | None, netns_inode: int | None = None) -> Link:
    """Return a link as it is; `netns_inode` None: the recorded one."""
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
        chained=record.spec.chained,
    )


def _peer(own: Rtnl, link: LinkInfo) -> LinkInfo | None:
    """Return the other end of a link, wherever it is; None when that can't be told."""
    if link.peer_netnsid is None:
        return None
    try:
        bodies = own.batch([rtnl.get_link(ifindex=link.peer_ifindex, netnsid=link.peer_netnsid)])[0].bodies
    except OSError as error:
        raise explain(f"the other end of {link.ifname}", error) from error
    return rtnl.read_link(bodies[0]) if bodies else None


def _stranger(host: LinkInfo, peer: LinkInfo | None) -> LinkStatus:
    """Return a link that there is no record of. Its pod's end is told, so that its endpoint knows it again."""
    link = Link(
        attachment=Attachment("", "", ""),
        host_ifname=host.ifname,
        host_ifindex=host.ifindex,
        host_mac=host.mac,
        pod_mac=peer.mac if peer is not None else b"\0" * 6,
        netns_path="",
        mtu=host.mtu,
        pod_ifindex=host.peer_ifindex,
        netns_inode=0,
        up=host.up,
    )
    return LinkStatus(link, (f"the loader has no record of {host.ifname}: delete it with `ip link del {host.ifname}`",))
