"""podlane behind the reference plugins bridge and ptp: their links and addresses, podlane's policy on both hooks.

One node for all: three pods on a bridge of another plugin (`web`, `db`, `cron`), one on a ptp link, and one on
podlane's own network (`native`). What is known by identity is known whichever plugin has made the link.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.agreement import Agreement, until
from tests.by_hand import ByHand
from tests.cni_list import Network, addresses
from tests.node_support import SERVICES, Node, Pod

pytestmark = [pytest.mark.privileged, pytest.mark.xdist_group("chaining")]

OURS = {"type": "podlane", "chaining-mode": "generic-veth"}
FROM_WEB = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: %s}
spec:
  podSelector: {matchLabels: {app: %s}}
  policyTypes: [Ingress]
  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]
"""
QUIET = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: quiet}
spec: {podSelector: {matchLabels: {app: cron}}, policyTypes: [Egress]}
"""


def ranges(number: int) -> list[list[dict[str, str]]]:
    """Return host-local's ranges, one of each family."""
    return [[{"subnet": f"10.{number}.0.0/24"}], [{"subnet": f"fd00:{number}::/64"}]]


def host_local(node: Node, number: int) -> dict[str, Any]:
    """Return the configuration of the reference IPAM plugin, with its state in the node's directory."""
    routes = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
    return {"type": "host-local", "ranges": ranges(number), "routes": routes, "dataDir": str(node.dir / "host-local")}


@dataclass
class Town:
    """The node, its networks, and its pods by name with their addresses (IPv4, IPv6)."""

    node: Node
    bridge: Network
    ptp: Network
    pods: dict[str, Pod] = field(default_factory=dict)
    at: dict[str, list[str]] = field(default_factory=dict)

    def settle(self, name: str, network: Network | None) -> None:
        """Give a pod its network; None: podlane's own."""
        pod = self.pod(name)
        self.at[name] = addresses(network.add(pod)) if network else self.node.add(pod).addresses
        self.by_hand.label(pod, app=name)

    def pod(self, name: str) -> Pod:
        """Make a pod."""
        pod = self.pods[name] = self.node.pod()
        pod.name = name
        return pod

    @property
    def by_hand(self) -> ByHand:
        """Who applies policies."""
        return ByHand(Agreement(self.node))

    def reach(self, source: str, target: str) -> list[bool]:
        """Return whether an echo request is answered, over IPv4 and IPv6."""
        return [ping(self.pods[source], address) for address in self.at[target]]

    def endpoints(self) -> dict[str, Any]:
        """Return the endpoints by their pods' names."""
        return {one["pod"]["name"]: one for one in self.node.show("endpoint", "list")}

    def sockets(self) -> dict[str, str]:
        """Return where the services are, as a configuration says it."""
        return {f"{one}Socket": str(getattr(self.node.loaded, one).socket) for one in SERVICES}


def ping(pod: Pod, address: str) -> bool:
    """Return whether one echo request is answered soon."""
    return pod.exec("ping", "-c", "1", "-W", "1", address, check=False).returncode == 0


def listed(node: Node, name: str, plugin: dict[str, Any], **more: Any) -> Network:
    """Return a network of a reference plugin and podlane behind it."""
    sockets = {f"{one}Socket": str(getattr(node.loaded, one).socket) for one in SERVICES}
    return Network(node, name, [plugin, {**OURS, **sockets, **more}])


