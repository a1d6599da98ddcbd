"""The state directory: at any moment `<id>` is whole or absent."""

import dataclasses
import json
import os
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from services.common.errors import CorruptState, Unavailable
from services.common.model import Attachment
from services.loader import record as text
from services.loader.model import EndpointRecord, EndpointSpec, NodeConfig, Program
from services.loader.statedir import KEPT_FAILURES, StateDir

SPEC = EndpointSpec(
    id=7,
    generation=3,
    attachment=Attachment("podlane", "c0ffee", "eth0"),
    host_ifname="lxc0123456789ab",
    host_ifindex=42,
    host_mac=bytes.fromhex("02005e000001"),
    pod_mac=bytes.fromhex("02005e000002"),
    addresses=(ip_address("10.244.0.9"), ip_address("fd00:10:244::9")),
    identity=4711,
    options={"debug": True},
)
RECORD = EndpointRecord(
    spec=SPEC,
    config_hash="a" * 64,
    template_hash="b" * 64,
    attach_mode="tc",
    programs=(Program("from_container", 12, b"12345678", 900, 4000, "tc ingress"),),
    policy_map=5,
)


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    state = StateDir(tmp_path / "state")
    state.open()
    return state


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.name not in {"globals", "templates"})


def begin(state: StateDir, record: EndpointRecord = RECORD) -> None:
    build = state.build(record.spec.id)
    build.begin("#define ENABLE_DEBUG 1\n")
    build.intend(record)


def commit(state: StateDir, record: EndpointRecord = RECORD) -> None:
    begin(state, record)
    state.build(record.spec.id).commit()


def test_a_record_survives_being_written_and_read() -> None:
    assert text.read_endpoint(text.write_endpoint(RECORD), Path("x")) == RECORD


def test_a_chained_endpoint_has_a_format_that_older_loaders_refuse() -> None:
    """They would take its link for their own, and let it down with the endpoint."""
    chained = dataclasses.replace(RECORD, spec=dataclasses.replace(RECORD.spec, chained=True))
    written = text.write_endpoint(chained)
    assert text.read_endpoint(written, Path("x")) == chained
    assert (json.loads(written)["format"], json.loads(text.write_endpoint(RECORD))["format"]) == (3, 2)


def test_a_node_configuration_survives_being_written_and_read(state: StateDir) -> None:
    config = NodeConfig((ip_network("10.244.0.0/24"),), (ip_address("10.244.0.1"),), masquerade=True, mtu=9000)
    assert state.node() is None

    state.write_node(config, "#define X 1\n")

    assert state.node() == config
    assert state.node_header() == "#define X 1\n"
    assert names(state.globals) == ["node.json", "node_config.h"]


def test_a_build_is_invisible_until_it_is_committed(state: StateDir) -> None:
    begin(state)
    assert state.record(7) is None

    state.build(7).commit()

    assert state.record(7) == RECORD
    assert names(state.root) == ["7"]
    assert names(state.root / "7") == ["endpoint.json", "ep_config.h", "template.txt"]
    assert (state.root / "7" / "template.txt").read_text() == "b" * 64 + "\n"


def test_a_later_build_takes_the_place_of_the_one_before(state: StateDir) -> None:
    commit(state)
    later = dataclasses.replace(RECORD, config_hash="d" * 64)

    commit(state, later)

    assert list(state.records()) == [later]
    assert names(state.root) == ["7"]


def test_a_failed_build_keeps_what_is_live_and_its_log(state: StateDir) -> None:
    commit(state)
    begin(state, dataclasses.replace(RECORD, config_hash="d" * 64))

    state.build(7).fail("", "R1 invalid mem access\n")

    assert state.record(7) == RECORD
    assert names(state.root) == ["7", "7_next_fail"]
    assert (state.root / "7_next_fail" / "verifier.log").read_text() == "R1 invalid mem access\n"


def test_the_next_success_removes_the_failure(state: StateDir) -> None:
    state.build(7).begin("")
    state.build(7).fail("", "log")

    commit(state)

    assert names(state.root) == ["7"]


def test_a_second_failure_replaces_the_first(state: StateDir) -> None:
    for log in ("first", "second"):
        state.build(7).begin("")
        state.build(7).fail("", log)

    assert (state.root / "7_next_fail" / "verifier.log").read_text() == "second"


def test_what_a_killed_build_left_is_found_with_its_intention(state: StateDir) -> None:
    begin(state)
    state.build(8).begin("")
    (state.root / "9_next").mkdir()
    (state.root / "9_next" / "endpoint.json").write_text('{"format": 1, "id"')

    assert state.unfinished() == [(7, RECORD), (8, None), (9, None)]


def test_beginning_again_forgets_what_a_killed_build_left(state: StateDir) -> None:
    begin(state)

    state.build(7).begin("")

    assert names(state.root / "7_next") == ["ep_config.h"]


def test_a_directory_without_a_record_is_the_residue_of_a_removal(state: StateDir) -> None:
    commit(state)
    (state.root / "8").mkdir()
    (state.root / "8" / "ep_config.h").touch()

    assert state.sweep() == [8]
    assert names(state.root) == ["7"]


def test_removing_takes_all_three_directories_and_says_whether_one_was_there(state: StateDir) -> None:
    commit(state)
    begin(state)
    (state.root / "7_next_fail").mkdir()

    assert state.remove(7) is True
    assert state.remove(7) is False
    assert names(state.root) == []


def test_the_failure_of_an_endpoint_that_never_came_to_be_outlives_its_removal(state: StateDir) -> None:
    log = state.build(7).fail("", "no")

    assert state.remove(7) is False
    assert log.read_text() == "no"


def test_only_the_newest_failures_are_kept(state: StateDir) -> None:
    for id_ in range(1, KEPT_FAILURES + 3):
        log = state.build(id_).fail("", "no")
        os.utime(log.parent, ns=(id_, id_))

    assert set(names(state.root)) == {f"{id_}_next_fail" for id_ in range(3, KEPT_FAILURES + 3)}


def test_other_directories_are_nobodys_endpoint(state: StateDir) -> None:
    for name in ("0", "65536", "links", "7_stale", "-1", "07x", "007"):
        (state.root / name).mkdir()

    assert list(state.records()) == []
    assert state.sweep() == []


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "is damaged"),
        ("[]", "is damaged"),
        ('{"format": 1}', "is damaged"),
        ('{"format": 4}', "a newer podlane wrote it"),
    ],
)
def test_a_damaged_or_newer_record_is_refused_and_kept(state: StateDir, content: str, says: str) -> None:
    commit(state)
    path = state.root / "7" / "endpoint.json"
    path.write_text(content)

    with pytest.raises(CorruptState, match=says) as failure:
        state.record(7)

    assert str(path) in failure.value.message
    assert path.read_text() == content


def test_a_place_that_cant_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(Unavailable, match=f"{tmp_path}/file/state can't be written"):
        StateDir(tmp_path / "file" / "state").open()
