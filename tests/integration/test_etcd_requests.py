"""Requests to etcd: which member answers, what is tried again, lists that don't fit one answer, limits, the status."""

import asyncio
from collections import Counter
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from services.common import lifecycle
from services.common.config import ClusterSettings, KvstoreSettings
from services.common.controllers import Registry
from services.common.errors import InvalidArgument, Unavailable
from services.common.kvstore import Absent, Put, etcd_messages
from services.common.kvstore.choose import choose
from services.common.kvstore.etcd_channel import Member
from services.common.kvstore.etcd_members import Send
from services.common.metrics import Metrics
from tests.etcd_support import Etcd, EtcdCluster
from tests.kvstore_support import Watching, client, until


@pytest.fixture
def etcd() -> Iterator[Etcd]:
    """One member."""
    with Etcd() as etcd:
        yield etcd


@pytest.fixture
def cluster() -> Iterator[EtcdCluster]:
    """Three members."""
    with EtcdCluster() as cluster:
        yield cluster


async def test_a_long_list_is_as_it_was_at_one_revision(etcd: Etcd, monkeypatch: pytest.MonkeyPatch) -> None:
    """Although others write between its pages: all keys have the same value, as one commit has put them."""
    monkeypatch.setattr(etcd_messages, "PAGE", 7)
    keys = [f"podlane/k/{number:03}" for number in range(100)]
    async with client(etcd.endpoints) as kvstore, client(etcd.endpoints) as other:

        async def write() -> None:
            number = 0
            while True:
                number += 1
                await other.commit([], [Put(key, str(number)) for key in keys])

        writing = asyncio.create_task(write())
        try:
            seen: set[str] = set()
            while len(seen) < 3:
                entries = await kvstore.list("podlane/k/")
                if entries:
                    assert [entry.key for entry in entries] == keys
                    values = {entry.value for entry in entries}
                    assert len(values) == 1
                    seen |= values
        finally:
            writing.cancel()


