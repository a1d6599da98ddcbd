"""What the kernel says about the node's own addresses: that one came or went, in the loader's network namespace.

Which one doesn't matter: whoever is told looks at all of them, so that notifications which were lost in an overflow
(ENOBUFS) are one more reason to look. Pods' addresses are in other namespaces and make no noise here.
"""

import asyncio
import contextlib
import errno
import socket
from collections.abc import Callable

from services.common.errors import FailedPrecondition

# linux/rtnetlink.h: the bits of RTNLGRP_IPV4_IFADDR and RTNLGRP_IPV6_IFADDR in nl_groups
_RTMGRP_ADDRESSES = 0x10 | 0x100


class AddressMonitor:
    """Calls `changed` on the loop. A component."""

    def __init__(self, changed: Callable[[], object]) -> None:
        """`start` listens."""
        self._changed = changed
        self._socket: socket.socket | None = None

    async def start(self) -> None:
        """Listen. Raises FailedPrecondition when the kernel refuses."""
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        try:
            with contextlib.ExitStack() as undo:
                opened = undo.enter_context(socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE))
                opened.bind((0, _RTMGRP_ADDRESSES))
                undo.pop_all()
        except OSError as error:
            raise FailedPrecondition(f"the kernel's address notifications: {error}") from error
        self._socket = opened
        asyncio.get_running_loop().add_reader(opened.fileno(), self._drain, opened)

    async def stop(self) -> None:
        """Listen no more."""
        opened, self._socket = self._socket, None
        if opened is not None:
            asyncio.get_running_loop().remove_reader(opened.fileno())
            opened.close()

    def _drain(self, opened: socket.socket) -> None:
        while True:
            try:
                opened.recv(1)  # the rest of the message goes with it
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
        self._changed()
