"""An archive is whole or refused in one sentence; `podlane bugtool check` reads it and answers by its exit code."""

import gzip
import io
import json
import sqlite3
import stat
import tarfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cli.main import podlane
from cli.report import archive, gathering, load
from cli.report.gathering import Collector, Gathered, Member
from services.common import db
from services.common.errors import CorruptState, InvalidArgument, Unavailable
from tests.report_support import NOW, healthy


def packed(members: dict[str, Any]) -> bytes:
    encoded = (
        (name, (content if isinstance(content, str) else json.dumps(content)).encode())
        for name, content in members.items()
    )
    return archive.pack("podlane-bugtool-node-1", encoded, int(NOW))


def check(tmp_path: Path, content: bytes, *options: str) -> Result:
    path = tmp_path / "report.tar.gz"
    path.write_bytes(content)
    return CliRunner().invoke(podlane, ["bugtool", "check", str(path), *options])


def test_a_healthy_archive_is_exit_code_zero_and_a_contradiction_one(tmp_path: Path):
    members = healthy()
    good = check(tmp_path, packed(members))
    members["services/health.json"][0]["health"] = "down"
    bad, told = check(tmp_path, packed(members)), check(tmp_path, packed(members), "-o", "json")

    assert (good.exit_code, good.output) == (0, "node node-1 at 2027-01-15T08:00:00Z: 2 endpoints\nno contradictions\n")
    assert bad.exit_code == told.exit_code == 1
    assert "! podlane-loader: is down  [services]\n    see logs/loader.log" in bad.output
    (finding,) = json.loads(told.output)["findings"]
    assert {key: finding[key] for key in ("check", "object", "problem")} == {
        "check": "services",
        "object": "podlane-loader",
        "problem": "is down",
    }


def test_what_is_missing_is_said_and_is_no_contradiction(tmp_path: Path):
    members = healthy()
    members["manifest.json"]["failed"] = [{"collector": "kernel/nft", "why": "nft is not installed"}]
    del members["loader/links.json"]

    outcome = check(tmp_path, packed(members))

    assert outcome.exit_code == 0
    assert "- kernel/nft is not in it: nft is not installed\n" in outcome.output


def test_an_archive_of_a_later_minor_format_is_read(tmp_path: Path):
    members = healthy()
    members["manifest.json"]["format"] = "1.7"
    members["manifest.json"]["weather"] = "fine"
    members["endpoint/moods.json"] = {"1": "good"}
    members["endpoint/endpoints.json"][0]["mood"] = "good"

    assert check(tmp_path, packed(members)).exit_code == 0


def _without_manifest() -> bytes:
    return packed({"endpoint/endpoints.json": []})


def _of_another_major() -> bytes:
    return packed({"manifest.json": {"format": "2.0"}})


def _bomb() -> bytes:
    entry = tarfile.TarInfo("a/manifest.json")
    entry.size = 1 << 40
    return gzip.compress(entry.tobuf() + bytes(1 << 20), mtime=0)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "is no whole archive"),
        (b"hello", "is no whole archive"),
        (packed(healthy())[:-20], "is no whole archive"),
        (packed(healthy())[:3000], "is no whole archive"),
        (packed(healthy())[:-8] + bytes(8), "is no whole archive"),
        (_without_manifest(), "has no manifest.json"),
        (packed({"manifest.json": "{"}), "manifest.json is damaged: it is no JSON"),
        (packed({"manifest.json": []}), "is not of `podlane bugtool`"),
        (_of_another_major(), "has format 2.0, and this podlane reads 1.x"),
        (packed({**healthy(), "endpoint/endpoints.json": [{"id": 1}]}), "not as `podlane bugtool` writes it"),
        (packed({**healthy(), "endpoint/endpoints.json": 7}), "not as `podlane bugtool` writes it"),
        (_bomb(), "unpacks to more than 512 MiB"),
    ],
    ids=[
        *("empty", "noise", "without its end", "a beginning", "a wrong checksum", "no manifest", "damaged", "a list"),
        *("another major", "an endpoint without names", "a number", "a bomb"),
    ],
)
def test_what_cannot_be_read_is_one_sentence_and_exit_code_two(tmp_path: Path, content: bytes, named: str):
    outcome = check(tmp_path, content)

    assert outcome.exit_code == 2
    assert len(outcome.output.splitlines()) == 1
    assert outcome.output.startswith("podlane: ")
    assert named in outcome.output


