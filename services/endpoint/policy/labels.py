"""Labels: who an endpoint is, and which part of that decides its identity. Pure.

    pod label            app=web                     k8s:app=web
    namespace name       shop                        k8s:io.kubernetes.pod.namespace=shop
    namespace label      team=a                      k8s:io.cilium.k8s.namespace.labels.team=a
    (always there)       kubernetes.io/metadata.name k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=shop

The names are Cilium's: a source, a colon, a key. A label without a source is Kubernetes'.

Every set of labels is an identity of its own, and every identity is an entry in the maps of those who talk to it. So
labels that are other ones for each pod or each revision are left out by the filter, which is a setting. What the
filter leaves out no selector can see: a policy that selects by it is refused when it is parsed, because `NotIn` and
`DoesNotExist` would match everybody.

A pod's own labels may not say in which namespace it is: those keys are dropped, else whoever may label a pod could
claim to be in any namespace.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

from services.common.errors import InvalidArgument

DEFAULT_NAMESPACE = "default"
"""Where pods and policies are that name no namespace, as kubectl has it; thus policy works without Kubernetes."""

SOURCE = "k8s:"
POD_NAMESPACE = "k8s:io.kubernetes.pod.namespace"
NAMESPACE_LABELS = "k8s:io.cilium.k8s.namespace.labels."
NAMESPACE_NAME = "kubernetes.io/metadata.name"

_NOT_A_PODS_TO_SAY = ("k8s:io.kubernetes.pod.", "k8s:io.cilium.k8s.", "reserved:")

DEFAULT_RULES = (
    "io.cilium.k8s.namespace.labels.",
    "!pod-template-hash",
    "!pod-template-generation",
    "!controller-revision-hash",
    "!controller-uid",
    "!batch.kubernetes.io/controller-uid",
    "!job-name",
    "!batch.kubernetes.io/job-name",
    "!batch.kubernetes.io/job-completion-index",
    "!statefulset.kubernetes.io/pod-name",
    "!apps.kubernetes.io/pod-index",
)
"""Out by default: what differs from pod to pod or from revision to revision of one workload. Cilium leaves out all of
kubernetes.io, too; NetworkPolicy may select by any label, so here only noise is."""


class Labels(Mapping[str, str]):
    """Labels with their sources, immutable. Equal, and one identity, when their canonical strings are equal."""

    __slots__ = ("_values", "canonical")

    def __init__(self, values: Mapping[str, str]) -> None:
        """Sort and copy."""
        self._values = dict(sorted(values.items()))
        self.canonical = "".join(f"{key}={value};" for key, value in self._values.items())
        """Cilium's spelling, sorted by key: `k8s:app=web;k8s:io.kubernetes.pod.namespace=shop;`."""

    @classmethod
    def parse(cls, canonical: str) -> Self:
        """Read a canonical string. Raises InvalidArgument."""
        parts = [part.partition("=") for part in canonical.split(";")[:-1]]
        labels = cls({key: value for key, _, value in parts})
        if labels.canonical != canonical:
            raise InvalidArgument(f"labels: {canonical!r} is not of the form 'k8s:a=1;k8s:b=2;'", field="labels")
        return labels

    def __getitem__(self, key: str) -> str:
        """Return a label's value."""
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the keys in order."""
        return iter(self._values)

    def __len__(self) -> int:
        """Return how many labels there are."""
        return len(self._values)

    def __eq__(self, other: object) -> bool:
        """Compare the canonical strings."""
        return isinstance(other, Labels) and other.canonical == self.canonical

    def __hash__(self) -> int:
        """Hash the canonical string, which remembers its hash."""
        return hash(self.canonical)

    def __str__(self) -> str:
        """Return them as people write them: `k8s:app=web,k8s:io.kubernetes.pod.namespace=shop`.

        The label that every namespace has is left out: it says the same as the pod's namespace.
        """
        implied = NAMESPACE_LABELS + NAMESPACE_NAME
        return ",".join(f"{key}={value}" for key, value in self._values.items() if key != implied)

    def __repr__(self) -> str:
        """Return the constructor's call, for test failures."""
        return f"Labels.parse({self.canonical!r})"


NO_LABELS = Labels({})
"""Those of nobody: every pod's name its namespace."""


@dataclass(frozen=True, slots=True)
class LabelFilter:
    """Which labels are identity-relevant.

    A rule is a prefix of a key, with or without a source; `!` in front: left out. Of the rules that match, the one with
    the longest prefix decides, and of two that are equally long the later one, so that the setting's own `rules` can
    take a default back. What none matches is kept, unless `rules` name something to keep: then only that is kept, as
    with Cilium's `--labels`. The namespace's name is kept in any case.
    """

    rules: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises InvalidArgument for a rule that would match everything by accident."""
        for rule in self.rules:
            if not rule.removeprefix("!") or rule != rule.strip() or rule.endswith(":"):
                raise InvalidArgument(
                    f"labels: {rule!r} is no rule: write a prefix of a label's key, with '!' in front to leave it out",
                    field="labels",
                )

    def keeps(self, key: str) -> bool:
        """Return whether a label with this key (with its source) is part of an identity."""
        if key == POD_NAMESPACE:
            return True
        bare = key.partition(":")[2]
        decisive = longest = ""
        for rule in (*DEFAULT_RULES, *self.rules):
            prefix = rule.removeprefix("!")
            if (key if ":" in prefix else bare).startswith(prefix) and len(prefix) >= len(longest):
                decisive, longest = rule, prefix
        if not decisive:
            return all(rule.startswith("!") for rule in self.rules)
        return not decisive.startswith("!")


def with_source(key: str) -> str:
    """Return a label's key with its source; without one it is Kubernetes'."""
    return key if ":" in key else f"{SOURCE}{key}"


def is_a_pods_to_say(key: str) -> bool:
    """Return whether a pod's own label of that key counts, and does not claim where the pod is, or what it is."""
    return not with_source(key).startswith(_NOT_A_PODS_TO_SAY)


def identity_labels(
    labels: Mapping[str, str], namespace: str, namespace_labels: Mapping[str, str], filter_: LabelFilter
) -> Labels:
    """Return the identity-relevant labels of a pod.

    `labels` are the pod's own, with or without a source; an empty `namespace` is `default`. The namespace's labels are
    as its Namespace object has them; its name among them is ours to add.
    """
    namespace = namespace or DEFAULT_NAMESPACE
    own = {with_source(key): value for key, value in labels.items() if is_a_pods_to_say(key)}
    named = {**namespace_labels, NAMESPACE_NAME: namespace}
    of_namespace = {f"{NAMESPACE_LABELS}{key}": value for key, value in named.items()}
    all_of_them = {**own, **of_namespace, POD_NAMESPACE: namespace}
    return Labels({key: value for key, value in all_of_them.items() if filter_.keeps(key)})
