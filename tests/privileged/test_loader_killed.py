"""kill -9 between any two steps: the next loader finds the remains, and the next call makes everything right."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from podlane.loader.v1 import loader_pb2 as pb

from tests.loader_support import ALLOW_ALL, LoaderNode

pytestmark = pytest.mark.privileged

BUILD = [
    "statedir.Build.begin",
    "image.Images.load",
    "statedir.Build.intend",
    "maps.Policy.sync",
    "maps.CallPolicy.set",
    "tc.TcFilters.attach",
    "host.Host.connect",
    "maps.Endpoints.put",
    "steps.Steps.publish",
    "statedir.Build.commit",
]
ALLOW_HOST = pb.PolicyEntry(direction=pb.TRAFFIC_DIRECTION_INGRESS, identity=1)
REMOVAL = [
    "maps.Endpoints.delete",
    "host.Host.disconnect",
    "maps.CallPolicy.clear",
    "tc.TcFilters.detach",
    "datapath.Datapath.unpin_policy",
    "statedir.StateDir.remove",
]


@pytest.fixture
async def node(tmp_path: Path, point: str) -> AsyncIterator[LoaderNode]:
    async with LoaderNode(tmp_path, crash_point=point) as node:
        await node.configure()
        yield node


@pytest.mark.parametrize("point", BUILD)
async def test_a_first_build_is_whole_or_nothing_and_can_be_repeated(node: LoaderNode) -> None:
    one, two = await node.add(), await node.link()

    await node.killed(node.regenerate(two))

    assert await node.problems() == []
    assert node.directories() in (["10"], ["10", "11"])
    await node.regenerate(two)
    assert one.pings(two.v4, two.v6) == []
    for pod in (one, two):
        await node.delete(pod)
    assert node.leftovers() == []


@pytest.mark.parametrize("point", [*BUILD, "statedir.exchange"])
async def test_a_rebuild_leaves_the_pod_running_and_the_next_one_mends_it(node: LoaderNode) -> None:
    one, two = await node.add(), await node.add()
    two.endpoint.identity += 1

    await node.killed(node.regenerate(two, policy=[*ALLOW_ALL, ALLOW_HOST]))

    assert node.directories() == ["10", "11"]
    assert one.pings(two.v4, two.v6) == []
    await node.regenerate(two, level=1)
    assert await node.problems() == []
    assert one.pings(two.v4, two.v6) == []


@pytest.mark.parametrize("point", REMOVAL)
async def test_a_removal_is_finished_by_the_next_call(node: LoaderNode) -> None:
    pod = await node.add()

    await node.killed(node.remove(pod))

    await node.delete(pod)
    assert node.leftovers() == []
    assert await node.datapaths() == []
