"""What bpf_lxc.c does with a packet, thought through from the maps: each program, what it asks, what it decides. Pure.

    egress       from_container, then policy of an endpoint of this node, or tunnel to another node, or the stack
    ingress      to_container, then policy
    overlay      from_overlay, then policy: what has come from another node

What all of them ask about a packet is replayadmit.py's.

It is a second reading of bpf/, and so may be wrong where that has changed. Whoever shows it to a person holds it
against what the programs in force did with the same packet (packettrace.py) and says where they differ.
"""

from services.common.model import Address
from services.loader.event import UDP, identity_name
from services.loader.layout import EndpointEntry, IpcacheEntry
from services.loader.model import Direction, EndpointSpec, Routing
from services.loader.probepacket import Probe
from services.loader.refusal import DropReason
from services.loader.replayadmit import Admission, is_on
from services.loader.replaysteps import Lookup, Node, Step, Tables, Verdict

HOST, WORLD = 1, 2


class Replay:
    """Thinks one packet through."""

    def __init__(self, tables: Tables, node: Node, probe: Probe) -> None:
        """Take a packet."""
        self._tables, self._node, self._probe = tables, node, probe
        self._admission = Admission(tables, probe)

    def egress(self, spec: EndpointSpec) -> list[Step]:
        """Return the steps of a packet that an endpoint sends."""
        probe = self._probe
        step = Step("from_container", spec.id, Direction.EGRESS, source_identity=spec.identity)
        if (refusal := _not_from_a_pod(spec, probe)) is not None:
            return [step.drop(refusal)]
        to = self._tables.endpoint(probe.destination)
        step.lookups.append(Lookup("endpoints", str(probe.destination), _endpoint_words(to)))
        there = None
        if to is None and self._node.routing is not Routing.ALONE:
            there = self._tables.ipcache(probe.destination)
            step.lookups.append(Lookup("ipcache", str(probe.destination), _ipcache_words(there)))
        known = to if to is not None else there
        step.destination_identity = known.identity if known is not None else WORLD
        by_stack = self._admission.admit(step, spec, step.destination_identity, probe.destination, from_stack=False)
        if step.verdict is Verdict.SHOT:
            return [step]
        return self._forward(step, spec, to, there, by_stack=by_stack)

    def _forward(
        self,
        step: Step,
        spec: EndpointSpec,
        to: EndpointEntry | None,
        there: IpcacheEntry | None,
        *,
        by_stack: bool,
    ) -> list[Step]:
        local = to is not None and not to.host
        if spec.chained:
            step.next = "up the node's stack, marked with its identity: another plugin takes it where it goes"
        elif local and to is not None and not (to.chained or by_stack or is_on(spec, "host-routing")):
            return self._deliver(step, to.endpoint_id)
        elif there is not None and there.node is not None and not by_stack and self._node.routing is Routing.OVERLAY:
            return self._tunnel(step, spec, there.node)
        elif self._is_forged():
            return [step.drop(DropReason.ENCAP_PROHIBITED)]
        elif by_stack:
            step.next = "up the node's stack: it answers what the stack has brought, and may have translated"
        elif local:
            step.next = "up the node's stack, which routes it to the destination's interface"
        elif to is not None:
            step.next = "up the node's stack: the address is the node's own"
        else:
            step.next = "up the node's stack, which routes it away"
        return [step]

    def _deliver(self, step: Step, id_: int) -> list[Step]:
        program = self._tables.slot(id_)
        step.lookups.append(Lookup("call_policy", str(id_), f"program {program}" if program is not None else ""))
        there = self._tables.spec(id_)
        if program is None or there is None:
            return [step.drop(DropReason.ENDPOINT_NOT_READY)]
        step.verdict, step.next = Verdict.TAIL_CALL, f"into call_policy[{id_}], the policy program of endpoint {id_}"
        return [step, self._policy(there, step.source_identity, from_stack=False)]

    def _tunnel(self, step: Step, spec: EndpointSpec, node: Address) -> list[Step]:
        program = self._tables.slot(0)
        step.lookups.append(Lookup("call_policy", "0", f"program {program}" if program is not None else ""))
        if program is None:
            return [step.drop(DropReason.NO_TUNNEL_ENDPOINT)]
        step.verdict, step.next = Verdict.TAIL_CALL, "into call_policy[0], the program that tunnels to other nodes"
        tunnel = Step("tunnel", spec.id, Direction.EGRESS, verdict=Verdict.REDIRECT)
        tunnel.source_identity, tunnel.destination_identity = step.source_identity, step.destination_identity
        tunnel.next = f"in VXLAN to node {node}, where from_overlay sees it: trace it on from there"
        return [step, tunnel]

    def _is_forged(self) -> bool:
        probe, overlay = self._probe, self._node.routing is Routing.OVERLAY
        return overlay and probe.protocol == UDP and probe.port == self._node.tunnel_port

    def ingress(self, spec: EndpointSpec, ifindex: int) -> list[Step]:
        """Return the steps of a packet that the node's stack sends to an endpoint; `ifindex`: where the node has
        received it, 0: it is the node's own.
        """
        probe = self._probe
        step = Step("to_container", spec.id, Direction.INGRESS, destination_identity=spec.identity)
        if not any(one.version == probe.source.version for one in spec.addresses):
            return [step.drop(DropReason.UNKNOWN_L3)]
        step.source_identity = self._sender(step, ifindex) if ifindex else HOST
        return self._own_policy(step, spec, from_stack=True)

    def _sender(self, step: Step, ifindex: int) -> int:
        source = self._probe.source
        found = self._tables.endpoint(source)
        step.lookups.append(Lookup("endpoints", str(source), _endpoint_words(found)))
        if found is not None and found.ifindex == ifindex:
            return found.identity
        if found is None and self._node.routing is not Routing.ALONE and ifindex == self._node.underlay_ifindex:
            there = self._tables.ipcache(source)
            step.lookups.append(Lookup("ipcache", str(source), _ipcache_words(there)))
            return there.identity if there is not None and there.node is None else WORLD
        return WORLD

    def overlay(self, spec: EndpointSpec, there: IpcacheEntry) -> list[Step]:
        """Return the steps of a packet that another node has tunnelled, as that node sends it."""
        probe = self._probe
        step = Step("from_overlay", spec.id, Direction.INGRESS, destination_identity=spec.identity)
        to = self._tables.endpoint(probe.destination)
        step.lookups.append(Lookup("endpoints", str(probe.destination), _endpoint_words(to)))
        if to is None:
            return [step.drop(DropReason.UNROUTABLE)]
        step.lookups.append(Lookup("ipcache", str(probe.source), _ipcache_words(there)))
        step.source_identity = there.identity
        return self._own_policy(step, spec, from_stack=False)

    def _own_policy(self, step: Step, spec: EndpointSpec, *, from_stack: bool) -> list[Step]:
        program = self._tables.slot(spec.id)
        step.lookups.append(Lookup("call_policy", str(spec.id), f"program {program}" if program is not None else ""))
        if program is None:
            return [step.drop(DropReason.ENDPOINT_NOT_READY)]
        step.verdict, step.next = Verdict.TAIL_CALL, f"into call_policy[{spec.id}], the endpoint's policy program"
        return [step, self._policy(spec, step.source_identity, from_stack=from_stack)]

    def _policy(self, spec: EndpointSpec, sender: int, *, from_stack: bool) -> Step:
        step = Step("policy", spec.id, Direction.INGRESS, source_identity=sender, destination_identity=spec.identity)
        self._admission.admit(step, spec, sender, self._probe.source, from_stack=from_stack)
        if step.verdict is not Verdict.SHOT:
            step.verdict = Verdict.OK if from_stack else Verdict.REDIRECT
            step.next = f"delivered to endpoint {spec.id}" + ("" if from_stack else ", straight into its namespace")
        return step


