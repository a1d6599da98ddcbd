"""Debian's containerd with podlane below it, driven as the kubelet drives it."""

import contextlib
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, Self, TypeVar

import grpc
import pytest
from podlane.common.v1.types_pb2 import Attachment
from podlane.ipam.v1 import ipam_pb2

from tests import cri
from tests.agreement import Agreement
from tests.containerd_support import Containerd, Sandbox, built_from
from tests.netns_support import in_netns
from tests.node_support import Node, run

pytestmark = [pytest.mark.privileged, pytest.mark.long]

T = TypeVar("T")
PODS, WIDTH, PORT = 20, 5, 7000
READY = 0  # SANDBOX_READY


@dataclass(frozen=True)
class Member:
    """One pod of the crowd, with a container that answers whoever talks to it."""

    sandbox: Sandbox
    container: str
    addresses: list[str]
    netns: str


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """A node whose addresses can be given again at once."""
    with Node(ranges=["10.44.0.0/26", "fd00:44::/112"], settings={"ipam": {"cooldown_seconds": 0}}) as node:
        yield node


@pytest.fixture(scope="module")
def runtime(node: Node) -> Iterator[Containerd]:
    """Its containerd."""
    with Containerd(node) as runtime:
        yield runtime


@pytest.fixture(scope="module")
def crowd(node: Node, runtime: Containerd) -> Iterator[list[Member]]:
    """Twenty pods, made and removed five at a time; nothing may be left of them."""

    def make(number: int) -> Member:
        sandbox = runtime.run(f"crowd-{number}")
        container = runtime.start(sandbox, "nc", "-ll", "-p", str(PORT), "-e", "cat")
        return Member(sandbox, container, runtime.addresses(sandbox), runtime.netns(sandbox))

    members = together(make, range(PODS))
    yield members
    together(lambda member: runtime.remove(member.sandbox), members)
    assert (runtime.leftovers(), node.leftovers()) == ([], [])


def together(work: Callable[[Any], T], items: Sequence[Any]) -> list[T]:
    """Do it to all of them, five at a time."""
    with ThreadPoolExecutor(WIDTH) as pool:
        return list(pool.map(work, items))


def test_what_the_tests_speak_is_what_containerd_was_built_from():
    """Anchors cri.proto: each name and number of it is in the interface that containerd was compiled with."""
    theirs = built_from(cri.PACKAGE)
    known = {
        message.name: {(field.name, field.number, field.type, field.label) for field in message.field}
        for message in theirs.message_type
    }
    for message in cri.described().message_type:
        ours = {(field.name, field.number, field.type, field.label) for field in message.field}
        assert ours <= known[message.name], message.name
    methods = {(service.name, method.name) for service in theirs.service for method in service.method}
    assert {(one.name, method.name) for one in cri.described().service for method in one.method} <= methods
    values = {enum.name: {(value.name, value.number) for value in enum.value} for enum in theirs.enum_type}
    for enum in cri.described().enum_type:
        assert {(value.name, value.number) for value in enum.value} == values[enum.name]


def test_the_runtime_tells_podlanes_addresses_of_both_families(node: Node, runtime: Containerd, crowd: list[Member]):
    endpoints = {
        one.attachment.container_id: [socket_address(each.address.address.packed) for each in one.addresses]
        for one in Agreement(node).endpoints()
    }

    told = {member.sandbox.id: runtime.addresses(member.sandbox) for member in crowd}

    assert {key: set(value) for key, value in told.items()} == {key: set(value) for key, value in endpoints.items()}
    assert [{":" in address for address in addresses} for addresses in told.values()] == [{False, True}] * PODS
    assert len(set(chain(*told.values()))) == 2 * PODS


def test_an_endpoint_is_named_as_its_pod(node: Node, crowd: list[Member]):
    pods = {(one.pod.namespace, one.pod.name, one.pod.uid) for one in Agreement(node).endpoints()}

    names = [member.sandbox.config["metadata"]["name"] for member in crowd]
    assert pods >= {("default", name, f"uid-{name}") for name in names}


