"""Several interfaces of one pod, of several networks of one node: the first leads out, each is reached by its own."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.cni_list import Network
from tests.node_support import SERVICES, Node, Pod

pytestmark = [pytest.mark.privileged, pytest.mark.xdist_group("networks")]

BLUE = '[[ipam.pools]]\nname = "blue"\nranges = ["10.55.0.0/24", "fd00:55::/112"]\n'


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """A node with two pools."""
    with Node(pools=BLUE) as node:
        yield node


def second(pod: Pod) -> Pod:
    """Return the pod's other interface, of network `second`."""
    return Pod(pod.netns, pod.container_id, "net1", pod.name, network="second")


def conf(node: Node, **more: Any) -> dict[str, Any]:
    """Return the configuration of network `second`."""
    return node.conf(name="second", pool="blue", **more)


def add_second(node: Node, pod: Pod, **more: Any) -> Any:
    """ADD the other interface; return the result."""
    outcome = node.cni("ADD", second(pod), conf(node, **more))
    assert outcome.code == 0, outcome
    return outcome.json


def addresses(result: Any) -> list[str]:
    """Return a result's addresses without prefix lengths."""
    return [one["address"].partition("/")[0] for one in result["ips"]]


def gone(node: Node, pod: Pod) -> None:
    """Take both interfaces away."""
    assert node.cni("DEL", second(pod), conf(node)).code == 0
    node.delete(pod)


@pytest.mark.cni("LIFE-1")
def test_both_interfaces_are_reached_and_reach_and_the_first_leads_out(node: Node):
    pod, other = node.pod(), node.pod()
    first, theirs = node.add(pod), node.add(other)
    before = pod.exec("ip", "route").stdout, pod.exec("ip", "-6", "route", "show", "default").stdout

    result = add_second(node, pod)

    assert (pod.exec("ip", "route").stdout, pod.exec("ip", "-6", "route", "show", "default").stdout) == before
    for address in (*first.addresses, *addresses(result)):
        assert other.ping(address), address
        assert node.exec("ping", "-c", "1", "-W", "1", address, check=False).returncode == 0
    for address in theirs.addresses:
        assert pod.ping(address)
        for ifname in ("eth0", "net1"):
            assert pod.exec("ping", "-c", "1", "-W", "1", "-I", ifname, address, check=False).returncode == 0
    for one, asked in ((pod, node.conf(prevResult=first.json)), (second(pod), conf(node, prevResult=result))):
        assert node.cni("CHECK", one, asked).code == 0
    gone(node, pod)
    node.delete(other)


def test_the_result_tells_the_table_where_there_is_a_word_for_it(node: Node):
    pod = node.pod()
    node.add(pod)

    result = add_second(node, pod)
    routes = result["routes"]
    table = {one["table"] for one in routes}

    assert len(routes) == 4
    assert len(table) == 1
    assert pod.exec("ip", "route", "show", "table", str(*table)).stdout.startswith("default via ")
    assert add_second(node, pod) == result
    assert add_second(node, pod, cniVersion="1.0.0")["routes"] == []
    gone(node, pod)


def test_what_an_interface_brought_goes_with_it_and_the_other_stays(node: Node):
    pod = node.pod()
    node.add(pod)
    rules = pod.exec("ip", "rule").stdout, pod.exec("ip", "-6", "rule").stdout
    add_second(node, pod)
    assert pod.exec("ip", "rule").stdout != rules[0]

    assert node.cni("DEL", second(pod), conf(node)).code == 0

    assert (pod.exec("ip", "rule").stdout, pod.exec("ip", "-6", "rule").stdout) == rules
    assert pod.ping("10.44.0.1")
    add_second(node, pod)
    gone(node, pod)


def test_a_lost_rule_is_named_and_mended(node: Node):
    pod = node.pod()
    node.add(pod)
    result = add_second(node, pod)
    pod.exec("ip", "rule", "del", "from", addresses(result)[0])

    outcome = node.cni("CHECK", second(pod), conf(node, prevResult=result))

    assert outcome.json["code"] == 101
    assert f"the pod has lost its rule `from {addresses(result)[0]} lookup " in outcome.json["details"]
    (id_,) = [one["id"] for one in node.show("endpoint", "list") if one["attachment"]["ifname"] == "net1"]
    assert node.podlane("endpoint", "check", str(id_), "--repair").returncode == 0
    assert node.cni("CHECK", second(pod), conf(node, prevResult=result)).code == 0
    gone(node, pod)


def test_gc_of_one_network_leaves_the_other_alone(node: Node):
    pod = node.pod()
    node.add(pod)
    add_second(node, pod)

    assert node.cni("GC", pod, conf(node, **{"cni.dev/valid-attachments": []})).code == 0

    left = [one["attachment"]["network"] for one in node.show("endpoint", "list")]
    assert left == ["podlane"]
    assert pod.ping("10.44.0.1")
    node.delete(pod)


def test_behind_another_plugins_interface_it_does_not_lead_out_either(node: Node):
    """The pod's default route is ptp's; what comes to podlane's address is answered by podlane's interface."""
    pod, other = node.pod(), node.pod()
    ipam = {
        "type": "host-local",
        "ranges": [[{"subnet": "10.66.0.0/24"}]],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dataDir": str(node.dir / "host-local"),
    }
    theirs = Network(node, "ptp", [{"type": "ptp", "ipam": ipam}])
    theirs.add(pod)
    before = pod.exec("ip", "route").stdout
    result = add_second(node, pod)
    node.add(other)

    assert pod.exec("ip", "route").stdout == before
    assert all(other.ping(address) for address in addresses(result))
    # There was nobody who led out for IPv6.
    assert [one["dst"] for one in result["routes"] if "table" not in one] == ["fd00:44::1/128", "::/0"]
    gone(node, pod)
    theirs.delete(pod)
    node.delete(other)
    assert not node.leftovers()


def test_services_that_start_again_know_both(node: Node):
    pod = node.pod()
    first = node.add(pod)
    result = add_second(node, pod)
    for service in SERVICES:
        node.kill(service)
    node.up()
    assert node.cni("CHECK", pod, node.conf(prevResult=first.json)).code == 0
    assert node.cni("CHECK", second(pod), conf(node, prevResult=result)).code == 0
    assert add_second(node, pod) == result
    gone(node, pod)
