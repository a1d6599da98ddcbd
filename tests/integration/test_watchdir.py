"""The watched directory with real files: what is told, when, and what a bad file does."""

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from services.common import configfile
from services.common.errors import Unavailable
from services.endpoint import watchdir
from services.endpoint.watchdir import Directory, scan


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch):
    """Let files settle: a function that says that a day has passed."""
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now)

    def pass_a_day() -> None:
        nonlocal now
        now += 86_400 * 10**9

    return pass_a_day


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were read."""
    found: list[str] = []
    real = watchdir._read

    def read(file: Path) -> watchdir.FileState:
        found.append(file.name)
        return real(file)

    monkeypatch.setattr(watchdir, "_read", read)
    return found


def take_all(directory: Directory) -> Mapping[str, str | None]:
    """Take all that is told."""
    told = directory.changed()
    for file in told:
        directory.taken(file)
    return told


def test_files_are_told_of_by_name_until_they_are_taken(tmp_path: Path):
    (tmp_path / "b.yaml").write_text("b")
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "c.yml").write_text("")
    directory = Directory(tmp_path)

    assert list(directory.changed().items()) == [("a.json", "{}"), ("b.yaml", "b"), ("c.yml", "")]
    assert list(take_all(directory)) == ["a.json", "b.yaml", "c.yml"]
    assert directory.changed() == {}


@pytest.mark.parametrize("name", [".a.yaml", "a.yaml~", ".a.yaml.swp", "#a.yaml#", "a.txt", "yaml", "a.yaml.bak"])
def test_hidden_files_and_editors_leftovers_are_none_of_ours(tmp_path: Path, name: str):
    (tmp_path / name).write_text("a")

    assert Directory(tmp_path).changed() == {}


def test_a_file_that_is_written_over_renamed_over_or_gone_is_told_of(tmp_path: Path):
    for name in ("written.yaml", "renamed.yaml", "gone.yaml"):
        (tmp_path / name).write_text("a")
    directory = Directory(tmp_path)
    take_all(directory)

    (tmp_path / "written.yaml").write_text("b")
    (tmp_path / ".new").write_text("c")
    (tmp_path / ".new").rename(tmp_path / "renamed.yaml")
    (tmp_path / "gone.yaml").unlink()

    assert take_all(directory) == {"gone.yaml": None, "renamed.yaml": "c", "written.yaml": "b"}
    assert directory.changed() == {}


def test_a_file_that_is_touched_or_written_with_the_same_text_is_no_change(tmp_path: Path):
    file = tmp_path / "a.yaml"
    file.write_text("a")
    directory = Directory(tmp_path)
    take_all(directory)

    os.utime(file)
    file.write_text("a")

    assert directory.changed() == {}


def test_a_file_seen_half_written_is_seen_whole_later(tmp_path: Path):
    directory = Directory(tmp_path)
    with (tmp_path / "a.yaml").open("w") as file:
        file.write("kind: Netw")
        file.flush()
        assert directory.changed() == {"a.yaml": "kind: Netw"}
        directory.refused("a.yaml", "line 1: no")
        assert directory.changed() == {}
        file.write("orkPolicy")

    assert directory.changed() == {"a.yaml": "kind: NetworkPolicy"}


def test_a_second_write_within_the_file_systems_tick_is_not_missed(tmp_path: Path):
    """What a coarse clock does: another text, and yet the same size and times."""
    (tmp_path / "a.yaml").write_text("a")
    (found,) = scan(tmp_path, {}).values()

    assert scan(tmp_path, {"a.yaml": replace(found, text="z")})["a.yaml"].text == "a"


def test_an_unchanged_directory_costs_no_reading(tmp_path: Path, clock, reads: list[str]):
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text("a")
    directory = Directory(tmp_path)
    clock()
    take_all(directory)
    directory.changed()
    assert reads == ["a.yaml", "b.yaml"]

    (tmp_path / "b.yaml").write_text("bb")

    assert directory.changed() == {"b.yaml": "bb"}
    assert reads == ["a.yaml", "b.yaml", "b.yaml"]


def test_a_config_map_that_is_swapped_is_one_change(tmp_path: Path):
    """Kubernetes' mounts: files are links through `..data`, which is renamed over."""
    for version, names in (("..1", "ab"), ("..2", "bc")):
        (tmp_path / version).mkdir()
        for name in names:
            (tmp_path / version / f"{name}.yaml").write_text(f"{name} of {version}")
    (tmp_path / "..data").symlink_to("..1")
    for name in "ab":
        (tmp_path / f"{name}.yaml").symlink_to(f"..data/{name}.yaml")
    directory = Directory(tmp_path)
    assert take_all(directory) == {"a.yaml": "a of ..1", "b.yaml": "b of ..1"}

    (tmp_path / "..data_tmp").symlink_to("..2")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    (tmp_path / "c.yaml").symlink_to("..data/c.yaml")

    assert take_all(directory) == {"b.yaml": "b of ..2", "c.yaml": "c of ..2"}
    assert list(directory.errors) == ["a.yaml"]  # a link to nothing, for the moment
    (tmp_path / "a.yaml").unlink()
    assert take_all(directory) == {"a.yaml": None}
    assert directory.errors == {}


