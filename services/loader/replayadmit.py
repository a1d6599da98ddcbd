"""What all programs have in common, thought through as replay.py does: may this packet pass? Pure.

    connection tracking   the flow's entry, if its address family and protocol are tracked: it passes what policy has
                          allowed under the present revision, and answers to that
    policy                three questions: the rules of the peer's identity, of anybody, of the longest known prefix

A deny anywhere decides; without any answer the packet is dropped. See bpf/lib/conntrack.h and bpf/lib/policy.h.
"""

from collections.abc import Iterable

from services.common.model import Address
from services.loader import conntrack
from services.loader.conntrack import ConntrackState
from services.loader.event import ICMP, ICMPV6, TCP, WITH_PORTS, identity_name, protocol_name
from services.loader.headers import OPTIONS
from services.loader.layout import FAMILY_IPV4, FAMILY_IPV6
from services.loader.model import Direction, EndpointSpec, PolicyEntry
from services.loader.probepacket import Probe
from services.loader.refusal import DropReason
from services.loader.replaysteps import Lookup, Step, Tables

_ASKS = 4  # CONNTRACK_ASKS
_FIN, _SYN, _RST, _ACK = 1, 2, 4, 16
_SEEN_FROM_STACK = 0x40
_WAY = {Direction.EGRESS: "egress to", Direction.INGRESS: "ingress from"}


class Admission:
    """Whether one packet may pass, for whichever program asks."""

    def __init__(self, tables: Tables, probe: Probe) -> None:
        """Take a packet."""
        self._tables, self._probe = tables, probe

    def admit(self, step: Step, spec: EndpointSpec, peer: int, address: Address, *, from_stack: bool) -> bool:
        """Decide as admit() does; return whether the packet answers what the stack has brought."""
        passes = by_stack = False
        if is_on(spec, "conntrack"):
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
                passes = bool(reply and is_open) or (current and not is_on(spec, "policy-accounting"))
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


def is_on(spec: EndpointSpec, option: str) -> bool:
    """Return whether an endpoint's programs were made with a switch on."""
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
