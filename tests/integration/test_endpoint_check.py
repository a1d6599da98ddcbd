"""CheckEndpoint beside fakes: what is published, and a repair of which some parts fail."""

import contextlib
import sqlite3
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from podlane.endpoint.v1 import endpoint_pb2 as pb

from services.common.errors import Unavailable
from services.common.kvstore.embedded import EmbeddedKvstore
from tests.endpoint_support import Client, FakePod, Surroundings


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


async def checked(client: Client, pod: FakePod, *, repair: bool = False) -> pb.CheckEndpointResponse:
    """Check a pod's endpoint."""
    request = pb.CheckEndpointRequest(selector=pod.selector, repair=repair)
    reply: pb.CheckEndpointResponse = await client.peer.call(client.stub.CheckEndpoint, request, timeout=30.0)
    return reply


def forget_what_is_published(around: Surroundings) -> None:
    """Take it out of the store, behind the service's back."""
    with contextlib.closing(sqlite3.connect(around.settings.endpoint.database)) as connection:
        connection.execute("DELETE FROM kvstore")
        connection.commit()


async def refuse(*_: Any, **__: Any) -> None:
    """Be a store without room."""
    raise Unavailable("no room")


async def test_what_stays_unpublished_is_a_problem_until_the_store_takes_it(
    around: Surroundings, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = around.pod("web")
    await client.create(pod)
    assert not (await checked(client, pod)).problems
    with monkeypatch.context() as patched:
        patched.setattr(EmbeddedKvstore, "put", refuse)
        problems: Sequence[str] = ()
        while not problems:  # what was on its way there before may come after the first time
            forget_what_is_published(around)
            problems = (await checked(client, pod)).problems
        (problem,) = problems
        assert "its record is not published: " in problem
        assert problem.endswith("is missing")

    assert not (await checked(client, pod, repair=True)).problems


async def test_a_store_that_does_not_answer_is_no_problem_of_the_endpoint(
    around: Surroundings, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = around.pod("web")
    await client.create(pod)
    monkeypatch.setattr(EmbeddedKvstore, "get", refuse)

    assert not (await checked(client, pod)).problems


async def test_a_repair_does_what_it_can_and_tells_what_it_could_not(around: Surroundings, client: Client) -> None:
    pod = around.pod("web")
    await client.create(pod)
    around.kernel.policies[1].clear()
    around.loader.script.fail("RepairLink", Unavailable("the link's namespace is busy"))

    reply = await checked(client, pod, repair=True)

    assert list(reply.problems) == ["the link's namespace is busy"]
    assert any("policy map policy_1" in one for one in reply.repaired)
    assert around.kernel.policies[1]
    assert not (await checked(client, pod)).problems
