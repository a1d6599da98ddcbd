"""Nodes that share ranges through a real etcd: nobody has what another one has, whatever happens in between."""

import asyncio
import contextlib
import itertools
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from services.common.errors import Exhausted, Unavailable
from services.common.kvstore import Kvstore
from services.common.kvstore.keys import Keys
from services.ipam.claimoperations import Whose
from services.ipam.claims import State
from services.ipam.metrics import Pools
from services.ipam.model import Allocation
from tests import cluster_pool_support
from tests.cluster_pool_support import FOUR, ClusterNode, node, store_of, until
from tests.etcd_support import Etcd

etcd, store, root = cluster_pool_support.etcd, cluster_pool_support.store, cluster_pool_support.root


def first(held: Allocation) -> str:
    return str(held.addresses[0].address)


async def test_a_first_claim_comes_by_itself_and_pods_get_addresses_of_it(tmp_path: Path, store: Kvstore, root: str):
    async with node(
        tmp_path, store, "a", root=root, cluster_ranges=("10.0.0.0/16", "fd00::/64"), node_prefix_v4=24
    ) as a:
        held = await a.allocate("c1")

        (v4, v6) = [ip_network(one) for one in a.held()]
        assert (v4.prefixlen, v6.prefixlen) == (24, 112)
        assert [one.address for one in held.addresses] == [v4[2], v6[2]]
        assert [one.gateway for one in held.addresses] == [v4[1], v6[1]]
        assert await a.others() == {str(v4): "a", str(v6): "a"}


async def test_claims_and_what_is_free_in_them_are_counted(tmp_path: Path, store: Kvstore, root: str):
    async with node(tmp_path, store, "a", root=root, cluster_ranges=("10.0.0.0/24",), node_prefix_v4=29) as a:
        await a.allocate("c1")
        samples = {
            (sample.name, *sample.labels.values()): sample.value
            for family in Pools(a.allocator, a.pools).collect()
            for sample in family.samples
        }

        assert samples["podlane_ipam_claims", "default", "held"] == 1
        assert samples["podlane_ipam_claims_free", "default", "IPv4"] == 4


async def test_three_nodes_race_for_four_ranges_and_no_address_is_given_twice(
    tmp_path: Path, store: Kvstore, root: str
):
    async with contextlib.AsyncExitStack() as stack:
        nodes = [
            await stack.enter_async_context(node(tmp_path / name, store, name, root=root, cluster_ranges=FOUR))
            for name in "abc"
        ]
        counters = [itertools.count() for _ in nodes]

        async def fill(one: ClusterNode, counter: Iterator[int]) -> list[str]:
            found = []
            while True:
                try:
                    found.append(first(await one.allocate(f"c{next(counter)}", patience=1.0)))
                except (Exhausted, Unavailable):
                    return found

        found = [one for each in await asyncio.gather(*map(fill, nodes, counters)) for one in each]

        # Of four ranges with two addresses each, the gateways of those three nodes that have any are not given out.
        having = [one for one in nodes if one.held()]
        assert Counter(found).most_common(1)[0][1] == 1
        assert len(found) == 8 - len(having)
        assert sorted(itertools.chain(*(one.held() for one in nodes))) == sorted(await nodes[0].others())
        assert len(await nodes[0].others()) == 4


async def test_64_at_once_wait_for_claims_and_all_get_an_address(tmp_path: Path, store: Kvstore, root: str):
    async with node(tmp_path, store, "a", root=root, cluster_ranges=("10.0.0.0/24",), node_prefix_v4=28) as a:
        held = await asyncio.gather(*(a.allocate(f"c{number}") for number in range(64)))

        assert len({first(one) for one in held}) == 64
        assert len({one.addresses[0].gateway for one in held}) == 1
        assert len(a.held()) >= 5


