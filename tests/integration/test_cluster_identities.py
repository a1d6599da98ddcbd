"""Identities of a cluster on a real etcd: several nodes' backends in one process, each with a store of its own."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Self

import pytest

from services.common import controllers
from services.common.config import KvstoreSettings
from services.common.errors import FailedPrecondition
from services.common.kvstore.etcd import EtcdKvstore
from services.common.kvstore.keys import Keys
from services.endpoint.cluster import records
from services.endpoint.cluster.identities import SYNC, ClusterIdentities
from services.endpoint.cluster.identitygc import IdentityCollector
from services.endpoint.policy.identity import LOCAL_SCOPE
from services.endpoint.policy.labels import Labels
from tests.etcd_support import Etcd

KEYS = Keys("t")
WEB, DB = Labels({"k8s:app": "web"}), Labels({"k8s:app": "db"})


@dataclass
class Registered:
    """A node that is registered, and the first of all, or not."""

    first: bool = True
    refused: str = ""

    async def require(self) -> None:
        if self.refused:
            raise FailedPrecondition(self.refused)


@dataclass
class Node:
    """One node's backend with what it was told of."""

    name: str
    etcd: Etcd
    registered: Registered = field(default_factory=Registered)
    known: dict[int, Labels] = field(default_factory=dict)
    now: float = 1000.0

    async def __aenter__(self) -> Self:
        self.registry = controllers.Registry()
        settings = KvstoreSettings(endpoints=self.etcd.endpoints, root="t", timeout_seconds=1.0, lease_seconds=30)
        self.store = EtcdKvstore(settings, "default", self.registry)
        self.manager = controllers.Manager("cluster", self.registry)
        self.backend = ClusterIdentities(
            self.store,
            KEYS,
            self.name,
            registration=self.registered,
            own=self.manager,
            grace=60.0,
            interval=1000.0,
            clock=lambda: self.now,
        )
        self.renumbered: list[int] = []
        self.backend.renumber = self.renumbered.append
        await self.store.start()
        await self.backend.start()
        self.following = asyncio.create_task(self._follow())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.following.cancel()
        await self.backend.stop()
        await self.registry.stop()
        await self.store.stop()

    async def _follow(self) -> None:
        async for batch in self.backend.watch():
            for number, labels in batch.items():
                if labels is None:
                    del self.known[number]
                else:
                    assert self.known.setdefault(number, labels) == labels

    async def synced(self) -> None:
        """Wait until the store knows what this node uses."""
        await until(lambda: self.backend.book.wanted(self.now) == self.backend._referred)


async def until(holds: Callable[[], object]) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.01)


@pytest.fixture
def etcd() -> Iterator[Etcd]:
    with Etcd() as running:
        yield running


@contextlib.asynccontextmanager
async def nodes(etcd: Etcd, *names: str) -> AsyncIterator[list[Node]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Node(name, etcd)) for name in names]


def references(etcd: Etcd, number: int) -> list[str]:
    found = etcd.ctl("get", "--prefix", "--keys-only", KEYS.identity_references_of(number)).stdout
    return [line.rpartition("/")[2] for line in found.split()]


async def test_all_nodes_agree_whoever_asks_first(etcd: Etcd) -> None:
    async with nodes(etcd, "a", "b", "c") as (a, b, c):
        sets = [Labels({"k8s:app": f"app-{number}"}) for number in range(20)]
        found = await asyncio.gather(*(node.backend.allocate(labels) for labels in sets for node in (a, b, c)))
        by_labels = [set(found[place : place + 3]) for place in range(0, len(found), 3)]
        assert all(len(numbers) == 1 for numbers in by_labels)
        assert len(set(found)) == len(sets)
        assert all(256 <= number <= 65535 for number in found)
        for node in (a, b, c):
            await node.synced()
            await until(lambda: set(node.backend.known()) == set(found))  # noqa: B023 - awaited within the round
        assert references(etcd, found[0]) == ["a", "b", "c"]


async def test_a_new_identity_is_one_request_and_a_known_one_none(etcd: Etcd) -> None:
    async with nodes(etcd, "a", "b") as (a, b):
        await a.backend.allocate(DB)
        before = etcd.revision
        number = await a.backend.allocate(WEB)
        assert etcd.revision == before + 1
        await until(lambda: number in b.known)
        b.registered.refused = "nobody may ask the store now"
        assert await b.backend.allocate(WEB) == number


async def test_without_the_store_a_known_identity_works_and_a_new_one_is_this_nodes_own(etcd: Etcd) -> None:
    async with nodes(etcd, "a", "b") as (a, b):
        number = await a.backend.allocate(WEB)
        await until(lambda: number in b.known)
        etcd.kill()
        assert await b.backend.allocate(WEB) == number
        own = await b.backend.allocate(DB)
        assert own > LOCAL_SCOPE
        assert await b.backend.allocate(DB) == own
        assert "127.0.0.1" in b.backend.provisional(own)
        assert not b.backend.provisional(number)
        etcd.start()
        async with asyncio.timeout(20):
            shared = await again(b, DB)
        assert shared < LOCAL_SCOPE
        await b.synced()
        assert references(etcd, number) == ["a", "b"]
        assert await a.backend.allocate(DB) == shared