async def test_a_list_that_is_compacted_meanwhile_begins_anew(etcd: Etcd, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its revision isn't kept any more; the next one is."""
    monkeypatch.setattr(etcd_messages, "PAGE", 4)
    async with client(etcd.endpoints) as kvstore:
        for number in range(10):
            await kvstore.put(f"podlane/k/{number}", "1")
        page, pages = etcd_messages.page, 0

        def between(prefix: str, after: bytes | None, revision: int) -> object:
            nonlocal pages
            pages += 1
            if pages == 2:
                etcd.ctl("put", "podlane/k/9", "2")
                etcd.compact()
            return page(prefix, after, revision)

        monkeypatch.setattr(etcd_messages, "page", between)
        entries = await kvstore.list("podlane/k/")
        assert [entry.value for entry in entries] == ["1"] * 9 + ["2"]
        assert pages == 2 + 3


async def test_an_outage_is_one_sentence_with_members_and_seconds_and_ends_by_itself(etcd: Etcd) -> None:
    """It is logged when it begins to matter and when it is over, not by each request."""
    async with client(etcd.endpoints, timeout_seconds=0.5) as kvstore:
        await kvstore.put("podlane/a", "1")
        etcd.kill()
        with capture_logs() as log:
            for _ in range(3):
                with pytest.raises(Unavailable, match=r"etcd .*answer.*: http://127.0.0.1:[0-9]+ refuses connections"):
                    await kvstore.get("podlane/a")
            status = await kvstore.status()
            assert not status.reachable
            assert status.unreachable_for is not None
            assert "refuses connections" in status.error
            assert [member.error for member in status.members] == ["refuses connections"]
            etcd.start()

            async def back() -> bool:
                try:
                    return await kvstore.get("podlane/a") is not None
                except Unavailable:
                    return False

            while not await back():
                pass
        assert (await kvstore.status()).reachable
        assert [line["event"] for line in log] == ["etcd does not answer", "etcd answers again"]
        assert "pods and known identities go on" in log[0]["still"]


async def test_a_start_does_not_wait_and_the_first_request_says_what_is_wrong() -> None:
    """A node comes up without etcd."""
    async with client(["http://127.0.0.1:9", "http://[::1]:9"], timeout_seconds=0.5) as kvstore:
        with pytest.raises(Unavailable, match=r"127.0.0.1:9 refuses connections.*|::1.*refuses connections"):
            await kvstore.list("podlane/")
        assert not (await kvstore.status()).reachable


async def test_requests_go_on_when_the_leader_is_killed(cluster: EtcdCluster) -> None:
    """Each put that was answered is there, each commit that said yes happened once."""
    async with client(cluster.endpoints) as kvstore:
        await kvstore.put("podlane/0", "0")
        cluster.leader().kill()
        for number in range(20):
            await kvstore.put(f"podlane/{number}", str(number))
        assert {entry.key for entry in await kvstore.list("podlane/")} >= {f"podlane/{number}" for number in range(20)}
        assert await kvstore.commit([Absent("podlane/once")], [Put("podlane/once", "1")])
        assert not await kvstore.commit([Absent("podlane/once")], [Put("podlane/once", "2")])

        status = await kvstore.status()
        assert Counter(bool(member.error) for member in status.members) == {False: 2, True: 1}
        assert [member.leader for member in status.members].count(True) == 1
        assert all(member.version for member in status.members if not member.error)


async def test_a_member_that_takes_connections_and_says_nothing_is_left_for_another(cluster: EtcdCluster) -> None:
    """As one does that is stopped, or behind a network that loses everything."""
    async with client(cluster.endpoints, timeout_seconds=3.0) as kvstore:
        for frozen in cluster.members:
            # Whichever member is asked, it is each one's turn to be silent.
            frozen.freeze()
            try:
                await kvstore.put("podlane/a", frozen.name)
            finally:
                frozen.thaw()
        entry = await kvstore.get("podlane/a")
        assert entry is not None
        assert entry.value == "m2"


async def test_a_member_without_the_others_is_left_and_says_that_it_has_no_leader(cluster: EtcdCluster) -> None:
    """It answers, but can't know what holds; with the others back it is as good as any."""
    alone, *others = cluster.members
    async with client([alone.endpoint], timeout_seconds=1.0) as kvstore, client(cluster.endpoints) as all_:
        await kvstore.put("podlane/a", "1")
        for member in others:
            member.kill()

        async def error() -> str:
            try:
                await kvstore.get("podlane/a")
            except Unavailable as error:
                return error.message
            return ""

        while "has no leader" not in await error():
            pass
        assert [member.error for member in (await kvstore.status()).members] == ["has no leader"]
        for member in others:
            member.launch()
        assert (await all_.put("podlane/a", "2")).value == "2"
        while await error():
            pass


async def test_a_commit_that_may_have_happened_is_not_tried_again(etcd: Etcd, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tried again it would say no to whoever it had said yes to. A put is: twice is as good as once."""
    twice = [etcd.endpoint, etcd.endpoint.replace("127.0.0.1", "localhost")]
    async with client(twice, timeout_seconds=1.0) as kvstore:
        await kvstore.get("podlane/a")
        attempts, attempt = [], kvstore._members._attempt

        async def counted(member: Member, send: Send, seconds: float) -> object:
            attempts.append(member)
            return await attempt(member, send, seconds)

        monkeypatch.setattr(kvstore._members, "_attempt", counted)
        etcd.freeze()
        try:
            with pytest.raises(Unavailable, match="doesn't answer"):
                await kvstore.commit([Absent("podlane/a")], [Put("podlane/a", "1")])
            assert len(attempts) == 1
            with pytest.raises(Unavailable, match=r"doesn't answer.*doesn't answer"):
                await kvstore.put("podlane/b", "1")
            assert len(set(attempts)) == 2
        finally:
            etcd.thaw()


async def test_a_commit_that_was_not_sent_is_tried_again(cluster: EtcdCluster) -> None:
    """A refused connection proves that nothing has happened."""
    async with client(["http://127.0.0.1:9", *cluster.endpoints]) as kvstore:
        for number in range(20):
            assert await kvstore.commit([Absent(f"podlane/{number}")], [Put(f"podlane/{number}", "1")])


async def test_what_is_too_large_is_our_mistake(etcd: Etcd) -> None:
    """And says nothing about the store."""
    async with client(etcd.endpoints) as kvstore:
        with pytest.raises(InvalidArgument, match="too large"):
            await kvstore.put("podlane/a", "x" * (2 << 20))
        with pytest.raises(InvalidArgument, match="too many changes"):
            await kvstore.commit([], [Put(f"podlane/{number}", "") for number in range(129)])
        assert (await kvstore.status()).reachable


async def test_requests_wait_for_their_turn_and_are_counted(etcd: Etcd) -> None:
    """A node that has much to publish must not take etcd from the others."""
    seen: Counter[tuple[str, str]] = Counter()
    async with client(
        etcd.endpoints,
        requests_in_flight=3,
        requests_per_second=0,
        timeout_seconds=30.0,
        observe=lambda verb, outcome, _seconds: seen.update([(verb, outcome)]),
    ) as kvstore:
        await kvstore.get("podlane/a")
        etcd.freeze()
        try:
            tasks = [asyncio.create_task(kvstore.put(f"podlane/{number}", "1")) for number in range(50)]
            await until(lambda: kvstore.figures().waiting == 50)
        finally:
            etcd.thaw()
        await asyncio.gather(*tasks)
        assert kvstore.figures().waiting == 0
        assert seen == {("get", "ok"): 1, ("put", "ok"): 50}


async def test_metrics_show_requests_and_the_store(etcd: Etcd) -> None:
    """On the page that Prometheus reads."""
    metrics, registry = Metrics(), Registry()
    settings = KvstoreSettings(endpoints=etcd.endpoints)
    kvstore, component = choose(settings, ClusterSettings(), registry, metrics=metrics)
    async with lifecycle.running((registry, component)):
        await kvstore.put("podlane/a", "1", leased=True)
        await kvstore.put("podlane/a", "1", leased=True)
        page = metrics.page().decode()
    assert 'podlane_kvstore_requests_total{outcome="ok",verb="put"} 2.0' in page
    assert 'podlane_kvstore_request_duration_seconds_count{verb="grant"} 1.0' in page
    assert "podlane_kvstore_reachable 1.0" in page
    assert "podlane_kvstore_waiting 0.0" in page
    assert "podlane_kvstore_lease_left_seconds 8" in page
    assert "podlane_kvstore_leases_lost_total 0.0" in page


async def test_a_caller_that_leaves_takes_its_request_along(etcd: Etcd) -> None:
    """Its turn is free again."""
    seen: Counter[str] = Counter()
    observe = lambda _verb, outcome, _seconds: seen.update([outcome])  # noqa: E731 - a function of its own says no more
    async with client(etcd.endpoints, requests_in_flight=1, observe=observe) as kvstore:
        await kvstore.get("podlane/a")
        etcd.freeze()
        try:
            tasks = [asyncio.create_task(kvstore.get("podlane/a")) for _ in range(5)]
            await until(lambda: kvstore.figures().waiting == 5)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert kvstore.figures().waiting == 0
        finally:
            etcd.thaw()
        assert await kvstore.get("podlane/a") is None
    assert seen == {"ok": 2}


async def test_a_client_that_was_stopped_opens_no_connection_again(etcd: Etcd) -> None:
    """Whoever is late is told; a watch that is still read waits for its reader to go."""
    async with client(etcd.endpoints) as kvstore:
        watch = kvstore.watch("podlane/")
        await anext(watch)
        reading = asyncio.ensure_future(anext(watch))
    with pytest.raises(Unavailable, match="was stopped"):
        await kvstore.get("podlane/a")
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)


async def test_a_connection_that_is_left_beneath_requests_and_watches_cancels_nobody(etcd: Etcd) -> None:
    """As after a failed handshake: a task that ended for it would be missed by its owner, or never."""
    async with client(etcd.endpoints) as kvstore, Watching(kvstore, "podlane/k/") as watching:
        etcd.freeze()
        try:
            asked = asyncio.create_task(kvstore.get("podlane/a"))
            await until(lambda: kvstore.figures().waiting)
            for member in kvstore._members:
                await member.close()
        finally:
            etcd.thaw()
        assert await asked is None
        await kvstore.put("podlane/k/a", "1")
        await watching.has({"podlane/k/a": "1"})


async def test_a_member_of_another_store_is_left_out(etcd: Etcd) -> None:
    """Half of what a node writes would be where nobody looks."""
    with Etcd() as stranger:
        async with client([*etcd.endpoints, *stranger.endpoints], timeout_seconds=1.0) as kvstore:
            await kvstore.put("podlane/a", "1")
            ours, other = (etcd, stranger) if _used(etcd) else (stranger, etcd)
            assert not _used(other)
            # One that fails a request is put last, so the stranger has its turn, is found out, and is left out.
            ours.kill()
            with pytest.raises(
                Unavailable, match=r"belongs to etcd cluster .* restart this service if etcd was rebuilt"
            ):
                await kvstore.get("podlane/a")
            assert not _used(other)
            ours.start()
            assert (await kvstore.put("podlane/a", "2")).value == "2"
            assert not _used(other)


async def test_a_store_that_was_rebuilt_at_its_endpoints_takes_its_place(etcd: Etcd) -> None:
    """With another id: etcd makes it of its members' addresses and a word for the cluster."""
    async with client(etcd.endpoints) as kvstore:
        await kvstore.put("podlane/a", "1")
        etcd.kill()
        etcd.wipe()
        etcd._options = ("--initial-cluster-token", "another")
        etcd.start()
        assert await kvstore.get("podlane/a") is None
        assert [entry.key for entry in await kvstore.list("podlane/")] == ["podlane/cluster"]


def _used(etcd: Etcd) -> bool:
    """Whether anything of podlane's is in a store."""
    return bool(etcd.ctl("get", "--prefix", "podlane/").stdout)