async def test_a_claim_is_made_ahead_of_need_and_given_back_when_twice_the_spare_is_free_elsewhere(
    tmp_path: Path, store: Kvstore, root: str
):
    async with node(tmp_path, store, "a", root=root, cluster_ranges=("10.0.0.0/24",), node_prefix_v4=28, spare=4) as a:
        for number in range(10):
            await a.allocate(f"c{number}")
        await until(lambda: len(a.held()) == 2)
        (gateway, second) = a.held()
        for number in range(10, 20):
            await a.allocate(f"c{number}")
        await until(lambda: len(a.held()) == 2)

        for number in range(20):
            await a.release(f"c{number}")
        await a.run()

        assert a.held() == a.ranges() == [gateway]
        assert await a.others() == {gateway: "a"}
        assert a.keeper.claims.get(ip_network(second)) is None


async def test_what_cools_down_or_is_held_keeps_its_claim(tmp_path: Path, store: Kvstore, root: str):
    pool: Any = {"cluster_ranges": ("10.0.0.0/24",), "node_prefix_v4": 29, "cooldown": 3600.0}
    async with node(tmp_path, store, "a", root=root, **pool) as a:
        held = {number: await a.allocate(f"c{number}") for number in range(14)}
        await until(lambda: len(a.held()) == 3)
        third = ip_network(a.held()[2])
        inside = [number for number, one in held.items() if one.addresses[0].address in third]
        for number in held.keys() - set(inside[:1]):
            await a.release(f"c{number}")
        await a.run()
        assert len(a.held()) >= 3

        await a.release(f"c{inside[0]}")
        await a.run()

        assert str(third) in a.held()


async def test_exhaustion_is_told_with_who_has_what(tmp_path: Path, store: Kvstore, root: str):
    async with (
        node(tmp_path / "a", store, "a", root=root, cluster_ranges=FOUR) as a,
        node(tmp_path / "b", store, "b", root=root, cluster_ranges=FOUR) as b,
    ):
        await until(lambda: a.held() and b.held())
        for number in range(5):
            await a.allocate(f"c{number}")
        with pytest.raises(Exhausted) as refused:
            await a.allocate("c5")

        said = refused.value.message
        assert "pool 'default' has no free IPv4 address: 5 of 5 used" in said
        assert "of the 4 IPv4 ranges of /30 in 10.0.0.0/28 4 are claimed: a 3, b 1" in said
        assert refused.value.fields["used"] == "5"
        assert "podlane ipam takeover" in said
        assert any("4 are claimed" in problem for problem in a.pools.problems("default"))


async def test_a_node_that_finds_the_cluster_full_says_what_it_waits_for(tmp_path: Path, store: Kvstore, root: str):
    async with (
        node(tmp_path / "a", store, "a", root=root, cluster_ranges=("10.0.0.0/30",)) as a,
        node(tmp_path / "b", store, "b", root=root, cluster_ranges=("10.0.0.0/30",)) as b,
    ):
        await until(lambda: a.held() or b.held())
        late = b if a.held() else a

        with pytest.raises(Unavailable) as refused:
            await late.allocate("c1")

        assert "has no IPv4 range on node" in refused.value.message
        assert "waits for a pod CIDR from the kvstore" in refused.value.message
        assert "1 are claimed" in refused.value.message
        assert late.ranges() == []


async def test_a_node_with_a_second_instance_of_its_name_shares_no_range(tmp_path: Path, store: Kvstore, root: str):
    async with (
        node(tmp_path / "1", store, "a", root=root, cluster_ranges=FOUR) as one,
        node(tmp_path / "2", store, "a", root=root, cluster_ranges=FOUR) as two,
    ):
        await until(lambda: one.held() and two.held())
        await one.run()
        await two.run()

        assert not set(one.held()) & set(two.held())
        views, error = await one.operations.views()
        assert error == ""
        assert {view.whose for view in views} == {Whose.HELD, Whose.STRANGER}


async def test_nodes_that_were_given_different_sizes_share_no_address(tmp_path: Path, store: Kvstore, root: str):
    """Their keys differ, so that no condition of one can see the other: the look after the swap does."""
    async with contextlib.AsyncExitStack() as stack:
        nodes = [
            await stack.enter_async_context(
                node(tmp_path / name, store, name, root=root, cluster_ranges=FOUR, node_prefix_v4=length)
            )
            for name, length in (("a", 29), ("b", 30), ("c", 29), ("d", 30))
        ]
        with contextlib.suppress(Exhausted, Unavailable):
            await asyncio.gather(*(one.allocate("c1", patience=1.0) for one in nodes))

        held = [ip_network(one) for each in nodes for one in each.held()]
        assert not any(one.overlaps(other) for one, other in itertools.combinations(held, 2))


