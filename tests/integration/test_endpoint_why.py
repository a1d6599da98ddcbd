"""The times of creations as the endpoint service keeps and tells them, and what it says about what is stuck."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from podlane.common.v1 import types_pb2 as types
from podlane.endpoint.v1 import why_pb2, why_pb2_grpc

from services.common.errors import FailedPrecondition, InvalidArgument, Unavailable
from services.common.kvstore import StoreStatus
from services.common.kvstore.embedded import EmbeddedKvstore
from services.common.metrics import Metrics
from tests.endpoint_support import PATIENCE, Client, Surroundings


@pytest.fixture
async def around() -> AsyncIterator[Surroundings]:
    """Fakes and directories."""
    async with Surroundings() as around:
        yield around


def told(began_ago_us: int = 20_000) -> why_pb2.Addition:
    """What a plugin that began so long ago says."""
    began = time.perf_counter_ns() // 1000 - began_ago_us
    phase = types.Phase(name="netns", duration_us=300, started_us=began + 13_000)
    return why_pb2.Addition(
        began_us=began, started_us=9000, addresses_at_us=9500, addresses_us=2000, link_at_us=12_000, link_us=3000,
        link=[phase],
    )  # fmt: skip


async def creations(client: Client, limit: int = 100) -> why_pb2.ListCreationsResponse:
    stub: Any = why_pb2_grpc.WhyServiceStub(client.peer.channel)
    request = why_pb2.ListCreationsRequest(limit=limit)
    reply: why_pb2.ListCreationsResponse = await client.peer.call(stub.ListCreations, request, timeout=PATIENCE)
    return reply


async def stuck(client: Client) -> why_pb2.ListStuckResponse:
    stub: Any = why_pb2_grpc.WhyServiceStub(client.peer.channel)
    reply: why_pb2.ListStuckResponse = await client.peer.call(
        stub.ListStuck, why_pb2.ListStuckRequest(), timeout=PATIENCE
    )
    return reply


async def until_stuck(
    client: Client, holds: Callable[[why_pb2.ListStuckResponse], object]
) -> why_pb2.ListStuckResponse:
    async with asyncio.timeout(PATIENCE):
        while True:
            reply = await stuck(client)
            if holds(reply):
                return reply
            await asyncio.sleep(0.05)


def durations(timeline: why_pb2.Timeline) -> dict[str, int]:
    return {phase.name: phase.duration_us for phase in timeline.phases}


async def test_a_creations_phases_are_kept_with_the_endpoint_and_outlive_a_restart(around: Surroundings) -> None:
    """Those of the plugin among them; lists are without them."""
    pod = around.pod("web")
    pod.request.addition.CopyFrom(told())
    async with around.service() as client:
        await client.create(pod)
        before = await client.get(pod)
        (listed,) = await client.endpoints()
        assert not listed.HasField("timeline")
    async with around.service() as client:
        after, reply = await client.get(pod), await creations(client)

    took = durations(before.timeline)
    assert {
        *(
            "start",
            "configuration",
            "addresses",
            "link",
            "link/netns",
            "handover",
            "node",
            "identity",
            "turn",
            "record",
        ),
        *("peers", "datapath", "datapath/resolve", "confirm", "agreement"),
    } <= set(took)
    assert (took["start"], took["configuration"], took["link/netns"]) == (9000, 500, 300)
    whole = sum(us for name, us in took.items() if "/" not in name and name not in {"confirm", "publish"})
    assert 20_000 <= whole <= before.timeline.total_us
    assert abs(before.timeline.began.seconds - before.created.seconds) <= 1

    assert {**durations(after.timeline), "publish": 0} == {**took, "publish": 0}
    assert (after.timeline.total_us, after.timeline.trace_id) == (before.timeline.total_us, before.timeline.trace_id)
    assert [one.id for one in reply.creations] == [before.id]
    usual = {one.name: one for one in reply.usual}
    assert (usual["start"].count, usual["start"].median_us, usual["start"].p99_us) == (1, 9000, 9000)
    assert usual["total"].median_us == before.timeline.total_us


async def test_a_repeated_add_and_a_plugin_that_lies_change_nothing(around: Surroundings) -> None:
    """The timeline is the creation's, and the plugin's word is no reason to refuse a pod."""
    one, two = around.pod("one"), around.pod("two")
    async with around.service() as client:
        await client.create(one)
        first = await client.get(one)
        one.request.link.up = True
        one.request.addition.CopyFrom(told())
        await client.create(one)
        again = await client.get(one)
        two.request.addition.CopyFrom(told(-10_000_000))
        two.request.addition.traceparent = "\N{SNOWMAN}" * 100
        await client.create(two)
        lied = await client.get(two)

    assert {**durations(again.timeline), "publish": 0} == {**durations(first.timeline), "publish": 0}
    assert lied.timeline.phases[0].name == "node"


async def test_the_slowest_come_first_and_the_limit_is_held(around: Surroundings) -> None:
    """Those that began long ago."""
    pods = [around.pod() for _ in range(3)]
    async with around.service() as client:
        for pod, ago in zip(pods, (20_000, 900_000_000, 60_000_000), strict=True):
            pod.request.addition.CopyFrom(told(ago))
            await client.create(pod)
        reply = await creations(client, 2)
        assert [one.id for one in reply.creations] == [2, 3]
        assert len((await creations(client, 0)).usual) > 10
        with pytest.raises(InvalidArgument, match="limit"):
            await creations(client, 1001)


async def test_phases_are_histograms_of_few_names(around: Surroundings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of creations and of all regenerations."""
    metrics = Metrics()
    monkeypatch.setattr("services.endpoint.main.Metrics", lambda: metrics)
    pod = around.pod()
    pod.request.addition.CopyFrom(told())
    async with around.service() as client:
        await client.create(pod)
        await client.regenerate(level=2)  # type: ignore[arg-type]
        page = metrics.page().decode()

    assert 'podlane_endpoint_creation_phase_seconds_count{phase="start"} 1' in page
    assert 'podlane_endpoint_creation_phase_seconds_sum{phase="start"} 0.009' in page
    assert 'podlane_endpoint_creation_phase_seconds_count{phase="total"} 1' in page
    assert 'podlane_endpoint_regeneration_phase_seconds_count{phase="load"} 2' in page
    assert "podlane_endpoint_unready_oldest_seconds 0" in page


