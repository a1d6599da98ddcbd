"""What operators ask of endpoints, what happens to them periodically, and what is published of them."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from typing import Any

import pytest
from podlane.endpoint.v1 import endpoint_pb2 as pb
from podlane.loader.v1 import loader_pb2

from services.common.errors import FailedPrecondition, InvalidArgument, NotFound
from tests.endpoint_support import READY, Client, FakePod, Surroundings, kill

NO_REBUILD, REWRITE_LOAD = loader_pb2.REGENERATION_LEVEL_NO_REBUILD, loader_pb2.REGENERATION_LEVEL_REWRITE_LOAD


@pytest.fixture
async def around() -> AsyncIterator[Surroundings]:
    """Fakes and directories."""
    async with Surroundings() as around:
        yield around


@pytest.fixture
async def client(around: Surroundings) -> AsyncIterator[Client]:
    """The service in this process."""
    async with around.service() as client:
        yield client


def asked_of_loader(around: Surroundings) -> list[Any]:
    """Return the RegenerateEndpoint requests so far."""
    return [request for method, request in around.loader.script.calls if method == "RegenerateEndpoint"]


def switches(request: Any) -> dict[str, bool]:
    """Return the switches of a RegenerateEndpoint request."""
    return {one.name: one.enabled for one in request.endpoint.options}


async def until_published(client: Client, pod: FakePod) -> pb.Endpoint:
    """Wait until an endpoint was published."""
    async with asyncio.timeout(10):
        while not (found := await client.get(pod)).HasField("published"):
            await asyncio.sleep(0.005)
    return found


def published(around: Surroundings) -> dict[str, Any]:
    """Return what the kvstore holds."""
    with sqlite3.connect(around.settings.endpoint.database) as connection:
        return {key: json.loads(value) for key, value in connection.execute("SELECT key, value FROM kvstore")}


async def test_level_1_leaves_the_programs_and_level_2_loads_them(around: Surroundings, client: Client) -> None:
    """The results say which and why."""
    pods = [around.pod(), around.pod()]
    before = [(await client.create(pod)).endpoint.last_regeneration.programs[0].id for pod in pods]

    maps = await client.regenerate(level=NO_REBUILD)
    assert [(one.id, one.level, one.reload_reason) for one in maps] == [(1, NO_REBUILD, ""), (2, NO_REBUILD, "")]
    assert [(await client.get(pod)).last_regeneration.programs[0].id for pod in pods] == before

    (loaded,) = await client.regenerate(pods[1], level=REWRITE_LOAD)
    assert (loaded.id, loaded.level, loaded.reload_reason) == (2, REWRITE_LOAD, "it was asked for")
    ids = [(await client.get(pod)).last_regeneration.programs[0].id for pod in pods]
    assert ids[0] == before[0]
    assert ids[1] != before[1]


async def test_a_dry_run_asks_the_loader_and_changes_nothing(around: Surroundings, client: Client) -> None:
    """Not the state, not the log, not the counters."""
    pod = around.pod()
    await client.create(pod)
    before = await until_published(client, pod)

    (result,) = await client.regenerate(pod, level=REWRITE_LOAD, dry_run=True)

    assert (result.level, result.reload_reason) == (REWRITE_LOAD, "it was asked for")
    assert asked_of_loader(around)[-1].dry_run
    assert await client.get(pod) == before


async def test_one_that_fails_is_told_in_its_result_and_recovers(around: Surroundings, client: Client) -> None:
    """The old programs stay; the controller goes on until it succeeds."""
    pods = [around.pod(), around.pod()]
    for pod in pods:
        await client.create(pod)
    refusal = FailedPrecondition("the verifier refused it")
    async with around.loader.script.hold("RegenerateEndpoint"):
        # Both are on their way before one is told to fail: which one doesn't matter.
        running = asyncio.create_task(client.regenerate(level=REWRITE_LOAD))
        await around.loader.script.reached("RegenerateEndpoint", times=4)
        around.loader.script.fail("RegenerateEndpoint", refusal)
    results = await running

    assert sorted(one.error for one in results) == ["", "the verifier refused it"]
    failed = next(pod for pod, one in zip(pods, results, strict=True) if one.error)
    found = await client.until(failed)
    assert found.state == READY
    assert (found.counters.regenerations, found.counters.failures) == (2, 1)
    assert found.last_regeneration.level == REWRITE_LOAD
    assert "retrying regeneration" in found.last_regeneration.reasons


async def test_an_unknown_level_and_an_unknown_endpoint_are_refused(around: Surroundings, client: Client) -> None:
    with pytest.raises(InvalidArgument, match="level: 0 is not a regeneration level"):
        await client.regenerate(level=loader_pb2.REGENERATION_LEVEL_UNSPECIFIED)
    with pytest.raises(NotFound):
        await client.regenerate(around.pod(), level=NO_REBUILD)


async def test_a_switch_of_the_node_reaches_every_endpoint_and_an_endpoints_own_stands_above_it(
    around: Surroundings, client: Client
) -> None:
    """default ◄ node ◄ endpoint; each change regenerates whom it concerns."""
    pods = [around.pod(), around.pod()]
    for pod in pods:
        await client.create(pod)

    everyone = await client.set_options(None, trace=True)
    assert [(one.id, one.level, one.reload_reason) for one in everyone] == [
        (1, REWRITE_LOAD, "the configuration has changed"),
        (2, REWRITE_LOAD, "the configuration has changed"),
    ]
    (own,) = await client.set_options(pods[0], trace=False, debug=True)
    assert own.id == 1

    assert switches(asked_of_loader(around)[-1]) == {"trace": False, "debug": True}
    assert dict((await client.get(pods[0])).options) == {"trace": False, "debug": True}
    told = {one.info.name: one for one in await client.options(pods[0])}
    assert (told["trace"].node, told["trace"].endpoint, told["trace"].enabled) == (True, False, False)
    assert not told["conntrack"].HasField("node")

    await client.set_options(pods[0], trace=None)
    assert switches(asked_of_loader(around)[-1]) == {"trace": True, "debug": True}
    third = around.pod()
    await client.create(third)
    assert switches(asked_of_loader(around)[-1]) == {"trace": True}


async def test_an_unknown_switch_sets_nothing(around: Surroundings, client: Client) -> None:
    """Not even the known ones beside it."""
    await client.create(around.pod())

    with pytest.raises(InvalidArgument, match="'sorcery' is no option; there are conntrack, debug, trace"):
        await client.set_options(None, debug=True, sorcery=True)

    assert not any(one.enabled for one in await client.options(None))
    assert len(asked_of_loader(around)) == 1


async def test_switches_and_counters_outlive_a_kill(around: Surroundings) -> None:
    """And nothing is loaded again because of it."""
    pod = around.pod()
    async with around.process() as (process, client):
        await client.create(pod)
        await client.set_options(None, trace=True)
        await client.set_options(pod, debug=True)
        before = await client.get(pod)
        await kill(process)
    async with around.process() as (_, client):
        after = await client.until(pod)
        assert dict(after.options) == {"debug": True}
        assert {one.info.name for one in await client.options(pod) if one.enabled} == {"trace", "debug"}
        assert after.counters.regenerations == before.counters.regenerations == 3
        assert list(after.log)[: len(before.log)] == list(before.log)
        assert after.last_regeneration == before.last_regeneration


async def test_a_switch_stays_set_when_the_build_fails(around: Surroundings, client: Client) -> None:
    """It is tried again until it works."""
    pod = around.pod()
    await client.create(pod)
    around.loader.script.fail("RegenerateEndpoint", FailedPrecondition("clang refused it"))

    (result,) = await client.set_options(None, debug=True)

    assert result.error == "clang refused it"
    assert {one.info.name for one in await client.options(None) if one.enabled} == {"debug"}
    await client.until(pod)
    assert switches(asked_of_loader(around)[-1]) == {"debug": True}


async def test_the_periodic_regeneration_mends_what_the_kernel_lost_and_says_nothing_of_the_rest(
    around: Surroundings,
) -> None:
    """Two endpoints, one of them no longer whole."""
    with around.file.open("a") as settings:
        settings.write("regenerate_interval_seconds = 0.05\n")
    around.reload()
    whole, lost = around.pod(), around.pod()
    async with around.service() as client:
        for pod in (whole, lost):
            await client.create(pod)
        around.kernel.datapaths[2].reachable = False

        await around.loader.script.until(lambda: len(asked_of_loader(around)) > 8)

        mended, untouched = await client.get(lost), await client.get(whole)
        assert around.kernel.datapaths[2].reachable
        assert list(mended.last_regeneration.changes) == ["the kernel had lost something"]
        assert list(mended.last_regeneration.reasons) == ["periodic endpoint regeneration"]
        assert untouched.last_regeneration.level == REWRITE_LOAD
        assert not any("periodic" in entry.message for entry in untouched.log)
        assert untouched.counters.regenerations > 2
        # Two creations, and all else as needed.
        levels = [request.level for request in asked_of_loader(around)]
        assert levels.count(REWRITE_LOAD) == 2
        assert levels.count(NO_REBUILD) == len(levels) - 2


async def test_an_endpoint_is_published_and_its_record_goes_with_it(around: Surroundings, client: Client) -> None:
    """`endpoint get` shows what was published and when."""
    pod = around.pod("web-0")
    await client.create(pod)

    shown = (await until_published(client, pod)).published
    assert shown.key == "podlane/state/endpoints/v1/n1/1"
    assert published(around) == {shown.key: json.loads(shown.value)}
    record = json.loads(shown.value)
    assert (record["id"], record["node"], record["pod"]["name"], record["state"]) == (1, "n1", "web-0", "ready")
    assert record["identity"] == {"id": 5, "labels": {}}
    assert record["attachment"]["container_id"] == pod.attachment.container_id
    assert record["addresses"] == ["10.7.0.2", "fd07::2"]
    assert (shown.revision, shown.written.seconds > 0) == (1, True)

    await client.delete(pod)
    async with asyncio.timeout(10):
        while published(around):
            await asyncio.sleep(0.005)


async def test_a_record_that_outlived_its_endpoint_or_was_taken_away_is_put_right_by_a_restart(
    around: Surroundings,
) -> None:
    """The process was killed between the two."""
    pod = around.pod()
    async with around.process() as (process, client):
        await client.create(pod)
        shown = (await until_published(client, pod)).published
        await kill(process)
    with sqlite3.connect(around.settings.endpoint.database) as connection:
        connection.execute("UPDATE kvstore SET key = 'podlane/state/endpoints/v1/n1/77'")
        connection.execute("INSERT INTO kvstore VALUES ('podlane/state/endpoints/v1/n2/3', '{}', 70, 0.0)")
    async with around.process() as (_, client):
        await until_published(client, pod)
        found = published(around)
        assert set(found) == {shown.key, "podlane/state/endpoints/v1/n2/3"}
        assert found[shown.key] == json.loads(shown.value)


async def test_an_endpoint_that_is_deleted_before_a_restart_has_looked_at_it_takes_its_record_along(
    around: Surroundings,
) -> None:
    """The process that published it is gone, and a DEL may come before the loader answers."""
    pod = around.pod()
    async with around.process() as (process, client):
        await client.create(pod)
        await until_published(client, pod)
        await kill(process)
    await around.ipam.stop()  # so that nothing is compared
    async with around.process(wait=False) as (_, client):
        await client.delete(pod)
        async with asyncio.timeout(10):
            while published(around):
                await asyncio.sleep(0.005)
