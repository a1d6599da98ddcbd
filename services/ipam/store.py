"""The rows behind the ledger: allocations, and when the free addresses were released.

Only what can't be derived is kept. Every address that was ever given out and isn't held has a row in `released`, for
as long as nobody gets it: that is how a restart knows which addresses are fresh without keeping a cursor.

One row is one allocation with both families in it, so that dual stack is all or nothing on disk too, and the UNIQUE
columns make the database itself refuse a second holder of an address or a second allocation of an owner.
Addresses are packed, in network order; times are seconds since the epoch.
"""

from collections.abc import Callable, Sequence
from functools import cache
from ipaddress import ip_address, ip_network

from services.common.db import Connection, Database, Row
from services.common.errors import CorruptState
from services.common.model import Address, Attachment, Network, Pod
from services.ipam.model import Allocation, HeldAddress, Release

MIGRATIONS = (
    """
    CREATE TABLE allocations (
        id INTEGER PRIMARY KEY,
        network TEXT NOT NULL,
        container_id TEXT NOT NULL,
        ifname TEXT NOT NULL,
        pod_namespace TEXT NOT NULL,
        pod_name TEXT NOT NULL,
        pod_uid TEXT NOT NULL,
        pool TEXT NOT NULL,
        ipv4 BLOB UNIQUE,
        ipv4_gateway BLOB,
        ipv4_range TEXT,
        ipv6 BLOB UNIQUE,
        ipv6_gateway BLOB,
        ipv6_range TEXT,
        created REAL NOT NULL,
        expires REAL,
        confirmed REAL,
        endpoint_id INTEGER NOT NULL,
        UNIQUE (container_id, ifname, network)
    ) STRICT;
    CREATE TABLE released (
        address BLOB PRIMARY KEY,
        at REAL NOT NULL
    ) STRICT, WITHOUT ROWID;
    """,
    # Claims of the cluster's ranges (`claimstore.py`), and whose they are.
    """
    CREATE TABLE claims (
        range TEXT PRIMARY KEY,
        pool TEXT NOT NULL,
        state TEXT NOT NULL,
        first BLOB NOT NULL,
        claimed REAL NOT NULL,
        number INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE instance (id TEXT NOT NULL) STRICT;
    """,
)

_INSERT = f"INSERT INTO allocations VALUES ({', '.join('?' * 18)})"  # noqa: S608 - only question marks
_OWNER = "network = ? AND container_id = ? AND ifname = ?"


class Store:
    """Allocations on disk. Each write returns once it is there, or raises Unavailable and has done nothing."""

    def __init__(self, database: Database) -> None:
        """Use a database that was made with MIGRATIONS."""
        self._database = database

    async def load(self) -> tuple[list[Allocation], list[Release]]:
        """Return everything, allocations in the order of their ids. Raises CorruptState."""
        return await self._database.read(_load)

    async def add(self, allocation: Allocation, reused: Sequence[Address]) -> None:
        """Write a new allocation; `reused` are its addresses that have a row as released."""
        values = _values(allocation)
        packed = [(address.packed,) for address in reused]

        def change(connection: Connection) -> None:
            connection.execute(_INSERT, values)
            if packed:
                connection.executemany("DELETE FROM released WHERE address = ?", packed)

        await self._database.write(change)

    async def update(self, allocation: Allocation) -> None:
        """Write expiry and confirmation."""
        values = (allocation.expires, allocation.confirmed, allocation.endpoint_id, allocation.id)

        def change(connection: Connection) -> None:
            connection.execute(
                "UPDATE allocations SET expires = ?, confirmed = ?, endpoint_id = ? WHERE id = ?", values
            )

        await self._database.write(change)

    async def remove(self, allocation: Allocation, released: float) -> None:
        """Delete an allocation and note when its addresses became free."""
        rows = [(held.address.packed, released) for held in allocation.addresses]

        def change(connection: Connection) -> None:
            connection.execute("DELETE FROM allocations WHERE id = ?", (allocation.id,))
            connection.executemany("INSERT OR REPLACE INTO released VALUES (?, ?)", rows)

        await self._database.write(change)

    async def page(self, pool: str, owner: Attachment | None, after: int, size: int) -> list[Allocation]:
        """Return up to `size` allocations with an id beyond `after`; an empty pool and no owner filter nothing."""
        conditions = ["id > ?"]
        arguments: list[object] = [after]
        if pool:
            conditions.append("pool = ?")
            arguments.append(pool)
        if owner is not None:
            conditions.append(_OWNER)
            arguments += [owner.network, owner.container_id, owner.ifname]
        statement = f"SELECT * FROM allocations WHERE {' AND '.join(conditions)} ORDER BY id LIMIT ?"  # noqa: S608 - only constants

        def query(connection: Connection) -> list[Allocation]:
            return [_allocation(row) for row in connection.execute(statement, (*arguments, size))]

        return await self._database.read(query)


def _values(allocation: Allocation) -> tuple[object, ...]:
    by_family = {held.address.version: held for held in allocation.addresses}
    columns: list[object] = []
    for family in (4, 6):
        held = by_family.get(family)
        columns += [held.address.packed, held.gateway.packed, _text(held.range)] if held else [None, None, None]
    owner, pod = allocation.owner, allocation.pod
    return (
        allocation.id,
        *(owner.network, owner.container_id, owner.ifname),
        *(pod.namespace, pod.name, pod.uid),
        allocation.pool,
        *columns,
        *(allocation.created, allocation.expires, allocation.confirmed, allocation.endpoint_id),
    )


def _load(connection: Connection) -> tuple[list[Allocation], list[Release]]:
    try:
        allocations = [_allocation(row) for row in connection.execute("SELECT * FROM allocations ORDER BY id")]
        releases = [Release(ip_address(address), at) for address, at in connection.execute("SELECT * FROM released")]
    except ValueError as error:
        raise CorruptState(
            f"the ipam database holds what ipam never writes: {error}; restore it from a backup"
        ) from None
    return allocations, releases


def _allocation(row: Row) -> Allocation:
    addresses = (_held(row, "ipv4"), _held(row, "ipv6"))
    return Allocation(
        id=row["id"],
        owner=Attachment(row["network"], row["container_id"], row["ifname"]),
        pod=Pod(row["pod_namespace"], row["pod_name"], row["pod_uid"]),
        pool=row["pool"],
        addresses=tuple(held for held in addresses if held is not None),
        created=row["created"],
        expires=row["expires"],
        confirmed=row["confirmed"],
        endpoint_id=row["endpoint_id"],
    )


def _held(row: Row, family: str) -> HeldAddress | None:
    packed = row[family]
    if packed is None:
        return None
    return HeldAddress(ip_address(packed), _gateway(row[f"{family}_gateway"]), _range(row[f"{family}_range"]))


# Thousands of rows name the same few gateways and ranges: one object each is enough.
_gateway: Callable[[bytes], Address] = cache(ip_address)
_range: Callable[[str], Network] = cache(ip_network)
_text: Callable[[Network], str] = cache(str)
