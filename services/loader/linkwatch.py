"""What the kernel says about links that go, whoever removes them: a pod's namespace dies with its links, an
administrator deletes one, or the loader itself does.

One socket listens to RTNLGRP_LINK for as long as the loader runs. A filter in the kernel lets removals pass and nothing
else: a starting pod makes a handful of notifications that nobody wants. When the socket overflows (ENOBUFS) removals
were lost, and the links that are there now are compared with those that were: whatever is missing has gone.

The kernel sends a removal once the link is closed and out of every list. It then waits one or two RCU grace periods
(20 ms and more) before it answers the request: linkdelete.py doesn't wait for that.
"""

import array
import asyncio
import contextlib
import errno
import socket
import struct
from collections.abc import Callable

from services.common import telemetry
from services.common.errors import FailedPrecondition
from services.loader import rtnl
from services.loader.netlink import Rtnl
from services.loader.netlink_messages import messages

_log = telemetry.logger("linkwatch")

# linux/rtnetlink.h: the bit of RTNLGRP_LINK in nl_groups
_RTMGRP_LINK = 1
_SO_ATTACH_FILTER = 26
_BUFFER = 1 << 20

# Classic BPF (linux/filter.h) over struct nlmsghdr: load the half word nlmsg_type, which is in host byte order where
# BPF loads in network order; accept RTM_DELLINK.
_LOAD_HALF, _JUMP_EQUAL, _RETURN = 0x28, 0x15, 0x06
_FILTER = (
    (_LOAD_HALF, 0, 0, 4),
    (_JUMP_EQUAL, 0, 1, socket.htons(rtnl.RTM_DELLINK)),
    (_RETURN, 0, 0, 0xFFFFFFFF),
    (_RETURN, 0, 0, 0),
)

Removed = Callable[[str, int], None]


class LinkMonitor:
    """Calls its subscribers on the loop, with name and index, for each link that goes. A component."""

    def __init__(self, counts: Callable[[str], bool]) -> None:
        """`counts` says of a device's name whether its removal is of interest; `start` listens."""
        self._counts = counts
        self._socket: socket.socket | None = None
        self._seen: dict[int, str] = {}
        self._listeners: list[Removed] = []
        self._buffer = bytearray(64 * 1024)

    def subscribe(self, removed: Removed) -> Callable[[], None]:
        """Call `removed` from now on; return what ends that."""
        self._listeners.append(removed)
        return lambda: self._listeners.remove(removed)

    async def start(self) -> None:
        """Listen, then take stock of what is there. Raises FailedPrecondition when the kernel refuses."""
        try:
            self._socket = self._listen()
            self._seen = self._links()
        except OSError as error:
            raise FailedPrecondition(f"the kernel's link notifications: {error}") from error
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self.drain)

    @staticmethod
    def _listen() -> socket.socket:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        opened = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        with contextlib.ExitStack() as undo:
            undo.callback(opened.close)
            code = array.array("B", b"".join(struct.pack("=HBBI", *line) for line in _FILTER))
            program = struct.pack("HP", len(_FILTER), code.buffer_info()[0])
            opened.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
            opened.bind((0, _RTMGRP_LINK))
            undo.pop_all()
        return opened

    async def stop(self) -> None:
        """Listen no more."""
        opened, self._socket = self._socket, None
        if opened is not None:
            asyncio.get_running_loop().remove_reader(opened.fileno())
            opened.close()

    def appeared(self, ifname: str, ifindex: int) -> None:
        """A link was made: should its removal be lost in an overflow, it will be missed."""
        self._seen[ifindex] = ifname

    def drain(self) -> None:
        """Handle all that the kernel has sent by now."""
        while self._socket is not None:
            try:
                size = self._socket.recv_into(self._buffer)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._compare()
                continue
            for kind, _, _, body in messages(self._buffer, size):
                # A bridge tells of a port that leaves it by the same message in its own family (PF_BRIDGE).
                if kind == rtnl.RTM_DELLINK and body[0] == socket.AF_UNSPEC:
                    link = rtnl.read_link(body)
                    self._gone(link.ifname, link.ifindex)

    def _gone(self, ifname: str, ifindex: int) -> None:
        self._seen.pop(ifindex, None)
        if self._counts(ifname):
            for removed in list(self._listeners):
                removed(ifname, ifindex)

    def _compare(self) -> None:
        there = self._links()
        _log.warning("link notifications were lost; comparing", known=len(self._seen), there=len(there))
        for ifindex, ifname in list(self._seen.items()):
            if there.get(ifindex) != ifname:
                self._gone(ifname, ifindex)
        self._seen.update(there)

    def _links(self) -> dict[int, str]:
        with Rtnl() as own:
            links = map(rtnl.read_link, own.dump(rtnl.dump_links()))
            return {link.ifindex: link.ifname for link in links if self._counts(link.ifname)}
