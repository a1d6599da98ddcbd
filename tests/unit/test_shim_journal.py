"""An entry of the deletion journal comes into being whole and durable, in this order of system calls."""

import errno
import json
import os
import posix
from pathlib import Path
from typing import Any

import pytest

from cni import journal

ATTACHMENT = {"network": "n", "container_id": "c", "ifname": "eth0"}
CALLS = ("mkdir", "write", "fsync", "link", "unlink")


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the module asks of the kernel, and of what kind of file."""
    calls: list[str] = []

    def follow(name: str) -> None:
        work = getattr(posix, name)

        def call(*arguments: Any, **keywords: Any) -> Any:
            kind = f" {'directory' if os.path.isdir(f'/proc/self/fd/{arguments[0]}') else 'file'}"  # noqa: PTH112
            calls.append(name + (kind if name == "fsync" else ""))
            return work(*arguments, **keywords)

        monkeypatch.setattr(posix, name, call)

    for name in CALLS:
        follow(name)
    return calls


def write(directory: Path) -> Path:
    path = directory / "n~c~eth0.json"
    journal.write(str(path), ATTACHMENT, "/run/netns/x", "cni-DEL-c")
    return path


def test_an_entry_is_synced_before_it_has_its_name_and_its_name_before_del_succeeds(tmp_path: Path, called: list[str]):
    path = write(tmp_path / "deletions")

    assert called == ["mkdir", "write", "fsync file", "link", "unlink", "fsync directory"]
    assert json.loads(path.read_text())["attachment"] == ATTACHMENT
    assert list(path.parent.iterdir()) == [path]


def test_one_that_is_there_is_synced_by_whoever_finds_it(tmp_path: Path, called: list[str]):
    """Who wrote it may have been killed before."""
    write(tmp_path)
    called.clear()

    write(tmp_path)

    assert called == ["write", "fsync file", "link", "unlink", "fsync directory"]


@pytest.mark.parametrize("name", ["write", "fsync", "link"])
def test_a_step_that_fails_is_an_error_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(posix, name, fail)

    with pytest.raises(OSError, match="Input/output"):
        write(tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_what_a_plugin_of_the_same_pid_was_writing_when_it_was_killed_is_in_nobodys_way(tmp_path: Path):
    """Neither a file nor a link that somebody has put there."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for number, make in enumerate((lambda path: path.write_text("{"), lambda path: path.symlink_to(victim))):
        directory = tmp_path / str(number)
        directory.mkdir()
        make(directory / f".n~c~eth0.json.{os.getpid()}")

        path = write(directory)

        assert list(directory.iterdir()) == [path]
    assert victim.read_text() == "mine"


def test_somebody_has_waited_lately_where_an_entry_came_lately(tmp_path: Path):
    assert not journal.is_waited_for(str(tmp_path / "missing"))
    (tmp_path / "notes").write_text("")
    assert not journal.is_waited_for(str(tmp_path))
    write(tmp_path)
    assert journal.is_waited_for(str(tmp_path))
    os.utime(tmp_path, (0, 0))
    assert not journal.is_waited_for(str(tmp_path))
