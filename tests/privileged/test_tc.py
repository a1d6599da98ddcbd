"""Filters on a device: attached, replaced without a gap, shown, taken away."""

import asyncio
import ctypes
import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.common.errors import NotFound, Unavailable
from services.loader.netlink_worker import NetlinkWorker
from services.loader.tc import Attached, Filter, TcFilters
from tests import link_support, netns_support
from tests.netns_support import Netns

pytestmark = pytest.mark.privileged
node, pod, worker = netns_support.node, netns_support.pod, link_support.worker

# linux/bpf.h
BPF_PROG_LOAD, SCHED_CLS, SYS_BPF = 5, 3, 321
# asm-generic/socket.h
SO_RCVBUFFORCE = 33
TC_ACT_OK, TC_ACT_SHOT = 0, 2

GONE = {"ingress": None, "egress": None}


def load(verdict: int) -> int:
    """A program that returns a verdict: `r0 = verdict; exit`."""
    code = struct.pack("=BBhi", 0xB7, 0, 0, verdict) + struct.pack("=BBhi", 0x95, 0, 0, 0)
    instructions, license_ = ctypes.create_string_buffer(code), ctypes.create_string_buffer(b"GPL")
    attributes = struct.pack("=IIQQ", SCHED_CLS, 2, ctypes.addressof(instructions), ctypes.addressof(license_))
    fd = int(ctypes.CDLL(None, use_errno=True).syscall(SYS_BPF, BPF_PROG_LOAD, attributes, len(attributes)))
    assert fd >= 0, os.strerror(ctypes.get_errno())
    return fd


@pytest.fixture
def accept() -> Iterator[int]:
    """A program that lets everything pass."""
    fd = load(TC_ACT_OK)
    yield fd
    os.close(fd)


@pytest.fixture
def drop() -> Iterator[int]:
    """A program that drops everything."""
    fd = load(TC_ACT_SHOT)
    yield fd
    os.close(fd)


@pytest.fixture
def ifindex(node: Netns, pod: Netns) -> int:
    """The node's end of a pair that is up, with addresses at both ends."""
    node.command("ip", "link", "add", "lxc0", "type", "veth", "peer", "name", "eth0", "netns", pod.path)
    node.command("ip", "address", "add", "10.0.0.1/24", "dev", "lxc0")
    node.command("ip", "link", "set", "lxc0", "up")
    pod.command("ip", "address", "add", "10.0.0.2/24", "dev", "eth0")
    pod.command("ip", "link", "set", "eth0", "up")
    assert node.ping("10.0.0.2")
    return socket.if_nametoindex("lxc0")


@pytest.fixture
def filters(worker: NetlinkWorker) -> TcFilters:
    """What is tested."""
    return TcFilters(worker)


async def test_both_hooks_are_attached_and_shown_with_id_and_tag(filters: TcFilters, ifindex: int, accept, drop):
    await filters.attach(ifindex, {"ingress": Filter("from_container", accept), "egress": Filter("to_container", drop)})

    assert await filters.attached(ifindex) == {
        "ingress": described("from_container", accept),
        "egress": described("to_container", drop),
    }


def described(name: str, fd: int) -> Attached:
    """What the kernel says of a descriptor of ours."""
    pairs = dict(line.split(":", 1) for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines())
    return Attached(name, int(pairs["prog_id"]), bytes.fromhex(pairs["prog_tag"]))


async def test_the_programs_decide_in_both_directions(filters: TcFilters, ifindex: int, node: Netns, accept, drop):
    await filters.attach(
        ifindex, {"ingress": Filter("from_container", accept), "egress": Filter("to_container", accept)}
    )
    assert await asyncio.to_thread(node.ping, "10.0.0.2")

    for hook in ("ingress", "egress"):
        await filters.attach(ifindex, {hook: Filter("closed", drop)})
        assert not await asyncio.to_thread(reaches, node)
        await filters.attach(ifindex, {hook: Filter("open", accept)})
        assert await asyncio.to_thread(node.ping, "10.0.0.2")


