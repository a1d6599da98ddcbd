"""The data path between pods of two nodes: TCP throughput and a one-byte ping-pong, as benchmarks/path.py has them.

Two nodes on a bridge that stands for the network between them, MTU 1500, each contestant on an underlay of its own:

    overlay     podlane through VXLAN, connections tracked, masquerading on
    native      podlane by routes, likewise
    vxlan       by hand: the pods' veth pairs on a bridge of each node that has a VXLAN port, no IP forwarding at all
    routed      by hand: the pods' veth pairs routed by the nodes' stacks, without filters or tracking
    underlay    the nodes themselves, without pods

A virtual machine's speed changes by a third from second to second, so turns are short and many, and what is compared is
the median of each turn's own ratio.
"""

import asyncio
import contextlib
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from podlane.loader.v1 import loader_pb2 as pb

from benchmarks.harness import Report, Row
from benchmarks.path import Pair, build, ping_pong, throughput, told
from tests.cluster_support import Fabric, LoaderCluster, underlay_v4
from tests.netns_support import Netns


@contextlib.contextmanager
def podlane(routing: "pb.Routing.ValueType") -> Iterator[Pair]:
    """Yield two pods of podlane's nodes."""
    with tempfile.TemporaryDirectory(prefix="pl-bench-") as directory, asyncio.Runner() as runner:
        cluster = LoaderCluster(Path(directory))
        runner.run(cluster.__aenter__())
        try:
            runner.run(cluster.configure(routing, masquerade=True))
            one, two = runner.run(cluster.pod(0)), runner.run(cluster.pod(1))
            runner.run(cluster.tell())
            yield one.netns.path, two.netns.path, two.v4
        finally:
            runner.run(cluster.__aexit__())


class _Hand:
    """Two nodes and a pod on each, as bare namespaces."""

    def __init__(self) -> None:
        self.fabric = Fabric()
        self.nodes, self.pods = (Netns(), Netns()), (Netns(), Netns())
        for number, node in enumerate(self.nodes, 1):
            self.fabric.join(node.path, number)

    def close(self) -> None:
        for one in (*self.nodes, *self.pods):
            one.close()
        self.fabric.close()


@contextlib.contextmanager
def underlay() -> Iterator[Pair]:
    """Yield the nodes themselves."""
    with contextlib.closing(_Hand()) as hand:
        yield hand.nodes[0].path, hand.nodes[1].path, underlay_v4(2)


@contextlib.contextmanager
def kernel_vxlan() -> Iterator[Pair]:
    """Yield two pods on bridges that a VXLAN device joins."""
    with contextlib.closing(_Hand()) as hand:
        for number, (node, pod) in enumerate(zip(hand.nodes, hand.pods, strict=True), 1):
            _veth(node, pod, f"10.98.0.{number}/24", 1450)
            tunnel = ("type", "vxlan", "id", "42", "dstport", "4789", "local", underlay_v4(number), "nolearning")
            node.command("ip", "link", "add", "vx", "mtu", "1450", *tunnel)
            node.command("bridge", "fdb", "append", "00:00:00:00:00:00", "dev", "vx", "dst", underlay_v4(3 - number))
            node.command("ip", "link", "add", "name", "br0", "mtu", "1450", "type", "bridge")
            for device in ("vx", "pod"):
                node.command("ip", "link", "set", device, "master", "br0", "up")
            node.command("ip", "link", "set", "br0", "up")
        yield hand.pods[0].path, hand.pods[1].path, "10.98.0.2"


@contextlib.contextmanager
def kernel_routed() -> Iterator[Pair]:
    """Yield two pods that the nodes' stacks route to."""
    with contextlib.closing(_Hand()) as hand:
        for number, (node, pod) in enumerate(zip(hand.nodes, hand.pods, strict=True), 1):
            _veth(node, pod, f"10.97.{number}.2/24", 1500)
            node.command("ip", "address", "add", f"10.97.{number}.1/24", "dev", "pod")
            pod.command("ip", "route", "add", "default", "via", f"10.97.{number}.1")
            node.command("ip", "route", "add", f"10.97.{3 - number}.0/24", "via", underlay_v4(3 - number))
            node.command("sysctl", "-qw", "net.ipv4.ip_forward=1")
        yield hand.pods[0].path, hand.pods[1].path, "10.97.2.2"


def _veth(node: Netns, pod: Netns, address: str, mtu: int) -> None:
    ends = ("pod", "mtu", str(mtu), "type", "veth", "peer", "name", "eth0", "mtu", str(mtu), "netns", pod.path)
    node.command("ip", "link", "add", *ends)
    node.command("ip", "link", "set", "pod", "up")
    pod.command("ip", "link", "set", "eth0", "up")
    pod.command("ip", "address", "add", address, "dev", "eth0")


def report(into: Report, work: Path, rounds: int = 40, seconds: float = 0.3) -> None:
    """Measure all contestants in turns and add podlane's ratios to the others."""
    binary = build(work)
    with contextlib.ExitStack() as stack:
        pairs: dict[str, Pair] = {
            "overlay": stack.enter_context(podlane(pb.ROUTING_OVERLAY)),
            "native": stack.enter_context(podlane(pb.ROUTING_NATIVE)),
            "vxlan": stack.enter_context(kernel_vxlan()),
            "routed": stack.enter_context(kernel_routed()),
            "underlay": stack.enter_context(underlay()),
        }
        gbps: dict[str, list[float]] = {name: [] for name in pairs}
        micros: dict[str, list[float]] = {name: [] for name in pairs}
        for turn in range(rounds):
            names = list(pairs)
            shift = turn % len(names)
            for name in names[shift:] + names[:shift]:
                gbps[name].append(throughput(pairs[name], "-n", "256M"))
                micros[name].append(ping_pong(binary, pairs[name], seconds))
    into.raw["crossnode"] = {"gbps": gbps, "ping_pong_us": micros}
    _add_rows(into, gbps, micros)


def _add_rows(into: Report, gbps: Mapping[str, list[float]], micros: Mapping[str, list[float]]) -> None:
    for figures, what, unit, aims, at_most in (
        (gbps, "TCP", "Gbit/s", {"native": 0.95}, False),
        (micros, "ping-pong", "µs", {"native": 1.05}, True),
    ):
        note = told({name: statistics.median(values) for name, values in figures.items()}, unit)
        for name in ("overlay", "native"):
            for other, bound, aim in (("vxlan", 1.0, None), ("underlay", None, aims.get(name))):
                ratio = statistics.median(
                    mine / theirs for mine, theirs in zip(figures[name], figures[other], strict=True)
                )
                whom = "kernel VXLAN" if other == "vxlan" else other
                row = Row(f"{what} between nodes, {name} ÷ {whom}", ratio, "×", bound, aim, at_most, note)
                into.add(row)
                note = ""
