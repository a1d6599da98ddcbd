"""The embedded kvstore against its interface: put holds a value, revisions grow, lists are prefixes."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.common.db import Database
from services.common.kvstore.embedded import SCHEMA, EmbeddedKvstore


@pytest.fixture
async def kvstore(tmp_path: Path) -> AsyncIterator[EmbeddedKvstore]:
    """An empty store."""
    database = Database(tmp_path / "kv.sqlite", (SCHEMA,))
    await database.start()
    yield EmbeddedKvstore(database)
    await database.stop()


async def test_a_value_is_held_and_putting_it_again_changes_nothing(kvstore: EmbeddedKvstore) -> None:
    """So that a controller can go on putting it."""
    first = await kvstore.put("podlane/a", "1")

    assert await kvstore.put("podlane/a", "1") == first
    assert await kvstore.get("podlane/a") == first
    second = await kvstore.put("podlane/a", "2")
    assert second.value == "2"
    assert second.revision > first.revision
    assert second.written >= first.written


async def test_every_change_has_a_revision_of_its_own_deletions_included(kvstore: EmbeddedKvstore) -> None:
    """A watcher could otherwise miss one."""
    one = await kvstore.put("a", "1")
    assert await kvstore.delete("a") is True
    assert await kvstore.delete("a") is False
    assert await kvstore.get("a") is None

    assert (await kvstore.put("a", "1")).revision == one.revision + 2


async def test_a_list_is_a_prefix_and_no_pattern(kvstore: EmbeddedKvstore) -> None:
    """Names have underscores and percent signs, and letters beyond ASCII."""
    for key in ("n/a_b/1", "n/a_b/2", "n/a_b/é", "n/axb/1", "n/a%b/1", "n/a_", "n/a_b"):
        await kvstore.put(key, key)

    assert [entry.key for entry in await kvstore.list("n/a_b/")] == ["n/a_b/1", "n/a_b/2", "n/a_b/é"]
    assert len(await kvstore.list("")) == 7
    assert await kvstore.list("m") == ()
