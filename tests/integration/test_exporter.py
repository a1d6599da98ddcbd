"""/metrics over real sockets: what Prometheus and curl get, and what nonsense gets."""

import asyncio
import contextlib
import http.client
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from services.common.errors import FailedPrecondition, InvalidArgument, Unavailable
from services.common.exporter import Exporter

PAGE = b"podlane_controllers 7.0\n"


@contextlib.asynccontextmanager
async def exporter(listen: Path | str, page: Callable[[], bytes] = lambda: PAGE) -> AsyncIterator[Exporter]:
    made = Exporter("[ipam] metrics_listen", str(listen), page)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


async def raw(path: Path, request: bytes) -> bytes:
    """Return all that comes back for the bytes of a request."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


def code(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


class UnixConnection(http.client.HTTPConnection):
    """The standard library's HTTP client on a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("podlane", timeout=10)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self.path))


async def test_a_real_client_gets_the_page_with_prometheus_content_type(tmp_path: Path):
    def get(verb: str) -> tuple[int, str | None, str | None, bytes]:
        connection = UnixConnection(tmp_path / "m.sock")
        connection.request(verb, "/metrics", headers={"Accept": "text/plain", "Accept-Encoding": "gzip"})
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, answer.getheader("Content-Type"), answer.getheader("Content-Length"), body

    async with exporter(tmp_path / "m.sock"):
        kind, size = "text/plain; version=0.0.4; charset=utf-8", str(len(PAGE))
        assert await asyncio.to_thread(get, "GET") == (200, kind, size, PAGE)
        assert await asyncio.to_thread(get, "HEAD") == (200, kind, size, b"")


async def test_a_tcp_address_is_for_a_prometheus_that_has_no_unix_sockets(unused_tcp_port: int):
    async with exporter(f"127.0.0.1:{unused_tcp_port}"):
        reader, writer = await asyncio.open_connection("127.0.0.1", unused_tcp_port)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.read()).endswith(PAGE)
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    ("request_line", "expected"),
    [
        (b"GET /metrics HTTP/1.1", 200),
        (b"GET /metrics?name[]=up HTTP/1.1", 200),
        (b"GET http://podlane/metrics HTTP/1.1", 200),
        (b"GET /metrics HTTP/1.0", 200),
        (b"GET / HTTP/1.1", 404),
        (b"GET /metrics/x HTTP/1.1", 404),
        (b"POST /metrics HTTP/1.1", 405),
        (b"GET /metrics HTTP/2.0", 400),
        (b"GET /metrics", 400),
        (b"GET http://[/metrics HTTP/1.1", 400),
        (b"\xff\xfe /metrics HTTP/1.1", 400),
        (b"", 400),
    ],
)
async def test_each_request_has_its_answer_and_the_connection_ends(tmp_path: Path, request_line: bytes, expected: int):
    async with exporter(tmp_path / "m.sock"):
        answer = await raw(tmp_path / "m.sock", request_line + b"\r\nHost: podlane\r\n\r\n")

    head, _, body = answer.partition(b"\r\n\r\n")
    assert code(answer) == expected
    assert f"Content-Length: {len(body)}".encode() in head
    assert b"Connection: close" in head
    assert (b"Allow: GET, HEAD" in head) == (expected == 405)


async def test_a_request_in_pieces_is_one_request(tmp_path: Path):
    async with exporter(tmp_path / "m.sock"):
        reader, writer = await asyncio.open_unix_connection(tmp_path / "m.sock")
        for piece in (b"GET /met", b"rics HTTP/1.1\r\nHost: a\r", b"\n\r", b"\n"):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()

    assert code(answer) == 200


async def test_an_endless_head_is_refused(tmp_path: Path):
    async with exporter(tmp_path / "m.sock"):
        assert code(await raw(tmp_path / "m.sock", b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 9000)) == 431