@pytest.fixture(scope="module")
def town() -> Iterator[Town]:
    """The node with its five pods."""
    with Node() as node:
        bridge = {"type": "bridge", "bridge": "br0", "isGateway": True, "ipam": host_local(node, 61)}
        ptp = {"type": "ptp", "ipam": host_local(node, 62)}
        town = Town(node, listed(node, "bridged", bridge), listed(node, "pointed", ptp))
        for name in ("web", "db", "cron"):
            town.settle(name, town.bridge)
        town.settle("point", town.ptp)
        town.settle("native", None)
        node.exec("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
        # Duplicate address detection takes its second on the bridge.
        until(lambda: ping(town.pods["web"], "fd00:61::1"), lambda: "web can't reach its gateway")
        until(lambda: ping(town.pods["point"], "fd00:62::1"), lambda: "point can't reach its gateway")
        yield town


@pytest.mark.cni("ADD-1", "ADD-3", "LIFE-3")
def test_the_result_is_the_previous_plugins_and_the_endpoint_has_its_link_and_addresses(town: Town):
    result = town.bridge.results[town.pods["web"].container_id]
    endpoint = town.endpoints()["web"]

    names = [(one["name"], bool(one.get("sandbox"))) for one in result["interfaces"]]
    assert names[0] == ("br0", False)
    assert names[1][0].startswith("veth")
    assert names[2] == ("eth0", True)
    assert len(names) == 3
    assert [one["gateway"] for one in result["ips"]] == ["10.61.0.1", "fd00:61::1"]
    assert endpoint["link"]["host_ifname"] == names[1][0]
    assert endpoint["link"]["chained"]
    assert [one["address"] for one in endpoint["addresses"]] == [one["address"] for one in result["ips"]]
    assert town.node.show("ipam", "list")[0]["owner"]["container_id"] == town.pods["native"].container_id
    assert len(town.node.show("ipam", "list")) == 1


def test_everybody_reaches_everybody_and_the_node_while_no_policy_says_otherwise(town: Town):
    for source in town.pods:
        for target in town.pods:
            assert town.reach(source, target) == [True, True], (source, target)
    for name, gateway in (("web", "10.61.0.1"), ("web", "fd00:61::1"), ("point", "10.62.0.1")):
        assert ping(town.pods[name], gateway)
    for target in town.pods:
        for address in town.at[target]:
            assert town.node.exec("ping", "-c", "1", "-W", "1", address, check=False).returncode == 0, target


def test_the_report_of_chained_endpoints_contradicts_nothing(town: Town, tmp_path: Path):
    report = str(tmp_path / "report.tar.gz")

    town.node.podlane("bugtool", "-o", report, "--conf-dir", str(town.node.conf_dir))

    told = json.loads(town.node.podlane("bugtool", "check", report, "-o", "json", check=False).stdout)
    assert len(town.endpoints()) == 5
    assert (told["findings"], told["skipped"]) == ([], [])


@pytest.mark.parametrize("target", ["db", "point", "native"])
def test_policy_knows_by_identity_who_comes_over_the_bridge(town: Town, target: str):
    """Bridged, routed off the bridge, and into podlane's own network."""
    town.by_hand.apply(FROM_WEB % (f"to-{target}", target))
    try:
        assert town.reach("web", target) == [True, True]
        for source in {"cron", "point", "native"} - {target}:
            assert town.reach(source, target) == [False, False], source
        # The node itself may always.
        assert town.node.exec("ping", "-c", "1", "-W", "1", town.at[target][0], check=False).returncode == 0
        # Replies to what it asks itself.
        assert town.reach(target, "cron") == [True, True]
    finally:
        town.by_hand.forget(f"to-{target}")


def test_what_a_pod_on_a_bridge_may_not_send_does_not_even_reach_the_bridge(town: Town):
    town.by_hand.apply(QUIET)
    try:
        for target in ("web", "point", "native"):
            assert town.reach("cron", target) == [False, False], target
        assert not ping(town.pods["cron"], "10.61.0.1")
        assert town.reach("web", "cron") == [True, True]
    finally:
        town.by_hand.forget("quiet")


def test_an_address_that_is_not_its_own_is_no_mask(town: Town):
    """Neither in packets nor in ARP: `cron` pretends to be `web`, whom `db` lets in."""
    town.by_hand.apply(FROM_WEB % ("to-db", "db"))
    cron, (web, _) = town.pods["cron"], town.at["web"]
    cron.exec("ip", "address", "add", f"{web}/32", "dev", "eth0")
    try:
        target = town.at["db"][0]
        assert cron.exec("ping", "-c", "1", "-W", "1", "-I", web, target, check=False).returncode != 0
    finally:
        cron.exec("ip", "address", "del", f"{web}/32", "dev", "eth0")
        town.by_hand.forget("to-db")


@pytest.mark.cni("CHECK-4")
def test_check_finds_it_in_order_and_names_what_is_missing(town: Town):
    pod = town.pods["db"]
    assert [one.code for one in town.bridge.check(pod)] == [0, 0]
    ifname = town.endpoints()["db"]["link"]["host_ifname"]
    town.node.exec("tc", "filter", "del", "dev", ifname, "egress")
    try:
        theirs, ours = town.bridge.check(pod)
        assert (theirs.code, ours.json["code"]) == (0, 101)
        assert "egress is empty" in ours.json["details"]
    finally:
        town.by_hand.renew(pod, 2)
    assert [one.code for one in town.bridge.check(pod)] == [0, 0]


@pytest.mark.cni("DEL-1")
def test_del_leaves_the_interface_to_its_plugin_which_takes_it_away(town: Town):
    pod = town.pod("passing")
    result = town.bridge.add(pod)
    ifname = result["interfaces"][1]["name"]

    assert town.bridge.call("DEL", 1, pod, prevResult=result).code == 0
    assert ifname in [one["ifname"] for one in town.node.links()]
    assert "passing" not in town.endpoints()
    assert "filter" not in town.node.exec("tc", "filter", "show", "dev", ifname, "egress").stdout
    assert pod.ping("10.61.0.1"), "without an endpoint it is the bridge's again"

    town.bridge.delete(pod)
    assert ifname not in [one["ifname"] for one in town.node.links()]
    town.bridge.delete(pod)


def test_an_add_can_be_repeated_and_another_interface_is_no_repeat(town: Town):
    pod = town.pod("again")
    result = town.bridge.add(pod)
    previous = town.bridge.results[pod.container_id]
    assert town.bridge.call("ADD", 1, pod, prevResult=previous).json == result
    town.bridge.delete(pod)


def test_a_pod_whose_interface_goes_without_a_word_loses_its_endpoint(town: Town):
    pod = town.pod("lost")
    result = town.bridge.add(pod)
    town.node.exec("ip", "link", "del", result["interfaces"][1]["name"])
    until(lambda: "lost" not in town.endpoints(), lambda: str(town.endpoints()))
    town.bridge.delete(pod)


def test_services_that_start_again_find_it_as_it_was_and_policy_holds_meanwhile(town: Town):
    town.by_hand.apply(FROM_WEB % ("to-db", "db"))
    before = {name: one["id"] for name, one in town.endpoints().items()}
    for service in SERVICES:
        town.node.kill(service)
    assert town.reach("web", "db") == [True, True]
    assert town.reach("cron", "db") == [False, False]
    town.node.up()
    assert {name: one["id"] for name, one in town.endpoints().items()} == before
    assert town.reach("web", "db") == [True, True]
    assert town.reach("cron", "db") == [False, False]
    assert [one.code for one in town.bridge.check(town.pods["db"])] == [0, 0]
    town.by_hand.forget("to-db")
    assert town.reach("cron", "db") == [True, True]


@pytest.mark.cni("GC-1", "GC-2", "GC-5")
def test_gc_takes_endpoints_of_what_is_not_valid_and_leaves_interfaces_alone(town: Town):
    pod = town.pod("invalid")
    result = town.bridge.add(pod)
    names = ("web", "db", "cron")
    valid = [{"containerID": town.pods[name].container_id, "ifname": "eth0"} for name in names]
    newest = Network(town.node, "bridged", [{**OURS, **town.sockets()}], "1.1.0")
    outcome = newest.call("GC", 0, pod, **{"cni.dev/valid-attachments": valid})
    assert outcome.code == 0, outcome
    assert town.endpoints().keys() == {*names, "point", "native"}
    assert result["interfaces"][1]["name"] in [one["ifname"] for one in town.node.links()]
    town.bridge.delete(pod)


def test_an_interface_without_an_end_on_the_node_is_refused_by_its_kind(town: Town):
    node = town.node
    node.exec("ip", "link", "add", "uplink", "type", "veth", "peer", "name", "wall")
    macvlan = {"type": "macvlan", "master": "uplink", "ipam": host_local(node, 63)}
    network, pod = listed(node, "macs", macvlan), town.pod("mac")
    outcome = network.begin(pod)
    assert outcome.json["code"] == 102, outcome
    assert "eth0 is a macvlan and has no end on this node" in outcome.json["msg"]
    network.delete(pod)
    node.exec("ip", "link", "del", "uplink")
    assert "mac" not in town.endpoints()


def test_a_port_of_its_own_bridge_cannot_be_chained_by_two(town: Town):
    """The same addresses twice on one node: each must mean one endpoint."""
    pod = town.pod("twin")
    other = {"type": "ptp", "ipam": {**host_local(town.node, 61), "dataDir": str(town.node.dir / "other")}}
    network = listed(town.node, "twins", other)
    outcome = network.begin(pod)
    assert outcome.json["code"] == 103, outcome
    assert town.at["web"][0] in json.dumps(outcome.json)
    network.delete(pod)
