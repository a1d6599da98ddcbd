"""A change of policy is atomic for a packet: what both versions allow always passes, what both deny never does.

Documents are applied, replaced and deleted under traffic, labels of a bystander change and programs are regenerated.
All versions let the client send to one port of the server and none to another; that is all that they have in common.
"""

import contextlib
import functools
import itertools
import json
import random
import select
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import pytest
from podlane.endpoint.v1 import endpoint_pb2
from podlane.endpoint.v1 import policy_pb2 as pb
from podlane.loader.v1 import loader_pb2

from tests.agreement import Agreement, until
from tests.by_hand import ByHand, attachment
from tests.netns_support import in_netns
from tests.node_support import Node, Pod
from tests.traffic_support import TcpStream

pytestmark = [pytest.mark.privileged, pytest.mark.long]

ALLOWED, DENIED = 5000, 7000
CHANGES = 300
_SO_RCVBUFFORCE = 33  # asm-generic/socket.h
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
Rule = dict[str, Any]


class Site:
    """A node with a client, a server and a bystander."""

    def __init__(self, node: Node) -> None:
        """Make the pods; documents give them their labels."""
        self.agreement = Agreement(node)
        self.by_hand = ByHand(self.agreement)
        self.client, self.server, self.bystander = (node.pod() for _ in range(3))
        self.addresses = {pod.name: node.add(pod).addresses for pod in (self.client, self.server, self.bystander)}
        self.apply(*(labelled(pod) for pod in (self.client, self.server, self.bystander)))

    def apply(self, *documents: dict[str, Any]) -> None:
        """Put documents in force."""
        text = "\n---\n".join(map(json.dumps, documents))
        reply = self.agreement.call("policy", "ApplyPolicies", pb.ApplyPoliciesRequest(text=text))
        assert list(reply.effect.failures) == []

    def delete(self, *names: str) -> None:
        """Delete policies."""
        kind = pb.DOCUMENT_KIND_NETWORK_POLICY
        documents = [pb.DocumentName(kind=kind, namespace="default", name=name) for name in names]
        reply = self.agreement.call("policy", "DeletePolicies", pb.DeletePoliciesRequest(names=documents))
        assert list(reply.effect.failures) == []

    def paint(self, pod: Pod, color: str) -> None:
        """Make a pod somebody else."""
        request = pb.UpdateLabelsRequest(
            selector=endpoint_pb2.EndpointSelector(attachment=attachment(pod)),
            changes=[pb.LabelChange(key="color", value=color)],
        )
        assert list(self.agreement.call("policy", "UpdateLabels", request).effect.failures) == []

    def dropped(self) -> int:
        """Return how many packets policy has dropped on their way to the server."""
        endpoint = self.by_hand.get(self.server).id
        entries = self.agreement.call("loader", "DumpMap", loader_pb2.DumpMapRequest(map="metrics")).entries
        return sum(
            one.metrics.packets
            for one in entries
            if one.metrics.reason == "policy" and one.metrics.endpoint_id == endpoint
        )


def labelled(pod: Pod) -> dict[str, Any]:
    """Return the document of a pod; its label `app` is its own name."""
    metadata = {"name": pod.name, "namespace": pod.namespace, "labels": {"app": pod.name}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata}


def policy(name: str, pod: Pod, **directions: Sequence[Rule]) -> dict[str, Any]:
    """Return a policy for one pod: `ingress` and `egress` are its rules."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": pod.namespace},
        "spec": {
            "podSelector": {"matchLabels": {"app": pod.name}},
            "policyTypes": [direction.capitalize() for direction in directions],
            **directions,
        },
    }


def ports(protocol: str, first: int, last: int) -> dict[str, Any]:
    """Return a range of ports."""
    return {"protocol": protocol, "port": first, "endPort": last}


def block(address: str, *excepts: str) -> dict[str, Any]:
    """Return an ipBlock."""
    return {"ipBlock": {"cidr": address, "except": list(excepts)} if excepts else {"cidr": address}}


def peers_with(pod: Pod, mine: Sequence[str], others: Sequence[str]) -> list[list[dict[str, Any]]]:
    """Return ways to name a pod: each includes it; `mine` are its addresses, `others` another one's."""
    v4, v6 = mine
    o4, o6 = others
    return [
        [],
        [{"podSelector": {"matchLabels": {"app": pod.name}}}],
        [{"podSelector": {}}],
        [{"namespaceSelector": {}}],
        [{"podSelector": {"matchExpressions": [{"key": "color", "operator": "NotIn", "values": ["red"]}]}}],
        [block("10.44.0.0/24"), block("fd00:44::/112")],
        [block("10.44.0.0/24", f"{o4}/32"), block("fd00:44::/112", f"{o6}/128")],
        [block(f"{v4}/32"), block(f"{v6}/128")],
        [block("10.44.0.0/16", "10.44.0.128/25", f"{o4}/32"), block("fd00:44::/64", f"{o6}/128")],
        [block("0.0.0.0/0", "10.44.0.128/25"), block("::/0", "fd00:44::8000/113")],
    ]


