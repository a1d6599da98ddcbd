"""Sums of what flows have counted: nothing is lost and nothing is twice, in whatever order things happen."""

from collections import Counter
from dataclasses import dataclass
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.loader import conntrack
from services.loader.conntrack import Counts
from services.loader.flowcounts import PRESENT, UNKNOWN, FlowCounts, Row, RowKey, Sums
from services.loader.model import Direction

NOW = 10_000 * 10**9
SEEN = b"\x82\x80"  # TCP, answered and past its handshake
WORLD = 2
OF_A_PREFIX = 1 << 24


@dataclass(frozen=True)
class Tuple:
    """What an entry is known by."""

    endpoint_id: int = 7
    remote: str = "10.0.0.8"
    local_port: int = 4242
    remote_port: int = 80


def entry(
    one: Tuple, counts: Counts, peer: int = 300, direction: Direction = Direction.EGRESS, protocol: int = 6
) -> tuple[bytes, bytes]:
    """Return the entry of a flow that has counted so much."""
    local, remote = (ip_address(text).packed.ljust(16, b"\0") for text in ("10.0.0.7", one.remote))
    ports = one.local_port.to_bytes(2, "big"), one.remote_port.to_bytes(2, "big")
    key = conntrack.KEY.pack(local, remote, *ports, one.endpoint_id, protocol, 1)
    packets = counts.packets_in.to_bytes(8, "little") + counts.packets_out.to_bytes(8, "little")
    octets = counts.bytes_in.to_bytes(8, "little") + counts.bytes_out.to_bytes(8, "little")
    return key, conntrack.VALUE.pack(NOW + 10**9, 1 << 32 | peer, direction, SEEN, 0, 1, packets, octets)


def sums(*entries: tuple[bytes, bytes]) -> Sums:
    found = Sums()
    found.add(entries, NOW)
    return found


def rows(found: Sums) -> dict[RowKey, Row]:
    return dict(found)


ONE = Counts(1, 100, 2, 200)


def test_connections_of_a_pair_to_a_port_are_one_row() -> None:
    found = rows(sums(entry(Tuple(local_port=1), ONE), entry(Tuple(local_port=2), ONE)))

    ((key, row),) = found.items()
    assert key == RowKey(7, PRESENT, Direction.EGRESS, 6, 80, ip_address("10.0.0.8"), 300)
    assert (row.counts, row.connections) == (Counts(2, 200, 4, 400), 2)


def test_the_port_is_the_servers_whoever_asks() -> None:
    asked = rows(sums(entry(Tuple(), ONE, direction=Direction.INGRESS)))

    assert [key.port for key in asked] == [4242]


def test_what_has_no_ports_is_kept_apart_by_protocol_alone() -> None:
    """The identifier of an echo is no port."""
    found = rows(sums(*(entry(Tuple(local_port=n), ONE, protocol=1) for n in range(3))))

    assert [(key.port, row.connections) for key, row in found.items()] == [(0, 3)]


@pytest.mark.parametrize(
    ("peer", "one_each"), [(WORLD, False), (1, False), (6, False), (OF_A_PREFIX, False), (300, True), (0, True)]
)
def test_addresses_outside_are_one_peer_for_each_identity(peer: int, one_each: bool) -> None:
    found = rows(sums(entry(Tuple(remote="10.0.0.8"), ONE, peer), entry(Tuple(remote="10.0.0.9"), ONE, peer)))

    assert len(found) == (2 if one_each else 1)


def test_what_has_counted_nothing_is_no_row() -> None:
    """Accounting is off there."""
    assert len(sums(entry(Tuple(), Counts()))) == 0


def test_rows_of_an_endpoint_that_goes_are_its_own_for_ever() -> None:
    kept = FlowCounts(0.0)
    for generation in (3, 5, 0):
        kept.keep(sums(entry(Tuple(), ONE)))
        kept.retire(7, generation)
    kept.keep(sums(entry(Tuple(), ONE)))

    everything, left_out = kept.with_present(Sums())

    assert {key.generation: row.counts for key, row in everything} == dict.fromkeys((3, 5, UNKNOWN, PRESENT), ONE)
    assert left_out == 0


def test_the_least_recently_active_rows_go_and_are_counted() -> None:
    kept = FlowCounts(0.0, longest=3)
    for n in range(1, 6):
        kept.keep(sums(entry(Tuple(endpoint_id=n), ONE)))
        next(iter(dict(kept.with_present(Sums())[0]).values()))
    everything, left_out = kept.with_present(sums(entry(Tuple(endpoint_id=9), ONE)))

    assert (len(everything), left_out, kept.dropped_rows) == (3, 1, 2)


class Model:
    """The map of flows as the kernel has it, and how much of each endpoint has really passed."""

    def __init__(self) -> None:
        self.entries: dict[Tuple, Counts] = {}
        self.passed: Counter[int] = Counter()
        self.kept = FlowCounts(0.0)

    def packet(self, one: Tuple, size: int) -> None:
        self.entries[one] = self.entries.get(one, Counts()).plus(Counts(packets_out=1, bytes_out=size))
        self.passed[one.endpoint_id] += size

    def remove(self, which: set[Tuple]) -> None:
        self.kept.keep(sums(*(entry(one, self.entries.pop(one)) for one in which)))

    def told(self) -> Counter[int]:
        found: Counter[int] = Counter()
        everything, _ = self.kept.with_present(sums(*(entry(one, counts) for one, counts in self.entries.items())))
        for key, row in everything:
            found[key.endpoint_id] += row.counts.bytes_out
        return found


TUPLES = st.builds(Tuple, endpoint_id=st.integers(1, 3), local_port=st.integers(1, 4), remote_port=st.integers(80, 81))
STEPS = st.one_of(
    st.tuples(st.just("packet"), TUPLES, st.integers(40, 1500)),
    st.tuples(st.just("sweep"), st.integers(0, 7), st.just(0)),
    st.tuples(st.just("leave"), st.integers(1, 3), st.integers(1, 9)),
    st.tuples(st.just("ask"), st.just(0), st.just(0)),
)


@given(st.lists(STEPS, max_size=60))
def test_whatever_happens_all_that_passed_is_told_once(steps: list[tuple[str, Tuple | int, int]]) -> None:
    model = Model()
    for what, which, number in steps:
        if isinstance(which, Tuple):
            model.packet(which, number)
        elif what == "sweep":
            model.remove({one for n, one in enumerate(list(model.entries)) if which >> n % 3 & 1})
        elif what == "leave":
            model.remove({one for one in model.entries if one.endpoint_id == which})
            model.kept.retire(which, number)
        else:
            assert +model.told() == +model.passed

    assert +model.told() == +model.passed
