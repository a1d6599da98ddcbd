"""The reference plugins bridge, ptp and macvlan with podlane-ipam for their addresses, on a whole node.

Pools and bridge's network are those of docs/podlane-ipam.md.
"""

import json
import re
from collections.abc import Iterator
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any

import pytest

from tests.agreement import until
from tests.journal_support import files
from tests.node_support import Node, Outcome, Pod

pytestmark = [pytest.mark.privileged, pytest.mark.xdist_group("podlane-ipam")]

REFERENCE = Path("/usr/lib/cni")
IPAM = "podlane-ipam"
DOCUMENT = (Path(__file__).parents[2] / "docs" / "podlane-ipam.md").read_text()
MORE_POOLS = """
[[ipam.pools]]
name = "ptp"
delegated = true
ranges = ["10.246.0.0/24", "fd00:10:246::/112"]

[[ipam.pools]]
name = "macvlan"
delegated = true
ranges = ["10.247.0.0/24", "fd00:10:247::/112"]

[[ipam.pools]]
name = "tiny"
delegated = true
ranges = ["10.248.0.0/29", "fd00:10:248::/112"]
exclude = ["10.248.0.4/30"]
"""
UPLINK = "uplink0"


def block(language: str) -> str:
    """Return the first code block of the documentation in a language."""
    found = re.search(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL)
    assert found, language
    return found[1]


class Wired(Node):
    """A node with a device for macvlan to be on; IPv6 addresses are used at once."""

    def prepare(self) -> None:
        self.exec("sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0", "net.ipv6.conf.all.accept_dad=0")
        self.exec("ip", "link", "add", UPLINK, "type", "veth", "peer", "name", f"{UPLINK}p")
        for name in (UPLINK, f"{UPLINK}p"):
            self.exec("ip", "link", "set", name, "up")


@pytest.fixture(scope="module")
def wired() -> Iterator[Node]:
    with Wired(pools=block("toml") + MORE_POOLS) as node:
        yield node


def network(node: Node, plugin: str, ipam: dict[str, Any] | None = None, **keys: Any) -> dict[str, Any]:
    """Return a plugin's configuration as a runtime makes it; bridge's is the documentation's."""
    conflist = json.loads(block("json"))
    own = {
        "bridge": conflist["plugins"][0],
        "ptp": {"type": "ptp", "ipam": {"type": IPAM, "pool": "ptp"}},
        "macvlan": {"type": "macvlan", "master": UPLINK, "ipam": {"type": IPAM, "pool": "macvlan"}},
    }[plugin]
    listed = conflist if plugin == "bridge" else {"cniVersion": "1.0.0", "name": f"of-{plugin}"}
    made = {**own, "name": listed["name"], "cniVersion": listed["cniVersion"], **keys}
    places = {"ipamSocket": str(node.loaded.ipam.socket), "journalDir": str(node.loaded.endpoint.journal_dir)}
    made["ipam"] = {**own["ipam"], **places, **(ipam or {})}
    return made


def pod_of(node: Node) -> Pod:
    pod = node.pod()
    pod.exec("sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0", "net.ipv6.conf.all.accept_dad=0")
    return pod


def call(node: Node, verb: str, pod: Pod, conf: dict[str, Any], **environment: str) -> Outcome:
    """Run a reference plugin, which finds podlane-ipam in CNI_PATH."""
    return node.cni(verb, pod, conf, REFERENCE / conf["type"], **environment)


def add(node: Node, pod: Pod, conf: dict[str, Any], **environment: str) -> Outcome:
    outcome = call(node, "ADD", pod, conf, **environment)
    assert outcome.code == 0, outcome
    return outcome


def delete(node: Node, pod: Pod, conf: dict[str, Any]) -> None:
    outcome = call(node, "DEL", pod, conf)
    assert outcome.code == 0, outcome


def held(node: Node, pool: str) -> dict[str, list[str]]:
    """Return what ipam holds of a pool: addresses by container."""
    return {
        one["owner"]["container_id"]: [assigned["address"].partition("/")[0] for assigned in one["addresses"]]
        for one in node.show("ipam", "list", "--pool", pool)
    }


@pytest.mark.parametrize("plugin", ["bridge", "ptp", "macvlan"])
@pytest.mark.cni("IPAM-1", "LIFE-3")
def test_two_containers_talk_to_each_other_in_both_families(wired: Node, plugin: str):
    conf = network(wired, plugin)
    one, other = pod_of(wired), pod_of(wired)

    results = [add(wired, pod, conf) for pod in (one, other)]

    assert held(wired, plugin) == {one.container_id: results[0].addresses, other.container_id: results[1].addresses}
    for address in results[1].addresses:
        assert one.ping(address, 3)
    for address in results[0].addresses:
        assert other.ping(address, 3)
    for pod in (one, other):
        delete(wired, pod, conf)
    assert held(wired, plugin) == {}
    assert call(wired, "DEL", one, conf).code == 0