def _not_from_a_pod(spec: EndpointSpec, probe: Probe) -> DropReason | None:
    """Return why no pod may send a packet, or this one may not."""
    if not any(one.version == probe.source.version for one in spec.addresses):
        return DropReason.UNKNOWN_L3
    # is_multicast leaves out what is above 240.0.0.0, broadcast among it.
    group = probe.destination.packed[0] >= 0xE0 if probe.source.version == 4 else probe.destination.packed[0] == 0xFF
    if group or (probe.source.version == 6 and probe.destination.is_link_local):
        return DropReason.LINK_LOCAL_NOISE
    if is_on(spec, "source-ip-verification") and probe.source not in spec.addresses:
        return DropReason.INVALID_SOURCE_IP
    return None


def _endpoint_words(entry: EndpointEntry | None) -> str:
    if entry is None:
        return ""
    if entry.host:
        return "the node itself"
    chained = ", behind another plugin" if entry.chained else ""
    return f"endpoint {entry.endpoint_id}, identity {entry.identity}, interface {entry.ifindex}{chained}"


def _ipcache_words(entry: IpcacheEntry | None) -> str:
    if entry is None:
        return ""
    way = f"tunnelled to node {entry.node}" if entry.node is not None else "routed"
    return f"identity {identity_name(entry.identity)}, {way}"
