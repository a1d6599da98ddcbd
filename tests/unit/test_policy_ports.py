"""Port ranges as prefixes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.endpoint.policy.entry import SCTP, TCP, UDP, Direction, PolicyEntry, allow_all
from services.endpoint.policy.ports import ALL_PORTS, NO_PORTS, PortPrefix, PortRange, Ports, prefixes_beyond

PORTS = st.integers(1, 40) | st.integers(65500, 65535) | st.integers(1, 65535)


@st.composite
def ranges(draw: st.DrawFn) -> list[PortRange]:
    """Generate ranges that overlap, touch and miss each other by one."""
    pairs = draw(st.lists(st.tuples(st.sampled_from((TCP, UDP)), PORTS, PORTS), max_size=5))
    return [PortRange(protocol, min(one, other), max(one, other)) for protocol, one, other in pairs]


def in_prefix(prefix: PortPrefix, protocol: int, port: int) -> bool:
    """Return whether a map's longest-prefix match would find a prefix."""
    shift = 16 - prefix.length
    return prefix.protocol == protocol and port >> shift == prefix.port >> shift


@given(ranges(), PORTS, st.sampled_from((TCP, UDP, SCTP)))
def test_the_prefixes_are_exactly_the_ports_of_the_ranges(listed: list[PortRange], port: int, protocol: int) -> None:
    ports = Ports.of(listed)

    expected = any(one.protocol == protocol and one.first <= port <= one.last for one in listed)

    assert any(in_prefix(prefix, protocol, port) for prefix in ports.prefixes) == expected
    assert ports.matches(protocol, port) == expected


@given(ranges())
def test_the_cover_has_no_two_prefixes_that_one_could_replace(listed: list[PortRange]) -> None:
    """So it is the smallest: of a set that is a union of aligned blocks, the largest blocks in it."""
    prefixes = set(Ports.of(listed).prefixes)

    for one in prefixes:
        sibling = PortPrefix(one.protocol, one.port ^ 1 << (16 - one.length), one.length)
        assert not one.length or sibling not in prefixes
        assert not any(one != other and in_prefix(other, one.protocol, one.port) for other in prefixes)


@given(ranges())
def test_what_means_the_same_is_equal(listed: list[PortRange]) -> None:
    split = [PortRange(one.protocol, port, port) for one in listed for port in (one.first, one.last)]
    halves = [
        PortRange(one.protocol, *ends)
        for one in listed
        for middle in ((one.first + one.last) // 2,)
        for ends in ((one.first, middle), (min(middle + 1, one.last), one.last))
    ]

    assert Ports.of([*halves, *split]) == Ports.of(listed) == Ports.union([Ports.of(listed), Ports.of(split)])
    assert hash(Ports.of([*halves, *split])) == hash(Ports.of(listed))


@given(ranges(), ranges(), PORTS, st.sampled_from((TCP, UDP)))
def test_what_others_cover_is_left_out_and_nothing_else(
    listed: list[PortRange], others: list[PortRange], port: int, protocol: int
) -> None:
    ports, other = Ports.of(listed), Ports.of(others)
    left = prefixes_beyond(ports, other)

    assert set(left) <= set(ports.prefixes)
    found = other.matches(protocol, port) or any(in_prefix(one, protocol, port) for one in left)
    assert found == (ports.matches(protocol, port) or other.matches(protocol, port))
    assert not any(other.covers(one) for one in left)


@pytest.mark.parametrize(
    ("listed", "prefixes"),
    [
        ([], []),
        ([PortRange(TCP, 80, 80)], [(TCP, 80, 16)]),
        ([PortRange(TCP, 8000, 8080)], [(TCP, 8000, 10), (TCP, 8064, 12), (TCP, 8080, 16)]),
        ([PortRange(TCP)], [(TCP, 0, 0)]),
        ([PortRange(TCP, 1, 65535)], [(TCP, 0, 0)]),
        ([PortRange(TCP, 1, 1023), PortRange(TCP, 1024, 65535)], [(TCP, 0, 0)]),
        ([PortRange(TCP, 79, 79), PortRange(TCP, 81, 81)], [(TCP, 79, 16), (TCP, 81, 16)]),
        ([PortRange(TCP, 80, 80), PortRange(UDP, 81, 81)], [(TCP, 80, 16), (UDP, 81, 16)]),
        ([PortRange(TCP, 1, 3)], [(TCP, 1, 16), (TCP, 2, 15)]),
        ([PortRange(UDP, 53, 53), PortRange(0), PortRange(TCP)], [(0, 0, 0)]),
    ],
)
def test_covers_that_can_be_checked_by_hand(listed: list[PortRange], prefixes: list[tuple[int, int, int]]) -> None:
    assert list(Ports.of(listed).prefixes) == prefixes


def test_no_range_takes_more_than_thirty_prefixes() -> None:
    assert len(Ports.of([PortRange(TCP, 1, 65534)]).prefixes) == 30


def test_a_packet_without_a_port_matches_only_what_is_about_all_ports() -> None:
    """ICMP, and every fragment but the first."""
    assert Ports.of([PortRange(TCP)]).matches(TCP, None)
    assert ALL_PORTS.matches(1, None)
    assert not Ports.of([PortRange(TCP, 2, 65535)]).matches(TCP, None)
    assert not NO_PORTS.matches(TCP, None)


def test_ports_and_entries_are_said_in_words() -> None:
    assert str(Ports.of([PortRange(TCP, 80, 80), PortRange(UDP, 53, 54), PortRange(SCTP)])) == (
        "80/TCP, 53-54/UDP, any port/SCTP"
    )
    assert (str(ALL_PORTS), str(NO_PORTS)) == ("any protocol", "no port")
    assert str(PolicyEntry(Direction.EGRESS, 300, TCP, 8080, 16)) == "egress to identity 300, 8080/TCP"
    assert str(PolicyEntry(Direction.INGRESS, 0, UDP, 8, 13, deny=True)) == "deny ingress from any, 8-15/UDP"
    assert list(map(str, allow_all())) == ["ingress from any, any protocol", "egress to any, any protocol"]
