"""What a program has changed in a packet, in words: both as Ethernet frames, before and after. Pure."""

import struct
from dataclasses import dataclass
from ipaddress import ip_address

from services.common.model import format_mac

_IPV4, _IPV6 = b"\x08\x00", b"\x86\xdd"
_ETHERNET = 14
_VXLAN = 20 + 8 + 8 + _ETHERNET  # outer IPv4 header, UDP, VXLAN, inner Ethernet header


@dataclass(frozen=True, slots=True)
class Rewrite:
    """A field, and what was there before and after."""

    field: str
    before: str
    after: str


def rewrites(before: bytes, after: bytes) -> list[Rewrite]:
    """Return what differs. A packet that has become longer is in a tunnel: then its outer headers are told."""
    if len(after) == len(before) + _VXLAN:
        inner = after[_VXLAN:]
        return [*_tunnel(after), *_fields(before, inner)]
    found = _fields(before, after)
    if not found and before != after:
        return [Rewrite("packet", f"{len(before)} bytes", f"{len(after)} bytes")]
    return found


def marked(before: int, after: int) -> list[Rewrite]:
    """Return whether the packet's mark is another one."""
    return [Rewrite("mark", f"{before:#x}", f"{after:#x}")] if before != after else []


def _fields(before: bytes, after: bytes) -> list[Rewrite]:
    found = []
    for field, start in (("destination MAC", 0), ("source MAC", 6)):
        old, new = before[start : start + 6], after[start : start + 6]
        if old != new:
            found.append(Rewrite(field, format_mac(old), format_mac(new)))
    places = {_IPV4: (("TTL", 22),), _IPV6: (("hop limit", 21),)}
    for field, at in places.get(before[12:14], ()):
        if before[at : at + 1] != after[at : at + 1]:
            found.append(Rewrite(field, str(before[at]), str(after[at])))
    spans = {_IPV4: ((26, 30), (30, 34)), _IPV6: ((22, 38), (38, 54))}.get(before[12:14], ())
    for field, (start, end) in zip(("source address", "destination address"), spans, strict=False):
        if before[start:end] != after[start:end]:
            found.append(Rewrite(field, str(ip_address(before[start:end])), str(ip_address(after[start:end]))))
    return found


def _tunnel(packet: bytes) -> list[Rewrite]:
    source, destination = ip_address(packet[26:30]), ip_address(packet[30:34])
    source_port, port = struct.unpack_from("!HH", packet, 34)
    vni = int.from_bytes(packet[46:49], "big")
    outer = f"{source}:{source_port} -> {destination}:{port}, VNI {vni}, MAC {format_mac(packet[:6])}"
    return [Rewrite("VXLAN", "", outer)]
