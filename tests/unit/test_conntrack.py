"""Tracked flows as values: who, between which ends, in which state, until when."""

import struct
from ipaddress import ip_address
from typing import Any

import pytest

from services.loader import conntrack
from services.loader.conntrack import Counts, FlowState
from services.loader.model import Direction

FIN, WITHOUT_SYN, RST, SEEN = 1, 2, 4, 0x80
NOW = 1_000_000_000_000
OPENED = 800  # in units of 2^30 ns


def key(**changes: Any) -> bytes:
    """Return the key of endpoint 7's flow from 10.0.0.7:4242 to 192.0.2.1:80, some of it changed."""
    ours: dict[str, Any] = {
        "local": ip_address("10.0.0.7").packed.ljust(16, b"\0"),
        "remote": ip_address("192.0.2.1").packed.ljust(16, b"\0"),
        "local_port": (4242).to_bytes(2, "big"),
        "remote_port": (80).to_bytes(2, "big"),
        "endpoint_id": 7,
        "protocol": 6,
        "family": 1,
    }
    return conntrack.KEY.pack(*(ours | changes).values())


def value(opener: int = SEEN, replies: int = 0, end: int = NOW + 5_000_000_000) -> bytes:
    """Return an entry with these bits of its two sides."""
    counts = struct.pack("=QQ", 1, 2), struct.pack("=QQ", 100, 122)
    return conntrack.VALUE.pack(end, 9 << 32 | 2, Direction.EGRESS, bytes((opener, replies)), 0, OPENED, *counts)


def test_a_flow_is_read_from_its_endpoints_side() -> None:
    flow = conntrack.read(key(), value(), NOW)

    assert flow is not None
    assert (flow.endpoint_id, flow.direction, flow.protocol, flow.peer_identity) == (7, Direction.EGRESS, 6, 2)
    assert (str(flow.local), flow.local_port, str(flow.remote), flow.remote_port) == ("10.0.0.7", 4242, "192.0.2.1", 80)
    assert (flow.expires_in, flow.counts) == (5.0, Counts(1, 100, 2, 122))
    assert (flow.counts.packets, flow.counts.bytes) == (3, 222)
    assert (flow.opened, flow.last) == ((OPENED << 30) / 1e9, NOW / 1e9 + 5 - 60)


def test_ipv6_ends_have_their_whole_address() -> None:
    ends = {"local": ip_address("fd00::7").packed, "remote": ip_address("2001:db8::1").packed, "family": 2}
    flow = conntrack.read(key(**ends), value(), NOW)

    assert flow is not None
    assert (str(flow.local), str(flow.remote)) == ("fd00::7", "2001:db8::1")


@pytest.mark.parametrize("end", [NOW, NOW - 1, 0])
def test_an_entry_is_dead_from_its_end_on(end: int) -> None:
    assert conntrack.read(key(), value(end=end), NOW) is None


@pytest.mark.parametrize(
    ("protocol", "opener", "replies", "state"),
    [
        (6, SEEN, 0, FlowState.OPENING),
        (6, SEEN, SEEN, FlowState.OPENING),
        (6, SEEN | WITHOUT_SYN, 0, FlowState.OPENING),
        (6, SEEN | WITHOUT_SYN, SEEN, FlowState.ESTABLISHED),
        (6, SEEN | WITHOUT_SYN | FIN, SEEN | WITHOUT_SYN, FlowState.ESTABLISHED),
        (6, SEEN | WITHOUT_SYN | FIN, SEEN | WITHOUT_SYN | FIN, FlowState.CLOSING),
        (6, SEEN, SEEN | RST, FlowState.CLOSING),
        (17, SEEN, 0, FlowState.OPENING),
        (17, SEEN, SEEN, FlowState.ESTABLISHED),
        (1, SEEN, SEEN, FlowState.ESTABLISHED),
    ],
)
def test_the_state_follows_from_what_was_seen(protocol: int, opener: int, replies: int, state: FlowState) -> None:
    flow = conntrack.read(key(protocol=protocol), value(opener, replies), NOW)

    assert flow is not None
    assert flow.state is state


def test_a_piece_of_the_map_tells_owners_and_ends() -> None:
    ids = [1, 65535, 7]

    assert conntrack.owners(b"".join(key(endpoint_id=one) for one in ids)) == ids
    assert conntrack.ends(b"".join(value(end=one) for one in (5, 2**63, 0))) == [5, 2**63, 0]
    assert (conntrack.owners(b""), conntrack.ends(b"")) == ([], [])
