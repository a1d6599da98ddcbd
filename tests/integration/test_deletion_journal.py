"""The endpoint service and the deletion journal, between a fake loader and a fake ipam."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from podlane.common.v1 import controllers_pb2
from podlane.endpoint.v1 import endpoint_pb2 as pb
from podlane.ipam.v1 import ipam_pb2
from structlog.testing import capture_logs

from services.common.configfile import load
from services.common.errors import Internal, InvalidArgument, Unavailable
from services.endpoint.deletions import Journal
from services.endpoint.main import build
from tests.endpoint_support import PATIENCE, READY, Client, FakePod, Surroundings
from tests.journal_support import files, journalled, locked

STUCK = Internal("the kernel is odd")


@pytest.fixture
async def around() -> AsyncIterator[Surroundings]:
    """The two fakes; a peer that is down is waited for only shortly."""
    async with Surroundings(peer_wait=0.2) as around:
        yield around


@pytest.fixture
async def client(around: Surroundings) -> AsyncIterator[Client]:
    """An endpoint service between them."""
    async with around.service() as client:
        yield client


def directory(around: Surroundings) -> Path:
    return around.settings.endpoint.journal_dir


async def until(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not holds():
            await asyncio.sleep(0.01)


async def listed(client: Client) -> list[pb.Deletion]:
    reply = await client.peer.call(client.stub.ListDeletions, pb.ListDeletionsRequest(), timeout=PATIENCE)
    return list(reply.deletions)


def left_of(around: Surroundings, pod: FakePod) -> list[str]:
    """What there is of a pod with the loader and ipam."""
    parts: dict[str, Any] = {
        "link": around.kernel.links,
        "record": around.kernel.recorded,
        "addresses": around.ipam.held,
    }
    return [name for name, part in parts.items() if pod.key in part]


async def test_what_is_journalled_while_the_service_runs_is_carried_out(around: Surroundings, client: Client):
    """It isn't read at the start only: nothing has to be restarted for it."""
    pods = [around.pod() for _ in range(3)]
    for pod in pods:
        await client.create(pod)

    for pod in pods[:2]:
        journalled(directory(around), pod.attachment)
    await until(lambda: not files(directory(around)))

    assert [left_of(around, pod) for pod in pods[:2]] == [[], []]
    (left,) = await client.endpoints()
    assert (left.attachment, left.state) == (pods[2].request.attachment, READY)
    assert around.confirmed(pods[2])
    assert len(around.kernel.datapaths) == 1


async def test_steps_are_those_of_del_in_its_order(around: Surroundings, client: Client):
    pod = around.pod()
    await client.create(pod)
    around.loader.script.calls.clear()

    journalled(directory(around), pod.attachment)
    async with around.ipam.script.hold("ReleaseAddresses"):
        await around.ipam.script.reached("ReleaseAddresses")
        calls = [method for method, _ in around.loader.script.calls if method in {"RemoveEndpoint", "DeleteLink"}]
        assert calls == ["RemoveEndpoint", "DeleteLink"]
        assert len(files(directory(around))) == 1
    await until(lambda: not files(directory(around)))


async def test_what_waits_at_the_start_is_carried_out_before_the_node_is_ready(around: Surroundings):
    gone, stays = around.pod(), around.pod()
    async with around.service() as client:
        await client.create(gone)
        await client.create(stays)
    journalled(directory(around), gone.attachment)

    async with contextlib.AsyncExitStack() as held, around.service(wait=False) as client:
        await held.enter_async_context(around.loader.script.hold("DeleteLink"))
        await around.loader.script.reached("DeleteLink")
        assert not await client.serving()
        await held.aclose()
        await client.until_serving()
        assert files(directory(around)) == []
        assert left_of(around, gone) == []
        assert [one.attachment for one in await client.endpoints()] == [stays.request.attachment]


async def test_there_is_no_number_beyond_which_deletions_are_refused_or_forgotten(around: Surroundings):
    """Cilium's queue ends at 256."""
    pods = [around.pod() for _ in range(300)]
    for pod in pods:
        journalled(directory(around), pod.attachment)

    async with around.service():
        await until(lambda: not files(directory(around)))

    assert all(left_of(around, pod) == [] for pod in pods)


async def test_one_that_fails_is_tried_again_and_holds_up_no_other(around: Surroundings, client: Client):
    """Its addresses stay until the rest is gone; what fails is told where people look."""
    broken, other = around.pod(), around.pod()
    await client.create(broken)
    around.loader.script.fail("RemoveEndpoint", STUCK, times=1000)
    journalled(directory(around), broken.attachment)
    await until_failed(client, 1)

    late = journalled(directory(around), other.attachment)
    await until(lambda: not late.exists())

    assert left_of(around, other) == []
    assert left_of(around, broken) == ["addresses"]
    controller = await client.controller("deletion-journal")
    assert controller.status.consecutive_failure_count > 0
    assert "the kernel is odd" in controller.status.last_error
    assert str(broken.attachment) in controller.status.last_error
    (deletion,) = await listed(client)
    assert deletion.attachment == broken.request.attachment
    assert (deletion.netns_path, deletion.request_id) == ("/run/netns/gone", "cni-DEL-test")
    assert "the kernel is odd" in deletion.last_error

    around.loader.script.heal()
    await until(lambda: not files(directory(around)))
    assert left_of(around, broken) == []
    assert await listed(client) == []
    await until_succeeds(client)


