"""The embedded kvstore: a table in a service's database, whose commits it shares.

The revision is the store's own counter, as in etcd: a write that changes nothing doesn't advance it.
"""

import sys
import time

from services.common.db import PATIENCE, Connection, Database, Row
from services.common.kvstore import Entry

SCHEMA = """
    CREATE TABLE kvstore (
        key TEXT PRIMARY KEY,
        value TEXT NOT NULL,
        revision INTEGER NOT NULL UNIQUE,
        written REAL NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE kvstore_revision (last INTEGER NOT NULL) STRICT;
    INSERT INTO kvstore_revision VALUES (0);
    """
"""For the migrations of the database that it lives in."""

_PUT = """
    INSERT INTO kvstore VALUES (?, ?, ?, ?)
    ON CONFLICT (key) DO UPDATE SET value = excluded.value, revision = excluded.revision, written = excluded.written
    """


class EmbeddedKvstore:
    """A Kvstore in SQLite."""

    def __init__(self, database: Database) -> None:
        """Use a database whose migrations have SCHEMA."""
        self._database = database

    async def put(self, key: str, value: str) -> Entry:
        """See Kvstore."""

        def change(connection: Connection) -> Entry:
            there = _get(connection, key)
            if there is not None and there.value == value:
                return there
            (revision,) = connection.execute("UPDATE kvstore_revision SET last = last + 1 RETURNING last").fetchone()
            entry = Entry(key, value, revision, time.time())
            connection.execute(_PUT, (entry.key, entry.value, entry.revision, entry.written))
            return entry

        return await self._database.write(change, patience=PATIENCE)

    async def get(self, key: str) -> Entry | None:
        """See Kvstore."""
        return await self._database.read(lambda connection: _get(connection, key))

    async def delete(self, key: str) -> bool:
        """See Kvstore."""

        def change(connection: Connection) -> bool:
            gone = connection.execute("DELETE FROM kvstore WHERE key = ?", (key,)).rowcount > 0
            if gone:
                connection.execute("UPDATE kvstore_revision SET last = last + 1")
            return gone

        return await self._database.write(change)

    async def list(self, prefix: str) -> tuple[Entry, ...]:
        """See Kvstore."""

        def query(connection: Connection) -> tuple[Entry, ...]:
            # A range, because LIKE would take `_` and `%` of a name for patterns.
            beyond = prefix + chr(sys.maxunicode)
            rows = connection.execute("SELECT * FROM kvstore WHERE key >= ? AND key < ? ORDER BY key", (prefix, beyond))
            return tuple(map(_read, rows))

        return await self._database.read(query)


def _get(connection: Connection, key: str) -> Entry | None:
    row = connection.execute("SELECT * FROM kvstore WHERE key = ?", (key,)).fetchone()
    return _read(row) if row is not None else None


def _read(row: Row) -> Entry:
    return Entry(row["key"], row["value"], row["revision"], row["written"])
