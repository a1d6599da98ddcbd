"""Serves the page: its files, a snapshot, what has changed since as Server-Sent Events, and one endpoint's details.

    GET /                        the page; its files are below /static/
    GET /api/snapshot            {"epoch", "now", "revision", "put": {kind: {key: value}}}
    GET /api/stream?since=E-R    data: {"revision", "put", "gone"}, each with the id E-R, whenever something has changed
    GET /api/endpoint/7          that endpoint as `GetEndpoint` has it, and what is usual for its phases

`E` is this process and `R` a revision of its board. A browser that was cut off sends the last id that it has seen; one
that has seen another process, or is too far behind, gets `event: reset` and takes a snapshot again. Changes are sent
ten times a second at most; a reader that takes nothing for PATIENCE seconds is dropped, and one at rest hears a comment
now and then, by which both ends notice that the other is gone.
"""

import asyncio
import contextlib
import gzip
import json
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

from cli.ui import files, http
from cli.ui.board import Board
from cli.ui.http import Refused, Request
from services.common import sockets
from services.common.errors import NotFound, PodlaneError, Unavailable

PATIENCE = 10.0
# A page that loads takes six at a time, and one stream for as long as it is open.
MOST_CONNECTIONS = 64

_PAUSE = 0.1
_SIGN_OF_LIFE = 15.0
# Below it a packet or two are saved, and nobody sees it.
_WORTH_PACKING = 16384

Detail = Callable[[int], Awaitable[Any]]


