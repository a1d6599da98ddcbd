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
from services.endpoint.policy.labels import LabelFilter
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

NO_VALUE = "is no label value: at most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends"
NO_KEY = (
    "is no label key: 1-63 letters, digits, '-', '_' and '.', with a letter or digit at both ends, "
    "perhaps after a DNS name and '/'"
)
NO_PORT_NAME = (
    "is no port name: 1-15 lower-case letters, digits and single '-', at least one letter, "
    "with a letter or digit at both ends"
)
NO_DNS_NAME = (
    "is no name: 1-253 lower-case letters, digits, '-' and '.', with a letter or digit at both ends and around each '.'"
)
NO_DNS_LABEL = "is no name: 1-63 lower-case letters, digits and '-', with a letter or digit at both ends"
NO_CIDR = "is no CIDR: an address and a prefix length, as 10.0.0.0/8 or 2001:db8::/32"
NO_KIND = "is nothing that policy is made of: NetworkPolicy, Namespace, Pod, List"
NOT_SEEN = (
    "no selector sees the label pod-template-hash, because it is left out of identities: see the setting for labels"
)
METADATA = (
    "annotations, creationTimestamp, deletionGracePeriodSeconds, deletionTimestamp, finalizers, generateName, "
    "generation, labels, managedFields, name, namespace, ownerReferences, resourceVersion, selfLink, uid"
)

IN, NOT_IN, EXISTS, ABSENT = Operator.IN, Operator.NOT_IN, Operator.EXISTS, Operator.DOES_NOT_EXIST


def wrong(text: str, labels: LabelFilter | None = None) -> list[str]:
    """Return what is wrong with a text, as people read it."""
    with pytest.raises(InvalidDocuments) as caught:
        parse(text, "policy.yaml", labels or LabelFilter())
    assert caught.value.problems
    return [str(problem) for problem in caught.value.problems]