async def until_failed(client: Client, times: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while not any(one.failures >= times for one in await listed(client)):
            await asyncio.sleep(0.02)


async def until_succeeds(client: Client) -> controllers_pb2.Controller:
    async with asyncio.timeout(PATIENCE):
        while (found := await client.controller("deletion-journal")).status.consecutive_failure_count:
            await asyncio.sleep(0.02)
    return found


async def test_what_can_be_done_while_ipam_is_away_is_done_and_the_rest_when_it_is_back(
    around: Surroundings, client: Client
):
    pod = around.pod()
    await client.create(pod)
    await around.ipam.stop()

    journalled(directory(around), pod.attachment)
    await until_failed(client, 1)
    assert left_of(around, pod) == ["addresses"]
    assert await client.endpoints() == []

    await around.ipam.start()
    await until(lambda: not files(directory(around)))
    assert left_of(around, pod) == []


@pytest.mark.usefixtures("client")
async def test_addresses_that_another_plugin_has_of_podlane_ipam_are_left_to_its_own_del(around: Surroundings):
    pod = around.pod()
    around.ipam.held[pod.key].state = ipam_pb2.ALLOCATION_STATE_CONFIRMED
    other = around.pod()
    for one in (pod, other):
        journalled(directory(around), one.attachment)

    await until(lambda: not files(directory(around)))

    assert left_of(around, pod) == ["addresses"]
    assert left_of(around, other) == []


async def test_while_the_loader_is_away_deletions_wait_and_none_is_lost(around: Surroundings, client: Client):
    pods = [around.pod() for _ in range(40)]
    await around.loader.stop()
    for pod in pods:
        journalled(directory(around), pod.attachment)
    await until_failed(client, 1)
    assert len(files(directory(around))) == 40

    await around.loader.start()
    await until(lambda: not files(directory(around)))
    assert all(left_of(around, pod) == [] for pod in pods)


async def test_an_entry_that_somebody_else_carries_out_is_left_to_them(around: Surroundings, client: Client):
    """The plugin, in an ADD of the same attachment; and when it is done, what it adds is not touched."""
    pod, other = around.pod(), around.pod()
    with locked(directory(around), pod.attachment) as entry:
        behind = journalled(directory(around), other.attachment)
        await until(lambda: not behind.exists())
        assert around.loader.script.count("DeleteLink") == 1
        entry.unlink()
        await client.create(pod)

    await next_look(client)
    assert around.loader.script.count("DeleteLink") == 1
    assert (await client.get(pod)).state == READY


async def next_look(client: Client) -> None:
    """Wait until the directory was looked at once more, from the beginning to the end."""
    before = (await client.controller("deletion-journal")).status.success_count
    async with asyncio.timeout(PATIENCE):
        while (await client.controller("deletion-journal")).status.success_count < before + 2:
            await asyncio.sleep(0.05)


async def test_what_cannot_be_read_is_told_once_kept_and_keeps_nobody_up(around: Surroundings):
    pod = around.pod()
    damaged = journalled(directory(around), pod.attachment)
    damaged.write_text("{")
    foreign = directory(around) / "notes\udcff.txt"
    foreign.write_text("mine")

    with capture_logs() as logs:
        async with around.service() as client:
            other = around.pod()
            entry = journalled(directory(around), other.attachment)
            await until(lambda: not entry.exists())
            await next_look(client)
            found = {one.file: one for one in await listed(client)}

    assert [one["file"] for one in logs if one["event"] == "left alone"] == [
        str(directory(around) / "notes\\xff.txt"),
        str(damaged),
    ]
    assert set(found) == {damaged.name, "notes\\xff.txt"}
    assert not any(one.HasField("attachment") for one in found.values())
    assert "damaged" in found[damaged.name].last_error
    assert files(directory(around)) == [foreign, damaged]
    assert left_of(around, pod) == ["link", "record", "addresses"]


async def test_what_a_plugin_was_writing_when_it_was_killed_is_removed_after_a_while(around: Surroundings):
    directory(around).mkdir(parents=True)
    new, old, foreign = (directory(around) / name for name in (".a~b~c.json.1", ".a~b~c.json.2", ".nfs0001"))
    for path in (new, old, foreign):
        path.write_text("{")
    for path in (old, foreign):
        os.utime(path, (0, 0))

    async with around.service() as client:
        assert await listed(client) == []

    assert files(directory(around)) == [new, foreign]


async def test_an_old_deletion_that_fails_is_given_up_and_one_that_succeeds_is_carried_out(around: Surroundings):
    """Age alone drops none: the node may have been off for a month, or its clock wrong."""
    broken, fine = around.pod(), around.pod()
    async with around.service() as client:
        await client.create(broken)
    around.loader.script.fail("RemoveEndpoint", STUCK, times=1000)
    for pod in (broken, fine):
        journalled(directory(around), pod.attachment, days=8)

    with capture_logs() as logs:
        async with around.service():
            await until(lambda: not files(directory(around)))

    (given_up,) = [one for one in logs if one["event"] == "given up"]
    assert given_up["attachment"] == str(broken.attachment)
    assert "the kernel is odd" in given_up["error"]
    assert "podlane gc" in given_up["todo"]
    assert left_of(around, fine) == []
    assert left_of(around, broken) == ["addresses"]


async def test_an_old_deletion_is_kept_while_a_peer_is_away_and_a_younger_one_that_fails_too(around: Surroundings):
    old, young = around.pod(), around.pod()
    async with around.service() as client:
        await client.create(old)
        await client.create(young)
        await around.loader.stop()
        journalled(directory(around), old.attachment, days=300)
        await until_failed(client, 2)
        assert len(files(directory(around))) == 1
        await around.loader.start()
        await until(lambda: not files(directory(around)))

        around.loader.script.fail("RemoveEndpoint", STUCK, times=1000)
        journalled(directory(around), young.attachment, days=6.9)
        await until_failed(client, 2)
        assert len(files(directory(around))) == 1
        around.loader.script.heal()


async def test_depth_and_age_are_counted_for_prometheus(around: Surroundings, client: Client):
    pod, fine = around.pod(), around.pod()
    await client.create(pod)
    around.loader.script.fail("RemoveEndpoint", STUCK, times=1000)
    journalled(directory(around), pod.attachment, days=1)
    done = journalled(directory(around), fine.attachment)
    (directory(around) / "notes").write_text("")
    await until_failed(client, 1)
    await until(lambda: not done.exists())
    await asyncio.wait_for(_scraped(around, 'podlane_deletion_journal_entries{state="unreadable"} 1.0'), PATIENCE)

    page = await _scrape(around)
    assert 'podlane_deletion_journal_entries{state="waiting"} 1.0' in page
    assert 'podlane_deletion_journal_entries{state="failing"} 1.0' in page
    assert 'podlane_deletion_journal_ended_total{how="carried_out"} 1.0' in page
    assert 'podlane_deletion_journal_ended_total{how="dropped"} 0.0' in page
    (oldest,) = [line for line in page.splitlines() if line.startswith("podlane_deletion_journal_oldest_seconds ")]
    assert 86400 <= float(oldest.split()[1]) < 90000


async def _scrape(around: Surroundings) -> str:
    reader, writer = await asyncio.open_unix_connection(around.settings.endpoint.metrics_listen)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: podlane\r\nConnection: close\r\n\r\n")
    page = await reader.read()
    writer.close()
    return page.decode()


async def _scraped(around: Surroundings, line: str) -> None:
    while line not in await _scrape(around):
        await asyncio.sleep(0.05)


async def test_a_directory_that_cannot_be_listed_is_told_and_one_that_goes_is_empty(
    around: Surroundings, client: Client
):
    directory(around).rmdir()
    assert await listed(client) == []
    directory(around).write_text("")

    with pytest.raises(Unavailable, match="cannot be listed"):
        await listed(client)
    async with asyncio.timeout(PATIENCE):
        while not (await client.controller("deletion-journal")).status.consecutive_failure_count:
            await asyncio.sleep(0.05)


async def test_a_directory_that_cannot_be_made_is_told_at_the_start(around: Surroundings):
    directory(around).parent.mkdir(parents=True, exist_ok=True)
    directory(around).write_text("")

    with pytest.raises(Unavailable, match="deletions can't be made"):
        async with around.service():
            pass


@pytest.mark.parametrize("days", [0, -1, 400, "nan"])
def test_an_age_that_makes_no_sense_is_refused(around_file: Path, days: Any):
    around_file.write_text(f"[endpoint]\njournal_max_days = {days}\n")

    with pytest.raises(InvalidArgument, match="journal_max_days"):
        build(load(around_file, {}))


@pytest.fixture
def around_file(tmp_path: Path) -> Path:
    return tmp_path / "podlane.toml"


async def test_a_service_that_stops_ends_what_it_has_begun_and_begins_no_more(around: Surroundings):
    pods = [around.pod() for _ in range(40)]
    async with around.service():
        journal = around.component(Journal)
        async with around.loader.script.hold("DeleteLink"):
            for pod in pods:
                journalled(directory(around), pod.attachment)
            await around.loader.script.reached("DeleteLink", times=16)
            stopping = asyncio.create_task(journal.stop())
            await asyncio.sleep(0)
        await stopping

    left = [pod for pod in pods if left_of(around, pod)]
    assert len(left) == len(files(directory(around))) == 40 - around.loader.script.count("DeleteLink")
    assert left
