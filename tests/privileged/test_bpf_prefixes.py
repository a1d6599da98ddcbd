"""Prefixes in the programs: the third look-up, by the identity of the longest prefix around the peer's address."""

from collections.abc import Iterator
from ipaddress import ip_network

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from services.loader.model import Direction, PolicyEntry
from tests.bpf_support import (
    ETHER,
    HOST_MAC,
    OK,
    PEER_IDENTITY,
    PEER_V4,
    PEER_V6,
    POD_MAC,
    POD_V4,
    POD_V6,
    REDIRECT,
    WORLD_V4,
    WORLD_V6,
    Datapath,
    compiled,
)

pytestmark = pytest.mark.privileged

IN, OUT = Direction.INGRESS, Direction.EGRESS
UPLINK = 5
WORLD = 2
WIDE, NARROW, SINGLE = ((1 << 24) + n for n in (1, 2, 3))

BOTH_WAYS = pytest.mark.parametrize("direction", Direction, ids=lambda direction: direction.name.lower())
FAMILIES = pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])

# Around the world's address in each family: prefixes within one another, and one beside it.
NESTED = {4: ("192.0.0.0/16", "192.0.2.0/25", "192.0.2.1/32"), 6: ("2001:db8::/32", "2001:db8::/77", "2001:db8::1/128")}
BESIDE = {4: "192.0.2.128/25", 6: "2001:db8::8:0:0:0/77"}
ALL_OF_IT = {4: "0.0.0.0/0", 6: "::/0"}


@pytest.fixture(params=[(), ("conntrack",)], ids=["tracked", "not tracked"])
def datapath(request: pytest.FixtureRequest) -> Iterator[Datapath]:
    with Datapath(compiled(*request.param)) as datapath:
        yield datapath


def know(datapath: Datapath, *prefixes: tuple[str, int]) -> None:
    """Make the map of prefixes hold exactly these."""
    datapath.prefixes.delete(datapath.prefixes.dump())
    datapath.prefixes.put({ip_network(prefix): number for prefix, number in prefixes})
    datapath.revision.bump()


def passes(
    datapath: Datapath, direction: Direction, family: int, *, port: int = 80, peer: tuple[str, str] | None = None
) -> bool:
    """Return whether a TCP segment passes between the pod and the world, or another peer of each family."""
    other = (peer or (WORLD_V4, WORLD_V6))[family == 6]
    pod = {4: POD_V4, 6: POD_V6}[family]
    source, destination = (pod, other) if direction is OUT else (other, pod)
    l3: Packet = (IP if family == 4 else IPv6)(src=source, dst=destination)
    packet = l3 / TCP(sport=4242, dport=port, flags="S")
    if direction is OUT:
        return datapath.send(ETHER / packet).verdict in {OK, REDIRECT}
    return datapath.receive(Ether(src=HOST_MAC, dst=POD_MAC) / packet, came_in_at=UPLINK).verdict == OK


@BOTH_WAYS
@FAMILIES
def test_an_entry_of_the_peers_prefix_allows(datapath: Datapath, direction: Direction, family: int) -> None:
    know(datapath, (NESTED[family][1], NARROW))

    datapath.enforce([PolicyEntry(direction, NARROW, 6, 80, 16)])

    assert passes(datapath, direction, family)
    assert not passes(datapath, direction, family, port=81)
    assert not passes(datapath, OUT if direction is IN else IN, family)
    assert not passes(datapath, direction, 10 - family)


@BOTH_WAYS
@FAMILIES
def test_without_a_prefix_around_the_peer_entries_of_prefixes_allow_nothing(
    datapath: Datapath, direction: Direction, family: int
) -> None:
    datapath.enforce([PolicyEntry(direction, WIDE)])
    assert not passes(datapath, direction, family)

    know(datapath, (BESIDE[family], WIDE), (ALL_OF_IT[10 - family], WIDE))
    assert not passes(datapath, direction, family)

    know(datapath, (ALL_OF_IT[family], WIDE))
    assert passes(datapath, direction, family)


