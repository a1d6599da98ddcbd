"""Frames as an attacker would make them: nearly right, cut, stretched, chained, quoted, or noise.

    maker = PacketMaker(Random(seed))
    frame = maker.frame(out=True)          # what a pod sends; else what its node's stack sends to it

Hosts, ports and identifiers come from a few, so that packets meet the policy, and each other's flows, more often than
not. The seed decides everything; hypothesis draws only that, because drawing each field takes a hundred times longer
than running the programs.
"""

import struct
from ipaddress import ip_address
from random import Random
from typing import TypeVar

from tests.bpf_support import (
    GATEWAY_V4,
    GATEWAY_V6,
    HOST_MAC,
    PEER_V4,
    PEER_V6,
    POD_MAC,
    POD_V4,
    POD_V6,
    WORLD_V4,
    WORLD_V6,
    octets,
)
from tests.packet_reader import ARP, DESTINATION, FRAGMENT, HOP_BY_HOP, IPV4, IPV6, ROUTING, internet_sum

HOSTS = {
    4: (PEER_V4, PEER_V4, WORLD_V4, GATEWAY_V4, "192.0.2.200"),
    6: (PEER_V6, PEER_V6, WORLD_V6, GATEWAY_V6, "2001:db8::200"),
}
ODD_HOSTS = {4: ("224.0.0.1", "255.255.255.255", "0.0.0.0", "127.0.0.1"), 6: ("ff02::1", "fe80::1", "::", "::1")}
POD = {4: POD_V4, 6: POD_V6}
PORTS = (53, 80, 80, 81, 0)
PROTOCOLS = {4: (6, 6, 17, 17, 132, 1, 1, 58, 50, 255), 6: (6, 6, 17, 17, 132, 58, 58, 58, 1, 50, 255)}
SHORTEST = {IPV4: 14 + 20, IPV6: 14 + 40}
"""What the kernel runs a program over: less than an IP header it refuses itself."""
FRAGMENTS = (0x4000, 0x2000, 0x2000, 0x8000, 1, 2, 0x2001, 0x2003, 0x1FFF)
"""DF, MF, the reserved bit; later fragments that begin within the transport header, behind it, at the end."""

T = TypeVar("T")


def packed(address: str) -> bytes:
    """Return an address's bytes."""
    return ip_address(address).packed