async def test_a_client_that_says_nothing_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("services.common.exporter._PATIENCE_SECONDS", 0.05)
    async with exporter(tmp_path / "m.sock"):
        assert await raw(tmp_path / "m.sock", b"GET /met") == b""


async def test_a_client_that_does_not_take_its_answer_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("services.common.exporter._PATIENCE_SECONDS", 0.2)
    async with exporter(tmp_path / "m.sock", lambda: PAGE * 1_000_000) as made:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "m.sock"))
            client.send(b"GET /metrics HTTP/1.1\r\n\r\n")
            while not made.connections:
                await asyncio.sleep(0.005)
            while made.connections:
                await asyncio.sleep(0.005)


async def test_a_metric_with_a_bug_is_an_error_and_the_next_scrape_is_answered(tmp_path: Path):
    pages = iter((None, PAGE))

    def page() -> bytes:
        found = next(pages)
        if found is None:
            raise ZeroDivisionError("a secret")
        return found

    async with exporter(tmp_path / "m.sock", page):
        first = await raw(tmp_path / "m.sock", b"GET /metrics HTTP/1.1\r\n\r\n")
        second = await raw(tmp_path / "m.sock", b"GET /metrics HTTP/1.1\r\n\r\n")

    assert (code(first), code(second)) == (500, 200)
    assert b"secret" not in first


async def test_many_at_once_are_answered(tmp_path: Path):
    async with exporter(tmp_path / "m.sock"):
        answers = await asyncio.gather(*(raw(tmp_path / "m.sock", b"GET /metrics HTTP/1.1\r\n\r\n") for _ in range(50)))

    assert {code(answer) for answer in answers} == {200}


async def test_the_end_drops_who_is_connected_and_removes_the_socket(tmp_path: Path):
    async with exporter(tmp_path / "m.sock") as made:
        reader, writer = await asyncio.open_unix_connection(tmp_path / "m.sock")
        writer.write(b"GET")
        while not made.connections:
            await asyncio.sleep(0)

    with contextlib.suppress(ConnectionResetError):
        assert await reader.read() == b""
    writer.close()
    with contextlib.suppress(ConnectionResetError):
        await writer.wait_closed()
    assert not (tmp_path / "m.sock").exists()


async def test_the_socket_is_private_and_never_stolen(tmp_path: Path):
    async with exporter(tmp_path / "ipam" / "m.sock"):
        assert (tmp_path / "ipam").stat().st_mode & 0o777 == 0o750
        with pytest.raises(FailedPrecondition, match="another process serves on"):
            await Exporter("x", str(tmp_path / "ipam" / "m.sock"), lambda: PAGE).start()


async def test_what_a_crash_left_is_replaced(tmp_path: Path):
    with socket.socket(socket.AF_UNIX) as crashed:
        crashed.bind(str(tmp_path / "m.sock"))

    async with exporter(tmp_path / "m.sock"):
        assert code(await raw(tmp_path / "m.sock", b"GET /metrics HTTP/1.1\r\n\r\n")) == 200


async def test_an_empty_address_serves_nowhere():
    async with exporter(""):
        pass


async def test_an_address_in_use_is_named(unused_tcp_port: int):
    address = f"127.0.0.1:{unused_tcp_port}"
    async with exporter(address):
        with pytest.raises(Unavailable, match=rf"metrics can't be served on {address}: "):
            await Exporter("x", address, lambda: PAGE).start()


@pytest.mark.parametrize(
    "listen", ["metrics", "127.0.0.1", "127.0.0.1:", ":9961", "localhost:http", "::1:99999", "a:0"]
)
def test_an_address_that_is_neither_path_nor_host_and_port_is_refused_by_its_setting(listen: str):
    with pytest.raises(InvalidArgument, match=r"^\[ipam\] metrics_listen: '.*' is neither a path nor host:port"):
        Exporter("[ipam] metrics_listen", listen, lambda: PAGE)
