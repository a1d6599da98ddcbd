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
only: notifications are linkwatch.py's.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Self

from services.common.errors import FailedPrecondition, PodlaneError, Unavailable

# linux/netlink.h
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
_NLM_F_DUMP_INTR, _NLM_F_ACK_TLVS = 0x10, 0x200
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLMSGERR_ATTR_MSG = 1
_NLA_F_NESTED, _NLA_TYPE_MASK = 0x8000, 0x3FFF
_SOL_NETLINK, _NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK = 270, 10, 11, 12
# asm-generic/socket.h
_SO_NETNS_COOKIE = 71

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_ERROR = struct.Struct("=i")

# Answers wait in the receive buffer until the send returns. By default it has room for about 150 errors, or 40
# descriptions of a device.
_MESSAGES_PER_SEND = 32
_LARGEST_ANSWER = 64 * 1024
_DUMP_ATTEMPTS = 16
_RECEIVE = int(socket.MSG_DONTWAIT | socket.MSG_TRUNC)  # an enum's `|` takes as long as the read


@dataclass(frozen=True, slots=True)
class Request:
    """One message of a batch. `about` names its object in errors, as a text or as what makes one: `("route", prefix)`.

    An errno in `tolerate` counts as success: what is to be deleted is gone already, what is to be added is there.
    """

    type: int
    body: bytes
    flags: int = 0
    about: str | tuple[str, object] = ""
    tolerate: frozenset[int] = frozenset()


@dataclass(slots=True)
class Reply:
    """The answer to one request: bodies of the messages that came back, and the errno that was tolerated, or 0."""

    bodies: list[bytes] = field(default_factory=list)
    errno: int = 0


class NetlinkError(OSError):
    """The kernel's refusal of one message of a batch.

    `errno` as always; `strerror` is the kernel's sentence where it gave one; `index` is the request's place.
    """

    def __init__(self, code: int, sentence: str, request: Request, index: int) -> None:
        """Keep what failed."""
        super().__init__(code, sentence or os.strerror(code))
        self.about = request.about if isinstance(request.about, str) else " ".join(map(str, request.about))
        self.index = index

    def __str__(self) -> str:
        """`route 10.0.0.1/32: Nexthop has invalid gateway (ENETUNREACH)`."""
        name = errno.errorcode.get(self.errno or 0, str(self.errno))
        return f"{self.about}: {self.strerror} ({name})" if self.about else f"{self.strerror} ({name})"


class AnswerLost(OSError):
    """The kernel's answers did not fit or made no sense: whether the batch was carried out is not known."""


def explain(what: str, error: OSError) -> PodlaneError:
    """Return the domain error of a netlink failure while doing `what`."""
    if error.errno == errno.EPERM:
        return FailedPrecondition(f"{what}: {error}: the loader needs CAP_NET_ADMIN", errno=error.errno)
    if error.errno == errno.EACCES:  # what IPv6 says to addresses and routes where it is switched off
        return FailedPrecondition(f"{what}: {error}", errno=error.errno)
    return Unavailable(f"{what}: {error}", errno=error.errno)


def attribute(kind: int, payload: bytes) -> bytes:
    """Pack one attribute (struct nlattr), padded to 4 bytes."""
    return _ATTRIBUTE.pack(4 + len(payload), kind) + payload + b"\0" * (-len(payload) % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    """Pack an attribute that holds attributes."""
    return attribute(kind | _NLA_F_NESTED, b"".join(attributes))


def u8(kind: int, value: int) -> bytes:
    """Pack an attribute of one byte."""
    return attribute(kind, struct.pack("=B", value))


def u32(kind: int, value: int) -> bytes:
    """Pack an attribute of four bytes."""
    return attribute(kind, struct.pack("=I", value))


def text(kind: int, value: str) -> bytes:
    """Pack a zero-terminated string."""
    return attribute(kind, value.encode() + b"\0")


def attributes(body: bytes, offset: int = 0) -> dict[int, bytes]:
    """Unpack the attributes of a message's body after its fixed part; of a repeated kind the last one."""
    found = {}
    end = len(body)
    while offset + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(body, offset)
        if length < 4 or offset + length > end:
            raise AnswerLost(errno.EBADMSG, f"attribute {kind} of {length} bytes at {offset} of {end}")
        found[kind & _NLA_TYPE_MASK] = body[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def number(payload: bytes) -> int:
    """Return an attribute's number, of whatever size."""
    return int.from_bytes(payload, "little" if struct.pack("=H", 1)[0] else "big")


def string(payload: bytes) -> str:
    """Return an attribute's zero-terminated string."""
    return payload.rstrip(b"\0").decode(errors="replace")


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
                if kind != _NLMSG_ERROR:
                    replies[index].bodies.append(body)
                    continue
                acknowledged = index == indexes[-1]
                code, sentence = _error(kind, flags, body)
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
                consistent = consistent and not flags & _NLM_F_DUMP_INTR
                if kind == _NLMSG_ERROR or (kind == _NLMSG_DONE and _ERROR.unpack_from(body)[0]):
                    code, sentence = _error(kind, flags, body)
                    raise NetlinkError(code, sentence, request, 0)
                if kind == _NLMSG_DONE:
                    return bodies if consistent else None
                bodies.append(body)

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


def pack(request: Request, sequence: int, flags: int = NLM_F_ACK) -> bytes:
    """Return the message as it is sent."""
    length = _HEADER.size + len(request.body)
    header = _HEADER.pack(length, request.type, NLM_F_REQUEST | flags | request.flags, sequence, 0)
    return header + request.body + b"\0" * (-length % 4)


def messages(buffer: bytearray, size: int) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield type, flags, sequence number and body of each message in a datagram of `size` bytes."""
    offset = 0
    while offset + _HEADER.size <= size:
        length, kind, flags, sequence, _ = _HEADER.unpack_from(buffer, offset)
        if length < _HEADER.size or offset + length > size:
            raise AnswerLost(errno.EBADMSG, f"a message of {length} bytes at {offset} of {size}")
        yield kind, flags, sequence, bytes(buffer[offset + _HEADER.size : offset + length])
        offset += (length + 3) & ~3


def _error(kind: int, flags: int, body: bytes) -> tuple[int, str]:
    """Return the errno (0: acknowledged) and the kernel's sentence of NLMSG_ERROR or NLMSG_DONE."""
    code = -_ERROR.unpack_from(body)[0]
    if not flags & _NLM_F_ACK_TLVS:
        return code, ""
    # NETLINK_CAP_ACK: of the request only the header is echoed, and only in NLMSG_ERROR
    offset = _ERROR.size + (_HEADER.size if kind == _NLMSG_ERROR else 0)
    return code, string(attributes(body, offset).get(_NLMSGERR_ATTR_MSG, b""))
