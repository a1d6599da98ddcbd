"""Who may talk to whom, read straight off the documentation of networking.k8s.io/v1 NetworkPolicy. Slow on purpose.

This shares nothing with the resolver: it takes the documents as they are written (what YAML or JSON says, as dicts and
lists), walks through all of them for every question, and knows neither identities nor prefixes nor maps. Whatever
enforces policy must give the same answers.

    world = World(namespaces={"shop": {"team": "a"}}, pods=(web, client), policies=({"kind": "NetworkPolicy", …},))
    allowed(world, Probe(client, web, 4, "TCP", 8080))
    truth_table(world, probes(world, outside=(Outside(…),), ports=(("TCP", 80), ("ICMP", None))))

Where the documentation leaves a choice, it is written down at the line that makes it.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

Document = Mapping[str, Any]


@dataclass(frozen=True)
class Node:
    """A node of the cluster as somebody who talks: its processes, and pods in its network."""

    name: str
    addresses: tuple[str, ...]


@dataclass(frozen=True)
class Pod:
    """A pod. `ports` are its containers' named ports: name → (protocol, number)."""

    namespace: str
    name: str
    addresses: tuple[str, ...]
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    ports: Mapping[str, tuple[str, int]] = field(default_factory=dict, hash=False)
    node: str = "node"


@dataclass(frozen=True)
class Outside:
    """Somebody outside of the cluster."""

    addresses: tuple[str, ...]


End = Node | Pod | Outside


@dataclass(frozen=True)
class World:
    """Everything that decides. `namespaces` are names and labels; `policies` are documents."""

    namespaces: Mapping[str, Mapping[str, str]]
    pods: tuple[Pod, ...]
    policies: tuple[Document, ...]
    nodes: tuple[Node, ...] = ()
    allow_from_host: bool = True
    allow_to_host: bool = False


@dataclass(frozen=True)
class Probe:
    """A new connection: `version` of IP, `protocol` by name; `port` is the destination's, None for ICMP."""

    source: End
    destination: End
    version: int
    protocol: str
    port: int | None


def probes(world: World, outside: Iterable[Outside], ports: Iterable[tuple[str, int | None]]) -> Iterator[Probe]:
    """Yield every question that a pod is part of: all pairs of ends, both families, all ports."""
    ends: list[End] = [*world.pods, *world.nodes, *outside]
    listed = list(ports)
    for source in ends:
        for destination in ends:
            if source is destination or not (isinstance(source, Pod) or isinstance(destination, Pod)):
                continue
            for version in (4, 6):
                if address_of(source, version) and address_of(destination, version):
                    for protocol, port in listed:
                        yield Probe(source, destination, version, protocol, port)


def truth_table(world: World, questions: Iterable[Probe]) -> dict[Probe, bool]:
    """Answer all questions."""
    return {probe: allowed(world, probe) for probe in questions}


def allowed(world: World, probe: Probe) -> bool:
    """Answer one question.

    "For a connection from a source pod to a destination pod to be allowed, both the egress policy on the source pod and
    the ingress policy on the destination pod need to allow the connection."
    """
    if probe.source == probe.destination:
        return True  # "a Pod cannot block access to itself"
    return _side_allows(world, probe, "Egress") and _side_allows(world, probe, "Ingress")


def address_of(end: End, version: int) -> str | None:
    """Return an end's address of a family."""
    return next((one for one in end.addresses if ip_address(one).version == version), None)


def _side_allows(world: World, probe: Probe, policy_type: str) -> bool:
    """Ask the policies of the pod on one side about the other side."""
    ingress = policy_type == "Ingress"
    pod, peer = (probe.destination, probe.source) if ingress else (probe.source, probe.destination)
    if not isinstance(pod, Pod):
        return True  # NetworkPolicy is about pods that have a network of their own
    isolating = [one for one in world.policies if _selects(one, pod) and policy_type in policy_types(one)]
    if not isolating:
        return True
    own_node = isinstance(peer, Node) and peer.name == pod.node
    if own_node and (world.allow_from_host if ingress else world.allow_to_host):
        return True
    return any(
        _rule_allows(world, policy, rule, probe, ingress=ingress)
        for policy in isolating
        for rule in policy["spec"].get(policy_type.lower()) or ()
    )


