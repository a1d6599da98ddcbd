"""DeleteEndpoint, and reading: get, list, watch, check."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from podlane.common.v1 import types_pb2 as types
from podlane.endpoint.v1 import endpoint_pb2 as pb

from services.common.errors import InvalidArgument, NotFound, Unavailable
from tests.endpoint_support import READY, Client, Surroundings

Change = pb.WatchEndpointsResponse


@pytest.fixture
async def around() -> AsyncIterator[Surroundings]:
    """Fakes and directories; a peer that is down is waited for only shortly."""
    async with Surroundings(peer_wait=0.2) as around:
        yield around


@pytest.fixture
async def client(around: Surroundings) -> AsyncIterator[Client]:
    """The service, ready."""
    async with around.service() as client:
        yield client


async def test_a_deleted_endpoint_leaves_its_link_and_addresses_to_the_shim(
    around: Surroundings, client: Client
) -> None:
    """And a second delete finds nothing."""
    pod = around.pod()
    await client.create(pod)

    assert await client.delete(pod)

    assert await client.endpoints() == []
    assert around.kernel.datapaths == {}
    assert pod.key in around.kernel.links
    assert around.confirmed(pod)
    assert not await client.delete(pod)
    with pytest.raises(NotFound, match="there is no endpoint with attachment"):
        await client.get(pod)


async def test_an_endpoint_can_be_deleted_by_each_of_its_names(around: Surroundings, client: Client) -> None:
    """As the operator's command does."""
    for number in range(4):
        pod = around.pod(f"web-{number}")
        endpoint = (await client.create(pod)).endpoint
        selector = (
            pod.selector,
            pb.EndpointSelector(id=endpoint.id),
            pb.EndpointSelector(address=endpoint.addresses[1].address.address),
            pb.EndpointSelector(pod=types.Pod(namespace="default", name=f"web-{number}")),
        )[number]
        response = await client.peer.call(
            client.stub.DeleteEndpoint, pb.DeleteEndpointRequest(selector=selector), timeout=5
        )
        assert response.deleted


async def test_a_delete_waits_for_the_create_of_the_same_attachment(around: Surroundings, client: Client) -> None:
    """Otherwise the ADD would finish after it."""
    pod = around.pod()
    async with around.loader.script.hold("RegenerateEndpoint"):
        creating = asyncio.create_task(client.create(pod))
        await around.loader.script.reached("RegenerateEndpoint")
        deleting = asyncio.create_task(client.delete(pod))
        # Another pod's ADD and DEL pass meanwhile.
        assert around.loader.script.count("RemoveEndpoint") == 0

    assert (await creating).created
    assert await deleting
    assert around.kernel.datapaths == {}


async def test_with_the_loader_down_a_delete_is_unavailable_and_a_repeat_goes_on(
    around: Surroundings, client: Client
) -> None:
    """The endpoint says what it waits for meanwhile."""
    pod = around.pod()
    await client.create(pod)
    await around.loader.stop()

    with pytest.raises(Unavailable, match="podlane-loader does not answer"):
        await client.delete(pod)
    endpoint = await client.get(pod)
    assert endpoint.state == pb.ENDPOINT_STATE_DISCONNECTING
    assert "the last attempt failed" in endpoint.waiting_for

    await around.loader.start()
    await client.until_serving()
    await client.delete(pod)
    assert await client.endpoints() == []
    assert around.kernel.datapaths == {}


async def test_an_interrupted_delete_is_finished_when_the_loader_is_back(around: Surroundings, client: Client) -> None:
    """Also when nobody repeats it."""
    pod = around.pod()
    await client.create(pod)
    around.loader.script.fail("RemoveEndpoint", Unavailable("not now"))
    with pytest.raises(Unavailable, match="not now"):
        await client.delete(pod)
    await around.loader.stop()
    await around.loader.start()

    await client.until_gone(pod)

    assert around.kernel.datapaths == {}
    assert around.confirmed(pod)