async def test_a_failing_regeneration_is_stuck_with_its_attempts_until_it_succeeds(around: Surroundings) -> None:
    """And says how to try at once."""
    pod = around.pod("web")
    async with around.service() as client:
        await client.create(pod)
        assert not (await stuck(client)).stuck
        around.loader.script.fail("RegenerateEndpoint", FailedPrecondition("the verifier refuses"), times=1000)
        await client.regenerate(pod, level=2)  # type: ignore[arg-type]
        reply = await until_stuck(client, lambda reply: reply.stuck and reply.stuck[0].failures)
        (one,) = reply.stuck
        assert (one.id, one.pod.name, one.controller) == (1, "web", "regeneration-recovery")
        assert "the verifier refuses" in one.last_error
        assert one.HasField("since")
        assert any("podlane endpoint regenerate 1" in sentence for sentence in one.unblock)
        assert not reply.node_waits_for
        assert (await client.get(pod)).unready_since == one.since
        around.loader.script.heal()
        await until_stuck(client, lambda reply: not reply.stuck)
        assert not (await client.get(pod)).HasField("unready_since")


async def test_a_loader_that_is_away_is_told_of_the_node_and_of_each_endpoint(around: Surroundings) -> None:
    """With what brings it back."""
    pod = around.pod("web")
    async with around.service() as client:
        await client.create(pod)
        await around.loader.stop()
        await until_stuck(client, lambda reply: reply.node_unblock)
        await client.regenerate(pod, level=1)  # type: ignore[arg-type]
        reply = await until_stuck(client, lambda reply: reply.stuck)

    for unblock in (reply.node_unblock, reply.stuck[0].unblock):
        assert unblock[0].startswith("podlane-loader must answer again"), unblock
    assert reply.HasField("node_since")
    assert "loader" in reply.node_waits_for


async def test_what_waits_for_a_kvstore_that_is_away_is_told_although_the_endpoint_is_ready(
    around: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pod runs; nobody else hears of it."""

    async def put(*_: object, **__: object) -> None:
        raise Unavailable("no member answers")

    async def status(_: object) -> StoreStatus:
        return StoreStatus("embedded", reachable=False, error="no member answers")

    monkeypatch.setattr(EmbeddedKvstore, "put", put)
    monkeypatch.setattr(EmbeddedKvstore, "status", status)
    async with around.service() as client:
        await client.create(around.pod("web"))
        reply = await until_stuck(client, lambda reply: reply.stuck)

    (one,) = reply.stuck
    assert (one.state, one.controller, one.last_error) == ("ready", "sync-to-kvstore", "no member answers")
    assert one.unblock[0] == "the kvstore must answer again (`podlane status`): no member answers"
    assert one.failures
    assert one.HasField("since")
