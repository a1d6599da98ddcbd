"""Restarts: of the service, of its peers, in any order, with everything that may have changed meanwhile."""

import asyncio
import itertools
import sqlite3
from collections.abc import AsyncIterator, Callable
from ipaddress import ip_network

import pytest
from podlane.endpoint.v1 import endpoint_pb2 as pb
from podlane.ipam.v1 import ipam_pb2

from services.common import lifecycle, wire
from services.common.errors import CorruptState, Unavailable
from services.endpoint.main import build
from tests.endpoint_support import READY, FakePod, Surroundings


@pytest.fixture
async def around() -> AsyncIterator[Surroundings]:
    """Fakes and directories; a peer that is down is waited for only shortly."""
    async with Surroundings(peer_wait=0.2) as around:
        yield around


async def make(around: Surroundings, count: int) -> list[FakePod]:
    """Create endpoints with a service that is stopped again."""
    pods = [around.pod(f"web-{number}") for number in range(count)]
    async with around.service() as client:
        await asyncio.gather(*(client.create(pod) for pod in pods))
    return pods


async def test_a_restart_that_changed_nothing_touches_nothing(around: Surroundings) -> None:
    """Ids, generations, logs and what was last built come back; no program is loaded, no address asked for."""
    pods = await make(around, 5)
    before = {
        pod.key: datapath.SerializeToString()
        for pod, datapath in zip(pods, around.kernel.datapaths.values(), strict=True)
    }
    loads, confirms = around.loader.script.count("RegenerateEndpoint"), around.ipam.script.count("ConfirmAllocation")

    async with around.service() as client:
        endpoints = await client.endpoints()
        log = (await client.get(pods[0])).log

    assert [(endpoint.id, endpoint.generation, endpoint.state) for endpoint in endpoints] == [
        (number, number, READY) for number in range(1, 6)
    ]
    assert all(endpoint.last_regeneration.config_hash for endpoint in endpoints)
    assert [entry.message.partition(" ")[0] for entry in log] == ["identity", "regenerated", "restored:"]
    assert list(before.values()) == [one.SerializeToString() for one in around.kernel.datapaths.values()]
    assert around.loader.script.count("RegenerateEndpoint") == loads
    assert around.ipam.script.count("ConfirmAllocation") == confirms
    assert around.loader.script.count("RemoveEndpoint") == 0


async def test_ids_and_generations_go_on_after_a_restart(around: Surroundings) -> None:
    """Also over endpoints that were deleted before it."""
    pods = await make(around, 3)
    async with around.service() as client:
        for pod in pods:
            await client.delete(pod)
    async with around.service() as client:
        endpoint = (await client.create(around.pod())).endpoint

    assert (endpoint.id, endpoint.generation) == (4, 4)


def _lose_programs(around: Surroundings, endpoint_id: int) -> None:
    del around.kernel.datapaths[endpoint_id].programs[:]


def _lose_datapath(around: Surroundings, endpoint_id: int) -> None:
    del around.kernel.datapaths[endpoint_id]


def _replace_by_hand(around: Surroundings, endpoint_id: int) -> None:
    around.kernel.datapaths[endpoint_id].problems.append("tc ingress runs program 7")


@pytest.mark.parametrize("damage", [_lose_programs, _lose_datapath, _replace_by_hand])
@pytest.mark.parametrize("who", ["the service", "the loader"])
async def test_what_is_wrong_after_a_restart_is_regenerated_and_nothing_else(
    around: Surroundings, damage: Callable[[Surroundings, int], None], who: str
) -> None:
    """The neighbour keeps its programs."""
    pods = await make(around, 2)
    neighbour = around.kernel.datapaths[2].SerializeToString()
    if who == "the service":
        damage(around, 1)
        async with around.service() as client:
            endpoint = await client.until(pods[0])
    else:
        async with around.service() as client:
            await around.loader.stop()
            damage(around, 1)
            async with around.loader.script.hold("RegenerateEndpoint"):
                await around.loader.start()
                await around.loader.script.reached("RegenerateEndpoint", times=3)
            endpoint = await client.until(pods[0])

    assert around.kernel.datapaths[1].programs
    assert not around.kernel.datapaths[1].problems
    assert "syncing state to host" in endpoint.last_regeneration.reasons[0]
    assert around.kernel.datapaths[2].SerializeToString() == neighbour


