"""One unary gRPC call over a Unix socket, framed by hand (RFC 9113; gRPC over HTTP/2).

    connect → preface, SETTINGS, WINDOW_UPDATE, HEADERS, DATA in one send → frames until stream 1 ends → close

Every call has a connection of its own: a process makes three of them, each to another service, and a connection that
carries one call needs neither HPACK's dynamic table nor flow control beyond the windows granted at its start.

Two ways to fail, and the caller must tell them apart:

    CallFailed     the call failed as gRPC says it; `reached` tells whether the service can have begun to work on it
    Unsupported    the peer speaks more HTTP/2 than this, or something else; grpcio is to make the call instead

Not here: requests that don't fit one frame and the default window, compression, streaming.
"""

import _socket
import errno as _errno
import time

from cni import hpack
from cni.hpack import Unsupported

# gRPC's status codes, as far as they are told apart here.
OK, CANCELLED, UNKNOWN, INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND, ALREADY_EXISTS, PERMISSION_DENIED = range(8)
RESOURCE_EXHAUSTED, FAILED_PRECONDITION, ABORTED, OUT_OF_RANGE, UNIMPLEMENTED, INTERNAL, UNAVAILABLE = range(8, 15)

DATA, HEADERS, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, CONTINUATION = 0, 1, 3, 4, 5, 6, 7, 9
END_STREAM, END_HEADERS, PADDED, PRIORITY, ACK = 0x1, 0x4, 0x8, 0x20, 0x1
REFUSED_STREAM = 7
# RFC 9113 §4.2: what each side takes when nothing else was agreed.
FRAME_SIZE = 16384
HEAD_SIZE = 9
# gRPC: one byte that says whether it is compressed, four of length.
PREFIX_SIZE = 5
# What an answer may have in all; the longest is a page of GC's lists.
WINDOW = 16 << 20
RECEIVE_SIZE = 65536
ACK_SECONDS = 0.2


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    size = len(payload)
    return (size << 48 | kind << 40 | flags << 32 | stream).to_bytes(HEAD_SIZE, "big") + payload


# HEADER_TABLE_SIZE 0, ENABLE_PUSH 0, INITIAL_WINDOW_SIZE; then the connection's own window, raised from 65535.
_SETTINGS = b"\x00\x01\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x04" + WINDOW.to_bytes(4, "big")
PREFACE = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    + _frame(SETTINGS, 0, 0, _SETTINGS)
    + _frame(8, 0, 0, (WINDOW - 65535).to_bytes(4, "big"))
)
SETTINGS_ACK = _frame(SETTINGS, ACK, 0, b"")
# :method POST, :scheme http, :authority and content-type by their names' places in the static table.
_COMMON_HEADERS = b"\x83\x86\x01\x09localhost\x0f\x10\x10application/grpc" + hpack.literal(b"te", b"trailers")


class CallFailed(Exception):
    """The call failed: gRPC's code and message, the bytes of google.rpc.Status if there were any.

    `errno` is the system call's when no connection came about.
    `reached` is False only when the service certainly did not begin: then there is nothing to undo.
    `answered` is True when the code and the message are the service's own.
    """

    def __init__(
        self, code: int, message: str, *, reached: bool, answered: bool = False, details: bytes = b"", errno: int = 0
    ) -> None:
        """Keep all of it."""
        super().__init__(message)
        self.code = code
        self.message = message
        self.reached = reached
        self.answered = answered
        self.details = details
        self.errno = errno

    @property
    def forbidden(self) -> bool:
        """Whether no connection came about because of permissions."""
        return self.errno in (_errno.EACCES, _errno.EPERM)


