"""No gap at start: a pod's first packet, in either direction, meets its policy.

Somebody sends to the pod's address, and somebody in the pod sends out, without a pause from before its ADD on. Where
policy forbids it not one packet comes through; where there is no policy they do, which shows that they were sent.
"""

import functools
import json
import select
import socket
import threading
from collections.abc import Iterator
from typing import Any, Self

import pytest
from podlane.endpoint.v1 import policy_pb2 as pb

from tests.agreement import Agreement, until
from tests.netns_support import in_netns
from tests.node_support import Node, Pod

pytestmark = pytest.mark.privileged

PORT, TIMES = 4242, 5


@pytest.fixture
def node() -> Iterator[Node]:
    """One node."""
    with Node() as node:
        yield node


class Sender:
    """Datagrams from a pod to an address, again and again, whether or not there is a way yet."""

    def __init__(self, pod: Pod, address: str) -> None:
        """Begin when entered."""
        self._socket = in_netns(pod.path, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self._to = (address, PORT)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send)
        self.accepted = 0
        """Datagrams that the sender's own kernel took."""

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._stop.set()
        self._thread.join()
        self._socket.close()

    def _send(self) -> None:
        while not self._stop.wait(0.0002):
            try:
                self._socket.sendto(b"x", self._to)
            except OSError:
                continue  # no address, no route, or dropped on its way out
            self.accepted += 1

    def goes_on(self) -> None:
        """Wait for twenty more."""
        target = self.accepted + 20
        until(lambda: self.accepted >= target, lambda: f"{self.accepted} sent to {self._to}")


def listener(pod: Pod) -> socket.socket:
    """Return a socket that hears what comes to a pod, whatever its address will be."""
    one = in_netns(pod.path, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    one.setblocking(False)
    one.bind(("", PORT))
    return one


def heard(one: socket.socket) -> int:
    """Return how many datagrams have come."""
    count = 0
    while True:
        try:
            one.recv(16)
        except BlockingIOError:
            return count
        count += 1


def documents(name: str, spec: dict[str, Any]) -> str:
    """Return a Pod with a label, and a policy for it."""
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "new"}}}
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "new"},
        "spec": {"podSelector": {"matchLabels": {"app": "new"}}, **spec},
    }
    return f"{json.dumps(pod)}\n---\n{json.dumps(policy)}"


@pytest.mark.parametrize("closed", [True, False], ids=["policy forbids", "policy allows"])
def test_what_is_sent_to_a_new_pod_meets_its_policy(node: Node, closed: bool) -> None:
    agreement, other = Agreement(node), node.pod()
    node.add(other)
    rules: list[Any] = [] if closed else [{}]
    text = documents("new", {"ingress": rules})
    agreement.call("policy", "ApplyPolicies", pb.ApplyPoliciesRequest(text=text))
    came = 0
    for number in range(TIMES):
        pod = node.pod()
        pod.name = "new"
        with listener(pod) as hearing, Sender(other, f"10.44.0.{3 + number}") as sender:
            assert node.add(pod).addresses[0] == f"10.44.0.{3 + number}"
            sender.goes_on()
            if not closed:
                until(functools.partial(has_come, hearing), lambda: "nothing came")
            came += heard(hearing)
            node.delete(pod)

    assert (came == 0) is closed


@pytest.mark.parametrize("closed", [True, False], ids=["policy forbids", "policy allows"])
def test_what_a_new_pod_sends_meets_its_policy(node: Node, closed: bool) -> None:
    agreement, other = Agreement(node), node.pod()
    address = node.add(other).addresses[0]
    text = documents("new", {"policyTypes": ["Egress"], "egress": [] if closed else [{}]})
    agreement.call("policy", "ApplyPolicies", pb.ApplyPoliciesRequest(text=text))
    with listener(other) as hearing:
        for _ in range(TIMES):
            pod = node.pod()
            pod.name = "new"
            with Sender(pod, address) as sender:
                node.add(pod)
                sender.goes_on()
                if not closed:
                    until(lambda: has_come(hearing), lambda: "nothing came")
                node.delete(pod)
        came = heard(hearing)

    assert (came == 0) is closed


def has_come(one: socket.socket) -> bool:
    """Return whether a datagram waits."""
    return bool(select.select([one], [], [], 0.0)[0])