async def again(node: Node, labels: Labels) -> int:
    """Ask until the store answers."""
    while True:
        with contextlib.suppress(Exception):
            return await node.backend.allocate_shared(labels)
        await asyncio.sleep(0.05)


async def test_a_node_that_is_not_registered_shares_nothing(etcd: Etcd) -> None:
    async with nodes(etcd, "a") as (a,):
        a.registered.refused = "another node has the name"
        assert await a.backend.allocate(WEB) > LOCAL_SCOPE
        assert "another node has the name" in a.backend.provisional(LOCAL_SCOPE + 1)


async def test_a_number_that_is_in_use_is_put_again_when_hands_delete_it(etcd: Etcd) -> None:
    async with nodes(etcd, "a", "b") as (a, b):
        number = await a.backend.allocate(WEB)
        await until(lambda: number in b.known)
        etcd.ctl("del", "--prefix", KEYS.state)
        await until(lambda: references(etcd, number) == ["a"])
        assert etcd.ctl("get", "--print-value-only", KEYS.identity(number)).stdout.strip() == records.write_labels(WEB)
        assert a.known.get(number, WEB) == WEB
        assert await b.backend.allocate(WEB) == number


async def test_a_revoked_lease_takes_no_number_away(etcd: Etcd) -> None:
    async with nodes(etcd, "a") as (a,):
        number = await a.backend.allocate(WEB)
        lease = etcd.ctl("lease", "list").stdout.split()[-1]
        etcd.ctl("lease", "revoke", lease)
        assert references(etcd, number) == []
        await until(lambda: references(etcd, number) == ["a"])
        assert a.backend.book.known() == {number: WEB}


async def test_a_released_number_is_forgotten_by_all_when_its_grace_is_over(etcd: Etcd) -> None:
    async with nodes(etcd, "a", "b") as (a, b):
        number = await a.backend.allocate(WEB)
        await until(lambda: number in b.known)
        collector = IdentityCollector(b.store, KEYS, b.backend.book, b.registered)
        await a.backend.release(number)
        for _ in range(3):
            await collector.run()
        assert number in b.known, "a refers to it for its grace time"
        a.now += 61
        await a.backend.expire()
        await until(lambda: references(etcd, number) == [])
        await collector.run()
        assert number in b.known, "one round marks"
        await collector.run()
        await until(lambda: number not in b.known and number not in a.known)


async def test_only_the_first_node_collects(etcd: Etcd) -> None:
    async with nodes(etcd, "a", "b") as (a, b):
        number = await a.backend.allocate(WEB)
        await until(lambda: number in b.known)
        await a.backend.release(number)
        a.now += 61
        await a.backend.expire()
        await until(lambda: references(etcd, number) == [])
        b.registered.first = False
        collector = IdentityCollector(b.store, KEYS, b.backend.book, b.registered)
        for _ in range(4):
            await collector.run()
        assert etcd.ctl("get", KEYS.identity(number)).stdout


async def test_who_refers_at_the_last_moment_keeps_the_number(etcd: Etcd) -> None:
    async with nodes(etcd, "a", "b") as (a, b):
        number = await a.backend.allocate(WEB)
        await until(lambda: number in b.known)
        await a.backend.release(number)
        a.now += 61
        await a.backend.expire()
        await until(lambda: references(etcd, number) == [])
        collector = IdentityCollector(b.store, KEYS, b.backend.book, b.registered)
        await collector.run()
        assert await a.backend.allocate(WEB) == number
        await a.synced()
        for _ in range(3):
            await collector.run()
        assert references(etcd, number) == ["a"]


async def test_a_number_that_means_something_else_in_the_cluster_is_given_up(etcd: Etcd) -> None:
    """As of a node that was alone before, or cut off for so long that its numbers were given to others."""
    etcd.ctl("put", KEYS.identity(300), records.write_labels(DB))
    etcd.ctl("put", KEYS.identity_value(DB.canonical), records.write_number(300))
    node = Node("a", etcd)
    async with node:
        node.backend.restore({300: WEB}, {300: 1})
        node.known[300] = WEB
        await until(lambda: 300 in node.renumbered)
        assert "another one" in node.backend.provisional(300)
        new = await node.backend.allocate_shared(WEB)
        assert new != 300
        await node.backend.release(300)
        await until(lambda: node.known.get(300) == DB)
        assert node.backend.book.find(DB) == 300


async def test_a_node_that_was_alone_brings_its_numbers_along(etcd: Etcd) -> None:
    node = Node("a", etcd)
    async with node:
        node.backend.restore({300: WEB}, {300: 2})
        node.manager.trigger(SYNC)
        await until(lambda: references(etcd, 300) == ["a"])
        async with Node("b", etcd) as other:
            assert await other.backend.allocate(WEB) == 300


async def test_nonsense_in_the_store_is_passed_over(etcd: Etcd) -> None:
    etcd.ctl("put", KEYS.identity(300), "{")
    etcd.ctl("put", f"{KEYS.identities}nonsense", "{}")
    etcd.ctl("put", KEYS.identity(301), records.write_labels(DB))
    async with nodes(etcd, "a") as (a,):
        await until(lambda: a.known == {301: DB})
        etcd.ctl("put", KEYS.identity_value(WEB.canonical), "[]")
        assert await a.backend.allocate(WEB) > LOCAL_SCOPE
        assert WEB.canonical in a.backend.provisional(LOCAL_SCOPE + 1)
