"""What the kernel and the state directory have of endpoints that nobody has a record of: found, told, removed."""

import shutil
from collections.abc import AsyncIterator, Callable
from ipaddress import ip_address
from pathlib import Path

import pytest
from podlane.loader.v1 import loader_pb2 as pb

from services.common.errors import FailedPrecondition
from services.loader import libbpf, maps, pathmaps
from services.loader.layout import EndpointEntry
from services.loader.libbpf import Fd
from tests.loader_support import LoaderNode, Pod

pytestmark = pytest.mark.privileged

ID = 4242


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[LoaderNode]:
    async with LoaderNode(tmp_path) as node:
        await node.configure()
        yield node


def pinned(node: LoaderNode, name: str) -> Fd:
    """A pinned map, opened by this process."""
    opened = libbpf.object_get(node.maps / name)
    assert opened is not None
    return opened


def leave_entry(node: LoaderNode, _pod: Pod) -> None:
    with pathmaps.Endpoints(pinned(node, maps.ENDPOINTS)) as endpoints:
        endpoints.put(EndpointEntry(ip_address("10.77.0.200"), 9999, ID, 5, bytes(6), bytes(6)))


def leave_pin(node: LoaderNode, pod: Pod) -> None:
    with pinned(node, f"policy_{pod.endpoint.id}") as policy:
        libbpf.object_pin(policy, node.maps / f"policy_{ID}")


def leave_slot(node: LoaderNode, pod: Pod) -> None:
    with pathmaps.CallPolicy(pinned(node, maps.CALL_POLICY)) as slots:
        program = libbpf.program_by_id(slots.get(pod.endpoint.id) or 0)
        assert program is not None
        with program:
            slots.set(ID, program)


def leave_directory(node: LoaderNode, _pod: Pod) -> None:
    (node.state / str(ID)).mkdir()
    (node.state / str(ID) / "ep_config.h").touch()


def leave_build(node: LoaderNode, _pod: Pod) -> None:
    (node.state / f"{ID}_next").mkdir()


async def listed(node: LoaderNode, id_: int = 0) -> list[pb.EndpointDatapath]:
    reply = await node.call("ListEndpointDatapaths", pb.ListEndpointDatapathsRequest(id=id_, slots=True))
    return [one for one in reply.datapaths if not one.HasField("attachment")]


async def remove(node: LoaderNode, id_: int) -> bool:
    reply = await node.call("RemoveEndpoint", pb.RemoveEndpointRequest(id=id_, unrecorded=True))
    return bool(reply.removed)


@pytest.mark.parametrize(
    ("leave", "told"),
    [
        (leave_entry, "the endpoint map leads 10.77.0.200 to endpoint 4242"),
        (leave_pin, "policy map policy_4242 is pinned"),
        (leave_slot, "call_policy[4242] holds program"),
        (leave_directory, "the state directory has 4242/ or 4242_next/ without"),
        (leave_build, "the state directory has 4242/ or 4242_next/ without"),
    ],
)
async def test_whatever_is_left_of_an_endpoint_is_found_and_removed_and_its_neighbour_talks_on(
    node: LoaderNode, leave: Callable[[LoaderNode, Pod], None], told: str
) -> None:
    one, two = await node.add(), await node.add()
    leave(node, one)

    for found in (await listed(node), await listed(node, ID)):
        (stranger,) = found
        assert (stranger.id, stranger.generation, stranger.host_ifindex) == (ID, 0, 0)
        assert stranger.problems[0].startswith("nobody has a record of it")
        assert stranger.problems[1].startswith(told)

    assert await remove(node, ID)
    assert not await remove(node, ID)
    assert await listed(node) == []
    assert one.pings(two.v4, two.v6) == two.pings(one.v4) == []
    assert await node.problems() == []


async def test_what_is_left_of_an_endpoint_that_nothing_else_tells_of_is_found_in_its_slot_if_asked(
    node: LoaderNode,
) -> None:
    pod = await node.add()
    leave_slot(node, pod)

    assert [one.id for one in await node.datapaths()] == [pod.endpoint.id]
    assert [one.id for one in await listed(node)] == [ID]


@pytest.mark.parametrize("mode", ["tc", "tcx"])
async def test_a_running_pod_whose_directory_is_lost_is_found_with_its_link_and_can_be_regenerated(
    tmp_path: Path, mode: str
) -> None:
    async with LoaderNode(tmp_path, attach_mode=mode) as node:
        await node.configure()
        one, two = await node.add(), await node.add()
        shutil.rmtree(node.state / str(one.endpoint.id))

        (stranger,) = await listed(node)

        assert (stranger.host_ifname, stranger.host_ifindex) == (one.link.host_ifname, one.link.host_ifindex)
        assert stranger.reachable
        assert one.pings(two.v4) == two.pings(one.v4) == []
        await node.regenerate(one)
        assert await listed(node) == []
        assert await node.problems() == []


async def test_tcx_links_that_nothing_else_tells_of_are_found_and_removed(tmp_path: Path) -> None:
    """Their pins hold programs although their device is gone."""
    async with LoaderNode(tmp_path, attach_mode="tcx") as node:
        await node.configure()
        pod = await node.add()
        links = node.bpffs / "podlane" / "links"
        (links / str(pod.endpoint.id)).rename(links / str(ID))
        await node.delete(pod)

        (stranger,) = await listed(node)
        assert (stranger.id, stranger.host_ifindex) == (ID, 0)
        assert "2 tcx links of endpoint 4242 are pinned" in stranger.problems

        assert await remove(node, ID)
        assert node.leftovers() == []


async def test_what_has_a_record_is_not_removed_as_if_it_had_none(node: LoaderNode) -> None:
    """A new endpoint that got the id in between."""
    one, two = await node.add(), await node.add()

    with pytest.raises(FailedPrecondition, match=r"belongs to generation 1 .* what nobody has a record of"):
        await remove(node, one.endpoint.id)

    assert two.pings(one.v4) == []
