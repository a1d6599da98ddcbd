"""The interface of the kvstore, on both that there are: what holds for one must hold for the other."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from services.common.db import Database
from services.common.errors import InvalidArgument
from services.common.kvstore import Absent, AbsentBelow, Change, Condition, Delete, Kvstore, Put, Unchanged
from services.common.kvstore.embedded import SCHEMA, EmbeddedKvstore
from tests.etcd_support import Etcd
from tests.kvstore_support import Watching, client


@pytest.fixture(scope="module")
def etcd() -> Iterator[Etcd]:
    """One for all tests here; each has a root of its own."""
    with Etcd() as etcd:
        yield etcd


@pytest.fixture(params=["embedded", "etcd"])
async def kvstore(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Kvstore]:
    """A store without any key that begins with `n/`."""
    if request.param == "embedded":
        database = Database(tmp_path / "kv.sqlite", (SCHEMA,))
        await database.start()
        yield EmbeddedKvstore(database)
        await database.stop()
    else:
        etcd = request.getfixturevalue("etcd")
        etcd.ctl("del", "--prefix", "")
        async with client(etcd.endpoints) as kvstore:
            yield kvstore


async def test_a_value_is_held_and_putting_it_again_changes_nothing(kvstore: Kvstore) -> None:
    """So that a controller can go on putting it."""
    first = await kvstore.put("n/a", "1")

    assert await kvstore.put("n/a", "1") == first
    assert await kvstore.get("n/a") == first
    second = await kvstore.put("n/a", "2")
    assert second.value == "2"
    assert second.revision > first.revision
    assert second.written >= first.written


async def test_every_change_has_a_revision_of_its_own_deletions_included(kvstore: Kvstore) -> None:
    """A watcher could otherwise miss one."""
    one = await kvstore.put("n/a", "1")
    assert await kvstore.delete("n/a") is True
    assert await kvstore.delete("n/a") is False
    assert await kvstore.get("n/a") is None

    assert (await kvstore.put("n/a", "1")).revision == one.revision + 2


async def test_a_list_is_a_prefix_and_no_pattern(kvstore: Kvstore) -> None:
    """Names have underscores and percent signs, and letters beyond ASCII."""
    for key in ("n/a_b/1", "n/a_b/2", "n/a_b/é", "n/axb/1", "n/a%b/1", "n/a_", "n/a_b"):
        await kvstore.put(key, key)

    assert [entry.key for entry in await kvstore.list("n/a_b/")] == ["n/a_b/1", "n/a_b/2", "n/a_b/é"]
    assert len([entry for entry in await kvstore.list("") if entry.key.startswith("n/")]) == 7
    assert await kvstore.list("m") == ()


@pytest.mark.parametrize(
    ("conditions", "holds"),
    [
        ([], True),
        ([Absent("n/none")], True),
        ([Absent("n/a")], False),
        ([AbsentBelow("n/none/")], True),
        ([AbsentBelow("n/")], False),
        ([AbsentBelow("n/b")], True),
        ([Unchanged("n/none", 0)], True),
        ([Unchanged("n/none", 7)], False),
        ([Absent("n/none"), Absent("n/a")], False),
    ],
)
async def test_a_commit_does_all_or_nothing(kvstore: Kvstore, conditions: list[Condition], *, holds: bool) -> None:
    """Conditions are looked at together with the changes; there is nothing in between."""
    await kvstore.put("n/a", "1")
    before = await kvstore.list("n/")
    changes: list[Change] = [Put("n/c", "3"), Put("n/d", "4", leased=True), Delete("n/a"), Delete("n/nobody")]

    assert await kvstore.commit(conditions, changes) is holds
    after = {entry.key: entry.value for entry in await kvstore.list("n/")}
    assert after == ({"n/c": "3", "n/d": "4"} if holds else {entry.key: entry.value for entry in before})


async def test_of_two_that_saw_the_same_one_wins(kvstore: Kvstore) -> None:
    """Compare-and-swap is what there is instead of locks."""
    seen = await kvstore.put("n/a", "1")
    assert await kvstore.commit([Unchanged("n/a", seen.revision)], [Put("n/a", "mine")])

    assert not await kvstore.commit([Unchanged("n/a", seen.revision)], [Put("n/a", "theirs")])
    entry = await kvstore.get("n/a")
    assert entry is not None
    assert entry.value == "mine"
    assert await kvstore.commit([Unchanged("n/a", entry.revision)], [Delete("n/a")])
    assert await kvstore.commit([Absent("n/a")], [Put("n/a", "again")])


async def test_a_commit_that_changes_a_key_twice_is_refused(kvstore: Kvstore) -> None:
    """Which of the two comes last would be a guess."""
    with pytest.raises(InvalidArgument, match="n/a twice"):
        await kvstore.commit([], [Put("n/a", "1"), Delete("n/a")])


async def test_a_watch_tells_what_is_there_and_then_what_changes(kvstore: Kvstore) -> None:
    """The first batch is all of it; what is put again as it was is no news."""
    await kvstore.put("n/a", "1")
    await kvstore.put("n/b", "1")
    await kvstore.put("m/x", "1")
    async with Watching(kvstore, "n/") as watching:
        assert set(watching.batches[0]) == {"n/a", "n/b"}
        assert watching.values == {"n/a": "1", "n/b": "1"}
        await kvstore.put("n/a", "1")
        await kvstore.put("m/x", "2")
        await kvstore.put("n/b", "2")
        await kvstore.delete("n/a")
        await kvstore.commit([], [Put("n/c", "3"), Put("n/d", "4")])

        await watching.has({"n/b": "2", "n/c": "3", "n/d": "4"})
        assert [key for key, _ in watching.told] == ["n/b", "n/a", "n/c", "n/d"]
        entry = watching.batches[-1]["n/d"]
        assert entry is not None
        assert entry == await kvstore.get("n/d")


async def test_a_watch_of_nothing_begins_with_an_empty_batch(kvstore: Kvstore) -> None:
    """Its consumer knows then that there is nothing, which is not the same as not knowing."""
    async with Watching(kvstore, "n/none/") as watching:
        assert dict(watching.batches[0]) == {}
        await kvstore.put("n/none/a", "1")
        await watching.has({"n/none/a": "1"})


async def test_two_watches_are_told_the_same(kvstore: Kvstore) -> None:
    """Each has its own consumer; one that has left disturbs nobody."""
    async with Watching(kvstore, "n/") as one, Watching(kvstore, "n/a/") as other:
        async with Watching(kvstore, "n/"):
            pass
        await kvstore.put("n/a/1", "1")
        await kvstore.put("n/b/1", "1")
        await one.has({"n/a/1": "1", "n/b/1": "1"})
        await other.has({"n/a/1": "1"})


async def test_a_slow_consumer_gets_one_large_batch(kvstore: Kvstore) -> None:
    """A key is in it once, with its newest value."""
    watch = kvstore.watch("n/")
    assert dict(await anext(watch)) == {}
    for number in range(100):
        await kvstore.put(f"n/{number % 10}", str(number))
    await kvstore.delete("n/0")
    await kvstore.put("n/last", "1")
    told: dict[str, str | None] = {}
    batches = 0
    async for batch in watch:
        batches += 1
        told |= {key: entry.value if entry is not None else None for key, entry in batch.items()}
        if "n/last" in told:
            break
    await watch.aclose()  # type: ignore[attr-defined] # both are generators

    assert batches <= 2, "what waited together must come together"
    assert told == {"n/0": None, "n/last": "1"} | {f"n/{number}": str(90 + number) for number in range(1, 10)}


async def test_the_status_says_that_it_is_there(kvstore: Kvstore) -> None:
    """For `podlane status`."""
    await kvstore.put("n/a", "1")
    status = await kvstore.status()

    assert status.reachable
    assert status.error == ""
    assert status.unreachable_for is None
    assert status.waiting == 0
    assert [member.error for member in status.members] == [""] * (status.kind == "etcd")
