"""Garbage for tests of the endpoint service: what pods leave, made by hand, and the rounds that find it."""

from collections.abc import AsyncIterator

import pytest
from podlane.endpoint.v1 import endpoint_pb2 as pb
from podlane.ipam.v1 import ipam_pb2
from podlane.loader.v1 import loader_pb2

from services.common import wire
from services.common.model import Attachment
from services.endpoint.gc import Collector
from tests.endpoint_support import Client, FakePod, Surroundings

REMOVED, FAILED, UNTRIED = (
    pb.GARBAGE_OUTCOME_REMOVED,
    pb.GARBAGE_OUTCOME_FAILED,
    pb.GARBAGE_OUTCOME_UNSPECIFIED,
)
GONE_NAMESPACE = loader_pb2.LinkStatus(idle_seconds=3600, namespace=loader_pb2.NAMESPACE_STATE_GONE)
CHANGES = ("RemoveEndpoint", "DeleteLink", "ReleaseAddresses", "AllocateAddresses", "ConfirmAllocation")


@pytest.fixture
async def around() -> AsyncIterator[Surroundings]:
    """The two fakes."""
    async with Surroundings() as around:
        yield around


@pytest.fixture
async def client(around: Surroundings) -> AsyncIterator[Client]:
    """An endpoint service between them."""
    async with around.service() as client:
        yield client


def told(findings: list[pb.GarbageFinding]) -> list[tuple[str, int]]:
    """The kind and outcome of findings."""
    return [(pb.GarbageKind.Name(one.kind).rpartition("_")[2].lower(), one.outcome) for one in findings]


def abandon(around: Surroundings, pod: FakePod, *processes: str) -> None:
    """Take the name of a pod's namespace away, and all who lived in it but these."""
    status = loader_pb2.LinkStatus()
    status.CopyFrom(GONE_NAMESPACE)
    status.processes.extend(processes)
    around.kernel.seen[pod.key] = status


def leak_datapath(around: Surroundings, id_: int, generation: int = 1) -> None:
    """Leave a datapath of an endpoint that nobody knows, on a link that is gone."""
    owner = Attachment("podnet", f"{id_:032x}", "eth0")
    around.kernel.datapaths[id_] = loader_pb2.EndpointDatapath(
        id=id_,
        generation=generation,
        attachment=wire.write_attachment(owner),
        host_ifname=owner.host_ifname(),
        host_ifindex=9999,
    )


def leak_link(around: Surroundings, idle: int = 3600) -> Attachment:
    """Leave a link that no endpoint came to."""
    pod = around.pod()
    del around.ipam.held[pod.key]
    around.kernel.links[pod.key].up = False
    around.kernel.seen[pod.key] = loader_pb2.LinkStatus(idle_seconds=idle, namespace=loader_pb2.NAMESPACE_STATE_THERE)
    return pod.attachment


def leak_addresses(around: Surroundings, endpoint_id: int = 77) -> ipam_pb2.Allocation:
    """Leave addresses that were confirmed for an endpoint that nobody knows."""
    allocation = around.ipam.reserve(Attachment("podnet", f"{endpoint_id:032x}", "eth0"))
    allocation.state, allocation.endpoint_id = ipam_pb2.ALLOCATION_STATE_CONFIRMED, endpoint_id
    return allocation


def changes(around: Surroundings) -> int:
    """How many calls so far changed something."""
    return sum(around.loader.script.count(name) + around.ipam.script.count(name) for name in CHANGES)


def collector(around: Surroundings) -> Collector:
    """The collector of the service that runs in this process."""
    return next(one for one in around.components if isinstance(one, Collector))


async def rounds(around: Surroundings, count: int) -> None:
    """Let so many rounds search."""
    for _ in range(count):
        await collector(around).round()
