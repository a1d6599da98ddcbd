"""What a process has put with a lease goes with it, and comes back when the lease is lost."""

import asyncio
from collections.abc import Iterator

import pytest

from tests.etcd_support import Etcd, EtcdCluster
from tests.kvstore_support import client, until

# The shortest that etcd grants at its election timeout here.
_SECONDS = 2


@pytest.fixture
def etcd() -> Iterator[Etcd]:
    """One member."""
    with Etcd() as etcd:
        yield etcd


def _leases(etcd: Etcd) -> list[str]:
    return etcd.ctl("lease", "list").stdout.split()[3:]


def _there(etcd: Etcd, key: str) -> bool:
    return bool(etcd.ctl("get", key).stdout)


async def test_a_leased_key_outlives_the_store_s_patience_while_its_process_lives(etcd: Etcd) -> None:
    """And goes when the process doesn't renew it any more; what isn't leased stays."""
    async with client(etcd.endpoints, lease_seconds=_SECONDS) as kvstore:
        entry = await kvstore.put("podlane/a", "1", leased=True)
        await kvstore.put("podlane/b", "1")
        assert entry.leased
        lease = (await kvstore.status()).lease
        await asyncio.sleep(_SECONDS * 2)  # the store's own clock has to pass the lease's time
        assert await kvstore.get("podlane/a") == entry
        status = await kvstore.status()
        assert status.lease == lease
        assert status.lease_left is not None
        assert 0 < status.lease_left <= _SECONDS
        assert status.leases_lost == 0
    # It has stopped, as for a restart: nothing was taken away at once.
    assert _there(etcd, "podlane/a")
    await until(lambda: not _there(etcd, "podlane/a"), "the end of the lease")
    assert _there(etcd, "podlane/b")


async def test_one_lease_is_enough_and_none_is_granted_that_nobody_needs(etcd: Etcd) -> None:
    """However many keys are put at a time."""
    async with client(etcd.endpoints) as kvstore:
        await kvstore.put("podlane/x", "1")
        assert _leases(etcd) == []
        await asyncio.gather(*(kvstore.put(f"podlane/{number}", "1", leased=True) for number in range(50)))
        assert len(_leases(etcd)) == 1


async def test_the_next_process_takes_over_what_it_puts_again(etcd: Etcd) -> None:
    """With equal values: the old lease must not take them along."""
    async with client(etcd.endpoints, lease_seconds=_SECONDS) as before:
        await before.put("podlane/a", "1", leased=True)
        await before.put("podlane/b", "1", leased=True)
    async with client(etcd.endpoints, lease_seconds=60) as after:
        await after.put("podlane/a", "1", leased=True)
        await until(lambda: not _there(etcd, "podlane/b"), "the end of the old lease")
        assert _there(etcd, "podlane/a")
        # And a value that is there with the right lease is left alone.
        revision = etcd.revision
        await after.put("podlane/a", "1", leased=True)
        assert etcd.revision == revision
        # What is put without one doesn't depend on one any more.
        assert not (await after.put("podlane/a", "1")).leased
        assert "podlane/a" not in etcd.ctl("lease", "timetolive", "--keys", _leases(etcd)[0]).stdout


async def test_a_lease_that_was_revoked_by_hand_is_noticed_and_all_is_put_again(etcd: Etcd) -> None:
    """By the next keep-alive, or by the next put, whichever is sooner."""
    async with client(etcd.endpoints, lease_seconds=_SECONDS) as kvstore:
        lost = asyncio.Event()
        kvstore.on_lease_lost(lambda: 1 / 0)  # type: ignore[arg-type] # one that fails keeps nobody
        kvstore.on_lease_lost(lost.set)
        await kvstore.put("podlane/a", "1", leased=True)
        first = _leases(etcd)
        etcd.ctl("lease", "revoke", first[0])
        assert not _there(etcd, "podlane/a")
        await asyncio.wait_for(lost.wait(), 30)

        await kvstore.put("podlane/a", "1", leased=True)
        assert all(entry.leased for entry in await kvstore.list("podlane/a"))
        assert len(_leases(etcd)) == 1
        assert _leases(etcd) != first
        assert (await kvstore.status()).leases_lost == 1


async def test_a_put_that_finds_its_lease_gone_is_put_with_another_one(etcd: Etcd) -> None:
    """Nobody has to wait for the keep-alive."""
    async with client(etcd.endpoints, lease_seconds=900) as kvstore:
        lost = asyncio.Event()
        kvstore.on_lease_lost(lost.set)
        await kvstore.put("podlane/a", "1", leased=True)
        etcd.ctl("lease", "revoke", _leases(etcd)[0])
        entry = await kvstore.put("podlane/b", "1", leased=True)
        assert entry.leased
        assert lost.is_set()
        assert (await kvstore.status()).leases_lost == 1


async def test_an_outage_that_took_the_lease_is_noticed_when_it_is_over(etcd: Etcd) -> None:
    """The store was emptied, which is the surest way to lose a lease."""
    async with client(etcd.endpoints, lease_seconds=_SECONDS) as kvstore:
        lost = asyncio.Event()
        kvstore.on_lease_lost(lost.set)
        await kvstore.put("podlane/a", "1", leased=True)
        etcd.kill()
        await until(lambda: kvstore.figures().lease_left == 0.0, "the end of the lease's time")
        assert not lost.is_set()
        etcd.wipe()
        etcd.start()
        await asyncio.wait_for(lost.wait(), 30)
        await kvstore.put("podlane/a", "1", leased=True)
        assert _there(etcd, "podlane/a")


async def test_a_lease_that_an_emptied_store_has_lost_is_noticed_with_the_next_connection(etcd: Etcd) -> None:
    """The next keep-alive would be minutes away, and the node invisible for as long."""
    async with client(etcd.endpoints, lease_seconds=900) as kvstore:
        lost = asyncio.Event()
        kvstore.on_lease_lost(lost.set)
        await kvstore.put("podlane/a", "1", leased=True)
        etcd.kill()
        etcd.wipe()
        etcd.start()
        assert await kvstore.get("podlane/a") is None
        await asyncio.wait_for(lost.wait(), 30)


async def test_an_outage_that_did_not_take_the_lease_changes_nothing(etcd: Etcd) -> None:
    """etcd gives all leases their whole time when it starts: what hangs on them stays, and nobody writes."""
    async with client(etcd.endpoints, lease_seconds=_SECONDS) as kvstore:
        lost = asyncio.Event()
        kvstore.on_lease_lost(lost.set)
        entry = await kvstore.put("podlane/a", "1", leased=True)
        etcd.kill()
        await until(lambda: kvstore.figures().lease_left == 0.0, "the end of the lease's time")
        etcd.start()
        await until(lambda: kvstore.figures().lease_left, "a lease that is kept alive")
        await until(lambda: kvstore.figures().reachable)
        assert await kvstore.get("podlane/a") == entry
        assert not lost.is_set()


async def test_a_lease_is_kept_through_the_loss_of_a_leader() -> None:
    """By whichever member is there."""
    with EtcdCluster() as cluster:
        async with client(cluster.endpoints, lease_seconds=_SECONDS) as kvstore:
            await kvstore.put("podlane/state/a", "1", leased=True)
            for _ in range(2):
                leader = cluster.leader()
                leader.kill()
                await kvstore.put("podlane/state/b", "1", leased=True)
                leader.start()
            assert (await kvstore.status()).leases_lost == 0
            assert all(entry.leased for entry in await kvstore.list("podlane/a"))
