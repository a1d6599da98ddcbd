"""Garbage is searched for and swept between a fake loader and a fake ipam: what goes, and what must never go."""

import pytest
from podlane.common.v1 import types_pb2 as types
from podlane.endpoint.v1 import endpoint_pb2 as pb
from podlane.ipam.v1 import ipam_pb2
from podlane.loader.v1 import loader_pb2

from services.common.configfile import load
from services.common.errors import DeadlineExceeded, InvalidArgument, Unavailable
from services.common.model import Attachment
from services.endpoint.main import build
from services.endpoint.manager import Manager
from services.endpoint.observed import LinkRemoval
from tests import garbage_support
from tests.endpoint_support import Client, Surroundings
from tests.garbage_support import (
    FAILED,
    REMOVED,
    UNTRIED,
    abandon,
    changes,
    leak_addresses,
    leak_datapath,
    leak_link,
    rounds,
    told,
)

around, client = garbage_support.around, garbage_support.client


async def test_a_healthy_node_has_no_garbage(around: Surroundings, client: Client) -> None:
    """Nothing is found, and nothing is asked for that would change anything."""
    await client.create(around.pod())
    before = changes(around)

    assert await client.collect() == []
    await rounds(around, 3)

    assert changes(around) == before


async def test_an_endpoint_whose_namespace_is_abandoned_goes_with_all_that_its_pod_had(
    around: Surroundings, client: Client
) -> None:
    """Endpoint, datapath, link and its record, addresses; the neighbour stays."""
    pod, other = around.pod(), around.pod()
    await client.create(pod)
    await client.create(other)
    abandon(around, pod)

    (finding,) = await client.collect()

    assert told([finding]) == [("endpoint", REMOVED)]
    assert "nothing is at /run/netns/" in finding.evidence[0]
    assert "10.7.0.2" in finding.detail
    assert pod.key not in around.kernel.recorded
    assert pod.key not in around.ipam.held
    assert [one.attachment for one in await client.endpoints()] == [other.request.attachment]
    assert len(around.kernel.datapaths) == 1


async def test_processes_in_a_namespace_without_a_name_keep_their_pod(around: Surroundings, client: Client) -> None:
    """They are named."""
    pod = around.pod()
    await client.create(pod)
    abandon(around, pod, "nginx (4711)")

    (finding,) = await client.collect()

    assert (finding.action, finding.outcome) == (pb.GARBAGE_ACTION_KEEP, UNTRIED)
    assert "nginx (4711)" in finding.evidence[1]
    assert len(await client.endpoints()) == 1


async def test_each_kind_is_removed_and_its_attachment_told(around: Surroundings, client: Client) -> None:
    """Datapaths with and without a record, links and records of links, addresses."""
    leak_datapath(around, 70)
    around.kernel.datapaths[71] = loader_pb2.EndpointDatapath(id=71, problems=["policy map policy_71 is pinned"])
    leak_link(around)
    record = leak_link(around)
    around.loader.remove_link(record)
    leak_addresses(around)

    findings = await client.collect()

    assert told(findings) == [
        ("datapath", REMOVED),
        ("datapath", REMOVED),
        ("link", REMOVED),
        ("link", REMOVED),
        ("address", REMOVED),
    ]
    assert [one.HasField("attachment") for one in findings] == [True, False, True, True, True]
    assert "policy map policy_71 is pinned" in findings[1].evidence
    assert not any((around.kernel.datapaths, around.kernel.links, around.kernel.recorded, around.ipam.held))
    assert await client.collect() == []


async def test_addresses_that_are_ipam_only_are_never_collected_and_others_are(
    around: Surroundings, client: Client
) -> None:
    """They are confirmed and have neither endpoint nor link, as a leak has; podlane-ipam's own GC is for them."""
    kept = leak_addresses(around, 0)
    leak_addresses(around, 77)

    findings = await client.collect()
    await rounds(around, 3)

    assert told(findings) == [("address", REMOVED)]
    assert list(around.ipam.held.values()) == [kept]
    assert await client.collect() == []


async def test_a_dry_run_shows_all_and_changes_nothing(around: Surroundings, client: Client) -> None:
    """Not even when it is repeated."""
    pod = around.pod()
    await client.create(pod)
    abandon(around, pod)
    leak_datapath(around, 70)
    leak_link(around)
    leak_addresses(around)
    before = changes(around)

    first, second = await client.collect(dry_run=True), await client.collect(dry_run=True)

    assert told(first) == [(kind, UNTRIED) for kind in ("endpoint", "datapath", "link", "address")]
    assert told(second) == told(first)
    assert changes(around) == before


