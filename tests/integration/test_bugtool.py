"""`podlane bugtool` where there is nothing: no services, no files, no rights. It still says what it found out."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli import bugtool
from cli.report import archive
from services.common import config
from services.common.config import Settings


@pytest.fixture
def nowhere(tmp_path: Path) -> Settings:
    file = tmp_path / "podlane.toml"
    file.write_text(
        f'[node]\nname = "a/b"\nrun_dir = "{tmp_path}/run"\nlib_dir = "{tmp_path}/lib"\nbpffs = "{tmp_path}/bpf"\n'
    )
    return config.load(file, {})


def test_a_report_of_nothing_goes_to_stdout_and_can_be_checked(nowhere: Settings, tmp_path: Path):
    runner = CliRunner()

    made = runner.invoke(bugtool.group, ["-o", "-", "--conf-dir", str(tmp_path / "net.d")], obj=nowhere)
    checked = runner.invoke(bugtool.group, ["check", "-", "-o", "json"], input=made.stdout_bytes, obj=nowhere)

    assert made.exit_code == 0, made.output
    members = archive.unpack(made.stdout_bytes, "report")
    failed = {one["collector"]: one["why"] for one in json.loads(members["manifest.json"])["failed"]}
    assert failed["ipam/pools"] == f"podlane-ipam is down: there is no {nowhere.ipam.socket}"
    assert failed["files/ipam"] == f"{nowhere.ipam.database} can't be read: there is no such file"
    assert failed["files/cni"] == f"{tmp_path}/net.d: No such file or directory"
    assert failed["services/loader-metrics"] != ""
    assert f"! files/cni is missing: {tmp_path}/net.d: No such file or directory" in made.stderr
    assert json.loads(members["kernel/machine.json"])["uname"][0] == "Linux"
    assert checked.exit_code == 1
    told = json.loads(checked.stdout)
    assert [one["object"] for one in told["findings"]] == ["podlane-loader", "podlane-ipam", "podlane-endpoint"]
    assert told["node"] == "a/b"
    assert {one["collector"] for one in told["missing"]} == set(failed)


def test_a_new_file_here_is_named_after_node_and_time(
    nowhere: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    made = CliRunner().invoke(bugtool.group, ["--conf-dir", str(tmp_path)], obj=nowhere)

    (file,) = (tmp_path / "here").iterdir()
    assert file.name.startswith("podlane-bugtool-a_b-2")
    assert file.name.endswith("Z.tar.gz")
    assert f"wrote {file.name}: " in made.stdout
    assert archive.unpack(file.read_bytes(), "report")


def test_a_place_that_cannot_be_written_is_one_sentence(nowhere: Settings, tmp_path: Path):
    made = CliRunner().invoke(
        bugtool.group, ["-o", str(tmp_path / "none" / "a.tar.gz"), "--conf-dir", "/none"], obj=nowhere
    )

    assert "can't be written: No such file or directory; choose another place with -o" in str(made.exception)
