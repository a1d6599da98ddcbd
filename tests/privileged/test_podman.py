"""Debian's podman with podlane below it, and a port that is published by the reference plugin behind podlane."""

import json
from collections.abc import Iterator

import pytest

from tests.agreement import Agreement, until
from tests.node_support import Node
from tests.podman_support import Podman

pytestmark = [pytest.mark.privileged, pytest.mark.long]

ECHO = ("nc", "-ll", "-p", "7000", "-e", "cat")


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """A node whose list has portmap behind podlane."""
    with Node() as node:
        (file,) = node.conf_dir.glob("*.conflist")
        conflist = json.loads(file.read_text())
        conflist["plugins"].append({"type": "portmap", "capabilities": {"portMappings": True}})
        file.write_text(json.dumps(conflist))
        yield node


@pytest.fixture(scope="module")
def podman(node: Node) -> Iterator[Podman]:
    """Its podman."""
    with Podman(node) as podman:
        yield podman


def test_podman_knows_the_network(podman: Podman):
    (listed,) = json.loads(podman("network", "ls", "--format", "json"))
    (inspected,) = json.loads(podman("network", "inspect", "podlane"))

    assert {(one["name"], one["driver"]) for one in (listed, inspected)} == {("podlane", "podlane")}


def test_containers_talk_to_each_other_and_a_published_port_is_reached_from_the_node(node: Node, podman: Podman):
    web = podman.run("web", *ECHO, publish=["8080:7000"])
    client = podman.run("client")
    network = podman.inspect(web)["NetworkSettings"]["Networks"]["podlane"]
    addresses = [network["IPAddress"], network["GlobalIPv6Address"]]
    gateways = [network["Gateway"], network["IPv6Gateway"]]

    endpoints = {one["pod"]["name"]: one for one in node.show("endpoint", "list")}
    assert [one["address"].partition("/")[0] for one in endpoints["web"]["addresses"]] == addresses
    for address in addresses:
        podman("exec", client, "ping", "-c", "1", "-W", "5", address)
        assert podman("exec", client, "sh", "-c", f"echo hello | nc {address} 7000") == "hello"
    for address in ("127.0.0.1", *gateways):
        assert node.exec("sh", "-c", f"echo hello | busybox nc -w 5 {address} 8080").stdout == "hello\n"

    podman.remove(web, client)
    assert (podman.leftovers(), node.leftovers()) == ([], [])
    assert "8080" not in node.exec("iptables-save", "-t", "nat").stdout


def test_a_container_that_gets_no_network_is_refused_in_podlanes_words_and_leaves_nothing(node: Node, podman: Podman):
    node.kill("ipam")
    refused = podman.attempt("run", "--name=unlucky", "podlane.test/busybox:1", "true")
    podman.remove("unlucky")
    node.launch("ipam")
    until(lambda: Agreement(node).serving("ipam"), "ipam does not serve".__str__)

    assert refused.returncode == 126
    assert "podlane-ipam can't be reached" in refused.stderr
    assert "start it with `podlane node up`" in refused.stderr
    assert (podman.leftovers(), node.leftovers()) == ([], [])
