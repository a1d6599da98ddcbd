"""The verbs over a real database: concurrency, failing disks, callers that hang up, expiry."""

import asyncio
import contextlib
import sqlite3
from collections import Counter
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from services.common.config import PoolSettings
from services.common.db import Database
from services.common.errors import AlreadyExists, Exhausted, FailedPrecondition, NotFound, Unavailable
from services.ipam.model import Allocation, AllocationRequest
from tests.allocator_support import Time, allocate, allocator, disk_full, first, owner, rows


@pytest.fixture
def time() -> Time:
    return Time()


async def test_64_concurrent_callers_never_share_an_address(tmp_path: Path):
    async with allocator(tmp_path) as ipam:
        free = iter(range(250))

        async def caller() -> list[Allocation]:
            return [await allocate(ipam, f"c{number}") for number in free]

        held = [one for several in await asyncio.gather(*(caller() for _ in range(64))) for one in several]

    counts = Counter(one.address for allocation in held for one in allocation.addresses)
    assert len(counts) == 500
    assert max(counts.values()) == 1
    assert len(rows(tmp_path)) == 250


async def test_64_concurrent_callers_with_one_owner_get_one_allocation(tmp_path: Path):
    async with allocator(tmp_path) as ipam:
        answers = await asyncio.gather(*(ipam.allocate(AllocationRequest(owner("c1"))) for _ in range(64)))

        assert len({held.id for held, _ in answers}) == 1
        assert sum(created for _, created in answers) == 1
        assert ipam.status()[0].ranges[0].used == 1


async def test_allocate_confirm_and_release_of_one_owner_run_one_after_the_other(tmp_path: Path):
    async with allocator(tmp_path) as ipam:
        held, confirmed, released = await asyncio.gather(
            allocate(ipam, "c1"), ipam.confirm(owner("c1"), 7), ipam.release(owner("c1"))
        )

        assert held.confirmed is None
        assert confirmed.endpoint_id == 7
        assert released == confirmed
        assert ipam.status()[0].ranges[0].used == 0


async def test_an_answered_allocation_is_on_disk(tmp_path: Path):
    async with allocator(tmp_path) as ipam:
        held = await allocate(ipam, "c1")

        assert rows(tmp_path) == [("c1", first(held))]


async def test_everything_is_as_it_was_after_a_restart(tmp_path: Path):
    async with allocator(tmp_path) as ipam:
        for number in range(4):
            await allocate(ipam, f"c{number}")
        await ipam.confirm(owner("c1"), 9)
        await ipam.release(owner("c0"))
        before = await ipam.page("", None, 0, 10), ipam.status()

    async with allocator(tmp_path) as ipam:
        assert (await ipam.page("", None, 0, 10), ipam.status()) == before
        assert first(await allocate(ipam, "c9")) == "10.0.0.6"


async def test_a_failed_commit_gives_everything_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async with allocator(tmp_path) as ipam:
        await ipam.release((await allocate(ipam, "c0")).owner)
        before = ipam.status()
        with monkeypatch.context() as patched:
            patched.setattr(Database, "write", disk_full)
            answers = await asyncio.gather(*(allocate(ipam, f"c{n}") for n in range(8)), return_exceptions=True)

        assert {type(answer) for answer in answers} == {Unavailable}
        assert ipam.status() == before
        assert [first(await allocate(ipam, f"d{n}")) for n in range(3)] == ["10.0.0.3", "10.0.0.4", "10.0.0.5"]


async def test_a_release_or_confirmation_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async with allocator(tmp_path) as ipam:
        held = await allocate(ipam, "c0")
        before = ipam.status()
        with monkeypatch.context() as patched:
            patched.setattr(Database, "write", disk_full)
            with pytest.raises(Unavailable):
                await ipam.release(held.owner)
            with pytest.raises(Unavailable):
                await ipam.confirm(held.owner, 7)

        assert ipam.status() == before
        await ipam.confirm(held.owner, 7)
        before = ipam.status()
        with monkeypatch.context() as patched:
            patched.setattr(Database, "write", disk_full)
            with pytest.raises(Unavailable):
                await ipam.unconfirm(held.owner, 7)

        assert ipam.status() == before
        held = await ipam.confirm(held.owner, 7)
        assert await ipam.release(held.owner) == held