async def test_only_the_kinds_that_are_asked_for_are_dealt_with(around: Surroundings, client: Client) -> None:
    """The rest stays, and is found by the next who asks."""
    leak_datapath(around, 70)
    leak_link(around)
    leak_addresses(around)

    assert told(await client.collect(pb.GARBAGE_KIND_ADDRESS)) == [("address", REMOVED)]
    assert told(await client.collect()) == [("datapath", REMOVED), ("link", REMOVED)]


async def test_addresses_stay_while_the_link_that_may_use_them_is_there(around: Surroundings, client: Client) -> None:
    """`podlane ipam audit --repair` must not free what a link still carries."""
    owner = leak_link(around)
    allocation = around.ipam.reserve(owner)
    allocation.state, allocation.endpoint_id = ipam_pb2.ALLOCATION_STATE_CONFIRMED, 77

    (kept,) = await client.collect(pb.GARBAGE_KIND_ADDRESS)
    findings = await client.collect()

    assert kept.outcome == FAILED
    assert "goes first" in kept.detail
    assert told(findings) == [("link", REMOVED), ("address", REMOVED)]


async def test_an_unknown_kind_is_refused(around: Surroundings, client: Client) -> None:
    """By its number."""
    assert around
    with pytest.raises(InvalidArgument, match="kinds: 9 is not a kind"):
        await client.collect(pb.GarbageKind.ValueType(9))


async def test_a_round_sweeps_only_what_the_round_before_has_found(around: Surroundings, client: Client) -> None:
    """Marked, then swept."""
    assert client
    leak_datapath(around, 70)

    await rounds(around, 1)
    assert 70 in around.kernel.datapaths
    leak_datapath(around, 71)
    await rounds(around, 1)

    assert set(around.kernel.datapaths) == {71}


async def test_rounds_come_by_themselves() -> None:
    """By a controller of the service."""
    async with Surroundings(gc_interval=0.01) as around:
        leak_datapath(around, 70)
        async with around.service():
            await around.loader.script.reached("RemoveEndpoint", after=True)
        assert around.kernel.datapaths == {}


async def test_what_cannot_be_removed_is_told_and_the_rest_goes_on(around: Surroundings, client: Client) -> None:
    """Its own addresses stay until it is gone; another round finds them."""
    leak_datapath(around, 70)
    leak_datapath(around, 71)
    allocation = around.ipam.reserve(Attachment("podnet", f"{70:032x}", "eth0"))
    allocation.state, allocation.endpoint_id = ipam_pb2.ALLOCATION_STATE_CONFIRMED, 70
    around.loader.script.fail("RemoveEndpoint", Unavailable("endpoint 70 is not wholly gone: busy"))

    findings = await client.collect()

    assert told(findings) == [("datapath", FAILED), ("datapath", REMOVED), ("address", FAILED)]
    assert findings[0].detail == "endpoint 70 is not wholly gone: busy"
    assert "until the rest of its pod is gone" in findings[2].detail
    assert told(await client.collect()) == [("datapath", REMOVED), ("address", REMOVED)]


async def test_an_endpoint_that_cannot_be_taken_down_stays_and_goes_later(around: Surroundings, client: Client) -> None:
    """`disconnecting`, with its link and its addresses."""
    pod = around.pod()
    await client.create(pod)
    abandon(around, pod)
    around.loader.script.fail("RemoveEndpoint", Unavailable("no"))

    assert told(await client.collect()) == [("endpoint", FAILED)]
    assert pod.key in around.kernel.links
    assert around.confirmed(pod)
    assert told(await client.collect()) == [("endpoint", REMOVED)]
    assert pod.key not in around.kernel.links
    assert pod.key not in around.ipam.held


async def test_a_deletion_that_nobody_repeats_is_finished(around: Surroundings, client: Client) -> None:
    """DEL was answered with an error; its link and its addresses are left to it, as a reservation."""
    pod = around.pod()
    await client.create(pod)
    around.loader.script.fail("RemoveEndpoint", Unavailable("no"))
    with pytest.raises(Unavailable):
        await client.delete(pod)

    (finding,) = await client.collect()

    assert told([finding]) == [("endpoint", REMOVED)]
    assert await client.endpoints() == []
    assert pod.key in around.kernel.links
    assert around.reserved(pod)


