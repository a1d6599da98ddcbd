"""The node's side of an endpoint: the stack finds the pod, and the pod's first packet gets through."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator

import pytest

from services.common.errors import NotFound
from services.loader.host import Host, bring_up, transmits
from services.loader.links import Links
from services.loader.model import EndpointSpec, NodeConfig
from services.loader.netlink import Rtnl
from services.loader.netlink_worker import NetlinkWorker
from services.loader.node import NodeSide
from tests import link_support, netns_support
from tests.link_support import GATEWAY4, GATEWAY6, RANGE4, RANGE6, endpoint_spec, link_spec, namespaces
from tests.netns_support import Netns

pytestmark = pytest.mark.privileged
node, pod, worker, links = netns_support.node, netns_support.pod, link_support.worker, link_support.links


@pytest.fixture
async def host(worker: NetlinkWorker) -> AsyncIterator[Host]:
    """The node's ends, on a node that has its router device."""
    side = NodeSide(worker)
    await side.configure(NodeConfig((RANGE4, RANGE6), (GATEWAY4, GATEWAY6)))
    yield Host(worker, lambda: (GATEWAY4, GATEWAY6))
    await side.teardown()


@pytest.fixture
async def connected(links: Links, host: Host, pod: Netns) -> EndpointSpec:
    """An endpoint that the node finds."""
    spec = endpoint_spec((await links.create(link_spec(pod.path))).link)
    await host.connect(spec)
    return spec


def answer_for_the_gateway(pod: Netns, host_mac: bytes) -> None:
    """What from_container does: tell the pod the gateway's MAC. Here no programs are attached."""
    for gateway in (GATEWAY4, GATEWAY6):
        pod.command("ip", "neigh", "replace", str(gateway), "lladdr", host_mac.hex(":"), "dev", "eth0")


def shown(node: Netns, *argv: str) -> str:
    """What iproute2 says."""
    return node.command("ip", *argv).stdout


async def test_the_node_and_the_pod_reach_each_other(links: Links, host: Host, node: Netns, pod: Netns):
    link = (await links.create(link_spec(pod.path))).link

    await host.connect(endpoint_spec(link))

    answer_for_the_gateway(pod, link.host_mac)
    for address, gateway in (("10.0.0.2", "10.0.0.1"), ("fd00::2", "fd00::1")):
        assert await asyncio.to_thread(node.ping, address)
        assert await asyncio.to_thread(pod.ping, gateway)


async def test_the_node_never_asks_for_the_pods_mac(links: Links, host: Host, node: Netns, pod: Netns):
    link = (await links.create(link_spec(pod.path))).link

    await host.connect(endpoint_spec(link))

    for family, address in (("-4", "10.0.0.2"), ("-6", "fd00::2")):
        (entry,) = json.loads(shown(node, "-j", family, "neigh", "show", "dev", link.host_ifname))
        assert (entry["dst"], entry["lladdr"], entry["state"]) == (address, link.pod_mac.hex(":"), ["PERMANENT"])


async def test_the_nodes_own_packets_to_a_pod_carry_the_gateway(links: Links, host: Host, node: Netns, pod: Netns):
    link = (await links.create(link_spec(pod.path))).link

    await host.connect(endpoint_spec(link))

    assert "dev lxc" in shown(node, "route", "get", "10.0.0.2")
    assert "src 10.0.0.1" in shown(node, "route", "get", "10.0.0.2")
    assert "src fd00::1" in shown(node, "route", "get", "fd00::2")


async def test_connecting_twice_changes_nothing(links: Links, host: Host, node: Netns, pod: Netns):
    spec = endpoint_spec((await links.create(link_spec(pod.path))).link)
    await host.connect(spec)
    before = shown(node, "route"), shown(node, "-6", "route"), shown(node, "neigh"), shown(node, "link")

    await host.connect(spec)

    assert (shown(node, "route"), shown(node, "-6", "route"), shown(node, "neigh"), shown(node, "link")) == before