def policy(spec: str, indent: str = "  ") -> str:
    """Return a document with a spec that begins in line 5."""
    lines = "".join(f"{indent}{line}\n" for line in spec.splitlines())
    return f"apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: web}}\nspec:\n{lines}"


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
    ("spec", "line", "path", "message"),
    [
        # shapes
        ("[]", 4, "spec", "must be an object, not a list"),
        ("podSelector: web", 5, "spec.podSelector", "must be an object, not the string 'web'"),
        ("podSelector: {}\ningress: {}", 6, "spec.ingress", "must be a list, not an object"),
        ("ingress:\n-", 6, "spec.ingress[0]", "must be an object, not null: write {} for one that is empty"),
        ("podselector: {}", 5, "spec.podselector", "unknown field, perhaps podSelector"),
        (
            "podSelector: {}\nfoo: null",
            6,
            "spec.foo",
            "unknown field; there are egress, ingress, podSelector, policyTypes",
        ),
        ("ingress: [{to: []}]", 5, "spec.ingress[0].to", "unknown field; there are from, ports"),
        ("egress:\n- from: []", 6, "spec.egress[0].from", "unknown field; there are ports, to"),
        # types
        ("policyTypes: [ingress]", 5, "spec.policyTypes[0]", "'ingress' is neither Ingress nor Egress"),
        ("policyTypes: [true]", 5, "spec.policyTypes[0]", "must be a string, not the boolean true: quote it"),
        (
            "policyTypes: [Ingress, Egress, Ingress]",
            5,
            "spec.policyTypes",
            "has 3 values, and there are only Ingress and Egress",
        ),
        # selectors
        (
            "podSelector:\n  matchLabels:\n    -app: web",
            7,
            "spec.podSelector.matchLabels['-app']",
            f"'-app' {NO_KEY}",
        ),
        (
            "podSelector: {matchLabels: {Example.com/app: web}}",
            5,
            "spec.podSelector.matchLabels['Example.com/app']",
            "'Example.com/app' is no label key: before '/' must stand a DNS name in lower case",
        ),
        (
            "podSelector:\n  matchLabels:\n    version: 1.10",
            7,
            "spec.podSelector.matchLabels.version",
            "must be a string, not the fraction 1.10: quote it",
        ),
        (
            "podSelector: {matchLabels: {app: yes}}",
            5,
            "spec.podSelector.matchLabels.app",
            "must be a string, not the boolean yes: quote it",
        ),
        (
            "podSelector: {matchLabels: {app: we b}}",
            5,
            "spec.podSelector.matchLabels.app",
            f"'we b' {NO_VALUE}",
        ),
        (
            "podSelector: {matchExpressions: [{key: a, operator: in, values: [b]}]}",
            5,
            "spec.podSelector.matchExpressions[0].operator",
            "'in' is no operator; there are In, NotIn, Exists, DoesNotExist",
        ),
        (
            "podSelector:\n  matchExpressions:\n  - {operator: Exists}",
            7,
            "spec.podSelector.matchExpressions[0].key",
            "is missing",
        ),
        (
            "podSelector: {matchExpressions: [{key: a}]}",
            5,
            "spec.podSelector.matchExpressions[0].operator",
            "is missing",
        ),
        (
            "podSelector: {matchExpressions: [{key: a, operator: NotIn, values: []}]}",
            5,
            "spec.podSelector.matchExpressions[0]",
            "operator NotIn needs values",
        ),
        (
            "podSelector: {matchExpressions: [{key: a, operator: In}]}",
            5,
            "spec.podSelector.matchExpressions[0]",
            "operator In needs values",
        ),
        (
            "podSelector:\n  matchExpressions:\n  - key: a\n    operator: Exists\n    values: [b]",
            9,
            "spec.podSelector.matchExpressions[0].values",
            "operator Exists has no values",
        ),
        (
            "podSelector: {matchExpressions: [{key: a, operator: In, values: [b, -]}]}",
            5,
            "spec.podSelector.matchExpressions[0].values[1]",
            f"'-' {NO_VALUE}",
        ),
        (
            "podSelector: {matchLabels: {pod-template-hash: abc}}",
            5,
            "spec.podSelector.matchLabels['pod-template-hash']",
            NOT_SEEN,
        ),
        # peers
        (
            "ingress:\n- from:\n  - {}",
            7,
            "spec.ingress[0].from[0]",
            "must have podSelector, namespaceSelector or ipBlock",
        ),
        (
            "ingress: [{from: [{podSelector: null}]}]",
            5,
            "spec.ingress[0].from[0]",
            "must have podSelector, namespaceSelector or ipBlock",
        ),
        (
            "egress:\n- to:\n  - podSelector: {}\n    ipBlock: {cidr: 10.0.0.0/8}",
            7,
            "spec.egress[0].to[0]",
            "may have ipBlock or selectors, not both",
        ),
        ("ingress: [{from: [{ipBlock: {}}]}]", 5, "spec.ingress[0].from[0].ipBlock.cidr", "is missing"),
        (
            "ingress:\n- from:\n  - ipBlock:\n      cidr: 10.0.0.0/8\n      except: [11.0.0.0/9]",
            9,
            "spec.ingress[0].from[0].ipBlock.except[0]",
            "11.0.0.0/9 must be a part of 10.0.0.0/8, and smaller than it",
        ),
        (
            "ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}]}]",
            5,
            "spec.ingress[0].from[0].ipBlock.except[0]",
            "10.0.0.0/8 must be a part of 10.0.0.0/8, and smaller than it",
        ),
        (
            "ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: ['fd00::/64']}}]}]",
            5,
            "spec.ingress[0].from[0].ipBlock.except[0]",
            "fd00::/64 must be a part of 10.0.0.0/8, and smaller than it",
        ),
        # ports
        (
            "ingress:\n- ports:\n  - port: 80\n  - port: 443\n    endPort: 80",
            9,
            "spec.ingress[0].ports[1].endPort",
            "80 is smaller than port, 443",
        ),
        (
            "ingress: [{ports: [{endPort: 80}]}]",
            5,
            "spec.ingress[0].ports[0].endPort",
            "needs port, the first of the range",
        ),
        (
            "ingress: [{ports: [{port: http, endPort: 80}]}]",
            5,
            "spec.ingress[0].ports[0].endPort",
            "needs numbers at both ends, and port is a name",
        ),
        ("ingress: [{ports: [{port: 0}]}]", 5, "spec.ingress[0].ports[0].port", "0 is no port: 1-65535"),
        ("ingress: [{ports: [{port: 65536}]}]", 5, "spec.ingress[0].ports[0].port", "65536 is no port: 1-65535"),
        ("ingress: [{ports: [{port: -1}]}]", 5, "spec.ingress[0].ports[0].port", "-1 is no port: 1-65535"),
        (
            "ingress: [{ports: [{port: 1.5}]}]",
            5,
            "spec.ingress[0].ports[0].port",
            "must be a number, not the fraction 1.5",
        ),
        (
            "ingress: [{ports: [{port: 1, endPort: '9'}]}]",
            5,
            "spec.ingress[0].ports[0].endPort",
            "must be a number, not the string '9'",
        ),
        *(
            (
                f"ingress: [{{ports: [{{port: {odd}}}]}}]",
                5,
                "spec.ingress[0].ports[0].port",
                f"'{odd}' must be written as a plain decimal number",
            )
            for odd in ("0x50", "010", "8_080", "1:30", "9" * 19)
        ),
        *(
            (
                f"ingress: [{{ports: [{{port: '{name}'}}]}}]",
                5,
                "spec.ingress[0].ports[0].port",
                f"'{name}' {NO_PORT_NAME}",
            )
            for name in ("80", "HTTP", "a--b", "-a", "a-", "a23456789-123456", "")
        ),
        (
            "ingress: [{ports: [{protocol: tcp}]}]",
            5,
            "spec.ingress[0].ports[0].protocol",
            "'tcp' is no protocol; there are TCP, UDP, SCTP",
        ),
        (
            "ingress: [{ports: [{protocol: 6}]}]",
            5,
            "spec.ingress[0].ports[0].protocol",
            "must be a string, not the number 6: quote it",
        ),
        ("egress: [{ports: [80]}]", 5, "spec.egress[0].ports[0]", "must be an object, not the number 80"),
    ],
)
def test_each_mistake_of_a_spec_is_named_with_its_path_and_line(spec: str, line: int, path: str, message: str) -> None:
    assert wrong(policy(spec)) == [f"line {line}: NetworkPolicy default/web: {path}: {message}"]


