"""Nodes of a cluster as far as ipam goes: real claims in a real kvstore, a real database each, in this process.

async with node(tmp_path / "a", store, "a", ranges=("10.0.0.0/28",)) as a:
    await a.allocate("c1")
"""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from services.common.config import KvstoreSettings, PoolSettings
from services.common.controllers import Registry
from services.common.db import Database
from services.common.kvstore import Change, Condition, Delete, Entry, Kvstore
from services.common.kvstore.etcd import EtcdKvstore
from services.common.kvstore.keys import Keys
from services.common.model import Attachment, Pod
from services.ipam import claimchoice
from services.ipam.allocator import Allocator
from services.ipam.claimkeeper import ClaimKeeper
from services.ipam.claimoperations import ClaimOperations
from services.ipam.claims import State
from services.ipam.claimstore import ClaimStore
from services.ipam.clusterpool import CONTROLLER, ClusterPools
from services.ipam.ledger import Ledger
from services.ipam.model import Allocation, AllocationRequest, Clock
from services.ipam.poolplan import plan
from services.ipam.store import MIGRATIONS, Store
from services.ipam.supply import Changes
from tests.etcd_support import Etcd

PATIENCE = 30.0


class Door:
    """A kvstore through which a test sees requests pass, and holds them up or makes them fail."""

    def __init__(self, store: Kvstore) -> None:
        self.store = store
        self.before: Callable[[str], None] = lambda _verb: None
        """Called before each request with its verb: get, list, claim, return; what it raises, the request raises."""
        self.after: Callable[[str], None] = lambda _verb: None
        """Called after each that was answered: what it raises comes in the answer's place."""

    async def get(self, key: str) -> Entry | None:
        self.before("get")
        answer = await self.store.get(key)
        self.after("get")
        return answer

    async def list(self, prefix: str) -> tuple[Entry, ...]:
        self.before("list")
        answer = await self.store.list(prefix)
        self.after("list")
        return answer

    async def commit(self, conditions: Sequence[Condition], changes: Sequence[Change]) -> bool:
        verb = "return" if any(isinstance(change, Delete) for change in changes) else "claim"
        self.before(verb)
        answer = await self.store.commit(conditions, changes)
        self.after(verb)
        return answer


class ClusterNode:
    """One node's ipam without its server."""

    def __init__(self, store: Kvstore, keys: Keys, name: str, directory: Path, pool: PoolSettings, **more: Any) -> None:
        self.door = Door(store)
        through: Any = self.door  # it has what claims need of a Kvstore
        self.keys = keys
        self.database = Database(directory / "ipam.sqlite", MIGRATIONS)
        pools, clock, self.registry = plan((pool,)), Clock(), Registry()
        self.ledger = Ledger(pools, more.get("cooldown", 0.0), more.get("reservation", 600.0), clock)
        self.changes = Changes()
        self.keeper = ClaimKeeper(pools, self.ledger, ClaimStore(self.database), through, keys=keys, clock=clock)
        self.pools = ClusterPools(
            pools,
            self.keeper,
            self.ledger,
            clock=clock,
            registry=self.registry,
            node=name,
            interval=more.get("interval", 600.0),
            changed=self.changes.announce,
        )
        self.allocator = Allocator(self.ledger, Store(self.database), clock, self.registry, self.pools)
        self.operations = ClaimOperations(pools, self.keeper, self.ledger, through, keys)

    async def start(self) -> None:
        """Start as the service does."""
        await self.database.start()
        await self.pools.start()
        await self.allocator.start()
        await self.pools.begin()

    async def stop(self) -> None:
        """Stop as the service does."""
        await self.pools.halt()
        await self.allocator.stop()
        await self.database.stop()

    async def allocate(self, name: str, patience: float = PATIENCE, **fields: Any) -> Allocation:
        """Reserve for a container."""
        request = AllocationRequest(owner(name), Pod("ns", name, "uid"), **fields)
        return (await self.allocator.allocate(request, patience))[0]

    async def release(self, name: str) -> None:
        """Release what a container holds."""
        await self.allocator.release(owner(name))

    def held(self, *states: State) -> list[str]:
        """The ranges of its claims in some state, held without one."""
        return [str(claim.prefix) for claim in self.keeper.claims.of(*(states or (State.HELD,)))]

    def ranges(self) -> list[str]:
        """What addresses are given out of."""
        return [str(one.prefix) for pool in self.allocator.status() for one in pool.ranges]

    async def run(self) -> None:
        """Have the controller run once more, from beginning to end, whether it succeeds or not."""
        controller = self.registry.find("ipam", CONTROLLER)
        assert controller is not None
        status = controller.status
        wanted = status.successes + status.failures + (2 if controller.running_since else 1)
        controller.trigger()
        await until(lambda: status.successes + status.failures >= wanted)

    async def others(self) -> dict[str, str]:
        """Who has claimed what, as the kvstore has it: node by range."""
        entries = await self.door.store.list(self.keys.claims)
        found = (claimchoice.read(self.keys, entry) for entry in entries)
        return {str(one.prefix): one.holder.node for one in found if one is not None}


def owner(name: str) -> Attachment:
    """The attachment of a container."""
    return Attachment("net", name, "eth0")


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def store_of(endpoints: Sequence[str], timeout: float = 5.0) -> AsyncIterator[EtcdKvstore]:
    """A client of etcd."""
    store = EtcdKvstore(KvstoreSettings(tuple(endpoints), timeout_seconds=timeout), "default", Registry())
    await store.start()
    try:
        yield store
    finally:
        await store.stop()


@contextlib.asynccontextmanager
async def node(
    directory: Path, store: Kvstore, name: str, *, root: str = "podlane", **settings: Any
) -> AsyncIterator[ClusterNode]:
    """A node that runs for the block; `settings` are the pool's, or cooldown, reservation, interval."""
    about = {key: settings.pop(key) for key in ("cooldown", "reservation", "interval") if key in settings}
    pool_name = settings.pop("name_of_pool", "default")
    defaults: dict[str, Any] = {"spare": 1, "release_after_seconds": 0.0, "node_prefix_v4": 30, "name": pool_name}
    pool = PoolSettings(**{**defaults, **settings})
    made = ClusterNode(store, Keys(root), name, directory, pool, **about)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


FOUR = ("10.0.0.0/28",)
"""Four ranges of /30, each of two addresses; the gateway takes one of the first."""


@pytest.fixture(scope="module")
def etcd() -> Iterator[Etcd]:
    """One member for all tests of a module; each has a root of its own."""
    with Etcd() as running:
        yield running


@pytest.fixture
async def store(etcd: Etcd) -> AsyncIterator[Kvstore]:
    """A client."""
    async with store_of(etcd.endpoints) as opened:
        yield opened


@pytest.fixture
def root() -> str:
    """Nobody else's."""
    return f"t{uuid.uuid4().hex}"
