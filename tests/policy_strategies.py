"""Generated worlds: namespaces, pods on two nodes, and NetworkPolicy documents about them.

Everything is drawn from small sets, so that selectors hit, blocks overlap and ports meet: a random label would select
nobody, and a test of that proves little.
"""

from ipaddress import ip_network
from typing import Any

from hypothesis import strategies as st

from tests.policy_oracle import Node, Outside, Pod, World

NAMESPACES = ("default", "shop")
_MOSTLY_DEFAULT = ("default", "default", "shop")
NODES = (Node("a", ("192.0.2.10", "2001:db8:1::a")), Node("b", ("192.0.2.11", "2001:db8:1::b")))
OUTSIDE = (
    Outside(("192.0.2.65", "2001:db8::1")),
    Outside(("192.0.2.130", "2001:db8:0:1::1")),
    Outside(("198.51.100.7",)),
)
PORTS: tuple[tuple[str, int | None], ...] = (
    ("TCP", 79),
    ("TCP", 80),
    ("TCP", 81),
    ("TCP", 8080),
    ("TCP", 65535),
    ("UDP", 53),
    ("UDP", 80),
    ("SCTP", 80),
    ("ICMP", None),
)
"""What is asked: at and beyond the ends of what is generated."""

_CIDRS = (
    *("0.0.0.0/0", "10.1.0.0/16", "10.1.0.0/30", "10.1.0.2/31", "10.1.0.2/32"),
    *("192.0.2.0/24", "192.0.2.0/28", "192.0.2.64/26", "192.0.2.65/32", "198.51.100.7/32"),
    *("::/0", "fd00:1::/64", "fd00:1::2/127", "fd00:1::3/128", "2001:db8::/32", "2001:db8::/64", "2001:db8:1::/64"),
)
_NUMBERS = (53, 79, 80, 81, 443, 8080, 65535)
_KEYS, _VALUES = ("app", "tier"), ("a", "b", "")
_TEAMS = ("x", "y")


def labels(keys: tuple[str, ...] = _KEYS, values: tuple[str, ...] = _VALUES) -> st.SearchStrategy[dict[str, str]]:
    """Generate labels."""
    return st.dictionaries(st.sampled_from(keys), st.sampled_from(values), max_size=len(keys))


@st.composite
def selectors(draw: st.DrawFn, keys: tuple[str, ...] = _KEYS, values: tuple[str, ...] = _VALUES) -> dict[str, Any]:
    """Generate a LabelSelector; many select everything, else two of them would seldom meet."""
    found: dict[str, Any] = {}
    what = draw(st.sampled_from(("all", "all", "labels", "expressions", "both")))
    if what in {"labels", "both"}:
        found["matchLabels"] = draw(labels(keys, values))
    if what in {"expressions", "both"}:
        found["matchExpressions"] = draw(st.lists(_expressions(keys, values), min_size=1, max_size=2))
    return found


@st.composite
def _expressions(draw: st.DrawFn, keys: tuple[str, ...], values: tuple[str, ...]) -> dict[str, Any]:
    operator = draw(st.sampled_from(("In", "NotIn", "Exists", "DoesNotExist")))
    found: dict[str, Any] = {"key": draw(st.sampled_from(keys)), "operator": operator}
    if operator in {"In", "NotIn"}:
        found["values"] = draw(st.lists(st.sampled_from(values), min_size=1, max_size=2))
    return found


def _namespace_selectors() -> st.SearchStrategy[dict[str, Any]]:
    return st.one_of(
        selectors(("team",), _TEAMS),
        st.sampled_from(NAMESPACES).map(lambda name: {"matchLabels": {"kubernetes.io/metadata.name": name}}),
    )


@st.composite
def ip_blocks(draw: st.DrawFn) -> dict[str, Any]:
    """Generate an IPBlock whose excepts are parts of its cidr."""
    cidr = draw(st.sampled_from(_CIDRS))
    parts = [one for one in _CIDRS if one != cidr and _is_part(one, cidr)]
    found: dict[str, Any] = {"cidr": cidr}
    if parts:
        found["except"] = draw(st.one_of(st.just([]), st.lists(st.sampled_from(parts), min_size=1, max_size=2)))
    return found


