"""An allocator over a real database for tests, by clocks that they set."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from services.common.config import PoolSettings
from services.common.controllers import Registry
from services.common.db import Database
from services.common.errors import Unavailable
from services.common.model import Attachment, Pod
from services.ipam.allocator import Allocator
from services.ipam.ledger import Ledger
from services.ipam.model import Allocation, AllocationRequest, Clock
from services.ipam.poolplan import plan
from services.ipam.store import MIGRATIONS, Store

DUAL = PoolSettings("default", ("10.0.0.0/24", "fd00::/112"))


class Time:
    """Both clocks, set by hand."""

    def __init__(self) -> None:
        self.wall, self.monotonic = 1_700_000_000.0, 50.0

    def pass_(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds


@contextlib.asynccontextmanager
async def allocator(
    path: Path,
    *pools: PoolSettings,
    time: Time | None = None,
    reservation: float = 600.0,
    controllers: Registry | None = None,
) -> AsyncIterator[Allocator]:
    clock = Clock(lambda: time.wall, lambda: time.monotonic) if time else Clock()
    database = Database(path / "ipam.sqlite", MIGRATIONS)
    ledger = Ledger(plan(pools or (DUAL,)), 30.0, reservation, clock)
    made = Allocator(ledger, Store(database), clock, controllers or Registry())
    await database.start()
    await made.start()
    try:
        yield made
    finally:
        await made.stop()
        await database.stop()


def owner(name: str) -> Attachment:
    return Attachment("net", name, "eth0")


async def allocate(allocator: Allocator, name: str, **fields: Any) -> Allocation:
    return (await allocator.allocate(AllocationRequest(owner(name), Pod("ns", name, "uid"), **fields)))[0]


def first(held: Allocation) -> str:
    return str(held.addresses[0].address)


def rows(path: Path) -> list[tuple[str, str]]:
    """What another reader of the file sees: owner and IPv4 address."""
    with contextlib.closing(sqlite3.connect(path / "ipam.sqlite")) as connection:
        found = connection.execute("SELECT container_id, ipv4 FROM allocations ORDER BY id").fetchall()
    return [(name, str(ip_address(packed))) for name, packed in found]


async def disk_full(*_arguments: object) -> None:
    await asyncio.sleep(0)
    raise Unavailable("the database can't be written: database or disk is full")