async def test_a_link_that_goes_takes_its_endpoint_along_and_frees_the_addresses(
    around: Surroundings, client: Client
) -> None:
    """Nobody comes back for a pod whose namespace is gone; its neighbours are left alone."""
    pod, neighbour = around.pod(), around.pod()
    await client.create(pod)
    await client.create(neighbour)

    around.loader.remove_link(pod.attachment)
    await client.until_gone(pod)

    assert [one.host_ifindex for one in around.kernel.datapaths.values()] == [neighbour.request.link.host_ifindex]
    assert pod.key not in around.ipam.held
    assert around.confirmed(neighbour)


async def test_a_link_that_only_seemed_to_go_changes_nothing(around: Surroundings, client: Client) -> None:
    """A mark is checked again before the sweep."""
    pod = around.pod()
    await client.create(pod)
    link = around.kernel.links[pod.key]
    asked = around.loader.script.count("ListLinks")
    around.loader.remove_link(pod.attachment)
    around.kernel.links[pod.key] = link

    await around.loader.script.reached("ListLinks", after=True, times=asked + 1)

    assert await client.check(pod) == []
    assert (await client.get(pod)).state == READY


async def test_lists_come_in_pages_in_the_order_of_ids_and_without_logs(around: Surroundings, client: Client) -> None:
    """The token is only good for going on."""
    for _ in range(5):
        await client.create(around.pod())
    ids, token = [], ""
    while True:
        request = pb.ListEndpointsRequest(page_size=2, page_token=token)
        response = await client.peer.call(client.stub.ListEndpoints, request, timeout=5)
        assert not any(endpoint.log for endpoint in response.endpoints)
        ids += [endpoint.id for endpoint in response.endpoints]
        token = response.next_page_token
        if not token:
            break

    assert ids == [1, 2, 3, 4, 5]
    for bad in (pb.ListEndpointsRequest(page_size=10001), pb.ListEndpointsRequest(page_token="x")):
        with pytest.raises(InvalidArgument, match="page_"):
            await client.peer.call(client.stub.ListEndpoints, bad, timeout=5)


async def test_a_watch_tells_what_exists_then_synced_then_the_life_of_each_endpoint(
    around: Surroundings, client: Client
) -> None:
    """Never ready before the datapath is."""
    old, new = around.pod(), around.pod()
    await client.create(old)
    stream = client.watch()
    first, second = await anext(stream), await anext(stream)
    assert (first.change, first.endpoint.id) == (Change.CHANGE_EXISTING, 1)
    assert (second.change, second.HasField("endpoint")) == (Change.CHANGE_SYNCED, False)

    await client.create(new)
    await client.delete(new)
    states: list[pb.EndpointState.ValueType] = []
    async for told in stream:
        if not states or states[-1] != told.endpoint.state:
            states.append(told.endpoint.state)
        if told.change == Change.CHANGE_DELETED:
            break

    assert states == [
        pb.ENDPOINT_STATE_WAITING_FOR_IDENTITY,
        pb.ENDPOINT_STATE_WAITING_TO_REGENERATE,
        pb.ENDPOINT_STATE_REGENERATING,
        READY,
        pb.ENDPOINT_STATE_DISCONNECTING,
        pb.ENDPOINT_STATE_DISCONNECTED,
    ]


async def test_check_tells_what_the_kernel_and_ipam_have_lost(around: Surroundings, client: Client) -> None:
    """One sentence each, and it changes nothing."""
    pod = around.pod()
    endpoint = (await client.create(pod)).endpoint
    around.kernel.datapaths[endpoint.id].problems.append("tc ingress is empty: from_container was there")
    around.kernel.datapaths[endpoint.id].reachable = False
    del around.ipam.held[pod.key]

    problems = await client.check(pod)

    assert [any(word in problem for problem in problems) for word in ("tc ingress", "endpoint map", "ipam")] == [
        True
    ] * 3
    assert len(problems) == 3


async def test_every_state_but_ready_says_what_it_waits_for(around: Surroundings, client: Client) -> None:
    """What `podlane endpoint get` shows at 3 a.m."""
    pod = around.pod()
    async with around.loader.script.hold("RegenerateEndpoint"):
        creating = asyncio.create_task(client.create(pod))
        await around.loader.script.reached("RegenerateEndpoint")
        endpoint = await client.get(pod)
        assert endpoint.state == pb.ENDPOINT_STATE_REGENERATING
        assert "the loader to finish a regeneration (initial build" in endpoint.waiting_for
    assert (await creating).endpoint.waiting_for == ""
