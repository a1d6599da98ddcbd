"""Packets between nodes for tests: asked for, sent, captured on the way, and forged."""

import asyncio
import contextlib
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from podlane.loader.v1 import loader_pb2 as pb
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from tests.loader_support import LoaderNode, Pod
from tests.netns_support import Netns

OVERLAY, NATIVE = pb.ROUTING_OVERLAY, pb.ROUTING_NATIVE
TUNNEL_PORT = 8472


def passes(netns: Netns, address: str, size: int) -> bool:
    """Return whether an echo request of so many bytes is answered that must not be fragmented."""
    argv = ("ping", "-c", "1", "-W", "2", "-M", "do", "-s", str(size), address)
    return netns.command(*argv, check=False).returncode == 0


def fragments(netns: Netns) -> dict[str, int]:
    """Return the counters of a namespace that tell of fragments or of packets that were too big."""
    counters = json.loads(netns.command("nstat", "-asz", "-j").stdout)["kernel"]
    names = ("Frag", "Reasm", "InTooBigErrors", "OutPktTooBigs")
    # Without a socket's "don't fragment" the kernel only says here that it would have had to fragment.
    return {
        name: count
        for name, count in counters.items()
        if count and any(part in name for part in names) and not name.startswith("TcpExt") and "FragFails" not in name
    }


def transfer(source: Netns, target: Netns, address: str, size: int) -> int:
    """Send bytes by TCP; return how many arrived."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = target.run(lambda: socket.create_server((address, 7000), family=family))
    with contextlib.closing(listener):
        sender = source.run(lambda: socket.create_connection((address, 7000), timeout=20))
        receiver, _ = listener.accept()
    with sender, receiver:
        receiver.settimeout(20)
        sending = threading.Thread(target=sender.sendall, args=(bytes(size),))
        sending.start()
        received = 0
        while received < size and (chunk := receiver.recv(1 << 20)):
            received += len(chunk)
        sending.join()
        return received


@contextlib.contextmanager
def capture(netns: Netns) -> Iterator[Callable[[int], list[Ether]]]:
    """Record what is tunnelled over the bridge; the block asks for as many packets as it expects."""

    def opened() -> socket.socket:
        one = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        one.bind(("port1", 0))
        one.settimeout(10)
        return one

    listening = netns.run(opened)

    def take(count: int) -> list[Ether]:
        found: list[Ether] = []
        while len(found) < count:
            packet = Ether(listening.recv(65535))
            if UDP in packet and packet[UDP].dport == TUNNEL_PORT:
                found.append(packet)
        return found

    with contextlib.closing(listening):
        yield take


def allow(direction: int, identity: int) -> pb.PolicyEntry:
    return pb.PolicyEntry(direction=pb.TrafficDirection.ValueType(direction), identity=identity)


def deny(direction: int, identity: int) -> pb.PolicyEntry:
    return pb.PolicyEntry(direction=pb.TrafficDirection.ValueType(direction), identity=identity, deny=True)


INGRESS, EGRESS = 1, 2


def silent(ends: Sequence[Pod | LoaderNode], *addresses: str) -> list[list[str]]:
    """Return which addresses answer nothing to each end. All are asked at once: silence takes its time."""
    with ThreadPoolExecutor(len(ends) * len(addresses)) as executor:
        asked = [[executor.submit(end.ping, address) for address in addresses] for end in ends]
        return [
            [address for address, one in zip(addresses, answers, strict=True) if not one.result()] for answers in asked
        ]


def bound(address: str, port: int) -> socket.socket:
    one = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    one.bind((address, port))
    one.setblocking(False)
    return one


def send(address: str, port: int, content: bytes = b"x") -> None:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.sendto(content, (address, port))


async def arrived(listener: socket.socket) -> bool:
    """Return whether a datagram has come; those that have had time for it by then are there."""
    for _ in range(20):
        with contextlib.suppress(BlockingIOError):
            listener.recv(100)
            return True
        await asyncio.sleep(0.01)
    return False


def vxlan(vni: int, inner: bytes) -> bytes:
    """Return what is behind the outer UDP header."""
    return struct.pack(">BxxxI", 8, vni << 8) + inner


def frame(source: str, target: str, port: int = 7002) -> bytes:
    return bytes(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / IP(src=source, dst=target) / UDP(dport=port))


async def arrived_now(listener: socket.socket) -> bool:
    with contextlib.suppress(BlockingIOError):
        listener.recv(100)
        return True
    await asyncio.sleep(0.002)
    return False