async def test_a_caller_that_hangs_up_leaves_a_whole_allocation(tmp_path: Path):
    async with allocator(tmp_path) as ipam:
        callers = [asyncio.create_task(allocate(ipam, f"c{number}")) for number in range(32)]
        for yields in range(32):
            callers[yields].cancel()
            await asyncio.sleep(0)
        await asyncio.gather(*callers, return_exceptions=True)

    begun = rows(tmp_path)
    assert len({address for _, address in begun}) == len(begun)
    async with allocator(tmp_path) as ipam:
        assert ipam.status()[0].ranges[0].used == len(begun)
        for number in range(32):
            await allocate(ipam, f"c{number}")
        assert len(set(rows(tmp_path))) == 32


async def test_a_repeat_returns_the_same_allocation(tmp_path: Path):
    async with allocator(tmp_path) as ipam:
        held, created = await ipam.allocate(AllocationRequest(owner("c1")))
        again, created_again = await ipam.allocate(AllocationRequest(owner("c1")))

        assert (created, created_again) == (True, False)
        assert again == held


async def test_a_repeat_late_in_a_reservations_life_renews_it_on_disk(tmp_path: Path, time: Time):
    async with allocator(tmp_path, time=time) as ipam:
        held = await allocate(ipam, "c1")
        time.pass_(500.0)

        again = await allocate(ipam, "c1")

        assert again.addresses == held.addresses
        assert again.expires == time.wall + 600.0
        assert await ipam.page("", None, 0, 9) == [again]


async def test_confirming_is_idempotent_for_one_endpoint_and_refused_for_another(tmp_path: Path):
    async with allocator(tmp_path) as ipam:
        await allocate(ipam, "c1")

        confirmed = await ipam.confirm(owner("c1"), 7)

        assert confirmed.expires is None
        assert await ipam.confirm(owner("c1"), 7) == confirmed
        with pytest.raises(AlreadyExists, match=r"net/c1/eth0 holds .* for endpoint 7, not for endpoint 8"):
            await ipam.confirm(owner("c1"), 8)
        with pytest.raises(NotFound, match="net/c2/eth0 holds no addresses"):
            await ipam.confirm(owner("c2"), 7)


async def test_what_is_confirmed_without_an_endpoint_never_expires_and_is_no_endpoints(tmp_path: Path, time: Time):
    async with allocator(tmp_path, time=time) as ipam:
        held = await allocate(ipam, "c1")
        confirmed = await ipam.confirm(owner("c1"), 0)
        assert confirmed.ipam_only
        assert await ipam.confirm(owner("c1"), 0) == confirmed
        with pytest.raises(AlreadyExists, match=r"for another plugin \(podlane-ipam\), not for endpoint 7"):
            await ipam.confirm(owner("c1"), 7)
        with pytest.raises(FailedPrecondition, match="for another plugin"):
            await ipam.release(owner("c1"), 7)
        assert await ipam.unconfirm(owner("c1"), 7) == confirmed
    time.wall += 100_000.0
    time.monotonic += 100_000.0
    async with allocator(tmp_path, time=time) as ipam:
        assert await ipam.expire() == 0
        assert await allocate(ipam, "c1") == confirmed
        assert confirmed.addresses == held.addresses


async def test_a_release_without_endpoint_leaves_what_an_endpoint_has(tmp_path: Path):
    async with allocator(tmp_path) as ipam:
        for name in ("reserved", "only", "endpoint"):
            await allocate(ipam, name)
        await ipam.confirm(owner("only"), 0)
        kept = await ipam.confirm(owner("endpoint"), 7)
        with pytest.raises(AlreadyExists, match=r"for endpoint 7, not for another plugin \(podlane-ipam\)"):
            await ipam.confirm(owner("endpoint"), 0)

        released = [await ipam.release(owner(name), without_endpoint=True) for name in ("reserved", "only", "endpoint")]

        assert [one is not None for one in released] == [True, True, False]
        assert await allocate(ipam, "endpoint") == kept


