"""Each check of `podlane bugtool check`: a healthy report, one thing changed, and the sentence that follows from it."""

import re
from pathlib import Path

import pytest

from cli.report import checks
from tests.bugtool_cases_endpoint import ENDPOINTS
from tests.bugtool_cases_kernel import KERNEL
from tests.bugtool_cases_node import NODE
from tests.bugtool_changes import DB0, STRANGER, WEB0, Change, Members
from tests.report_support import WEB, healthy, report

DOCS = Path(__file__).resolve().parents[2] / "docs" / "bugtool.md"
CASES = [*NODE, *ENDPOINTS, *KERNEL]


def found(members: Members) -> list[tuple[str, str, str]]:
    findings, skipped = checks.run(report(members))
    assert skipped == []
    return [(one.check, one.object, one.problem) for one in findings]


def test_a_healthy_report_contradicts_nothing():
    assert found(healthy()) == []


@pytest.mark.parametrize(
    ("check", "object_", "problem", "change"), CASES, ids=[f"{n}-{case[0]}" for n, case in enumerate(CASES)]
)
def test_one_thing_changed_is_found_by_its_check_alone(check: str, object_: str, problem: str, change: Change):
    members = healthy()
    change(members)

    (only,) = found(members)

    assert only[:2] == (check, object_)
    assert re.fullmatch(re.escape(problem).replace(r"\{\}", "[0-9a-f]{32}"), only[2]), only[2]


def test_there_is_a_case_for_each_check_and_the_page_has_them_all():
    assert {case[0] for case in CASES} == set(checks.CHECKS)
    listed = re.findall(r"^\| `([a-z-]+)` \| (.*) \|$", DOCS.read_text(), re.MULTILINE)
    assert listed == [
        (name, " ".join((check.__doc__ or "").split()).removesuffix(".")) for name, check in checks.CHECKS.items()
    ]


@pytest.mark.parametrize("member", [name for name in healthy() if name != "manifest.json"])
def test_what_was_not_collected_contradicts_nothing(member: str):
    members = healthy()
    del members[member]

    assert found(members) == []


def test_without_services_the_files_tell_the_same():
    members = {
        name: content for name, content in healthy().items() if name.startswith(("files/", "kernel/", "pods/", "mani"))
    }
    assert [one.title for one in report(members).settled] == [WEB0, DB0]
    assert found(members) == []

    members["files/ipam.json"]["allocations"][0]["endpoint_id"] = 9
    members["files/state.json"]["2/endpoint.json"]["identity"] = 5

    assert {(check, object_) for check, object_, _ in found(members)} == {("allocation", WEB0), ("datapath", DB0)}


def test_who_came_or_went_meanwhile_contradicts_nothing():
    members = healthy()
    # db-0 was deleted after the first list; of web-0's successor only the second list knows.
    members["endpoint/after.json"] = [
        members["endpoint/after.json"][0],
        WEB.endpoint
        | {
            "id": 3,
            "generation": 3,
            "attachment": STRANGER,
            "state": "regenerating",
        },
    ]
    members["files/endpoint.json"]["endpoints"] = []
    members["loader/maps/endpoints.json"] = [
        one for one in members["loader/maps/endpoints.json"] if one["endpoint_id"] != 2
    ]
    members["ipam/allocations.json"] = [
        WEB.allocation,
        WEB.allocation
        | {
            "owner": STRANGER,
            "endpoint_id": 3,
            "addresses": [{"address": "10.44.0.9/32"}],
        },
    ]
    members["loader/datapaths.json"].append(WEB.datapath | {"id": 3})
    members["kernel/bpf/pins.json"].append("maps/policy_3")

    assert found(members) == []


def test_a_chained_endpoint_is_held_against_nothing_of_ipam_and_no_route():
    members = healthy()
    for one in (members["endpoint/endpoints.json"][0], members["endpoint/after.json"][0]):
        one["link"] = one["link"] | {"chained": True}
    del members["ipam/allocations.json"][0]
    del members["files/ipam.json"]["allocations"][0]
    del members["kernel/ip/routes4.json"][0]
    members["kernel/ip/neighbours.json"] = members["kernel/ip/neighbours.json"][2:]
    members["endpoint/kvstore.json"] = members["endpoint/kvstore.json"][2:]

    assert found(members) == []


def test_a_check_that_cannot_read_its_part_is_told_and_the_others_are_made():
    members = healthy()
    members["loader/maps/call_policy.json"] = {"slots": "of a later format"}
    members["services/health.json"][0]["health"] = "down"

    findings, skipped = checks.run(report(members))

    assert [name for name, _ in skipped] == ["call-policy"]
    assert [one.check for one in findings] == ["services"]
