"""A Unix socket is private and never taken from the one who serves on it."""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.common import sockets
from services.common.errors import FailedPrecondition, InvalidArgument, Unavailable


@contextlib.contextmanager
def listener(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(0)
        yield server


def test_a_socket_that_somebody_serves_on_answers(tmp_path: Path):
    with listener(tmp_path / "a.sock"):
        assert sockets.answers(tmp_path / "a.sock")


def test_a_server_with_a_full_backlog_is_alive(tmp_path: Path):
    with listener(tmp_path / "a.sock"), contextlib.ExitStack() as clients:
        for _ in range(3):
            client = clients.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect(str(tmp_path / "a.sock"))

        assert sockets.answers(tmp_path / "a.sock")


def test_what_a_crashed_server_left_does_not_answer(tmp_path: Path):
    with listener(tmp_path / "a.sock"):
        pass

    assert not sockets.answers(tmp_path / "a.sock")
    sockets.prepare(tmp_path / "a.sock")


def test_a_path_that_is_not_there_does_not_answer(tmp_path: Path):
    assert not sockets.answers(tmp_path / "a.sock")


def test_the_directory_is_made_private(tmp_path: Path):
    sockets.prepare(tmp_path / "ipam" / "ipam.sock")

    assert (tmp_path / "ipam").stat().st_mode & 0o777 == 0o750


def test_a_live_socket_is_refused(tmp_path: Path):
    with listener(tmp_path / "a.sock"), pytest.raises(FailedPrecondition, match=r"another process serves on .*a\.sock"):
        sockets.prepare(tmp_path / "a.sock")


def test_a_path_that_is_too_long_for_the_kernel_is_refused_with_its_length():
    path = Path("/") / ("x" * 200)

    with pytest.raises(InvalidArgument, match="has 201 bytes, Unix sockets allow 107"):
        sockets.prepare(path)


def test_a_directory_that_cannot_be_made_is_unavailable(tmp_path: Path):
    (tmp_path / "file").touch()

    with pytest.raises(Unavailable, match="can't be made"):
        sockets.prepare(tmp_path / "file" / "a.sock")