@pytest.mark.parametrize(
    "cidr",
    [
        "10.0.0.0",
        "10.0.0/8",
        "10.0.0.0/33",
        "10.0.0.0/255.0.0.0",
        "010.0.0.0/8",
        "fd00::/129",
        "fe80::1%eth0/64",
        "all",
        "",
    ],
)
def test_what_is_no_cidr_is_refused(cidr: str) -> None:
    assert wrong(policy(f"ingress: [{{from: [{{ipBlock: {{cidr: '{cidr}'}}}}]}}]")) == [
        f"line 5: NetworkPolicy default/web: spec.ingress[0].from[0].ipBlock.cidr: '{cidr}' {NO_CIDR}",
    ]


def test_a_mapped_prefix_is_refused_because_nothing_is_ever_in_it() -> None:
    (problem,) = wrong(policy("egress: [{to: [{ipBlock: {cidr: '::ffff:10.0.0.0/104'}}]}]"))
    assert problem.endswith("is an IPv4-mapped prefix, which no packet's address is in: write it as IPv4")


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ("kind: Pod\nmetadata: {name: a}", "line 1: Pod default/a: apiVersion: is missing"),
        ("apiVersion: v1\nmetadata: {name: a}", "line 1: document 1: kind: is missing"),
        ("web", "line 1: document 1: must be an object, not the string 'web'"),
        (
            "apiVersion: v1\nkind: Service",
            f"line 2: document 1: kind: 'Service' {NO_KIND}",
        ),
        (
            "apiVersion: extensions/v1\nkind: NetworkPolicy",
            "line 1: document 1: apiVersion: must be networking.k8s.io/v1 for a NetworkPolicy, not 'extensions/v1'",
        ),
        (
            "apiVersion: 1\nkind: Pod\nmetadata: {name: a}",
            "line 1: Pod default/a: apiVersion: must be a string, not the number 1: quote it",
        ),
        ("apiVersion: v1\nkind: Pod", "line 1: document 1: metadata: is missing"),
        ("apiVersion: v1\nkind: List", "line 1: document 1: items: is missing"),
        ("apiVersion: v1\nkind: Pod\nmetadata:\n  labels: {}", "line 3: Pod default/: metadata.name: is missing"),
        (
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a}",
            "line 1: NetworkPolicy default/a: spec: is missing",
        ),
        (
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a}\nspec: {}\nstatus: []",
            "line 5: NetworkPolicy default/a: status: must be an object, not a list",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: A_b",
            f"line 4: Pod default/A_b: metadata.name: 'A_b' {NO_DNS_NAME}",
        ),
        (
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: a.b}",
            f"line 3: Namespace a.b: metadata.name: 'a.b' {NO_DNS_LABEL}",
        ),
        (
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: a, namespace: b}",
            "line 3: Namespace a: metadata.namespace: a Namespace is in no namespace",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a, label: {}}",
            "line 3: Pod default/a: metadata.label: unknown field, perhaps labels",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a, annotations: {b: 1}}",
            "line 3: Pod default/a: metadata.annotations.b: must be a string, not the number 1: quote it",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a, generation: x}",
            "line 3: Pod default/a: metadata.generation: must be a number, not the string 'x'",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a, finalizers: x}",
            "line 3: Pod default/a: metadata.finalizers: must be a list, not the string 'x'",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a, uid: 7}",
            "line 3: Pod default/a: metadata.uid: must be a string, not the number 7: quote it",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: {a b: c}}",
            f"line 3: Pod default/a: metadata.labels['a b']: 'a b' {NO_KEY}",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{ports: [{containerPort: 0}]}]}",
            "line 4: Pod default/a: spec.containers[0].ports[0].containerPort: 0 is no port: 1-65535",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{ports: [{name: b}]}]}",
            "line 4: Pod default/a: spec.containers[0].ports[0].containerPort: is missing",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {hostNetwork: 1}",
            "line 4: Pod default/a: spec.hostNetwork: must be true or false, not the number 1",
        ),
    ],
)
def test_each_mistake_around_a_spec_is_named(document: str, problem: str) -> None:
    assert wrong(document) == [problem]


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


