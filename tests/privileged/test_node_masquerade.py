"""Masquerading with real packets: who the world sees when a pod talks to it."""

import asyncio
import socket

import pytest

from services.loader.host import Host
from services.loader.links import Links
from services.loader.model import NodeConfig
from services.loader.netlink_worker import NetlinkWorker
from services.loader.node import NodeSide
from tests import link_support, netns_support
from tests.link_support import GATEWAY4, GATEWAY6, RANGE4, RANGE6, endpoint_spec, link_spec
from tests.netns_support import Netns

pytestmark = pytest.mark.privileged
node, pod, outside = netns_support.node, netns_support.pod, netns_support.outside
worker, links = link_support.worker, link_support.links

WORLD = {4: "192.0.2.2", 6: "2001:db8::2"}
NODE = {4: "192.0.2.1", 6: "2001:db8::1"}
POD = {4: "10.0.0.2", 6: "fd00::2"}


@pytest.fixture
async def side(links: Links, worker: NetlinkWorker, node: Netns, pod: Netns, outside: Netns) -> NodeSide:
    """A node between a pod and the world; nothing is configured yet but the router device."""
    node.command("ip", "link", "add", "up0", "type", "veth", "peer", "name", "up0", "netns", outside.path)
    for netns, address in ((node, NODE), (outside, WORLD)):
        netns.command("ip", "address", "add", f"{address[4]}/24", "dev", "up0")
        netns.command("ip", "address", "add", f"{address[6]}/64", "dev", "up0", "nodad")
        netns.command("ip", "link", "set", "up0", "up")
    configured = NodeSide(worker)
    await configured.configure(NodeConfig((RANGE4, RANGE6), (GATEWAY4, GATEWAY6)))
    await start(links, worker, pod, 2)
    return configured


async def start(links: Links, worker: NetlinkWorker, netns: Netns, number: int) -> None:
    """Give a pod its network; without programs somebody must tell it the gateway's MAC."""
    link = (await links.create(link_spec(netns.path, number))).link
    await Host(worker, lambda: (GATEWAY4, GATEWAY6)).connect(endpoint_spec(link, number))
    for gateway in (GATEWAY4, GATEWAY6):
        netns.command("ip", "neigh", "replace", str(gateway), "lladdr", link.host_mac.hex(":"), "dev", "eth0")


def masquerading(*, on: bool) -> NodeConfig:
    """The node's configuration."""
    return NodeConfig((RANGE4, RANGE6), (GATEWAY4, GATEWAY6), masquerade=on)


async def seen_from(netns: Netns, address: str, client: Netns) -> str:
    """Who a TCP server in `netns` takes a client for."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET

    def accept() -> str:
        with listener:
            connection, peer = listener.accept()
            connection.close()
            return str(peer[0])

    listener = netns.run(lambda: socket.create_server((address, 0), family=family))
    port = listener.getsockname()[1]
    seen = asyncio.ensure_future(asyncio.to_thread(accept))
    await asyncio.to_thread(client.run, lambda: socket.create_connection((address, port), timeout=5).close())
    return await seen


@pytest.mark.parametrize("version", [4, 6])
async def test_the_world_sees_the_nodes_address(side: NodeSide, pod: Netns, outside: Netns, version: int):
    await side.configure(masquerading(on=True))

    assert await seen_from(outside, WORLD[version], pod) == NODE[version]


@pytest.mark.parametrize("version", [4, 6])
async def test_the_world_sees_the_pods_address_when_it_is_switched_off(
    side: NodeSide, pod: Netns, outside: Netns, version: int
):
    outside.command("ip", "route", "add", str(RANGE4 if version == 4 else RANGE6), "via", NODE[version])
    await side.configure(masquerading(on=True))
    await side.configure(masquerading(on=False))

    assert await seen_from(outside, WORLD[version], pod) == POD[version]


async def test_other_pods_see_the_pods_address(side: NodeSide, links: Links, worker: NetlinkWorker, pod: Netns):
    await side.configure(masquerading(on=True))
    with Netns() as other:
        await start(links, worker, other, 3)

        assert await seen_from(other, "10.0.0.3", pod) == POD[4]
        assert await seen_from(other, "fd00::3", pod) == POD[6]


@pytest.mark.parametrize("version", [4, 6])
async def test_the_node_sees_the_pods_address(side: NodeSide, node: Netns, pod: Netns, version: int):
    await side.configure(masquerading(on=True))

    assert await seen_from(node, NODE[version], pod) == POD[version]


async def test_the_nodes_own_connections_keep_their_address(side: NodeSide, node: Netns, pod: Netns, outside: Netns):
    await side.configure(masquerading(on=True))

    assert await seen_from(pod, POD[4], node) == str(GATEWAY4)
    assert await seen_from(outside, WORLD[4], node) == NODE[4]


async def test_a_connection_survives_a_change_of_the_table(side: NodeSide, pod: Netns, outside: Netns):
    """A restarted loader writes the table anew."""
    await side.configure(masquerading(on=True))
    listener = outside.run(lambda: socket.create_server((WORLD[4], 0)))
    with listener:
        client = pod.run(lambda: socket.create_connection(listener.getsockname(), timeout=5))
        server, _ = listener.accept()
    with client, server:
        await NodeSide(side._worker).configure(masquerading(on=True))
        client.sendall(b"still here")

        server.settimeout(5)
        assert server.recv(64) == b"still here"