async def test_claims_outlive_a_restart_and_need_no_kvstore(tmp_path: Path, root: str):
    with Etcd() as etcd:
        async with store_of(etcd.endpoints, timeout=0.5) as store:
            async with node(tmp_path, store, "a", root=root, cluster_ranges=("10.0.0.0/24",), node_prefix_v4=28) as a:
                one = await a.allocate("c1")
                held = a.held()
            etcd.kill()

            async with node(tmp_path, store, "a", root=root, cluster_ranges=("10.0.0.0/24",), node_prefix_v4=28) as a:
                two = await a.allocate("c2", patience=0.0)
                assert a.held() == a.ranges() == held
                assert two.addresses[0].gateway == one.addresses[0].gateway
                assert first(two) != first(one)
                for number in range(3, 14):
                    await a.allocate(f"c{number}", patience=0.0)
                with pytest.raises(Exhausted, match=r"no further range could be claimed: .*etcd"):
                    await a.allocate("c99")
                waiting = asyncio.create_task(a.allocate("c100"))
                etcd.start()
                await waiting
                assert len(a.held()) == 2


@pytest.mark.parametrize("verb", ["list", "claim"])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_claim_whose_answer_is_lost_is_found_and_used(
    tmp_path: Path, store: Kvstore, root: str, verb: str, when: str
):
    """At each request in turn, before it is sent or after it was carried out."""
    for turn in range(4):
        async with node(tmp_path / f"{turn}", store, f"n{turn}", root=root, cluster_ranges=("10.0.0.0/24",)) as a:
            count = itertools.count()

            def fail(seen: str, count: Iterator[int] = count, turn: int = turn) -> None:
                if seen == verb and next(count) == turn:
                    raise Unavailable("the test says so")

            setattr(a.door, when, fail)
            for number in range(4):
                with contextlib.suppress(Unavailable, Exhausted):
                    await a.allocate(f"c{number}")
            await a.run()
            await a.run()
            setattr(a.door, when, lambda _verb: None)
            await a.run()

            mine = [one for one, who in (await a.others()).items() if who == f"n{turn}"]
            assert sorted(mine) == sorted(a.held()) == sorted(a.ranges())


async def test_a_key_that_was_deleted_behind_our_back_is_claimed_again(tmp_path: Path, store: Kvstore, root: str):
    async with node(tmp_path, store, "a", root=root, cluster_ranges=FOUR) as a:
        await until(lambda: len(a.held()) == 1)
        before = await a.others()
        for entry in await store.list(Keys(root).claims):
            await store.delete(entry.key)

        await a.run()

        assert await a.others() == before


@pytest.mark.parametrize("length", [30, 29])
async def test_a_key_that_was_deleted_and_is_somebody_elses_by_now_is_lost(
    tmp_path: Path, store: Kvstore, root: str, length: int
):
    """Also one of another size, which overlaps it."""
    only = ("10.0.0.0/29",) if length == 29 else ("10.0.0.0/30",)
    async with node(tmp_path / "a", store, "a", root=root, cluster_ranges=only) as a:
        await until(lambda: len(a.held()) == 1)
        (gone,) = a.held()
        for entry in await store.list(Keys(root).claims):
            await store.delete(entry.key)

        async with node(tmp_path / "b", store, "b", root=root, cluster_ranges=only, node_prefix_v4=length) as b:
            await until(b.held)
            await a.run()

            assert gone not in a.held()
            assert a.held(State.LOST) in ([], [gone])
            assert gone not in a.ranges()
            assert b.ranges() == list(await b.others())


