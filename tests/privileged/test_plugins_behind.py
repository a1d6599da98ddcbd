"""The reference plugins portmap, tuning, firewall and bandwidth behind podlane: what they promise holds on its path.

One node for all, with a network that stands for the world. Pods are on podlane's network; `Network` gives one of them a
list with the plugin in question behind podlane.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.agreement import Agreement
from tests.by_hand import ByHand
from tests.cni_list import Network, addresses
from tests.netns_support import Netns
from tests.node_support import SERVICES, Node, Pod
from tests.traffic_support import Echo, echoes

pytestmark = pytest.mark.privileged

PORTMAP = {
    "type": "portmap",
    "runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 7000, "protocol": "tcp"}]},
}
MAC = "02:00:00:00:00:77"
# What is dropped is not answered: a test that waits for nothing to happen waits for so long.
SOON = 0.5
# Of the node as the world sees it, of the world, and of the node as its pods see it.
NODE, WORLD, GATEWAY = ("192.0.2.1", "2001:db8::1"), ("192.0.2.2", "2001:db8::2"), ("10.44.0.1", "fd00:44::1")
FROM_WEB = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: published}
spec:
  podSelector: {matchLabels: {app: published}}
  policyTypes: [Ingress]
  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}%s]}]
"""
FROM_WORLD = ", {ipBlock: {cidr: 192.0.2.0/24}}, {ipBlock: {cidr: '2001:db8::/64'}}"


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """The node."""
    with Node() as node:
        yield node


@pytest.fixture(scope="module")
def world(node: Node) -> Iterator[Netns]:
    """A network beside the node."""
    with Netns() as world:
        node.exec("ip", "link", "add", "up0", "type", "veth", "peer", "name", "up0", "netns", str(world.path))
        for one, (v4, v6) in ((node.exec, NODE), (world.command, WORLD)):
            one("ip", "address", "add", f"{v4}/24", "dev", "up0")
            one("ip", "address", "add", f"{v6}/64", "dev", "up0", "nodad")
            one("ip", "link", "set", "up0", "up")
        yield world
        node.exec("ip", "link", "del", "up0")


@pytest.fixture(scope="module")
def published(node: Node) -> Iterator[Pod]:
    """A pod whose port 7000 is the node's 8080."""
    network, pod = listed(node, PORTMAP), labelled(node, "published")
    network.add(pod)
    by_hand(node).label(pod, app="published")
    with Echo(pod, 7000):
        yield pod
    network.delete(pod)


@pytest.fixture(scope="module")
def clients(node: Node) -> Iterator[Mapping[str, Pod]]:
    """Two pods by their labels."""
    pods = {name: labelled(node, name) for name in ("web", "cron")}
    for name, pod in pods.items():
        node.add(pod)
        by_hand(node).label(pod, app=name)
    yield pods
    for pod in pods.values():
        node.delete(pod)


def labelled(node: Node, name: str) -> Pod:
    """Make a pod of a name."""
    pod = node.pod()
    pod.name = name
    return pod


def by_hand(node: Node) -> ByHand:
    """Who applies policies."""
    return ByHand(Agreement(node))


def listed(node: Node, *behind: Mapping[str, Any], **ours: Any) -> Network:
    """Return podlane's network with plugins behind podlane."""
    sockets = {f"{one}Socket": str(getattr(node.loaded, one).socket) for one in SERVICES}
    return Network(node, "podlane", [{"type": "podlane", **sockets, **ours}, *behind])


def inside(pod: Pod) -> Any:
    """Return the pod's interface as `ip -j link` shows it."""
    return json.loads(pod.exec("ip", "-j", "link", "show", "dev", "eth0").stdout)[0]


@pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])
def test_a_published_port_is_reached_by_the_world_the_node_other_pods_and_its_own(
    node: Node, world: Netns, published: Pod, clients: Mapping[str, Pod], family: int
):
    assert echoes(world.path, NODE[family], 8080)
    for address in (NODE[family], GATEWAY[family]):
        assert echoes(f"/run/netns/{node.name}", address, 8080)
        # The answer of one pod to another has to be translated, too: it mustn't go past the node's stack.
        assert echoes(clients["web"].path, address, 8080)
        assert echoes(published.path, address, 8080)
    if family == 0:  # of IPv6 the kernel routes nothing that is from ::1
        assert echoes(f"/run/netns/{node.name}", "127.0.0.1", 8080)


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])
def test_policy_knows_who_comes_by_a_published_port(node: Node, world: Netns, clients: Mapping[str, Pod], family: int):
    """The world, each pod by its identity, and the node, which always may."""
    address = GATEWAY[family]
    by_hand(node).apply(FROM_WEB % "")
    try:
        assert echoes(clients["web"].path, address, 8080)
        assert not echoes(clients["cron"].path, address, 8080, SOON)
        assert not echoes(world.path, NODE[family], 8080, SOON)
        assert echoes(f"/run/netns/{node.name}", address, 8080)
        by_hand(node).apply(FROM_WEB % FROM_WORLD)
        assert echoes(world.path, NODE[family], 8080)
        assert not echoes(clients["cron"].path, address, 8080, SOON)
    finally:
        by_hand(node).forget("published")
    assert echoes(clients["cron"].path, address, 8080)


@pytest.mark.cni("CHECK-2")
def test_what_tuning_changes_is_there_and_check_tolerates_it(node: Node, clients: Mapping[str, Pod]):
    tuning = {"type": "tuning", "sysctl": {"net.ipv4.conf.eth0.log_martians": "1"}, "mtu": 1400}
    network, pod = listed(node, tuning), node.pod()
    at = addresses(network.add(pod))

    assert inside(pod)["mtu"] == 1400
    assert pod.exec("cat", "/proc/sys/net/ipv4/conf/eth0/log_martians").stdout == "1\n"
    assert [one.code for one in network.check(pod)] == [0, 0]
    assert all(clients["web"].ping(address) for address in at)
    # More than the node's end carries is nobody's purpose.
    pod.exec("ip", "link", "set", "eth0", "mtu", "9000")
    ours, theirs = network.check(pod)
    assert (ours.json["code"], theirs.code) == (101, 1)
    assert "eth0's MTU is 9000, the node's end can only carry 1500" in ours.json["details"]
    network.delete(pod)


def test_a_mac_that_podlane_gave_is_tunings_too_and_one_that_only_tuning_gave_is_told(
    node: Node, clients: Mapping[str, Pod]
):
    """Nothing passes with a hardware address that podlane doesn't know: CHECK says so, and what to do."""
    asked = {"runtimeConfig": {"mac": MAC}}
    both, pod = listed(node, {"type": "tuning", **asked}, **asked), node.pod()
    at = addresses(both.add(pod))
    assert inside(pod)["address"] == MAC
    assert [one.code for one in both.check(pod)] == [0, 0]
    assert all(clients["web"].ping(address) for address in at)
    both.delete(pod)

    late, pod = listed(node, {"type": "tuning", **asked}), node.pod()
    late.add(pod)
    ours, theirs = late.check(pod)
    assert (ours.json["code"], theirs.code) == (101, 0)
    assert f"eth0's MAC is {MAC}" in ours.json["details"]
    assert "give it by podlane (runtimeConfig.mac), not by a later plugin" in ours.json["details"]
    late.delete(pod)


def test_firewalls_rules_come_with_the_pod_and_go_with_it(node: Node):
    network, pod = listed(node, {"type": "firewall"}), node.pod()
    v4, v6 = addresses(network.add(pod))

    assert f"-s {v4}/32" in node.exec("iptables-save").stdout
    assert f"-s {v6}/128" in node.exec("ip6tables-save").stdout
    assert [one.code for one in network.check(pod)] == [0, 0]
    network.delete(pod)
    assert v4 not in node.exec("iptables-save").stdout


