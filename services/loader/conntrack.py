"""Flows that the datapath tracks: keys and values of `podlane_conntrack` as values. Pure.

Each endpoint of this node has an entry of its own for a flow, seen from it: `local` is its end. What the bits mean and
who writes them stands in bpf/lib/conntrack.h; an entry is dead from the moment that it names.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from services.common.model import Address
from services.loader.layout import FAMILY_IPV4
from services.loader.model import Direction

KEY = struct.Struct("=16s16s2s2sHBB")
VALUE = struct.Struct("=QQB2sBI16s16s")

_HEAD = struct.Struct("=QQ")  # a value's end, and what policy has allowed
_TOLD = 19
_OWNER = 18  # where a key has its endpoint, in words of two bytes; a value begins with its end

# Halves of `allowed` and of the family's byte that hold an identity and a family.
_IDENTITY, _FAMILY = 0xFFFFFFFF, 3

_OPENED_SHIFT = 30
_BOTH_WAYS = struct.Struct("=QQ")
# Seconds without a packet after which an entry is dead, as bpf/lib/conntrack.h has them.
_LIFETIME_ESTABLISHED, _LIFETIME_OTHER, _LIFETIME_CLOSING = 8000, 60, 10

_TCP = 6
_FIN, _WITHOUT_SYN, _RST, _SEEN = 1, 2, 4, 0x80


class ConntrackState(IntEnum):
    """What a packet is to its flow; `enum conntrack_state`, without its prefix. The numbers are the API's, too."""

    NEW = 1
    ESTABLISHED = 2
    REPLY = 3
    RELATED = 4


class ConnectionChange(IntEnum):
    """What has become of a connection. The first two are `enum connection_change`, without its prefix; that one has
    expired without having been closed is the sweep's to find. The numbers are the API's, too.
    """

    OPENED = 1
    CLOSED = 2
    EXPIRED = 3


class FlowState(IntEnum):
    """How far a flow is; the numbers are the API's."""

    OPENING = 1
    """Not answered yet; or TCP in its handshake."""
    ESTABLISHED = 2
    CLOSING = 3


class Counts(NamedTuple):
    """What an entry has counted, into its endpoint and out of it; bytes as skbs are long, with Ethernet headers.

    All 0 where `flow-accounting` is off. Of an entry that took a dead one's place they go on from that one's.
    """

    packets_in: int = 0
    bytes_in: int = 0
    packets_out: int = 0
    bytes_out: int = 0

    def plus(self, other: "Counts") -> "Counts":
        """Return the sums."""
        return Counts(*(one + another for one, another in zip(self, other, strict=True)))

    @property
    def packets(self) -> int:
        """Both ways."""
        return self.packets_in + self.packets_out

    @property
    def bytes(self) -> int:
        """Both ways."""
        return self.bytes_in + self.bytes_out


@dataclass(frozen=True, slots=True)
class Flow:
    """One entry. `direction` is that of the packet that opened it, `expires_in` in seconds from when it was read.

    Ports are 0 of protocols that have none; the identifier of an ICMP echo is the port of the end that asks.
    `peer_identity` is 0 once policy has denied it. `opened` and `last` (its latest packet, to a second) are seconds of
    the monotonic clock.
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
    opened: float
    last: float
    counts: Counts
    told: int = 0
    """The ConnectionChange that listeners could have heard of last; 0: none."""


def read(key: bytes, value: bytes, now_ns: int) -> Flow | None:
    """Return what key and value stand for, None for a dead one and for one that policy has denied.

    `now_ns` is the monotonic clock's.
    """
    expires, allowed = _HEAD.unpack_from(value)
    return decode(key, value, now_ns) if expires > now_ns and allowed else None


def decode(key: bytes, value: bytes, now_ns: int) -> Flow:
    """Return what key and value stand for, also of a dead entry."""
    expires, allowed, direction, seen, told, opened, packets, octets = VALUE.unpack(value)
    local, remote, local_port, remote_port, endpoint_id, protocol, family = KEY.unpack(key)
    packets_in, packets_out = _BOTH_WAYS.unpack(packets)
    bytes_in, bytes_out = _BOTH_WAYS.unpack(octets)
    state = _state(protocol, *seen)
    return Flow(
        endpoint_id=endpoint_id,
        direction=Direction(direction),
        protocol=protocol,
        local=_address(local, family),
        local_port=int.from_bytes(local_port, "big"),
        remote=_address(remote, family),
        remote_port=int.from_bytes(remote_port, "big"),
        peer_identity=allowed & _IDENTITY,
        state=state,
        expires_in=(expires - now_ns) / 1e9,
        opened=(opened << _OPENED_SHIFT) / 1e9,
        last=expires / 1e9 - _lifetime(protocol, state, seen[1]),
        counts=Counts(packets_in, bytes_in, packets_out, bytes_out),
        told=told,
    )


def _lifetime(protocol: int, state: FlowState, replies: int) -> int:
    """Return by how many seconds its latest packet has put off an entry's end.

    As far as can be told: what an opener adds in the moment of the answer counts as not answered yet.
    """
    if state is FlowState.CLOSING:
        return _LIFETIME_CLOSING
    answered = protocol == _TCP and state is FlowState.ESTABLISHED and replies & _SEEN
    return _LIFETIME_ESTABLISHED if answered else _LIFETIME_OTHER


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


def is_open(value: bytes) -> bool:
    """Return whether listeners could have heard of the connection's opening, and not of its end."""
    return value[_TOLD] == ConnectionChange.OPENED