class PacketMaker:
    """Makes frames."""

    def __init__(self, random: Random) -> None:
        """Take all decisions from `random`."""
        self.random = random
        self.one = random.choice

    def rarely(self, common: T, *odd: T, times: int = 8) -> T:
        """Return the common value `times` as often as all of the others together."""
        return common if self.random.random() * (times + 1) < times else self.one(odd)

    def frame(self, *, out: bool, earlier: bytes = b"") -> bytes:
        """Return a frame. `earlier` is one that went the other way: it is answered, repeated, quoted in errors."""
        kind = self.one((*[IPV4] * 10, *[IPV6] * 10, ARP, 0x8100, 0x88A8))
        quote = earlier[14 : 14 + self.one((8, 20, 28, 40, 48, 200))]
        ours, theirs = octets(POD_MAC), octets(HOST_MAC)
        source, to = (ours, theirs) if out else (theirs, ours)
        source = self.rarely(source, b"\2\0\0\0\0\x99", times=50)
        to = self.rarely(to, b"\xff" * 6, b"\x33\x33\0\0\0\1", times=50)
        if kind == ARP:
            content = self._arp(out=out)
        elif kind == IPV6:
            content = self._ipv6(quote, out=out)
        else:
            content = self._ipv4(quote, out=out)
            content = content if kind == IPV4 else struct.pack("!HH", 5, IPV4) + content
        return self._damaged(to + source + struct.pack("!H", self.rarely(kind, IPV4, IPV6, times=50)) + content)

    def _ends(self, family: int, *, out: bool) -> tuple[bytes, bytes]:
        pod = self.rarely(POD[family], HOSTS[family][0], *ODD_HOSTS[family], times=30)
        other = self.rarely(self.one(HOSTS[family]), POD[family], *ODD_HOSTS[family], times=20)
        return (packed(pod), packed(other)) if out else (packed(other), packed(pod))

    def _ipv4(self, quote: bytes, *, out: bool) -> bytes:
        source, destination = self._ends(4, out=out)
        protocol = self.one(PROTOCOLS[4])
        options = bytes([1]) * self.rarely(0, 4, 8, 40)
        rest = self._transport(protocol, quote)
        words = self.rarely(5 + len(options) // 4, *range(16), times=20)
        first = self.rarely(4, 0, 5, 6, 15, times=50) << 4 | words
        fragment = self.rarely(0, *FRAGMENTS, times=3)
        length = self.rarely(20 + len(options) + len(rest), 0, 20, 24, 28, 65535)
        head = struct.pack("!BBHHHBB", first, 0, length, 7, fragment, self.rarely(64, 0, 1, 255), protocol)
        total = self.rarely(internet_sum(head + bytes(2) + source + destination + options), 0)
        return head + struct.pack("!H", total) + source + destination + options + rest

    def _ipv6(self, quote: bytes, *, out: bool) -> bytes:
        source, destination = self._ends(6, out=out)
        protocol = self.one(PROTOCOLS[6])
        rest = self._transport(protocol, quote)
        following, chain = self._extensions(protocol) if self.random.random() < 0.5 else (protocol, b"")
        first = self.rarely(6, 0, 4, 5, 15, times=50) << 28
        length = self.rarely(len(chain + rest), 0, 1, 65535)
        hops = self.one((64, 255, 255, 0, 1))
        return struct.pack("!IHBB", first, length, following, hops) + source + destination + chain + rest

    def _extensions(self, protocol: int) -> tuple[int, bytes]:
        """Return the first next-header value and a chain of extension headers that ends in `protocol`."""
        chain, following = b"", protocol
        for _ in range(self.one((1, 1, 2, 3, 4, 5))):
            kind = self.rarely(self.one((HOP_BY_HOP, ROUTING, DESTINATION, FRAGMENT, FRAGMENT)), 51, 135)
            if kind == FRAGMENT:
                where = self.one((0, 1, 1, 8, 9, 0x10, 0xFFF8))  # offset in units of 8 bytes, and M
                header = struct.pack("!BBHI", following, self.rarely(0, 1, 255), where, 7)
            else:
                units = self.one((0, 0, 0, 1, 2, 31))
                header = bytes([following, self.rarely(units, 0, 255)]) + self.random.randbytes(6 + 8 * units)
            chain, following = header + chain, kind
        return following, chain

    def _transport(self, protocol: int, quote: bytes) -> bytes:
        """Return a transport header with a few bytes behind it."""
        source, destination = self.one(PORTS), self.one(PORTS)
        if protocol == 6:
            flags = self.one((0x02, 0x12, 0x10, 0x11, 0x04, 0x00, 0xFF))
            header = struct.pack("!HHIIBBHHH", source, destination, 1, 1, 0x50, flags, 1024, 0, 0)
        elif protocol in {17, 132}:
            header = struct.pack("!HHHH", source, destination, self.rarely(16, 0, 7, 65535), 0)
        elif protocol == 1:
            header = self._icmp((8, 8, 0, 0, 3, 11, 13, 5), quote)
        elif protocol == 58:
            header = self._icmp((128, 128, 129, 129, 1, 2, 3, 133, 134, 135, 136, 137, 200), quote)
        else:
            header = struct.pack("!HH", source, destination) + self.random.randbytes(self.one((0, 4, 12)))
        return header + self.one((b"", b"", b"payload."))

    def _icmp(self, types: tuple[int, ...], quote: bytes) -> bytes:
        kind = self.one(types)
        header = struct.pack("!BBHHH", kind, self.rarely(0, 1, 4), 0, self.one(PORTS), 1)
        if kind in {1, 2, 3, 11}:
            return header + quote
        if kind in {135, 136}:
            option = self.one((b"", b"\1\1" + octets(POD_MAC), b"\2\0" + bytes(6), b"\1"))
            return header[:4] + bytes(4) + packed(self.one((POD_V6, GATEWAY_V6, PEER_V6))) + option
        return header

    def _arp(self, *, out: bool) -> bytes:
        macs = (octets(POD_MAC), octets(HOST_MAC)) if out else (octets(HOST_MAC), octets(POD_MAC))
        hosts = [packed(one) for one in (POD_V4, GATEWAY_V4, PEER_V4)]
        head = struct.pack("!HHBBH", self.rarely(1, 6), self.rarely(0x800, 0x86DD), 6, 4, self.one((1, 2, 3)))
        sender = self.rarely(macs[0], macs[1]) + self.rarely(hosts[0 if out else 1], *hosts)
        return head + sender + bytes(6) + self.one(hosts)

    def _damaged(self, frame: bytes) -> bytes:
        """Return a frame as it is, or cut, or with some bytes behind the Ethernet header changed."""
        shortest = SHORTEST.get(int.from_bytes(frame[12:14], "big"), 15)
        frame = frame.ljust(shortest, b"\0")
        how = self.rarely("as it is", "cut", "cut", "changed", "noise", times=3)
        if how == "cut":
            return frame[: self.random.randint(shortest, len(frame))]
        if how == "changed":
            broken = bytearray(frame)
            for _ in range(self.random.randint(1, 4)):
                broken[self.random.randrange(14, len(frame))] = self.random.randrange(256)
            return bytes(broken)
        if how == "noise":
            return frame[:14] + self.random.randbytes(self.random.randint(shortest - 14, 100))
        return frame
