"""`podlane bugtool` where there is nothing: no services, no files, no rights. It still says what it found out."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli.main import podlane
from cli.report import archive
from services.common import configfile
from services.common.config import Settings


@pytest.fixture
def nowhere(tmp_path: Path) -> Settings:
    places = f'run_dir = "{tmp_path}/run"\nlib_dir = "{tmp_path}/lib"\nbpffs = "{tmp_path}/bpf"\n'
    (tmp_path / "podlane.toml").write_text(f'[node]\nname = "a/b"\n{places}')
    return configfile.load(tmp_path / "podlane.toml", {})


def run(tmp_path: Path, *argv: str, stdin: bytes = b"") -> Result:
    return CliRunner().invoke(podlane, ["--config", str(tmp_path / "podlane.toml"), "bugtool", *argv], input=stdin)


def test_a_report_of_nothing_goes_to_stdout_and_can_be_checked(nowhere: Settings, tmp_path: Path):
    made = run(tmp_path, "-o", "-", "--conf-dir", str(tmp_path / "net.d"))
    checked = run(tmp_path, "check", "-", "-o", "json", stdin=made.stdout_bytes)

    assert made.exit_code == 0, made.output
    members = archive.unpack(made.stdout_bytes, "report")
    failed = {one["collector"]: one["why"] for one in json.loads(members["manifest.json"])["failed"]}
    assert failed["ipam/pools"] == f"podlane-ipam is down: there is no {nowhere.ipam.socket}"
    assert failed["files/ipam"] == f"{nowhere.ipam.database} can't be read: there is no such file"
    assert failed["files/cni"] == f"{tmp_path}/net.d: No such file or directory"
    socket = nowhere.loader.metrics_listen
    assert failed["services/loader-metrics"] == f"nobody serves metrics on {socket}: No such file or directory"
    assert made.stderr.count("podlane-ipam is down") == 1
    assert (
        "ipam/allocations, ipam/pools, ipam/claims, services/ipam-controllers are missing: podlane-ipam" in made.stderr
    )
    assert f"! files/cni, logs/cni are missing: {tmp_path}/net.d: No such file or directory" in made.stderr
    assert json.loads(members["kernel/machine.json"])["uname"][0] == "Linux"
    assert checked.exit_code == 1
    told = json.loads(checked.stdout)
    assert [one["object"] for one in told["findings"]] == ["podlane-loader", "podlane-ipam", "podlane-endpoint"]
    assert told["node"] == "a/b"
    assert {one["collector"] for one in told["missing"]} == set(failed)


@pytest.mark.usefixtures("nowhere")
def test_a_new_file_here_is_named_after_node_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    made = run(tmp_path, "--conf-dir", str(tmp_path))

    (file,) = (tmp_path / "here").iterdir()
    assert file.name.startswith("podlane-bugtool-a_b-2")
    assert file.name.endswith("Z.tar.gz")
    assert f"wrote {file.name}: " in made.stdout
    assert archive.unpack(file.read_bytes(), "report")


@pytest.mark.usefixtures("nowhere")
def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path):
    made = run(tmp_path, "-o", str(tmp_path / "none" / "a.tar.gz"), "--conf-dir", "/none")

    assert "can't be written: No such file or directory; choose another place with -o" in str(made.exception)
