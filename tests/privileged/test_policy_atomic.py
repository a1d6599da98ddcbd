"""A change of policy is atomic from a packet's view.

At no instant is a flow dropped that the policies before and after both allow, or one let through that both forbid. So
policies change back and forth while datagrams are sent without a pause: each with a flow of its own, so that nothing is
decided but by policy as it is at that instant. All that both versions allow arrive, and none that both forbid.
"""

import json
import socket
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Self

import pytest
from podlane.common.v1 import types_pb2 as types
from podlane.endpoint.v1 import endpoint_pb2
from podlane.endpoint.v1 import policy_pb2 as pb
from podlane.loader.v1 import loader_pb2

from tests.agreement import Agreement, until
from tests.netns_support import in_netns
from tests.node_support import Node, Pod
from tests.traffic_support import TcpStream

pytestmark = pytest.mark.privileged

ALLOWED, DENIED = 8080, 9090
CHANGES = 60


def policy(*rules: dict[str, Any], name: str = "web") -> dict[str, Any]:
    """Return a policy for the pods of app web."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name},
        "spec": {"podSelector": {"matchLabels": {"app": "web"}}, "ingress": list(rules)},
    }


def ports(*ranges: tuple[int, int]) -> list[dict[str, Any]]:
    """Return ports of UDP and TCP."""
    return [
        {"protocol": protocol, "port": first, "endPort": last} for first, last in ranges for protocol in ("UDP", "TCP")
    ]


CLIENTS = {"podSelector": {"matchLabels": {"app": "client"}}}
EVERYBODY = {"ipBlock": {"cidr": "0.0.0.0/0"}}, {"ipBlock": {"cidr": "::/0"}}
AROUND = {"ipBlock": {"cidr": "10.44.0.0/24", "except": ["10.44.0.128/25"]}}, {"ipBlock": {"cidr": "fd00:44::/112"}}
ELSEWHERE = {"ipBlock": {"cidr": "10.44.0.0/28", "except": ["10.44.0.9/32"]}}, {"ipBlock": {"cidr": "fd00:44::/124"}}

VERSIONS: Sequence[tuple[str, list[list[dict[str, Any]]]]] = (
    # All of them allow ALLOWED from the client, and none DENIED; each pair by other entries.
    (
        "ranges that split otherwise",
        [[policy({"ports": ports((8080, 8080))})], [policy({"ports": ports((8000, 9089))})]],
    ),
    (
        "a peer by labels, and everybody",
        [[policy({"from": [CLIENTS], "ports": ports((8080, 8090))})], [policy({"ports": ports((1, 9000))})]],
    ),
    (
        "a prefix in another",
        [
            [policy({"from": [*EVERYBODY], "ports": ports((8080, 8080))})],
            [
                policy({"from": [*EVERYBODY], "ports": ports((8080, 8080))}),
                policy({"from": [*AROUND], "ports": ports((8080, 8080))}, name="around"),
                policy({"from": [*ELSEWHERE], "ports": ports((80, 80))}, name="elsewhere"),
            ],
        ],
    ),
    (
        "labels, and prefixes",
        [
            [policy({"from": [CLIENTS], "ports": ports((8080, 8080))})],
            [policy({"from": [*AROUND], "ports": ports((8080, 8080))})],
        ],
    ),
)


class Datagrams:
    """Numbered datagrams from one pod to another, each from a port of its own, for the block."""

    def __init__(self, source: Pod, target: Pod, address: str, port: int) -> None:
        """Name the ends."""
        self._family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._source, self._to = source, (address, port)
        self._hearing = in_netns(target.path, lambda: socket.socket(self._family, socket.SOCK_DGRAM))
        self._hearing.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self._hearing.bind((address, port))
        self._hearing.settimeout(0.2)
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._send), threading.Thread(target=self._hear)]
        self.sent = 0
        self.heard: set[int] = set()

    def __enter__(self) -> Self:
        """Begin."""
        for one in self._threads:
            one.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End; what is under way is heard first."""
        self._stop.set()
        for one in self._threads:
            one.join()
        self._hearing.close()

    @property
    def lost(self) -> set[int]:
        """Numbers that have not arrived, after the block."""
        return set(range(self.sent)) - self.heard

    def _send(self) -> None:
        # Few sockets and many ports: a namespace is entered once.
        ways = in_netns(self._source.path, lambda: [socket.socket(self._family, socket.SOCK_DGRAM) for _ in range(64)])
        while not self._stop.wait(0.0005):
            one = ways[self.sent % len(ways)]
            one.sendto(self.sent.to_bytes(8, "big"), self._to)
            self.sent += 1
            if self.sent % len(ways) == 0:
                for old in ways:
                    old.close()
                ways = in_netns(
                    self._source.path, lambda: [socket.socket(self._family, socket.SOCK_DGRAM) for _ in range(64)]
                )
        for one in ways:
            one.close()

    def _hear(self) -> None:
        while True:
            try:
                self.heard.add(int.from_bytes(self._hearing.recv(16), "big"))
            except TimeoutError:
                if self._stop.is_set():
                    return