async def test_a_confirmation_is_taken_back_on_disk_and_only_for_the_endpoint_that_gave_it(tmp_path: Path, time: Time):
    async with allocator(tmp_path, time=time) as ipam:
        held = await allocate(ipam, "c1")
        confirmed = await ipam.confirm(owner("c1"), 7)
        time.wall += 1000.0

        assert await ipam.unconfirm(owner("c1"), 8) == confirmed
        reserved = await ipam.unconfirm(owner("c1"), 7)

        assert reserved == replace(held, expires=time.wall + 600.0)
        assert await ipam.unconfirm(owner("c1"), 7) == reserved
        assert await ipam.unconfirm(owner("c2"), 7) is None
        assert await ipam.page("", None, 0, 9) == [reserved]


async def test_a_confirmation_that_was_taken_back_expires(tmp_path: Path):
    async with allocator(tmp_path, reservation=0.05) as ipam:
        await allocate(ipam, "c1")
        await ipam.confirm(owner("c1"), 7)
        await ipam.unconfirm(owner("c1"), 7)

        while ipam.status()[0].ranges[0].used:
            await asyncio.sleep(0.01)

        assert rows(tmp_path) == []


async def test_a_restored_endpoint_reclaims_its_addresses(tmp_path: Path):
    async with allocator(tmp_path) as ipam:
        wanted = {4: ip_address("10.0.0.77"), 6: ip_address("fd00::4d")}
        held, _ = await ipam.allocate(AllocationRequest(owner("c1"), requested=wanted))
        await ipam.confirm(owner("c1"), 7)

        again, created = await ipam.allocate(AllocationRequest(owner("c1"), requested=wanted))

        assert not created
        assert again.addresses == held.addresses
        assert (await ipam.confirm(owner("c1"), 7)).endpoint_id == 7


async def test_releasing_nothing_is_success(tmp_path: Path):
    async with allocator(tmp_path) as ipam:
        assert await ipam.release(owner("c1")) is None


async def test_early_reuse_is_counted(tmp_path: Path, time: Time):
    async with allocator(tmp_path, PoolSettings("default", ("10.0.0.0/30",)), time=time) as ipam:
        for name in ("c1", "c2"):
            await allocate(ipam, name)
            await ipam.release(owner(name))
        assert ipam.early_reuses == 1

        time.pass_(30.0)
        await allocate(ipam, "c3")

        assert ipam.early_reuses == 1


async def test_dual_stack_rolls_back_when_ipv6_is_exhausted(tmp_path: Path):
    async with allocator(tmp_path, PoolSettings("default", ("10.0.0.0/24", "fd00::/127"))) as ipam:
        await allocate(ipam, "c1")
        with pytest.raises(Exhausted, match="no free IPv6 address: 1 of 1 used"):
            await allocate(ipam, "c2")

        assert [one.used for one in ipam.status()[0].ranges] == [1, 1]
        assert [name for name, _ in rows(tmp_path)] == ["c1"]
        assert first(await allocate(ipam, "c2", families=frozenset({4}))) == "10.0.0.3"


async def test_allocations_outside_a_changed_configuration_are_kept_shown_and_releasable(tmp_path: Path):
    async with allocator(tmp_path, PoolSettings("old", ("10.9.0.0/24",))) as ipam:
        held, _ = await ipam.allocate(AllocationRequest(owner("c1"), pool="old"))

    async with allocator(tmp_path) as ipam:
        assert await ipam.page("", None, 0, 9) == [held]
        assert (await ipam.allocate(AllocationRequest(owner("c1"), pool="old"))) == (held, False)
        assert ipam.mtu("old") == 0
        assert await ipam.release(owner("c1")) == held
        assert await ipam.page("", None, 0, 9) == []


async def test_the_database_itself_refuses_a_second_holder(tmp_path: Path):
    """The last guard: a bug in memory must not become two pods with one address."""
    async with allocator(tmp_path) as ipam:
        held = await allocate(ipam, "c1")
    values = (2, "net", "c2", "eth0", "", "", "", "default", held.addresses[0].address.packed, 0.0, 0)

    with (
        contextlib.closing(sqlite3.connect(tmp_path / "ipam.sqlite")) as connection,
        pytest.raises(sqlite3.IntegrityError, match="ipv4"),
    ):
        connection.execute(
            "INSERT INTO allocations (id, network, container_id, ifname, pod_namespace, pod_name, pod_uid, pool, "
            "ipv4, created, endpoint_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            values,
        )
