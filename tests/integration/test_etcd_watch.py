"""A watch goes on whatever happens to etcd: its consumer is told what is different, once, and nothing else."""

import asyncio
import contextlib
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from services.common.kvstore import Put, etcd_watch
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
    told = len(watching.batches)
    with _elsewhere(etcd):
        etcd.ctl("put", "podlane/k/0", "new")
        etcd.ctl("del", "podlane/k/1")
        etcd.ctl("put", "podlane/k/2", "for a moment")
        etcd.ctl("del", "podlane/k/2")
        etcd.compact()
    assert len(watching.batches) == told


@contextlib.contextmanager
def _elsewhere(etcd: Etcd) -> Iterator[None]:
    """Have it on another port for the block, where who knows the first one finds nobody."""
    etcd.kill()
    port, etcd.port = etcd.port, etcd._own_ports.one()  # type: ignore[union-attr] # it has its own
    etcd.start()
    yield
    etcd.kill()
    etcd.port = port
    etcd.start()


async def test_what_is_too_much_for_one_answer_comes_in_fragments(etcd: Etcd) -> None:
    """Many large changes at once, as after an outage; none is lost, none is told twice."""
    async with client(etcd.endpoints) as kvstore, Watching(kvstore, "podlane/k/") as watching:
        with _elsewhere(etcd):
            async with client(etcd.endpoints) as other:
                for part in range(8):
                    changes = [Put(f"podlane/k/{part}/{number}", "x" * 50_000) for number in range(20)]
                    await other.commit([], changes)
        await watching.until(lambda: len(watching.values) == 8 * 20)
        assert len(watching.told) == 8 * 20


async def test_a_store_that_was_emptied_is_seen_as_such_and_followed(
    etcd: Etcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its revisions begin again, so `from the next one on` would wait for ever, and miss what is there."""
    monkeypatch.setattr(etcd_watch, "GRACE", 0.1)
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


async def test_a_store_that_is_emptied_right_after_a_look_is_seen_as_such(
    etcd: Etcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream would begin at a revision that is far away."""
    looks, look = 0, etcd_watch._Watch._continues

    async def looked_before(watch: etcd_watch._Watch, revision: int) -> bool:
        nonlocal looks
        looks += 1
        return looks == 1 or await look(watch, revision)

    monkeypatch.setattr(etcd_watch._Watch, "_continues", looked_before)
    async with client(etcd.endpoints) as kvstore:
        for number in range(20):
            await kvstore.put("podlane/k/a", str(number))
        async with Watching(kvstore, "podlane/k/") as watching:
            etcd.kill()
            etcd.wipe()
            etcd.start()
            etcd.ctl("put", "podlane/k/a", "other")
            await watching.has({"podlane/k/a": "other"})
            assert looks >= 2


async def test_what_an_emptied_store_lacks_is_not_gone_at_once(etcd: Etcd) -> None:
    """Whoever lives puts it again; a flush would cut all pods of other nodes."""
    async with client(etcd.endpoints) as kvstore, client(etcd.endpoints, lease_seconds=900) as other:
        again = asyncio.Event()
        other.on_lease_lost(again.set)
        await other.put("podlane/k/leased", "1", leased=True)
        await other.put("podlane/k/gone", "1")
        await other.put("podlane/k/gone", "2")
        async with Watching(kvstore, "podlane/k/") as watching, Watching(other, "podlane/k/"):
            etcd.kill()
            etcd.wipe()
            etcd.start()
            # The lease's next keep-alive would be minutes away.
            await asyncio.wait_for(again.wait(), 30)
            await other.put("podlane/k/leased", "1", leased=True)
            await other.put("podlane/k/new", "1")
            await watching.has({"podlane/k/leased": "1", "podlane/k/gone": "2", "podlane/k/new": "1"})
            assert None not in [entry for _, entry in watching.told]
            await other.put("podlane/k/gone", "3")
            await other.delete("podlane/k/gone")
            await watching.has({"podlane/k/leased": "1", "podlane/k/new": "1"})


async def test_a_watch_goes_on_when_its_member_is_killed() -> None:
    """The others have the same events."""
    with EtcdCluster() as cluster:
        async with client(cluster.endpoints) as kvstore, Watching(kvstore, "podlane/k/") as watching:
            for number, member in enumerate(cluster.members):
                # Whichever is watched and whichever leads: each has its turn.
                member.kill()
                await kvstore.put(f"podlane/k/{number}", "1")
                await watching.knows(f"podlane/k/{number}")
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
                    await watching.knows(f"podlane/k/{number}")
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
