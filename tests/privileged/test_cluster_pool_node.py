"""A whole node whose ranges are claimed: pods come up, a range that is claimed later is in the loader's hands, too."""

import json
import time
from collections.abc import Callable, Iterator

import pytest

from tests.etcd_support import Etcd
from tests.node_support import Node

pytestmark = [pytest.mark.privileged, pytest.mark.long]
POOL = (
    'cluster_ranges = ["10.45.0.0/16", "fd00:45::/96"]\nnode_prefix_v4 = 29\nnode_prefix_v6 = 125\nspare = 2\n'
    "release_after_seconds = 0.0\n"
)


class ClusterNode(Node):
    """A node whose pool is a cluster's; etcd is in its namespace."""

    def write_config(self) -> None:
        """Write podlane.toml; etcd comes before the services."""
        self.etcd = Etcd(netns=f"/run/netns/{self.name}", port=2379)
        self.settings["kvstore"] = {"endpoints": self.etcd.endpoints, "timeout_seconds": 1.0}
        # A cluster's node has a way to the others, who aren't there.
        self.settings["cluster"] = {"underlay_device": "eth0"}
        self.exec("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "nobody")
        self.exec("ip", "address", "add", "10.99.0.1/24", "dev", "eth0")
        for device in ("eth0", "nobody"):
            self.exec("ip", "link", "set", device, "up")
        super().write_config()
        text = self.config_file.read_text()
        before, mark, _ = text.partition("ranges = ")
        assert mark
        before = before.replace("[ipam]\n", "[ipam]\nclaim_check_seconds = 0.1\ncooldown_seconds = 0.0\n")
        self.config_file.write_text(before + POOL)

    def close(self) -> None:
        """Take etcd away last."""
        super().close()
        self.etcd.close()


@pytest.fixture
def node() -> Iterator[ClusterNode]:
    """A node whose services don't run yet."""
    with ClusterNode(start=False) as node:
        yield node


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it doesn't come"
        time.sleep(0.05)


def ranges(node: Node) -> list[str]:
    """What ipam gives out of."""
    return [part["prefix"] for pool in node.show("ipam", "pools") for part in pool["ranges"]]


def cidrs(node: Node) -> set[str]:
    """What the loader's node has: the unreachable routes of its ranges."""
    found = set()
    for family in ("-4", "-6"):
        routes = json.loads(node.exec("ip", "-j", family, "route", "show", "table", "all").stdout or "[]")
        found |= {route["dst"] for route in routes if route.get("type") == "unreachable"}
    return found


def test_a_node_waits_for_its_first_claim_and_takes_more_into_its_datapath(node: ClusterNode) -> None:
    for service in ("ipam", "loader", "endpoint"):
        (node.dir / "run" / "log").mkdir(parents=True, exist_ok=True)
        node.launch(service)
    pods = [node.pod() for _ in range(7)]
    until(lambda: "no IPv4 range is claimed yet" in node.podlane("ipam", "pools", check=False).stderr)
    refused = node.cni("ADD", pods[0])
    assert (refused.code, refused.json["code"]) == (1, 11)
    assert "it waits for a pod CIDR from the kvstore" in refused.stdout
    until(lambda: "pod CIDR from the kvstore" in node.podlane("controllers", "--failing", check=False).stdout)

    node.etcd.start()
    until(lambda: node.cni("ADD", pods[0]).code == 0)
    outcomes = [node.add(pod) for pod in pods[1:]]

    assert len(ranges(node)) >= 4
    until(lambda: cidrs(node) >= set(ranges(node)))
    for pod in pods[1:]:
        for address in outcomes[0].addresses:
            assert pod.ping(address)
    first = node.add(pods[0]).json["ips"]
    gateways = {one["gateway"] for outcome in outcomes for one in outcome.json["ips"]}
    assert gateways == {one["gateway"] for one in first}
    assert pods[-1].ping(next(iter(sorted(gateways))))

    for pod in pods:
        node.delete(pod)
    until(lambda: len(ranges(node)) == 2)
    until(lambda: cidrs(node) == set(ranges(node)))
    claims = node.show("ipam", "claims")
    assert {claim["node"] for claim in claims} == {node.name}
    assert all(claim["gateway"] for claim in claims)
    assert node.leftovers() == []
