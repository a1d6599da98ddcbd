"""Documents as they are kept: what is written is read back as the same value, by both readers."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.endpoint.policy.document import Document, DocumentKind, DocumentName, from_json, name_of, to_dict, to_json
from services.endpoint.policy.entry import PROTOCOLS
from services.endpoint.policy.labels import LabelFilter
from services.endpoint.policy.networkpolicy import (
    Documents,
    NamedPort,
    NamespaceDocument,
    NetworkPolicy,
    PodDocument,
)
from services.endpoint.policy.parse import InvalidDocuments, parse
from services.endpoint.policy.selectors import Operator
from tests.examples import examples
from tests.policy_strategies import labels, policies

NAMES = st.sampled_from(("a", "web-0", "web.v1", "x" * 63))
LABELS = labels(("app", "example.com/tier", "team"), ("a", "B_1.x", ""))
NAMED_PORTS = st.builds(
    NamedPort, st.sampled_from(("http", "dns")), st.sampled_from(sorted(PROTOCOLS.values())), st.integers(1, 65535)
)
PODS = st.builds(
    PodDocument,
    namespace=st.sampled_from(("default", "shop")),
    name=NAMES,
    labels=LABELS,
    named_ports=st.frozensets(NAMED_PORTS, max_size=3),
    host_network=st.booleans(),
)
NAMESPACES = st.builds(NamespaceDocument, st.sampled_from(("default", "shop")), LABELS)


def all_of(found: Documents) -> tuple[Document, ...]:
    """Return all documents of a text."""
    return (*found.policies, *found.namespaces, *found.pods)


def only(document: dict[str, Any]) -> Document:
    """Return the value of a document."""
    (value,) = all_of(parse(json.dumps(document)))
    return value


def policy(**spec: Any) -> dict[str, Any]:
    """Return a policy with a spec."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": spec,
    }


def agree_on(value: Document) -> None:
    """Check that both readers give back what was written, and that writing it again changes nothing."""
    text = to_json(value)
    assert from_json(text) == value
    assert all_of(parse(text)) == (value,)
    assert to_json(from_json(text)) == text


@settings(deadline=None, max_examples=examples(80))
@given(policies("web"))
def test_a_policy_comes_back_as_it_was(document: dict[str, Any]):
    agree_on(only(document))


@settings(deadline=None)
@given(st.one_of(PODS, NAMESPACES))
def test_a_pod_and_a_namespace_come_back_as_they_were(value: Document):
    agree_on(value)


def test_every_field_of_a_policy_is_written_as_kubernetes_has_it():
    document = policy(
        podSelector={
            "matchLabels": {"app": "web"},
            "matchExpressions": [
                {"key": "tier", "operator": "NotIn", "values": ["a", "b"]},
                {"key": "x", "operator": "DoesNotExist"},
            ],
        },
        policyTypes=["Ingress", "Egress"],
        ingress=[
            {
                "from": [
                    {
                        "podSelector": {},
                        "namespaceSelector": {"matchExpressions": [{"key": "t", "operator": "Exists"}]},
                    },
                    {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.2.0.0/16", "10.1.0.0/16"]}},
                ],
                "ports": [
                    {"protocol": "TCP", "port": 8080},
                    {"protocol": "UDP", "port": 53, "endPort": 54},
                    {"protocol": "SCTP", "port": "http"},
                    {"protocol": "TCP"},
                ],
            },
            {},
        ],
        egress=[{"to": [{"ipBlock": {"cidr": "2001:db8::/32"}}]}],
    )

    assert to_dict(only(document)) == document


def test_what_is_filled_in_is_written_and_what_is_empty_is_left_out():
    document = policy(ingress=[{"from": [], "ports": [{}]}], egress=[])

    assert to_dict(only(document))["spec"] == {
        "podSelector": {},
        "policyTypes": ["Ingress"],
        "ingress": [{"ports": [{"protocol": "TCP"}]}],
    }


def test_documents_that_mean_the_same_are_the_same_text():
    one = policy(podSelector={"matchLabels": {"b": "2", "a": "1"}}, policyTypes=["Egress", "Ingress"])
    other = policy(
        podSelector={
            "matchExpressions": [
                {"key": "a", "operator": "In", "values": ["1"]},
                {"key": "b", "operator": "In", "values": ["2", "2"]},
            ]
        },
        ingress=[],
        policyTypes=["Ingress", "Egress"],
    )

    assert to_json(only(one)) == to_json(only(other))


def test_a_selector_that_asks_for_two_values_of_a_label_keeps_both():
    value = only(
        policy(
            podSelector={
                "matchLabels": {"app": "a"},
                "matchExpressions": [{"key": "app", "operator": "In", "values": ["b"]}],
            }
        )
    )

    assert isinstance(value, NetworkPolicy)
    assert [(one.operator, one.values) for one in value.pod_selector.requirements] == [
        (Operator.IN, ("a",)),
        (Operator.IN, ("b",)),
    ]
    agree_on(value)


def test_of_a_pod_only_what_policy_needs_is_kept():
    value = only(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "web-0", "labels": {"app": "web"}, "annotations": {"a": "b"}, "uid": "1"},
            "spec": {"nodeName": "x", "containers": [{"image": "y", "ports": [{"containerPort": 80, "name": "http"}]}]},
            "status": {"phase": "Running"},
        }
    )

    assert to_dict(value) == {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web-0", "namespace": "default", "labels": {"app": "web"}},
        "spec": {"containers": [{"ports": [{"name": "http", "containerPort": 80, "protocol": "TCP"}]}]},
    }


def test_names_are_those_of_errors_and_sort_by_kind_namespace_and_name():
    names = [
        name_of(NamespaceDocument("shop")),
        name_of(PodDocument("shop", "web-0")),
        name_of(only(policy())),
        name_of(PodDocument("default", "web-1")),
    ]

    assert [str(one) for one in sorted(names)] == [
        "NetworkPolicy shop/web",
        "Namespace shop",
        "Pod default/web-1",
        "Pod shop/web-0",
    ]
    assert names[0] == DocumentName(DocumentKind.NAMESPACE, "", "shop")
    assert [int(one) for one in DocumentKind] == [1, 2, 3]


def test_a_stored_policy_that_selects_by_a_label_which_is_left_out_by_now_is_refused():
    text = to_json(only(policy(podSelector={"matchLabels": {"app": "web"}})))

    with pytest.raises(InvalidDocuments, match=r"^row 7: .*NetworkPolicy shop/web: .*no selector sees the label app"):
        from_json(text, LabelFilter(("!app",)), "row 7")


def test_a_text_of_two_documents_is_not_one():
    one = to_dict(NamespaceDocument("a"))
    both = {"apiVersion": "v1", "kind": "List", "items": [one, to_dict(NamespaceDocument("b"))]}

    with pytest.raises(ValueError, match="row 7: 2 documents instead of one"):
        from_json(json.dumps(both), source="row 7")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "levels of nesting"),
        ("[" * 200 + "]" * 200, "levels of nesting"),
        ("null", "must be an object, not null"),
        ('{"apiVersion": "v1", "kind": 1.5}', "must be a string, not the fraction 1.5"),
        ('{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": true}}', "must be a string, not the boolean true"),
        ('{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": 7}}', "must be a string, not the number 7"),
    ],
)
def test_a_damaged_text_is_refused_in_words(text: str, named: str):
    with pytest.raises(InvalidDocuments, match=named):
        from_json(text)
