"""Who lives in the network namespaces of pods: processes, found by /proc, for links whose namespace has lost its name.

A namespace lives for as long as anything holds it. A process inside means that there may be a pod; a descriptor or a
mount that somebody forgot means nothing. The name is no help any more, and the inode number that was written down may
be another namespace's by now. So the kernel is asked in its own terms: each namespace that a link's peer is in has a
number here, the link says which (`LinkInfo.peer_netnsid`), and each thread's is asked for by its id (RTM_GETNSID).
That is right wherever the peer was moved, and asks for no permission: /proc/<pid>/ns is closed to whoever may not
trace the process.

Every thread counts, because each may be in a namespace of its own. The answer is complete for the loader's pid
namespace and those below: the loader must run in the node's. A /proc that hides processes (hidepid) is no answer.

Blocking: about 10 µs a thread. Nothing waits for it but the search for garbage.
"""

import contextlib
import errno
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from services.loader import rtnl
from services.loader.netlink import Rtnl

SHOWN = 8
"""Processes of a namespace that are told of; the rest adds nothing."""

_PROC = "/proc"


def by_namespace() -> Mapping[int, tuple[str, ...]]:
    """Return who lives in which namespace, `name (pid)` by this namespace's number for it. Raises OSError."""
    threads = list(_threads())
    if not any(process == "1" for process, _ in threads):
        raise PermissionError(errno.EPERM, "process 1 is hidden: others may be, too", _PROC)
    with Rtnl() as own:
        replies = own.batch([rtnl.get_netnsid(thread) for _, thread in threads])
    found: dict[int, list[str]] = {}
    for (process, _), reply in zip(threads, replies, strict=True):
        number = rtnl.read_netnsid(reply.bodies[0]) if reply.bodies else None
        if number is not None and process not in found.setdefault(number, []):
            found[number].append(process)
    return {number: tuple(map(_describe, processes[:SHOWN])) for number, processes in found.items()}


def _threads() -> Iterator[tuple[str, int]]:
    """Yield each thread: its process and its own id."""
    for process in os.scandir(_PROC):
        if process.name.isdecimal():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
                for thread in os.scandir(f"{process.path}/task"):
                    yield process.name, int(thread.name)


def _describe(pid: str) -> str:
    name = "?"
    with contextlib.suppress(OSError):  # it has ended since: it lived there a moment ago
        name = Path(_PROC, pid, "comm").read_text().strip()
    return f"{name} ({pid})"
