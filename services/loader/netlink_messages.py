"""What goes over a netlink socket: messages and their attributes, packed and unpacked, and what can be wrong with them.

    struct nlmsghdr │ fixed part │ struct nlattr, payload, padding │ …

Requests are packed without an answer in mind, and answers are read without their request: which belongs to which is
netlink.py's. What is in a message of a kind is rtnl*.py's.
"""

import errno
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from services.common.errors import FailedPrecondition, PodlaneError, Unavailable

# linux/netlink.h
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
NLM_F_DUMP_INTR, _NLM_F_ACK_TLVS = 0x10, 0x200
NLMSG_ERROR, NLMSG_DONE = 2, 3
_NLMSGERR_ATTR_MSG = 1
_NLA_F_NESTED, _NLA_TYPE_MASK = 0x8000, 0x3FFF

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_ERROR = struct.Struct("=i")


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


def error_of(kind: int, flags: int, body: bytes) -> tuple[int, str]:
    """Return the errno (0: acknowledged) and the kernel's sentence of NLMSG_ERROR or NLMSG_DONE."""
    code = -_ERROR.unpack_from(body)[0]
    if not flags & _NLM_F_ACK_TLVS:
        return code, ""
    # NETLINK_CAP_ACK: of the request only the header is echoed, and only in NLMSG_ERROR
    offset = _ERROR.size + (_HEADER.size if kind == NLMSG_ERROR else 0)
    return code, string(attributes(body, offset).get(_NLMSGERR_ATTR_MSG, b""))