@pytest.mark.parametrize("plugin", ["bridge", "ptp", "macvlan"])
def test_an_interface_has_subnet_gateway_and_default_routes_of_the_pool(wired: Node, plugin: str):
    conf, pod = network(wired, plugin), pod_of(wired)

    result = add(wired, pod, conf).json

    (pool,) = (one for one in wired.show("ipam", "pools") if one["name"] == plugin)
    ranges = [one["prefix"] for one in pool["ranges"]]
    assert [str(ip_interface(one["address"]).network) for one in result["ips"]] == ranges
    assert [one["gateway"] for one in result["ips"]] == [str(ip_network(one)[1]) for one in ranges]
    for family, one in (("-4", result["ips"][0]), ("-6", result["ips"][1])):
        (route,) = json.loads(pod.exec("ip", "-j", family, "route", "show", "default").stdout)
        assert (route["gateway"], route["dev"]) == (one["gateway"], "eth0")
        assert plugin == "macvlan" or pod.ping(one["gateway"])
    delete(wired, pod, conf)


@pytest.mark.parametrize("plugin", ["bridge", "ptp", "macvlan"])
@pytest.mark.parametrize("version", ["0.3.1", "0.4.0"])
@pytest.mark.cni("RESULT-1")
def test_a_plugin_that_speaks_an_older_version_is_understood(wired: Node, plugin: str, version: str):
    conf, pod = network(wired, plugin, cniVersion=version), pod_of(wired)

    result = add(wired, pod, conf).json

    assert result["cniVersion"] == version
    assert [one["version"] for one in result["ips"]] == ["4", "6"]
    delete(wired, pod, conf)


def test_kill_9_of_ipam_keeps_every_address_and_gives_none_twice(wired: Node):
    conf, pods = network(wired, "bridge"), [pod_of(wired) for _ in range(3)]
    results = [add(wired, pod, conf).json for pod in pods[:2]]
    before = held(wired, "bridge")

    wired.kill("ipam")
    down = call(wired, "ADD", pods[2], conf)
    delete(wired, pods[2], conf)  # bridge leaves its interface when it gets no address
    wired.up()

    assert down.json["code"] == 11
    assert str(wired.loaded.ipam.socket) in down.json["msg"]
    assert held(wired, "bridge") == before
    for pod, result in zip(pods, results, strict=False):
        checked = call(wired, "CHECK", pod, {**conf, "prevResult": result})
        assert (checked.code, checked.stdout) == (0, "")
    third = add(wired, pods[2], conf).addresses
    assert not {*third} & {address for addresses in before.values() for address in addresses}
    assert pods[0].ping(third[0])
    for pod in pods:
        delete(wired, pod, conf)
    assert held(wired, "bridge") == {}


def test_a_del_while_ipam_is_down_succeeds_and_its_addresses_are_free_when_it_is_back(wired: Node):
    """A new ADD of the same attachment waits for that: what it is given isn't taken by the DEL that came before."""
    conf, pods = network(wired, "bridge"), [pod_of(wired) for _ in range(2)]
    for pod in pods:
        add(wired, pod, conf)
    staying = held(wired, "bridge")[pods[1].container_id]
    journal = wired.loaded.endpoint.journal_dir

    wired.kill("ipam")
    delete(wired, pods[0], conf)
    (entry,) = files(journal)
    again = call(wired, "ADD", pods[0], conf)
    delete(wired, pods[0], conf)  # bridge leaves its interface when it gets no address
    assert entry.name == f"~{conf['name']}~{pods[0].container_id}~eth0.json"
    (told,) = json.loads(wired.podlane("cni", "journal", "-o", "json", check=False).stdout)
    assert (told["addresses_only"], told["attachment"]["container_id"]) == (True, pods[0].container_id)
    assert (again.json["code"], str(entry) in again.json["details"]) == (11, True)
    wired.up()

    until(lambda: files(journal) == [], lambda: f"{files(journal)}")
    assert held(wired, "bridge") == {pods[1].container_id: staying}
    add(wired, pods[0], conf)
    for pod in pods:
        delete(wired, pod, conf)
    assert held(wired, "bridge") == {}


def test_check_through_the_plugin_names_addresses_that_ipam_no_longer_holds(wired: Node):
    conf, pod = network(wired, "ptp"), pod_of(wired)
    result = add(wired, pod, conf).json
    assert wired.cni("DEL", pod, conf, IPAM).code == 0

    outcome = call(wired, "CHECK", pod, {**conf, "prevResult": result})

    assert outcome.json["code"] == 101
    assert "holds no addresses" in outcome.json["msg"]
    delete(wired, pod, conf)


