"""Where the time of real ADDs went, and what a node says while something of it is stuck."""

import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from cli.why_slow import ENOUGH
from tests.agreement import until
from tests.node_support import Node, Pod, stopped

pytestmark = [pytest.mark.privileged, pytest.mark.xdist_group("why")]

RUNTIMES = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
# What every ADD of a pod's own link goes through, whatever there was before it.
WHOLE = {
    *("start", "configuration", "addresses", "link", "handover", "node", "identity", "turn", "record", "peers"),
    *("datapath", "agreement"),
}
PARTS = {
    *("addresses/lock", "addresses/choose", "addresses/store", "link/wait", "link/netns", "link/record", "link/link"),
    *("link/pod", "link/done", "datapath/resolve", "datapath/headers", "datapath/template", "datapath/load"),
    *("datapath/load/verify", "datapath/policy", "datapath/attach", "datapath/host", "datapath/maps"),
    "datapath/commit",
}


@pytest.fixture(scope="module")
def shared_node() -> Iterator[Node]:
    """A node whose ADDs wait for the verifier, too: it has no spare programs."""
    with Node(settings={"loader": {"spare_programs": 0}}) as node:
        yield node


@pytest.fixture(scope="module")
def pods(shared_node: Node) -> list[Pod]:
    """As many as make something usual; the first one's runtime traces."""
    made = [shared_node.pod() for _ in range(ENOUGH)]
    for number, pod in enumerate(made):
        environment = {} if number else {"TRACEPARENT": RUNTIMES}
        assert shared_node.cni("ADD", pod, **environment).code == 0
    return made


def timeline(node: Node, pod: Pod) -> dict[str, Any]:
    found: dict[str, Any] = node.show("endpoint", "get", f"default/{pod.name}")["timeline"]
    return found


def test_every_phase_of_an_add_is_there_in_its_place(shared_node: Node, pods: list[Pod]):
    for pod in pods:
        kept = timeline(shared_node, pod)
        took = {phase["name"]: phase["duration_us"] for phase in kept["phases"]}
        begin = {phase["name"]: phase["offset_us"] for phase in kept["phases"]}
        assert WHOLE | PARTS | {"confirm"} <= set(took)
        assert sum(took[name] for name in WHOLE) <= kept["total_us"]
        for name, microseconds in took.items():
            above = name.rpartition("/")[0]
            # A microsecond for each of two that were rounded.
            assert not above or begin[above] <= begin[name] + 1, name
            assert not above or begin[name] + microseconds <= begin[above] + took[above] + 2, name
        assert took["start"] > 0


def test_it_begins_with_the_plugins_process_and_in_its_runtimes_trace(shared_node: Node, pods: list[Pod]):
    first, second = (timeline(shared_node, pod) for pod in pods[:2])
    created = shared_node.show("endpoint", "get", f"default/{pods[1].name}")["created"]

    assert datetime.fromisoformat(second["began"]) < datetime.fromisoformat(created)
    assert first["trace_id"] == RUNTIMES.split("-")[1] != second["trace_id"]
    assert second["request_id"] == f"cni-ADD-{pods[1].container_id[:12]}"


