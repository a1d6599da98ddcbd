"""Which range comes next, what a claim can become, and many nodes at once in every order that chance finds."""

import asyncio
import json
import random
from collections.abc import Sequence
from ipaddress import IPv4Network, ip_address, ip_network
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.config import PoolSettings
from services.common.errors import Internal, InvalidArgument, Unavailable
from services.common.kvstore import Absent, Change, Condition, Delete, Entry, Put, Unchanged
from services.common.kvstore.keys import Keys
from services.common.model import Network
from services.ipam import claimchoice, claims
from services.ipam.claimchoice import Holder, Holding
from services.ipam.claimkeeper import ClaimKeeper
from services.ipam.claims import Claim, Claims, State, Usage
from services.ipam.ledger import Ledger
from services.ipam.model import Clock
from services.ipam.poolplan import plan
from services.ipam.ranges import Cluster, Pool

KEYS = Keys()


def cluster(*ranges: str, v4: int = 24, v6: int = 112, exclude: tuple[str, ...] = ()) -> Cluster:
    pool = PoolSettings("default", exclude=exclude, cluster_ranges=ranges, node_prefix_v4=v4, node_prefix_v6=v6)
    made = plan((pool,))[0].cluster
    assert made is not None
    return made


def claim(prefix: str, state: State = State.HELD, number: int = 1) -> Claim:
    network = ip_network(prefix)
    return Claim("default", network, state, network[1], 1.0, number)


def held(claims_: Claims, prefix: str) -> None:
    claims_.put(claims_.next_held(claim(prefix, State.CLAIMING, 0)))


PARTS = st.sampled_from(
    [one for length in (27, 28, 29, 30) for one in ip_network("10.0.0.0/26").subnets(new_prefix=length)]
)


@given(st.lists(PARTS, max_size=12), st.text(max_size=8), st.sampled_from([28, 29, 30]))
def test_the_next_range_is_free_and_there_is_none_only_if_all_are_taken(
    taken: list[Network], node: str, length: int
) -> None:
    shared = cluster("10.0.0.0/27", "10.0.0.48/28", v4=length)

    chosen = claimchoice.choose(shared, 4, taken, node)

    free = [
        part
        for one in shared.ranges
        for part in one.subnets(new_prefix=length)
        if not any(part.overlaps(other) for other in taken)
    ]
    assert (chosen in free) if free else chosen is None


def test_nodes_begin_at_different_places() -> None:
    """So that a cluster that starts doesn't fight for one range."""
    shared = cluster("10.0.0.0/8")

    chosen = {claimchoice.choose(shared, 4, (), f"node-{number}") for number in range(200)}

    assert len(chosen) > 198


def test_a_node_takes_the_neighbour_of_what_is_taken_and_comes_round() -> None:
    shared = cluster("10.0.0.0/22")
    order: list[Network] = []
    while (chosen := claimchoice.choose(shared, 4, order, "a")) is not None:
        order.append(chosen)

    numbers = [int(one.network_address) >> 8 & 3 for one in order]
    assert numbers == [(numbers[0] + step) % 4 for step in range(4)]


def test_a_huge_range_with_huge_exclusions_costs_nothing() -> None:
    shared = cluster("fd00::/48", exclude=("fd00::/49", "fd00:0:0:8000::/50", "fd00:0:0:c000::/51"))

    chosen = claimchoice.choose(shared, 6, [ip_network("fd00:0:0:f000::/52")], "a")

    assert chosen is not None
    assert chosen.network_address in ip_network("fd00:0:0:e000::/52")


def test_a_range_of_which_nothing_is_left_is_not_claimed() -> None:
    shared = cluster("10.0.0.0/29", v4=30, exclude=("10.0.0.1", "10.0.0.2"))

    assert str(claimchoice.choose(shared, 4, (), "a")) == "10.0.0.4/30"
    assert claimchoice.choose(shared, 4, [ip_network("10.0.0.4/30")], "a") is None


def entry(key: str, value: str) -> Entry:
    return Entry(key, value, 5)


