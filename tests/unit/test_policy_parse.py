"""Documents: what is accepted, and each mistake with its path and line."""

import json
import subprocess
import sys
from contextlib import suppress
from ipaddress import ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.endpoint.policy.entry import SCTP, TCP, UDP, Direction
from services.endpoint.policy.networkpolicy import (
    IPBlock,
    NamedPort,
    NamespaceDocument,
    NetworkPolicy,
    PodDocument,
    PodPeer,
    PolicyName,
    Port,
    Rule,
)
from services.endpoint.policy.parse import InvalidDocuments, parse
from services.endpoint.policy.selectors import LabelSelector, Operator, Requirement
from tests.policy_strategies import policies
from tests.policy_texts import policy, wrong

FULL = """\
# What kubectl get -o yaml prints, and every field of the API.
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: web.v1
  namespace: shop
  annotations: {kubectl.kubernetes.io/last-applied-configuration: "{}"}
  creationTimestamp: 2024-05-01T10:00:00Z
  generation: 3
  labels: {team: a}
  managedFields: [{manager: kubectl, operation: Apply}]
  ownerReferences: []
  finalizers: [a/b]
  resourceVersion: "123"
  uid: 6a0f
status: {}
spec:
  podSelector:
    matchLabels: {app: web}
    matchExpressions:
    - {key: tier, operator: NotIn, values: [b, a, a]}
    - {key: example.com/canary, operator: DoesNotExist}
  policyTypes: [Ingress, Egress]
  ingress:
  - from:
    - podSelector: {}
      namespaceSelector: {matchExpressions: [{key: team, operator: Exists, values: []}]}
    - ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}
    ports:
    - port: 8080
    - {protocol: UDP, port: 53, endPort: 54}
    - {protocol: SCTP, port: http}
    - {}
  egress:
  - to: [{ipBlock: {cidr: "2001:DB8::/32"}}]
"""


IN, NOT_IN, EXISTS, ABSENT = Operator.IN, Operator.NOT_IN, Operator.EXISTS, Operator.DOES_NOT_EXIST


def test_a_policy_with_every_field_is_read() -> None:
    found = parse(FULL)

    subject = LabelSelector(
        (
            Requirement("app", IN, ("web",)),
            Requirement("example.com/canary", ABSENT),
            Requirement("tier", NOT_IN, ("a", "b")),
        )
    )
    team = LabelSelector((Requirement("team", EXISTS),))
    block = IPBlock(ip_network("10.0.0.0/8"), (ip_network("10.1.0.0/16"),))
    ports = (Port(TCP, 8080), Port(UDP, 53, 54), Port(SCTP, "http"), Port(TCP))
    assert found.policies == (
        NetworkPolicy(
            PolicyName("shop", "web.v1"),
            subject,
            frozenset(Direction),
            (Rule((PodPeer(LabelSelector(), team), block), ports),),
            (Rule((IPBlock(ip_network("2001:db8::/32")),)),),
        ),
    )
    assert found.warnings == ()


def test_json_is_read_as_yaml_is() -> None:
    text = """{\t"apiVersion": "networking.k8s.io/v1",\r
\t"kind": "NetworkPolicy", "metadata": {"name": "web", "annotations": {"a": "\\u003c\\/\\n"}},
\t"spec": {"podSelector": {}, "ingress": [{"ports": [{"port": 80}]}]}}"""

    assert parse(text).policies == parse(policy("podSelector: {}\ningress: [{ports: [{port: 80}]}]")).policies


def test_lists_and_many_documents_are_read_in_order() -> None:
    one, other = policy("podSelector: {}"), policy("podSelector: {}").replace("web", "db")
    namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {team: a}}\n"
    listed = {"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": []}
    items = json.dumps({**listed, "items": [json.loads(json.dumps(_document("c"))), _document("d")]})

    found = parse(f"{one}---\n---\n# nothing\n---\n{namespace}---\n{other}...\n---\n{items}\n")

    assert [one.name.name for one in found.policies] == ["web", "db", "c", "d"]
    assert found.namespaces == (NamespaceDocument("shop", {"team": "a"}),)
    assert parse("") == parse("# nothing\n---\n---\nnull\n") == parse(json.dumps(listed))