def test_what_is_no_regular_file_is_named_and_holds_up_nobody(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "dir.yaml").mkdir()
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    directory = Directory(tmp_path)

    assert directory.changed() == {}
    assert {file: error.partition(": ")[2] for file, error in directory.errors.items()} == {
        "dir.yaml": "is no regular file",
        "loop.yaml": "Too many levels of symbolic links",
        "pipe.yaml": "is no regular file",
        "zero.yaml": "is no regular file",
    }


def test_a_file_that_is_too_large_or_no_text_is_named(tmp_path: Path):
    (tmp_path / "fits.yaml").write_bytes(b"#" * (4 << 20))
    (tmp_path / "large.yaml").write_bytes(b"#" * ((4 << 20) + 1))
    (tmp_path / "latin.yaml").write_bytes(b"# caf\xe9\n")
    (tmp_path / os.fsdecode(b"caf\xe9.yaml")).write_text("a")
    directory = Directory(tmp_path)

    assert list(directory.changed()) == ["caf\\xe9.yaml", "fits.yaml"]
    assert directory.errors["large.yaml"].endswith("large.yaml: has more than 4 MiB: split it")
    assert "is not UTF-8: invalid continuation byte at byte 5" in directory.errors["latin.yaml"]


def test_a_file_that_turns_bad_changes_nothing_and_is_right_again_without_a_change(tmp_path: Path):
    file = tmp_path / "a.yaml"
    file.write_text("a")
    directory = Directory(tmp_path)
    take_all(directory)

    file.write_bytes(b"\xff")
    assert directory.changed() == {}
    assert list(directory.errors) == ["a.yaml"]

    file.write_text("a")
    assert directory.changed() == {}
    assert directory.errors == {}


def test_a_refused_file_is_told_of_again_when_it_or_another_changes(tmp_path: Path):
    bad, good = tmp_path / "bad.yaml", tmp_path / "good.yaml"
    bad.write_text("bad")
    directory = Directory(tmp_path)
    directory.changed()
    directory.refused("bad.yaml", "shop/web is there twice")
    assert directory.changed() == {}
    assert directory.errors == {"bad.yaml": "shop/web is there twice"}

    good.write_text("good")
    assert directory.changed() == {"bad.yaml": "bad", "good.yaml": "good"}
    directory.taken("good.yaml")
    directory.refused("bad.yaml", "still")
    assert directory.changed() == {}

    good.unlink()
    assert directory.changed() == {"bad.yaml": "bad", "good.yaml": None}
    directory.taken("good.yaml")
    directory.taken("bad.yaml")
    assert directory.changed() == directory.errors == {}


def test_a_refused_file_is_told_of_again_after_a_change_elsewhere(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("a")
    directory = Directory(tmp_path)
    directory.changed()
    directory.refused("a.yaml", "shop/web was applied")
    directory.retry()

    assert directory.changed() == {"a.yaml": "a"}


def test_a_refused_file_that_goes_is_told_of_so_that_its_last_good_documents_go(tmp_path: Path):
    file = tmp_path / "a.yaml"
    file.write_text("good")
    directory = Directory(tmp_path)
    take_all(directory)
    file.write_text("bad")
    directory.changed()
    directory.refused("a.yaml", "no")
    directory.retry()
    file.unlink()

    assert directory.changed() == {"a.yaml": None}
    directory.refused("a.yaml", "the loader says no")
    assert directory.changed() == {}
    directory.retry()
    assert take_all(directory) == {"a.yaml": None}
    assert directory.changed() == directory.errors == {}


def test_after_a_restart_all_is_told_of_and_what_is_gone_too(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("")
    directory = Directory(tmp_path, known=["a.yaml", "gone.yaml"])

    assert take_all(directory) == {"a.yaml": "", "gone.yaml": None}
    assert directory.changed() == {}


def test_a_directory_that_is_not_there_is_empty_and_one_that_cannot_be_listed_is_an_error(tmp_path: Path):
    directory = Directory(tmp_path / "d")
    assert directory.changed() == {}
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.yaml").write_text("a")
    take_all(directory)
    (tmp_path / "d").rename(tmp_path / "aside")
    (tmp_path / "d").write_text("no directory")

    with pytest.raises(Unavailable, match=r"/d: cannot be listed: Not a directory"):
        directory.changed()

    (tmp_path / "d").unlink()
    (tmp_path / "aside").rename(tmp_path / "d")
    assert directory.changed() == {}
    (tmp_path / "d" / "a.yaml").unlink()
    (tmp_path / "d").rmdir()
    assert take_all(directory) == {"a.yaml": None}


def test_with_an_empty_setting_none_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.yaml").write_text("a")
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "podlane.toml"
    file.write_text('[endpoint]\npolicy_dir = ""\n')

    assert Directory(configfile.load(file, {}).endpoint.policy_dir, known=["b.yaml"]).changed() == {"b.yaml": None}
    file.write_text("")
    assert configfile.load(file, {}).endpoint.policy_dir == Path("/etc/podlane/policy.d")
