"""A watch goes on whatever happens to etcd: its consumer is told what is different, once, and nothing else."""

import asyncio
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from services.common.kvstore import Put
from tests.etcd_support import Etcd, EtcdCluster
from tests.kvstore_support import Watching, client, until


@pytest.fixture
def etcd() -> Iterator[Etcd]:
    """One member."""
    with Etcd() as etcd:
        yield etcd


async def test_a_watch_goes_on_after_a_kill(etcd: Etcd) -> None:
    """From where it was: what is as it was isn't told again."""
    async with client(etcd.endpoints) as kvstore:
        await kvstore.put("podlane/a", "1")
        await kvstore.put("podlane/b", "1")
        async with Watching(kvstore, "podlane/") as watching:
            etcd.kill()
            etcd.start()
            etcd.ctl("put", "podlane/a", "2")
            etcd.ctl("del", "podlane/b")
            etcd.ctl("put", "podlane/z", "end")
            await watching.until(lambda: "podlane/z" in watching.values)

            assert [key for key, _ in watching.told] == ["podlane/a", "podlane/b", "podlane/z"]
            assert watching.values["podlane/a"] == "2"
            assert "podlane/b" not in watching.values


async def test_a_watch_begins_when_the_store_comes(etcd: Etcd) -> None:
    """A node may start before etcd does."""
    etcd.kill()
    async with client(etcd.endpoints, timeout_seconds=0.5) as kvstore:
        watch = kvstore.watch("podlane/state/")
        first = asyncio.ensure_future(anext(watch))
        await until(lambda: kvstore.figures().waiting)
        etcd.start()
        assert dict(await first) == {}
        await watch.aclose()  # type: ignore[attr-defined] # it is a generator


async def test_a_compaction_during_an_outage_is_a_list_and_differences(etcd: Etcd) -> None:
    """The events are gone; keys that went are told as gone all the same."""
    async with client(etcd.endpoints) as kvstore:
        for number in range(10):
            await kvstore.put(f"podlane/k/{number}", "1")
        async with Watching(kvstore, "podlane/k/") as watching, client(etcd.endpoints) as other:
            with capture_logs() as log:
                await _unseen(etcd, watching)
                await watching.has({f"podlane/k/{number}": "1" for number in range(3, 10)} | {"podlane/k/0": "new"})
            assert dict(watching.told).keys() == {"podlane/k/0", "podlane/k/1", "podlane/k/2"}
            assert [line["event"] for line in log].count("etcd was compacted meanwhile: listing again") == 1
            await other.put("podlane/k/9", "2")
            await watching.until(lambda: watching.values["podlane/k/9"] == "2")


async def _unseen(etcd: Etcd, watching: Watching) -> None:
    """Change and compact the store while nobody who watches can see it: the client finds another port closed."""
    etcd.kill()
    port, etcd.port = etcd.port, etcd._own_ports.one()  # type: ignore[union-attr] # it has its own
    etcd.start()
    told = len(watching.batches)
    etcd.ctl("put", "podlane/k/0", "new")
    etcd.ctl("del", "podlane/k/1")
    etcd.ctl("put", "podlane/k/2", "for a moment")
    etcd.ctl("del", "podlane/k/2")
    etcd.compact()
    etcd.kill()
    assert len(watching.batches) == told
    etcd.port = port
    etcd.start()


async def test_a_store_that_was_emptied_is_seen_as_such_and_followed(etcd: Etcd) -> None:
    """Its revisions begin again, so `from the next one on` would wait for ever, and miss what is there."""
    async with client(etcd.endpoints) as kvstore:
        for number in range(20):
            await kvstore.put("podlane/k/a", str(number))
        await kvstore.put("podlane/k/b", "1")
        async with Watching(kvstore, "podlane/k/") as watching:
            etcd.kill()
            etcd.wipe()
            etcd.start()
            etcd.ctl("put", "podlane/k/a", "other")
            await watching.has({"podlane/k/a": "other"})
            etcd.ctl("put", "podlane/k/c", "1")
            await watching.has({"podlane/k/a": "other", "podlane/k/c": "1"})


async def test_a_watch_goes_on_when_its_member_is_killed() -> None:
    """The others have the same events."""
    with EtcdCluster() as cluster:
        async with client(cluster.endpoints) as kvstore, Watching(kvstore, "podlane/k/") as watching:
            for number, member in enumerate(cluster.members):
                # Whichever is watched and whichever leads: each has its turn.
                member.kill()
                await kvstore.put(f"podlane/k/{number}", "1")
                await watching.until(lambda key=f"podlane/k/{number}": key in watching.values)
                member.start()
            assert [key for key, _ in watching.told] == ["podlane/k/0", "podlane/k/1", "podlane/k/2"]


async def test_a_watch_leaves_a_member_that_says_nothing() -> None:
    """A ping that nobody answers tells it from one where nothing happens."""
    with EtcdCluster() as cluster:
        async with client(cluster.endpoints) as kvstore, Watching(kvstore, "podlane/k/") as watching:
            for number, member in enumerate(cluster.members):
                member.freeze()
                try:
                    await kvstore.put(f"podlane/k/{number}", "1")
                    await watching.until(lambda key=f"podlane/k/{number}": key in watching.values)
                finally:
                    member.thaw()


async def test_a_watch_leaves_a_member_that_is_cut_off_from_the_others() -> None:
    """It has no leader, so what it says may be old for ever."""
    with EtcdCluster() as cluster:
        alone, *others = cluster.members
        async with (
            client([alone.endpoint], timeout_seconds=1.0) as kvstore,
            client(cluster.endpoints) as all_,
            Watching(kvstore, "podlane/k/") as watching,
            Watching(all_, "podlane/k/") as of_all,
        ):
            for member in others:
                member.kill()
            await until(lambda: not kvstore.figures().reachable)
            for member in others:
                member.launch()
            await all_.put("podlane/k/a", "1")
            await watching.has({"podlane/k/a": "1"})
            await of_all.has({"podlane/k/a": "1"})


async def test_a_burst_of_50_000_events_is_told_in_few_batches(etcd: Etcd) -> None:
    """And the last value of each key is the one that stays."""
    async with (
        client(etcd.endpoints) as kvstore,
        client(etcd.endpoints, requests_per_second=0) as other,
        Watching(kvstore, "podlane/k/") as watching,
    ):
        keys = [f"podlane/k/{number}" for number in range(10_000)]
        for round_ in range(5):
            parts = [keys[start : start + 100] for start in range(0, len(keys), 100)]
            await asyncio.gather(*(other.commit([], [Put(key, str(round_)) for key in part]) for part in parts))
        await watching.has(dict.fromkeys(keys, "4"))
        assert len(watching.batches) < 1000
        assert kvstore.figures().event_age is not None


async def test_a_value_that_is_no_text_ends_no_watch(etcd: Etcd) -> None:
    """Anybody can write into etcd."""
    async with client(etcd.endpoints) as kvstore, Watching(kvstore, "podlane/k/") as watching:
        etcd.ctl("put", "podlane/k/a", "\udcff\udcfe")
        await watching.until(lambda: "podlane/k/a" in watching.values)
        assert [entry.value for entry in await kvstore.list("podlane/k/")] == [watching.values["podlane/k/a"]]