@BOTH_WAYS
@FAMILIES
def test_only_the_longest_prefix_counts_so_an_exception_is_one_without_entries(
    datapath: Datapath, direction: Direction, family: int
) -> None:
    wide, narrow, single = NESTED[family]
    datapath.enforce([PolicyEntry(direction, WIDE), PolicyEntry(direction, SINGLE)])

    know(datapath, (wide, WIDE))
    assert passes(datapath, direction, family)
    know(datapath, (wide, WIDE), (narrow, NARROW))
    assert not passes(datapath, direction, family)
    know(datapath, (wide, WIDE), (narrow, NARROW), (single, SINGLE))
    assert passes(datapath, direction, family)


@BOTH_WAYS
@FAMILIES
def test_an_exceptions_neighbours_are_as_the_wide_prefix_says(
    datapath: Datapath, direction: Direction, family: int
) -> None:
    wide, narrow, _ = NESTED[family]
    know(datapath, (wide, WIDE), (narrow, NARROW))
    datapath.enforce([PolicyEntry(direction, WIDE)])

    assert passes(datapath, direction, family, peer=("192.0.2.129", "2001:db8::8:0:0:1"))
    assert not passes(datapath, direction, family, peer=("192.0.2.127", "2001:db8::7:0:0:1"))
    assert not passes(datapath, direction, family, peer=("193.0.2.129", "2001:db9::1"))


@BOTH_WAYS
@FAMILIES
@pytest.mark.parametrize("allowed_as", [0, WORLD, NARROW])
@pytest.mark.parametrize("denied_as", [0, WORLD, NARROW])
def test_a_deny_of_any_of_the_three_wins(
    datapath: Datapath, direction: Direction, family: int, allowed_as: int, denied_as: int
) -> None:
    know(datapath, (NESTED[family][1], NARROW))
    datapath.enforce([PolicyEntry(direction, allowed_as, 6)])
    assert passes(datapath, direction, family)

    # The narrower entry decides within one identity.
    datapath.enforce([PolicyEntry(direction, allowed_as, 6), PolicyEntry(direction, denied_as, 6, 80, 16, deny=True)])

    assert not passes(datapath, direction, family)
    assert datapath.drops() == {"policy deny": 1}


@FAMILIES
def test_a_peer_that_is_a_pod_is_looked_up_by_its_address_too(datapath: Datapath, family: int) -> None:
    pod, ours = (PEER_V4, PEER_V6), ({4: POD_V4, 6: POD_V6}[family])
    know(datapath, (pod[family == 6], NARROW), (ours, SINGLE))
    enter = PolicyEntry(IN)

    datapath.enforce([PolicyEntry(OUT, NARROW), enter])
    assert passes(datapath, OUT, family, peer=pod)
    datapath.enforce([PolicyEntry(OUT, PEER_IDENTITY), PolicyEntry(OUT, NARROW, deny=True), enter])
    assert not passes(datapath, OUT, family, peer=pod)
    # The policy program of the destination looks the source's address up, not the destination's.
    datapath.enforce([PolicyEntry(OUT), PolicyEntry(IN, NARROW)])
    assert not passes(datapath, OUT, family, peer=pod)
    datapath.enforce([PolicyEntry(OUT), PolicyEntry(IN, SINGLE)])
    assert passes(datapath, OUT, family, peer=pod)


def test_the_entry_of_the_prefix_counts_with_policy_accounting() -> None:
    mine, everybodys = PolicyEntry(OUT, NARROW, 6), PolicyEntry(OUT)
    with Datapath(compiled("policy-accounting")) as datapath:
        know(datapath, (NESTED[4][1], NARROW))
        datapath.enforce([mine, everybodys])
        for _ in range(3):
            assert passes(datapath, OUT, 4)
            assert passes(datapath, OUT, 6)

        assert {one.entry: one.packets for one in datapath.policy.dump()} == {mine: 3, everybodys: 6}
