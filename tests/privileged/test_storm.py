"""Two hundred ADDs at once on a real node: all of them succeed, in order, a few at a time; then as many DELs.

The endpoint service is held still until every ADD has its address and its link, and ipam then, which has to confirm
what is being made, until everybody stands in the line: what is looked at meanwhile doesn't move.
"""

import signal
from collections.abc import Iterator
from functools import partial
from typing import Any

import grpc
import pytest
from podlane.endpoint.v1 import endpoint_pb2 as pb
from podlane.endpoint.v1 import endpoint_pb2_grpc

from tests.agreement import until
from tests.node_support import Node, stopped
from tests.storm_support import Ended, make_pods, of_node
from tests.traffic_support import Pings

pytestmark = [pytest.mark.privileged, pytest.mark.long]

PODS, WIDTH, KILLED = 200, 3, 20


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """A node with room for them."""
    with Node(ranges=("10.44.0.0/22", "fd00:44::/112"), settings={"endpoint": {"create_permits": WIDTH}}) as node:
        yield node


class Seen:
    """What was looked at while nothing moved: (container id, position) in the order of the line, before and after."""

    def __init__(self, node: Node) -> None:
        """Speak to the service itself: a process for each look would be most of the test."""
        self._channel = grpc.insecure_channel(f"unix:{node.loaded.endpoint.socket}")
        self._stub: Any = endpoint_pb2_grpc.EndpointServiceStub(self._channel)

    def endpoints(self) -> list[pb.Endpoint]:
        """Return all of them."""
        return list(self._stub.ListEndpoints(pb.ListEndpointsRequest(), timeout=30.0).endpoints)

    def line(self) -> list[pb.Endpoint]:
        """Return those that wait, in their order."""
        return sorted((one for one in self.endpoints() if one.HasField("place")), key=lambda one: one.place.position)

    def close(self) -> None:
        """Hang up."""
        self._channel.close()


def links(node: Node) -> int:
    """Return how many links pods have."""
    return sum(link["ifname"].startswith("lxc") for link in node.links())


def has_links(node: Node, count: int) -> bool:
    """Return whether so many pods have one."""
    return links(node) >= count


def names(endpoints: list[pb.Endpoint]) -> list[str]:
    """Return whose they are."""
    return [one.attachment.container_id for one in endpoints]


def test_two_hundred_adds_at_once_and_then_as_many_dels(node: Node):
    running = [node.pod(), node.pod()]
    addresses = [node.add(pod).addresses for pod in running]
    pods = make_pods(node, PODS)
    by_id = {pod.container_id: at for at, pod in enumerate(pods)}
    seen = Seen(node)

    with Pings(running[0], *addresses[1], every=0.02) as pings:
        adding = of_node(node, "ADD", pods)
        with stopped(node, "endpoint"):
            adding.go()
            for count in (50, 100, 150, PODS):  # each has the patience of `until`
                until(partial(has_links, node, count + 2), lambda: f"{links(node)} links")
            node.signal("ipam", signal.SIGSTOP)
        try:
            until(lambda: len(seen.line()) == PODS - WIDTH, lambda: f"{len(seen.line())} wait")
            line = seen.line()
            check_places(node, line)
            killed = names(line)[5 : 5 + KILLED]
            for one in killed:
                adding.kill(by_id[one])
            until(lambda: len(seen.line()) == PODS - WIDTH - KILLED, lambda: f"{len(seen.line())} wait")
            left = [one for one in names(line) if one not in killed]
            assert names(seen.line()) == left
            assert [one.place.position for one in seen.line()] == list(range(1, len(left) + 1))
            assert not set(killed) & set(names(seen.endpoints()))
        finally:
            node.signal("ipam", signal.SIGCONT)
        added = adding.wait()
        check_added(added, [by_id[one] for one in killed])
        endpoints = seen.endpoints()
        assert len(endpoints) == PODS - KILLED + 2
        assert {one.state for one in endpoints} == {pb.ENDPOINT_STATE_READY}
        check_order(left, endpoints)

        deleting = of_node(node, "DEL", pods)
        deleting.go()
        assert {one.outcome.code for one in deleting.wait()} == {0}
    assert pings.lost == []
    seen.close()
    for pod in running:
        node.delete(pod)
    assert node.leftovers() == []


def check_places(node: Node, line: list[pb.Endpoint]) -> None:
    """Positions without a gap, in the order of arrival; and what an operator is shown of them."""
    assert [one.place.position for one in line] == list(range(1, len(line) + 1))
    assert {one.place.waiting for one in line} == {len(line)}
    assert [one.id for one in line] == sorted(one.id for one in line)
    table = {row.split()[0]: row for row in node.podlane("endpoint", "list").stdout.splitlines()[1:]}
    shown = {one["id"]: one for one in node.show("endpoint", "list")}
    for one in (line[0], line[-1]):
        assert f" waiting-to-regenerate {one.place.position}/{len(line)}" in table[str(one.id)]
        place = shown[one.id]["place"]
        assert (place["position"], place["waiting"]) == (one.place.position, len(line))
    told = node.podlane("endpoint", "get", str(line[-1].id)).stdout
    assert f"(waiting for its turn: {len(line)} of {len(line)} that wait" in told


def check_added(added: list[Ended], killed: list[int]) -> None:
    """Everybody succeeded but those who were killed; no address was given twice."""
    assert [at for at, one in enumerate(added) if one.outcome.code == -signal.SIGKILL] == sorted(killed)
    failed = [one.outcome.stdout for at, one in enumerate(added) if one.outcome.code and at not in killed]
    assert failed == []
    given = [address for at, one in enumerate(added) if at not in killed for address in one.outcome.addresses]
    assert len(set(given)) == len(given) == 2 * (len(added) - len(killed))


def check_order(line: list[str], endpoints: list[pb.Endpoint]) -> None:
    """By the records of what was built when: never more at a time than the bound, and nobody before his turn."""
    last = {one.attachment.container_id: one.last_regeneration for one in endpoints}
    spans = []
    for one in line:
        begin = last[one].started.ToNanoseconds() / 1e3
        took = next(phase.duration_us for phase in last[one].phases if phase.name == "regenerate")
        spans.append((begin, begin + took))
    assert max(sum(begin <= at < end for begin, end in spans) for at, _ in spans) <= WIDTH
    for place, (begin, _) in enumerate(spans):
        assert sum(other < begin for other, _ in spans[place + 1 :]) < WIDTH
