"""`podlane controllers` and /metrics on a real node: what the services do by themselves, and what of it fails."""

import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.node_support import SERVICES, Node

pytestmark = [pytest.mark.privileged, pytest.mark.xdist_group("cli-controllers")]

# A clang that refuses until a file named `well` lies beside it.
ILL_CLANG = """#!/bin/sh
[ "$1" = --version ] && exec clang --version
[ -e "$(dirname "$0")/well" ] || { echo "x.c:1:1: error: told to fail" >&2; exit 1; }
exec clang "$@"
"""


@pytest.fixture
def ill(tmp_path: Path) -> Iterator[Node]:
    """A node whose compiler refuses until `tmp_path/well` exists."""
    clang = tmp_path / "clang"
    clang.write_text(ILL_CLANG)
    clang.chmod(0o755)
    with Node(settings={"loader": {"clang": str(clang)}}) as node:
        yield node


def scrape(node: Node, service: str) -> dict[tuple[str, ...], float]:
    """Return a service's metrics by name and sorted label values, as Prometheus' own parser reads them."""
    connection = http.client.HTTPConnection("podlane", timeout=10)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(f"{node.dir}/run/{service}/metrics.sock")
    connection.request("GET", "/metrics")
    page = connection.getresponse().read().decode()
    connection.close()
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def shown(node: Node, *argv: str) -> dict[str, Any]:
    """Return the controllers by `resource/name`."""
    return {f"{one['resource']}/{one['name']}": one for one in node.show("controllers", *argv)}


def test_one_table_has_the_controllers_of_all_services(shared_node: Node):
    lines = shared_node.podlane("controllers").stdout.splitlines()

    assert " ".join(lines[0].split()) == (
        "SERVICE RESOURCE CONTROLLER STATUS SUCCESS FAILURE CONSECUTIVE LAST RUN DURATION NEXT RUN ERROR"
    )
    rows = {tuple(line.split()[:4]) for line in lines[1:]}
    assert {
        ("ipam", "ipam", "expire-reservations", "ok"),
        ("loader", "loader", "prepare-template", "ok"),
    } <= rows
    assert {one["service"] for one in shown(shared_node, "--service", "loader").values()} == {"loader"}


def test_a_controller_is_shown_with_configuration_and_outcomes(shared_node: Node):
    told = shared_node.podlane("controllers", "get", "loader", "prepare-template").stdout
    (one,) = shared_node.show("controllers", "get", "loader", "prepare-template")

    assert f"controller  loader/prepare-template of podlane-loader ({one['uuid']})" in told
    assert "retry       after 1s, doubled each time up to 60s" in told
    assert "success in " in told
    assert one["configuration"]["retry_cap_ms"] == 60_000
    assert [outcome["result"] for outcome in one["outcomes"]] == ["success"] * len(one["outcomes"])
    assert one["outcomes"]


def test_a_trigger_makes_one_more_run(shared_node: Node):
    def runs() -> int:
        return int(shown(shared_node)["loader/prepare-template"]["status"]["success_count"])

    before = runs()

    told = shared_node.podlane("controllers", "trigger", "loader", "prepare-template").stdout

    assert told == "podlane-loader runs loader/prepare-template\n"
    while runs() == before:
        pass
    assert runs() == before + 1


@pytest.mark.parametrize("verb", ["get", "trigger"])
def test_a_controller_that_is_not_there_is_named(shared_node: Node, verb: str):
    outcome = shared_node.podlane("controllers", verb, "endpoint-9", "dance", check=False)

    assert outcome.returncode == 3
    assert outcome.stderr == (
        "podlane: there is no controller endpoint-9/dance: `podlane controllers` lists those there are\n"
    )


def test_a_pod_waits_for_its_expiry_only_until_it_is_confirmed(shared_node: Node):
    """The deadline of a reservation is what the controller waits for."""
    pod = shared_node.pod()
    shared_node.add(pod)

    status = shown(shared_node)["ipam/expire-reservations"]["status"]
    assert "next_run" in status
    assert status["failure_count"] == 0
    shared_node.delete(pod)