@pytest.mark.parametrize(
    ("value", "holder"),
    [
        ('{"node": "a", "instance": "i", "claimed": 7}', Holder("a", "i")),
        ('{"node": "a", "instance": "i", "later": {}}', Holder("a", "i")),
        ('{"node": "a"}', Holder("", "")),
        ("[]", Holder("", "")),
        ("null", Holder("", "")),
        ("junk", Holder("", "")),
        ('{"node": "a", "instance": "i", "claimed": "x"}', Holder("", "")),
    ],
)
def test_a_value_that_can_not_be_read_still_holds_its_range(value: str, holder: Holder) -> None:
    read = claimchoice.read(KEYS, entry(KEYS.claim("default", ip_network("10.0.1.0/24")), value))

    assert read is not None
    assert (read.pool, str(read.prefix), read.holder, read.revision) == ("default", "10.0.1.0/24", holder, 5)


@pytest.mark.parametrize("rest", ["default/10.0.0.1-24", "default/x", "default", "default/a/10.0.0.0-24", ""])
def test_a_key_that_is_no_claim_is_none(rest: str) -> None:
    assert claimchoice.read(KEYS, entry(KEYS.claims + rest, "{}")) is None


def test_what_is_written_is_read() -> None:
    holder = Holder("a", "i")
    prefix = ip_network("fd00::1:0/112")

    read = claimchoice.read(KEYS, entry(KEYS.claim("blue", prefix), claimchoice.write(holder, 12.5)))

    assert read == Holding(KEYS.claim("blue", prefix), "blue", prefix, holder, 12.5, 5)


def test_exhaustion_names_those_who_have_most() -> None:
    shared = cluster("10.0.0.0/20")
    prefixes: list[Network] = list(IPv4Network("10.0.0.0/20").subnets(new_prefix=24))
    nodes = ["a", "b", "c", "c", "d", "e", "f", "g", "c", ""]
    holdings = [
        Holding("", "default", prefix, Holder(node, ""), 0.0, 1) for node, prefix in zip(nodes, prefixes, strict=False)
    ]

    said = claimchoice.tell(shared, 4, holdings)

    assert said == (
        "of the 16 IPv4 ranges of /24 in 10.0.0.0/20 10 are claimed: c 3, a 1, b 1, d 1, e 1 and 3 more nodes"
    )


@pytest.mark.parametrize(
    ("states", "allowed"),
    [
        ((State.CLAIMING, State.HELD, State.RETURNING, None), True),
        ((State.CLAIMING, None), True),
        ((State.HELD, State.LOST, State.HELD, State.RETURNING), True),
        ((State.HELD, State.LOST, None), True),
        ((State.LOST,), False),
        ((State.RETURNING,), False),
        ((State.HELD, None), False),
        ((State.HELD, State.CLAIMING), False),
        ((State.CLAIMING, State.LOST), False),
        ((State.HELD, State.RETURNING, State.HELD), False),
        ((State.HELD, State.LOST, State.RETURNING), False),
    ],
)
def test_what_a_claim_can_become(states: Sequence[State | None], allowed: bool) -> None:
    known = Claims()

    def go(state: State | None) -> None:
        if state is None:
            known.drop(ip_network("10.0.0.0/24"))
        else:
            known.put(claim("10.0.0.0/24", state))

    for state in states[:-1]:
        go(state)
    if allowed:
        go(states[-1])
    else:
        with pytest.raises(Internal):
            go(states[-1])


def test_no_two_claims_overlap() -> None:
    known = Claims([claim("10.0.0.0/24")])

    with pytest.raises(Internal, match="overlaps"):
        known.put(claim("10.0.0.0/25", State.CLAIMING))


def test_the_gateway_is_of_the_first_that_was_held_also_when_it_is_lost() -> None:
    known = Claims()
    known.put(claim("10.0.9.0/24", State.CLAIMING, 0))
    held(known, "10.0.5.0/24")
    held(known, "10.0.1.0/24")
    held(known, "fd00::/112")
    first = known.get(ip_network("10.0.5.0/24"))
    assert first is not None
    known.put(first.become(State.LOST))
    late = known.get(ip_network("10.0.9.0/24"))
    assert late is not None
    known.put(known.next_held(late))

    assert {family: str(one.prefix) for family, one in known.gateways().items()} == {4: "10.0.5.0/24", 6: "fd00::/112"}
    assert [str(one.prefix) for one in known.of(State.HELD, family=4)] == ["10.0.1.0/24", "10.0.9.0/24"]