def test_exhaustion_is_told_with_numbers_and_takes_nothing(wired: Node):
    conf = network(wired, "ptp", {"pool": "tiny"})
    newest = {**conf, "cniVersion": "1.1.0"}
    pods = [pod_of(wired) for _ in range(3)]
    for pod in pods[:2]:
        assert wired.cni("STATUS", pod, newest, IPAM).stdout == ""
        add(wired, pod, conf)

    outcome = call(wired, "ADD", pods[2], conf)
    status = wired.cni("STATUS", pods[2], newest, IPAM)

    assert outcome.json["code"] == 11
    assert "pool 'tiny' has no free IPv4 address: 2 of 2 used" in outcome.json["msg"]
    assert status.json["code"] == 50
    assert "pool tiny: 0 of 2 IPv4 addresses free" in status.json["msg"]
    assert sorted(held(wired, "tiny")) == sorted(pod.container_id for pod in pods[:2])
    assert wired.cni("STATUS", pods[2], wired.conf()).code == 0
    for pod in pods:
        delete(wired, pod, conf)
    assert wired.cni("STATUS", pods[2], newest, IPAM).code == 0


def test_the_plugins_own_status_and_add_know_that_a_pool_is_for_others(wired: Node):
    pod = pod_of(wired)

    status, outcome = (wired.cni(verb, pod, wired.conf(pool="ptp")) for verb in ("STATUS", "ADD"))

    assert (status.json["code"], outcome.json["code"]) == (50, 7)
    assert "pool ptp: it is delegated" in status.json["msg"]
    assert "'ptp' is delegated" in outcome.json["msg"]
    assert wired.leftovers() == []


def test_an_address_is_asked_for_by_capability(wired: Node):
    wanted = ["10.245.0.77", "fd00:10:245::77"]
    conf, pod = network(wired, "bridge", runtimeConfig={"ips": [f"{one}/24" for one in wanted]}), pod_of(wired)

    assert add(wired, pod, conf).addresses == wanted

    delete(wired, pod, conf)


def test_garbage_collectors_leave_them_alone_and_podlane_ipams_own_takes_what_is_not_valid(wired: Node):
    """podlane's own pods and other plugins' side by side: each collector knows its own."""
    conf, pods, own = network(wired, "bridge"), [pod_of(wired) for _ in range(2)], wired.pod()
    for pod in pods:
        add(wired, pod, conf)
    wired.add(own)
    before, shown = held(wired, "bridge"), wired.podlane("ipam", "list").stdout

    assert sum("ipam only" in line for line in shown.splitlines()) == 4
    assert wired.show("gc") == []
    assert wired.podlane("ipam", "audit").stdout.strip() == "ipam's books are right"
    assert wired.cni("GC", own, wired.conf(**{"cni.dev/valid-attachments": []})).code == 0
    assert held(wired, "bridge") == before

    valid = [{"containerID": pods[0].container_id, "ifname": "eth0"}]
    collected = wired.cni("GC", own, {**conf, "cniVersion": "1.1.0", "cni.dev/valid-attachments": valid}, IPAM)

    assert (collected.code, collected.stdout) == (0, "")
    assert held(wired, "bridge") == {pods[0].container_id: before[pods[0].container_id]}
    for pod in pods:
        delete(wired, pod, conf)
    assert wired.leftovers() == []


def test_the_nodes_datapath_knows_nothing_of_delegated_pools(wired: Node):
    """Neither router addresses nor unreachable routes, which would be in the other plugins' way."""
    routes = [one for family in ("-4", "-6") for one in json.loads(wired.exec("ip", "-j", family, "route").stdout)]
    addresses = json.loads(wired.exec("ip", "-j", "addr", "show", "dev", "podlane_host").stdout)[0]["addr_info"]

    refused = {one["dst"] for one in routes if one.get("type") == "unreachable"}
    assert refused == {"10.44.0.0/24", "fd00:44::/112"}
    routers = {one["local"] for one in addresses if not ip_address(one["local"]).is_link_local}
    assert routers == {"10.44.0.1", "fd00:44::1"}


def test_a_pool_of_the_nodes_own_serves_both_kinds_of_pods(wired: Node):
    """The first range of each family has its gateway in it; nobody gets the other's address, and both talk."""
    conf, pod, own = network(wired, "bridge", {"pool": ""}, bridge="cni1", name="shared"), pod_of(wired), wired.pod()

    theirs, ours = add(wired, pod, conf).addresses, wired.add(own).addresses

    assert not {*theirs} & {*ours}
    for address in theirs:
        assert wired.exec("ping", "-c", "1", "-W", "2", address).returncode == 0
    delete(wired, pod, conf)
    wired.delete(own)
    assert wired.leftovers() == []
