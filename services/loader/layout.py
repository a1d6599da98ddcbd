"""Keys and values of the datapath's maps as bytes, and the constants of its programs. Pure.

The layouts are declared in C (`bpf/lib/*.h`); here they are written down a second time because packing through BTF
would cost more than the system call. layoutcheck.py compares both.

Integers are in the machine's byte order, addresses and ports in the network's.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_network

from services.common.errors import InvalidArgument
from services.common.model import Address, Network
from services.loader.model import Direction, PolicyEntry
from services.loader.refusal import reason_text

ENDPOINT_KEY = struct.Struct("=16sI")
ENDPOINT_VALUE = struct.Struct("=IHHI8s8s")
IPCACHE_VALUE = struct.Struct("=IHHI16s")
UNDERLAY = struct.Struct("=II16s")
POLICY_KEY = struct.Struct("=IIBB2s")
POLICY_VALUE = struct.Struct("=IIQQ")
PREFIX_KEY = struct.Struct("=II16s")
PREFIX_VALUE = struct.Struct("=I")
METRICS_KEY = struct.Struct("=HBB")
METRICS_VALUE = struct.Struct("=QQ")
SLOT = struct.Struct("=I")
REVISION = struct.Struct("=Q")

FAMILY_IPV4, FAMILY_IPV6 = 1, 2
ENDPOINT_FLAG_HOST, ENDPOINT_FLAG_CHAINED, ENDPOINT_FLAG_HOST_ROUTED = 1, 8, 16
IPCACHE_FLAG_TUNNELLED, IPCACHE_FLAG_IPV6 = 2, 4
POLICY_FLAG_DENY, POLICY_FLAG_ALLOW = 1, 2

# By the length of a node's address; 0: none.
_IPCACHE_FLAGS = {0: 0, 4: IPCACHE_FLAG_TUNNELLED, 16: IPCACHE_FLAG_TUNNELLED | IPCACHE_FLAG_IPV6}

# Bits of a prefix key before the address: its family.
_PREFIX_FAMILY = 32
# Bits of a policy key that an entry fixes, and that every packet has.
_PREFIX_IDENTITY, _PREFIX_PROTOCOL = 40, 48


@dataclass(frozen=True, slots=True)
class EndpointEntry:
    """An entry of the endpoint map. `host`: the address is the node's own, everything else is then 0. `chained`: the
    way to it is the node's stack; `host_routed`: this is so by an option.
    """

    address: Address
    ifindex: int
    endpoint_id: int
    identity: int
    pod_mac: bytes
    host_mac: bytes
    host: bool = False
    chained: bool = False
    host_routed: bool = False


@dataclass(frozen=True, slots=True)
class IpcacheEntry:
    """An entry of the ipcache. `node`: the address that packets to it are tunnelled to, None: it is routed to."""

    address: Address
    identity: int
    node: Address | None = None


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
    flags = (
        ENDPOINT_FLAG_HOST * entry.host
        | ENDPOINT_FLAG_CHAINED * entry.chained
        | ENDPOINT_FLAG_HOST_ROUTED * entry.host_routed
    )
    return ENDPOINT_VALUE.pack(
        entry.ifindex, entry.endpoint_id, flags, entry.identity, _mac(entry.pod_mac), _mac(entry.host_mac)
    )


def read_address(key: bytes) -> Address:
    """Return the address of an endpoint map's key."""
    packed, family = ENDPOINT_KEY.unpack(key)
    return IPv4Address(packed[:4]) if family == FAMILY_IPV4 else IPv6Address(packed)


def read_endpoint(key: bytes, value: bytes) -> EndpointEntry:
    """Return the entry that key and value stand for."""
    address = read_address(key)
    ifindex, endpoint_id, flags, identity, pod_mac, host_mac = ENDPOINT_VALUE.unpack(value)
    return EndpointEntry(
        address,
        ifindex,
        endpoint_id,
        identity,
        pod_mac[:6],
        host_mac[:6],
        host=bool(flags & ENDPOINT_FLAG_HOST),
        chained=bool(flags & ENDPOINT_FLAG_CHAINED),
        host_routed=bool(flags & ENDPOINT_FLAG_HOST_ROUTED),
    )