@pytest.mark.parametrize("direction", ["ingress", "egress"])
def test_a_bandwidth_that_the_runtime_asks_for_holds_between_pods(node: Node, direction: str):
    """Podlane has the capability, too: packets of this one pod take the stack, past the queue. Its own counter says so.

    The other pod knows nothing of it.
    """
    shaped, other, before = node.pod(), node.pod(), node.leftovers()
    asked = {"bandwidth": {f"{direction}Rate": 8_000_000, f"{direction}Burst": 800_000}}
    network = listed(node, {"type": "bandwidth", "runtimeConfig": asked}, runtimeConfig=asked)
    ends = {"ingress": addresses(network.add(shaped))[0], "egress": node.add(other).addresses[0]}
    client, server = (other, shaped) if direction == "ingress" else (shaped, other)

    with Echo(server, 7000):
        assert echoes(client.path, ends[direction], 7000, size=300_000)
    queues = json.loads(node.exec("tc", "-s", "-j", "qdisc").stdout)
    (queue,) = (one for one in queues if one["kind"] == "tbf")
    assert queue["overlimits"] > 0
    assert [one.code for one in network.check(shaped)] == [0, 0]

    network.delete(shaped)
    node.delete(other)
    assert node.leftovers() == before
    assert not [one for one in node.links() if one["ifname"].startswith("bwp")]


def test_the_list_says_what_endpoints_begin_with(node: Node):
    """For a bandwidth of the list's own, too, which no runtime tells podlane of."""
    shaping = {"type": "bandwidth", "egressRate": 8_000_000, "egressBurst": 800_000}
    network, pod = listed(node, shaping, options={"host-routing": True}), node.pod()
    before = node.leftovers()

    network.add(pod)
    (endpoint,) = (
        one for one in node.show("endpoint", "list") if one["attachment"]["container_id"] == pod.container_id
    )
    assert endpoint["options"] == {"host-routing": True}
    network.delete(pod)

    refused = listed(node, options={"host-rooting": True}).begin(pod)
    assert refused.json["code"] == 7
    assert "'host-rooting' is no option; there are arp-responder, " in refused.json["msg"]
    assert node.leftovers() == before


@pytest.fixture(scope="module")
def routed() -> Iterator[Node]:
    """A node whose pods' packets all take its stack, past other filters and queues."""
    with Node() as node:
        node.podlane("config", "set", "host-routing=on")
        yield node


def test_with_host_routing_policy_is_explained_by_the_programs_of_both_ends(routed: Node):
    """The packet is the stack's between them."""
    pods = {name: labelled(routed, name) for name in ("web", "cron", "published")}
    for name, pod in pods.items():
        routed.add(pod)
        by_hand(routed).label(pod, app=name)
    by_hand(routed).apply(FROM_WEB % "")

    for name, verdict in (("web", "allowed"), ("cron", "denied")):
        ends = ("--from", f"default/{name}", "--to", "default/published", "--port", "80")
        first, *_, last = routed.podlane("policy", "explain", *ends, check=False).stdout.splitlines()
        assert (first.rpartition(": ")[2], last) == (verdict, "the programs in force agree")

    by_hand(routed).forget("published")
    for pod in pods.values():
        routed.delete(pod)


def test_with_host_routing_iptables_hold_between_pods(routed: Node):
    one, other = routed.pod(), routed.pod()
    routed.add(one)
    address = routed.add(other).addresses[0]

    with Echo(other, 7000):
        assert echoes(one.path, address, 7000)
        routed.exec("iptables", "-A", "FORWARD", "-p", "tcp", "--dport", "7000", "-j", "REJECT")
        assert not echoes(one.path, address, 7000)
        routed.exec("iptables", "-F", "FORWARD")
        assert echoes(one.path, address, 7000)
    for pod in (one, other):
        routed.delete(pod)
