"""Explanations: they decide as the datapath does, and name the rule."""

from ipaddress import ip_address

import pytest
from hypothesis import HealthCheck, given, settings

from services.endpoint.policy.entry import TCP, Direction
from services.endpoint.policy.explain import Packet, Party, decide, explain
from services.endpoint.policy.identity import Reserved
from services.endpoint.policy.labels import LabelFilter, identity_labels
from services.endpoint.policy.parse import parse
from services.endpoint.policy.resolve import Resolver
from services.endpoint.policy.settings import InitPolicy, Settings
from tests.examples import examples
from tests.policy_model import PROTOCOLS, Cluster
from tests.policy_oracle import End, Node, Pod, Probe, World, address_of, allowed, probes
from tests.policy_strategies import OUTSIDE, PORTS, worlds

pytestmark = pytest.mark.long

DOCUMENTS = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: client}}}]
    ports: [{port: 8080}, {port: 53, protocol: UDP}]
  - from: [{ipBlock: {cidr: 198.51.100.0/24, except: [198.51.100.7/32]}}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: out, namespace: shop}
spec:
  podSelector: {matchLabels: {app: client}}
  policyTypes: [Egress]
  egress: [{ports: [{port: 8000, endPort: 8191}]}]
"""


class Shop:
    """Two pods of a shop, and whoever else there is."""

    def __init__(self) -> None:
        """Resolve it."""
        labels = [identity_labels({"app": app}, "shop", {}, LabelFilter()) for app in ("web", "client", "other")]
        self.resolver = Resolver()
        for number, of in enumerate(labels, 300):
            self.resolver.put_identity(number, of)
        for endpoint in (1, 2):
            self.resolver.put_endpoint(endpoint, 299 + endpoint)
        for policy in parse(DOCUMENTS).policies:
            self.resolver.put_policy(policy)
        self.resolver.settle()
        self.web = Party("shop/web", 300, ip_address("10.0.0.1"), None, self.resolver.desired(1))
        self.client = Party("shop/client", 301, ip_address("10.0.0.2"), None, self.resolver.desired(2))
        self.far = Party("shop/far", 302, ip_address("10.9.0.3"), labels[2])

    def lines(self, source: Party, destination: Party, protocol: int = TCP, port: int | None = 8080) -> list[str]:
        """Explain."""
        return str(explain(source, destination, protocol, port, self.resolver.prefixes())).splitlines()


def test_what_is_allowed_is_explained_by_entry_and_rule_on_each_side() -> None:
    shop = Shop()
    assert shop.lines(shop.client, shop.web) == [
        "shop/client 10.0.0.2 (identity 301) → shop/web 10.0.0.1 (identity 300), 8080/TCP: allowed",
        "  egress of shop/client: allowed by the entry 'egress to any, 8064-8191/TCP': policy shop/out, egress[0]",
        (
            "  ingress of shop/web: allowed by the entry 'ingress from identity 301, 8080/TCP': "
            "policy shop/web, ingress[0].from[0] (podSelector app=client)"
        ),
    ]


def test_what_is_denied_says_who_isolates_and_what_the_peer_may() -> None:
    shop = Shop()
    found = shop.lines(shop.client, shop.web, port=80)
    assert found[0].endswith(", 80/TCP: denied")
    assert found[1] == (
        "  egress of shop/client: denied, no entry matches: isolated by policy shop/out, and this peer may use only "
        "8000-8191/TCP (policy shop/out, egress[0])"
    )
    assert found[2] == (
        "  ingress of shop/web: denied, no entry matches: isolated by policy shop/web, and this peer may use only "
        "8080/TCP, 53/UDP (policy shop/web, ingress[0].from[0] (podSelector app=client))"
    )
    assert shop.lines(shop.far, shop.web)[2] == (
        "  ingress of shop/web: denied, no entry matches: isolated by policy shop/web, "
        "and no rule names this peer by its labels, k8s:app=other,k8s:io.kubernetes.pod.namespace=shop"
    )


def test_a_peer_on_another_node_is_not_decided_here() -> None:
    shop = Shop()
    found = shop.lines(shop.client, shop.far)
    assert found[0].startswith("shop/client 10.0.0.2 (identity 301) → shop/far 10.9.0.3 (identity 302)")
    assert found[0].endswith("allowed")
    assert found[2] == "  ingress of shop/far: not decided here: it is no endpoint of this node"


def test_an_address_outside_is_explained_by_its_block() -> None:
    shop = Shop()
    inside, excepted = (Party("client.example", Reserved.WORLD, ip_address(f"198.51.100.{host}")) for host in (6, 7))
    found = shop.lines(inside, shop.web)
    assert found[0].startswith("client.example 198.51.100.6 (reserved:world) → shop/web")
    assert found[2].endswith("policy shop/web, ingress[1].from[0] (ipBlock 198.51.100.0/24 except 198.51.100.7/32)")
    assert shop.lines(excepted, shop.web)[0].endswith("denied")
    assert shop.lines(excepted, shop.web)[2].endswith("and no rule has an ipBlock with 198.51.100.7")
    assert shop.lines(inside, shop.web, protocol=1, port=None)[0].endswith("ICMP: allowed")


def test_a_block_that_a_peer_lies_in_is_named_with_the_ports_that_it_may_use() -> None:
    shop = Shop()
    text = DOCUMENTS.split("---", maxsplit=1)[0].replace(
        "198.51.100.7/32]}}]", "198.51.100.7/32]}}]\n    ports: [{port: 443}]"
    )
    (policy,) = parse(text).policies
    shop.resolver.put_policy(policy)
    shop.resolver.settle()
    web = Party("shop/web", 300, ip_address("10.0.0.1"), None, shop.resolver.desired(1))

    found = shop.lines(Party("198.51.100.6", Reserved.WORLD, ip_address("198.51.100.6")), web)

    assert found[0].startswith("198.51.100.6 (reserved:world) → ")
    assert found[2].endswith(
        "and this peer may use only 443/TCP "
        "(policy shop/web, ingress[1].from[0] (ipBlock 198.51.100.0/24 except 198.51.100.7/32))"
    )


def test_what_no_policy_isolates_and_what_a_setting_allows_says_so() -> None:
    shop = Shop()
    assert shop.lines(shop.web, shop.far)[1] == (
        "  egress of shop/web: allowed by the entry 'egress to any, any protocol': no policy isolates it"
    )
    assert shop.lines(Party("node", Reserved.HOST), shop.web, 1, None)[2] == (
        "  ingress of shop/web: allowed by the entry 'ingress from identity 1, any protocol': "
        "the pod's own node always reaches it (a setting)"
    )


def test_a_pod_reaches_itself() -> None:
    shop = Shop()
    (line,) = shop.lines(shop.web, shop.web)
    assert line.endswith("→ itself, 8080/TCP: allowed: it does not leave the pod, and no policy may forbid it")


def test_an_endpoint_without_known_labels_says_so() -> None:
    resolver = Resolver(Settings(init_policy=InitPolicy.DENY))
    resolver.put_endpoint(1, Reserved.INIT)
    resolver.settle()
    new = Party("shop/new", Reserved.INIT, None, None, resolver.desired(1))

    found = explain(Party("world", Reserved.WORLD), new, TCP, 80, resolver.prefixes())

    assert not found.allowed
    assert "its labels are not known yet" in found.lines[2]


@settings(max_examples=examples(30), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(worlds())
def test_an_explanation_is_what_the_datapath_does_and_names_a_rule_when_one_allows(world: World) -> None:
    cluster = Cluster(world)
    for probe in list(probes(world, OUTSIDE, PORTS))[::7]:
        decisions = []
        if isinstance(probe.source, Pod):
            decisions.append(_decide(cluster, Direction.EGRESS, probe, probe.source))
        if isinstance(probe.destination, Pod):
            decisions.append(_decide(cluster, Direction.INGRESS, probe, probe.destination))
        assert all(decisions) == cluster.allowed(probe) == allowed(world, probe)


def _decide(cluster: Cluster, way: Direction, probe: Probe, here: Pod) -> bool:
    there: End = probe.destination if way is Direction.EGRESS else probe.source
    resolver, policy = cluster.resolvers[here.node], cluster.policies[here]
    identity = Reserved.WORLD
    if isinstance(there, Node):
        identity = Reserved.HOST if there.name == here.node else Reserved.REMOTE_NODE
    number = cluster.numbers[there] if isinstance(there, Pod) else int(identity)
    cidr = resolver.prefixes().lookup(ip_address(address_of(there, probe.version) or ""))
    decision = decide(policy, way, Packet(number, cidr, PROTOCOLS[probe.protocol], probe.port))
    assert decision.allowed == bool(decision.origins) == (decision.entry is not None)
    if decision.entry is not None:
        assert decision.entry in policy.entries()
        assert set(policy.origins(decision.entry)) & set(decision.origins)
    return decision.allowed