class Server:
    """Listens while it is started. `detail` returns what the page shows of one endpoint, or raises a PodlaneError."""

    def __init__(self, board: Board, detail: Detail, *, sign_of_life: float = _SIGN_OF_LIFE) -> None:
        """Read the files."""
        self._board = board
        self._detail = detail
        self._files = files.load()
        self._epoch = secrets.token_hex(4)
        self._sign_of_life = sign_of_life
        self._news = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._socket: Path | None = None
        self._connections: set[asyncio.Task[None]] = set()
        board.changed = self._news.set

    async def start(self, where: Path | tuple[str, int]) -> str:
        """Listen on a Unix socket or a TCP address; return what a person opens. Raises Unavailable."""
        try:
            match where:
                case Path() as path:
                    sockets.prepare(path)
                    self._socket = path
                    self._server = await asyncio.start_unix_server(self._accept, path, limit=http.LONGEST_HEAD)
                    return str(path)
                case (host, port):
                    self._server = await asyncio.start_server(self._accept, host, port, limit=http.LONGEST_HEAD)
        except OSError as error:
            shown = where if isinstance(where, Path) else f"{where[0]} port {where[1]}"
            raise Unavailable(f"the page can't be served on {shown}: {error.strerror}; see --listen") from None
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/"

    async def stop(self) -> None:
        """Stop listening and drop who is connected."""
        if self._server is None:
            return
        self._server.close()
        for connection in tuple(self._connections):
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()
        if self._socket is not None:
            self._socket.unlink(missing_ok=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task: Any = asyncio.current_task()
        self._connections.add(task)
        try:
            with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                await self._answer(reader, writer)
        except asyncio.CancelledError:
            # `stop`: asyncio's own callback would show it as an error.
            pass
        finally:
            self._connections.discard(task)
            writer.transport.abort() if writer.transport.get_write_buffer_size() else writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request: Request | None = None
        try:
            try:
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
            except asyncio.LimitOverrunError:
                raise Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "that is too much to ask") from None
            request = self._admit(head)
            if request.path == "/api/stream":
                await self._stream(request, writer)
                return
            answer = await self._page(request)
        except Refused as refused:
            allow = {"Allow": "GET, HEAD"} if refused.status is HTTPStatus.METHOD_NOT_ALLOWED else {}
            answer = _whole(
                refused.status, "text/plain; charset=utf-8", f"{refused.sentence}\n".encode(), headers=allow
            )
        head, body = answer
        await _send(writer, head if request is not None and request.method == "HEAD" else head + body)

    def _admit(self, head: bytes) -> Request:
        if len(self._connections) > MOST_CONNECTIONS:
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, "too many look at this page: close a window")
        return http.parse(head)

    async def _page(self, request: Request) -> tuple[bytes, bytes]:
        if (file := self._files.get(request.path)) is not None:
            if request.headers.get("if-none-match") == file.etag:
                return http.head(HTTPStatus.NOT_MODIFIED, {"ETag": file.etag}, file.scripts), b""
            return _whole(HTTPStatus.OK, file.kind, file.content, headers={"ETag": file.etag}, scripts=file.scripts)
        if request.path == "/api/snapshot":
            snapshot = self._board.snapshot()
            told = {"epoch": self._epoch, "now": time.time(), "revision": snapshot.revision, "put": snapshot.put}
            return _json(request, told)
        kind, _, id_ = request.path.rpartition("/")
        if kind == "/api/endpoint" and id_.isascii() and id_.isdigit() and len(id_) < 6:
            try:
                return _json(request, await self._detail(int(id_)))
            except NotFound as error:
                return _json(request, {"error": error.message}, HTTPStatus.NOT_FOUND)
            except PodlaneError as error:
                return _json(request, {"error": error.message}, HTTPStatus.SERVICE_UNAVAILABLE)
        raise Refused(HTTPStatus.NOT_FOUND, "there is no such page")

    async def _stream(self, request: Request, writer: asyncio.StreamWriter) -> None:
        kind = {"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
        await _send(writer, http.head(HTTPStatus.OK, kind))
        if request.method == "HEAD":
            return
        revision = self._seen(request)
        while revision is not None:
            delta = self._board.since(revision)
            if delta is None:
                break
            if delta.revision > revision:
                told = json.dumps({"revision": delta.revision, "put": delta.put, "gone": delta.gone})
                await _send(writer, f"id: {self._epoch}-{delta.revision}\ndata: {told}\n\n".encode())
                revision = delta.revision
                await asyncio.sleep(_PAUSE)
            elif not await self._something_new():
                await _send(writer, b": still here\n\n")
        await _send(writer, b"event: reset\ndata: {}\n\n")

    def _seen(self, request: Request) -> int | None:
        """Return the revision up to which a reader has everything; None: it must begin anew."""
        last = request.headers.get("last-event-id") or request.query.get("since", "")
        epoch, _, revision = last.partition("-")
        return int(revision) if epoch == self._epoch and revision.isascii() and revision.isdigit() else None

    async def _something_new(self) -> bool:
        """Wait for a change; False: there was none for a while."""
        self._news.clear()
        try:
            await asyncio.wait_for(self._news.wait(), self._sign_of_life)
        except TimeoutError:
            return False
        return True


async def _send(writer: asyncio.StreamWriter, content: bytes) -> None:
    """Write, and wait until the reader has taken most of it. Raises TimeoutError."""
    writer.write(content)
    await asyncio.wait_for(writer.drain(), PATIENCE)


def _whole(
    status: HTTPStatus, kind: str, content: bytes, *, headers: Mapping[str, str] | None = None, scripts: str = ""
) -> tuple[bytes, bytes]:
    length = {"Content-Type": kind, "Content-Length": str(len(content))}
    return http.head(status, {**length, **(headers or {})}, scripts), content


def _json(request: Request, value: Any, status: HTTPStatus = HTTPStatus.OK) -> tuple[bytes, bytes]:
    content = json.dumps(value, separators=(",", ":")).encode()
    packed = len(content) > _WORTH_PACKING and "gzip" in request.headers.get("accept-encoding", "")
    headers = {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"} if packed else {}
    # Level 1 takes 10 ms for a thousand endpoints, and leaves a tenth of them.
    return _whole(status, "application/json", gzip.compress(content, 1) if packed else content, headers=headers)
