"""Between PolicyService's messages and this service's values. Reading checks all and names the field."""

from collections.abc import Iterable, Mapping

from podlane.common.v1 import types_pb2 as types
from podlane.endpoint.v1 import policy_pb2 as pb
from podlane.loader.v1 import loader_pb2

from services.common import wire
from services.common.errors import InvalidArgument
from services.endpoint.enforce import Effect
from services.endpoint.messages import read_selector
from services.endpoint.observed import Flow, Probe
from services.endpoint.peer_messages import write_policy_entry
from services.endpoint.policy import syntax
from services.endpoint.policy.desired import EndpointPolicy
from services.endpoint.policy.document import DocumentKind, DocumentName, to_json
from services.endpoint.policy.entry import PROTOCOLS, Direction
from services.endpoint.policy.explain import Decision, Packet
from services.endpoint.policy.labelchanges import LabelChange
from services.endpoint.policy.labels import DEFAULT_NAMESPACE
from services.endpoint.policy.networkpolicy import NetworkPolicy, Problem
from services.endpoint.policy.repository import Stored
from services.endpoint.policychange import Outcome
from services.endpoint.policyview import End, EndpointDiff, Explained, IdentityView

MAX_TEXT = 4 << 20


def read_text(text: str) -> str:
    """Return a text of documents."""
    if len(text.encode()) > MAX_TEXT:
        raise InvalidArgument(f"text: more than {MAX_TEXT >> 20} MiB: split it", field="text")
    return text


def read_name(message: pb.DocumentName, field: str) -> DocumentName:
    """Return what a document is known by."""
    try:
        kind = DocumentKind(message.kind)
    except ValueError:
        words = ", ".join(map(str, DocumentKind))
        raise InvalidArgument(f"{field}.kind: a kind of document is needed: {words}", field=f"{field}.kind") from None
    if wrong := syntax.dns_name(message.name):
        raise InvalidArgument(f"{field}.name: {wrong}", field=f"{field}.name")
    if kind is DocumentKind.NAMESPACE:
        return DocumentName(kind, "", message.name)
    return DocumentName(kind, message.namespace or DEFAULT_NAMESPACE, message.name)


def write_name(name: DocumentName) -> pb.DocumentName:
    """Return the message of a name."""
    return pb.DocumentName(kind=pb.DocumentKind.ValueType(name.kind), namespace=name.namespace, name=name.name)


def write_document(stored: Stored, endpoints: Iterable[int], *, whole: bool) -> pb.Document:
    """Return the message of a document; `whole`: with its text."""
    document = stored.document
    types_ = sorted(document.types) if isinstance(document, NetworkPolicy) else ()
    return pb.Document(
        name=write_name(stored.name),
        source=stored.source,
        applied=wire.write_time(stored.applied),
        json=to_json(document) if whole else "",
        endpoints=endpoints,
        directions=[loader_pb2.TrafficDirection.ValueType(one) for one in types_],
    )


def write_outcomes(outcomes: Mapping[DocumentName, Outcome]) -> list[pb.AppliedDocument]:
    """Return what became of documents."""
    return [
        pb.AppliedDocument(name=write_name(name), change=pb.AppliedDocument.Change.ValueType(outcome))
        for name, outcome in outcomes.items()
    ]


def write_problems(problems: Iterable[Problem]) -> list[pb.Problem]:
    """Return the messages of mistakes or warnings."""
    return [pb.Problem(line=one.line, document=one.document, path=one.path, message=one.message) for one in problems]


def write_effect(effect: Effect, seconds: float) -> pb.PolicyEffect:
    """Return what a change came to; `seconds` since the request."""
    return pb.PolicyEffect(
        endpoints=len(effect.endpoints),
        entries_added=effect.added,
        entries_removed=effect.removed,
        duration_us=round(seconds * 1e6),
        failures=effect.failures,
    )


def write_diff(one: EndpointDiff) -> pb.EndpointDiff:
    """Return what would change for an endpoint."""
    difference = one.difference
    ingress, egress = difference.isolation[Direction.INGRESS], difference.isolation[Direction.EGRESS]
    return pb.EndpointDiff(
        id=one.endpoint.id,
        pod=wire.write_pod(one.endpoint.spec.pod),
        added=difference.added,
        removed=difference.removed,
        cut=[pb.FlowCut(flow=_write_flow(flow), summary=words) for flow, words in one.cut],
        ingress_before=ingress[0],
        ingress_after=ingress[1],
        egress_before=egress[0],
        egress_after=egress[1],
    )


