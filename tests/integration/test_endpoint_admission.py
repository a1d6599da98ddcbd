"""Creations that come all at once, against a fake loader and ipam: order, bound, places, and who gives one up."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest
from podlane.endpoint.v1 import endpoint_pb2 as pb
from podlane.loader.v1 import loader_pb2

from services.common.errors import Exhausted, FailedPrecondition, Unavailable
from services.endpoint.line import REMEMBERED
from services.endpoint.manager import Manager
from services.endpoint.operate import ASKED
from tests.endpoint_support import READY, Client, Surroundings

WIDTH = 2
WAITING = pb.ENDPOINT_STATE_WAITING_TO_REGENERATE


@pytest.fixture
async def around() -> AsyncIterator[Surroundings]:
    """Fakes and directories; two creations at a time."""
    async with Surroundings() as around:
        with around.file.open("a") as file:
            file.write(f"create_permits = {WIDTH}\n")
        around.reload()
        yield around


@pytest.fixture
async def client(around: Surroundings) -> AsyncIterator[Client]:
    """The service, ready."""
    async with around.service() as client:
        yield client


class Storm:
    """Creations that were begun one after the other; `calls` are their tasks."""

    def __init__(self, around: Surroundings, client: Client, count: int) -> None:
        """Choose the pods."""
        self.around, self.client = around, client
        self.pods = [around.pod(f"p{number}") for number in range(count)]
        self.calls: list[asyncio.Task[pb.CreateEndpointResponse]] = []

    async def begin(self) -> None:
        """Have each of them stand in the line, or work, before the next one comes."""
        for pod in self.pods:
            self.calls.append(asyncio.create_task(self.client.create(pod)))
            await self.until(lambda: sum(self.standing()) == len(self.calls))

    def standing(self) -> tuple[int, int]:
        """Return how many work and how many wait."""
        line = self.around.component(Manager)._admission.line
        return line.working, line.waiting

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something is so."""
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.001)

    async def places(self) -> list[tuple[str, int, int]]:
        """Return name, position and number of those who wait, as the list has it, in the order of positions."""
        told = [(one.pod.name, one.place) for one in await self.client.endpoints() if one.HasField("place")]
        return sorted(((name, place.position, place.waiting) for name, place in told), key=lambda one: one[1])

    def asked(self) -> list[int]:
        """Return the ids that the loader was asked to build, in order."""
        calls = self.around.loader.script.calls
        return [request.endpoint.id for method, request in calls if method == "RegenerateEndpoint"]


@contextlib.asynccontextmanager
async def held(around: Surroundings, client: Client, count: int) -> AsyncIterator[Storm]:
    """Run a storm of which nobody gets ahead for the block; afterwards it goes on."""
    storm = Storm(around, client, count)
    async with around.loader.script.hold("RegenerateEndpoint"):
        await storm.begin()
        yield storm


async def test_no_more_than_the_bound_are_made_at_a_time_and_in_their_order(
    around: Surroundings, client: Client
) -> None:
    """The ids are given in the order of arrival."""
    most = 0

    def count() -> bool:
        nonlocal most
        most = max(most, storm.standing()[0])
        return all(call.done() for call in storm.calls)

    async with held(around, client, 12) as storm:
        await around.loader.script.reached("RegenerateEndpoint", times=WIDTH)
        assert storm.standing() == (WIDTH, 10)
    await storm.until(count)
    made = [(await call).endpoint.id for call in storm.calls]
    assert most == WIDTH
    assert storm.asked() == sorted(made) == made
    assert storm.standing() == (0, 0)


async def test_who_waits_is_listed_with_its_place_and_leaves_nothing_on_disk(
    around: Surroundings, client: Client
) -> None:
    """Position 1 is next; nothing is expected before something was seen."""
    async with held(around, client, 5) as storm:
        assert await storm.places() == [("p2", 1, 3), ("p3", 2, 3), ("p4", 3, 3)]
        waits = await client.get(storm.pods[4])
        assert (waits.state, waits.waiting_for) == (WAITING, "its turn: 3 of 3 that wait")
        assert not waits.place.HasField("estimate_us")
        assert not around.confirmed(storm.pods[4])
    await asyncio.gather(*storm.calls)
    assert await storm.places() == []