INGRESS_PORTS = [
    [ports("UDP", first, last), ports("TCP", lowest, 65535)]
    for (first, last), lowest in zip(
        [(5000, 5000), (4096, 6143), (4999, 5001), (1, 6999), (5000, 5007), (4001, 6998)],
        itertools.cycle([1, 1024, 32768, 30001]),
        strict=False,
    )
]
EGRESS_PORTS = [
    [ports("UDP", first, last), ports("TCP", 1, 65535)] for first, last in [(1, 7000), (5000, 7001), (4096, 8191)]
]


class Changing:
    """Goes from one version of the policies to another one."""

    def __init__(self, site: Site) -> None:
        """Put the first one in force."""
        self._site = site
        self._random = random.Random(4)
        client, server, bystander = (site.addresses[pod.name] for pod in (site.client, site.server, site.bystander))
        self._from = peers_with(site.client, client, bystander)
        self._to = peers_with(site.server, server, bystander)
        v4, v6 = client
        self._beside: list[list[dict[str, Any]]] = [
            [{"podSelector": {"matchLabels": {"color": "red"}}}],
            [block("10.44.0.0/24", f"{v4}/32"), block("fd00:44::/112", f"{v6}/128")],
            [block("10.44.0.0/16", "10.44.0.0/24"), block("fd00:44::/64", "fd00:44::/112")],
            [block("192.0.2.0/24")],
        ]
        self._colors = itertools.cycle(["red", "blue"])
        self._there: set[str] = set()
        self.ingress()
        self.egress()

    def ingress(self) -> None:
        """Have the server let the client in for another reason."""
        rule = {"from": self._pick(self._from), "ports": self._pick(INGRESS_PORTS)}
        self._site.apply(policy("in", self._site.server, ingress=[rule]))

    def egress(self) -> None:
        """Have the client be let out for another reason."""
        rule = {"to": self._pick(self._to), "ports": self._pick(EGRESS_PORTS)}
        self._site.apply(policy("out", self._site.client, egress=[rule]))

    def beside(self) -> None:
        """Let others use the port that is denied to the client, or no longer."""
        name = self._pick(["one", "two"])
        if name in self._there:
            self._there.remove(name)
            self._site.delete(name)
        else:
            self._there.add(name)
            rule = {"from": self._pick(self._beside), "ports": [ports("UDP", 6000, 8000)]}
            self._site.apply(policy(name, self._site.server, ingress=[rule]))

    def bystander(self) -> None:
        """Make the bystander somebody else."""
        self._site.paint(self._site.bystander, next(self._colors))

    def regeneration(self, level: int) -> None:
        """Regenerate an end of the flow."""
        pod = self._pick([self._site.client, self._site.server])
        assert [one.error for one in self._site.by_hand.renew(pod, level)] == [""]

    def change(self, number: int) -> None:
        """Make one change."""
        if number % 25 == 0:
            self.regeneration(1 + number // 25 % 2)
        else:
            weighed: list[Callable[[], None]] = [self.ingress] * 4 + [self.egress] * 2 + [self.beside] * 4
            self._pick([*weighed, self.bystander])()

    def _pick(self, choices: Sequence[Any]) -> Any:
        return self._random.choice(choices)


class Datagrams:
    """Numbered datagrams from the client to the server, to both ports by both families, and who has arrived."""

    def __init__(self, site: Site) -> None:
        """Name the ends."""
        self._client, self._server = site.client, site.server
        self._addresses = dict(zip((4, 6), site.addresses[site.server.name], strict=True))
        self._stopping = False
        self._receiving = True
        self._failures: list[BaseException] = []
        self.sent: dict[int, list[int]] = {ALLOWED: [], DENIED: []}
        """Numbers by port."""
        self.came: set[int] = set()

    def __enter__(self) -> Self:
        """Begin."""
        self._receivers = [
            in_netns(self._server.path, functools.partial(bound, FAMILIES[family], to))
            for family, address in self._addresses.items()
            for to in ((address, ALLOWED), (address, DENIED))
        ]
        loops: list[Callable[[], None]] = [self._receive, lambda: in_netns(self._client.path, self._send)]
        self._threads = [threading.Thread(target=self._guarded, args=(loop,)) for loop in loops]
        for thread in self._threads:
            thread.start()
        until(lambda: len(self.came) > 10 or self._failures, lambda: "no datagram arrives")
        return self

    def __exit__(self, *_: object) -> None:
        """End; whatever was sent and may pass is waited for."""
        self._stopping = True
        self._threads[1].join()
        with contextlib.suppress(AssertionError):
            until(lambda: not self.lost() or self._failures, str)
        self._receiving = False
        self._threads[0].join()
        for one in self._receivers:
            one.close()
        if self._failures:
            raise self._failures[0]

    def lost(self) -> list[int]:
        """Return which should have arrived and have not."""
        return [number for number in self.sent[ALLOWED] if number not in self.came]

    def passed(self) -> list[int]:
        """Return which should not have arrived and have."""
        return [number for number in self.sent[DENIED] if number in self.came]

    def _guarded(self, loop: Callable[[], None]) -> None:
        try:
            loop()
        except BaseException as error:  # noqa: BLE001 - carried to the test's thread
            self._failures.append(error)

    def _send(self) -> None:
        numbers = itertools.count()
        with contextlib.ExitStack() as stack:
            established = {
                family: stack.enter_context(socket.socket(FAMILIES[family], socket.SOCK_DGRAM)) for family in FAMILIES
            }
            while not self._stopping:
                for family, address in self._addresses.items():
                    for port in (ALLOWED, DENIED):
                        # A socket of its own is a port and so a flow of its own: no flow that is known lets it pass.
                        with socket.socket(FAMILIES[family], socket.SOCK_DGRAM) as fresh:
                            self._send_one(fresh, next(numbers), (address, port))
                    self._send_one(established[family], next(numbers), (address, ALLOWED))
                select.select([], [], [], 0.0002)

    def _send_one(self, one: socket.socket, number: int, to: tuple[str, int]) -> None:
        self.sent[to[1]].append(number)
        # Dropped on the sender's own way out it would be ENOBUFS here, and is missed there.
        with contextlib.suppress(OSError):
            one.sendto(number.to_bytes(8, "big"), to)

    def _receive(self) -> None:
        while self._receiving:
            for one in select.select(self._receivers, [], [], 0.05)[0]:
                with contextlib.suppress(BlockingIOError):
                    while data := one.recv(64):
                        self.came.add(int.from_bytes(data, "big"))


def bound(family: socket.AddressFamily, to: tuple[str, int]) -> socket.socket:
    """Return a socket that never blocks, with room for what comes while its reader waits for a CPU."""
    one = socket.socket(family, socket.SOCK_DGRAM)
    one.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 24)
    one.bind(to)
    one.setblocking(False)
    return one


@pytest.fixture
def site() -> Iterator[Site]:
    with Node() as node:
        yield Site(node)


def test_no_packet_sees_a_change_of_policy_half_done(site: Site) -> None:
    changing = Changing(site)
    server = site.addresses[site.server.name][0]
    before = site.dropped()

    with Datagrams(site) as datagrams, TcpStream(site.client, site.server, server) as stream:
        for number in range(1, CHANGES + 1):
            changing.change(number)
        stream.goes_on()

    sent = len(datagrams.sent[ALLOWED])
    lost, passed = datagrams.lost(), datagrams.passed()
    assert (lost, passed) == ([], []), (
        f"{len(lost)} of {sent} lost, {len(passed)} of {len(datagrams.sent[DENIED])} passed"
    )
    assert site.dropped() - before == len(datagrams.sent[DENIED])
