"""SQLite as podlane uses it: WAL, synchronous=NORMAL, one thread, group commit.

All work on a database runs on one thread of its own, in the order it was asked for. Writes that arrive while a
transaction is being committed share the next one, and those that nobody waits for look out for company (`patience`): a
transaction of its own costs a small write more than all that it writes. None is answered before its transaction is
committed: with the kernel, where no kill of the process can take it back. A power cut may take back the last
transactions, never half of one (https://sqlite.org/pragma.html#pragma_synchronous); but it takes back the pods, links
and maps that they were about, too, so waiting for the disk at every ADD would guard nothing.

When one of the writes fails, the transaction is run again with a savepoint around each, so that it takes only itself
back: the savepoints would cost more than the writes. A file that is damaged, whose schema is newer than the program,
or that another process uses, is refused and left as it is. `snapshot` reads one beside its service.

Not here: schemas (each service's `store.py`) and any decision about what to write.
"""

import asyncio
import contextlib
import fcntl
import functools
import os
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from services.common.errors import CorruptState, FailedPrecondition, Internal, PodlaneError, Unavailable

Connection = sqlite3.Connection
Row = sqlite3.Row
T = TypeVar("T")

PATIENCE = 0.005
"""Seconds for writes that nobody waits for: enough for the next pod's, too little to be seen by whoever comes next."""


