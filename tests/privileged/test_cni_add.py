"""ADD, CHECK and DEL with everything real: what a runtime does, and what the pods can do afterwards."""

import json

import pytest

from tests.node_support import Node, run

pytestmark = [pytest.mark.privileged, pytest.mark.xdist_group("cni-add")]


@pytest.mark.cni("ADD-1", "STATUS-4", "RESULT-2")
def test_add_gives_a_pod_both_families_and_a_result_that_tells_everything(shared_node: Node):
    pod = shared_node.pod()

    result = shared_node.add(pod).json

    assert result["cniVersion"] == "1.1.0"
    host, inside = result["interfaces"]
    assert host["name"].startswith("lxc")
    assert "sandbox" not in host
    assert (inside["name"], inside["sandbox"]) == ("eth0", pod.path)
    shown = json.loads(pod.exec("ip", "-j", "addr", "show", "dev", "eth0").stdout)[0]
    assert shown["address"] == inside["mac"]
    configured = {f"{one['local']}/{one['prefixlen']}" for one in shown["addr_info"] if one["scope"] == "global"}
    assert configured == {one["address"] for one in result["ips"]}
    assert {one["interface"] for one in result["ips"]} == {1}
    assert {route["dst"] for route in result["routes"]} >= {"0.0.0.0/0", "::/0"}
    shared_node.delete(pod)
    assert shared_node.leftovers() == []


def test_pods_reach_each_other_and_the_host_in_both_families(shared_node: Node):
    one, other = shared_node.pod(), shared_node.pod()
    shared_node.add(one)
    addresses = shared_node.add(other).addresses
    gateways = [part["gateway"] for part in shared_node.show("ipam", "pools")[0]["ranges"]]

    for address, gateway in zip(addresses, gateways, strict=True):
        assert one.ping(address, 3)
        assert one.ping(gateway, 3)
        assert shared_node.exec("ping", "-c", "3", "-i", "0.01", "-W", "2", address).returncode == 0
    for pod in (one, other):
        shared_node.delete(pod)
    assert shared_node.leftovers() == []


def test_the_first_packet_after_add_is_not_lost(shared_node: Node):
    one, other = shared_node.pod(), shared_node.pod()
    shared_node.add(one)
    addresses = shared_node.add(other).addresses

    for address in addresses:
        assert one.exec("ping", "-c", "1", "-W", "1", address).returncode == 0
    for pod in (one, other):
        shared_node.delete(pod)


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0", "1.1.0"])
@pytest.mark.cni("RESULT-1")
def test_the_result_has_the_version_that_was_asked_for(shared_node: Node, version: str):
    pod = shared_node.pod()

    result = shared_node.add(pod, cniVersion=version).json

    assert result["cniVersion"] == version
    assert all(("version" in one) == version.startswith("0.") for one in result["ips"])
    shared_node.delete(pod)


@pytest.mark.cni("LIFE-1")
def test_a_repeated_add_returns_the_same_result_and_leaves_the_pod_talking(shared_node: Node):
    pod = shared_node.pod()
    first = shared_node.add(pod).json

    second = shared_node.add(pod).json

    assert second == first
    assert pod.ping("10.44.0.1")
    assert len(shared_node.show("endpoint", "list")) == 1
    shared_node.delete(pod)
    assert shared_node.leftovers() == []


@pytest.mark.cni("DEL-2", "DEL-3", "DEL-4")
def test_del_succeeds_before_add_twice_and_with_the_namespace_gone(shared_node: Node):
    pod = shared_node.pod()
    shared_node.delete(pod)
    shared_node.add(pod)
    shared_node.delete(pod)
    shared_node.delete(pod)
    shared_node.add(pod)
    run("ip", "netns", "del", pod.netns)

    shared_node.delete(pod)

    assert shared_node.leftovers() == []


@pytest.mark.cni("CHECK-3", "CHECK-4", "CHECK-6")
def test_check_is_silent_for_a_healthy_pod_and_names_what_is_wrong(shared_node: Node):
    pod = shared_node.pod()
    result = shared_node.add(pod).json
    conf = shared_node.conf(prevResult=result)
    assert shared_node.cni("CHECK", pod, conf).stdout == ""
    pod.exec("ip", "link", "set", "eth0", "mtu", "9000")

    outcome = shared_node.cni("CHECK", pod, conf)

    assert outcome.code == 1
    assert "9000" in outcome.json["msg"] + outcome.json["details"]
    shared_node.delete(pod)


@pytest.mark.cni("VERSION-1")
def test_version_needs_no_service_and_no_namespace(shared_node: Node):
    pod = shared_node.pod()

    outcome = shared_node.cni("VERSION", pod, json.dumps({"cniVersion": "1.1.0"}))

    assert outcome.code == 0
    assert outcome.json["supportedVersions"] == ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]


@pytest.mark.cni("CONF-5")
def test_mtu_mac_and_address_of_the_runtime_are_taken(shared_node: Node):
    pod = shared_node.pod()

    result = shared_node.add(pod, mtu=1400, runtimeConfig={"mac": "02:00:00:00:12:34", "ips": ["10.44.0.77/24"]}).json

    shown = json.loads(pod.exec("ip", "-j", "link", "show", "dev", "eth0").stdout)[0]
    assert (shown["mtu"], shown["address"]) == (1400, "02:00:00:00:12:34")
    assert result["ips"][0]["address"] == "10.44.0.77/32"
    shared_node.delete(pod)


def test_a_pod_that_lies_about_its_address_is_not_heard(shared_node: Node):
    liar, listener = shared_node.pod(), shared_node.pod()
    shared_node.add(liar)
    address = shared_node.add(listener).addresses[0]
    liar.exec("ip", "addr", "add", "10.44.0.200/32", "dev", "eth0")

    heard = liar.exec("ping", "-c", "1", "-W", "1", "-I", "10.44.0.200", address, check=False)

    assert heard.returncode == 1
    assert liar.ping(address)
    for pod in (liar, listener):
        shared_node.delete(pod)


def test_labels_of_the_configuration_are_the_identity_from_the_first_moment(shared_node: Node):
    pod = shared_node.pod()
    labels = [{"key": "app", "value": "web"}]

    shared_node.add(pod, labels={"app": "any", "site": "a"}, args={"cni": {"labels": labels}})

    found = shared_node.show("endpoint", "get", f"{pod.namespace}/{pod.name}")
    assert found["labels"] == {"app": "web", "site": "a"}
    assert {"k8s:app": "web", "k8s:site": "a"}.items() <= found["identity_labels"].items()
    assert found["identity"] >= 256
    assert found["counters"]["regenerations"] == 1
    shared_node.delete(pod)


def test_ill_typed_labels_are_refused_before_anything_is_made(shared_node: Node):
    pod = shared_node.pod()

    outcome = shared_node.cni("ADD", pod, shared_node.conf(args={"cni": {"labels": {"app": "web"}}}))

    assert (outcome.code, outcome.json["code"]) == (1, 7)
    assert outcome.json["msg"].startswith("args.cni.labels must be a list")
    assert shared_node.leftovers() == []
