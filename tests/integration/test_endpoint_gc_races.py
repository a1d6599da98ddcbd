"""What happens between the search for garbage and its sweep, and what must not be hit then."""

import asyncio

from podlane.endpoint.v1 import endpoint_pb2 as pb
from podlane.ipam.v1 import ipam_pb2

from services.endpoint.manager import Manager
from tests import garbage_support
from tests.endpoint_support import Client, Surroundings
from tests.garbage_support import (
    FAILED,
    REMOVED,
    UNTRIED,
    abandon,
    leak_addresses,
    leak_datapath,
    leak_link,
    rounds,
    told,
)

around, client = garbage_support.around, garbage_support.client


async def test_what_is_in_order_again_at_the_sweep_is_left_alone(around: Surroundings, client: Client) -> None:
    """A mark is no verdict."""
    pod = around.pod()
    await client.create(pod)
    abandon(around, pod)

    await rounds(around, 1)
    del around.kernel.seen[pod.key]
    await rounds(around, 2)

    assert len(await client.endpoints()) == 1


async def test_an_id_that_was_marked_and_given_to_another_pod_is_not_swept(
    around: Surroundings, client: Client
) -> None:
    """Cilium's collector sweeps bare ids, and so removes the pod that got one in between (cilium#43577)."""
    marked, healthy = around.pod(), around.pod()
    id_ = (await client.create(marked)).endpoint.id
    abandon(around, marked)
    await rounds(around, 1)

    assert await client.delete(marked)
    manager = next(one for one in around.components if isinstance(one, Manager))
    manager._ids._last = id_ - 1
    created = (await client.create(healthy)).endpoint
    await rounds(around, 2)

    assert created.id == id_
    assert [one.generation for one in await client.endpoints()] == [created.generation]
    assert around.kernel.datapaths[id_].generation == created.generation
    assert healthy.key in around.kernel.links
    assert around.confirmed(healthy)


async def test_a_pod_that_is_added_again_between_search_and_sweep_is_not_hit(
    around: Surroundings, client: Client
) -> None:
    """The same attachment, as after a restart of its container: what its ADD has made by now is left to it."""
    first, pod = around.pod(), around.pod()
    for one in (first, pod):
        await client.create(one)
        abandon(around, one)

    async with around.loader.script.hold("RemoveEndpoint"):
        collecting = asyncio.ensure_future(client.collect())
        await around.loader.script.reached("RemoveEndpoint")
        del around.kernel.seen[pod.key], around.kernel.links[pod.key]
        again = around.kernel.add_link(pod.attachment)
        pod.request.link.CopyFrom(again)
    findings = await collecting
    created = (await client.create(pod)).endpoint

    assert told(findings) == [("endpoint", REMOVED)] * 2
    assert findings[1].detail == "with its datapath"
    assert around.kernel.links[pod.key] == again
    assert around.kernel.datapaths[created.id].host_ifindex == again.host_ifindex
    assert around.confirmed(pod)


async def test_what_lives_again_between_search_and_sweep_is_not_hit(around: Surroundings, client: Client) -> None:
    """Whatever the search saw; and what looked alive to it is not removed at the first look that sees it dead."""
    first, second, third, fourth = pods = [around.pod() for _ in range(4)]
    for pod in pods:
        await client.create(pod)
        abandon(around, pod)
    abandon(around, fourth, "sleep (4712)")

    async with around.loader.script.hold("RemoveEndpoint"):
        collecting = asyncio.ensure_future(client.collect())
        await around.loader.script.reached("RemoveEndpoint")
        del around.kernel.seen[second.key]
        abandon(around, third, "nginx (4711)")
        abandon(around, fourth)
    findings = await collecting

    assert told(findings) == [
        ("endpoint", REMOVED),
        ("endpoint", pb.GARBAGE_OUTCOME_GONE),
        ("endpoint", UNTRIED),
        ("endpoint", UNTRIED),
    ]
    assert "nginx (4711)" in findings[2].evidence[1]
    assert {pod.key for pod in pods} - around.kernel.links.keys() == {first.key}
    assert around.confirmed(second)


async def test_an_add_that_is_under_way_is_not_looked_at(around: Surroundings, client: Client) -> None:
    """Its link has no endpoint yet that is whole, its addresses are half confirmed."""
    pod = around.pod()
    async with around.loader.script.hold("RegenerateEndpoint"):
        creating = asyncio.ensure_future(client.create(pod))
        await around.loader.script.reached("RegenerateEndpoint")
        abandon(around, pod)
        assert await client.collect() == []
    del around.kernel.seen[pod.key]

    assert (await creating).created


async def test_an_add_that_begins_after_the_search_is_not_hit(around: Surroundings, client: Client) -> None:
    """Its link was found without an endpoint; now one is being made."""
    pod = around.pod()
    around.kernel.links[pod.key].up = False
    leak_datapath(around, 70)

    async with around.loader.script.hold("RegenerateEndpoint"):
        async with around.loader.script.hold("RemoveEndpoint"):
            collecting = asyncio.ensure_future(client.collect())
            await around.loader.script.reached("RemoveEndpoint")
            creating = asyncio.ensure_future(client.create(pod))
            await around.loader.script.reached("RegenerateEndpoint")
        findings = await collecting

    assert told(findings) == [("datapath", REMOVED), ("link", pb.GARBAGE_OUTCOME_BUSY)]
    assert (await creating).created
    assert pod.key in around.kernel.links


async def test_what_is_gone_at_the_second_look_is_told_so(around: Surroundings, client: Client) -> None:
    """Somebody else was faster."""
    leak_datapath(around, 70)
    leak_datapath(around, 71)

    async with around.loader.script.hold("RemoveEndpoint"):
        collecting = asyncio.ensure_future(client.collect())
        await around.loader.script.reached("RemoveEndpoint")
        del around.kernel.datapaths[71]
    findings = await collecting

    assert told(findings) == [("datapath", REMOVED), ("datapath", pb.GARBAGE_OUTCOME_GONE)]


async def test_a_link_that_is_young_is_left_to_its_add(around: Surroundings, client: Client) -> None:
    """Between CreateLink and CreateEndpoint."""
    owner = leak_link(around, idle=119)

    assert await client.collect() == []
    assert (owner.network, owner.container_id, owner.ifname) in around.kernel.links


async def test_a_link_that_is_asked_for_again_right_before_its_deletion_stays(
    around: Surroundings, client: Client
) -> None:
    """The loader checks, because a repeated ADD's CreateLink passes this service by."""
    owner = leak_link(around)
    name = (owner.network, owner.container_id, owner.ifname)

    async with around.loader.script.hold("DeleteLink"):
        collecting = asyncio.ensure_future(client.collect())
        await around.loader.script.reached("DeleteLink")
        around.kernel.seen[name].idle_seconds = 0
    (finding,) = await collecting

    assert (finding.outcome, finding.detail.endswith("was asked for lately")) == (FAILED, True)
    assert name in around.kernel.links


async def test_addresses_that_were_given_out_again_right_before_their_release_stay(
    around: Surroundings, client: Client
) -> None:
    """To the same attachment: ipam checks."""
    allocation = leak_addresses(around)

    async with around.ipam.script.hold("ReleaseAddresses"):
        collecting = asyncio.ensure_future(client.collect())
        await around.ipam.script.reached("ReleaseAddresses")
        allocation.endpoint_id, allocation.state = 0, ipam_pb2.ALLOCATION_STATE_RESERVED
    (finding,) = await collecting

    assert finding.outcome == FAILED
    assert len(around.ipam.held) == 1