def call(socket_path: str, method: str, request: bytes, deadline: float, request_id: str) -> bytes:
    """Call `method` and return the response message. `deadline` is a time.monotonic().

    Raises CallFailed, or Unsupported with `reached` set when the request had been sent.
    """
    if len(request) + PREFIX_SIZE > FRAME_SIZE:
        raise Unsupported(f"a request of {len(request)} bytes")
    opening = PREFACE + _request(method, request, deadline, request_id)
    connection = connect(socket_path, deadline)
    try:
        connection.sendall(opening)
        return _receive(connection, deadline).message()
    except Unsupported as unsupported:
        unsupported.reached = True
        raise
    except TimeoutError:
        raise CallFailed(DEADLINE_EXCEEDED, "no answer in time", reached=True) from None
    except OSError as error:
        raise CallFailed(UNAVAILABLE, f"the connection broke: {error.strerror}", reached=True) from None
    finally:
        connection.close()


def connect(path: str, deadline: float) -> "_socket.socket":
    """Return a connected socket. Raises CallFailed that names the reason, not reached."""
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        connection.settimeout(left(deadline))
        try:
            connection.connect(path)
        except BlockingIOError:
            _wait_for_backlog(connection, path, deadline)
    except TimeoutError:
        connection.close()
        raise CallFailed(DEADLINE_EXCEEDED, "no connection in time", reached=False) from None
    except OSError as error:
        connection.close()
        raise CallFailed(UNAVAILABLE, error.strerror or str(error), reached=False, errno=error.errno or 0) from None
    return connection


def _wait_for_backlog(connection: "_socket.socket", path: str, deadline: float) -> None:
    """Connect to a listener whose queue is full.

    unix(7): then a non-blocking connect fails at once with EAGAIN and nothing tells when to repeat it, whereas a
    blocking one waits for as long as SO_SNDTIMEO says.
    """
    import _struct

    seconds = left(deadline)
    timeval = _struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6))
    connection.setblocking(True)
    connection.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDTIMEO, timeval)
    try:
        connection.connect(path)
    except BlockingIOError:
        raise TimeoutError from None


def left(deadline: float) -> float:
    """Return the seconds until `deadline`. Raises TimeoutError when there are none."""
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds


def _request(method: str, request: bytes, deadline: float, request_id: str) -> bytes:
    """Return the HEADERS and DATA frames of stream 1."""
    milliseconds = max(1, int((deadline - time.monotonic()) * 1e3))
    block = (
        _COMMON_HEADERS
        + hpack.indexed_literal(4, method.encode())
        + hpack.literal(b"grpc-timeout", b"%dm" % milliseconds)
        + hpack.literal(b"x-request-id", request_id.encode())
    )
    body = b"\x00" + len(request).to_bytes(4, "big") + request
    return _frame(HEADERS, END_HEADERS, 1, block) + _frame(DATA, END_STREAM, 1, body)


def _receive(connection: "_socket.socket", deadline: float) -> "Answer":
    """Read until stream 1 has ended.

    Settings and pings are acknowledged only when the service lets the caller wait: most calls are over before, and
    each acknowledgement would wake the service once more. No server minds: it gives its peers seconds for that.
    """
    answer = Answer()
    buffer = b""
    while True:
        patience = left(deadline)
        connection.settimeout(min(patience, ACK_SECONDS) if answer.owed else patience)
        try:
            chunk = connection.recv(RECEIVE_SIZE)
        except TimeoutError:
            if not answer.owed:
                raise
            connection.settimeout(left(deadline))
            connection.sendall(answer.owed)
            answer.owed = b""
            continue
        if not chunk:
            raise CallFailed(UNAVAILABLE, "the service closed the connection before it answered", reached=True)
        buffer = answer.feed(buffer + chunk)
        if answer.ended:
            return answer


