"""An operator's word about labels, over a pod's own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import InvalidArgument
from services.endpoint.policy.labelchanges import LabelChange, apply, check, merge
from services.endpoint.policy.labels import LabelFilter, identity_labels

OWN = {"app": "web", "k8s:tier": "a", "container:image": "x"}
KEYS = st.sampled_from(("app", "tier", "k8s:app", "container:image", "example.com/x"))
VALUES = st.sampled_from(("a", "b", ""))
CHANGES = st.lists(
    st.one_of(
        st.builds(LabelChange, KEYS, VALUES, st.just(value=False)),
        st.builds(LabelChange, KEYS, st.none(), st.just(value=True)),
        st.builds(LabelChange, KEYS, st.none(), st.just(value=False)),
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda change: change.key.removeprefix("k8s:"),
)


def test_values_are_set_labels_are_removed_and_the_rest_stays():
    word = merge(
        {}, check([LabelChange("app", "db"), LabelChange("container:image", remove=True), LabelChange("x", "")])
    )

    assert word == {"app": "db", "container:image": None, "x": ""}
    assert apply(OWN, word) == {"k8s:tier": "a", "app": "db", "x": ""}


def test_a_word_that_is_taken_back_leaves_the_pods_own():
    word = merge({"app": "db", "tier": None}, check([LabelChange("app"), LabelChange("tier"), LabelChange("new")]))

    assert word == {}
    assert apply(OWN, word) == OWN


@pytest.mark.parametrize(("own", "said"), [("tier", "k8s:tier"), ("k8s:tier", "tier")])
def test_with_and_without_kubernetes_source_it_is_one_label(own: str, said: str):
    changed = merge({}, check([LabelChange(said, "b")]))
    removed = merge(changed, check([LabelChange(said, remove=True)]))

    assert identity_labels(apply({own: "a"}, changed), "", {}, LabelFilter())["k8s:tier"] == "b"
    assert apply({own: "a"}, removed) == {}
    assert merge(removed, check([LabelChange(own)])) == {}


def test_another_source_is_another_label():
    word = merge({}, check([LabelChange("container:app", remove=True)]))

    assert apply({"app": "web", "container:app": "x"}, word) == {"app": "web"}
    assert merge({}, check([LabelChange("k8s:container:app", "x")])) == {"k8s:container:app": "x"}


@given(st.dictionaries(KEYS, VALUES), st.lists(CHANGES, max_size=3))
def test_the_last_word_about_a_label_counts_and_others_about_it_are_forgotten(
    own: dict[str, str], rounds: list[list[LabelChange]]
):
    word: dict[str, str | None] = {}
    said: dict[str, LabelChange] = {}
    for changes in rounds:
        word = merge(word, check(changes))
        said |= {change.key.removeprefix("k8s:"): change for change in changes}
    found = {key.removeprefix("k8s:"): value for key, value in apply(own, word).items()}

    assert list(word) == sorted(word)
    for key, change in said.items():
        of_pod = [value for name, value in own.items() if name.removeprefix("k8s:") == key]
        if change.remove:
            assert key not in found
        elif change.value is not None:
            assert found[key] == change.value
        else:
            assert [found[key]] == of_pod[-1:] if of_pod else key not in found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (LabelChange("a b", "x"), "label 'a b': 'a b' is no label key: 1-317 letters"),
        (LabelChange("", "x"), "label '': '' is no label key"),
        (LabelChange("a" * 318, "x"), "is no label key"),
        (LabelChange("app", "a b"), "label 'app': 'a b' is no label value: at most 63"),
        (LabelChange("app", "x" * 64), "is no label value"),
        (LabelChange("app=x;k8s:y", "z"), "is no label key"),
        (
            LabelChange("reserved:host", ""),
            "label 'reserved:host': labels that begin with 'reserved:' are podlane's own",
        ),
        (LabelChange("io.kubernetes.pod.namespace", "x"), "label 'io.kubernetes.pod.namespace': is the namespace's"),
        (LabelChange("k8s:io.cilium.k8s.namespace.labels.team", remove=True), "is the namespace's"),
        (LabelChange("app", "x", remove=True), "label 'app': has a value and is to be removed"),
    ],
)
def test_a_wrong_change_is_refused_by_name(change: LabelChange, message: str):
    with pytest.raises(InvalidArgument) as caught:
        check([LabelChange("fine", "x"), change])

    assert message in caught.value.message


def test_a_label_may_be_named_once_whatever_its_spelling():
    with pytest.raises(InvalidArgument, match="label 'k8s:app': is there twice"):
        check([LabelChange("app", "x"), LabelChange("k8s:app", remove=True)])


def test_no_change_at_all_is_no_request():
    with pytest.raises(InvalidArgument, match="at least one label"):
        check([])