def _write_flow(flow: Flow) -> loader_pb2.ConntrackEntry:
    return loader_pb2.ConntrackEntry(
        endpoint_id=flow.endpoint_id,
        direction=loader_pb2.TrafficDirection.ValueType(flow.direction),
        protocol=flow.protocol_name,
        protocol_number=flow.protocol,
        local=wire.write_address(flow.local),
        local_port=flow.local_port,
        remote=wire.write_address(flow.remote),
        remote_port=flow.remote_port,
        peer_identity=flow.peer_identity,
    )


def read_end(message: pb.PolicyEnd, field: str) -> End:
    """Return an end of a packet."""
    match message.WhichOneof("end"):
        case "endpoint":
            return End(endpoint=read_selector(message.endpoint))
        case "address":
            return End(address=wire.read_address(message.address, f"{field}.address"))
        case "node" if message.node:
            return End(node=True)
    raise InvalidArgument(f"{field}: an endpoint, an address or `node: true` is needed", field=field)


def read_packet(request: pb.ExplainPolicyRequest) -> tuple[int, int | None, int]:
    """Return protocol, port (None: the protocol has none) and IP version (0: whichever both ends have)."""
    if not 0 < request.protocol <= 0xFF:
        raise InvalidArgument(f"protocol: {request.protocol} is no IP protocol number (1–255)", field="protocol")
    has_ports = request.protocol in PROTOCOLS.values()
    if has_ports != (0 < request.port <= 0xFFFF):
        needs = "a port from 1 to 65535 is needed" if has_ports else "this protocol has no ports"
        raise InvalidArgument(f"port: {request.port}: {needs}", field="port")
    versions = {types.IP_FAMILY_UNSPECIFIED: 0, types.IP_FAMILY_IPV4: 4, types.IP_FAMILY_IPV6: 6}
    if request.family not in versions:
        raise InvalidArgument(f"family: {request.family} is neither IPv4 nor IPv6", field="family")
    return request.protocol, request.port or None, versions[request.family]


def write_explained(one: Explained) -> pb.ExplainPolicyResponse:
    """Return an explanation."""
    told = one.explanation
    return pb.ExplainPolicyResponse(
        allowed=told.allowed,
        lines=told.lines,
        egress=_write_decision(told.egress, told.packets[0]) if told.egress is not None else None,
        ingress=_write_decision(told.ingress, told.packets[1]) if told.ingress is not None else None,
        probe=_write_probe(one.probe) if one.probe is not None else None,
        unchecked=one.unchecked,
        agrees=one.agrees,
    )


def write_wanted(id_: int, policy: EndpointPolicy) -> pb.ListPolicyEntriesResponse:
    """Return what an endpoint's map is to hold."""
    return pb.ListPolicyEntriesResponse(
        id=id_,
        entries=[
            pb.WantedPolicyEntry(entry=write_policy_entry(one), origins=map(str, policy.origins(one)))
            for one in policy.entries()
        ],
    )


def _write_decision(decision: Decision, packet: Packet) -> pb.PolicyDecision:
    return pb.PolicyDecision(
        allowed=decision.allowed,
        entry=write_policy_entry(decision.entry) if decision.entry is not None else None,
        origins=map(str, decision.origins),
        peer_identity=packet.identity,
        peer_prefix_identity=packet.cidr_identity,
    )


def _write_probe(probe: Probe) -> loader_pb2.ProbeEndpointResponse:
    return loader_pb2.ProbeEndpointResponse(
        passed=probe.passed,
        endpoint_id=probe.endpoint_id,
        direction=loader_pb2.TrafficDirection.ValueType(probe.direction),
        reason=probe.reason,
        source=probe.source,
        source_identity=probe.source_identity,
        destination_identity=probe.destination_identity,
    )


def read_label_changes(messages: Iterable[pb.LabelChange]) -> list[LabelChange]:
    """Return an operator's word about labels; what it says is checked where it is understood."""
    return [LabelChange(one.key, one.value if one.HasField("value") else None, one.remove) for one in messages]


def write_identity(one: IdentityView) -> pb.Identity:
    """Return the message of an identity."""
    return pb.Identity(
        id=one.id,
        labels=one.labels,
        endpoints=one.endpoints,
        prefix=wire.write_network(one.prefix) if one.prefix is not None else None,
        expires_in_seconds=round(one.expires_in),
        policies=map(str, one.policies),
    )