def _is_part(inner: str, outer: str) -> bool:
    one, other = ip_network(inner), ip_network(outer)
    return one.version == other.version and one.prefixlen > other.prefixlen and one.network_address in other


def _peers() -> st.SearchStrategy[dict[str, Any]]:
    return st.one_of(
        st.fixed_dictionaries({"podSelector": selectors()}),
        st.fixed_dictionaries({"namespaceSelector": _namespace_selectors()}),
        st.fixed_dictionaries({"podSelector": selectors(), "namespaceSelector": _namespace_selectors()}),
        st.fixed_dictionaries({"ipBlock": ip_blocks()}),
        st.fixed_dictionaries({"ipBlock": ip_blocks()}),
    )


@st.composite
def _ports(draw: st.DrawFn) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if draw(st.booleans()):
        found["protocol"] = draw(st.sampled_from(("TCP", "UDP", "SCTP")))
    what = draw(st.sampled_from(("any", "number", "number", "range", "range", "name", "name")))
    if what == "name":
        found["port"] = draw(st.sampled_from(("http", "dns")))
    elif what != "any":
        found["port"] = draw(st.sampled_from((1, *_NUMBERS)))
    if what == "range":
        found["endPort"] = draw(st.sampled_from([one for one in _NUMBERS if one >= found["port"]]))
    return found


def _rules(peers: str) -> st.SearchStrategy[dict[str, Any]]:
    some_peers, some_ports = st.lists(_peers(), min_size=1, max_size=2), st.lists(_ports(), min_size=1, max_size=2)
    return st.one_of(
        st.fixed_dictionaries({peers: some_peers}),
        st.fixed_dictionaries({peers: some_peers, "ports": some_ports}),
        st.fixed_dictionaries({"ports": some_ports}),
        st.sampled_from(({}, {peers: []}, {"ports": []}, {peers: [], "ports": []})),
    )


@st.composite
def policies(draw: st.DrawFn, name: str = "policy") -> dict[str, Any]:
    """Generate a NetworkPolicy document."""
    spec: dict[str, Any] = {"podSelector": draw(selectors())}
    types = draw(st.sampled_from((None, None, [], ["Ingress"], ["Egress"], ["Ingress", "Egress"])))
    if types is not None:
        spec["policyTypes"] = types
    for key, peers in (("ingress", "from"), ("egress", "to")):
        if draw(st.integers(0, 3)):
            spec[key] = draw(st.lists(_rules(peers), min_size=draw(st.integers(0, 1)), max_size=2))
    namespace = draw(st.sampled_from(_MOSTLY_DEFAULT))
    metadata = {"name": name, **({"namespace": namespace} if namespace != "default" else {})}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}


def port_sets() -> st.SearchStrategy[dict[str, tuple[str, int]]]:
    """Generate a pod's named ports."""
    ports = st.tuples(st.sampled_from(("TCP", "UDP")), st.sampled_from(_NUMBERS))
    return st.dictionaries(st.sampled_from(("http", "dns")), ports, max_size=2)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Generate a world. Pods with the same labels have the same named ports: identities can't tell them apart."""
    ports: dict[tuple[str, frozenset[tuple[str, str]]], dict[str, tuple[str, int]]] = {}
    pods = []
    for number in range(1, draw(st.integers(2, 5)) + 1):
        namespace, own = draw(st.sampled_from(_MOSTLY_DEFAULT)), draw(labels())
        key = (namespace, frozenset(own.items()))
        pods.append(
            Pod(
                namespace=namespace,
                name=f"pod-{number}",
                addresses=(f"10.1.0.{number}", f"fd00:1::{number}"),
                labels=own,
                ports=ports.setdefault(key, draw(port_sets())),
                node=draw(st.sampled_from(("a", "a", "b"))),
            )
        )
    return World(
        namespaces={name: draw(labels(("team",), _TEAMS)) for name in NAMESPACES},
        pods=tuple(pods),
        policies=tuple(draw(policies(f"policy-{number}")) for number in range(draw(st.integers(1, 6)))),
        nodes=NODES,
        allow_from_host=draw(st.booleans()),
        allow_to_host=draw(st.booleans()),
    )