class Answer:
    """What has arrived on stream 1, and the acknowledgements that are owed for what came beside it."""

    __slots__ = ("_block", "_body", "_fields", "_greeted", "_last", "ended", "owed")

    def __init__(self) -> None:
        """Start with nothing."""
        self.ended = False
        self.owed = b""
        self._greeted = False
        self._last = False
        self._body: list[bytes] = []
        self._block = b""
        self._fields: dict[bytes, bytes] = {}

    def feed(self, data: bytes) -> bytes:
        """Take all whole frames and return the rest. Raises CallFailed or Unsupported."""
        at = 0
        while len(data) - at >= HEAD_SIZE and not self.ended:
            size = int.from_bytes(data[at : at + 3], "big")
            if size > FRAME_SIZE or (not self._greeted and data[at + 3] != SETTINGS):
                raise Unsupported(f"bytes that are not HTTP/2: {data[at : at + 24]!r}")
            if len(data) - at - HEAD_SIZE < size:
                break
            self._greeted = True
            start = at + HEAD_SIZE
            at = start + size
            # There is only stream 1, and 0 for the connection itself.
            self._take(data[start - 6], data[start - 5], data[start:at])
        return data[at:]

    def _take(self, kind: int, flags: int, payload: bytes) -> None:
        if kind == DATA:
            self._body.append(_unpadded(flags, payload))
            self.ended = bool(flags & END_STREAM)
        elif kind == HEADERS:
            payload = _unpadded(flags, payload)
            self._block = payload[5:] if flags & PRIORITY else payload
            self._last = bool(flags & END_STREAM)
            self._headers(flags)
        elif kind == CONTINUATION:
            self._block += payload
            self._headers(flags)
        elif kind == SETTINGS and not flags & ACK:
            self.owed += SETTINGS_ACK
        elif kind == PING and not flags & ACK:
            self.owed += _frame(PING, ACK, 0, payload)
        elif kind == RST_STREAM:
            refused = int.from_bytes(payload, "big") == REFUSED_STREAM
            raise CallFailed(UNAVAILABLE, f"the service reset the call ({payload.hex()})", reached=not refused)
        elif kind == GOAWAY:
            _check_goaway(payload)
        elif kind == PUSH_PROMISE:
            raise Unsupported("a promise of a push, which was not allowed")

    def _headers(self, flags: int) -> None:
        if flags & END_HEADERS:
            self._fields.update(hpack.decode(self._block))
            self._block = b""
            self.ended = self._last

    def message(self) -> bytes:
        """Return the response message of a call that ended well. Raises CallFailed or Unsupported."""
        fields = self._fields
        status = fields.get(b"grpc-status", b"")
        if fields.get(b":status") != b"200" or not status.isdigit():
            raise Unsupported(f"an answer with status {fields.get(b':status')!r} and grpc-status {status!r}")
        if status != b"0":
            text = percent_decode(fields.get(b"grpc-message", b""))
            details = _details(fields.get(b"grpc-status-details-bin", b""))
            raise CallFailed(int(status), text, reached=True, answered=True, details=details)
        body = b"".join(self._body)
        if body[:1] != b"\x00" or int.from_bytes(body[1:PREFIX_SIZE], "big") != len(body) - PREFIX_SIZE:
            raise Unsupported(f"a body of {len(body)} bytes that is not one plain message")
        return body[PREFIX_SIZE:]


def _unpadded(flags: int, payload: bytes) -> bytes:
    return payload[1 : len(payload) - payload[0]] if flags & PADDED and payload else payload


def _check_goaway(payload: bytes) -> None:
    # The last stream that the peer will still answer (RFC 9113 §6.8); ours is 1.
    if payload[:4] == bytes(4):
        text = payload[8:].decode("utf-8", "replace")
        raise CallFailed(UNAVAILABLE, f"the service is going away {text}".rstrip(), reached=False)


def _details(value: bytes) -> bytes:
    """Return google.rpc.Status; b"" when there is none or it is not base64: it only refines the message."""
    if not value:
        return b""
    import binascii

    try:
        # gRPC leaves the padding away.
        return binascii.a2b_base64(value + b"==")
    except binascii.Error:
        return b""


def percent_decode(text: bytes) -> str:
    """Return a grpc-message as text; what isn't well encoded stays as it is (gRPC over HTTP/2, Status-Message)."""
    if b"%" not in text:
        return text.decode("utf-8", "replace")
    first, *rest = text.split(b"%")
    parts = [first]
    for part in rest:
        try:
            parts += (bytes.fromhex(part[:2].decode("ascii")), part[2:])
        except ValueError:
            parts += (b"%", part)
    return b"".join(parts).decode("utf-8", "replace")
