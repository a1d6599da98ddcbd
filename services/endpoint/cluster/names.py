"""What an entry of the kvstore says, in a few words with names in the place of numbers. Pure."""

import json
from collections.abc import Callable

from services.common.errors import InvalidArgument
from services.common.kvstore.keys import Keys, last
from services.endpoint.cluster import records
from services.endpoint.policy.labels import Labels

LabelsOf = Callable[[int], Labels | None]


def text(keys: Keys, key: str, value: str, labels_of: LabelsOf) -> str:
    """Return what an entry says; `labels_of` an identity. What makes no sense is said, too."""
    for prefix, say in (
        (keys.nodes, _node),
        (keys.ips, _ip),
        (keys.identities, _identity),
        (keys.identity_values, _value),
        (keys.endpoints, _endpoint),
        (keys.claims, _claim),
        (keys.policies, _document),
    ):
        if key.startswith(prefix):
            try:
                return say(key, value, labels_of)
            except (InvalidArgument, ValueError, KeyError, TypeError, AttributeError) as error:
                return f"makes no sense: {error}"
    reference = keys.identity_references
    if key.startswith(reference):
        number, _, node = key.removeprefix(reference).partition("/")
        return f"{node} uses {_named(int(number), labels_of) if number.isdecimal() else number}"
    return value


def _named(number: int, labels_of: LabelsOf) -> str:
    labels = labels_of(number)
    return f"identity {number} ({labels})" if labels else f"identity {number}"


def _node(key: str, value: str, _labels_of: LabelsOf) -> str:
    node = records.read_node(key, value)
    return f"node {node.name} at {node.address}: pods in {', '.join(map(str, node.pod_cidrs)) or 'no range yet'}"


def _ip(key: str, value: str, labels_of: LabelsOf) -> str:
    ip = records.read_ip(key, value)
    return f"pod {ip.pod or '-'} on {ip.node} ({ip.host}): {_named(ip.identity, labels_of)}"


def _identity(key: str, value: str, _labels_of: LabelsOf) -> str:
    return str(records.read_labels(key, value))


def _value(key: str, value: str, _labels_of: LabelsOf) -> str:
    return f"identity {records.read_number(key, value)}"


def _endpoint(_key: str, value: str, labels_of: LabelsOf) -> str:
    found = json.loads(value)
    pod = found["pod"]
    who = _named(found["identity"]["id"], labels_of)
    return f"pod {pod['namespace']}/{pod['name']}: {found['state']}, {', '.join(found['addresses'])}, {who}"


def _claim(key: str, value: str, _labels_of: LabelsOf) -> str:
    return f"{last(key).replace('-', '/')} is {json.loads(value)['node']}'s"


def _document(_key: str, value: str, _labels_of: LabelsOf) -> str:
    found = json.loads(value)
    metadata = found["metadata"]
    where = f"{metadata['namespace']}/" if "namespace" in metadata else ""
    return f"{found['kind']} {where}{metadata['name']}"
