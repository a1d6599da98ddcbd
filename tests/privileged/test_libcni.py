"""What libcni does with a list, as podman's own libcni does it: order, results, cache; and podlane in the midst of it.

In the list podlane and portmap are run by a witness (tests/witness.py), and one that only watches is the last.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.image_support import NAME as IMAGE
from tests.node_support import Node
from tests.podman_support import CACHE, Podman
from tests.witness import Witness

pytestmark = [pytest.mark.privileged, pytest.mark.long]

ORDER = ["podlane", "portmap", "last"]


@dataclass(frozen=True)
class Stage:
    """A node, its podman, and who writes the calls down."""

    node: Node
    podman: Podman
    witness: Witness


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """The node, whose only network is the list."""
    with Node() as node:
        witness = Witness(node.bin_dir, node.dir / "calls")
        (file,) = node.conf_dir.glob("*.conflist")
        conflist = json.loads(file.read_text())
        (ours,) = conflist["plugins"]
        portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
        conflist["plugins"] = [witness.entry(ours), witness.entry(portmap), witness.entry(name="last")]
        file.write_text(json.dumps(conflist))
        with Podman(node) as podman:
            yield Stage(node, podman, witness)


def cached(container: str) -> Any:
    """Return the result that libcni keeps of a container."""
    return json.loads((CACHE / f"podlane-{container}-eth0").read_text())["result"]


@pytest.mark.cni("LIFE-3")
def test_plugins_are_added_in_order_and_deleted_in_reverse_each_with_the_result_that_is_theirs(stage: Stage):
    container = stage.podman.run("web", publish=["8080:7000"])
    added = stage.witness.calls()
    result = cached(container)
    stage.podman.remove(container)
    deleted = stage.witness.calls()

    assert [(verb, name) for verb, name, _ in added] == [("ADD", name) for name in ORDER]
    first, *others = [previous for *_, previous in added]
    assert first is None
    # Neither portmap nor the last one changes it, so it is podlane's all the way.
    assert others == [result, result]
    assert len(result["ips"]) == 2
    assert [(verb, name) for verb, name, _ in deleted] == [("DEL", name) for name in reversed(ORDER)]
    assert [previous for *_, previous in deleted] == [result] * 3
    assert stage.node.leftovers() == []
    assert not list(CACHE.glob(f"*{container}*"))


@pytest.mark.cni("DEL-4", "ADD-5")
def test_after_an_add_that_a_later_plugin_failed_del_comes_without_a_result_and_leaves_nothing(stage: Stage):
    stage.witness.refuse(on=True)
    refused = stage.podman.attempt("run", "--name=unlucky", "--publish=8080:7000", IMAGE, "true")
    stage.witness.refuse(on=False)
    stage.podman.remove("unlucky")
    calls = stage.witness.calls()

    assert "the witness refuses" in refused.stderr
    assert [name for verb, name, _ in calls if verb == "ADD"] == ORDER
    undone = [(name, previous) for verb, name, previous in calls if verb == "DEL"]
    assert undone[:3] == [(name, None) for name in reversed(ORDER)]
    assert (stage.podman.leftovers(), stage.node.leftovers()) == ([], [])
    assert "8080" not in stage.node.exec("iptables-save", "-t", "nat").stdout


@pytest.mark.cni("GC-1", "DEL-3")
def test_gc_after_the_dels_that_libcni_makes_of_stale_results_finds_nothing_more(stage: Stage):
    """libcni 1.2 calls DEL for each result in its cache whose attachment isn't valid any more, then GC."""
    node = stage.node
    valid, stale, forgotten = (node.pod() for _ in range(3))
    results = {pod.container_id: node.add(pod).json for pod in (valid, stale, forgotten)}
    attachments = [{"containerID": valid.container_id, "ifname": valid.ifname}]

    conf = node.conf(prevResult=results[stale.container_id])
    assert node.cni("DEL", stale, conf, CNI_NETNS="").code == 0
    # Of the third libcni has lost the result, too.
    outcome = node.cni("GC", valid, node.conf(**{"cni.dev/valid-attachments": attachments}))
    assert outcome.code == 0, outcome
    assert node.cni("DEL", stale, conf, CNI_NETNS="").code == 0

    (left,) = node.show("endpoint", "list")
    assert left["attachment"]["container_id"] == valid.container_id
    assert all(valid.ping(gateway) for gateway in (ip["gateway"] for ip in results[valid.container_id]["ips"]))
    node.delete(valid)
    assert node.leftovers() == []
