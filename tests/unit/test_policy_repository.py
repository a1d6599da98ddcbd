"""What documents make of an endpoint, whose a document is, and what a change would do, in words."""

from ipaddress import ip_address

import pytest

from services.common.errors import Exhausted, FailedPrecondition
from services.common.model import Pod
from services.endpoint.policy import overflow
from services.endpoint.policy.desired import EVERYBODY, EndpointPolicy, Grant, Origin, Side
from services.endpoint.policy.diff import Opened, difference, forbidden
from services.endpoint.policy.document import documents_of
from services.endpoint.policy.entry import Direction
from services.endpoint.policy.labels import NO_LABELS, LabelFilter
from services.endpoint.policy.networkpolicy import NamedPort, PolicyName
from services.endpoint.policy.parse import parse
from services.endpoint.policy.ports import ALL_PORTS, PortRange, Ports
from services.endpoint.policy.prefixes import PrefixTable
from services.endpoint.policy.repository import Repository, Stored

DOCUMENTS = """
apiVersion: v1
kind: Pod
metadata: {name: web-0, namespace: shop, labels: {app: web, job-name: x}}
spec: {containers: [{name: main, ports: [{name: http, containerPort: 8080}]}]}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {team: a}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec: {podSelector: {}}
"""
STORED = [Stored(one, "", 0.0) for one in documents_of(parse(DOCUMENTS))]
POD = Pod("shop", "web-0", "")
KEEP = LabelFilter()


def test_the_pods_document_counts_and_its_namespaces_labels_and_over_them_the_operators():
    who = Repository(STORED).who(POD, {"app": "other"}, {"tier": "front"}, KEEP)

    assert str(who.labels) == (
        "k8s:app=web,k8s:io.cilium.k8s.namespace.labels.team=a,k8s:io.kubernetes.pod.namespace=shop,k8s:tier=front"
    )
    assert who.named_ports == {NamedPort("http", 6, 8080)}


@pytest.mark.parametrize(
    ("own", "changes", "known"),
    [({}, {}, False), ({"app": "web"}, {}, True), ({}, {"app": "web"}, True), ({}, {"app": None}, True)],
)
def test_labels_are_known_as_soon_as_somebody_has_said_something(own, changes, known):
    """Having none is something else than not being known."""
    who = Repository().who(Pod("shop", "other", ""), own, changes, KEEP)

    assert (who.labels != NO_LABELS) is known


def test_a_pod_without_a_name_has_no_document_and_is_in_default():
    who = Repository(STORED).who(Pod("", "", ""), {"app": "x"}, {}, KEEP)

    assert who.labels["k8s:io.kubernetes.pod.namespace"] == "default"
    assert not who.named_ports


def test_a_change_makes_another_repository_and_what_is_in_both_is_put():
    before = Repository(STORED)
    names = [one.name for one in before]

    after = before.with_changes([Stored(STORED[0].document, "a.yaml", 1.0)], names)

    assert [str(one.name) for one in after] == [str(STORED[0].name)]
    assert after.of_source("a.yaml") == [STORED[0].name]
    assert [one.name for one in before] == names


def test_a_document_is_one_owners():
    repository = Repository([Stored(STORED[0].document, "a.yaml", 0.0), STORED[1]])

    repository.check_owner([STORED[0].name], "a.yaml")
    repository.check_owner([STORED[1].name, STORED[2].name], "")
    with pytest.raises(FailedPrecondition, match=r"is in the watched file a\.yaml"):
        repository.check_owner([STORED[0].name], "")
    with pytest.raises(FailedPrecondition, match=r"was applied: `podlane policy delete \S+`"):
        repository.check_owner([STORED[1].name], "a.yaml")


WEB = Origin(PolicyName("shop", "web"), "ingress[0]")
HTTP = Ports.of([PortRange(6, 80, 80)])
ISOLATED = EndpointPolicy(ingress=Side((PolicyName("shop", "web"),), (Grant(WEB, frozenset({300}), HTTP),)))


def test_a_difference_has_the_entries_with_their_rules_and_the_isolation():
    found = difference(ISOLATED, EndpointPolicy())

    assert found.added == ("ingress from identity 300, 80/TCP: policy shop/web, ingress[0]",)
    assert found.removed == ("ingress from any, any protocol: no policy isolates it",)
    assert found.isolation[Direction.INGRESS] == ("open", "isolated by policy shop/web")
    assert found.isolation[Direction.EGRESS] == ("open", "open")
    assert found
    assert not difference(ISOLATED, ISOLATED)


def test_flows_that_a_policy_forbids_are_found_by_their_first_packet():
    address = ip_address("10.0.0.9")
    flows = [
        Opened(Direction.INGRESS, 300, address, 6, 80),
        Opened(Direction.INGRESS, 300, address, 6, 81),
        Opened(Direction.INGRESS, 301, address, 6, 80),
        Opened(Direction.EGRESS, 301, address, 6, 81),
        Opened(Direction.INGRESS, 300, address, 1, None),
    ]

    assert forbidden(ISOLATED, PrefixTable(10), flows) == [1, 2, 4]


def test_a_map_must_hold_the_entries_before_and_after_at_once():
    many = EndpointPolicy(ingress=Side((), (Grant(WEB, frozenset(range(300, 308)), HTTP),)))
    other = EndpointPolicy(ingress=Side((), (Grant(WEB, frozenset(range(400, 408)), HTTP),)))

    overflow.check_transition(many, many, 9, "endpoint 7")
    overflow.check_transition(many, other, 17, "endpoint 7")
    with pytest.raises(Exhausted, match=r"endpoint 7 must hold 17 entries.* it holds 16: change it in two steps"):
        overflow.check_transition(many, other, 16, "endpoint 7")


def test_what_everybody_may_is_no_entry_for_each():
    everybody = EndpointPolicy(ingress=Side((), (Grant(WEB, EVERYBODY, ALL_PORTS),)))

    assert difference(everybody, EndpointPolicy()).added == ()