async def test_a_regeneration_that_fails_is_tried_again_until_it_succeeds(around: Surroundings) -> None:
    """Meanwhile the endpoint says what it waits for, and its failure is in the log."""
    (pod,) = await make(around, 1)
    _lose_programs(around, 1)
    around.loader.script.fail("RegenerateEndpoint", Unavailable("busy"), times=2)

    async with around.service() as client:
        endpoint = await client.until(pod)

    failures = [entry.message for entry in endpoint.log if entry.code == "failure"]
    assert len(failures) == 2
    assert "busy" in failures[0]
    assert list(endpoint.last_regeneration.reasons) == ["retrying regeneration"]


async def test_a_link_that_went_while_the_service_was_down_takes_its_endpoint_along(around: Surroundings) -> None:
    """Its addresses are free again."""
    gone, stays = await make(around, 2)
    del around.kernel.links[gone.key]

    async with around.service() as client:
        await client.until_gone(gone)
        assert [endpoint.id for endpoint in await client.endpoints()] == [2]

    assert list(around.kernel.datapaths) == [2]
    assert gone.key not in around.ipam.held
    assert around.confirmed(stays)


async def test_addresses_that_ipam_has_forgotten_are_claimed_again(around: Surroundings) -> None:
    """Its file was lost, or restored from an older copy."""
    forgotten, unconfirmed = await make(around, 2)
    del around.ipam.held[forgotten.key]
    around.ipam.held[unconfirmed.key].endpoint_id = 0
    around.ipam.held[unconfirmed.key].state = ipam_pb2.ALLOCATION_STATE_RESERVED

    async with around.service() as client:
        assert await client.check(forgotten) == []
        assert await client.check(unconfirmed) == []

    assert around.confirmed(forgotten)
    assert around.confirmed(unconfirmed)


async def test_an_endpoint_whose_addresses_somebody_else_has_is_kept_and_says_so(around: Surroundings) -> None:
    """Its traffic is not touched: it was there first."""
    (pod,) = await make(around, 1)
    thief = around.pod()
    held = around.ipam.held.pop(pod.key)
    del around.ipam.held[thief.key].addresses[:]
    around.ipam.held[thief.key].addresses.extend(held.addresses)
    before = around.kernel.datapaths[1].SerializeToString()

    async with around.service() as client:
        endpoint = await client.get(pod)
        problems = await client.check(pod)

    assert endpoint.state == READY
    assert around.kernel.datapaths[1].SerializeToString() == before
    assert "is held by" in problems[0]
    assert any(entry.code == "failure" and "traffic is left alone" in entry.message for entry in endpoint.log)


async def test_pods_of_a_lost_database_keep_their_ids_to_themselves(around: Surroundings) -> None:
    """Their programs still run under them."""
    await make(around, 3)
    around.settings.endpoint.database.unlink()

    async with around.service() as client:
        endpoint = (await client.create(around.pod())).endpoint

    assert (endpoint.id, endpoint.generation) == (4, 4)
    assert sorted(around.kernel.datapaths) == [1, 2, 3, 4]


@pytest.mark.parametrize("order", list(itertools.permutations(["loader", "ipam", "service"])))
async def test_services_may_start_in_any_order(order: tuple[str, ...]) -> None:
    """Whoever is early waits; the next ADD works."""
    async with Surroundings(fakes=False) as around:
        service, ready = around.service(wait=False), False
        try:
            for name in order:
                if name == "service":
                    client = await service.__aenter__()
                    ready = True
                else:
                    await getattr(around, name).start()
            await client.until_serving()
            assert (await client.create(around.pod())).created
        finally:
            if ready:
                await service.__aexit__(None, None, None)


