"""What makes a reload necessary, and what the kernel can lose."""

import dataclasses
from ipaddress import ip_address
from typing import Any

import pytest

from services.common import policydigest
from services.common.model import Attachment
from services.loader.model import (
    Direction,
    EndpointRecord,
    EndpointSpec,
    Level,
    Observed,
    PolicyEntry,
    Program,
    Running,
    config_hash,
    map_changes,
    policy_changes,
    policy_content,
    problems,
    program_problems,
    reload_reason,
)

AS_NEEDED = Level.NO_REBUILD
V4, V6 = ip_address("10.244.0.9"), ip_address("fd00:10:244::9")
SPEC = EndpointSpec(7, 3, Attachment("podlane", "c0ffee", "eth0"), "lxc0", 42, b"\2" * 6, b"\4" * 6, (V4, V6), 4711)
PROGRAMS = (
    Program("policy", 10, b"policy..", 300, 1000, "call_policy[7]"),
    Program("from_container", 11, b"fromcont", 900, 4000, "tc ingress"),
    Program("to_container", 12, b"tocontai", 200, 700, "tc egress"),
)
RECORD = EndpointRecord(SPEC, "a" * 64, "b" * 64, "tc", PROGRAMS, 5)
RUNNING = Running(
    ids={program.hook: program.id for program in PROGRAMS},
    tags={program.id: program.tag for program in PROGRAMS},
    policy_map=5,
)
WHOLE = Observed(
    link=True,
    running=RUNNING,
    leads_here={V4: True, V6: True},
    node_side=(),
)


def test_nothing_is_wrong_when_the_kernel_has_what_was_put_in_force() -> None:
    assert problems(RECORD, WHOLE) == []
    assert reload_reason(SPEC, AS_NEEDED, "a" * 64, RECORD, []) is None


@pytest.mark.parametrize(
    ("lost", "says"),
    [
        ({"link": False}, "link lxc0 (ifindex 42) is gone"),
        ({"node_side": ["lxc0 is down"]}, "lxc0 is down"),
        ({"leads_here": {V4: True}}, "the endpoint map does not lead fd00:10:244::9 to endpoint 7"),
        (
            {"running": Running(RUNNING.ids, RUNNING.tags, None)},
            "the pin of policy map policy_7 is missing: its programs use map 5",
        ),
        (
            {"running": Running(RUNNING.ids, RUNNING.tags, 6)},
            "the pin of policy map policy_7 is map 6: its programs use map 5",
        ),
        (
            {"running": Running({**RUNNING.ids, "tc ingress": None}, RUNNING.tags, 5)},
            "tc ingress is empty: from_container (program 11) was there",
        ),
        (
            {"running": Running({**RUNNING.ids, "call_policy[7]": 99}, RUNNING.tags, 5)},
            "call_policy[7] runs program 99, not policy (program 10)",
        ),
        (
            {"running": Running(RUNNING.ids, {**RUNNING.tags, 12: b"another."}, 5)},
            "tc egress: program 12 has tag 616e6f746865722e, to_container had 746f636f6e746169",
        ),
    ],
)
def test_each_thing_the_kernel_can_lose_has_a_sentence(lost: dict[str, Any], says: str) -> None:
    assert problems(RECORD, dataclasses.replace(WHOLE, **lost)) == [says]


def test_an_endpoint_without_a_record_must_be_loaded() -> None:
    assert reload_reason(SPEC, AS_NEEDED, "a" * 64, None, []) == "the endpoint has no programs yet"


def test_another_configuration_must_be_loaded() -> None:
    assert reload_reason(SPEC, AS_NEEDED, "e" * 64, RECORD, []) == "the configuration has changed"


def test_another_link_must_be_loaded_although_nothing_else_changed() -> None:
    moved = dataclasses.replace(SPEC, host_ifindex=43)

    assert reload_reason(moved, AS_NEEDED, "a" * 64, RECORD, []) == "the link is another one: ifindex 42 became 43"


def test_a_lost_program_must_be_loaded_again_and_a_lost_map_entry_is_no_reason() -> None:
    lost = program_problems(RECORD, Running({**RUNNING.ids, "tc ingress": None}, RUNNING.tags, 5))
    assert reload_reason(SPEC, AS_NEEDED, "a" * 64, RECORD, lost) == lost[0]

    lost = program_problems(RECORD, dataclasses.replace(WHOLE, leads_here={}).running)
    assert reload_reason(SPEC, AS_NEEDED, "a" * 64, RECORD, lost) is None


def test_level_2_loads_whatever_is_there_and_level_1_only_what_is_needed() -> None:
    assert reload_reason(SPEC, Level.NO_REBUILD, "a" * 64, RECORD, []) is None
    assert reload_reason(SPEC, Level.REWRITE_LOAD, "a" * 64, RECORD, []) == "it was asked for"


def test_a_preview_says_which_map_entries_would_be_written() -> None:
    allow, web = PolicyEntry(Direction.INGRESS), PolicyEntry(Direction.EGRESS, 256, 6, 443, 16)

    assert policy_changes(7, [allow], [allow]) == []
    assert policy_changes(7, [allow], [web]) == ["policy map policy_7: 1 entries written, 1 removed"]
    assert map_changes(SPEC, RECORD, WHOLE) == []
    everything = [f"the endpoint map did not lead {address} to endpoint 7" for address in SPEC.addresses]
    assert map_changes(dataclasses.replace(SPEC, identity=SPEC.identity + 1), RECORD, WHOLE) == everything


def test_what_stands_for_a_policy_knows_content_and_no_order() -> None:
    allow = PolicyEntry(Direction.INGRESS)
    web = PolicyEntry(Direction.EGRESS, identity=256, protocol=6, port=443, port_prefix_length=16)

    assert policy_content([allow, web]) == policy_content([web, allow])
    assert policy_content([allow, web]).entries == 2
    assert policy_content([allow]).digest == policydigest.digest([(1, 0, 0, 0, 0, False)])
    assert policy_content([allow]) != policy_content([dataclasses.replace(allow, deny=True)])
    assert policy_content([]).digest == policydigest.EMPTY


def test_the_config_hash_covers_the_template_the_attach_mode_and_each_constant() -> None:
    constants: dict[str, int | bytes] = {"endpoint_id": 7, "pod_mac": b"\2" * 6}
    first = config_hash("b" * 64, "tc", constants)

    assert first == config_hash("b" * 64, "tc", dict(reversed(constants.items())))
    assert first != config_hash("c" * 64, "tc", constants)
    assert first != config_hash("b" * 64, "tcx", constants)
    assert first != config_hash("b" * 64, "tc", {**constants, "endpoint_id": 8})
    assert first != config_hash("b" * 64, "tc", {**constants, "pod_mac": b"\3" * 6})