async def test_addresses_that_ipam_has_lost_are_claimed_for_their_endpoint(
    around: Surroundings, client: Client
) -> None:
    """Before somebody else gets them."""
    pod = around.pod()
    await client.create(pod)
    del around.ipam.held[pod.key]

    (shown,) = await client.collect(pb.GARBAGE_KIND_ADDRESS, dry_run=True)
    (finding,) = await client.collect(pb.GARBAGE_KIND_ADDRESS)

    assert (shown.action, shown.outcome) == (pb.GARBAGE_ACTION_CLAIM, UNTRIED)
    assert finding.outcome == pb.GARBAGE_OUTCOME_CLAIMED
    assert around.confirmed(pod)
    assert await client.collect() == []


async def test_pods_that_run_without_a_record_are_never_touched(around: Surroundings) -> None:
    """The endpoint database was lost. Each is told, and is one finding."""
    async with around.service() as client:
        pods = [around.pod(), around.pod()]
        for pod in pods:
            await client.create(pod)
    around.settings.endpoint.database.unlink()
    async with around.service() as client:
        before = changes(around)
        findings = await client.collect()
        await rounds(around, 3)

        assert told(findings) == [("link", UNTRIED)] * 2
        assert {one.action for one in findings} == {pb.GARBAGE_ACTION_KEEP}
        assert changes(around) == before


async def test_a_link_whose_record_was_lost_does_not_make_its_endpoint_garbage(
    around: Surroundings, client: Client
) -> None:
    """It is there, and the endpoint stands on it."""
    pod = around.pod()
    await client.create(pod)
    link = around.kernel.links[pod.key]
    link.attachment.CopyFrom(types.Attachment())

    assert await client.collect() == []


async def test_a_pod_whose_links_record_was_lost_survives_a_restart_and_a_false_alarm(around: Surroundings) -> None:
    """Neither the comparison nor a removal that was reported takes down what stands on a link that is there."""
    async with around.service() as client:
        pod = around.pod()
        await client.create(pod)
    around.kernel.links[pod.key].attachment.CopyFrom(types.Attachment())
    async with around.service() as client:
        await client.until(pod)
        manager = next(one for one in around.components if isinstance(one, Manager))
        manager.link_removed(LinkRemoval(pod.request.link.host_ifname, pod.request.link.host_ifindex))
        assert await client.collect() == []

        assert await client.check(pod) == []


async def test_without_the_loader_nothing_is_concluded(around: Surroundings, client: Client) -> None:
    """That nothing is seen is no evidence."""
    pod = around.pod()
    await client.create(pod)
    await around.loader.stop()

    with pytest.raises(Unavailable):
        await client.collect()
    with pytest.raises(Unavailable):
        await rounds(around, 1)
    assert len(await client.endpoints()) == 1


async def test_before_the_node_was_compared_nothing_is_concluded() -> None:
    """Endpoints are still to be restored, kept or undone."""
    async with Surroundings(peer_wait=0.1) as around:
        around.loader.script.fail("ConfigureNode", Unavailable("not yet"), times=1000)
        leak_datapath(around, 70)
        async with around.service(wait=False) as client:
            with pytest.raises(Unavailable, match="takes no endpoints yet"):
                await client.collect()
        assert 70 in around.kernel.datapaths


async def test_a_collection_finishes_although_its_caller_hangs_up(around: Surroundings, client: Client) -> None:
    """It holds an attachment and has begun to take it away."""
    leak_datapath(around, 70)
    leak_addresses(around)
    async with around.loader.script.hold("RemoveEndpoint"):
        with pytest.raises(DeadlineExceeded):
            await client.collect(timeout=0.2)

    await around.ipam.script.until(lambda: around.ipam.script.count("ReleaseAddresses") == 1)
    await around.ipam.script.reached("ReleaseAddresses", after=True)
    assert not any((around.kernel.datapaths, around.ipam.held))


@pytest.mark.parametrize("key", ["gc_interval_seconds", "gc_grace_seconds"])
@pytest.mark.parametrize("value", ["-1", "nan", "1e9"])
def test_a_setting_that_cannot_work_is_refused_by_its_name(key: str, value: str) -> None:
    """Before anything is started."""
    settings = load(None, {f"PODLANE_ENDPOINT_{key.upper()}": value})

    with pytest.raises(InvalidArgument, match=key):
        build(settings)