def test_containers_reach_each_other_and_the_node_in_both_families(
    node: Node, runtime: Containerd, crowd: list[Member]
):
    gateways = [part["gateway"] for part in node.show("ipam", "pools")[0]["ranges"]]

    def reach(pair: tuple[Member, Member]) -> None:
        speaker, other = pair
        pings = [f"ping -c 1 -W 5 {address}" for address in (*other.addresses, *gateways)]
        echoes = [f'[ "$(echo {other.netns} | nc {address} {PORT})" = {other.netns} ]' for address in other.addresses]
        runtime.exec(speaker.container, "sh", "-ec", "\n".join(pings + echoes))

    together(reach, list(zip(crowd, crowd[1:] + crowd[:1], strict=True)))
    for address in chain(*(member.addresses for member in crowd)):
        node.exec("ping", "-c", "1", "-W", "5", address)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_pods_go_on_talking_while_containerd_is_gone_and_are_known_afterwards(
    runtime: Containerd, crowd: list[Member], number: signal.Signals
):
    before = {member.sandbox.id: (READY, runtime.addresses(member.sandbox)) for member in crowd}
    assert states(runtime, crowd) == before
    with contextlib.ExitStack() as stack:
        flows = [
            stack.enter_context(Flow(one.netns, address))
            for one, other in pairwise(crowd[:4])
            for address in other.addresses
        ]
        runtime.stop_daemon(number)
        for flow in flows:
            flow.echo()
        runtime.start_daemon()
        for flow in flows:
            flow.echo()

    assert states(runtime, crowd) == before, runtime.log()
    runtime.exec(crowd[0].container, "ping", "-c", "1", "-W", "5", crowd[1].addresses[0])


def test_a_sandbox_killed_with_its_containerd_is_removed_as_any_other(node: Node, runtime: Containerd):
    """As the kubelet would that finds its sandbox again after a crash."""
    before = left(node, runtime)
    sandbox = runtime.run("survivor")
    runtime.start(sandbox)
    runtime.stop_daemon(signal.SIGKILL)
    runtime.start_daemon()

    runtime.remove(sandbox)

    assert left(node, runtime) == before


def test_a_sandbox_is_stopped_then_removed_and_nothing_is_left(node: Node, runtime: Containerd):
    before = left(node, runtime)
    sandbox = runtime.run("short")
    runtime.start(sandbox)

    runtime.stop(sandbox)
    assert runtime.status(sandbox).state != READY
    assert sandbox.id not in {one.attachment.container_id for one in Agreement(node).endpoints()}
    runtime.stop(sandbox)
    runtime.remove(sandbox)

    assert left(node, runtime) == before


@pytest.mark.cni("DEL-4")
def test_a_sandbox_whose_namespace_has_gone_is_removed_without_it(node: Node, runtime: Containerd):
    """As after a reboot: containerd then calls DEL without CNI_NETNS, with the result of its cache."""
    before = left(node, runtime)
    sandbox = runtime.run("homeless")
    netns = runtime.netns(sandbox)
    run("umount", netns)
    Path(netns).unlink()

    runtime.remove(sandbox)

    assert left(node, runtime) == before


def test_a_sandbox_that_gets_no_address_is_refused_in_podlanes_words(node: Node, runtime: Containerd):
    before = left(node, runtime)
    with full_pool(node), pytest.raises(grpc.RpcError) as refused:
        runtime.run("unlucky")

    assert 'plugin type="podlane" failed (add)' in str(refused.value.details())
    assert "pool=default" in str(refused.value.details())
    assert left(node, runtime) == before
    runtime.remove(runtime.run("unlucky"))


def states(runtime: Containerd, crowd: list[Member]) -> dict[str, Any]:
    """Return what the runtime says of each: state and addresses."""
    return {
        member.sandbox.id: (runtime.status(member.sandbox).state, runtime.addresses(member.sandbox)) for member in crowd
    }


def left(node: Node, runtime: Containerd) -> set[str]:
    """Return all that there is of any pod."""
    return {*runtime.leftovers(), *node.leftovers()}


def socket_address(packed: bytes) -> str:
    """Return an address as text."""
    return socket.inet_ntop(socket.AF_INET6 if len(packed) == 16 else socket.AF_INET, packed)


@contextlib.contextmanager
def full_pool(node: Node) -> Iterator[None]:
    """Have somebody else hold all addresses for the block."""
    agreement = Agreement(node)
    owners: list[Any] = []
    try:
        with agreement.asking("ipam") as ipam, contextlib.suppress(grpc.RpcError):
            while True:
                owner = Attachment(network="other", container_id=f"c{len(owners)}", ifname="eth0")
                ipam.AllocateAddresses(ipam_pb2.AllocateAddressesRequest(owner=owner))
                owners.append(owner)
        yield
    finally:
        with agreement.asking("ipam") as ipam:
            for owner in owners:
                ipam.ReleaseAddresses(ipam_pb2.ReleaseAddressesRequest(owner=owner))


class Flow:
    """A connection from a pod's namespace to a container that sends back what it gets."""

    def __init__(self, netns: str, address: str) -> None:
        """Connect."""
        self._socket = in_netns(netns, lambda: socket.create_connection((address, PORT), 10))

    def __enter__(self) -> Self:
        """Say something."""
        self.echo()
        return self

    def __exit__(self, *_: object) -> None:
        """Hang up."""
        self._socket.close()

    def echo(self) -> None:
        """Say something that must come back."""
        self._socket.sendall(b"are you there?\n")
        assert self._socket.recv(100) == b"are you there?\n"
