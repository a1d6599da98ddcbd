"""What bpf_lxc.c does with a packet, thought through from the maps: each program, what it asks, what it decides. Pure.

    egress       from_container, then policy of an endpoint of this node, or tunnel to another node, or the stack
    ingress      to_container, then policy
    overlay      from_overlay, then policy: what has come from another node

It is a second reading of bpf/, and so may be wrong where that has changed. Whoever shows it to a person holds it
against what the programs in force did with the same packet (packettrace.py) and says where they differ.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol

from services.common.model import Address, Network
from services.loader import conntrack
from services.loader.conntrack import ConntrackState
from services.loader.event import ICMP, ICMPV6, TCP, UDP, WITH_PORTS, identity_name, protocol_name
from services.loader.headers import OPTIONS
from services.loader.layout import FAMILY_IPV4, FAMILY_IPV6, EndpointEntry, IpcacheEntry
from services.loader.model import Direction, EndpointSpec, PolicyEntry, Routing
from services.loader.probepacket import Probe
from services.loader.refusal import DropReason, reason_text

HOST, WORLD = 1, 2
_ASKS = 4  # CONNTRACK_ASKS
_FIN, _SYN, _RST, _ACK = 1, 2, 4, 16
_SEEN_FROM_STACK = 0x40
_WAY = {Direction.EGRESS: "egress to", Direction.INGRESS: "ingress from"}


class Verdict(IntEnum):
    """How a program ends; the numbers are the API's."""

    OK = 1
    REDIRECT = 2
    SHOT = 3
    TAIL_CALL = 4


@dataclass(frozen=True, slots=True)
class Lookup:
    """A question to a map, and its answer in words; empty: nothing."""

    map: str
    key: str
    found: str = ""
    entry: PolicyEntry | None = None


@dataclass(slots=True)
class Step:
    """What one program does. `conntrack` 0: it didn't come to that, or nothing is tracked."""

    program: str
    endpoint_id: int
    direction: Direction
    lookups: list[Lookup] = field(default_factory=list)
    verdict: Verdict = Verdict.OK
    reason: str = ""
    conntrack: int = 0
    source_identity: int = 0
    destination_identity: int = 0
    next: str = ""
    flow_key: bytes = b""

    def drop(self, reason: DropReason) -> "Step":
        """Let it end with a drop."""
        self.verdict, self.reason = Verdict.SHOT, reason_text(reason)
        self.next = f"dropped: {self.reason}"
        return self


class Tables(Protocol):
    """The maps, asked as the programs ask them."""

    def endpoint(self, address: Address) -> EndpointEntry | None:
        """Ask podlane_endpoints."""

    def ipcache(self, address: Address) -> IpcacheEntry | None:
        """Ask podlane_ipcache."""

    def prefix(self, address: Address) -> tuple[Network, int] | None:
        """Ask podlane_prefixes for the longest one."""

    def policy(self, endpoint_id: int) -> Sequence[PolicyEntry]:
        """Return an endpoint's rules."""

    def flow(self, key: bytes) -> bytes | None:
        """Ask podlane_conntrack."""

    def slot(self, endpoint_id: int) -> int | None:
        """Ask podlane_call_policy; 0: the tunnel."""

    def spec(self, endpoint_id: int) -> EndpointSpec | None:
        """Return what an endpoint's programs were made of."""

    @property
    def revision(self) -> int:
        """Policy's revision."""

    @property
    def now(self) -> int:
        """Nanoseconds of the monotonic clock."""


@dataclass(frozen=True, slots=True)
class Node:
    """What programs know of the node: how others are reached, by which port, the index of the device to them."""

    routing: Routing = Routing.ALONE
    tunnel_port: int = 0
    underlay_ifindex: int = 0