def test_why_slow_shows_one_beside_what_is_usual_and_the_slowest_first(shared_node: Node, pods: list[Pod]):
    told = shared_node.podlane("endpoint", "why-slow", f"default/{pods[0].name}").stdout
    asked = shared_node.show("endpoint", "why-slow", f"default/{pods[0].name}")
    top = shared_node.show("endpoint", "why-slow", "--top", "--limit", "3")
    table = shared_node.podlane("endpoint", "why-slow").stdout.splitlines()

    assert f"(default/{pods[0].name}): its creation took" in told
    assert f"(of {len(pods)})" in told
    assert told.splitlines()[3].split() == ["PHASE", "TOOK", "USUAL", "P99", "×", "USUAL"]
    shown = {line.split()[0] for line in told.splitlines()[4:] if line.strip()}
    assert shown >= {*WHOLE, "verify", "total", "(between)"}
    assert told.splitlines()[-1] == asked["summary"]
    assert asked["slowest"] in {phase["name"] for phase in asked["timeline"]["phases"]}
    assert {one["name"]: one["count"] for one in asked["usual"]}["total"] == len(pods)
    totals = [one["timeline"]["total_us"] for one in top["creations"]]
    assert totals == sorted((timeline(shared_node, pod)["total_us"] for pod in pods), reverse=True)[:3]
    assert [line.split()[0] for line in table[1:4]] == [str(one["id"]) for one in top["creations"]]
    wrong = shared_node.podlane("endpoint", "why-slow", "1", "--top", check=False)
    assert (wrong.returncode, len(wrong.stderr.splitlines())) == (2, 1)


def test_phases_are_histograms(shared_node: Node, pods: list[Pod]):
    page = scrape(shared_node)

    for name in WHOLE | PARTS | {"total"}:
        assert f'podlane_endpoint_creation_phase_seconds_count{{phase="{name}"}} {len(pods)}.0' in page, name
    assert f'podlane_endpoint_regeneration_phase_seconds_count{{phase="load"}} {len(pods)}.0' in page


def scrape(node: Node) -> str:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(node.loaded.endpoint.metrics_listen))
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: podlane\r\nConnection: close\r\n\r\n")
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


def why_stuck(node: Node, *argv: str) -> subprocess.CompletedProcess[str]:
    return node.podlane("endpoint", "why-stuck", *argv, check=False)


@pytest.fixture
def loader_away(shared_node: Node) -> Iterator[None]:
    """A loader that was killed, and is started again at the end."""
    shared_node.kill("loader")
    yield
    shared_node.launch("loader")
    until(lambda: why_stuck(shared_node).returncode == 0, lambda: why_stuck(shared_node).stdout)


@pytest.mark.usefixtures("loader_away")
def test_why_stuck_names_a_loader_that_is_away_of_the_node_and_of_the_endpoint(shared_node: Node, pods: list[Pod]):
    one = f"default/{pods[0].name}"
    shared_node.podlane("endpoint", "regenerate", one, "--level", "1", check=False)

    told = why_stuck(shared_node)
    asked = json.loads(why_stuck(shared_node, one, "-o", "json").stdout)

    assert told.returncode == 1
    assert told.stdout.startswith("the node takes no endpoints, for ")
    assert f"({one}), waiting-to-regenerate, for " in told.stdout
    assert "podlane-loader must answer again" in asked["node_unblock"][0]
    (stuck,) = asked["stuck"]
    assert (stuck["pod"]["name"], stuck["state"]) == (pods[0].name, "waiting-to-regenerate")
    assert stuck["unblock"][0] == asked["node_unblock"][0]


def test_why_stuck_tells_of_a_loader_that_does_not_answer_and_of_nothing_when_it_does(
    shared_node: Node, pods: list[Pod]
):
    well = why_stuck(shared_node)
    assert (well.returncode, well.stdout) == (0, "nothing is stuck\n")

    one = f"default/{pods[0].name}"
    with stopped(shared_node, "loader"):
        command = ("endpoint", "regenerate", one)
        regenerating = threading.Thread(target=shared_node.podlane, args=command, kwargs={"check": False})
        regenerating.start()
        until(lambda: "regenerating, for " in why_stuck(shared_node).stdout, lambda: why_stuck(shared_node).stdout)
        (found,) = json.loads(why_stuck(shared_node, "-o", "json").stdout)["stuck"]
    regenerating.join()

    assert "the loader to finish a regeneration" in found["waits_for"]
    assert "the loader's answer" in found["unblock"][0]
    until(lambda: why_stuck(shared_node).returncode == 0, lambda: why_stuck(shared_node).stdout)
