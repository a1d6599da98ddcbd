"""The node's own addresses are the host to policy, as they come and go."""

import asyncio
from collections.abc import AsyncIterator
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from podlane.loader.v1 import loader_pb2 as pb

from services.common import wire
from services.common.model import Address
from services.loader.addresswatch import AddressMonitor
from services.loader.headers import SIZES
from services.loader.hostaddresses import of_node
from services.loader.model import NodeConfig
from services.loader.pathmaps import Endpoints
from tests.loader_support import ALLOW_ALL, GATEWAYS, RANGES, LoaderNode, Pod
from tests.netns_support import Netns

pytestmark = pytest.mark.privileged

HOST, WORLD = 1, 2
UPLINK = {ip_address("192.0.2.77"), ip_address("2001:db8:77::1")}
EGRESS = pb.TRAFFIC_DIRECTION_EGRESS


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[LoaderNode]:
    """A configured node with an uplink that has no addresses yet."""
    async with LoaderNode(tmp_path) as node:
        node.netns.command("ip", "link", "add", "uplink", "type", "veth", "peer", "name", "router0")
        for device in ("uplink", "router0"):
            node.netns.command("ip", "link", "set", device, "up")
        await node.configure()
        yield node


def give(node: LoaderNode, *addresses: str, verb: str = "add", device: str = "uplink") -> None:
    """Give the node addresses, or take them."""
    for address in addresses:
        flags = ["nodad"] if ":" in address and verb == "add" else []
        node.netns.command("ip", "address", verb, address, "dev", device, *flags)


async def host_entries(node: LoaderNode) -> set[Address]:
    """Return what the endpoint map has for the host."""
    reply = await node.call("DumpMap", pb.DumpMapRequest(map="endpoints"))
    return {
        wire.read_address(one.endpoint.address, "address") for one in reply.entries if one.endpoint.endpoint_id == 0
    }


async def until(node: LoaderNode, *addresses: Address) -> None:
    """Wait until the host has these, and the gateways."""
    async with asyncio.timeout(20):
        while await host_entries(node) != {*GATEWAYS, *addresses}:
            await asyncio.sleep(0.01)


async def identity(node: LoaderNode, pod: Pod, destination: Address) -> int:
    """Return what an address is to a pod's programs."""
    request = pb.ProbeEndpointRequest(
        endpoint_id=pod.endpoint.id,
        direction=EGRESS,
        source=pod.endpoint.addresses[0 if destination.version == 4 else 1],
        destination=wire.write_address(destination),
        protocol=6,
        port=80,
    )
    return int((await node.call("ProbeEndpoint", request)).destination_identity)


async def test_addresses_of_the_node_are_the_host_as_long_as_it_has_them(node: LoaderNode) -> None:
    """And can be reached as before."""
    pod = await node.add()
    assert [await identity(node, pod, address) for address in UPLINK] == [WORLD, WORLD]

    give(node, "192.0.2.77/24", "2001:db8:77::1/64")
    await until(node, *UPLINK)
    assert [await identity(node, pod, address) for address in (*UPLINK, *GATEWAYS)] == [HOST] * 4
    assert pod.pings(*map(str, UPLINK), *map(str, GATEWAYS)) == []

    give(node, "192.0.2.77/24", verb="del")
    await until(node, ip_address("2001:db8:77::1"))
    assert await identity(node, pod, ip_address("192.0.2.77")) == WORLD


async def test_policy_for_the_world_is_not_for_the_node(node: LoaderNode) -> None:
    pod = await node.add()
    give(node, "192.0.2.77/24")
    await until(node, ip_address("192.0.2.77"))
    assert pod.pings("192.0.2.77") == []

    deny = pb.PolicyEntry(direction=EGRESS, identity=HOST, deny=True)
    await node.regenerate(pod, level=1, policy=[*ALLOW_ALL, deny])

    assert pod.pings("192.0.2.77") == ["192.0.2.77"]


async def test_neither_a_restart_nor_a_configuration_loses_them(node: LoaderNode) -> None:
    """What changed while no loader ran is found at the start, what a hand removed when the node is configured."""
    await node.stop()
    give(node, "192.0.2.77/24")
    await node.start()
    await until(node, ip_address("192.0.2.77"))

    with Endpoints.open(node.maps / "podlane_endpoints", SIZES) as endpoints:
        endpoints.delete(ip_address("192.0.2.77"))
        endpoints.put_host(ip_address("198.51.100.1"))
    await node.configure()
    assert await host_entries(node) == {*GATEWAYS, ip_address("192.0.2.77")}


async def test_entries_of_endpoints_are_left_alone(node: LoaderNode) -> None:
    """Whoever gives the node an address of a pod, or takes it again; also of a pod outside the node's ranges."""
    pod = await node.add()
    elsewhere = pb.NodeConfig(gateways=map(wire.write_address, GATEWAYS), pod_cidrs=[wire.write_network(RANGES[1])])
    await node.call("ConfigureNode", pb.ConfigureNodeRequest(config=elsewhere))

    give(node, f"{pod.v4}/32", "192.0.2.77/24")
    await until(node, ip_address("192.0.2.77"))
    give(node, f"{pod.v4}/32", "192.0.2.77/24", verb="del")
    await until(node)

    (datapath,) = await node.datapaths()
    assert (datapath.reachable, list(datapath.problems)) == (True, [])


@pytest.mark.parametrize("address", ["192.0.2.1/24", "2001:db8::1/128"])
async def test_the_kernel_tells_when_an_address_comes_and_when_it_goes(address: str) -> None:
    """Of either family; nothing else happens in this namespace."""
    with Netns() as namespace, namespace.enter():
        told: asyncio.Queue[None] = asyncio.Queue()
        monitor = AddressMonitor(lambda: told.put_nowait(None))
        await monitor.start()
        try:
            for verb in ("add", "del"):
                namespace.command("ip", "address", verb, address, "dev", "lo")
                async with asyncio.timeout(20):
                    await told.get()
        finally:
            await monitor.stop()


def test_loopback_link_local_and_pod_ranges_are_not_the_nodes() -> None:
    """Whatever device they are on."""
    found = map(ip_address, ("127.0.0.1", "::1", "fe80::1", "169.254.1.1", "10.0.0.1", "10.0.0.9", "192.0.2.1"))
    config = NodeConfig((ip_network("10.0.0.0/24"), ip_network("fd00::/112")), (ip_address("10.0.0.1"),))

    assert of_node(found, config) == {ip_address("10.0.0.1"), ip_address("192.0.2.1")}