class Replay:
    """Thinks one packet through."""

    def __init__(self, tables: Tables, node: Node, probe: Probe) -> None:
        """Take a packet."""
        self._tables, self._node, self._probe = tables, node, probe

    # ── the programs ──

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
        by_stack = self._admit(step, spec, step.destination_identity, probe.destination, from_stack=False)
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
        elif local and to is not None and not (to.chained or by_stack or _is_on(spec, "host-routing")):
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
        self._admit(step, spec, sender, self._probe.source, from_stack=from_stack)
        if step.verdict is not Verdict.SHOT:
            step.verdict = Verdict.OK if from_stack else Verdict.REDIRECT
            step.next = f"delivered to endpoint {spec.id}" + ("" if from_stack else ", straight into its namespace")
        return step

    # ── what they have in common ──

    def _admit(self, step: Step, spec: EndpointSpec, peer: int, address: Address, *, from_stack: bool) -> bool:
        """Decide as admit() does; return whether the packet answers what the stack has brought."""
        passes = by_stack = False
        if _is_on(spec, "conntrack"):
            passes, by_stack = self._find_flow(step, spec, peer, from_stack=from_stack)
        if not passes:
            self._ask_policy(step, spec, peer, address)
        return by_stack

    def _find_flow(self, step: Step, spec: EndpointSpec, peer: int, *, from_stack: bool) -> tuple[bool, bool]:
        probe, direction = self._probe, step.direction
        key = flow_key(probe, spec.id, direction)
        step.conntrack = ConntrackState.NEW
        if not key:
            step.lookups.append(Lookup("conntrack", f"{protocol_name(probe.protocol)}", "not tracked"))
            return False, False
        step.flow_key = key
        raw = self._tables.flow(key)
        state, passes, by_stack, words = ConntrackState.NEW, False, False, ""
        if raw is not None:
            expires, allowed, opener, seen, *_ = conntrack.VALUE.unpack(raw)
            reply = (opener ^ direction) & 1
            if expires <= self._tables.now:
                words = "an entry that has expired"
            elif self._begins_anew(seen, reply, from_stack=from_stack):
                words = "an entry that this SYN replaces"
            else:
                state = ConntrackState.REPLY if reply else ConntrackState.ESTABLISHED
                is_open, by_stack = bool(allowed & 0xFFFFFFFF), bool(reply and seen[0] & _SEEN_FROM_STACK)
                current = allowed == (self._tables.revision << 32 | peer) & (1 << 64) - 1
                passes = bool(reply and is_open) or (current and not _is_on(spec, "policy-accounting"))
                words = f"a flow: this packet is {state.name.lower()}" + _flow_words(
                    is_open=is_open, passes=passes, current=current
                )
        step.conntrack = state
        step.lookups.append(Lookup("conntrack", _flow_name(probe, spec.id), words))
        return passes, by_stack

    def _begins_anew(self, seen: bytes, reply: int, *, from_stack: bool) -> bool:
        """Return whether a TCP packet opens a connection in a flow's place, as conntrack_follow() sees it."""
        flags = self._probe.flags
        if self._probe.protocol != TCP or flags & (_SYN | _ACK) != _SYN:
            return False
        mine, other = seen[reply] | (_SEEN_FROM_STACK if from_stack else 0), seen[reply ^ 1]
        return bool(reply or (mine | other) & _RST or mine & other & _FIN)

    def _ask_policy(self, step: Step, spec: EndpointSpec, peer: int, address: Address) -> None:
        rules = self._tables.policy(spec.id)
        found = [self._ask_rules(step, rules, peer), self._ask_rules(step, rules, 0)]
        prefix = self._tables.prefix(address)
        words = f"{prefix[0]}, identity {prefix[1]}" if prefix is not None else ""
        step.lookups.append(Lookup("prefixes", str(address), words))
        if prefix is not None:
            found.append(self._ask_rules(step, rules, prefix[1]))
        answers = [one for one in found if one is not None]
        if any(one.deny for one in answers):
            step.drop(DropReason.POLICY_DENY)
        elif not answers:
            step.drop(DropReason.POLICY)

    def _ask_rules(self, step: Step, rules: Iterable[PolicyEntry], identity: int) -> PolicyEntry | None:
        probe = self._probe
        matching = [one for one in rules if one.direction is step.direction and one.identity == identity]
        matching = [one for one in matching if _matches(one, probe)]
        entry = max(matching, key=_length, default=None)
        who = f"identity {identity_name(identity)}" if identity else "anybody"
        what = f"{probe.port}/" if probe.protocol in WITH_PORTS else ""
        key = f"{_WAY[step.direction]} {who}, {what}{protocol_name(probe.protocol)}"
        words = ("denies" if entry.deny else "allows") if entry is not None else ""
        step.lookups.append(Lookup("policy", key, words, entry))
        return entry