def reaches(node: Netns) -> bool:
    """Whether one echo request is answered, without a long wait for the answer that doesn't come."""
    return node.command("ping", "-n", "-c", "1", "-W", "0.1", "10.0.0.2", check=False).returncode == 0


async def test_attaching_again_leaves_one_filter_on_each_hook(filters: TcFilters, ifindex: int, node: Netns, accept):
    for _ in range(3):
        await filters.attach(ifindex, {"ingress": Filter("from_container", accept)})

    shown = node.command("tc", "filter", "show", "dev", "lxc0", "ingress").stdout
    assert shown.count("from_container") == 1
    assert "direct-action" in shown
    assert "handle 0x1" in shown


async def test_nothing_passes_and_nothing_is_lost_while_programs_are_replaced(
    filters: TcFilters, ifindex: int, pod: Netns, accept, drop
):
    """A stream of packets through thousands of swaps: between two closed programs none comes through, between two
    open ones none is missing.
    """
    other_accept, other_drop = load(TC_ACT_OK), load(TC_ACT_SHOT)
    try:
        await filters.attach(ifindex, {"ingress": Filter("a", drop)})
        passed, sent = await stream(filters, ifindex, pod, (other_drop, drop))
        assert sent > 1000
        assert passed == 0

        await filters.attach(ifindex, {"ingress": Filter("a", accept)})
        passed, sent = await stream(filters, ifindex, pod, (other_accept, accept))
        assert sent > 1000
        assert passed == sent
    finally:
        os.close(other_accept)
        os.close(other_drop)


async def stream(filters: TcFilters, ifindex: int, pod: Netns, programs: tuple[int, int]) -> tuple[int, int]:
    """Send from the pod while its programs are swapped 500 times; return how many packets came through, and how many
    were sent.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("10.0.0.1", 0))
        receiver.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        receiver.setblocking(False)
        enough = threading.Event()
        sender = pod.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        sending = asyncio.ensure_future(asyncio.to_thread(send, sender, receiver.getsockname(), enough))
        try:
            for _ in range(250):
                for program in programs:
                    await filters.attach(ifindex, {"ingress": Filter("a", program)})
        finally:
            enough.set()
            sent = await sending
            sender.close()
        return drained(receiver), sent


def send(sender: socket.socket, where: tuple[str, int], enough: threading.Event) -> int:
    """Send until it is enough, at least a thousand."""
    sent = 0
    while sent <= 1000 or (not enough.is_set() and sent < 60_000):
        sender.sendto(b"x", where)
        sent += 1
    return sent


def drained(receiver: socket.socket) -> int:
    """How many datagrams wait: a veth delivers before `sendto` returns."""
    count = 0
    while True:
        try:
            receiver.recv(16)
        except BlockingIOError:
            return count
        count += 1


async def test_detaching_removes_our_filters_and_can_be_repeated(filters: TcFilters, ifindex: int, node: Netns, drop):
    await filters.attach(ifindex, {"ingress": Filter("a", drop), "egress": Filter("b", drop)})
    node.command("tc", "filter", "add", "dev", "lxc0", "ingress", "prio", "7", "bpf", "bytecode", "1,6 0 0 0")

    await filters.detach(ifindex)
    await filters.detach(ifindex)

    assert await filters.attached(ifindex) == GONE
    assert "bytecode" in node.command("tc", "filter", "show", "dev", "lxc0", "ingress").stdout
    assert await asyncio.to_thread(node.ping, "10.0.0.2")


async def test_a_device_without_filters_has_two_empty_hooks(filters: TcFilters, ifindex: int):
    assert await filters.attached(ifindex) == GONE
    await filters.detach(ifindex)


async def test_a_device_that_is_gone_is_not_found_and_has_nothing_to_detach(filters: TcFilters, accept):
    with pytest.raises(NotFound, match="4711"):
        await filters.attach(4711, {"ingress": Filter("a", accept)})

    assert await filters.attached(4711) == GONE
    await filters.detach(4711)


async def test_what_is_not_a_program_is_refused_with_the_hook(filters: TcFilters, ifindex: int):
    with pytest.raises(Unavailable, match=r"filter on ingress: .*EBADF"):
        await filters.attach(ifindex, {"ingress": Filter("a", 4711)})
