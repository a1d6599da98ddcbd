"""A pod's link as tests ask for it, and the loader's netlink side running in the namespace of the test."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import pytest

from services.common.model import Address, AssignedAddress, Attachment, Route
from services.loader.links import Links
from services.loader.linkspec import Link, LinkSpec, OffloadSizes
from services.loader.model import EndpointSpec
from services.loader.netlink_worker import NetlinkWorker
from tests.netns_support import Netns

GATEWAY4, GATEWAY6 = ip_address("10.0.0.1"), ip_address("fd00::1")
RANGE4, RANGE6 = ip_network("10.0.0.0/24"), ip_network("fd00::/112")


def attachment(number: int = 2) -> Attachment:
    """The attachment of a container that is known by a number."""
    return Attachment("podlane", f"{number:064x}", "eth0")


def address4(number: int = 2) -> Address:
    """Its IPv4 address."""
    return RANGE4[number]


def address6(number: int = 2) -> Address:
    """Its IPv6 address."""
    return RANGE6[number]


def link_spec(
    netns_path: str,
    number: int = 2,
    *,
    versions: tuple[int, ...] = (4, 6),
    mtu: int = 0,
    route_mtu: int = 0,
    offload: OffloadSizes | None = None,
    pod_mac: bytes | None = None,
) -> LinkSpec:
    """A link with the routes that ipam gives: to the gateway, then everything by it."""
    assigned = {
        4: AssignedAddress(ip_interface(address4(number)), GATEWAY4, RANGE4),
        6: AssignedAddress(ip_interface(address6(number)), GATEWAY6, RANGE6),
    }
    routes: list[Route] = []
    for version in versions:
        gateway = assigned[version].gateway
        everything = ip_network("0.0.0.0/0" if version == 4 else "::/0")
        routes += [Route(ip_network(gateway)), Route(everything, gateway)]
    return LinkSpec(
        attachment(number),
        netns_path,
        tuple(assigned[version] for version in versions),
        tuple(routes),
        mtu,
        route_mtu,
        offload or OffloadSizes(),
        pod_mac,
    )


def endpoint_spec(link: Link, number: int = 2) -> EndpointSpec:
    """The endpoint on a link."""
    return EndpointSpec(
        number,
        1,
        link.attachment,
        link.host_ifname,
        link.host_ifindex,
        link.host_mac,
        link.pod_mac,
        (address4(number), address6(number)),
        300,
    )


@asynccontextmanager
async def running_links(worker: NetlinkWorker, directory: Path) -> AsyncIterator[Links]:
    """A loader's links, from its start to its end."""
    links = Links(directory, worker, lambda: 1500)
    await links.start()
    try:
        yield links
    finally:
        await links.stop()


@contextmanager
def namespaces(count: int) -> Iterator[list[Netns]]:
    """Several pods' namespaces."""
    made: list[Netns] = []
    try:
        made.extend(Netns() for _ in range(count))
        yield made
    finally:
        for one in made:
            one.close()


@pytest.fixture
async def worker(node: Netns) -> AsyncIterator[NetlinkWorker]:
    """The loader's netlink worker, in the node's namespace."""
    assert node.fd
    running = NetlinkWorker("netlink")
    await running.start()
    yield running
    await running.stop()


@pytest.fixture
async def links(worker: NetlinkWorker, tmp_path: Path) -> AsyncIterator[Links]:
    """The loader's links."""
    async with running_links(worker, tmp_path / "links") as running:
        yield running
