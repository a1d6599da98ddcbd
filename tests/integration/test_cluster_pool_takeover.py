"""Claims that an operator takes over or gives back, through a real etcd: of whom, back again, and what is refused."""

from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from services.common.errors import FailedPrecondition, InvalidArgument, NotFound
from services.common.kvstore import Kvstore
from services.common.kvstore.keys import Keys
from services.ipam.claims import State
from tests import cluster_pool_support
from tests.cluster_pool_support import FOUR, node, until

etcd, store, root = cluster_pool_support.etcd, cluster_pool_support.store, cluster_pool_support.root


async def test_what_was_taken_over_is_taken_back_before_anybody_has_looked(tmp_path: Path, store: Kvstore, root: str):
    """The node still believes that it holds the range."""
    async with (
        node(tmp_path / "a", store, "a", root=root, cluster_ranges=FOUR) as a,
        node(tmp_path / "b", store, "b", root=root, cluster_ranges=FOUR) as b,
    ):
        await until(lambda: a.held() and b.held())
        gone = a.held()[0]
        await b.operations.take_over(ip_network(gone), "a", force=True)
        assert gone in a.held()

        await a.operations.take_over(ip_network(gone), "b", force=True)
        await b.run()

        assert a.ranges().count(gone) == 1
        assert (gone in b.ranges(), (await a.others())[gone]) == (False, "a")


async def test_taken_over_with_the_pods_still_there_and_taken_back(tmp_path: Path, store: Kvstore, root: str):
    async with (
        node(tmp_path / "a", store, "a", root=root, cluster_ranges=FOUR) as a,
        node(tmp_path / "b", store, "b", root=root, cluster_ranges=FOUR) as b,
    ):
        held = await a.allocate("c1")
        gone = str(held.addresses[0].range)
        await b.operations.take_over(ip_network(gone), "a", force=True)
        await a.run()
        assert a.held(State.LOST) == [gone]

        await a.operations.take_over(ip_network(gone), "b", force=True)
        await b.run()

        assert gone in a.ranges()
        assert gone not in b.ranges()
        more = [await a.allocate(f"c{number}") for number in range(2, 5)]
        assert held.addresses[0].address not in {one.addresses[0].address for one in more}


async def test_what_a_takeover_refuses(tmp_path: Path, store: Kvstore, root: str):
    async with (
        node(tmp_path / "a", store, "a", root=root, cluster_ranges=FOUR) as a,
        node(tmp_path / "b", store, "b", root=root, cluster_ranges=FOUR) as b,
    ):
        await until(lambda: a.held() and b.held())
        theirs, ours = ip_network(a.held()[0]), ip_network(b.held()[0])
        taken = await a.others()
        free = next(one for one in ip_network(FOUR[0]).subnets(new_prefix=30) if str(one) not in taken)
        await store.put(Keys(root).node("a"), "{}")

        with pytest.raises(FailedPrecondition, match="node 'a' is registered"):
            await b.operations.take_over(theirs, "a", force=False)
        with pytest.raises(FailedPrecondition, match="is claimed by node 'a', not by 'c'"):
            await b.operations.take_over(theirs, "c", force=True)
        with pytest.raises(InvalidArgument, match="this node's own"):
            await b.operations.take_over(ours, "b", force=True)
        with pytest.raises(InvalidArgument, match="in none of the cluster_ranges"):
            await b.operations.take_over(ip_network("10.9.0.0/30"), "a", force=True)
        with pytest.raises(NotFound, match="is not claimed"):
            await b.operations.take_over(free, "a", force=True)
        assert (await b.others())[str(theirs)] == "a"


async def test_what_a_release_refuses(tmp_path: Path, store: Kvstore, root: str):
    pool: Any = {"cluster_ranges": ("10.0.0.0/24",), "node_prefix_v4": 29, "release_after_seconds": 3600.0}
    async with node(tmp_path, store, "a", root=root, **pool) as a:
        for number in range(8):
            await a.allocate(f"c{number}")
        await until(lambda: len(a.held()) == 2)
        gateway, second = map(ip_network, a.held())

        with pytest.raises(FailedPrecondition, match="has this node's gateway"):
            await a.operations.release(gateway)
        with pytest.raises(FailedPrecondition, match="allocations"):
            await a.operations.release(second)
        with pytest.raises(NotFound, match="holds no claim"):
            await a.operations.release(ip_network("10.1.0.0/29"))
        for number in range(8):
            await a.release(f"c{number}")
        await a.operations.release(second)

        assert a.held() == [str(gateway)]
        assert await a.others() == {str(gateway): "a"}
