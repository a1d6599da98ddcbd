"""Restarts: pods keep their connectivity without losing a packet, endpoints come back as they were, ADD goes on."""

import contextlib
import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.agreement import Agreement, until
from tests.by_hand import ByHand
from tests.node_support import SERVICES, Node, Pod
from tests.traffic_support import Pings, TcpStream

pytestmark = [pytest.mark.privileged, pytest.mark.long]

ORDERS = list(itertools.permutations(SERVICES))


@dataclass
class Pods:
    """Two pods of a node; `addresses` are the second one's."""

    node: Node
    one: Pod
    two: Pod
    addresses: list[str]

    @contextlib.contextmanager
    def talking(self) -> Iterator[list[TcpStream]]:
        """Let them talk for the block, by ping every 5 ms and by TCP, in both families; nothing may be lost."""
        with contextlib.ExitStack() as talk:
            pings = talk.enter_context(Pings(self.one, *self.addresses))
            yield [talk.enter_context(TcpStream(self.one, self.two, address)) for address in self.addresses]
        assert pings.lost == []

    def go_on(self, streams: list[TcpStream]) -> None:
        """Both connections make progress."""
        for stream in streams:
            stream.goes_on()

    def third_pod_works(self) -> None:
        """An ADD gets addresses of its own, and all of it can be taken down."""
        third = self.node.pod()
        assert not {*self.node.add(third).addresses} & {*self.addresses}
        assert all(third.ping(address) for address in self.addresses)
        for pod in (self.one, self.two, third):
            self.node.delete(pod)
        assert self.node.leftovers() == []


@pytest.fixture
def pods(node: Node) -> Pods:
    one, two = node.pod(), node.pod()
    node.add(one)
    return Pods(node, one, two, node.add(two).addresses)


def story(node: Node, pods: Pods) -> list[Any]:
    """Return all that the endpoint service tells of each endpoint, but for what a restart itself adds."""
    told = []
    for pod in (pods.one, pods.two):
        endpoint = ByHand(Agreement(node)).get(pod)
        log = [entry.message for entry in endpoint.log if not entry.message.startswith("restored: ")]
        endpoint.ClearField("log")
        endpoint.ClearField("queue")
        # How long it took is on disk with the endpoint's next change.
        phases = [one for one in endpoint.timeline.phases if one.name != "publish"]
        del endpoint.timeline.phases[:]
        endpoint.timeline.phases.extend(phases)
        told.append((endpoint, log))
    return told


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_services_killed_and_started_in_any_order_lose_no_packet_and_forget_nothing(
    node: Node, pods: Pods, order: tuple[str, ...]
):
    agreement = Agreement(node)
    ByHand(agreement).configure(pods.two, debug=True)
    ByHand(agreement).renew(pods.two, 2)
    agreement.reached()
    before = story(node, pods)
    with pods.talking() as streams:
        for service in order:
            node.kill(service)
            pods.go_on(streams)
        for service in order:
            node.launch(service)
            until(functools.partial(agreement.answers, service), lambda: "no answer")
            pods.go_on(streams)
        agreement.reached()
        pods.go_on(streams)

    after = story(node, pods)
    assert after == before
    assert [(endpoint.counters.regenerations, dict(endpoint.options)) for endpoint, _ in after] == [
        (1, {}),
        (3, {"debug": True}),
    ]
    pods.third_pod_works()


@pytest.mark.parametrize("service", SERVICES)
def test_one_service_killed_and_started_while_pods_talk_and_come(node: Node, pods: Pods, service: str):
    with pods.talking() as streams:
        node.kill(service)
        pods.go_on(streams)
        node.podlane("node", "up")
        guest = node.pod()
        node.add(guest)
        node.delete(guest)
        pods.go_on(streams)

    pods.third_pod_works()


def test_services_that_are_stopped_in_order_and_started_again_lose_no_packet(node: Node, pods: Pods):
    """An upgrade in place: `podlane node down`, another version, `podlane node up`."""
    agreement = Agreement(node)
    agreement.reached()  # an endpoint is published behind the answer to its ADD
    before = story(node, pods)
    with pods.talking() as streams:
        node.podlane("node", "down")
        pods.go_on(streams)
        node.podlane("node", "up")
        agreement.reached()
        pods.go_on(streams)

    assert story(node, pods) == before
    pods.third_pod_works()
