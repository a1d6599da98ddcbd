"""Restarts: pods keep their connectivity without losing a packet, and the next ADD works."""

import itertools
import re
import subprocess

import pytest

from tests.node_support import Node, Pod

pytestmark = pytest.mark.privileged

ORDERS = list(itertools.permutations(("loader", "ipam", "endpoint")))


class Stream:
    """A ping every 5 ms from one pod to another, until it is told to stop."""

    def __init__(self, pod: Pod, address: str) -> None:
        """Start it and wait for the first answer."""
        self._process = subprocess.Popen(
            ["nsenter", f"--net={pod.path}", "ping", "-i", "0.005", "-W", "2", address],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        while "bytes from" not in self._process.stdout.readline():
            pass

    def lost(self) -> int:
        """Stop it and return how many requests found no answer; the one in flight at the end doesn't count."""
        self._process.send_signal(2)
        told, _ = self._process.communicate(timeout=20)
        sent, received = re.search(r"(\d+) packets transmitted, (\d+) received", told).groups()  # type: ignore[union-attr]
        assert int(received) > 50
        return max(0, int(sent) - int(received) - 1)


@pytest.fixture
def pods(node: Node) -> tuple[Pod, Pod, list[str]]:
    one, other = node.pod(), node.pod()
    node.add(one)
    return one, other, node.add(other).addresses


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_services_killed_and_started_in_any_order_lose_no_packet(node: Node, pods, order: tuple[str, ...]):
    one, other, addresses = pods
    before = {endpoint["id"]: endpoint["last_regeneration"] for endpoint in node.show("endpoint", "list")}
    streams = [Stream(one, address) for address in addresses]

    for service in order:
        node.kill(service)
    node.podlane("node", "up")

    assert [stream.lost() for stream in streams] == [0, 0]
    after = {endpoint["id"]: endpoint for endpoint in node.show("endpoint", "list")}
    assert set(after) == set(before)
    assert {endpoint["state"] for endpoint in after.values()} == {"ready"}
    third = node.pod()
    assert not set(node.add(third).addresses) & set(addresses)
    assert third.ping(addresses[0])
    for pod in (one, other, third):
        node.delete(pod)
    assert node.leftovers() == []


@pytest.mark.parametrize("service", ["loader", "ipam", "endpoint"])
def test_one_service_restarted_while_pods_talk(node: Node, pods, service: str):
    one, other, addresses = pods
    stream = Stream(one, addresses[0])

    node.kill(service)
    node.podlane("node", "up")

    third = node.pod()
    node.add(third)
    assert stream.lost() == 0
    assert third.ping(addresses[0])
    for pod in (one, other, third):
        node.delete(pod)
    assert node.leftovers() == []
