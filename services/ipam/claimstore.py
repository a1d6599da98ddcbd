"""The rows behind the claims, and who this node is to the kvstore.

A row is written before the kvstore is asked for anything, and goes after the kvstore has answered: so whatever a kill
leaves in the kvstore has a row here, or is found there by the instance.
"""

import uuid
from ipaddress import ip_address, ip_network

from services.common.db import Connection, Database
from services.common.errors import CorruptState
from services.common.model import Network
from services.ipam.claims import Claim, State


class ClaimStore:
    """Claims on disk. Each write returns once it is there, or raises Unavailable and has done nothing."""

    def __init__(self, database: Database) -> None:
        """Use a database that was made with `store.MIGRATIONS`."""
        self._database = database

    async def instance(self) -> str:
        """Return the node's instance, which is made once for each database."""

        def change(connection: Connection) -> str:
            known = connection.execute("SELECT id FROM instance").fetchone()
            made = known["id"] if known is not None else uuid.uuid4().hex
            if known is None:
                connection.execute("INSERT INTO instance VALUES (?)", (made,))
            return str(made)

        return await self._database.write(change)

    async def load(self) -> list[Claim]:
        """Return all claims. Raises CorruptState."""

        def query(connection: Connection) -> list[Claim]:
            rows = connection.execute("SELECT * FROM claims ORDER BY number, range").fetchall()
            try:
                return [
                    Claim(
                        row["pool"],
                        ip_network(row["range"]),
                        State(row["state"]),
                        ip_address(row["first"]),
                        row["claimed"],
                        row["number"],
                    )
                    for row in rows
                ]
            except ValueError as error:
                raise CorruptState(
                    f"the ipam database holds what ipam never writes: {error}; restore it from a backup"
                ) from None

        return await self._database.read(query)

    async def put(self, claim: Claim) -> None:
        """Write a claim, whether it is there or not."""
        values = (
            str(claim.prefix),
            claim.pool,
            claim.state.value,
            claim.first.packed,
            claim.claimed,
            claim.number,
        )

        def change(connection: Connection) -> None:
            connection.execute("INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?, ?, ?)", values)

        await self._database.write(change)

    async def drop(self, prefix: Network) -> None:
        """Delete a claim, and what is known of the free addresses in it: they are somebody else's matter now."""
        size = prefix.max_prefixlen // 8
        inside = (size, prefix.network_address.packed, prefix.broadcast_address.packed)

        def change(connection: Connection) -> None:
            connection.execute("DELETE FROM claims WHERE range = ?", (str(prefix),))
            connection.execute("DELETE FROM released WHERE length(address) = ? AND address BETWEEN ? AND ?", inside)

        await self._database.write(change)
