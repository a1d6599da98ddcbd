"""Keys and values of the datapath's maps as bytes, and the constants of its programs. Pure.

The layouts are declared in C (`bpf/lib/*.h`); here they are written down a second time because packing through BTF
would cost more than the system call. `check` compares both, when a template is read and in a test without root: a
field that moves or changes its size in C stops the loader with a sentence instead of corrupting maps.

Integers are in the machine's byte order, addresses and ports in the network's.
"""

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address

from services.common.errors import Internal, InvalidArgument
from services.common.model import Address
from services.loader.btf import Btf, Field
from services.loader.model import Direction, PolicyEntry

ENDPOINT_KEY = struct.Struct("=16sI")
ENDPOINT_VALUE = struct.Struct("=IHHI8s8s")
POLICY_KEY = struct.Struct("=IIBB2s")
POLICY_VALUE = struct.Struct("=IIQQ")
METRICS_KEY = struct.Struct("=HBB")
METRICS_VALUE = struct.Struct("=QQ")
PACKET = struct.Struct("=20s20s28sIH2s2sBBBB2sI16s")
SLOT = struct.Struct("=I")

FAMILY_IPV4, FAMILY_IPV6 = 1, 2
ENDPOINT_FLAG_HOST = 1
POLICY_FLAG_DENY, POLICY_FLAG_ALLOW = 1, 2

# Bits of a policy key that an entry fixes, and that every packet has.
_PREFIX_IDENTITY, _PREFIX_PROTOCOL = 40, 48


class DropReason(IntEnum):
    """Why the datapath drops packets; `enum drop_reason` in bpf/lib/drop.h, without its prefix."""

    LINK_LOCAL_NOISE = 1
    ARP_TARGET = 2
    ARP_SENDER = 3
    ND_TARGET = 4
    ND_SENDER = 5
    IPV6_EXTENSIONS = 6
    INVALID_SOURCE_MAC = 130
    INVALID_SOURCE_IP = 132
    POLICY = 133
    INVALID_PACKET = 134
    UNKNOWN_L3 = 139
    PORTS_MISSING = 157
    POLICY_DENY = 181
    ENDPOINT_NOT_READY = 203


def reason_text(reason: int) -> str:
    """Return a drop reason as people read it: `invalid source ip`. Unknown ones keep their number."""
    try:
        return DropReason(reason).name.lower().replace("_", " ")
    except ValueError:
        return f"reason {reason}"


@dataclass(frozen=True, slots=True)
class EndpointEntry:
    """An entry of the endpoint map. `host`: the address is the node's own, everything else is then 0."""

    address: Address
    ifindex: int
    endpoint_id: int
    identity: int
    pod_mac: bytes
    host_mac: bytes
    host: bool = False


@dataclass(frozen=True, slots=True)
class PolicyCount:
    """A policy entry as the map has it, with its counters (0 unless `policy-accounting` is on)."""

    entry: PolicyEntry
    packets: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Metric:
    """A drop counter, summed over the CPUs."""

    endpoint_id: int
    direction: Direction
    reason: str
    packets: int
    bytes: int


def endpoint_key(address: Address) -> bytes:
    """Return the endpoint map's key of an address."""
    family = FAMILY_IPV4 if address.version == 4 else FAMILY_IPV6
    return ENDPOINT_KEY.pack(address.packed, family)


def endpoint_value(entry: EndpointEntry) -> bytes:
    """Return the endpoint map's value."""
    flags = ENDPOINT_FLAG_HOST if entry.host else 0
    return ENDPOINT_VALUE.pack(
        entry.ifindex, entry.endpoint_id, flags, entry.identity, _mac(entry.pod_mac), _mac(entry.host_mac)
    )


def read_endpoint(key: bytes, value: bytes) -> EndpointEntry:
    """Return the entry that key and value stand for."""
    packed, family = ENDPOINT_KEY.unpack(key)
    ifindex, endpoint_id, flags, identity, pod_mac, host_mac = ENDPOINT_VALUE.unpack(value)
    address: Address = IPv4Address(packed[:4]) if family == FAMILY_IPV4 else IPv6Address(packed)
    host = bool(flags & ENDPOINT_FLAG_HOST)
    return EndpointEntry(address, ifindex, endpoint_id, identity, pod_mac[:6], host_mac[:6], host)


def _mac(octets: bytes) -> bytes:
    """Return a struct mac_address: six octets and two of padding."""
    return octets.ljust(8, b"\0")


def policy_key(entry: PolicyEntry) -> bytes:
    """Return the policy map's key. Raises InvalidArgument for what an LPM key can't say."""
    for field, value, largest in (
        ("identity", entry.identity, 0xFFFFFFFF),
        ("protocol", entry.protocol, 0xFF),
        ("port", entry.port, 0xFFFF),
        ("port_prefix_length", entry.port_prefix_length, 16),
    ):
        if not 0 <= value <= largest:
            raise InvalidArgument(f"{field}: {value} is not in 0–{largest}", field=field)
    if entry.port_prefix_length and not entry.protocol:
        raise InvalidArgument(f"protocol: port {entry.port} needs a protocol", field="protocol")
    if entry.port & (0xFFFF >> entry.port_prefix_length):
        raise InvalidArgument(
            f"port: {entry.port} has bits set below its prefix of {entry.port_prefix_length} bits", field="port"
        )
    length = _PREFIX_PROTOCOL + entry.port_prefix_length if entry.protocol else _PREFIX_IDENTITY
    return POLICY_KEY.pack(length, entry.identity, entry.direction, entry.protocol, entry.port.to_bytes(2, "big"))