class Site:
    """A node with a web pod, a client, and somebody whom nothing concerns."""

    def __init__(self, node: Node) -> None:
        """Make them, with labels."""
        self.agreement = Agreement(node)
        self.pods = {}
        self.addresses = {}
        for app in ("web", "client", "other"):
            pod = node.pod()
            pod.name = app
            self.addresses[app] = node.add(pod).addresses
            self.pods[app] = pod
        labels = [
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": app, "labels": {"app": app}}} for app in self.pods
        ]
        self.apply(labels)

    def apply(self, documents: Sequence[dict[str, Any]], gone: Sequence[str] = ()) -> None:
        """Put documents in force, and take policies away."""
        text = "\n---\n".join(map(json.dumps, documents))
        reply = self.agreement.call("policy", "ApplyPolicies", pb.ApplyPoliciesRequest(text=text))
        assert not reply.effect.failures, reply.effect.failures
        if gone:
            names = [pb.DocumentName(kind=pb.DOCUMENT_KIND_NETWORK_POLICY, name=name) for name in gone]
            self.agreement.call("policy", "DeletePolicies", pb.DeletePoliciesRequest(names=names))

    def drops(self) -> int:
        """Return how many packets policy has dropped."""
        entries = self.agreement.call("loader", "DumpMap", loader_pb2.DumpMapRequest(map="metrics")).entries
        return sum(one.metrics.packets for one in entries if one.metrics.reason == "policy")

    def switch(self, before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]) -> None:
        """Go from one version to another."""
        names = {one["metadata"]["name"] for one in after}
        self.apply(after, [one["metadata"]["name"] for one in before if one["metadata"]["name"] not in names])


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """One node for all of them."""
    with Node() as node:
        yield Site(node)


@pytest.mark.parametrize("versions", [one for _, one in VERSIONS], ids=[name for name, _ in VERSIONS])
def test_nothing_is_lost_that_both_allow_and_nothing_passes_that_both_forbid(
    site: Site, versions: list[list[dict[str, Any]]]
) -> None:
    web, client, addresses = site.pods["web"], site.pods["client"], site.addresses["web"]
    site.apply(versions[0])
    streams = [Datagrams(client, web, address, port) for address in addresses for port in (ALLOWED, DENIED)]
    with streams[0], streams[1], streams[2], streams[3]:
        before = versions[0]
        for number in range(CHANGES):
            after = versions[(number + 1) % 2]
            site.switch(before, after)
            before = after
        until(lambda: all(one.sent > 500 for one in streams), lambda: str([one.sent for one in streams]))

    assert [one.lost for one in streams if one._to[1] == ALLOWED] == [set(), set()]
    assert [one.heard for one in streams if one._to[1] == DENIED] == [set(), set()]
    site.switch(before, [])


def test_what_doesnt_concern_it_leaves_a_flow_alone(site: Site) -> None:
    """Others' labels, regenerations of both levels, policies for others; and a stream goes on through all of it."""
    web, client, addresses = site.pods["web"], site.pods["client"], site.addresses["web"]
    site.apply([policy({"from": [CLIENTS], "ports": ports((8080, 8080), (10000, 65535))})])
    streams = [Datagrams(client, web, address, ALLOWED) for address in addresses]
    with streams[0], streams[1], TcpStream(client, web, addresses[0]) as tcp:
        for number in range(CHANGES // 3):
            change = pb.LabelChange(key="release", value=f"r{number % 3}")
            selector = endpoint_pb2.EndpointSelector(pod=types.Pod(namespace="default", name="other"))
            request = pb.UpdateLabelsRequest(selector=selector, changes=[change])
            site.agreement.call("policy", "UpdateLabels", request)
            level = loader_pb2.RegenerationLevel.ValueType(1 + number % 2)
            site.agreement.call("endpoint", "RegenerateEndpoints", endpoint_pb2.RegenerateEndpointsRequest(level=level))
            tcp.goes_on()

    assert [one.lost for one in streams] == [set(), set()]
    site.switch([policy()], [])


@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
def test_a_connection_that_a_new_policy_forbids_is_cut_and_another_goes_on(site: Site, family: int) -> None:
    web, client, other = (site.pods[app] for app in ("web", "client", "other"))
    address = site.addresses["web"][family]
    with TcpStream(other, web, address) as cut, TcpStream(client, web, address) as kept:
        before = site.drops()
        site.apply([policy({"from": [CLIENTS]})])
        kept.goes_on()
        # Its opener's next packet, and TCP's attempts to send that again.
        until(lambda: site.drops() > before + 1, lambda: f"{site.drops() - before} packets were dropped")

        site.switch([policy()], [])
        cut.goes_on()  # the flow is picked up where it stood
        kept.goes_on()
