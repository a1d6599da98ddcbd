"""SQLite as the services use it: what is answered is on disk, and what fails takes only itself back."""

import asyncio
import contextlib
import functools
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from services.common.db import Connection, Database
from services.common.errors import CorruptState, FailedPrecondition, Internal, InvalidArgument, Unavailable

FIRST = "CREATE TABLE things (name TEXT PRIMARY KEY)"
SECOND = "ALTER TABLE things ADD COLUMN size INTEGER"


@contextlib.asynccontextmanager
async def opened(path: Path, *migrations: str) -> AsyncIterator[Database]:
    database = Database(path, migrations or (FIRST,))
    await database.start()
    try:
        yield database
    finally:
        await database.stop()


def insert(name: str) -> Callable[[Connection], None]:
    def change(connection: Connection) -> None:
        connection.execute("INSERT INTO things (name) VALUES (?)", (name,))

    return change


def names(path: Path) -> list[str]:
    """What another reader of the file sees."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return [name for (name,) in connection.execute("SELECT name FROM things ORDER BY rowid")]


async def test_a_write_that_returned_is_visible_to_others(tmp_path: Path):
    async with opened(tmp_path / "deep" / "x.sqlite") as database:
        await database.write(insert("a"))

        assert names(tmp_path / "deep" / "x.sqlite") == ["a"]
        assert (tmp_path / "deep").stat().st_mode & 0o777 == 0o750


async def test_a_write_returns_what_its_change_returned(tmp_path: Path):
    async with opened(tmp_path / "x.sqlite") as database:
        assert await database.write(lambda connection: connection.execute("SELECT 7").fetchone()[0]) == 7


async def test_writes_asked_for_together_share_transactions_in_their_order(tmp_path: Path):
    async with opened(tmp_path / "x.sqlite") as database:
        in_transaction = []

        def change(number: int, connection: Connection) -> None:
            in_transaction.append(connection.in_transaction)
            insert(f"n{number}")(connection)

        await asyncio.gather(*(database.write(functools.partial(change, number)) for number in range(50)))

        assert names(tmp_path / "x.sqlite") == [f"n{number}" for number in range(50)]
        assert all(in_transaction)


async def test_a_patient_write_waits_for_one_that_is_not(tmp_path: Path):
    async with opened(tmp_path / "x.sqlite") as database:
        patient = [asyncio.create_task(database.write(insert(f"p{number}"), patience=3600)) for number in range(2)]
        await asyncio.sleep(0)
        assert names(tmp_path / "x.sqlite") == []

        await database.write(insert("urgent"))

        await asyncio.wait_for(asyncio.gather(*patient), 10)
        assert names(tmp_path / "x.sqlite") == ["p0", "p1", "urgent"]


async def test_a_patient_write_without_company_is_written_all_the_same(tmp_path: Path):
    async with opened(tmp_path / "x.sqlite") as database:
        await asyncio.wait_for(database.write(insert("a"), patience=0.001), 10)
        await asyncio.wait_for(database.write(insert("b"), patience=0.001), 10)

        assert names(tmp_path / "x.sqlite") == ["a", "b"]


async def test_stopping_writes_what_was_patient(tmp_path: Path):
    async with opened(tmp_path / "x.sqlite") as database:
        patient = asyncio.create_task(database.write(insert("a"), patience=3600))
        await asyncio.sleep(0)

    await asyncio.wait_for(patient, 10)
    assert names(tmp_path / "x.sqlite") == ["a"]


async def test_a_change_that_fails_takes_only_itself_back(tmp_path: Path):
    def refuse(connection: Connection) -> None:
        insert("half")(connection)
        raise InvalidArgument("no")

    async with opened(tmp_path / "x.sqlite") as database:
        changes = [insert("a"), refuse, insert("b"), insert("a"), insert("c")]

        results = await asyncio.gather(*map(database.write, changes), return_exceptions=True)

        assert [type(result) for result in results] == [
            *(type(None), InvalidArgument, type(None), sqlite3.IntegrityError, type(None))
        ]
        assert names(tmp_path / "x.sqlite") == ["a", "b", "c"]


async def test_a_bug_in_a_change_reaches_all_who_wait_and_the_next_write_works(tmp_path: Path):
    def bug(_connection: Connection) -> None:
        raise KeyError("bug")

    async with opened(tmp_path / "x.sqlite") as database:
        results = await asyncio.gather(database.write(insert("a")), database.write(bug), return_exceptions=True)
        await database.write(insert("b"))

        assert [type(result) for result in results] == [KeyError, KeyError]
        assert names(tmp_path / "x.sqlite") == ["b"]


async def test_a_caller_that_hangs_up_does_not_undo_its_change(tmp_path: Path):
    async with opened(tmp_path / "x.sqlite") as database:
        writer = asyncio.create_task(database.write(insert("a")))
        await asyncio.sleep(0)
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)
        await database.write(insert("b"))

        assert names(tmp_path / "x.sqlite") == ["a", "b"]


async def test_stopping_finishes_what_waits(tmp_path: Path):
    database = Database(tmp_path / "x.sqlite", (FIRST,))
    await database.start()
    writers = [asyncio.create_task(database.write(insert(f"n{number}"))) for number in range(20)]
    await asyncio.sleep(0)

    await database.stop()

    await asyncio.gather(*writers)
    assert len(names(tmp_path / "x.sqlite")) == 20


async def test_a_write_to_a_closed_database_is_an_error_not_a_hang(tmp_path: Path):
    async with opened(tmp_path / "x.sqlite") as database:
        pass

    with pytest.raises(Internal, match="is not open"):
        await database.write(insert("a"))


async def test_a_disk_that_cannot_be_written_is_unavailable_and_changes_nothing(tmp_path: Path):
    async with opened(tmp_path / "x.sqlite") as database:
        await database.read(lambda connection: connection.execute("PRAGMA query_only=ON"))

        with pytest.raises(Unavailable, match=r"x\.sqlite can't be written: .*check the disk's space"):
            await database.write(insert("a"))

        await database.read(lambda connection: connection.execute("PRAGMA query_only=OFF"))
        await database.write(insert("b"))
        assert names(tmp_path / "x.sqlite") == ["b"]


async def test_migrations_run_once_and_keep_what_is_there(tmp_path: Path):
    async with opened(tmp_path / "x.sqlite", FIRST) as database:
        await database.write(insert("a"))

    for _ in range(2):
        async with opened(tmp_path / "x.sqlite", FIRST, SECOND) as database:
            rows = await database.read(lambda connection: connection.execute("SELECT * FROM things").fetchall())
            assert [tuple(row) for row in rows] == [("a", None)]


async def test_a_migration_that_fails_leaves_the_schema_as_it_was(tmp_path: Path):
    async with opened(tmp_path / "x.sqlite") as database:
        await database.write(insert("a"))

    with pytest.raises(Unavailable, match="can't be used"):
        await Database(tmp_path / "x.sqlite", (FIRST, f"{SECOND}; CREATE TABLE things (name)")).start()

    async with opened(tmp_path / "x.sqlite", FIRST, SECOND):
        assert names(tmp_path / "x.sqlite") == ["a"]


async def test_a_newer_schema_is_refused_and_kept(tmp_path: Path):
    async with opened(tmp_path / "x.sqlite", FIRST, SECOND) as database:
        await database.write(insert("a"))

    with pytest.raises(CorruptState, match="has schema 2 and this program knows schemas up to 1"):
        await Database(tmp_path / "x.sqlite", (FIRST,)).start()

    assert names(tmp_path / "x.sqlite") == ["a"]


async def test_a_file_that_is_no_database_is_refused_and_kept(tmp_path: Path):
    (tmp_path / "x.sqlite").write_bytes(b"not a database, " * 100)

    with pytest.raises(CorruptState, match="is damaged"):
        await Database(tmp_path / "x.sqlite", (FIRST,)).start()

    assert (tmp_path / "x.sqlite").read_bytes() == b"not a database, " * 100


async def test_a_directory_that_cannot_be_made_is_unavailable(tmp_path: Path):
    (tmp_path / "file").touch()

    with pytest.raises(Unavailable, match="check that the directory is writable"):
        await Database(tmp_path / "file" / "x.sqlite", (FIRST,)).start()


async def test_two_programs_never_use_one_database(tmp_path: Path):
    async with opened(tmp_path / "x.sqlite"):
        with pytest.raises(FailedPrecondition, match=r"another process uses .*x\.sqlite: stop it first"):
            await Database(tmp_path / "x.sqlite", (FIRST,)).start()

    async with opened(tmp_path / "x.sqlite") as database:
        await database.write(insert("a"))
