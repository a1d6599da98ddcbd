"""Labels, the filter of identities, and selectors."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import InvalidArgument
from services.endpoint.policy.labels import LabelFilter, Labels, identity_labels
from services.endpoint.policy.selectors import LabelSelector, Operator, Requirement, pods

KEEP = LabelFilter()


def test_a_pods_identity_is_made_of_its_labels_its_namespace_and_the_namespaces_labels() -> None:
    labels = identity_labels({"app": "web", "k8s:tier": ""}, "shop", {"team": "a"}, KEEP)

    assert labels.canonical == (
        "k8s:app=web;"
        "k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=shop;"
        "k8s:io.cilium.k8s.namespace.labels.team=a;"
        "k8s:io.kubernetes.pod.namespace=shop;"
        "k8s:tier=;"
    )
    assert str(labels).startswith("k8s:app=web,k8s:io.cilium")


def test_without_a_namespace_a_pod_is_in_default() -> None:
    assert identity_labels({}, "", {}, KEEP)["k8s:io.kubernetes.pod.namespace"] == "default"


def test_labels_of_other_sources_are_kept_as_they_are() -> None:
    assert identity_labels({"nomad:job": "web"}, "shop", {}, KEEP)["nomad:job"] == "web"


@pytest.mark.parametrize(
    "key",
    [
        "io.kubernetes.pod.namespace",
        "k8s:io.kubernetes.pod.namespace",
        "io.cilium.k8s.namespace.labels.team",
        "io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name",
        "io.cilium.k8s.policy.serviceaccount",
        "reserved:host",
    ],
)
def test_a_pod_can_not_claim_a_namespace_or_a_reserved_identity_by_its_own_labels(key: str) -> None:
    assert identity_labels({key: "admin"}, "shop", {"a": "b"}, KEEP) == identity_labels({}, "shop", {"a": "b"}, KEEP)


def test_a_namespace_can_not_claim_another_name() -> None:
    labels = identity_labels({}, "shop", {"kubernetes.io/metadata.name": "kube-system"}, KEEP)
    assert labels["k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name"] == "shop"


@pytest.mark.parametrize(
    "noise",
    [
        *("pod-template-hash", "pod-template-generation", "controller-revision-hash", "controller-uid", "job-name"),
        *("statefulset.kubernetes.io/pod-name", "apps.kubernetes.io/pod-index"),
        *("batch.kubernetes.io/job-name", "batch.kubernetes.io/controller-uid"),
        "batch.kubernetes.io/job-completion-index",
    ],
)
def test_what_differs_from_pod_to_pod_is_left_out_by_default(noise: str) -> None:
    assert identity_labels({noise: "x", "app": "web"}, "shop", {}, KEEP) == identity_labels(
        {"app": "web"}, "shop", {}, KEEP
    )


@pytest.mark.parametrize(
    ("rules", "kept", "left_out"),
    [
        ((), ["app", "kubernetes.io/x"], ["pod-template-hash"]),
        (("!app",), ["tier"], ["app", "app.kubernetes.io/name", "application"]),
        (("!app", "app.kubernetes.io/name"), ["app.kubernetes.io/name"], ["app", "app.kubernetes.io/part-of", "tier"]),
        (("tier",), ["tier"], ["app", "pod-template-hash"]),
        (("k8s:tier",), ["tier"], ["app"]),
        (("!nomad:job",), ["job"], []),
        (("pod-template-hash",), ["pod-template-hash"], ["app"]),
        (("pod-template-",), [], ["pod-template-hash"]),
        (("!io.cilium.k8s.namespace.labels.team", "!x"), ["team"], ["x"]),
    ],
)
def test_the_longest_rule_decides_and_of_equal_ones_the_settings_own(
    rules: tuple[str, ...], kept: list[str], left_out: list[str]
) -> None:
    filter_ = LabelFilter(rules)
    assert all(filter_.keeps(f"k8s:{key}") for key in kept)
    assert not any(filter_.keeps(f"k8s:{key}") for key in left_out)


def test_the_namespace_stays_whatever_the_rules_say() -> None:
    filter_ = LabelFilter(("!io", "tier"))
    assert filter_.keeps("k8s:io.kubernetes.pod.namespace")
    assert filter_.keeps("k8s:io.cilium.k8s.namespace.labels.team"), "a default rule, and the longest"
    assert not LabelFilter(("!io.cilium.k8s.namespace.labels.team",)).keeps("k8s:io.cilium.k8s.namespace.labels.team")


@pytest.mark.parametrize("rule", ["", "!", "k8s:", " app"])
def test_a_rule_that_would_match_by_accident_is_refused(rule: str) -> None:
    with pytest.raises(InvalidArgument, match="is no rule: write a prefix"):
        LabelFilter((rule,))


@given(st.dictionaries(st.from_regex(r"[a-z0-9]+:[a-z./-]{1,9}", fullmatch=True), st.text("ab1", max_size=3)))
def test_labels_are_their_canonical_string(values: dict[str, str]) -> None:
    labels = Labels(values)

    assert Labels.parse(labels.canonical) == labels == Labels(dict(reversed(values.items())))
    assert hash(Labels.parse(labels.canonical)) == hash(labels)
    assert dict(labels) == values
    assert len(labels) == len(values)


@pytest.mark.parametrize("text", ["k8s:a", "k8s:b=1;k8s:a=2;", "k8s:a=1;k8s:a=1;", "k8s:a=1;;"])
def test_a_string_that_is_not_canonical_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="is not of the form"):
        Labels.parse(text)


def test_selectors_are_said_as_kubectl_says_them() -> None:
    selector = LabelSelector.of(
        Requirement("tier", Operator.IN, ("a", "b")),
        Requirement("app", Operator.IN, ("web",)),
        Requirement("old", Operator.DOES_NOT_EXIST),
        Requirement("new", Operator.EXISTS),
        Requirement("env", Operator.NOT_IN, ("dev", "test")),
    )
    assert str(selector) == "app=web,env notin (dev,test),new,!old,tier in (a,b)"
    assert str(LabelSelector()) == "{}"


def test_a_selector_of_pods_never_selects_a_reserved_identity() -> None:
    not_web = LabelSelector.of(Requirement("app", Operator.NOT_IN, ("web",)))
    for selector in (pods("shop", not_web, None), pods("shop", not_web, LabelSelector()), pods("shop", None, not_web)):
        assert not selector.matches({"reserved:host": ""})
