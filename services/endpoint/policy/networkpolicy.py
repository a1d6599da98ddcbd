"""Kubernetes' documents as values: NetworkPolicy (networking.k8s.io/v1), and what policy needs of Namespace and Pod.

Pure. Values hold what a document means, not how it was written: defaults are filled in as the API server does it,
prefixes are networks, protocols are numbers. `parse.py` makes them, and nothing checks them again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from services.common.model import Network
from services.endpoint.policy.entry import Direction, protocol_name
from services.endpoint.policy.selectors import LabelSelector


class PolicyName(NamedTuple):
    """What a policy is known by."""

    namespace: str
    name: str

    def __str__(self) -> str:
        """Return `namespace/name`."""
        return f"{self.namespace}/{self.name}"


class NamedPort(NamedTuple):
    """A port that a pod's container gives a name (ContainerPort). `protocol` is an IP protocol number."""

    name: str
    protocol: int
    port: int


@dataclass(frozen=True, slots=True)
class PodPeer:
    """Pods as peers (NetworkPolicyPeer). At least one is set; None is absent, which differs from empty.

    Only `pods`: pods of the policy's own namespace. Only `namespaces`: all pods of these. Both: these pods there.
    """

    pods: LabelSelector | None = None
    namespaces: LabelSelector | None = None

    def __str__(self) -> str:
        """Return it in words."""
        return ", ".join(
            f"{field_} {selector}"
            for field_, selector in (("namespaceSelector", self.namespaces), ("podSelector", self.pods))
            if selector is not None
        )


@dataclass(frozen=True, slots=True)
class IPBlock:
    """The addresses within `cidr` that are in none of `excepts`."""

    cidr: Network
    excepts: tuple[Network, ...] = ()

    def __str__(self) -> str:
        """Return it in words."""
        return f"ipBlock {self.cidr}" + (f" except {', '.join(map(str, self.excepts))}" if self.excepts else "")


Peer = PodPeer | IPBlock


@dataclass(frozen=True, slots=True)
class Port:
    """A port of a rule. `port` a number, a name, or None: all of the protocol. `end_port` only with a number."""

    protocol: int
    port: int | str | None = None
    end_port: int | None = None

    def __str__(self) -> str:
        """Return it in words."""
        if self.port is None:
            return f"any port/{protocol_name(self.protocol)}"
        end = f"-{self.end_port}" if self.end_port is not None else ""
        return f"{self.port}{end}/{protocol_name(self.protocol)}"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: traffic of any of the peers to any of the ports. No peers: everybody. No ports: all traffic."""

    peers: tuple[Peer, ...] = ()
    ports: tuple[Port, ...] = ()


@dataclass(frozen=True, slots=True)
class NetworkPolicy:
    """A policy. `types` are the directions in which it isolates the pods it selects; rules of others mean nothing."""

    name: PolicyName
    pod_selector: LabelSelector
    types: frozenset[Direction]
    ingress: tuple[Rule, ...] = ()
    egress: tuple[Rule, ...] = ()

    def rules(self, direction: Direction) -> tuple[Rule, ...]:
        """Return the rules of a direction, which count if it is one of the types."""
        return self.ingress if direction is Direction.INGRESS else self.egress


@dataclass(frozen=True, slots=True)
class NamespaceDocument:
    """A Namespace: its name and labels."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PodDocument:
    """A Pod: its name, labels and named ports. With `host_network` it has no endpoint: its traffic is the node's."""

    namespace: str
    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    named_ports: frozenset[NamedPort] = frozenset()
    host_network: bool = False


@dataclass(frozen=True, slots=True)
class Documents:
    """All that a text holds, in its order. `warnings` are about what is right and yet perhaps not what was meant."""

    policies: tuple[NetworkPolicy, ...] = ()
    namespaces: tuple[NamespaceDocument, ...] = ()
    pods: tuple[PodDocument, ...] = ()
    warnings: tuple["Problem", ...] = ()


class Problem(NamedTuple):
    """What is wrong in a text. `line` counts from 1; `document` is like `NetworkPolicy shop/web`, or a number."""

    line: int
    document: str
    path: str
    message: str

    def __str__(self) -> str:
        """Return it as a compiler would: `line 12: NetworkPolicy shop/web: spec.ingress[0].ports[1].port: …`."""
        return ": ".join(part for part in (f"line {self.line}", self.document, self.path, self.message) if part)