def test_all_mistakes_of_all_documents_are_reported_together_in_order() -> None:
    text = (
        policy("ingress: [{ports: [{port: 0}, {port: 99999}]}]")
        + "---\nkind: Pod\nmetadata: {name: a}\n---\n"
        + policy("egress: 3")
    )

    problems = wrong(text)

    assert [problem.split(": ")[0] for problem in problems] == ["line 5", "line 5", "line 7", "line 12", "line 14"]
    assert problems[3].endswith(": metadata.name: NetworkPolicy default/web is there twice, first in line 3")


def test_the_error_is_one_sentence_and_keeps_the_facts() -> None:
    ports = ", ".join(["{port: 0}"] * 7)
    with pytest.raises(InvalidDocuments) as caught:
        parse(policy(f"ingress: [{{ports: [{ports}]}}]"), "web.yaml")

    error = caught.value
    assert error.message.startswith(
        "web.yaml: 7 problems, so nothing in it is used: line 5: NetworkPolicy default/web: spec"
    )
    assert error.message.endswith("; and 2 more")
    assert error.fields == {"source": "web.yaml", "problems": "7", "line": "5", "path": "spec.ingress[0].ports[0].port"}
    assert len(error.problems) == 7


def test_problems_in_a_list_have_its_items_in_their_paths() -> None:
    pods = ("{apiVersion: v1, kind: Pod, metadata: {name: a, x: 1}}", "{kind: Pod, metadata: {name: b}}")
    text = "apiVersion: v1\nkind: List\nitems:\n" + "".join(f"- {pod}\n" for pod in pods)
    assert wrong(text) == [
        f"line 4: Pod default/a: items[0].metadata.x: unknown field; there are {METADATA}",
        "line 5: Pod default/b: items[1].apiVersion: is missing",
    ]


def test_a_long_value_is_cut_where_nobody_reads_on() -> None:
    (problem,) = wrong(policy(f"policyTypes: [{'x' * 500}]"))
    assert len(problem) < 200


def test_labels_that_the_setting_leaves_out_can_not_be_selected_by() -> None:
    text = policy("podSelector: {}\ningress: [{from: [{namespaceSelector: {matchLabels: {env: a}}, podSelector: %s}]}]")
    selector = "{matchExpressions: [{key: env, operator: DoesNotExist}]}"
    only_pods = LabelFilter(("!env",))
    only_namespaces = LabelFilter(("!io.cilium.k8s.namespace.labels.env",))

    assert parse(text % selector).policies
    assert [one.split(": ")[2] for one in wrong(text % selector, only_pods)] == [
        "spec.ingress[0].from[0].podSelector.matchExpressions[0].key"
    ]
    assert [one.split(": ")[2] for one in wrong(text % selector, only_namespaces)] == [
        "spec.ingress[0].from[0].namespaceSelector.matchLabels.env"
    ]


@pytest.mark.parametrize(
    ("spec", "warning"),
    [
        (
            "ingress: [{from: [{ipBlock: {cidr: 10.1.2.3/8}}]}]",
            "from[0].ipBlock.cidr: 10.1.2.3/8 has bits set beyond its length: it means 10.0.0.0/8",
        ),
        ("policyTypes: [Egress]\ningress: []", "spec.ingress: means nothing: policyTypes does not have Ingress"),
        ("policyTypes: [Ingress]\negress: [{}]", "spec.egress: means nothing: policyTypes does not have Egress"),
        ("ingress:\n- from:", "spec.ingress[0]: from is null, which means everybody: leave it out if that is meant"),
        (
            "egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8}}], ports: [{port: http}]}]",
            "to[0]: named ports match nothing here: an ipBlock is addresses, and only pods name their ports",
        ),
    ],
)
def test_what_may_not_be_meant_is_a_warning(spec: str, warning: str) -> None:
    (found,) = parse(policy(spec)).warnings
    assert str(found).endswith(warning)
    assert found.line in {5, 6}


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
