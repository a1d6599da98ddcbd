"""Packets that nobody has sent, to ask the programs about: each is the first of a connection. Pure.

    TCP              SYN
    UDP              no data
    SCTP             INIT
    ICMP, ICMPv6     echo request
    any other        an empty header: as many zeros as the programs look at

The source's port is 0 unless another is asked for, and so is an echo's identifier: no real connection has it, so that a
probe never meets one that is under way. TCP's flags, too, may be others. Checksums are right, and the
TTL is a fresh packet's.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass

from services.common.model import Address
from services.loader.event import ICMP, ICMPV6, SCTP, TCP, UDP, WITH_PORTS, Event

_ETHER_TYPES = {4: b"\x08\x00", 6: b"\x86\xdd"}
_TTL = 64
SYN, _WINDOW = 0x02, 65535
_CRC32C = 0x82F63B78  # Castagnoli's polynomial, reflected (RFC 9260, appendix A)


@dataclass(frozen=True, slots=True)
class Probe:
    """A connection that somebody might open. Ports are 0 of protocols without; `flags` are TCP's."""

    source: Address
    destination: Address
    protocol: int
    port: int = 0
    source_port: int = 0
    flags: int = SYN


def frame(probe: Probe, source_mac: bytes, destination_mac: bytes) -> bytes:
    """Return the packet as an Ethernet frame. Both addresses are of one family."""
    payload = _PAYLOADS.get((probe.source.version, probe.protocol), _empty)(probe)
    header = _ipv4 if probe.source.version == 4 else _ipv6
    return destination_mac + source_mac + _ETHER_TYPES[probe.source.version] + header(probe, len(payload)) + payload


def is_probe(seen: Event, probe: Probe) -> bool:
    """Tell whether a packet that the programs have seen is the probe."""
    ends = (seen.source, seen.source_port, seen.destination, seen.protocol)
    port = seen.destination_port if probe.protocol in WITH_PORTS else probe.port
    return ends == (probe.source, probe.source_port, probe.destination, probe.protocol) and port == probe.port


def _ipv4(probe: Probe, length: int) -> bytes:
    words = struct.pack("!BBHHHBB", 0x45, 0, 20 + length, 0, 0, _TTL, probe.protocol)
    addresses = probe.source.packed + probe.destination.packed
    return words + _checksum(words + addresses) + addresses


def _ipv6(probe: Probe, length: int) -> bytes:
    return struct.pack("!IHBB", 6 << 28, length, probe.protocol, _TTL) + probe.source.packed + probe.destination.packed


def _empty(_probe: Probe) -> bytes:
    return bytes(16)


def _tcp(probe: Probe) -> bytes:
    before, after = struct.pack("!HHIIBBH", probe.source_port, probe.port, 0, 0, 5 << 4, probe.flags, _WINDOW), bytes(2)
    return before + _checksum(_pseudo_header(probe, 20) + before + after) + after


def _udp(probe: Probe) -> bytes:
    before = struct.pack("!HHH", probe.source_port, probe.port, 8)
    # A sum of 0 would say that there is none (RFC 768); all ones is the same number.
    check = _checksum(_pseudo_header(probe, 8) + before)
    return before + (check if any(check) else b"\xff\xff")


def _sctp(probe: Probe) -> bytes:
    # Type, flags, length; tag, window, streams out and in, first sequence number (RFC 9260, 3.3.2).
    init = struct.pack("!BBHIIHHI", 1, 0, 20, 1, _WINDOW, 1, 1, 1)
    ports = struct.pack("!HHI", probe.source_port, probe.port, 0)
    return ports + _crc32c(ports + bytes(4) + init) + init


def _icmp(_probe: Probe) -> bytes:
    return _echo(8, b"")


def _icmpv6(probe: Probe) -> bytes:
    return _echo(128, _pseudo_header(probe, 8))


def _echo(type_: int, covered: bytes) -> bytes:
    before, after = bytes((type_, 0)), bytes(4)
    return before + _checksum(covered + before + after) + after


_PAYLOADS: dict[tuple[int, int], Callable[[Probe], bytes]] = {
    **{(version, TCP): _tcp for version in (4, 6)},
    **{(version, UDP): _udp for version in (4, 6)},
    **{(version, SCTP): _sctp for version in (4, 6)},
    (4, ICMP): _icmp,
    (6, ICMPV6): _icmpv6,
}


def _pseudo_header(probe: Probe, length: int) -> bytes:
    """Return what a checksum covers beside the transport's own; the shorter one of IPv4 sums up to the same."""
    return probe.source.packed + probe.destination.packed + struct.pack("!II", length, probe.protocol)


def _checksum(covered: bytes) -> bytes:
    """Return the Internet checksum of an even number of octets (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{len(covered) // 2}H", covered))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return (total ^ 0xFFFF).to_bytes(2, "big")


def _crc32c(covered: bytes) -> bytes:
    remainder = 0xFFFFFFFF
    for octet in covered:
        remainder ^= octet
        for _ in range(8):
            remainder = remainder >> 1 ^ (_CRC32C if remainder & 1 else 0)
    return (remainder ^ 0xFFFFFFFF).to_bytes(4, "little")
