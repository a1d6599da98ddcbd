"""Generated policies on a real node: every kind of packet between all ends gets the oracle's answer.

The oracle (`policy_oracle.py`) reads the documents and knows nothing of identities, prefixes or maps. The node has them
by the way that people use: documents through PolicyService, labels, namespaces and named ports in them, too.
"""

import dataclasses
import json
import random
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from podlane.common.v1 import types_pb2 as types
from podlane.endpoint.v1 import endpoint_pb2
from podlane.endpoint.v1 import policy_pb2 as pb

from tests.agreement import PATIENCE, Agreement
from tests.examples import examples
from tests.netns_support import Netns
from tests.node_support import Node as RealNode
from tests.node_support import Pod as RealPod
from tests.node_support import run
from tests.policy_oracle import End, Node, Pod, Probe, World, address_of, probes, truth_table
from tests.policy_prober import Prober
from tests.policy_strategies import NAMESPACES, OUTSIDE, worlds

pytestmark = [pytest.mark.privileged, pytest.mark.long]

HERE = Node("a", ("192.0.2.10", "2001:db8:1::a"))
THERE = Node("b", ("192.0.2.11", "2001:db8:1::b"))
PODS = 5
TCP, UDP = (79, 80, 81, 8080, 65535), (53, 80)
PORTS: tuple[tuple[str, int | None], ...] = (
    *(("TCP", port) for port in TCP),
    *(("UDP", port) for port in UDP),
    ("ICMP", None),
)


class Site:
    """A node with pods, and behind it the world outside and another node."""

    def __init__(self, node: RealNode, outside: Netns) -> None:
        """Make the pods and the way out."""
        self.agreement = Agreement(node)
        self._applied: list[pb.DocumentName] = []
        self._node, self._outside = node, outside
        run(
            "ip",
            "-n",
            node.name,
            "link",
            "add",
            "uplink",
            "type",
            "veth",
            "peer",
            "name",
            "away",
            "netns",
            str(outside.path),
        )
        self._addresses(["ip", "-n", node.name], "uplink", ("192.0.2.10/24", "198.51.100.1/24", "2001:db8:1::a/32"))
        there = [one for end in (*OUTSIDE, THERE) for one in end.addresses]
        lengths = {"1": "/24", "2": "/32"}
        self._addresses(
            ["nsenter", f"--net={outside.path}", "ip"],
            "away",
            [f"{one}{lengths['2' if ':' in one else '1']}" for one in there],
        )
        outside.command("ip", "route", "add", "10.1.0.0/24", "via", "192.0.2.10")
        outside.command("ip", "-6", "route", "add", "fd00:1::/112", "via", "2001:db8:1::a")
        # A pod's namespace can't change, so there is one of each name in each.
        self.pods: dict[tuple[str, str], tuple[RealPod, tuple[str, ...]]] = {}
        for namespace in NAMESPACES:
            for number in range(1, PODS + 1):
                pod = node.pod()
                pod.namespace, pod.name = namespace, f"pod-{number}"
                self.pods[namespace, pod.name] = (pod, tuple(node.add(pod).addresses))

    @staticmethod
    def _addresses(ip: list[str], device: str, addresses: Any) -> None:
        for address in addresses:
            run(*ip, "addr", "add", address, "dev", device, "nodad")
        run(*ip, "link", "set", device, "up")

    def real(self, world: World) -> World:
        """Return a generated world with the addresses that its pods have here."""
        pods = [
            dataclasses.replace(one, addresses=self.pods[one.namespace, one.name][1], node="a") for one in world.pods
        ]
        return dataclasses.replace(world, pods=tuple(pods), nodes=(HERE, THERE))

    def apply(self, world: World) -> None:
        """Put the world's documents in force, and nothing else."""
        texts = [*map(json.dumps, world.policies), *map(json.dumps, documents(world))]
        reply = self.agreement.call("policy", "ApplyPolicies", pb.ApplyPoliciesRequest(text="\n---\n".join(texts)))
        names = [one.name for one in reply.documents]
        gone = [one for one in self._applied if one not in names]
        if gone:
            self.agreement.call("policy", "DeletePolicies", pb.DeletePoliciesRequest(names=gone))
        self._applied = names

    def places(self, world: World) -> dict[Any, str]:
        """Return where each end of the world is."""
        pods = {pod: self.pods[pod.namespace, pod.name][0].path for pod in world.pods}
        outside: dict[Any, str] = dict.fromkeys((*OUTSIDE, THERE), self._outside.path)
        return {**pods, **outside, HERE: f"/run/netns/{self._node.name}"}


def documents(world: World) -> Iterator[dict[str, Any]]:
    """Yield the Namespace and Pod documents of a world."""
    for name, labels in world.namespaces.items():
        yield {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": dict(labels)}}
    for pod in world.pods:
        ports = [
            {"name": name, "protocol": protocol, "containerPort": number}
            for name, (protocol, number) in pod.ports.items()
        ]
        yield {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": pod.name, "namespace": pod.namespace, "labels": dict(pod.labels)},
            "spec": {"containers": [{"name": "main", "ports": ports}]},
        }


@pytest.fixture(scope="module", params=["default", "reversed"])
def site(request: pytest.FixtureRequest) -> Iterator[tuple[Site, bool, bool]]:
    """A node with the defaults about its own traffic, and one with the opposite."""
    from_host, to_host = (True, False) if request.param == "default" else (False, True)
    wishes = {
        "endpoint": {"allow_from_host": from_host, "allow_to_host": to_host},
        "loader": {"masquerade": False},
    }
    with RealNode(ranges=("10.1.0.0/24", "fd00:1::/112"), settings=wishes) as node, Netns() as outside:
        yield Site(node, outside), from_host, to_host


@settings(
    max_examples=examples(9),
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(world=worlds())
def test_every_packet_gets_the_answer_that_the_documentation_gives(site: tuple[Site, bool, bool], world: World) -> None:
    here, from_host, to_host = site
    real = dataclasses.replace(here.real(world), allow_from_host=from_host, allow_to_host=to_host)
    here.apply(real)
    questions = list(probes(real, OUTSIDE, PORTS))

    with Prober(here.agreement, here.places(real), TCP, UDP) as prober:
        answers = prober.answers(questions)

    expected = truth_table(real, questions)
    wrong = [(probe, expected[probe], answers[probe]) for probe in questions if expected[probe] != answers[probe]]
    assert not wrong, wrong[:10]


_NUMBERS = {"TCP": 6, "UDP": 17, "SCTP": 132, "ICMP": 1}
_ICMPV6 = 58


def end(one: End, version: int) -> pb.PolicyEnd:
    """Return an end as people name it: a pod by its name, everybody else by an address."""
    if isinstance(one, Pod):
        pod = types.Pod(namespace=one.namespace, name=one.name)
        return pb.PolicyEnd(endpoint=endpoint_pb2.EndpointSelector(pod=pod))
    address = address_of(one, version)
    assert address is not None
    return pb.PolicyEnd(address=types.IpAddress(packed=ip_address(address).packed))


def explained(stub: Any, probe: Probe) -> pb.ExplainPolicyResponse:
    """Ask about one packet."""
    family = types.IP_FAMILY_IPV4 if probe.version == 4 else types.IP_FAMILY_IPV6
    icmp6 = probe.protocol == "ICMP" and probe.version == 6
    request = pb.ExplainPolicyRequest(
        to=end(probe.destination, probe.version),
        protocol=_ICMPV6 if icmp6 else _NUMBERS[probe.protocol],
        port=probe.port or 0,
        family=family,
        **{"from": end(probe.source, probe.version)},
    )
    reply: pb.ExplainPolicyResponse = stub.ExplainPolicy(request, timeout=PATIENCE)
    return reply


@settings(
    max_examples=examples(3),
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(world=worlds(), chosen=st.randoms(use_true_random=False))
def test_every_explanation_is_the_answer_and_the_programs_agree(
    site: tuple[Site, bool, bool], world: World, chosen: random.Random
) -> None:
    here, from_host, to_host = site
    real = dataclasses.replace(here.real(world), allow_from_host=from_host, allow_to_host=to_host)
    here.apply(real)
    questions = list(probes(real, OUTSIDE, (*PORTS, ("SCTP", 80))))
    asked = chosen.sample(questions, min(len(questions), 45))
    # What the sample may miss, and no socket of the other test sends.
    asked += chosen.sample([one for one in questions if one.protocol == "SCTP"], 10)
    expected = truth_table(real, asked)

    wrong = []
    with here.agreement.asking("policy") as stub:
        for probe in asked:
            told = explained(stub, probe)
            if told.allowed != expected[probe] or not told.HasField("probe") or not told.agrees:
                wrong.append((probe, expected[probe], told))

    assert not wrong, wrong[:3]
