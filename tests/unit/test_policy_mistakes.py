"""Documents: each mistake with its path and line, and what may not be meant."""

import pytest

from services.endpoint.policy.labels import LabelFilter
from services.endpoint.policy.parse import InvalidDocuments, parse
from tests.policy_texts import policy, wrong

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
