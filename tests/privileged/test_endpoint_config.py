"""Regeneration on request and switches, on a real node: what is loaded, what is not, and what a failure leaves."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.agreement import until
from tests.node_support import Node, Pod

pytestmark = [pytest.mark.privileged, pytest.mark.xdist_group("endpoint-config")]

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pods(shared_node: Node) -> Iterator[tuple[Pod, Pod]]:
    """Two pods that talk to each other."""
    one, two = shared_node.pod(), shared_node.pod()
    for pod in (one, two):
        shared_node.add(pod)
    yield one, two
    for pod in (one, two):
        shared_node.delete(pod)
    assert shared_node.leftovers() == []


def endpoint(node: Node, pod: Pod) -> Any:
    """Return a pod's endpoint."""
    return node.show("endpoint", "get", f"default/{pod.name}")


def programs(node: Node, pod: Pod) -> dict[str, tuple[int, str]]:
    """Return id and tag of each of a pod's programs."""
    return {one["hook"]: (one["id"], one["tag"]) for one in endpoint(node, pod)["last_regeneration"]["programs"]}


def kernel_programs(node: Node, pod: Pod) -> str:
    """Return what the kernel says is attached to the node's end of a pod's link."""
    device = endpoint(node, pod)["link"]["host_ifname"]
    return "".join(node.exec("tc", "filter", "show", "dev", device, way).stdout for way in ("ingress", "egress"))


def header(node: Node, pod: Pod) -> str:
    """Return a pod's ep_config.h."""
    return (node.loaded.loader.state_dir / str(endpoint(node, pod)["id"]) / "ep_config.h").read_text()


def test_level_1_leaves_ids_and_tags_of_the_programs_and_level_2_loads_the_same_ones_anew(
    shared_node: Node, pods: tuple[Pod, Pod]
):
    before, attached = programs(shared_node, pods[0]), kernel_programs(shared_node, pods[0])

    (maps,) = shared_node.show("endpoint", "regenerate", f"default/{pods[0].name}", "--level", "no-rebuild")
    assert (maps["level"], maps["reload_reason"], maps["changes"]) == ("no-rebuild", "", [])
    assert programs(shared_node, pods[0]) == before
    assert kernel_programs(shared_node, pods[0]) == attached

    (loaded,) = shared_node.show("endpoint", "regenerate", f"default/{pods[0].name}")
    assert (loaded["level"], loaded["reload_reason"]) == ("rewrite-load", "it was asked for")
    after = programs(shared_node, pods[0])
    assert {tag for _, tag in after.values()} == {tag for _, tag in before.values()}
    assert not {id_ for id_, _ in after.values()} & {id_ for id_, _ in before.values()}
    assert kernel_programs(shared_node, pods[0]) != attached


def test_a_dry_run_says_what_would_change_and_nothing_does(shared_node: Node, pods: tuple[Pod, Pod]):
    shared_node.podlane("endpoint", "regenerate", "all", "--level", "1")
    before = [endpoint(shared_node, pod) for pod in pods]

    told = shared_node.podlane("endpoint", "regenerate", "all", "--dry-run").stdout

    assert "WOULD CHANGE" in told
    assert told.count("rewrite+load") == told.count("it was asked for") == 2
    assert [endpoint(shared_node, pod) for pod in pods] == before


def test_a_switch_of_the_node_is_in_every_header_and_one_of_an_endpoint_above_it(
    shared_node: Node, pods: tuple[Pod, Pod]
):
    one, two = pods
    address = shared_node.show("endpoint", "get", f"default/{two.name}")["addresses"][0]["address"].partition("/")[0]
    before = programs(shared_node, one)

    results = shared_node.show("config", "set", "debug=on")
    assert {result["reload_reason"] for result in results} == {"the configuration has changed"}
    assert "#define ENABLE_DEBUG" in header(shared_node, one)
    assert {tag for _, tag in programs(shared_node, one).values()} != {tag for _, tag in before.values()}
    assert one.ping(address)

    shared_node.podlane("endpoint", "config", f"default/{one.name}", "debug=off")
    assert "#define ENABLE_DEBUG" not in header(shared_node, one)
    assert "#define ENABLE_DEBUG" in header(shared_node, two)
    (switch,) = [
        one for one in shared_node.show("endpoint", "config", f"default/{one.name}") if one["info"]["name"] == "debug"
    ]
    assert (switch["node"], switch["endpoint"], switch["enabled"], switch["info"]["default"]) == (
        True,
        False,
        False,
        False,
    )
    assert "options     debug off" in shared_node.podlane("endpoint", "get", f"default/{one.name}").stdout

    shared_node.podlane("endpoint", "config", f"default/{one.name}", "debug=default")
    shared_node.podlane("config", "set", "debug=default")
    assert {tag for _, tag in programs(shared_node, one).values()} == {tag for _, tag in before.values()}
    assert one.ping(address)


