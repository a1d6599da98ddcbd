"""The table of prefixes: blocks as sets of numbers."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from services.common.errors import Exhausted
from services.common.model import Network
from services.endpoint.policy.identity import CIDR_SCOPE
from services.endpoint.policy.networkpolicy import IPBlock
from services.endpoint.policy.prefixes import PrefixTable
from tests.examples import examples

ADDRESSES = [ip_address(f"10.0.0.{host}") for host in range(16)] + [ip_address(f"fd00::{host:x}") for host in range(16)]
ADDRESSES += [ip_address(one) for one in ("9.255.255.255", "10.0.1.0", "192.0.2.1", "fd00:1::", "::1")]


@st.composite
def prefixes(draw: st.DrawFn) -> Network:
    """Generate prefixes that lie in each other."""
    if draw(st.booleans()):
        length = draw(st.sampled_from((0, 8, 24, *range(28, 33))))
        return ip_network((int(ip_address("10.0.0.0")) + draw(st.integers(0, 15)), length), strict=False)
    length = draw(st.sampled_from((0, 64, *range(124, 129))))
    return ip_network(f"fd00::{draw(st.integers(0, 15)):x}/{length}", strict=False)


@st.composite
def blocks(draw: st.DrawFn) -> IPBlock:
    """Generate blocks; that an except is within is the parser's to see, and what isn't changes nothing."""
    return IPBlock(draw(prefixes()), tuple(draw(st.lists(prefixes(), max_size=2))))


class TableMachine(RuleBasedStateMachine):
    """Names and forgets blocks; a map is kept by the changes."""

    def __init__(self) -> None:
        """Start empty."""
        super().__init__()
        self.table = PrefixTable(1000)
        self.named: list[IPBlock] = []
        self.kernel: dict[Network, int] = {}
        self.numbers: dict[Network, int] = {}

    @rule(block=blocks())
    def name(self, block: IPBlock) -> None:
        """A policy comes."""
        self.table.name([block])
        self.named.append(block)

    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        """A policy goes."""
        if self.named:
            block = self.named.pop(data.draw(st.integers(0, len(self.named) - 1)))
            self.table.forget([block])

    @rule()
    def write(self) -> None:
        """The changes since the last time make the map what it should be."""
        added, removed = self.table.changes()
        assert not added.keys() & removed.keys()
        assert all(self.kernel.pop(prefix) == number for prefix, number in removed.items())
        assert not self.kernel.keys() & added.keys()
        self.kernel.update(added)
        assert self.kernel == self.table.numbers()

    @invariant()
    def an_address_is_in_a_block_if_its_number_is(self) -> None:
        """For every block that is named, whoever else is."""
        for block in self.named:
            numbers = self.table.within(block)
            for address in ADDRESSES:
                expected = address in block.cidr and not any(address in one for one in block.excepts)
                assert (self.table.lookup(address) in numbers) == expected

    @invariant()
    def a_prefix_keeps_its_number_for_ever(self) -> None:
        """Also when it went and came back."""
        for prefix, number in self.table.numbers().items():
            assert self.numbers.setdefault(prefix, number) == number
        assert len(set(self.numbers.values())) == len(self.numbers)


TestTable = TableMachine.TestCase
TestTable.settings = settings(max_examples=examples(30), stateful_step_count=25, deadline=None)


def block(cidr: str, *excepts: str) -> IPBlock:
    """Return a block."""
    return IPBlock(ip_network(cidr), tuple(map(ip_network, excepts)))


@given(st.lists(prefixes(), unique=True, min_size=1, max_size=6))
def test_lookup_is_the_longest_prefix(listed: list[Network]) -> None:
    table = PrefixTable(100)
    table.name(IPBlock(one) for one in listed)

    for address in ADDRESSES:
        containing = [one for one in listed if address in one]
        expected = table.numbers()[max(containing, key=lambda one: one.prefixlen)] if containing else 0
        assert table.lookup(address) == expected


def test_numbers_are_in_the_scope_of_node_local_cidr_identities() -> None:
    table = PrefixTable(10)
    table.name([block("10.0.0.0/8", "10.1.0.0/16")])

    assert sorted(table.numbers().values()) == [CIDR_SCOPE + 1, CIDR_SCOPE + 2]


def test_a_prefix_that_is_named_twice_stays_until_it_is_forgotten_twice() -> None:
    table = PrefixTable(10)
    table.name([block("10.0.0.0/8"), block("10.0.0.0/8")])
    table.forget([block("10.0.0.0/8")])
    assert len(table) == 1
    table.forget([block("10.0.0.0/8")])
    assert len(table) == 0


def test_what_came_and_went_between_two_looks_is_no_change() -> None:
    table = PrefixTable(10)
    table.name([block("10.0.0.0/8")])
    table.changes()
    table.forget([block("10.0.0.0/8")])
    table.name([block("10.0.0.0/8"), block("fd00::/8")])
    table.forget([block("fd00::/8")])

    assert table.changes() == ({}, {})


def test_after_a_restart_prefixes_have_the_numbers_that_are_remembered() -> None:
    kept, gone = ip_network("10.0.0.0/8"), ip_network("192.0.2.0/24")
    table = PrefixTable(10, {kept: CIDR_SCOPE + 7, gone: CIDR_SCOPE + 8})

    table.name([block("198.51.100.0/24"), block("10.0.0.0/8")])

    assert table.numbers()[kept] == CIDR_SCOPE + 7
    assert CIDR_SCOPE + 8 not in table.numbers().values(), (
        "others don't get a number that somebody's map may still have"
    )


def test_numbers_go_round_when_they_are_used_up_past_those_that_are_taken() -> None:
    last = CIDR_SCOPE + CIDR_SCOPE - 1
    table = PrefixTable(10, {ip_network("10.0.0.0/8"): last, ip_network("10.0.0.0/9"): CIDR_SCOPE + 2})

    table.name([block("192.0.2.0/24", "192.0.2.1/32"), block("198.51.100.0/24")])

    assert sorted(table.numbers().values()) == [CIDR_SCOPE + 1, CIDR_SCOPE + 3, CIDR_SCOPE + 4]


def test_memories_are_bounded_and_never_of_what_is_not_yet_removed() -> None:
    table = PrefixTable(5000)
    many = [IPBlock(ip_network((number << 8, 24))) for number in range(5000)]
    table.name(many)
    numbers = table.numbers()
    table.changes()
    table.forget(many)
    table.name(many)
    assert table.numbers() == numbers, "the map still has all of them"
    table.forget(many)
    table.changes()
    table.name([block("10.0.0.0/8")])
    table.forget([block("10.0.0.0/8")])
    table.name(many)
    assert len(set(table.numbers().values())) == 5000


def test_a_map_that_is_too_small_is_told_with_numbers_before_anything_is_taken_in() -> None:
    table = PrefixTable(2)
    table.name([block("10.0.0.0/8")])

    with pytest.raises(Exhausted, match=r"name 3 different prefixes .* holds 2: join blocks"):
        table.name([block("192.0.2.0/24", "192.0.2.1/32")])

    assert list(table.numbers()) == [ip_network("10.0.0.0/8")]
    table.name([block("10.0.0.0/8", "10.0.0.0/9")])
