"""A reader of packets by the RFCs, which knows nothing of how the programs in bpf/ read them.

It looks at a whole frame and follows however many headers there are, copies and recurses: an oracle, not a model of
the datapath.
"""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from services.common.model import Address

ARP, IPV4, IPV6 = 0x0806, 0x0800, 0x86DD
ICMP, TCP, UDP, ICMPV6, SCTP = 1, 6, 17, 58, 132
HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION = 0, 43, 44, 60
SYN, ACK = 2, 16

_ERRORS = {ICMP: {3, 11, 12}, ICMPV6: {1, 2, 3, 4}}
_ECHO = {(ICMP, 8): True, (ICMP, 0): False, (ICMPV6, 128): True, (ICMPV6, 129): False}


@dataclass(frozen=True)
class Read:
    """What an IP packet is. `ports`: of the protocols that have them, None in a packet that ends before or is a later
    fragment. `kind`: an ICMP message's type. `rest` begins with the transport header, as far as it is there.
    """

    source: Address
    destination: Address
    protocol: int
    ports: tuple[int, int] | None
    kind: int | None
    hop_limit: int
    behind_extensions: bool
    rest: bytes

    @property
    def port(self) -> int | None:
        """What a policy entry's port is held against: the destination's, or an ICMP type."""
        return self.ports[1] if self.ports else self.kind

    @property
    def opens_tcp(self) -> bool:
        """Whether it is a SYN without an ACK, or has no flags and may be one."""
        return self.protocol == TCP and (len(self.rest) < 14 or self.rest[13] & (SYN | ACK) == SYN)

    @property
    def flow(self) -> tuple[object, ...] | None:
        """Which flow it is part of, as its sender sees it: source, destination; None of what is part of none."""
        if self.kind is not None:
            asks = _ECHO.get((self.protocol, self.kind)) if self._is_of_family else None
            number = int.from_bytes(self.rest[4:6], "big")
            return None if asks is None else (self.protocol, self.source, self.destination, number, asks)
        if self.protocol in {TCP, UDP, SCTP}:
            return (self.protocol, self.source, self.destination, *self.ports) if self.ports else None
        return (self.protocol, self.source, self.destination) if len(self.rest) >= 8 else None

    @property
    def quoted(self) -> "Read | None":
        """The packet that an ICMP error is about."""
        if self.kind is None or self.kind not in _ERRORS[self.protocol] or not self._is_of_family:
            return None
        return read_ip(self.rest[8:], self.source.version)

    @property
    def _is_of_family(self) -> bool:
        return self.protocol == {4: ICMP, 6: ICMPV6}[self.source.version]


def opposite(flow: tuple[object, ...]) -> tuple[object, ...]:
    """Return a flow's name in packets that go the other way."""
    protocol, source, destination, *more = flow
    if protocol in {ICMP, ICMPV6}:
        number, asks = more
        return (protocol, destination, source, number, not asks)
    return (protocol, destination, source, *reversed(more))


def ethertype(frame: bytes) -> int:
    """Return a frame's EtherType, that of a VLAN tag if it has one."""
    return int.from_bytes(frame[12:14], "big")


def read(frame: bytes) -> Read | None:
    """Return what a frame carries; None when that is no IP packet, or a broken one."""
    version = {IPV4: 4, IPV6: 6}.get(ethertype(frame))
    return read_ip(frame[14:], version) if version else None


def read_ip(packet: bytes, version: int) -> Read | None:
    """Return what an IP packet of this version is; None for a broken one."""
    if len(packet) < (20 if version == 4 else 40) or packet[0] >> 4 != version:
        return None
    return _read_ipv4(packet) if version == 4 else _read_ipv6(packet)


def _read_ipv4(packet: bytes) -> Read | None:
    words = packet[0] & 15
    if words < 5:
        return None
    later = bool(int.from_bytes(packet[6:8], "big") & 0x1FFF)
    rest = b"" if later else packet[4 * words :]
    ends = IPv4Address(packet[12:16]), IPv4Address(packet[16:20])
    return _finish(*ends, packet[9], packet[8], behind=False, rest=rest)


def _read_ipv6(packet: bytes) -> Read | None:
    ends = IPv6Address(packet[8:24]), IPv6Address(packet[24:40])
    protocol, rest, behind = packet[6], packet[40:], False
    while protocol in {HOP_BY_HOP, ROUTING, DESTINATION, FRAGMENT}:
        if len(rest) < 8:
            return None
        behind = True
        length = 8 if protocol == FRAGMENT else 8 * (rest[1] + 1)
        if protocol == FRAGMENT and int.from_bytes(rest[2:4], "big") & 0xFFF8:
            return _finish(*ends, rest[0], packet[7], behind=True, rest=b"")
        protocol, rest = rest[0], rest[length:]
    return _finish(*ends, protocol, packet[7], behind=behind, rest=rest)


def _finish(source: Address, destination: Address, protocol: int, hop_limit: int, *, behind: bool, rest: bytes) -> Read:
    whole = len(rest) >= 8  # the shortest header that has a port or a type
    ports = kind = None
    if protocol in {TCP, UDP, SCTP} and whole:
        ports = (int.from_bytes(rest[0:2], "big"), int.from_bytes(rest[2:4], "big"))
    if protocol in {ICMP, ICMPV6} and whole:
        kind = rest[0]
    return Read(source, destination, protocol, ports, kind, hop_limit, behind, rest)


def internet_sum(content: bytes) -> int:
    """Return the checksum of RFC 1071."""
    padded = content + b"\0" * (len(content) % 2)
    total = sum(high << 8 | low for high, low in zip(padded[::2], padded[1::2], strict=True))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF
