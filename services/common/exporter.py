"""Serves /metrics over HTTP: on a Unix socket, or on a TCP address for a Prometheus that can't reach one.

    curl --unix-socket /run/podlane/ipam/metrics.sock http://podlane/metrics

HTTP/1.1 as far as a scrape needs it (RFC 9112): one request per connection, GET and HEAD, no body is read. A client
that sends nothing, or doesn't take its answer, is dropped after some seconds. The socket is private by its directory,
as the service's own is.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

from services.common import sockets, telemetry
from services.common.errors import InvalidArgument, Unavailable

_log = telemetry.logger("exporter")

# https://prometheus.io/docs/instrumenting/exposition_formats/
_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_LONGEST_HEAD = 8192
_PATIENCE_SECONDS = 10.0
_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
}


class Exporter:
    """A component. `page` returns what is served: metrics in Prometheus' text format."""

    def __init__(self, setting: str, listen: str, page: Callable[[], bytes]) -> None:
        """Remember where: a path, `host:port`, or nowhere if empty. Raises InvalidArgument for anything else, naming
        `setting`.
        """
        self._where = _parse(setting, listen)
        self._page = page
        self._server: asyncio.Server | None = None
        self.connections: set[_Connection] = set()
        """Those that are connected now."""

    async def start(self) -> None:
        """Listen. Raises FailedPrecondition when another process serves there, Unavailable when that can't be."""
        loop = asyncio.get_running_loop()
        try:
            match self._where:
                case Path() as path:
                    sockets.prepare(path)
                    self._server = await loop.create_unix_server(lambda: _Connection(self), path)
                case (host, port):
                    self._server = await loop.create_server(lambda: _Connection(self), host, port)
        except OSError as error:
            raise Unavailable(f"metrics can't be served on {self._shown()}: {error.strerror}") from None

    async def stop(self) -> None:
        """Stop listening, drop who is connected, remove the socket."""
        if self._server is None:
            return
        if isinstance(self._where, Path):
            # First of all: once nobody listens, the next process may bind a socket of its own there.
            self._where.unlink(missing_ok=True)
        self._server.close()
        for connection in tuple(self.connections):
            connection.drop()
        await self._server.wait_closed()
        self._server = None

    def _shown(self) -> str:
        return str(self._where) if isinstance(self._where, Path) else "{}:{}".format(*self._where or ())

    def answer(self, head: bytes) -> bytes:
        """Return the response to a request, given its head up to the empty line."""
        try:
            method, target, version = head.partition(b"\r\n")[0].decode("ascii").split(" ")
            path = urlsplit(target).path
        except ValueError:
            return _response(400, b"this is not HTTP\n")
        if not version.startswith("HTTP/1."):
            return _response(400, b"this speaks HTTP/1.1\n")
        if path != "/metrics":
            return _response(404, b"there is /metrics\n")
        if method not in {"GET", "HEAD"}:
            return _response(405, b"GET /metrics\n", ("Allow: GET, HEAD",))
        try:
            page = self._page()
        except Exception:  # noqa: BLE001 # a collector with a bug must not take the connection with it
            _log.exception("metrics")
            return _response(500, b"a metric can't be read: the service's log has the details\n")
        return _response(200, page, (f"Content-Type: {_CONTENT_TYPE}",), body=method == "GET")


class _Connection(asyncio.Protocol):
    """One request, one answer."""

    def __init__(self, exporter: Exporter) -> None:
        self._exporter = exporter
        self._head = b""
        self._transport: asyncio.Transport | None = None
        self._patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._patience = asyncio.get_running_loop().call_later(_PATIENCE_SECONDS, self.drop)
        self._exporter.connections.add(self)

    def data_received(self, data: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        self._head += data
        if b"\r\n\r\n" in self._head:
            self._transport.write(self._exporter.answer(self._head))
            self._transport.close()
        elif len(self._head) > _LONGEST_HEAD:
            self._transport.write(_response(431, b"that is too much for a scrape\n"))
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 # asyncio's signature
        self._exporter.connections.discard(self)
        if self._patience is not None:
            self._patience.cancel()

    def drop(self) -> None:
        """Close at once, whatever was not sent yet."""
        if self._transport is not None:
            self._transport.abort()


def _response(code: int, content: bytes, headers: tuple[str, ...] = (), *, body: bool = True) -> bytes:
    lines = (f"HTTP/1.1 {code} {_REASONS[code]}", f"Content-Length: {len(content)}", "Connection: close", *headers)
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode() + (content if body else b"")


def _parse(setting: str, listen: str) -> Path | tuple[str, int] | None:
    if not listen:
        return None
    if "/" in listen:
        return Path(listen)
    host, colon, port = listen.rpartition(":")
    if not (colon and host and port.isdigit() and 0 < int(port) < 65536):
        raise InvalidArgument(f"{setting}: {listen!r} is neither a path nor host:port (127.0.0.1:9961)", key=setting)
    return host.removeprefix("[").removesuffix("]"), int(port)