async def test_what_creations_have_cost_is_expected_of_the_next(around: Surroundings, client: Client) -> None:
    """And said in words."""
    for _ in range(REMEMBERED):
        await client.create(around.pod())
    async with held(around, client, 5) as storm:
        places = [(await client.get(pod)).place for pod in storm.pods[2:]]
        assert 0 < places[0].estimate_us < places[1].estimate_us < places[2].estimate_us
        assert ", done in about " in (await client.get(storm.pods[2])).waiting_for
    await asyncio.gather(*storm.calls)


async def test_a_caller_that_hangs_up_gives_its_place_to_the_next_and_leaves_nothing(
    around: Surroundings, client: Client
) -> None:
    """As a shim does that is killed."""
    async with held(around, client, 6) as storm:
        storm.calls[3].cancel()
        await storm.until(lambda: storm.standing() == (WIDTH, 3))
        await client.until_gone(storm.pods[3])
        assert await storm.places() == [("p2", 1, 3), ("p4", 2, 3), ("p5", 3, 3)]
        assert around.reserved(storm.pods[3])
    await asyncio.gather(*storm.calls[:3], *storm.calls[4:])
    assert len(storm.asked()) == 5
    # Its runtime's next attempt stands at the end and succeeds.
    assert (await client.create(storm.pods[3])).created


async def test_what_has_begun_is_finished_though_its_caller_hangs_up(around: Surroundings, client: Client) -> None:
    """Half a creation is worse than one that nobody reads the answer of."""
    async with held(around, client, 3) as storm:
        storm.calls[0].cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await storm.calls[0]
        assert storm.standing() == (WIDTH, 1)
    await asyncio.gather(*storm.calls[1:])
    assert (await client.until(storm.pods[0])).state == READY


async def test_a_delete_does_not_stand_in_the_line_and_takes_who_does_out_of_it(
    around: Surroundings, client: Client
) -> None:
    """Deletions free things: of an endpoint that is ready, and of one that waits."""
    ready = around.pod()
    await client.create(ready)
    async with held(around, client, 4) as storm:
        assert await client.delete(ready)
        assert not await client.delete(storm.pods[3])
        with pytest.raises(FailedPrecondition, match="deleted before its turn came"):
            await storm.calls[3]
        assert storm.standing() == (WIDTH, 1)
    await asyncio.gather(*storm.calls[:3])
    assert len(storm.asked()) == 4


async def test_a_link_that_goes_takes_its_endpoint_out_of_the_line(around: Surroundings, client: Client) -> None:
    """Its pod is gone."""
    async with held(around, client, 3) as storm:
        around.loader.remove_link(storm.pods[2].attachment)
        with pytest.raises(Exception, match=r"link lxc\w+ \(ifindex \d+\) is gone"):
            await storm.calls[2]
        assert storm.standing() == (WIDTH, 0)
    await asyncio.gather(*storm.calls[:2])


async def test_who_would_be_too_late_is_told_at_once_with_numbers(around: Surroundings, client: Client) -> None:
    """Rather than after its whole deadline; and it isn't given an id."""
    async with held(around, client, 6) as storm:
        line = around.component(Manager)._admission.line
        for _ in range(REMEMBERED):
            line.learn(7.0)
        late = around.pod()
        with pytest.raises(
            Exhausted, match=r"4 wait and 2 are being made.*24\.5 s at best, and its caller waits (19|20)"
        ):
            await client.create(late, timeout=20.0)
        assert late.key not in {key(one) for one in await client.endpoints()}
        assert storm.standing() == (WIDTH, 4)
        patient = asyncio.create_task(client.create(late, timeout=60.0))
        await storm.until(lambda: storm.standing() == (WIDTH, 5))
    assert (await patient).created
    await asyncio.gather(*storm.calls)


