"""What an operator says about an endpoint's labels, over what its pod says. Pure.

    own          app=web, tier=a          as the Pod document or CreateEndpoint has them
    stored       tier=b, app removed      the operator's word, key by key
    in force     tier=b

The operator's word outlives changes of the pod's own labels, until it is taken back. It is kept by key without the
source of Kubernetes: `app` and `k8s:app` are one label, and a word about one of them is about the other.

Where a pod is its namespace says, not its labels. Of a pod's own labels such keys are dropped; of an operator they are
refused, because whoever typed them expects that they do something.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from services.common.errors import InvalidArgument
from services.endpoint.policy import syntax
from services.endpoint.policy.labels import SOURCE, is_a_pods_to_say, with_source


class LabelChange(NamedTuple):
    """What becomes of a label: `remove`: the endpoint hasn't got it; else `value`; None: the pod's own word counts."""

    key: str
    value: str | None = None
    remove: bool = False


def check(changes: Iterable[LabelChange]) -> tuple[LabelChange, ...]:
    """Return the changes with the keys by which words are kept. Raises InvalidArgument, which names the label."""
    found: dict[str, LabelChange] = {}
    for change in changes:
        bare = change.key.removeprefix(SOURCE)
        key = bare if ":" not in bare else change.key
        if wrong := _wrong(change) or ("is there twice" if key in found else None):
            raise InvalidArgument(f"label {syntax.quoted(change.key)}: {wrong}", field="changes", label=change.key[:80])
        found[key] = change._replace(key=key)
    if not found:
        raise InvalidArgument("changes: at least one label is needed", field="changes")
    return tuple(found.values())


def _wrong(change: LabelChange) -> str | None:
    if wrong := syntax.endpoint_label_key(change.key):
        return wrong
    if not is_a_pods_to_say(change.key):
        return "is the namespace's: labels of a namespace are those of its Namespace document"
    if change.value is None:
        return None
    return "has a value and is to be removed" if change.remove else syntax.label_value(change.value)


def merge(stored: Mapping[str, str | None], changes: Iterable[LabelChange]) -> dict[str, str | None]:
    """Return the operator's word with checked changes in it, sorted by key; None: the label is removed."""
    merged = dict(stored)
    for change in changes:
        merged.pop(change.key, None)
        if change.remove or change.value is not None:
            merged[change.key] = change.value
    return dict(sorted(merged.items()))


def apply(own: Mapping[str, str], stored: Mapping[str, str | None]) -> dict[str, str]:
    """Return a pod's own labels with the operator's word over them."""
    said = {with_source(key) for key in stored}
    kept = {key: value for key, value in own.items() if with_source(key) not in said}
    return kept | {key: value for key, value in stored.items() if value is not None}
