"""The page's server over real sockets: what a browser gets, what others get, how a broken stream goes on."""

import asyncio
import contextlib
import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

import pytest

from cli.ui import http, server
from cli.ui.board import Board
from cli.ui.server import Server
from services.common.errors import FailedPrecondition, NotFound, Unavailable

HOST = "Host: 127.0.0.1\r\n"


async def detail(id_: int) -> Any:
    if id_ == 404:
        raise NotFound("there is no endpoint 404")
    if id_ == 503:
        raise Unavailable("podlane-endpoint does not answer")
    return {"endpoint": {"id": id_}}


@contextlib.asynccontextmanager
async def serving(path: Path, **options: Any) -> AsyncIterator[Board]:
    board = Board(memory=8)
    made = Server(board, detail, **options)
    await made.start(path)
    try:
        yield board
    finally:
        await made.stop()


async def raw(path: Path, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body of all that comes back for the bytes of a request."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return int(first.split()[1]), dict(line.split(": ", 1) for line in lines), body


async def get(path: Path, target: str, *headers: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    more = "".join(f"{header}\r\n" for header in headers)
    return await raw(path, f"{method} {target} HTTP/1.1\r\n{HOST}{more}\r\n".encode())


class Stream:
    """A browser's EventSource, as far as it matters."""

    def __init__(self, path: Path, target: str, *headers: str) -> None:
        self._path, self._target, self._headers = path, target, headers

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_unix_connection(self._path)
        more = "".join(f"{header}\r\n" for header in self._headers)
        self._writer.write(f"GET {self._target} HTTP/1.1\r\n{HOST}{more}\r\n".encode())
        head = await self._reader.readuntil(b"\r\n\r\n")
        assert b"text/event-stream" in head
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def block(self) -> list[str]:
        """Return the lines of the next event or comment."""
        return (await asyncio.wait_for(self._reader.readuntil(b"\n\n"), 20)).decode().split("\n")[:-2]

    async def told(self) -> tuple[str, Any]:
        """Return the next event's id and data."""
        id_, data = await self.block()
        return id_.removeprefix("id: "), json.loads(data.removeprefix("data: "))


async def test_the_page_may_load_its_own_files_and_nothing_else(tmp_path: Path):
    async with serving(tmp_path / "ui.sock"):
        status, headers, body = await get(tmp_path / "ui.sock", "/")
        again = await get(tmp_path / "ui.sock", "/", f"If-None-Match: {headers['ETag']}")
        head = await get(tmp_path / "ui.sock", "/static/app.js", method="HEAD")

    policy = headers["Content-Security-Policy"]
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert b"importmap" in body
    assert policy.startswith("default-src 'self'; script-src 'self' 'sha256-")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "Access-Control-Allow-Origin" not in headers
    assert (again[0], again[2]) == (304, b"")
    assert (head[0], head[1]["Content-Type"], head[2]) == (200, "text/javascript; charset=utf-8", b"")


@pytest.mark.parametrize(
    "target",
    [
        "/static/../server.py",
        "/static/%2e%2e/server.py",
        "/static/..%2f..%2fmain.py",
        "/static/vendor/../../server.py",
        "//etc/passwd",
        "/static//etc/passwd",
        "/static/",
        "/static/vendor",
        "/static/app.js%00.css",
        "/api/endpoint/",
        "/api/endpoint/7/7",
        "/api/endpoint/-7",
        "/api/endpoint/1234567890",
        "/api/endpoint/%D9%A7",
    ],
)
async def test_no_path_leads_elsewhere(tmp_path: Path, target: str):
    async with serving(tmp_path / "ui.sock"):
        assert (await get(tmp_path / "ui.sock", target))[0] == 404


async def test_a_snapshot_is_what_there_is(tmp_path: Path):
    async with serving(tmp_path / "ui.sock") as board:
        for number in range(2000):
            board.put("endpoints", str(number), {"pod": "<script>alert(1)</script>"})
        plain = await get(tmp_path / "ui.sock", "/api/snapshot")
        packed = await get(tmp_path / "ui.sock", "/api/snapshot", "Accept-Encoding: gzip, br")

    told = json.loads(plain[2])
    assert (told["revision"], len(told["put"]["endpoints"])) == (2000, 2000)
    assert (plain[1]["Content-Type"], packed[1]["Content-Encoding"]) == ("application/json", "gzip")
    assert json.loads(gzip.decompress(packed[2]))["put"] == told["put"]


async def test_one_endpoint_is_asked_for_or_said_why_not(tmp_path: Path):
    async with serving(tmp_path / "ui.sock"):
        found = [await get(tmp_path / "ui.sock", f"/api/endpoint/{id_}") for id_ in (7, 404, 503)]

    assert [(status, json.loads(body)) for status, _, body in found] == [
        (200, {"endpoint": {"id": 7}}),
        (404, {"error": "there is no endpoint 404"}),
        (503, {"error": "podlane-endpoint does not answer"}),
    ]


async def test_a_stream_goes_on_where_it_broke_off(tmp_path: Path):
    async with serving(tmp_path / "ui.sock") as board:
        board.put("endpoints", "1", "ready")
        epoch = json.loads((await get(tmp_path / "ui.sock", "/api/snapshot"))[2])["epoch"]
        async with Stream(tmp_path / "ui.sock", f"/api/stream?since={epoch}-1") as stream:
            board.put("endpoints", "2", "ready")
            id_, told = await stream.told()
            assert (id_, told) == (f"{epoch}-2", {"revision": 2, "put": {"endpoints": {"2": "ready"}}, "gone": {}})
        board.put("endpoints", "1", "gone soon")
        board.drop("endpoints", "1")
        board.put("endpoints", "3", "ready")
        # The header is newer than the address, which a browser doesn't change.
        async with Stream(tmp_path / "ui.sock", f"/api/stream?since={epoch}-1", f"Last-Event-ID: {id_}") as stream:
            assert (await stream.told())[1] == {
                "revision": 5,
                "put": {"endpoints": {"3": "ready"}},
                "gone": {"endpoints": ["1"]},
            }


@pytest.mark.parametrize("since", ["", "other-17", "{epoch}-0", "{epoch}-99", "{epoch}-x", "{epoch}"])
async def test_who_cannot_go_on_is_told_to_begin_anew(tmp_path: Path, since: str):
    async with serving(tmp_path / "ui.sock") as board:
        for key in range(9):
            board.put("events", str(key), 0)
            board.drop("events", str(key))
        epoch = json.loads((await get(tmp_path / "ui.sock", "/api/snapshot"))[2])["epoch"]
        async with Stream(tmp_path / "ui.sock", f"/api/stream?since={since.format(epoch=epoch)}") as stream:
            assert await stream.block() == ["event: reset", "data: {}"]


async def test_changes_that_come_together_are_told_together_to_all(tmp_path: Path):
    async with serving(tmp_path / "ui.sock") as board:
        epoch = json.loads((await get(tmp_path / "ui.sock", "/api/snapshot"))[2])["epoch"]
        target = f"/api/stream?since={epoch}-0"
        async with Stream(tmp_path / "ui.sock", target) as one, Stream(tmp_path / "ui.sock", target) as other:
            for number in range(100):
                board.put("pools", "default", number)
            for stream in (one, other):
                assert (await stream.told())[1]["put"] == {"pools": {"default": 99}}


async def test_a_stream_at_rest_says_that_it_is_there(tmp_path: Path):
    async with serving(tmp_path / "ui.sock", sign_of_life=0.01):
        epoch = json.loads((await get(tmp_path / "ui.sock", "/api/snapshot"))[2])["epoch"]
        async with Stream(tmp_path / "ui.sock", f"/api/stream?since={epoch}-0") as stream:
            assert await stream.block() == [": still here"]


async def test_garbage_and_silence_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async with serving(tmp_path / "ui.sock"):
        assert (await raw(tmp_path / "ui.sock", b"x" * (http.LONGEST_HEAD + 8)))[0] == 431
        assert (await raw(tmp_path / "ui.sock", b"\x16\x03\x01\r\n\r\n"))[0] == 400
        assert (await get(tmp_path / "ui.sock", "/", method="POST"))[1]["Allow"] == "GET, HEAD"
        monkeypatch.setattr(server, "MOST_CONNECTIONS", 0)
        assert (await get(tmp_path / "ui.sock", "/"))[0] == 503
        monkeypatch.setattr(server, "PATIENCE", 0.01)
        reader, writer = await asyncio.open_unix_connection(tmp_path / "ui.sock")
        assert await reader.read() == b""
        writer.close()


async def test_a_port_of_loopback_is_named_as_people_open_it(unused_tcp_port: int, tmp_path: Path):
    board = Board()
    first = Server(board, detail)
    assert await first.start(("127.0.0.1", unused_tcp_port)) == f"http://127.0.0.1:{unused_tcp_port}/"
    with pytest.raises(Unavailable, match=f"127.0.0.1 port {unused_tcp_port}: .*see --listen"):
        await Server(board, detail).start(("127.0.0.1", unused_tcp_port))
    await first.stop()
    async with serving(tmp_path / "ui.sock"):
        with pytest.raises(FailedPrecondition, match="another process serves"):
            await Server(board, detail).start(tmp_path / "ui.sock")
