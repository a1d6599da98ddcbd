"""Flows that the datapath tracks: keys and values of `podlane_conntrack` as values. Pure.

Each endpoint of this node has an entry of its own for a flow, seen from it: `local` is its end. What the bits mean and
who writes them stands in bpf/lib/conntrack.h; an entry is dead from the moment that it names.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address

from services.common.model import Address
from services.loader.layout import FAMILY_IPV4
from services.loader.model import Direction

KEY = struct.Struct("=16s16s2s2sHBB")
VALUE = struct.Struct("=QQB2sB4s16s16s")

_OWNER = 18  # where a key has its endpoint, in words of two bytes; a value begins with its end

# Halves of `allowed` and of the family's byte that hold an identity and a family.
_IDENTITY, _FAMILY = 0xFFFFFFFF, 3

_TCP = 6
_FIN, _WITHOUT_SYN, _RST, _SEEN = 1, 2, 4, 0x80


class ConntrackState(IntEnum):
    """What a packet is to its flow; `enum conntrack_state`, without its prefix. The numbers are the API's, too."""

    NEW = 1
    ESTABLISHED = 2
    REPLY = 3
    RELATED = 4


class FlowState(IntEnum):
    """How far a flow is; the numbers are the API's."""

    OPENING = 1
    """Not answered yet; or TCP in its handshake."""
    ESTABLISHED = 2
    CLOSING = 3


@dataclass(frozen=True, slots=True)
class Flow:
    """One live entry. `direction` is that of the packet that opened it, `expires_in` in seconds from when it was read.

    Ports are 0 of protocols that have none; the identifier of an ICMP echo is the port of the end that asks. Packets
    and bytes count both ways, and only where `policy-accounting` is on.
    """

    endpoint_id: int
    direction: Direction
    protocol: int
    local: Address
    local_port: int
    remote: Address
    remote_port: int
    peer_identity: int
    state: FlowState
    expires_in: float
    packets: int
    bytes: int


def read(key: bytes, value: bytes, now_ns: int) -> Flow | None:
    """Return what key and value stand for, None for a dead one and for one that policy has denied.

    `now_ns` is the monotonic clock's.
    """
    expires, allowed, direction, seen, _, packets, octets = VALUE.unpack(value)
    if expires <= now_ns or not allowed:
        return None
    local, remote, local_port, remote_port, endpoint_id, protocol, family = KEY.unpack(key)
    return Flow(
        endpoint_id=endpoint_id,
        direction=Direction(direction),
        protocol=protocol,
        local=_address(local, family),
        local_port=int.from_bytes(local_port, "big"),
        remote=_address(remote, family),
        remote_port=int.from_bytes(remote_port, "big"),
        peer_identity=allowed & _IDENTITY,
        state=_state(protocol, *seen),
        expires_in=(expires - now_ns) / 1e9,
        packets=packets,
        bytes=octets,
    )


def _address(packed: bytes, family: int) -> Address:
    return IPv4Address(packed[:4]) if family & _FAMILY == FAMILY_IPV4 else IPv6Address(packed)


def _state(protocol: int, opener: int, replies: int) -> FlowState:
    if protocol == _TCP:
        if (opener | replies) & _RST or opener & replies & _FIN:
            return FlowState.CLOSING
        if not (opener | replies) & _WITHOUT_SYN:
            return FlowState.OPENING
    return FlowState.ESTABLISHED if replies & _SEEN else FlowState.OPENING


def owners(keys: bytes) -> list[int]:
    """Return the endpoint of each of these keys, which lie one after the other."""
    return memoryview(keys).cast("H")[_OWNER :: KEY.size // 2].tolist()


def ends(values: bytes) -> list[int]:
    """Return when each of these entries expires, nanoseconds of the monotonic clock."""
    return memoryview(values).cast("Q")[:: VALUE.size // 8].tolist()
