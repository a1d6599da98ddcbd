"""Label selectors, as Kubernetes defines them, over labels with their sources. Pure.

`matchLabels` is short for `In` with one value, so a selector is a list of requirements that all must hold; an empty one
matches everything. `NotIn` and `DoesNotExist` match where the key is absent, `In` and `Exists` don't.

A policy's selectors speak of pods' and namespaces' labels. `pods` joins them into one selector over identity labels,
which only pods can match: every one of them asks for a namespace, and reserved identities have none.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Self

from services.endpoint.policy.labels import NAMESPACE_LABELS, POD_NAMESPACE, SOURCE


class Operator(StrEnum):
    """How a requirement relates a key to its values; the API's words."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class Requirement(NamedTuple):
    """One requirement; `values` sorted, and empty for Exists and DoesNotExist."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Return whether it holds for a set of labels."""
        match self.operator:
            case Operator.IN:
                return labels.get(self.key) in self.values
            case Operator.NOT_IN:
                return labels.get(self.key) not in self.values
            case Operator.EXISTS:
                return self.key in labels
            case Operator.DOES_NOT_EXIST:
                return self.key not in labels

    def __str__(self) -> str:
        """Return it as kubectl writes selectors: `app=web`, `tier in (a,b)`, `!legacy`."""
        match self.operator:
            case Operator.IN if len(self.values) == 1:
                return f"{self.key}={self.values[0]}"
            case Operator.IN:
                return f"{self.key} in ({','.join(self.values)})"
            case Operator.NOT_IN:
                return f"{self.key} notin ({','.join(self.values)})"
            case Operator.EXISTS:
                return self.key
            case Operator.DOES_NOT_EXIST:
                return f"!{self.key}"


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """Requirements that all must hold, in the order of their keys; none: everything matches."""

    requirements: tuple[Requirement, ...] = ()

    @classmethod
    def of(cls, *requirements: Requirement) -> Self:
        """Return the selector with these requirements, the same for every order of them."""
        return cls(tuple(sorted(set(requirements))))

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Return whether it selects who has these labels."""
        return all(one.matches(labels) for one in self.requirements)

    def prefixed(self, prefix: str) -> tuple[Requirement, ...]:
        """Return its requirements with `prefix` before each key."""
        return tuple(Requirement(prefix + one.key, one.operator, one.values) for one in self.requirements)

    def __str__(self) -> str:
        """Return it as kubectl writes it; `{}` is the one that selects all."""
        return ",".join(map(str, self.requirements)) or "{}"


def pods(namespace: str, pod_selector: LabelSelector | None, namespace_selector: LabelSelector | None) -> LabelSelector:
    """Return the selector over identity labels of what a policy in `namespace` selects (NetworkPolicyPeer).

    Without a namespace selector: pods of `namespace` itself. Without a pod selector: all pods.
    """
    if namespace_selector is None:
        where: tuple[Requirement, ...] = (Requirement(POD_NAMESPACE, Operator.IN, (namespace,)),)
    else:
        anywhere = Requirement(POD_NAMESPACE, Operator.EXISTS)
        where = (anywhere, *namespace_selector.prefixed(NAMESPACE_LABELS))
    who = pod_selector.prefixed(SOURCE) if pod_selector is not None else ()
    return LabelSelector.of(*where, *who)