def test_the_list_of_switches_says_what_each_does(shared_node: Node):
    told = shared_node.podlane("config", "list").stdout

    for name in ("debug", "source-ip-verification", "arp-responder"):
        assert name in told
    assert "Answer ARP and ND for the gateway" in told


def test_what_is_no_switch_or_no_value_is_refused_in_one_line(shared_node: Node):
    for argument, says in (
        ("sorcery=on", "'sorcery' is no option"),
        ("debug", "KEY=VALUE"),
        ("debug=maybe", "on, off"),
    ):
        outcome = shared_node.podlane("config", "set", argument, check=False)

        assert outcome.returncode == 2
        assert len(outcome.stderr.splitlines()) == 1
        assert says in outcome.stderr


def test_log_and_health_of_an_endpoint(shared_node: Node, pods: tuple[Pod, Pod]):
    name = f"default/{pods[0].name}"

    assert shared_node.podlane("endpoint", "health", name).stdout == "ok (bpf ok, policy ok, connected ok)\n"
    lines = shared_node.podlane("endpoint", "log", name).stdout.splitlines()
    assert "regenerated at level rewrite+load (initial build on endpoint creation)" in "\n".join(lines)
    assert [line.split()[1] for line in lines[:2]] == ["other", "bpf"]


def test_an_endpoint_shows_what_was_published_of_it(shared_node: Node, pods: tuple[Pod, Pod]):
    shown = endpoint(shared_node, pods[0])

    assert shown["published"]["key"] == f"podlane/state/endpoints/v1/{shared_node.name}/{shown['id']}"
    assert pods[0].container_id in shown["published"]["value"]
    assert "published   podlane/state/endpoints" in shared_node.podlane("endpoint", "get", str(shown["id"])).stdout


def test_one_failed_build_keeps_programs_map_and_directory_and_is_tried_until_it_can_be(tmp_path: Path):
    shutil.copytree(REPOSITORY / "bpf", tmp_path / "bpf")
    with (tmp_path / "bpf" / "bpf_lxc.c").open("a") as source:
        source.write("#ifdef ENABLE_DEBUG\n#error not today\n#endif\n")
    with Node(settings={"loader": {"bpf_dir": str(tmp_path / "bpf")}}) as node:
        one, two = node.pod(), node.pod()
        address = [node.add(pod).addresses for pod in (one, two)][1][0]
        before, attached = programs(node, two), kernel_programs(node, two)
        id_ = endpoint(node, two)["id"]
        files = {path.name: path.read_text() for path in (node.loaded.loader.state_dir / str(id_)).iterdir()}

        refused = node.podlane("endpoint", "config", str(id_), "debug=on", check=False)

        assert refused.returncode == 1
        assert "not today" in refused.stdout
        log = node.loaded.loader.state_dir / f"{id_}_next_fail" / "verifier.log"
        assert "#error not today" in log.read_text()
        assert {path.name: path.read_text() for path in log.parents[1].joinpath(str(id_)).iterdir()} == files
        assert kernel_programs(node, two) == attached
        assert one.ping(address)
        health = node.podlane("endpoint", "health", str(id_), check=False)
        assert health.returncode == 1
        assert "the last regeneration failed" in health.stdout
        # In between it waits for the attempt itself.
        until(
            lambda: endpoint(node, two)["waiting_for"].startswith("the next attempt; the last one failed"),
            lambda: str(endpoint(node, two)["waiting_for"]),
        )

        node.podlane("endpoint", "config", str(id_), "debug=default")

        assert node.podlane("endpoint", "health", str(id_)).stdout.startswith("ok ")
        assert endpoint(node, two)["counters"]["failures"] >= 1
        assert programs(node, two) == before
        for pod in (one, two):
            node.delete(pod)
        assert node.leftovers() == []