def policy_value(entry: PolicyEntry) -> bytes:
    """Return the policy map's value, its counters at 0."""
    return POLICY_VALUE.pack(POLICY_FLAG_DENY if entry.deny else POLICY_FLAG_ALLOW, 0, 0, 0)


def read_policy(key: bytes, value: bytes) -> PolicyCount:
    """Return the entry that key and value stand for."""
    length, identity, direction, protocol, port = POLICY_KEY.unpack(key)
    flags, _, packets, octets = POLICY_VALUE.unpack(value)
    entry = PolicyEntry(
        Direction(direction),
        identity,
        protocol,
        int.from_bytes(port, "big"),
        max(0, length - _PREFIX_PROTOCOL),
        bool(flags & POLICY_FLAG_DENY),
    )
    return PolicyCount(entry, packets, octets)


def read_metric(key: bytes, values: bytes) -> Metric:
    """Return a counter; `values` holds one value per possible CPU."""
    endpoint_id, reason, direction = METRICS_KEY.unpack(key)
    counts = list(METRICS_VALUE.iter_unpack(values))
    return Metric(
        endpoint_id,
        Direction(direction),
        reason_text(reason),
        sum(packets for packets, _ in counts),
        sum(octets for _, octets in counts),
    )


def endpoint_constants(
    *,
    endpoint_id: int,
    identity: int,
    addresses: Iterable[Address],
    gateways: Iterable[Address],
    pod_mac: bytes,
    host_mac: bytes,
    host_ifindex: int,
) -> dict[str, int | bytes]:
    """Return the constants of an endpoint's programs by their names in bpf/lib/endpoint_config.h.

    A family without an address is all zero, which takes its branches out of the program.
    """
    return {
        "endpoint_id": endpoint_id,
        "endpoint_identity": identity,
        "pod_mac": _mac(pod_mac),
        "host_mac": _mac(host_mac),
        "host_ifindex": host_ifindex,
        **_by_family("endpoint", addresses),
        **_by_family("gateway", gateways),
    }


def _by_family(prefix: str, addresses: Iterable[Address]) -> dict[str, bytes]:
    packed = {address.version: address.packed for address in addresses}
    return {f"{prefix}_ipv4": packed.get(4, bytes(4)), f"{prefix}_ipv6": packed.get(6, bytes(16))}


# What BTF must say: struct → its fields in order. Sizes follow from the struct.Struct's codes.
_STRUCTS: Mapping[str, tuple[struct.Struct, tuple[str, ...]]] = {
    "endpoint_key": (ENDPOINT_KEY, ("address", "family")),
    "endpoint_value": (ENDPOINT_VALUE, ("ifindex", "lxc_id", "flags", "identity", "pod_mac", "host_mac")),
    "policy_key": (POLICY_KEY, ("prefix_length", "identity", "direction", "protocol", "port")),
    "policy_value": (POLICY_VALUE, ("flags", "reserved", "packets", "bytes")),
    "metrics_key": (METRICS_KEY, ("endpoint_id", "reason", "direction")),
    "metrics_value": (METRICS_VALUE, ("packets", "bytes")),
    "packet": (
        PACKET,
        (
            "source",
            "destination",
            "to",
            "source_identity",
            "endpoint_id",
            "source_port",
            "destination_port",
            "protocol",
            "flags",
            "has_ports",
            "from_stack",
            "reserved",
            "l4_offset",
            "l4",
        ),
    ),
}
_ENUMS: Mapping[str, tuple[str, type[IntEnum]]] = {
    "drop_reason": ("DROP_", DropReason),
    "traffic_direction": ("DIRECTION_", Direction),
}


def differences(btf: Btf) -> list[str]:
    """Return what this module and an object's BTF disagree about, one sentence each."""
    found = []
    for name, (packer, names) in _STRUCTS.items():
        theirs, ours = btf.struct(name), (packer.size, _fields(packer, names))
        if theirs != ours:
            found.append(f"struct {name} is {_spell(*theirs)} in C and {_spell(*ours)} in Python")
    for name, (prefix, enum) in _ENUMS.items():
        _, values = btf.enum(name)
        wanted = {prefix + member.name: member.value for member in enum}
        if values != wanted:
            odd = sorted(set(values.items()) ^ set(wanted.items()))
            found.append(f"enum {name} differs between C and Python in {', '.join(f'{key}={at}' for key, at in odd)}")
    return found


def check(btf: Btf, object_name: str) -> None:
    """Raise Internal when an object's layouts are not the ones of this module."""
    found = differences(btf)
    if found:
        raise Internal(f"object {object_name} doesn't fit this loader: {'; '.join(found)}", object=object_name)


def _fields(packer: struct.Struct, names: tuple[str, ...]) -> list[Field]:
    offset, fields = 0, []
    for name, code in zip(names, _codes(packer.format), strict=True):
        size = struct.calcsize("=" + code)
        fields.append(Field(name, offset, size))
        offset += size
    return fields


def _codes(text: str) -> list[str]:
    """Split `=16sI` into `16s`, `I`."""
    codes, digits = [], ""
    for letter in text.lstrip("="):
        if letter.isdigit():
            digits += letter
            continue
        codes.append(digits + letter)
        digits = ""
    return codes


def _spell(size: int, fields: list[Field]) -> str:
    return f"{size} bytes ({', '.join(f'{field.name} {field.size} at {field.offset}' for field in fields)})"