@given(
    st.lists(st.tuples(st.integers(0, 20), st.one_of(st.none(), st.floats(0, 100)), st.integers(0, 3)), max_size=6),
    st.integers(1, 20),
    st.floats(0, 100),
)
def test_what_is_given_back_is_free_not_the_gateways_and_not_claimed_again_at_once(
    parts: list[tuple[int, float | None, int]], spare: int, after: float
) -> None:
    usages = [
        Usage(claim(f"10.0.{number}.0/24", number=number + 1), free, idle, cooling)
        for number, (free, idle, cooling) in enumerate(parts)
    ]
    kept = usages[0].claim.prefix if usages else None

    chosen = claims.spare_claim(usages, kept, spare, 100.0, after)

    if chosen is None:
        return
    (usage,) = [one for one in usages if one.claim == chosen]
    rest = sum(one.free for one in usages) - usage.free
    assert chosen.prefix != kept
    assert usage.idle_since is not None
    assert 100.0 - usage.idle_since >= after
    assert not usage.cooling
    assert not claims.is_short(rest, spare, 0)
    assert rest >= 2 * spare


class Killed(Exception):
    """The process ended here."""


class Memory:
    """A kvstore in a dictionary, as far as claims use one; the etcd tests say that this is how etcd is."""

    def __init__(self, chance: random.Random) -> None:
        self.entries: dict[str, Entry] = {}
        self.revision = 0
        self.chance = chance

    async def _pause(self) -> None:
        for _ in range(self.chance.randrange(4)):
            await asyncio.sleep(0)
        if self.chance.random() < 0.03:
            raise Unavailable("no answer")
        if self.chance.random() < 0.03:
            raise Killed

    async def get(self, key: str) -> Entry | None:
        await self._pause()
        answer = self.entries.get(key)
        await self._pause()
        return answer

    async def list(self, prefix: str) -> tuple[Entry, ...]:
        await self._pause()
        answer = tuple(one for key, one in sorted(self.entries.items()) if key.startswith(prefix))
        await self._pause()
        return answer

    async def commit(self, conditions: Sequence[Condition], changes: Sequence[Change]) -> bool:
        await self._pause()
        holds = all(map(self._holds, conditions))
        if holds:
            self.revision += 1
            for change in changes:
                if isinstance(change, Put):
                    self.entries[change.key] = Entry(change.key, change.value, self.revision)
                if isinstance(change, Delete):
                    self.entries.pop(change.key, None)
        await self._pause()
        return holds

    def _holds(self, condition: Condition) -> bool:
        if isinstance(condition, Absent):
            return condition.key not in self.entries
        assert isinstance(condition, Unchanged)
        return condition.key in self.entries and self.entries[condition.key].revision == condition.revision