def flow_key(probe: Probe, endpoint_id: int, direction: Direction) -> bytes:
    """Return the key of a packet's flow as one of its ends has it, as flow_write() does; empty: it isn't tracked."""
    echo = probe.protocol in {ICMP, ICMPV6}
    if echo and (probe.protocol == ICMP) != (probe.source.version == 4):
        return b""
    out = direction is Direction.EGRESS
    family = FAMILY_IPV4 if probe.source.version == 4 else FAMILY_IPV6
    ports = (probe.source_port, probe.port) if probe.protocol in WITH_PORTS else (0, 0)
    ends = (probe.source.packed, probe.destination.packed)
    local, remote = ends if out else ends[::-1]
    local_port, remote_port = ports if out else ports[::-1]
    return conntrack.KEY.pack(
        local,
        remote,
        local_port.to_bytes(2, "big"),
        remote_port.to_bytes(2, "big"),
        endpoint_id,
        probe.protocol,
        family + (_ASKS if echo and out else 0),
    )


def _not_from_a_pod(spec: EndpointSpec, probe: Probe) -> DropReason | None:
    """Return why no pod may send a packet, or this one may not."""
    if not any(one.version == probe.source.version for one in spec.addresses):
        return DropReason.UNKNOWN_L3
    # is_multicast leaves out what is above 240.0.0.0, broadcast among it.
    group = probe.destination.packed[0] >= 0xE0 if probe.source.version == 4 else probe.destination.packed[0] == 0xFF
    if group or (probe.source.version == 6 and probe.destination.is_link_local):
        return DropReason.LINK_LOCAL_NOISE
    if _is_on(spec, "source-ip-verification") and probe.source not in spec.addresses:
        return DropReason.INVALID_SOURCE_IP
    return None


def _is_on(spec: EndpointSpec, option: str) -> bool:
    return spec.options.get(option, OPTIONS[option].default)


def _matches(entry: PolicyEntry, probe: Probe) -> bool:
    if not entry.protocol:
        return True
    if entry.protocol != probe.protocol:
        return False
    if probe.protocol not in WITH_PORTS and probe.protocol not in {ICMP, ICMPV6}:
        return entry.port_prefix_length == 0
    port = probe.port if probe.protocol in WITH_PORTS else (8 if probe.protocol == ICMP else 128)
    beyond = 16 - entry.port_prefix_length
    return port >> beyond == entry.port >> beyond


def _length(entry: PolicyEntry) -> tuple[bool, int]:
    return entry.protocol > 0, entry.port_prefix_length


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


def _flow_words(*, is_open: bool, passes: bool, current: bool) -> str:
    if passes:
        return ", and passes without a question"
    if not is_open:
        return ", and policy has denied the flow"
    return "" if current else ", and policy has changed since it was allowed"


def _flow_name(probe: Probe, endpoint_id: int) -> str:
    ports = probe.protocol in WITH_PORTS
    source = _end(probe.source, probe.source_port) if ports else str(probe.source)
    destination = _end(probe.destination, probe.port) if ports else str(probe.destination)
    return f"{source} -> {destination} {protocol_name(probe.protocol)} of endpoint {endpoint_id}"


def _end(address: Address, port: int) -> str:
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