def test_a_file_that_is_not_there_is_exit_code_two(tmp_path: Path):
    outcome = CliRunner().invoke(podlane, ["bugtool", "check", str(tmp_path / "none")])

    assert (outcome.exit_code, "No such file" in outcome.output) == (2, True)


def test_the_same_archive_on_stdin():
    outcome = CliRunner().invoke(podlane, ["bugtool", "check", "-"], input=packed(healthy()))

    assert outcome.exit_code == 0


def test_an_archive_is_the_same_bytes_for_the_same_members_and_private(tmp_path: Path):
    path = tmp_path / "a.tar.gz"
    archive.write(path, packed(healthy()))
    again = packed(healthy())

    assert path.read_bytes() == again
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]
    assert next(iter(archive.unpack(again, "a"))) == "manifest.json"
    with pytest.raises(Unavailable, match="can't be written"):
        archive.write(tmp_path / "none" / "a.tar.gz", again)


def test_links_and_devices_in_an_archive_are_passed_over():
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        link = tarfile.TarInfo("a/manifest.json")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/shadow"
        tar.addfile(link)

    with pytest.raises(InvalidArgument, match="has no manifest"):
        load.report(made.getvalue(), "a")


async def test_a_collector_that_fails_or_hangs_is_told_and_stops_no_other():
    import asyncio

    async def hangs():
        yield Member("a.json", 1)
        await asyncio.Event().wait()

    async def fails():
        yield Member("b.json", 2)
        raise Unavailable("podlane-ipam is down")

    async def has_a_bug():
        nothing: dict[str, int] = {}
        yield Member("c.json", nothing["x"])

    async def reads():
        yield Member("e.json", Path("/nowhere/at/all").read_text())  # noqa: ASYNC240 # that is the point

    async def works():
        yield Member("d.json", 4)

    gathered = Gathered()
    await gathering.run(
        [Collector(one.__name__, one, 0.2) for one in (hangs, fails, has_a_bug, reads, works)],
        gathered,
    )

    assert {one.name for one in gathered.members} == {"a.json", "b.json", "d.json"}
    assert {one["collector"]: one["why"] for one in gathered.failed} == {
        "hangs": "not done in 0 s; what there was by then is here",
        "fails": "podlane-ipam is down",
        "has_a_bug": "KeyError: 'x'",
        "reads": "/nowhere/at/all: No such file or directory",
    }


def test_of_a_long_text_the_end_stays_and_json_that_is_too_long_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gathering, "MOST_TEXT", 10)
    monkeypatch.setattr(gathering, "MOST_JSON", 10)

    content, note = gathering.encode(Member("a.log", "old line\nnewest", "the log"))

    assert content == b"[5 bytes before this were cut off]\nine\nnewest"
    assert note == "the log; 5 bytes before this were cut off"
    with pytest.raises(ValueError, match="more than the 10"):
        gathering.encode(Member("a.json", list(range(20))))


def test_a_database_is_read_beside_its_service_without_a_trace(tmp_path: Path):
    path = tmp_path / "a.sqlite"
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("PRAGMA journal_mode=WAL")
    writer.execute('CREATE TABLE "it""s" (n INTEGER, b BLOB)')
    writer.execute("""INSERT INTO "it""s" VALUES (1, x'0a2c0002'), (2, NULL)""")
    writer.execute("BEGIN IMMEDIATE")
    writer.execute('DELETE FROM "it""s"')

    assert db.snapshot(path, 10) == {'it"s': [{"n": 1, "b": b"\n,\0\2"}, {"n": 2, "b": None}]}
    assert len(db.snapshot(path, 1)['it"s']) == 1

    writer.execute("COMMIT")
    writer.close()
    before = {one.name: one.stat().st_mtime_ns for one in tmp_path.iterdir()}
    assert before.keys() == {"a.sqlite"}
    assert db.snapshot(path, 10) == {'it"s': []}
    assert {one.name: one.stat().st_mtime_ns for one in tmp_path.iterdir()} == before


def test_a_database_that_is_missing_or_damaged_is_said(tmp_path: Path):
    (tmp_path / "bad.sqlite").write_bytes(b"no database at all" * 100)

    with pytest.raises(Unavailable, match="no such file"):
        db.snapshot(tmp_path / "none.sqlite", 10)
    with pytest.raises(CorruptState, match="is damaged"):
        db.snapshot(tmp_path / "bad.sqlite", 10)