def _document(name: str) -> dict[str, object]:
    head = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy"}
    return {**head, "metadata": {"name": name}, "spec": {"podSelector": {}}}


def test_a_pods_labels_and_named_ports_are_read_and_the_rest_of_it_is_left_alone() -> None:
    found = parse("""\
apiVersion: v1
kind: Pod
metadata: {name: web-0, namespace: shop, generateName: web-, labels: {app: web}}
spec:
  nodeName: n
  hostNetwork: true
  initContainers:
  - {name: sidecar, restartPolicy: Always, ports: [{name: metrics, containerPort: 9090}]}
  containers:
  - name: web
    image: web
    ports: [{name: http, containerPort: 8080, hostPort: 80, hostIP: ""}, {containerPort: 1, protocol: UDP}]
  - name: dns
    ports: [{name: dns, containerPort: 53, protocol: UDP}]
status: {podIP: 10.0.0.1}
---
{apiVersion: v1, kind: Pod, metadata: {name: bare}}
""")

    ports = {NamedPort("metrics", TCP, 9090), NamedPort("http", TCP, 8080), NamedPort("dns", UDP, 53)}
    assert found.pods == (
        PodDocument("shop", "web-0", {"app": "web"}, frozenset(ports), host_network=True),
        PodDocument("default", "bare"),
    )


@pytest.mark.parametrize("absent", ["", "\nlabels: null", "\nlabels:"])
def test_null_is_absent(absent: str) -> None:
    text = f"apiVersion: v1\nkind: Namespace\nmetadata:\n  name: shop{absent.replace(chr(10), chr(10) + '  ')}\nspec:\n"
    assert parse(text).namespaces == (NamespaceDocument("shop"),)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: [", "line 2: while parsing a flow node did not find expected node content"),
        ("a: b\n c: d", "line 2: mapping values are not allowed in this context"),
        ("a: 1\nb: 2\na: 3", "line 3: field 'a' is there twice, first in line 1"),
        ("a: *b", "line 1: alias *b has no anchor before it"),
        ("a: &b\n  c: *b", "line 2: alias *b stands within what it stands for"),
        ("? [a]\n: b", "line 1: the key of a field must be a word, not a list or an object"),
        ("labels:\n  on: x", "line 2: the key on is a boolean in YAML: quote it"),
        ("a: b\x00", "line 1: not text that YAML may hold"),
        ("[" * 200, "line 1: more than 100 levels of nesting"),
        ("a: " + "[" * 100_000, "line 1: more than 100 levels of nesting"),
    ],
)
def test_what_is_no_yaml_is_named_with_its_line(text: str, problem: str) -> None:
    (found,) = wrong(text)
    assert found.startswith(problem)


def test_aliases_are_followed_but_not_into_ruin() -> None:
    shared = policy("podSelector: &all {matchLabels: {app: web}}\ningress: [{from: [{podSelector: *all}]}]")
    (found,) = parse(shared).policies
    assert found.ingress[0].peers == (PodPeer(found.pod_selector),)

    levels = "".join(f"- &l{level} [{', '.join([f'*l{level - 1}'] * 10)}]\n" for level in range(1, 12))
    (problem,) = wrong(f"- &l0 []\n{levels}")
    assert problem.endswith("more than 1,000,000 values, aliases written out")


@given(policies())
def test_what_is_generated_means_the_same_in_json_and_yaml(document: dict[str, object]) -> None:
    import yaml

    found = [parse(text).policies for text in (json.dumps(document), json.dumps(document, indent=1))]
    assert found == [parse(yaml.safe_dump(document)).policies] * 2


@settings(max_examples=300)
@given(st.text(st.characters(codec="utf-8"), max_size=60) | st.text("abkind:-[]{}&*!?|>'\"#%@` \n\t0", max_size=60))
def test_no_text_makes_the_parser_fail_otherwise(text: str) -> None:
    for one in (text, policy(text)):
        with suppress(InvalidDocuments):
            parse(one)


def test_yaml_is_imported_only_when_a_text_is_read() -> None:
    """A node without policies doesn't pay for it."""
    code = (
        "import sys, services.endpoint.policy.parse as parser, services.endpoint.policy.resolve\n"
        "before = 'yaml' in sys.modules; parser.parse(''); print(before, 'yaml' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout.split() == ["False", "True"]
