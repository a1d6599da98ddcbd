"""A packet's way through the programs as people read it, and the packet that a command line asks about. Pure."""

import random
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

from podlane.common.v1 import types_pb2
from podlane.endpoint.v1 import policy_pb2, trace_pb2
from podlane.loader.v1 import loader_pb2
from podlane.loader.v1 import trace_pb2 as loader_trace

from cli.endpoint import selector
from cli.policy_questions import parse_port
from cli.present import enum_name
from services.common.errors import InvalidArgument

PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
_ICMP = {4: 1, 6: 58}
_NAMES = {6: "TCP", 17: "UDP", 132: "SCTP", 1: "ICMP", 58: "ICMPv6"}
_WORLD = {4: "192.0.2.1", 6: "2001:db8::1"}
"""Addresses that are nobody's (RFC 5737, RFC 3849)."""
_FLAGS = ("fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr")


def read_end(text: str, version: int) -> Any:
    """Return an end of a packet: `node`, `world`, an address, an endpoint's id, namespace/pod."""
    if text == "node":
        return policy_pb2.PolicyEnd(node=True)
    try:
        return policy_pb2.PolicyEnd(address=read_address(_WORLD[version] if text == "world" else text))
    except ValueError:
        return policy_pb2.PolicyEnd(endpoint=selector(text))


def read_address(text: str) -> Any:
    """Return an address's message. Raises ValueError."""
    return types_pb2.IpAddress(packed=ip_address(text).packed)


def free_port(protocol: int) -> int:
    """Return a source port for a packet that is really sent, one of those that connections have."""
    return random.randrange(32768, 61000) if protocol in PROTOCOLS.values() else 0  # noqa: S311 # nobody need not guess it


def claimed_source(text: str) -> Any:
    """Return what a sender says that its address is. Raises InvalidArgument."""
    try:
        return read_address(text)
    except ValueError:
        raise InvalidArgument(f"--source: {text!r} is no address") from None


def describe(request: trace_pb2.TracePacketRequest) -> str:
    """Return a packet's protocol, port and flags in words."""
    name = _NAMES.get(request.protocol, f"protocol {request.protocol}")
    ports = f"{request.source_port} -> {request.port}/" if request.source_port else f"{request.port}/"
    flags = [word.upper() for bit, word in enumerate(_FLAGS) if (request.tcp_flags or 2) >> bit & 1]
    words = (f"{ports if request.port else ''}{name}", *(flags if request.protocol == 6 else ()))
    return " ".join(words) + (" echo request" if request.protocol in _ICMP.values() else "")


def read_protocol(protocol: str | None, port: str | None, version: int) -> tuple[int, int]:
    """Return protocol number and port (0: none) for `--protocol` and `--port`; either alone may say both."""
    if protocol is None:
        if port is None:
            raise InvalidArgument("--port or --protocol: say what to send: --port 443, --port 53/UDP, --protocol icmp")
        return parse_port(port, version)
    name = protocol.lower()
    if name in PROTOCOLS:
        if port is None or not port.isdigit():
            raise InvalidArgument(f"--port: {name} needs a port from 1 to 65535")
        return parse_port(f"{port}/{name}", version)
    if port is not None:
        raise InvalidArgument(f"--port: {protocol} has no ports")
    if name == "icmp":
        return _ICMP[version], 0
    if name.isdigit() and 0 < int(name) <= 255:
        return int(name), 0
    raise InvalidArgument(f"--protocol: {protocol!r} is neither {', '.join(PROTOCOLS)}, icmp nor a number to 255")


def read_flags(text: str) -> int:
    """Return TCP's flags for `syn,ack`. Raises InvalidArgument."""
    words = [word.strip().lower() for word in text.split(",") if word.strip()]
    for word in words:
        if word not in _FLAGS:
            raise InvalidArgument(f"--flags: {word!r} is no flag of TCP; there are {', '.join(_FLAGS)}")
    return sum(1 << _FLAGS.index(word) for word in set(words))


def lines(reply: trace_pb2.TracePacketResponse, what: str) -> Iterator[str]:
    """Yield a packet's way; `what` is its protocol and port in words."""
    source, destination = (ip_address(one.packed) for one in (reply.source, reply.destination))
    yield f"{_name(reply.source_name, source)} => {_name(reply.destination_name, destination)}, {what}"
    for number, named in enumerate(reply.steps, 1):
        yield ""
        yield from _step(number, named)
    yield ""
    yield f"{'passes' if reply.passed else 'DROPPED'}: {reply.outcome}"
    if reply.disagreements:
        yield "what follows from the maps is not what the programs in force did:"
        yield from (f"  {sentence}" for sentence in reply.disagreements)
    elif all(named.step.ran for named in reply.steps):
        yield "the programs in force did what follows from the maps"
    else:
        yield "the programs were not run: what another node tunnels can't be made up here; this follows from the maps"


def _name(name: str, address: Any) -> str:
    return name if name == str(address) else f"{name} ({address})"


def _step(number: int, named: trace_pb2.NamedStep) -> Iterator[str]:
    step = named.step
    program = f"program {step.program_id}, " if step.program_id else ""
    yield f"{number}. {step.program} ({program}{step.hook}), {_way(step.direction)} of {named.endpoint_name}"
    for lookup in step.lookups:
        entry = f": {_entry(lookup.entry)}" if lookup.HasField("entry") else ""
        yield f"   {lookup.map:<12} {lookup.key} -> {lookup.found or 'nothing'}{entry}"
    if named.rules:
        yield f"   {'rules':<12} {'; '.join(named.rules)}"
    if named.isolated_by:
        yield f"   {'isolated by':<12} {', '.join(named.isolated_by)}"
    for rewrite in step.rewrites:
        before = f"{rewrite.before} -> " if rewrite.before else ""
        yield f"   {'writes':<12} {rewrite.field}: {before}{rewrite.after}"
    if step.conntrack:
        yield f"   {'flow':<12} {enum_name(loader_pb2.DESCRIPTOR.enum_types_by_name['ConntrackState'], step.conntrack)}"
    verdict = enum_name(loader_trace.DESCRIPTOR.enum_types_by_name["TraceVerdict"], step.verdict)
    place = f" at {step.source}" if step.source else ""
    yield f"   {'verdict':<12} {verdict}: {step.next}{place}"


def _way(direction: int) -> str:
    return "egress" if direction == loader_pb2.TRAFFIC_DIRECTION_EGRESS else "ingress"


def _entry(entry: Any) -> str:
    """Return a policy entry in words."""
    who = f"identity {entry.identity}" if entry.identity else "anybody"
    what = _NAMES.get(entry.protocol, f"protocol {entry.protocol}") if entry.protocol else "anything"
    if entry.port_prefix_length == 16:
        what = f"{entry.port}/{what}"
    elif entry.port_prefix_length:
        what = f"{entry.port}-{entry.port | 0xFFFF >> entry.port_prefix_length}/{what}"
    return f"{who}, {what}"