def test_services_that_are_down_are_named_and_the_others_are_shown(node: Node):
    node.kill("ipam")
    node.kill("endpoint")

    outcome = node.podlane("controllers", "-o", "json", check=False)

    assert outcome.returncode == 4
    assert {one["service"] for one in json.loads(outcome.stdout)} == {"loader"}
    told = outcome.stderr.splitlines()
    assert len(told) == 2
    assert told[0].startswith(f"podlane: podlane-ipam does not answer on {node.loaded.ipam.socket}")
    assert told[1].startswith(f"podlane: podlane-endpoint does not answer on {node.loaded.endpoint.socket}")
    assert node.podlane("controllers", "--service", "loader").returncode == 0


def test_the_usual_template_is_tried_again_until_clang_succeeds(ill: Node, tmp_path: Path):
    while "loader/prepare-template" not in shown(ill, "--failing"):
        pass

    told = ill.podlane("controllers", "--failing").stdout.splitlines()
    assert len(told) == 2
    assert "clang failed with exit code 1: x.c:1:1: error: told to fail" in told[1]
    assert "failing" in told[1].split()
    assert scrape(ill, "loader")["podlane_controllers_failing", "prepare-template"] == 1
    assert ill.cni("ADD", ill.pod()).code != 0

    (tmp_path / "well").touch()
    while shown(ill, "--failing"):
        pass

    (one,) = ill.show("controllers", "get", "loader", "prepare-template")
    assert [outcome["result"] for outcome in one["outcomes"]][-2:] == ["failure", "success"]
    assert ill.podlane("controllers", "--failing").stdout == "no controllers are failing\n"
    found = scrape(ill, "loader")
    assert found["podlane_controllers_failing", "prepare-template"] == 0
    assert found["podlane_controllers_runs_total", "prepare-template", "failure"] >= 1
    assert found["podlane_loader_templates", "compiled"] == 1
    ill.add(ill.pods[0])


def test_every_service_serves_its_metrics(shared_node: Node):
    pod = shared_node.pod()
    before = {service: scrape(shared_node, service) for service in SERVICES}
    shared_node.add(pod)
    after = {service: scrape(shared_node, service) for service in SERVICES}

    def more(service: str, *series: str) -> float:
        return after[service][series] - before[service].get(series, 0)

    for service, method in (
        ("ipam", "AllocateAddresses"),
        ("ipam", "ConfirmAllocation"),
        ("loader", "CreateLink"),
        ("loader", "RegenerateEndpoint"),
        ("endpoint", "CreateEndpoint"),
    ):
        assert more(service, "podlane_rpc_handled_total", "OK", method) == 1
        assert more(service, "podlane_rpc_duration_seconds_count", method) == 1
    assert more("endpoint", "podlane_endpoint_state", "ready") == 1
    assert more("ipam", "podlane_ipam_addresses", "IPv4", "default", "10.44.0.0/24", "confirmed") == 1
    assert more("ipam", "podlane_ipam_addresses", "IPv4", "default", "10.44.0.0/24", "free") == -1
    assert after["ipam"][("podlane_ipam_early_reuses_total",)] == 0
    assert all(found[("process_resident_memory_bytes",)] > 1e7 for found in after.values())
    ranges = [value for key, value in after["ipam"].items() if key[0] == "podlane_ipam_addresses" and "/24" in key[3]]
    assert sum(ranges) == 253
    shared_node.delete(pod)


def test_metrics_can_be_switched_off():
    with Node(settings={service: {"metrics_listen": ""} for service in SERVICES}) as node:
        assert list((node.dir / "run").glob("*/metrics.sock")) == []
        assert sorted(path.parent.name for path in (node.dir / "run").glob("*/*.sock")) == sorted(SERVICES)


def test_a_bad_address_for_metrics_is_named(node: Node):
    node.podlane("node", "down")
    node.settings = {"ipam": {"metrics_listen": "9961"}}
    node.write_config()

    outcome = node.podlane("node", "up", check=False)

    assert outcome.returncode == 4
    assert "[ipam] metrics_listen: '9961' is neither a path nor host:port (127.0.0.1:9961)" in outcome.stderr
