"""What a pod sends in single packets is tunnelled by a program, just as the VXLAN device would do it."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio
from podlane.loader.v1 import loader_pb2 as pb
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN

from tests.cluster_support import LoaderCluster, underlay_v4
from tests.loader_support import Pod
from tests.overlay_packets import capture
from tests.privileged.test_overlay import two_pods

pytestmark = pytest.mark.asyncio(loop_scope="module")

ECT_1, ECT_0, CE, EXPEDITED = 1, 2, 3, 0xB8


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LoaderCluster]:
    async with LoaderCluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest_asyncio.fixture(loop_scope="module")
async def cluster(shared: LoaderCluster) -> AsyncIterator[LoaderCluster]:
    yield shared
    await shared.clear()


def say(pod: Pod, address: str, tos: int, content: bytes) -> None:
    """Send one datagram."""

    def send() -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as one:
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, tos)
            else:
                one.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)
            one.bind(("", 7100))
            one.sendto(content, (address, 7101))

    pod.netns.run(send)


def sent_by_device(cluster: LoaderCluster) -> int:
    """Return the packets that the first node's VXLAN device has sent."""
    (link,) = json.loads(cluster.nodes[0].netns.command("ip", "-j", "-s", "link", "show", "podlane_vxlan").stdout)
    return int(link["stats64"]["tx"]["packets"])


def forget_neighbours(cluster: LoaderCluster) -> None:
    """Let the first node's stack know nobody on the underlay."""
    cluster.nodes[0].netns.command("ip", "neigh", "flush", "dev", "eth0")


def headers(packet: Ether) -> dict[str, object]:
    """Return all that must be the same whoever writes it."""
    ip, udp, tunnel = packet[IP], packet[UDP], packet[VXLAN]
    anew = ip.copy()
    del anew.chksum
    assert IP(bytes(anew)).chksum == ip.chksum
    return {
        "Ethernet": (packet.src, packet.dst, packet.type),
        "IP": (ip.version, ip.ihl, ip.tos, ip.len, str(ip.flags), ip.frag, ip.ttl, ip.proto, ip.src, ip.dst),
        "UDP": (udp.dport, udp.len, udp.chksum, udp.sport >= 1 << 15),
        "VXLAN": (int(tunnel.flags), tunnel.vni, tunnel.reserved2),
        "inner": (tunnel.payload.dst, tunnel.payload.src, tunnel.payload.type),
    }


@pytest.mark.parametrize("tos", [0, ECT_1, ECT_0, CE, EXPEDITED | ECT_0], ids=["plain", "ect1", "ect0", "ce", "ef"])
@pytest.mark.parametrize("family", [4, 6], ids=["IPv4 inside", "IPv6 inside"])
async def test_a_program_writes_the_headers_that_the_device_writes(
    cluster: LoaderCluster, family: int, tos: int
) -> None:
    one, two = await two_pods(cluster, pb.ROUTING_OVERLAY)
    target = two.v4 if family == 4 else two.v6
    assert one.pings(target) == []
    with capture(cluster.fabric.netns) as seen:
        # Nobody knows the neighbour, so the device asks for it.
        forget_neighbours(cluster)
        before = sent_by_device(cluster)
        say(one, target, tos, b"by the device")
        by_device = await asyncio.to_thread(next_with, seen, b"by the device")
        assert sent_by_device(cluster) == before + 1
        # One in 256 takes the device all the same.
        while True:
            before = sent_by_device(cluster)
            say(one, target, tos, b"by a program.")
            by_program = await asyncio.to_thread(next_with, seen, b"by a program.")
            if sent_by_device(cluster) == before:
                break

    assert headers(by_program) == headers(by_device)
    assert by_program[UDP].sport == (await again(cluster, one, target, tos))[UDP].sport
    assert by_program[IP].src == underlay_v4(1)


def next_with(seen: Callable[[int], list[Ether]], content: bytes) -> Ether:
    """Return the next tunnelled packet that ends with `content`."""
    return next(packet for packet in (seen(1)[0] for _ in range(100)) if bytes(packet).endswith(content))


async def again(cluster: LoaderCluster, pod: Pod, target: str, tos: int) -> Ether:
    """Send one more of the same flow."""
    with capture(cluster.fabric.netns) as seen:
        say(pod, target, tos, b"once more")
        return await asyncio.to_thread(next_with, seen, b"once more")


async def test_few_single_packets_take_the_device_and_some_do(cluster: LoaderCluster) -> None:
    """Those make the stack look after its neighbours. A flood of none would come once in ten million runs."""
    one, two = await two_pods(cluster, pb.ROUTING_OVERLAY)
    assert one.pings(two.v4) == []
    before = sent_by_device(cluster)

    flood = one.netns.command("ping", "-f", "-q", "-c", "4000", two.v4)

    assert "4000 received" in flood.stdout
    assert 0 < sent_by_device(cluster) - before < 400
