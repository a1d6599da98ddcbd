"""The embedded kvstore: a table in a service's database, whose commits it shares.

The revision is the store's own counter, as in etcd: a write that changes nothing doesn't advance it. A node that is
alone has nobody who could outlive it, so nothing is leased, and no lease is lost. Only this process writes, so a watch
is told of each change once it is committed, whoever asked for it and whether or not they are still there.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TypeVar

from services.common.db import PATIENCE, Connection, Database, Row
from services.common.kvstore import (
    Absent,
    AbsentBelow,
    Batch,
    Change,
    Condition,
    Entry,
    Put,
    StoreStatus,
    Unchanged,
    check_once,
)

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
T = TypeVar("T")
_Changes = dict[str, tuple[int, Entry | None]]
"""What a transaction has changed, each with its revision."""


class EmbeddedKvstore:
    """A Kvstore in SQLite."""

    def __init__(self, database: Database) -> None:
        """Use a database whose migrations have SCHEMA."""
        self._database = database
        self._watches: set[_Watch] = set()
        self._writing: set[asyncio.Task[object]] = set()
        self._last_event: float | None = None

    async def get(self, key: str) -> Entry | None:
        """See Kvstore."""
        return await self._database.read(lambda connection: _get(connection, key))

    async def list(self, prefix: str) -> tuple[Entry, ...]:
        """See Kvstore."""
        return await self._database.read(lambda connection: _list(connection, prefix))

    async def put(self, key: str, value: str, *, leased: bool = False) -> Entry:  # noqa: ARG002 - nothing is leased
        """See Kvstore."""

        def change(connection: Connection) -> tuple[Entry, _Changes]:
            changes: _Changes = {}
            return _put(connection, key, value, changes), changes

        return await self._write(change, patience=PATIENCE)

    async def delete(self, key: str) -> bool:
        """See Kvstore."""

        def change(connection: Connection) -> tuple[bool, _Changes]:
            changes: _Changes = {}
            return _delete(connection, key, changes), changes

        return await self._write(change)

    async def commit(self, conditions: Sequence[Condition], changes: Sequence[Change]) -> bool:
        """See Kvstore."""
        check_once(changes)

        def change(connection: Connection) -> tuple[bool, _Changes]:
            done: _Changes = {}
            if not all(_holds(connection, condition) for condition in conditions):
                return False, done
            for one in changes:
                if isinstance(one, Put):
                    _put(connection, one.key, one.value, done)
                else:
                    _delete(connection, one.key, done)
            return True, done

        return await self._write(change)

    async def watch(self, prefix: str) -> AsyncIterator[Batch]:
        """See Kvstore."""
        watch = _Watch(prefix)
        self._watches.add(watch)
        try:
            found, revision = await self._database.read(
                lambda connection: (_list(connection, prefix), _last(connection))
            )
            yield watch.begin(found, revision)
            while True:
                yield await watch.take()
        finally:
            self._watches.discard(watch)

    def on_lease_lost(self, callback: Callable[[], None]) -> None:
        """See Kvstore."""

    async def status(self) -> StoreStatus:
        """See Kvstore."""
        age = time.monotonic() - self._last_event if self._last_event is not None else None
        return StoreStatus(kind="embedded", reachable=True, waiting=len(self._writing), event_age=age)

    async def _write(self, change: Callable[[Connection], tuple[T, _Changes]], patience: float = 0.0) -> T:
        """Write, and tell the watches, although the caller may leave: what is committed has happened."""

        async def work() -> T:
            result, changes = await self._database.write(change, patience=patience)
            if changes:
                self._tell(changes)
            return result

        task = asyncio.create_task(work())
        self._writing.add(task)
        task.add_done_callback(self._written)
        return await asyncio.shield(task)

    def _written(self, task: "asyncio.Task[object]") -> None:
        self._writing.discard(task)
        if not task.cancelled():
            task.exception()  # a caller that left leaves nobody to fetch it

    def _tell(self, changes: _Changes) -> None:
        for watch in self._watches:
            self._last_event = time.monotonic()
            watch.tell(changes)


class _Watch:
    """One watch: changes wait here, a key once, until its consumer comes."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._waiting: _Changes = {}
        self._news = asyncio.Event()

    def begin(self, found: Sequence[Entry], revision: int) -> Batch:
        """Return the first batch: what was found; of what was told meanwhile only what came later is kept."""
        self._waiting = {key: change for key, change in self._waiting.items() if change[0] > revision}
        if not self._waiting:
            self._news.clear()
        return {entry.key: entry for entry in found}

    def tell(self, changes: _Changes) -> None:
        """Take in what a transaction has changed. Answers of two may come in either order."""
        for key, change in changes.items():
            if key.startswith(self._prefix) and change[0] > self._waiting.get(key, (0, None))[0]:
                self._waiting[key] = change
                self._news.set()

    async def take(self) -> Batch:
        """Wait for changes."""
        await self._news.wait()
        self._news.clear()
        waiting, self._waiting = self._waiting, {}
        return {key: entry for key, (_, entry) in waiting.items()}


def _holds(connection: Connection, condition: Condition) -> bool:
    match condition:
        case Absent(key):
            return _get(connection, key) is None
        case AbsentBelow(prefix):
            return not _list(connection, prefix)
        case Unchanged(key, revision):
            there = _get(connection, key)
            return (there.revision if there is not None else 0) == revision


def _put(connection: Connection, key: str, value: str, changes: _Changes) -> Entry:
    there = _get(connection, key)
    if there is not None and there.value == value:
        return there
    entry = Entry(key, value, _advance(connection), time.time())
    connection.execute(_PUT, (entry.key, entry.value, entry.revision, entry.written))
    changes[key] = (entry.revision, entry)
    return entry


def _delete(connection: Connection, key: str, changes: _Changes) -> bool:
    gone = connection.execute("DELETE FROM kvstore WHERE key = ?", (key,)).rowcount > 0
    if gone:
        changes[key] = (_advance(connection), None)
    return gone


def _advance(connection: Connection) -> int:
    (revision,) = connection.execute("UPDATE kvstore_revision SET last = last + 1 RETURNING last").fetchone()
    return int(revision)


def _last(connection: Connection) -> int:
    (revision,) = connection.execute("SELECT last FROM kvstore_revision").fetchone()
    return int(revision)


def _get(connection: Connection, key: str) -> Entry | None:
    row = connection.execute("SELECT * FROM kvstore WHERE key = ?", (key,)).fetchone()
    return _read(row) if row is not None else None


def _list(connection: Connection, prefix: str) -> tuple[Entry, ...]:
    # A range, because LIKE would take `_` and `%` of a name for patterns.
    beyond = prefix + chr(sys.maxunicode)
    rows = connection.execute("SELECT * FROM kvstore WHERE key >= ? AND key < ? ORDER BY key", (prefix, beyond))
    return tuple(map(_read, rows))


def _read(row: Row) -> Entry:
    return Entry(row["key"], row["value"], row["revision"], row["written"])