@pytest.mark.parametrize("peer", ["loader", "ipam"])
async def test_a_peer_that_restarts_gets_its_configuration_back_and_the_next_add_works(
    around: Surroundings, peer: str
) -> None:
    """The loader forgets the node's configuration, and an ADD needs it."""
    async with around.service() as client:
        (pod,) = [around.pod()]
        await client.create(pod)
        configured = around.loader.script.count("ConfigureNode")
        await getattr(around, peer).stop()
        await getattr(around, peer).start()
        await around.loader.script.reached("ConfigureNode", after=True, times=configured + 1)
        await client.until_serving()

        assert (await client.create(around.pod())).created
        assert (await client.get(pod)).state == READY
    assert around.loader.script.count("RegenerateEndpoint") == 2


async def test_a_range_that_ipam_has_claimed_reaches_the_loader_while_the_node_takes_endpoints(
    around: Surroundings,
) -> None:
    """Nothing is compared for that, and readiness stays."""
    async with around.service() as client:
        pod, listed = around.pod(), around.loader.script.count("ListEndpointDatapaths")
        around.ipam.change_ranges(around.ipam.ranges | {0: ip_network("10.8.0.0/24")})
        await around.loader.script.until(lambda: around.loader.script.count("ConfigureNode") == 2)

        request = around.loader.script.calls[-1][1]
        cidrs = [str(wire.read_network(one, "pod_cidrs")) for one in request.config.pod_cidrs]
        assert cidrs == ["10.7.0.0/16", "fd07::/112", "10.8.0.0/24"]
        assert around.loader.script.count("ListEndpointDatapaths") == listed
        assert await client.serving()
        assert (await client.create(pod)).created


async def test_without_a_pod_cidr_the_node_waits_and_says_for_what(around: Surroundings) -> None:
    """Of one of its families: its router's address comes with the first range."""
    both, around.ipam.ranges = around.ipam.ranges, {4: around.ipam.ranges[4]}
    async with around.service(wait=False) as client:
        with pytest.raises(Unavailable, match="waits for a pod CIDR from the kvstore: pool 'default': no IPv6"):
            await client.create(around.pod())
        around.ipam.change_ranges(both)
        await client.until_serving()


async def test_without_peers_health_says_not_serving_and_create_says_what_it_waits_for() -> None:
    """No crash, no hang."""
    async with Surroundings(fakes=False, peer_wait=0.1) as around:
        pod = around.pod()
        async with around.service(wait=False) as client:
            assert not await client.serving()
            with pytest.raises(Unavailable, match="takes no endpoints yet; it waits for: "):
                await client.create(pod)
            assert await client.endpoints() == []


async def test_deleting_needs_no_ready_node(around: Surroundings) -> None:
    """Pods must be removable while ipam is ill."""
    (pod,) = await make(around, 1)
    await around.ipam.stop()

    async with around.service(wait=False) as client:
        assert await client.delete(pod)

    assert around.kernel.datapaths == {}


async def test_restored_endpoints_wait_for_a_comparison_until_the_peers_are_there(around: Surroundings) -> None:
    """And say so."""
    (pod,) = await make(around, 1)
    await around.loader.stop()

    async with around.service(wait=False) as client:
        endpoint = await client.get(pod)
        assert endpoint.state == pb.ENDPOINT_STATE_RESTORING
        assert "comparison with the kernel" in endpoint.waiting_for
        await around.loader.start()
        await client.until(pod)


async def test_a_repeated_add_after_a_restart_returns_the_same_endpoint(around: Surroundings) -> None:
    """The runtime does not know of our restarts."""
    (pod,) = await make(around, 1)

    async with around.service() as client:
        response = await client.create(pod)

    assert (response.created, response.endpoint.id, response.endpoint.state) == (False, 1, READY)


@pytest.mark.parametrize("damage", ["not a database", "newer", "nonsense"])
async def test_state_that_cannot_be_trusted_is_refused_and_left_as_it_is(around: Surroundings, damage: str) -> None:
    """With what to do."""
    await make(around, 1)
    file = around.settings.endpoint.database
    if damage == "not a database":
        file.write_bytes(b"x" * 5000)
    else:
        with sqlite3.connect(file) as connection:
            statement = "PRAGMA user_version=99" if damage == "newer" else "UPDATE addresses SET range = 'x'"
            connection.execute(statement)
        connection.close()

    with pytest.raises(CorruptState, match=r"damaged|newer podlane|never writes"):
        async with lifecycle.running(build(around.settings)):
            pass
    assert file.exists()
