"""SQLite as podlane uses it: WAL, synchronous=FULL, one thread, group commit.

All work on a database runs on one thread of its own, in the order it was asked for. Writes that arrive while a
transaction is being synced to disk share the next one: each runs in a savepoint, so that one that fails takes only
itself back, and none is answered before its transaction is on disk. A file that is damaged or whose schema is newer
than the program is refused and left as it is.

Not here: schemas (each service's `store.py`) and any decision about what to write.
"""

import asyncio
import functools
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from services.common.errors import CorruptState, Internal, PodlaneError, Unavailable

Connection = sqlite3.Connection
Row = sqlite3.Row
T = TypeVar("T")


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
        self._waiting: list[tuple[Callable[[Connection], Any], asyncio.Future[Any]]] = []
        self._flusher: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open the file, make it if need be, and migrate it. Raises CorruptState or Unavailable."""
        self._connection = await self._run(lambda: _open(self._path, self._migrations))

    async def stop(self) -> None:
        """Finish what is waiting, then close."""
        while self._flusher is not None:
            await asyncio.shield(self._flusher)
        if self._connection is not None:
            await self._run(self._connection.close)
            self._connection = None
        self._executor.shutdown()

    async def read(self, query: Callable[[Connection], T]) -> T:
        """Run `query` on the database's thread, after all writes that were asked for before it began to run."""
        return await self._run(lambda: query(self._opened()))

    async def write(self, change: Callable[[Connection], T]) -> T:
        """Run `change` in a transaction and return its result once that is on disk.

        A caller that is cancelled meanwhile does not undo the change. Errors of `change` come back as they are;
        a disk that can't be written is Unavailable.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((change, future))
        if self._flusher is None:
            self._flusher = asyncio.create_task(self._flush())
        return await asyncio.shield(future)

    async def _flush(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            commit = functools.partial(_commit, self._opened(), [change for change, _ in batch], self._path)
            try:
                results = await self._run(commit)
            except PodlaneError as error:
                results = [error] * len(batch)
            for (_, future), result in zip(batch, results, strict=True):
                if isinstance(result, BaseException):
                    future.set_exception(result)
                    future.exception()  # a caller that hung up leaves nobody to fetch it
                else:
                    future.set_result(result)
        self._flusher = None

    def _opened(self) -> Connection:
        if self._connection is None:
            raise Internal(f"{self._path} is not open")
        return self._connection

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)


def _open(path: Path, migrations: Sequence[str]) -> Connection:
    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    except (OSError, sqlite3.OperationalError) as error:
        raise Unavailable(f"{path} can't be opened: {error}; check that the directory is writable", path=path) from None
    try:
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
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
    """Run each change in a savepoint of one transaction; an exception stands for the result of a failed one."""
    results: list[Any] = []
    try:
        connection.execute("BEGIN IMMEDIATE")
        for change in changes:
            connection.execute("SAVEPOINT change")
            try:
                results.append(change(connection))
            except (PodlaneError, sqlite3.IntegrityError) as error:
                connection.execute("ROLLBACK TO change")
                results.append(error)
            connection.execute("RELEASE change")
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise Unavailable(f"{path} can't be written: {error}; check the disk's space and health", path=path) from None
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return results