class Database:
    """One SQLite file.

    `migrations` are SQL scripts; script n brings the schema from version n to n+1. Never edit one that was
    released: append.
    """

    def __init__(self, path: Path, migrations: Sequence[str]) -> None:
        """Remember where; `start` opens."""
        self._path = path
        self._migrations = migrations
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=f"db-{path.stem}")
        self._connection: Connection | None = None
        self._lock: int | None = None
        self._waiting: list[tuple[Callable[[Connection], Any], asyncio.Future[Any]]] = []
        self._flusher: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Open the file, make it if need be, and migrate it.

        Raises CorruptState, Unavailable, or FailedPrecondition when another process uses it.
        """
        self._lock = await self._run(lambda: _lock(self._path))
        try:
            self._connection = await self._run(lambda: _open(self._path, self._migrations))
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Finish what is waiting, then close."""
        if self._waiting:
            self._begin()
        while self._flusher is not None:
            await asyncio.shield(self._flusher)
        if self._connection is not None:
            await self._run(self._connection.close)
            self._connection = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        self._executor.shutdown()

    async def read(self, query: Callable[[Connection], T]) -> T:
        """Run `query` on the database's thread, after all writes that were asked for before it began to run."""
        return await self._run(lambda: query(self._opened()))

    async def write(self, change: Callable[[Connection], T], *, patience: float = 0.0) -> T:
        """Run `change` in a transaction and return its result once that is committed.

        `patience`: the seconds that the transaction may be put off, for others to share it. A caller that is cancelled
        meanwhile does not undo the change. Errors of `change` come back as they are; a disk that can't be written is
        Unavailable. When another change of the same transaction fails, `change` runs a second time, after a rollback:
        it must do nothing but write to the connection.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((change, future))
        if not patience:
            self._begin()
        elif self._timer is None and self._flusher is None:
            self._timer = asyncio.get_running_loop().call_later(patience, self._begin)
        return await future

    def _begin(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._flusher is None:
            self._flusher = asyncio.create_task(self._flush())

    async def _flush(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                commit = functools.partial(_commit, self._opened(), [change for change, _ in batch], self._path)
                results = await self._run(commit)
            except Exception as error:  # noqa: BLE001 - whatever it was, those who wait must hear of it
                results = [error] * len(batch)
            for (_, future), result in zip(batch, results, strict=True):
                if future.cancelled():
                    continue  # the caller hung up
                if isinstance(result, BaseException):
                    future.set_exception(result)
                    future.exception()  # the caller may hang up before it can fetch it
                else:
                    future.set_result(result)
        self._flusher = None

    def _opened(self) -> Connection:
        if self._connection is None:
            raise Internal(f"{self._path} is not open")
        return self._connection

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)


def snapshot(path: Path, most: int) -> dict[str, list[dict[str, Any]]]:
    """Return at most so many rows of each table, as of one moment, without touching the file; it blocks.

    For whoever wants to see and not to serve: a service that has the file open isn't held up. Raises Unavailable,
    CorruptState.
    """
    if not path.is_file():
        raise Unavailable(f"{path} can't be read: there is no such file", path=path)
    # Without a log all is in the file itself. Looking for one would make it, beside a database that isn't ours.
    rest = "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "immutable=1"
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?{rest}", uri=True)) as connection:
            connection.row_factory = sqlite3.Row
            connection.execute("BEGIN")
            named = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
            tables = [row[0] for row in named if not row[0].startswith("sqlite_")]
            return {name: _rows(connection, name, most) for name in tables}
    except sqlite3.OperationalError as error:
        raise Unavailable(f"{path} can't be read: {error}", path=path) from None
    except sqlite3.DatabaseError as error:
        raise _damaged(path, str(error)) from None


def _rows(connection: Connection, table: str, most: int) -> list[dict[str, Any]]:
    quoted = table.replace('"', '""')
    query = f'SELECT * FROM "{quoted}" LIMIT {most:d}'  # noqa: S608 - a name that the file itself has told
    return [dict(row) for row in connection.execute(query)]


def _lock(path: Path) -> int:
    """Return the descriptor of a lock that lasts as long as the process.

    SQLite itself lets two processes write in turns, and each would trust its own memory of what is there. The lock has
    a file of its own: closing any descriptor of the database would drop SQLite's locks (fcntl(2), F_SETLK).
    """
    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        lock = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise Unavailable(f"{path} can't be opened: {error}; check that the directory is writable", path=path) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise FailedPrecondition(f"another process uses {path}: stop it first", path=path) from None
    return lock


def _open(path: Path, migrations: Sequence[str]) -> Connection:
    try:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    except sqlite3.OperationalError as error:
        raise Unavailable(f"{path} can't be opened: {error}; check that the directory is writable", path=path) from None
    try:
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA foreign_keys=ON")
        _check(connection, path)
        _migrate(connection, path, migrations)
    except sqlite3.OperationalError as error:
        connection.close()
        raise Unavailable(f"{path} can't be used: {error}", path=path) from None
    except sqlite3.DatabaseError as error:
        connection.close()
        raise _damaged(path, str(error)) from None
    except BaseException:
        connection.close()
        raise
    return connection


def _check(connection: Connection, path: Path) -> None:
    verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise _damaged(path, verdict)


def _damaged(path: Path, detail: str) -> CorruptState:
    return CorruptState(
        f"{path} is damaged ({detail}); it was left as it is: restore it from a backup, or move it away to start "
        "with an empty one",
        path=path,
    )


def _migrate(connection: Connection, path: Path, migrations: Sequence[str]) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(migrations):
        raise CorruptState(
            f"{path} has schema {version} and this program knows schemas up to {len(migrations)}: a newer podlane "
            "wrote it; run that one, or move the file away to start with an empty one",
            path=path,
            schema=version,
        )
    for number in range(version, len(migrations)):
        connection.executescript(f"BEGIN; {migrations[number]}; PRAGMA user_version={number + 1}; COMMIT;")


def _commit(connection: Connection, changes: Sequence[Callable[[Connection], Any]], path: Path) -> list[Any]:
    """Run all changes in one transaction; an exception stands for the result of a failed one."""
    try:
        try:
            return _in_transaction(connection, changes, _all)
        except (PodlaneError, sqlite3.IntegrityError):
            return _in_transaction(connection, changes, _each)
    except sqlite3.Error as error:
        raise Unavailable(f"{path} can't be written: {error}; check the disk's space and health", path=path) from None


def _in_transaction(
    connection: Connection,
    changes: Sequence[Callable[[Connection], Any]],
    run: Callable[[Connection, Sequence[Callable[[Connection], Any]]], list[Any]],
) -> list[Any]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        results = run(connection, changes)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return results


def _all(connection: Connection, changes: Sequence[Callable[[Connection], Any]]) -> list[Any]:
    return [change(connection) for change in changes]


def _each(connection: Connection, changes: Sequence[Callable[[Connection], Any]]) -> list[Any]:
    """Run each change in a savepoint: one of them fails, the others must not."""
    results: list[Any] = []
    for change in changes:
        connection.execute("SAVEPOINT change")
        try:
            results.append(change(connection))
        except (PodlaneError, sqlite3.IntegrityError) as error:
            connection.execute("ROLLBACK TO change")
            results.append(error)
        connection.execute("RELEASE change")
    return results