def _mac(octets: bytes) -> bytes:
    """Return a struct mac_address: six octets and two of padding."""
    return octets.ljust(8, b"\0")


def ipcache_value(entry: IpcacheEntry) -> bytes:
    """Return the ipcache's value."""
    return ipcache_packed(entry.identity, entry.node.packed if entry.node is not None else b"")


def ipcache_packed(identity: int, node: bytes) -> bytes:
    """Return the ipcache's value; `node` is the address of a node, packed, empty: none."""
    return IPCACHE_VALUE.pack(0, 0, _IPCACHE_FLAGS[len(node)], identity, node)


def read_ipcache(key: bytes, value: bytes) -> IpcacheEntry:
    """Return the entry that key and value stand for."""
    _, _, flags, identity, node = IPCACHE_VALUE.unpack(value)
    if not flags & IPCACHE_FLAG_TUNNELLED:
        return IpcacheEntry(read_address(key), identity)
    remote: Address = IPv6Address(node) if flags & IPCACHE_FLAG_IPV6 else IPv4Address(node[:4])
    return IpcacheEntry(read_address(key), identity, remote)


def underlay(ifindex: int, overlay_ifindex: int, address: Address) -> bytes:
    """Return what programs are told of the way to other nodes."""
    return UNDERLAY.pack(ifindex, overlay_ifindex, address.packed)


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


def prefix_key(network: Network) -> bytes:
    """Return the prefix map's key of an address prefix."""
    family = FAMILY_IPV4 if network.version == 4 else FAMILY_IPV6
    return PREFIX_KEY.pack(_PREFIX_FAMILY + network.prefixlen, family, network.network_address.packed)


def read_prefix(key: bytes, value: bytes) -> tuple[Network, int]:
    """Return the prefix and the identity that key and value stand for."""
    length, family, address = PREFIX_KEY.unpack(key)
    packed = address[:4] if family == FAMILY_IPV4 else address
    return ip_network((packed, length - _PREFIX_FAMILY)), PREFIX_VALUE.unpack(value)[0]


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


def sum_metrics(counters: Iterable[Metric]) -> list[Metric]:
    """Return drop counters summed up over endpoints, by direction and reason, as of endpoint 0."""
    sums: dict[tuple[Direction, str], tuple[int, int]] = {}
    for one in counters:
        packets, octets = sums.get((one.direction, one.reason), (0, 0))
        sums[one.direction, one.reason] = (packets + one.packets, octets + one.bytes)
    return [Metric(0, *where, *counts) for where, counts in sums.items()]


def subtract_metric(one: Metric, before: Metric | None) -> Metric:
    """Return what a counter has counted since it was `before`; None: it wasn't there."""
    if before is None:
        return one
    return replace(one, packets=one.packets - before.packets, bytes=one.bytes - before.bytes)


def endpoint_constants(
    *,
    endpoint_id: int,
    identity: int,
    addresses: Iterable[Address],
    gateways: Iterable[Address],
    pod_mac: bytes,
    host_mac: bytes,
    host_ifindex: int,
    chained: bool = False,
) -> dict[str, int | bytes]:
    """Return the constants and variables of an endpoint's programs by their names in bpf/lib/endpoint_config.h.

    A family without an address is all zero, and its branches are taken out of the program.
    """
    addresses = tuple(addresses)
    families = {address.version for address in addresses}
    return {
        "endpoint_has_ipv4": int(4 in families),
        "endpoint_has_ipv6": int(6 in families),
        "endpoint_id": endpoint_id,
        "endpoint_identity": identity,
        "pod_mac": _mac(pod_mac),
        "host_mac": _mac(host_mac),
        "host_ifindex": host_ifindex,
        "endpoint_chained": int(chained),
        **_by_family("endpoint", addresses),
        **_by_family("gateway", gateways),
    }


def _by_family(prefix: str, addresses: Iterable[Address]) -> dict[str, bytes]:
    packed = {address.version: address.packed for address in addresses}
    return {f"{prefix}_ipv4": packed.get(4, bytes(4)), f"{prefix}_ipv6": packed.get(6, bytes(16))}
