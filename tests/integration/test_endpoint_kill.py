"""The real process, killed with SIGKILL at any point: the next start converges and a repeated ADD or DEL works."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest

from services.common.errors import PodlaneError
from tests.endpoint_support import READY, FakePod, Surroundings, kill


@pytest.fixture
async def around() -> AsyncIterator[Surroundings]:
    """Fakes and directories."""
    async with Surroundings() as around:
        yield around


CREATING = (("loader", "RegenerateEndpoint"), ("ipam", "ConfirmAllocation"))


async def killed_creating(around: Surroundings, pod: FakePod, *, built: bool, confirmed: bool) -> None:
    """Start the service, begin a create, and kill it when each of the two calls has or has not done its work."""
    async with around.process() as (process, client), contextlib.AsyncExitStack() as held:
        for (service, method), after in zip(CREATING, (built, confirmed), strict=True):
            script = getattr(around, service).script
            await held.enter_async_context(script.hold(method, after=after, lose=not after))
        creating = asyncio.create_task(client.create(pod))
        for (service, method), after in zip(CREATING, (built, confirmed), strict=True):
            await getattr(around, service).script.reached(method, after=after)
        await kill(process)
        with pytest.raises(PodlaneError):
            await creating


@pytest.mark.parametrize(("built", "confirmed"), [(False, False), (True, False), (False, True)])
async def test_a_create_that_was_killed_half_way_is_undone_and_can_be_repeated(
    around: Surroundings, built: bool, confirmed: bool
) -> None:
    """No datapath, no endpoint, and the addresses are the reservation that they were."""
    pod = around.pod()
    await killed_creating(around, pod, built=built, confirmed=confirmed)

    async with around.process() as (_, client):
        await client.until_gone(pod)
        assert await client.endpoints() == []
        assert around.kernel.datapaths == {}
        assert around.reserved(pod)

        response = await client.create(pod)
        assert (response.created, response.endpoint.state) == (True, READY)
        assert await client.check(pod) == []


async def test_a_create_that_was_killed_when_all_was_done_is_kept(around: Surroundings) -> None:
    """Its answer may have been the last thing that was lost: the repeat gets it."""
    pod = around.pod()
    await killed_creating(around, pod, built=True, confirmed=True)

    async with around.process() as (process, client):
        again = await client.create(pod)
        assert (again.created, again.endpoint.state) == (False, READY)
        await kill(process)
    async with around.process() as (_, client):
        assert (await client.get(pod)).state == READY
        assert await client.check(pod) == []
    assert around.loader.script.count("RegenerateEndpoint") == 1


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_delete_that_was_killed_is_finished(around: Surroundings, after: bool) -> None:
    """The link and the addresses stay the shim's."""
    pod = around.pod()
    async with around.process() as (process, client):
        await client.create(pod)
        async with around.loader.script.hold("RemoveEndpoint", after=after):
            deleting = asyncio.create_task(client.delete(pod))
            await around.loader.script.reached("RemoveEndpoint", after=after)
            await kill(process)
            with pytest.raises(PodlaneError):
                await deleting

    async with around.process() as (_, client):
        await client.until_gone(pod)
        assert await client.endpoints() == []
        assert not await client.delete(pod)

    assert around.kernel.datapaths == {}
    assert around.confirmed(pod)


@pytest.mark.parametrize("victim", [3, 7, 11, 15])
async def test_killed_in_the_middle_of_a_busy_node_everything_converges(around: Surroundings, victim: int) -> None:
    """Concurrent ADDs and DELs, killed at the n-th call of the loader: repeats bring all of them where they belong."""
    adds, dels = [around.pod() for _ in range(8)], [around.pod() for _ in range(8)]
    async with around.process() as (process, client):
        await asyncio.gather(*(client.create(pod) for pod in dels))
        script = around.loader.script
        before = len(script.calls)
        work: list[asyncio.Task[Any]] = [asyncio.create_task(client.create(pod)) for pod in adds]
        work += [asyncio.create_task(client.delete(pod)) for pod in dels]
        await script.until(lambda: len(script.calls) >= before + victim)
        await kill(process)
        await asyncio.gather(*work, return_exceptions=True)

    async with around.process() as (_, client):
        responses = await asyncio.gather(*(client.create(pod) for pod in adds))
        await asyncio.gather(*(client.delete(pod) for pod in dels))
        ids = sorted(response.endpoint.id for response in responses)
        assert len(set(ids)) == 8
        assert sorted(endpoint.id for endpoint in await client.endpoints()) == ids
        assert sorted(around.kernel.datapaths) == ids
        assert [await client.check(pod) for pod in adds] == [[]] * 8


async def test_a_kill_between_the_commit_and_the_answer_keeps_the_endpoint(around: Surroundings) -> None:
    """It is ready after the restart without being touched, and the repeat says that it existed."""
    pod = around.pod()
    async with around.process() as (process, client):
        created = await client.create(pod)
        await kill(process)
    loads = around.loader.script.count("RegenerateEndpoint")

    async with around.process() as (_, client):
        again = await client.create(pod)

    assert (again.created, again.endpoint.id) == (False, created.endpoint.id)
    assert around.loader.script.count("RegenerateEndpoint") == loads


async def test_sigterm_lets_a_create_in_flight_finish(around: Surroundings) -> None:
    """What was begun is finished before the process ends, with exit code 0."""
    pod = around.pod()
    async with around.process() as (process, client):
        async with around.loader.script.hold("RegenerateEndpoint"):
            creating = asyncio.create_task(client.create(pod))
            await around.loader.script.reached("RegenerateEndpoint")
            process.send_signal(signal.SIGTERM)
        with contextlib.suppress(PodlaneError):
            await creating
        assert await process.wait() == 0

    assert list(around.kernel.datapaths) == [1]
    async with around.process() as (_, client):
        assert not (await client.create(pod)).created


async def test_a_second_process_on_the_same_state_refuses_to_start_and_harms_nothing(around: Surroundings) -> None:
    """One line of why, no traceback."""
    async with around.process() as (_, client), around.process(wait=False) as (second, _):
        assert await second.wait() == 1
        assert (await client.create(around.pod())).created

    log = (around.dir / "endpoint.log").read_text()
    assert "podlane-endpoint: " in log
    assert "Traceback" not in log