async def test_disconnecting_takes_everything_back_and_can_be_repeated(
    links: Links, host: Host, node: Netns, pod: Netns
):
    link = (await links.create(link_spec(pod.path))).link
    await host.connect(endpoint_spec(link))

    await host.disconnect(endpoint_spec(link))
    await host.disconnect(endpoint_spec(link))

    assert link.host_ifname not in shown(node, "route") + shown(node, "-6", "route") + shown(node, "neigh")
    assert "DOWN" in shown(node, "link", "show", "dev", link.host_ifname)
    await host.connect(endpoint_spec(link))
    assert await asyncio.to_thread(node.ping, "10.0.0.2")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("link set {link} down", ["{link} is down", *["the node's route to"] * 2, *["the node has lost"] * 2]),
        ("route del 10.0.0.2", ["the node's route to 10.0.0.2 does not lead through {link}"]),
        ("route replace 10.0.0.2 dev podlane_host", ["the node's route to 10.0.0.2 does not lead through {link}"]),
        ("-6 route del fd00::2", ["the node's route to fd00::2 does not lead through {link}"]),
        ("neigh del 10.0.0.2 dev {link}", ["the node has lost the neighbour 10.0.0.2 ({mac})"]),
        ("neigh replace fd00::2 lladdr 02:00:00:00:00:99 dev {link}", ["the node has lost the neighbour fd00::2"]),
        ("address del 10.0.0.1/32 dev podlane_host", ["the node's route to 10.0.0.2"]),
        ("link show", []),
    ],
)
async def test_what_the_nodes_side_has_lost_is_told_and_connecting_brings_it_back(
    host: Host, node: Netns, connected: EndpointSpec, change: str, says: list[str]
):
    """The kernel takes a route away with the address that it names as the source."""
    assert await host.problems(connected) == []

    node.command("ip", *change.format(link=connected.host_ifname).split())

    found = await host.problems(connected)
    expected = [one.format(link=connected.host_ifname, mac=connected.pod_mac.hex(":")) for one in says]
    assert [one[: len(start)] for one, start in zip(sorted(found), sorted(expected), strict=True)] == sorted(expected)
    node.command("ip", "address", "replace", "10.0.0.1/32", "dev", "podlane_host")
    await host.connect(connected)
    assert await host.problems(connected) == []


async def test_a_link_that_is_gone_is_not_found_and_disconnected_with_success(links: Links, host: Host, pod: Netns):
    link = (await links.create(link_spec(pod.path))).link
    await links.delete(link.attachment)

    with pytest.raises(NotFound, match=link.host_ifname):
        await host.connect(endpoint_spec(link))
    await host.disconnect(endpoint_spec(link))


async def test_the_pods_first_packet_is_never_lost(links: Links, host: Host):
    """One datagram from each of many pods, the moment that the node's end is up: neighbours and routes are left out,
    as they only give the kernel time. When the pod's end isn't asked for, every second one is lost.
    """
    assert host
    with namespaces(24) as pods, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver, Rtnl() as own:
        receiver.bind((str(GATEWAY4), 0))
        receiver.setblocking(False)
        for number, netns in enumerate(pods, 2):
            link = (await links.create(link_spec(netns.path, number))).link
            answer_for_the_gateway(netns, link.host_mac)
            up, *_, ask = bring_up(endpoint_spec(link, number), ())
            with netns.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
                assert transmits(own, [up, ask])
                sender.sendto(b"first", receiver.getsockname())

                assert receiver.recv(16) == b"first"


async def test_connecting_waits_until_the_pods_end_transmits(links: Links, host: Host, pod: Netns):
    """A dormant interface stands for a kernel that has not switched it on yet (before Linux 6.6)."""
    link = (await links.create(link_spec(pod.path))).link
    pod.command("ip", "link", "set", "eth0", "mode", "dormant")
    connecting = asyncio.ensure_future(host.connect(endpoint_spec(link)))
    while b"dormant" not in await _operstate(pod):
        assert not connecting.done()

    assert not connecting.done()
    await asyncio.to_thread(pod.command, "ip", "link", "set", "eth0", "mode", "default", "state", "up")

    await connecting


async def _operstate(pod: Netns) -> bytes:
    done = await asyncio.to_thread(pod.command, "ip", "-o", "link", "show", "dev", "eth0")
    return str(done.stdout).lower().encode()


async def test_a_pod_that_took_its_own_end_down_is_not_waited_for(links: Links, host: Host, pod: Netns):
    link = (await links.create(link_spec(pod.path))).link
    pod.command("ip", "link", "set", "eth0", "down")

    async with asyncio.timeout(1):
        await host.connect(endpoint_spec(link))
