"""Documents as the service keeps them and shows them: from values to JSON as Kubernetes has it, and back. Pure.

    text ──parse──▶ value ──to_json──▶ one line of JSON ──from_json──▶ the same value

The JSON is canonical: two documents that mean the same are the same text. What the API server fills in is written out
(namespace, `podSelector`, `policyTypes`, `protocol`), and what is empty is left out, because a value can't tell it from
what is absent. Sets are sorted; rules, peers, ports and excepts stay in their order, by which explanations name them.
Of a Pod and a Namespace there is no more than policy needs.

`from_json` reads as strictly as `parse`, so a stored policy is refused when it selects by a label that a changed
setting leaves out of identities.
"""

import json
from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import Any, NamedTuple

from services.endpoint.policy.entry import Direction, protocol_name
from services.endpoint.policy.labels import LabelFilter
from services.endpoint.policy.networkpolicy import (
    Documents,
    IPBlock,
    NamespaceDocument,
    NetworkPolicy,
    Peer,
    PodDocument,
    Port,
    Rule,
)
from services.endpoint.policy.parse import KEEP_ALL, read
from services.endpoint.policy.selectors import LabelSelector, Operator, Requirement
from services.endpoint.policy.yamltree import json_documents

Document = NetworkPolicy | NamespaceDocument | PodDocument


class DocumentKind(IntEnum):
    """What a document is; the numbers are the API's."""

    NETWORK_POLICY = 1
    NAMESPACE = 2
    POD = 3

    def __str__(self) -> str:
        """Return Kubernetes' word: `NetworkPolicy`, `Namespace`, `Pod`."""
        return self.name.title().replace("_", "")


class DocumentName(NamedTuple):
    """What a document is known by. `namespace` is empty of a Namespace, and of nothing else."""

    kind: DocumentKind
    namespace: str
    name: str

    def __str__(self) -> str:
        """Return it as errors have it: `NetworkPolicy shop/web`, `Namespace shop`."""
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


def documents_of(documents: Documents) -> list[Document]:
    """Return all documents that a text holds: policies, namespaces, pods."""
    return [*documents.policies, *documents.namespaces, *documents.pods]


def name_of(value: Document) -> DocumentName:
    """Return what a document is known by."""
    match value:
        case NetworkPolicy():
            return DocumentName(DocumentKind.NETWORK_POLICY, *value.name)
        case NamespaceDocument():
            return DocumentName(DocumentKind.NAMESPACE, "", value.name)
        case PodDocument():
            return DocumentName(DocumentKind.POD, value.namespace, value.name)


def to_json(value: Document) -> str:
    """Return a document as one line of canonical JSON."""
    return json.dumps(to_dict(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def from_json(text: str, labels: LabelFilter = KEEP_ALL, source: str = "stored document") -> Document:
    """Return the document that `to_json` has written; `labels` is the filter of identities.

    Raises InvalidDocuments, which names `source`; ValueError when the text is none or several documents.
    """
    found = read(json_documents(text), source, labels)
    values = documents_of(found)
    if len(values) != 1:
        raise ValueError(f"{source}: {len(values)} documents instead of one")
    return values[0]


def to_dict(value: Document) -> dict[str, Any]:
    """Return a document as Kubernetes' API has it."""
    name = name_of(value)
    metadata: dict[str, Any] = {"name": name.name}
    if name.namespace:
        metadata["namespace"] = name.namespace
    if not isinstance(value, NetworkPolicy) and value.labels:
        metadata["labels"] = dict(sorted(value.labels.items()))
    version = "networking.k8s.io/v1" if name.kind is DocumentKind.NETWORK_POLICY else "v1"
    document = {"apiVersion": version, "kind": str(name.kind), "metadata": metadata}
    match value:
        case NetworkPolicy():
            document["spec"] = _policy_spec(value)
        case PodDocument() if spec := _pod_spec(value):
            document["spec"] = spec
    return document


def _policy_spec(policy: NetworkPolicy) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "podSelector": _selector(policy.pod_selector),
        "policyTypes": [one.name.title() for one in Direction if one in policy.types],
    }
    for direction, peers in ((Direction.INGRESS, "from"), (Direction.EGRESS, "to")):
        if rules := policy.rules(direction):
            spec[str(direction)] = [_rule(rule, peers) for rule in rules]
    return spec


def _pod_spec(pod: PodDocument) -> dict[str, Any]:
    spec: dict[str, Any] = {"hostNetwork": True} if pod.host_network else {}
    if pod.named_ports:
        ports = [
            {"name": one.name, "containerPort": one.port, "protocol": protocol_name(one.protocol)}
            for one in sorted(pod.named_ports)
        ]
        spec["containers"] = [{"ports": ports}]
    return spec


def _rule(rule: Rule, peers: str) -> dict[str, Any]:
    return _without_empty({peers: [_peer(one) for one in rule.peers], "ports": [_port(one) for one in rule.ports]})


def _peer(peer: Peer) -> dict[str, Any]:
    if isinstance(peer, IPBlock):
        return {"ipBlock": {"cidr": str(peer.cidr), **_without_empty({"except": [str(one) for one in peer.excepts]})}}
    # An empty selector selects all, so of these absence alone is left out.
    selectors = {"podSelector": peer.pods, "namespaceSelector": peer.namespaces}
    return {key: _selector(one) for key, one in selectors.items() if one is not None}


def _port(port: Port) -> dict[str, Any]:
    numbers = {"port": port.port, "endPort": port.end_port}
    return {"protocol": protocol_name(port.protocol), **{key: one for key, one in numbers.items() if one is not None}}


def _selector(selector: LabelSelector) -> dict[str, Any]:
    """Write `In` with one value as people do. Only once for each key: a selector may ask for two, which nobody has."""
    labels: dict[str, str] = {}
    others: list[Requirement] = []
    for one in selector.requirements:
        if one.operator is Operator.IN and len(one.values) == 1 and one.key not in labels:
            labels[one.key] = one.values[0]
        else:
            others.append(one)
    return _without_empty({"matchLabels": labels, "matchExpressions": _expressions(others)})


def _expressions(requirements: Iterable[Requirement]) -> list[dict[str, Any]]:
    return [
        {"key": one.key, "operator": str(one.operator), **_without_empty({"values": list(one.values)})}
        for one in requirements
    ]


def _without_empty(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value}