class Disk:
    """The rows of one node: what a kill leaves."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.rows: dict[Network, Claim] = {}

    async def instance(self) -> str:
        return f"i{self.name}"

    async def load(self) -> list[Claim]:
        return list(self.rows.values())

    async def put(self, claim: Claim) -> None:
        self.rows[claim.prefix] = claim

    async def drop(self, prefix: Network) -> None:
        self.rows.pop(prefix, None)


class SimulatedNode:
    """The real steps of claims over a disk that outlives them; what is told is what its ledger gives out of."""

    def __init__(self, name: str, length: int, memory: Memory) -> None:
        self.disk: Any = Disk(name)
        self.name, self.memory = name, memory
        pool = PoolSettings("default", cluster_ranges=("10.0.0.0/26",), node_prefix_v4=length)
        self.pools: Sequence[Pool] = plan((pool,))

    async def begin(self) -> None:
        store: Any = self.memory
        self.ledger = Ledger(self.pools, 0.0, 600.0, Clock())
        self.keeper = ClaimKeeper(self.pools, self.ledger, self.disk, store, keys=KEYS, clock=Clock())
        await self.keeper.load(self.name)

    def ranges(self) -> list[Network]:
        return [one.prefix for one in self.ledger.status()[0].ranges]

    async def live(self, chance: random.Random, steps: int) -> None:
        await self.begin()
        for _ in range(steps):
            try:
                await self.step(chance)
            except Killed:
                await self.begin()
            except Unavailable:
                pass

    async def step(self, chance: random.Random) -> None:
        keeper = self.keeper
        what = chance.randrange(4)
        if what == 0:
            holdings = await keeper.holdings()
            taken = [one.prefix for one in holdings] + [one.prefix for one in keeper.claims]
            cluster = self.pools[0].cluster
            assert cluster is not None
            prefix = claimchoice.choose(cluster, 4, taken, chance.choice("abc"))
            if prefix is not None:
                await keeper.take("default", prefix)
        if what == 1:
            await self.settle()
        if what == 2 and (mine := keeper.claims.of(State.HELD)):
            await keeper.give_back(chance.choice(mine))
        if what == 3:
            for one in keeper.claims.of(State.HELD, State.LOST):
                await keeper.verify(one)

    async def settle(self) -> None:
        holdings = await self.keeper.holdings()
        for one in self.keeper.claims.of(State.CLAIMING):
            await self.keeper.settle(one, holdings)
        await self.keeper.adopt(holdings)
        for one in self.keeper.claims.of(State.RETURNING):
            await self.keeper.finish_return(one)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.sampled_from([28, 29, 30]), min_size=2, max_size=5))
def test_nodes_that_claim_are_killed_and_come_back_never_give_out_of_one_range(seed: int, lengths: list[int]) -> None:
    """Each with a size of its own, requests and answers lost, in the order that the seed says."""
    chance = random.Random(seed)
    memory = Memory(chance)
    nodes = [SimulatedNode(f"n{number}", length, memory) for number, length in enumerate(lengths)]

    async def watch() -> None:
        while True:
            await asyncio.sleep(0)
            given_out = [prefix for node in nodes if hasattr(node, "ledger") for prefix in node.ranges()]
            assert not any(one.overlaps(other) for one, other in combinations(given_out, 2))

    async def world() -> None:
        watching = asyncio.create_task(watch())
        await asyncio.gather(*(node.live(chance, 12) for node in nodes))
        memory.chance = random.Random()
        memory.chance.random = lambda: 1.0  # type: ignore[method-assign] # nothing goes wrong any more
        for node in nodes:
            await node.begin()
            await node.settle()
            await node.settle()
        assert not watching.done(), watching.exception()
        watching.cancel()

    asyncio.run(world())
    for node in nodes:
        told = {
            claimchoice.read(KEYS, one).prefix  # type: ignore[union-attr]
            for one in memory.entries.values()
            if json.loads(one.value)["node"] == node.name
        }
        assert told == set(node.ranges()) == {one.prefix for one in node.keeper.claims}


def test_settings_of_a_cluster_pool_that_can_not_work() -> None:
    with pytest.raises(InvalidArgument, match="node_prefix_v6: a claim of /112 is larger than fd00::/120"):
        cluster("fd00::/120")
    with pytest.raises(InvalidArgument, match="overlaps"):
        plan(
            (
                PoolSettings("a", ranges=("10.0.0.0/24",)),
                PoolSettings("b", cluster_ranges=("10.0.0.0/16",)),
            )
        )


def test_a_claim_keeps_its_gateway_out_of_what_it_gives() -> None:
    shared = cluster("10.0.0.0/16", exclude=("10.0.1.0/30",))
    prefix = ip_network("10.0.1.0/24")

    first = shared.first(prefix)
    assert first == ip_address("10.0.1.4")
    assert shared.claimed(prefix, first).size == 256 - 4 - 1 - 1
    assert shared.claimed(ip_network("10.0.2.0/24"), first).size == 254
