"""What a program has changed in a packet."""

from ipaddress import ip_address

import pytest

from services.loader.packetdiff import Rewrite, marked, rewrites
from services.loader.probepacket import Probe, frame

ONE, OTHER = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")


@pytest.mark.parametrize(
    ("ends", "field", "at"), [(("10.0.0.2", "10.0.0.3"), "TTL", 22), (("fd00::2", "fd00::3"), "hop limit", 21)]
)
def test_one_hop(ends: tuple[str, str], field: str, at: int):
    before = frame(Probe(ip_address(ends[0]), ip_address(ends[1]), 6, 80), ONE, OTHER)
    after = bytearray(ONE + OTHER + before[12:])
    after[at] -= 1

    assert rewrites(before, before) == []
    assert rewrites(before, bytes(after)) == [
        Rewrite("destination MAC", "02:00:00:00:00:02", "02:00:00:00:00:01"),
        Rewrite("source MAC", "02:00:00:00:00:01", "02:00:00:00:00:02"),
        Rewrite(field, "64", "63"),
    ]


def test_a_tunnel_is_told_beside_what_changed_inside():
    inner = frame(Probe(ip_address("10.0.0.2"), ip_address("10.0.1.9"), 6, 80), ONE, OTHER)
    changed = inner[:22] + bytes([63]) + inner[23:]
    outer = ONE + OTHER + b"\x08\x00" + bytes(12) + ip_address("172.16.0.1").packed + ip_address("172.16.0.2").packed
    outer += (40000).to_bytes(2, "big") + (8472).to_bytes(2, "big") + bytes(4) + b"\x08\0\0\0" + b"\0\x01\x2d\0"

    assert rewrites(inner, outer + changed) == [
        Rewrite("VXLAN", "", "172.16.0.1:40000 -> 172.16.0.2:8472, VNI 301, MAC 02:00:00:00:00:01"),
        Rewrite("TTL", "64", "63"),
    ]


def test_addresses_and_marks():
    before = frame(Probe(ip_address("10.0.0.2"), ip_address("10.0.0.3"), 17, 53), ONE, OTHER)
    after = before[:30] + ip_address("10.0.0.9").packed + before[34:]

    assert rewrites(before, after) == [Rewrite("destination address", "10.0.0.3", "10.0.0.9")]
    assert rewrites(before, before + b"\0") == [Rewrite("packet", f"{len(before)} bytes", f"{len(before) + 1} bytes")]
    assert marked(0, 0) == []
    assert marked(0, 0x12C0F00) == [Rewrite("mark", "0x0", "0x12c0f00")]
