"""Reads the `spec` of a NetworkPolicy: what the API server's validation says of it, and its defaults. Pure.

A label filter goes through all of it, because a selector must not use a label that identities leave out: it could
never match, or (`NotIn`, `DoesNotExist`) always.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv6Network

from services.common.model import Network
from services.endpoint.policy import syntax
from services.endpoint.policy.entry import PROTOCOLS, TCP, Direction
from services.endpoint.policy.fields import Field, Fields
from services.endpoint.policy.labels import NAMESPACE_LABELS, SOURCE, LabelFilter
from services.endpoint.policy.networkpolicy import IPBlock, NetworkPolicy, Peer, PodPeer, PolicyName, Port, Rule
from services.endpoint.policy.selectors import LabelSelector, Operator, Requirement

_TYPES = {"Ingress": Direction.INGRESS, "Egress": Direction.EGRESS}
_VALUES_NEEDED = {Operator.IN, Operator.NOT_IN}
# Stands for a CIDR that is wrong; the document is refused, so nobody asks who is in it.
_NOWHERE = IPv6Network("100::/64")


def read_policy(name: PolicyName, spec: Field, labels: LabelFilter) -> NetworkPolicy:
    """Read a spec; its problems go into its book."""
    fields = spec.object({"podSelector", "policyTypes", "ingress", "egress"})
    reader = _Reader(labels)
    types = _types(fields)
    for key, direction in (("ingress", Direction.INGRESS), ("egress", Direction.EGRESS)):
        if key in fields and direction not in types:
            fields[key].warning(f"means nothing: policyTypes does not have {key.title()}")
    return NetworkPolicy(
        name=name,
        pod_selector=reader.selector(fields.get("podSelector"), SOURCE) or LabelSelector(),
        types=types,
        ingress=tuple(reader.rule(rule, "from") for rule in fields.list("ingress")),
        egress=tuple(reader.rule(rule, "to") for rule in fields.list("egress")),
    )


def read_protocol(fields: Fields) -> int:
    """Read `protocol`, of a rule's port or a container's; TCP when it is absent."""
    name = fields.string("protocol")
    if name is not None and name not in PROTOCOLS:
        fields["protocol"].problem(f"{syntax.quoted(name)} is no protocol; there are {', '.join(PROTOCOLS)}")
    return PROTOCOLS.get(name or "TCP", TCP)


def _types(fields: Fields) -> frozenset[Direction]:
    """Read policyTypes; without any: ingress, and egress when there are rules for it."""
    listed = fields.list("policyTypes")
    if len(listed) > len(_TYPES):
        fields["policyTypes"].problem(f"has {len(listed)} values, and there are only {' and '.join(_TYPES)}")
    for one in listed:
        one.string(lambda name: None if name in _TYPES else f"{syntax.quoted(name)} is neither {' nor '.join(_TYPES)}")
    if listed:
        return frozenset(_TYPES[one.text] for one in listed if one.text in _TYPES)
    with_egress = "egress" in fields and len(fields["egress"]) > 0
    return frozenset(Direction) if with_egress else frozenset({Direction.INGRESS})


@dataclass(frozen=True, slots=True)
class _Reader:
    labels: LabelFilter

    def rule(self, rule: Field, peers_key: str) -> Rule:
        """Read a NetworkPolicyIngressRule or NetworkPolicyEgressRule."""
        fields = rule.object({peers_key, "ports"})
        if peers_key in rule.keys and peers_key not in fields:
            rule.warning(f"{peers_key} is null, which means everybody: leave it out if that is meant")
        ports = tuple(_port(port) for port in fields.list("ports"))
        peers = []
        for where in fields.list(peers_key):
            peers.append(self.peer(where))
            if peers_key == "to" and isinstance(peers[-1], IPBlock) and any(isinstance(one.port, str) for one in ports):
                where.warning("named ports match nothing here: an ipBlock is addresses, and only pods name their ports")
        return Rule(tuple(peers), ports)

    def peer(self, peer: Field) -> Peer:
        """Read a NetworkPolicyPeer."""
        fields = peer.object({"podSelector", "namespaceSelector", "ipBlock"})
        if peer.is_object and not fields:
            peer.problem("must have podSelector, namespaceSelector or ipBlock")
        if "ipBlock" not in fields:
            return PodPeer(
                self.selector(fields.get("podSelector"), SOURCE),
                self.selector(fields.get("namespaceSelector"), NAMESPACE_LABELS),
            )
        if len(fields) > 1:
            peer.problem("may have ipBlock or selectors, not both")
        return _ip_block(fields["ipBlock"])

    def selector(self, selector: Field | None, prefix: str) -> LabelSelector | None:
        """Read a LabelSelector; `prefix` makes its keys those of identity labels."""
        if selector is None:
            return None
        fields = selector.object({"matchLabels", "matchExpressions"})
        found = []
        for key, value in fields.map("matchLabels").items():
            value.problem(self._judge_key(key, prefix))
            found.append(Requirement(key, Operator.IN, (value.string(syntax.label_value) or "",)))
        for expression in fields.list("matchExpressions"):
            found += self._expression(expression, prefix)
        return LabelSelector.of(*found)

    def _expression(self, expression: Field, prefix: str) -> Iterator[Requirement]:
        fields = expression.object({"key", "operator", "values"}, required=("key", "operator"))
        key = fields.string("key", lambda key: self._judge_key(key, prefix))
        name = fields.string("operator", _judge_operator)
        values = {value for one in fields.list("values") if (value := one.string(syntax.label_value)) is not None}
        if key is None or name not in set(Operator):
            return
        operator = Operator(name)
        if operator in _VALUES_NEEDED and not len(fields.get("values", ())):
            expression.problem(f"operator {operator} needs values")
        if operator not in _VALUES_NEEDED and len(fields.get("values", ())):
            fields["values"].problem(f"operator {operator} has no values")
        yield Requirement(key, operator, tuple(sorted(values)))

    def _judge_key(self, key: str, prefix: str) -> str | None:
        wrong = syntax.label_key(key)
        if wrong is None and not self.labels.keeps(prefix + key):
            return f"no selector sees the label {key}, because it is left out of identities: see the setting for labels"
        return wrong


def _judge_operator(name: str) -> str | None:
    return None if name in set(Operator) else f"{syntax.quoted(name)} is no operator; there are {', '.join(Operator)}"


def _ip_block(block: Field) -> IPBlock:
    fields = block.object({"cidr", "except"}, required=("cidr",))
    cidr = _cidr(fields["cidr"]) if "cidr" in fields else None
    excepts: list[Network] = []
    for one in fields.list("except"):
        inner = _cidr(one)
        if cidr is None or inner is None:
            continue
        if inner.prefixlen <= cidr.prefixlen or inner.network_address not in cidr:
            one.problem(f"{inner} must be a part of {cidr}, and smaller than it")
        excepts.append(inner)
    return IPBlock(cidr or _NOWHERE, tuple(excepts))


def _cidr(where: Field) -> Network | None:
    text = where.string()
    if text is None:
        return None
    found = syntax.cidr(text)
    if isinstance(found, str):
        where.problem(found)
        return None
    if syntax.has_host_bits(text):
        where.warning(f"{text} has bits set beyond its length: it means {found}")
    return found


def _port(port: Field) -> Port:
    """Read a NetworkPolicyPort."""
    fields = port.object({"protocol", "port", "endPort"})
    protocol = read_protocol(fields)
    end = fields.integer("endPort", syntax.port_number)
    where = fields.get("port")
    if where is None or where.text is not None:
        if "endPort" in fields:
            needs = "port, the first of the range" if where is None else "numbers at both ends, and port is a name"
            fields["endPort"].problem(f"needs {needs}")
        return Port(protocol, where.string(syntax.port_name) if where is not None else None)
    number = where.integer(syntax.port_number)
    if number is not None and end is not None and end < number:
        fields["endPort"].problem(f"{end} is smaller than port, {number}")
    return Port(protocol, number, end)
