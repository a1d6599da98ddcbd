"""rtnetlink, spoken in batches: the loader's way into the kernel's network (rtnetlink(7)).

    requests ──► one send: the kernel carries them out in order ──► what went wrong, what was asked for, one
                                                                    acknowledgement of the last

A pod's interface takes seven messages. Sent one by one through a library that builds each from a schema they cost
0.1–0.2 ms of Python apiece, and the library 27 MB; packed by `struct` and sent together they cost a tenth of that. A
test has pyroute2 read every message that is sent and write every one that is read.

Invariants
- The last request of a send is acknowledged. Of the others the kernel answers only failures and questions, in their
  order, so that the acknowledgement comes last and says that nothing is missing: answers that find no room make the
  next read fail (ENOBUFS). Acknowledging each would be another datagram and another read for every message.
- The kernel answers inside the send, so an answer that isn't there when it returns is never waited for: it is lost,
  the socket is replaced, and the caller learns that the outcome is unknown.
- Sequence numbers are never reused on a socket; an answer to anything but the current batch is an error.
- An error carries the kernel's own sentence (NETLINK_EXT_ACK) and what the failed message of the batch was about.
  The kernel goes on with the rest of a batch after an error: a batch is not a transaction, undoing is the caller's.

A socket belongs to one thread at a time and to the network namespace it was opened in (netlink_worker.py). Requests
only: notifications are linkwatch.py's. What a message looks like is in netlink_messages.py.
"""

import errno
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import Self

from services.common.errors import Unavailable
from services.loader.netlink_messages import (
    NLM_F_DUMP,
    NLM_F_DUMP_INTR,
    NLMSG_DONE,
    NLMSG_ERROR,
    AnswerLost,
    NetlinkError,
    Reply,
    Request,
    error_of,
    messages,
    pack,
)

_SOL_NETLINK, _NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK = 270, 10, 11, 12
# asm-generic/socket.h
_SO_NETNS_COOKIE = 71

# What ends a dump.
_LAST = frozenset((NLMSG_ERROR, NLMSG_DONE))

# Answers wait in the receive buffer until the send returns. By default it has room for about 150 errors, or 40
# descriptions of a device.
_MESSAGES_PER_SEND = 32
_LARGEST_ANSWER = 64 * 1024
_DUMP_ATTEMPTS = 16
_RECEIVE = int(socket.MSG_DONTWAIT | socket.MSG_TRUNC)  # an enum's `|` takes as long as the read


class Rtnl:
    """One NETLINK_ROUTE socket in the namespace of the thread that opens it. A context manager."""

    def __init__(self) -> None:
        """Open it."""
        self._socket = self._open()
        self._sequence = 0
        self._buffer = bytearray(_LARGEST_ANSWER)

    @staticmethod
    def _open() -> socket.socket:
        opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK):
            opened.setsockopt(_SOL_NETLINK, option, 1)
        return opened

    def __enter__(self) -> Self:
        """Return it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def cookie(self) -> int:
        """Return the namespace's cookie: a number that the kernel gives out once (SO_NETNS_COOKIE)."""
        raw = self._socket.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
        return int(struct.unpack("=Q", raw)[0])

    def batch(self, requests: Sequence[Request]) -> list[Reply]:
        """Carry out the requests in order and return their replies.

        Raises NetlinkError, the first one, after all were answered; AnswerLost when the outcome is not known.
        """
        replies = [Reply() for _ in requests]
        failures: list[NetlinkError] = []
        for first, packed in self._packed(requests):
            base = self._sequence - len(packed)
            self._send(b"".join(packed))
            self._collect(requests, replies, failures, range(first, first + len(packed)), base)
        if failures:
            raise min(failures, key=lambda failure: failure.index)
        return replies

    def _packed(self, requests: Sequence[Request]) -> Iterator[tuple[int, list[bytes]]]:
        """Yield sends: the index of the first request and the packed messages."""
        for first in range(0, len(requests), _MESSAGES_PER_SEND):
            packed = []
            *others, last = requests[first : first + _MESSAGES_PER_SEND]
            for request in others:
                self._sequence += 1
                packed.append(pack(request, self._sequence, 0))
            self._sequence += 1
            packed.append(pack(last, self._sequence))
            yield first, packed

    def _collect(
        self,
        requests: Sequence[Request],
        replies: list[Reply],
        failures: list[NetlinkError],
        indexes: range,
        base: int,
    ) -> None:
        """Read the answers of one send, to the acknowledgement of its last message."""
        acknowledged = False
        while not acknowledged:
            for kind, flags, sequence, body in self._receive():
                index = sequence - base - 1 + indexes.start
                if index not in indexes:
                    raise self._lost(f"an answer to message {sequence}, which is not of this batch")
                if kind != NLMSG_ERROR:
                    replies[index].bodies.append(body)
                    continue
                acknowledged = index == indexes[-1]
                code, sentence = error_of(kind, flags, body)
                if code in requests[index].tolerate:
                    replies[index].errno = code
                elif code:
                    failures.append(NetlinkError(code, sentence, requests[index], index))

    def dump(self, request: Request) -> list[bytes]:
        """Return the bodies of all objects that a request with NLM_F_DUMP lists, from one consistent pass."""
        for _ in range(_DUMP_ATTEMPTS):
            bodies = self._dump(request)
            if bodies is not None:
                return bodies
        raise Unavailable(f"{request.about or 'a dump'}: the kernel's tables changed during {_DUMP_ATTEMPTS} dumps")

    def _dump(self, request: Request) -> list[bytes] | None:
        self._sequence += 1
        self._send(pack(request, self._sequence, NLM_F_DUMP))
        bodies: list[bytes] = []
        consistent = True
        while True:
            for kind, flags, sequence, body in self._receive():
                if sequence != self._sequence:
                    raise self._lost(f"an answer to message {sequence} in the dump of {self._sequence}")
                consistent = consistent and not flags & NLM_F_DUMP_INTR
                if kind not in _LAST:
                    bodies.append(body)
                    continue
                code, sentence = error_of(kind, flags, body)
                if code or kind == NLMSG_ERROR:
                    raise NetlinkError(code, sentence, request, 0)
                return bodies if consistent else None

    def _send(self, data: bytes) -> None:
        self._socket.send(data)

    def _receive(self) -> Iterator[tuple[int, int, int, bytes]]:
        """Yield what one read brings: type, flags, sequence number and body of each message."""
        try:
            size = self._socket.recv_into(self._buffer, 0, _RECEIVE)
        except OSError as error:  # EAGAIN: no answer; ENOBUFS: it did not fit
            raise self._lost(f"reading the answer: {error}") from None
        if size > len(self._buffer):
            raise self._lost(f"an answer of {size} bytes")
        return messages(self._buffer, size)

    def _lost(self, why: str) -> AnswerLost:
        """Replace the socket: whatever is still on its way must not be taken for a later answer."""
        self._socket.close()
        self._socket = self._open()
        return AnswerLost(errno.ENOBUFS, f"the kernel's answer was lost ({why})")
