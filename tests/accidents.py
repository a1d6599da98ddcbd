"""Accidents on a real node for tests of garbage: names taken away, services stopped, records lost, and who is asked."""

import os
import re
import select
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import grpc
from podlane.common.v1 import types_pb2 as types
from podlane.endpoint.v1 import endpoint_pb2, endpoint_pb2_grpc
from podlane.ipam.v1 import ipam_pb2, ipam_pb2_grpc
from podlane.loader.v1 import loader_pb2_grpc

from tests.node_support import Node, Pod, run

PATIENCE = 20.0
STUBS: dict[str, Any] = {
    "ipam": ipam_pb2_grpc.IpamServiceStub,
    "loader": loader_pb2_grpc.LoaderServiceStub,
    "endpoint": endpoint_pb2_grpc.EndpointServiceStub,
}


class Neighbours:
    """Two pods that talk while things are collected around them: echo requests every 5 ms, both families."""

    def __init__(self, node: Node) -> None:
        """Add them, and begin."""
        self.one, self.other = node.pod(), node.pod()
        node.add(self.one)
        self._pings = [
            subprocess.Popen(
                ["nsenter", f"--net={self.one.path}", "ping", "-n", "-q", "-i", "0.005", "-W", "2", address],
                stdout=subprocess.PIPE,
                text=True,
            )
            for address in node.add(self.other).addresses
        ]

    def lost(self) -> list[int]:
        """Stop, and return how many requests found no answer; the one in flight at the end doesn't count."""
        counts = []
        for ping in self._pings:
            ping.send_signal(signal.SIGINT)
            told, _ = ping.communicate(timeout=PATIENCE)
            counted = re.search(r"(\d+) packets transmitted, (\d+) received", told)
            assert counted is not None
            sent, received = map(int, counted.groups())
            assert received > 50
            counts.append(max(0, sent - received - 1))
        return counts


def call(node: Node, service: str, method: str, request: Any) -> Any:
    """Call an RPC as `grpcurl` would."""
    with grpc.insecure_channel(f"unix:{getattr(node.loaded, service).socket}") as channel:
        return getattr(STUBS[service](channel), method)(request, timeout=PATIENCE, wait_for_ready=True)


def attachment(pod: Pod) -> types.Attachment:
    return types.Attachment(network="podlane", container_id=pod.container_id, ifname=pod.ifname)


def until(condition: Callable[[], Any], what: str) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        select.select([], [], [], 0.01)


@contextmanager
def nameless(pod: Pod) -> Iterator[int]:
    """Take the name of a pod's namespace away and hold it by a descriptor, for the block."""
    fd = os.open(pod.path, os.O_RDONLY)
    try:
        run("ip", "netns", "del", pod.netns)
        yield fd
    finally:
        os.close(fd)


@contextmanager
def stopped(node: Node, service: str) -> Iterator[None]:
    """Kill a service, and start it again after the block."""
    node.kill(service)
    yield
    node.podlane("node", "up")


@contextmanager
def living_in(pod: Pod) -> Iterator[int]:
    """A process inside a pod, for the block; yields its pid once it is there."""
    argv = ["nsenter", f"--net={pod.path}", "sh", "-c", "echo in; exec sleep 120"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.kill()


def endpoints(node: Node) -> list[endpoint_pb2.Endpoint]:
    """The node's endpoints."""
    return list(call(node, "endpoint", "ListEndpoints", endpoint_pb2.ListEndpointsRequest()).endpoints)


def endpoint_of(node: Node, pod: Pod) -> endpoint_pb2.Endpoint:
    """The endpoint of a pod."""
    (found,) = [one for one in endpoints(node) if one.attachment == attachment(pod)]
    return found


def known(node: Node, pod: Pod) -> bool:
    """Whether the node has an endpoint of a pod."""
    return any(one.attachment == attachment(pod) for one in endpoints(node))


def held(node: Node, pod: Pod) -> bool:
    """Whether ipam holds addresses for a pod."""
    request = ipam_pb2.ListAllocationsRequest(owner=attachment(pod))
    return bool(call(node, "ipam", "ListAllocations", request).allocations)


def everything(node: Node) -> Any:
    """All that collecting could change."""
    state, pins = node.dir / "run" / "state", node.dir / "bpf"
    return (
        sorted(link["ifname"] for link in node.links()),
        sorted(str(path) for root in (state, pins) for path in root.rglob("*")),
        endpoints(node),
        list(call(node, "ipam", "ListAllocations", ipam_pb2.ListAllocationsRequest()).allocations),
    )


def forget_endpoint(node: Node, pod: Pod) -> None:
    """Lose a pod's record in the endpoint database, while the service is stopped."""
    with closing(sqlite3.connect(node.loaded.endpoint.database)) as database, database:
        database.execute("PRAGMA foreign_keys = ON")
        deleted = database.execute("DELETE FROM endpoints WHERE container_id = ?", (pod.container_id,))
        assert deleted.rowcount == 1