def key(endpoint: pb.Endpoint) -> tuple[str, str, str]:
    """Return an attachment as FakePod has it."""
    attachment = endpoint.attachment
    return attachment.network, attachment.container_id, attachment.ifname


async def test_what_is_wanted_of_an_endpoint_that_waits_is_folded_into_its_creation(
    around: Surroundings, client: Client
) -> None:
    """An operator's `regenerate all` must not build what has no record yet, nor pass the line."""
    async with held(around, client, 4) as storm:
        all_of_them = asyncio.create_task(client.regenerate(level=loader_pb2.REGENERATION_LEVEL_REWRITE_LOAD))
        await storm.until(lambda: asked_for(around) == 4)
        assert storm.standing() == (WIDTH, 2)
    await asyncio.gather(*storm.calls)
    assert all(not result.error for result in await all_of_them)
    # Those that had begun are built once more, those that waited are not.
    assert sorted(storm.asked()) == [1, 1, 2, 2, 3, 4]


def asked_for(around: Surroundings) -> int:
    """Return how many endpoints know that an operator asked."""
    last = [managed.queue._last for managed in around.component(Manager)]
    return sum(ASKED in event.request.reasons for event in last if event is not None)


async def test_regenerations_go_on_while_creations_wait(around: Surroundings, client: Client) -> None:
    """They have permits of their own."""
    ready = around.pod()
    await client.create(ready)
    async with around.ipam.script.hold("ConfirmAllocation"):
        storm = Storm(around, client, 4)
        await storm.begin()
        results = await client.regenerate(ready, level=loader_pb2.REGENERATION_LEVEL_REWRITE_LOAD)
        assert [result.error for result in results] == [""]
        assert storm.standing() == (WIDTH, 2)
    await asyncio.gather(*storm.calls)


async def test_a_failed_creation_gives_its_place_to_the_next(around: Surroundings, client: Client) -> None:
    """Whatever it fails of."""
    async with held(around, client, 5) as storm:
        around.loader.script.fail("RegenerateEndpoint", FailedPrecondition("no"), times=2)
    outcomes = await asyncio.gather(*storm.calls, return_exceptions=True)
    assert sum(isinstance(one, FailedPrecondition) for one in outcomes) == 2
    assert storm.standing() == (0, 0)


async def test_a_line_is_dissolved_when_the_loader_stays_away(around: Surroundings, client: Client) -> None:
    """Everybody is told after the wait for a service, not one pair after the other; the places are free."""
    async with held(around, client, 40) as storm:
        await around.loader.stop()
        outcomes = await asyncio.gather(*storm.calls, return_exceptions=True)
    assert {type(one) for one in outcomes} == {Unavailable}
    assert storm.standing() == (0, 0)


async def test_the_line_can_be_scraped(around: Surroundings, client: Client) -> None:
    """How many wait and work, what they have waited, what one costs, and who never had a turn."""
    from prometheus_client.registry import CollectorRegistry

    from services.common.metrics import render
    from services.endpoint.metrics import Creations

    registry = CollectorRegistry()
    registry.register(Creations(around.component(Manager)._admission))
    async with held(around, client, 6) as storm:
        storm.calls[5].cancel()
        await storm.until(lambda: storm.standing() == (WIDTH, 3))
        page = render(registry).decode()
        assert "podlane_endpoint_creations_waiting 3.0\n" in page
        assert f"podlane_endpoint_creations_working {WIDTH}.0\n" in page
        assert "\npodlane_endpoint_creation_cost_seconds" not in page
    await asyncio.gather(*storm.calls[:5])
    page = render(registry).decode()
    assert "podlane_endpoint_creation_wait_seconds_count 5.0\n" in page
    assert "\npodlane_endpoint_creation_cost_seconds" in page
    assert 'podlane_endpoint_creations_unmade_total{why="withdrawn"} 1.0\n' in page