def policy_types(policy: Document) -> list[str]:
    """Return the types that count.

    "If no policyTypes are specified on a NetworkPolicy then by default Ingress will always be set and Egress will be
    set if the NetworkPolicy has any egress rules."
    """
    spec = policy["spec"]
    return list(spec.get("policyTypes") or (["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]))


def namespace_of(policy: Document) -> str:
    """Return a policy's namespace; kubectl's default one is `default`."""
    return str(policy["metadata"].get("namespace") or "default")


def _selects(policy: Document, pod: Pod) -> bool:
    """Return whether the policy applies to the pod: "an empty podSelector selects all pods in the namespace"."""
    return namespace_of(policy) == pod.namespace and _matches(policy["spec"].get("podSelector") or {}, pod.labels)


def _rule_allows(world: World, policy: Document, rule: Document, probe: Probe, *, ingress: bool) -> bool:
    """A rule allows what matches both its from/to section and its ports section; an absent one matches all."""
    peer = probe.source if ingress else probe.destination
    peers, ports = rule.get("from" if ingress else "to") or (), rule.get("ports") or ()
    if not ports:
        return not peers or any(_peer_matches(world, policy, one, peer, probe.version) for one in peers)
    for port in ports:
        by_name = isinstance(port.get("port"), str)
        if not _port_matches(port, probe):
            continue
        # An ipBlock is addresses, and addresses have no names for ports: in egress such a pair matches nothing. The
        # documentation doesn't say so; it speaks of "a numerical or named port on a pod".
        usable = [one for one in peers if not (by_name and not ingress and "ipBlock" in one)]
        if not peers or any(_peer_matches(world, policy, one, peer, probe.version) for one in usable):
            return True
    return False


def _port_matches(port: Document, probe: Probe) -> bool:
    """Return whether a NetworkPolicyPort matches: protocol, and port, or range, or name on the destination pod."""
    protocol = port.get("protocol") or "TCP"
    if probe.protocol != protocol:
        return False
    wanted = port.get("port")
    if wanted is None:
        return True
    if isinstance(wanted, str):
        named = probe.destination.ports if isinstance(probe.destination, Pod) else {}
        return named.get(wanted) == (protocol, probe.port)
    last = port.get("endPort")
    return probe.port is not None and wanted <= probe.port <= (wanted if last is None else last)


def _peer_matches(world: World, policy: Document, peer: Document, end: End, version: int) -> bool:
    """Return whether a NetworkPolicyPeer matches."""
    if peer.get("ipBlock") is not None:
        address = ip_address(address_of(end, version) or "")
        block = peer["ipBlock"]
        within = _contains(block["cidr"], address)
        return within and not any(_contains(one, address) for one in block.get("except") or ())
    if not isinstance(end, Pod):
        return False
    pods, namespaces = peer.get("podSelector"), peer.get("namespaceSelector")
    if namespaces is None:
        # "Otherwise it selects the pods matching podSelector in the policy's own namespace."
        in_namespace = end.namespace == namespace_of(policy)
    else:
        labels = {**world.namespaces.get(end.namespace, {}), "kubernetes.io/metadata.name": end.namespace}
        in_namespace = _matches(namespaces, labels)
    return in_namespace and (pods is None or _matches(pods, end.labels))


def _contains(cidr: str, address: Any) -> bool:
    network = ip_network(cidr, strict=False)
    return network.version == address.version and address in network


def _matches(selector: Document, labels: Mapping[str, str]) -> bool:
    """LabelSelector: "matchLabels and matchExpressions are ANDed. An empty label selector matches all objects."."""
    for key, value in (selector.get("matchLabels") or {}).items():
        if key not in labels or labels[key] != value:
            return False
    for one in selector.get("matchExpressions") or ():
        key, values = one["key"], one.get("values") or ()
        holds = {
            "In": key in labels and labels[key] in values,
            "NotIn": key not in labels or labels[key] not in values,
            "Exists": key in labels,
            "DoesNotExist": key not in labels,
        }
        if not holds[one["operator"]]:
            return False
    return True