async def test_a_range_that_is_somebody_elses_is_not_given_out_and_pods_keep_what_they_have(
    tmp_path: Path, store: Kvstore, root: str
):
    async with node(tmp_path / "a", store, "a", root=root, cluster_ranges=FOUR) as a:
        held = await a.allocate("c1")
        gone = a.held()[0]
    async with node(tmp_path / "b", store, "b", root=root, cluster_ranges=FOUR) as b:
        taken = await b.operations.take_over(ip_network(gone), "a", force=False)
        assert (taken.node, taken.whose) == ("b", Whose.HELD)
        assert gone in b.ranges()

        async with node(tmp_path / "a", store, "a", root=root, cluster_ranges=FOUR) as a:
            await until(lambda: a.held(State.LOST) == [gone])
            assert gone not in a.ranges()
            assert (await a.allocate("c1")) == held
            more = await a.allocate("c2")
            assert more.addresses[0].address not in ip_network(gone)
            assert more.addresses[0].gateway == held.addresses[0].gateway, "pods have it, so it must not change"
            assert any(f"{gone} belongs to another node now" in one for one in a.pools.problems("default"))
            views, _ = await a.operations.views()
            assert {(str(one.prefix), one.node, one.whose) for one in views if one.whose is Whose.LOST} == {
                (gone, "b", Whose.LOST)
            }

            await a.release("c1")
            await a.release("c2")
            await a.run()

            assert a.held(State.LOST) == []
            after = await a.allocate("c3")
            assert after.addresses[0].gateway in ip_network(a.held()[0])


async def test_a_pool_that_was_renamed_gives_its_old_claims_back_once_no_pod_needs_them(
    tmp_path: Path, store: Kvstore, root: str
):
    async with node(tmp_path, store, "a", root=root, cluster_ranges=FOUR, name_of_pool="default") as a:
        held = await a.allocate("c1")
        old = a.held()[0]
    async with node(tmp_path, store, "a", root=root, cluster_ranges=FOUR, name_of_pool="pods") as a:
        new = await a.allocate("c2", pool="pods")
        assert new.addresses[0].address not in ip_network(old)
        assert new.addresses[0].gateway == held.addresses[0].gateway

        await a.release("c1")
        await a.release("c2")
        await a.run()

        assert old not in await a.others()


def rows(directory: Path) -> list[tuple[str, str]]:
    with contextlib.closing(sqlite3.connect(directory / "ipam.sqlite")) as connection:
        return list(connection.execute("SELECT range, state FROM claims ORDER BY range"))


async def test_an_intent_whose_range_somebody_else_has_got_leaves_nothing(tmp_path: Path, store: Kvstore, root: str):
    """A kill before the swap, and another node that was faster."""
    async with node(tmp_path, store, "a", root=root, cluster_ranges=FOUR) as a:
        await a.allocate("c1")
        mine = a.held()
    async with node(tmp_path / "b", store, "b", root=root, cluster_ranges=FOUR) as b:
        await until(b.held)
        theirs = b.held()[0]
        with contextlib.closing(sqlite3.connect(tmp_path / "ipam.sqlite")) as connection, connection:
            packed = ip_address(theirs.partition("/")[0]).packed
            connection.execute(
                "INSERT INTO claims VALUES (?, 'default', 'claiming', ?, ?, 0)", (theirs, packed, time.time())
            )

        async with node(tmp_path, store, "a", root=root, cluster_ranges=FOUR) as a:
            await a.run()
            assert set(mine) <= set(a.held())
            assert (theirs, "claiming") not in rows(tmp_path)
            assert theirs not in a.ranges()


async def test_a_database_that_was_lost_makes_another_instance(tmp_path: Path, store: Kvstore, root: str):
    """What the lost one had claimed may be in use by pods that still run: it isn't used again without an operator."""
    async with node(tmp_path / "before", store, "a", root=root, cluster_ranges=FOUR) as a:
        await until(a.held)
        old = a.held()[0]
    async with node(tmp_path / "after", store, "a", root=root, cluster_ranges=FOUR) as a:
        await until(a.held)
        assert old not in a.held()
        await a.operations.take_over(ip_network(old), "a", force=False)

        assert old in a.ranges()
