"""The map of tracked flows: what a sweep removes, what a departing endpoint takes along, and what stays."""

import time
from collections.abc import Iterator
from typing import cast

import pytest

from services.loader import conntrack, libbpf, maps, pathmaps
from services.loader.blocking import Blocking
from services.loader.datapath import Datapath
from services.loader.flowgc import FlowGc
from services.loader.flowledger import FlowLedger
from services.loader.flows import Flows
from services.loader.model import Direction
from tests.bpf_support import peer

pytestmark = pytest.mark.privileged

HOUR = 3600 * 10**9


@pytest.fixture
def flows() -> Iterator[Flows]:
    with Flows(maps.DEFINITIONS[maps.CONNTRACK].create({"CONNTRACK_MAP_SIZE": 1 << 16})) as flows:
        yield flows


def fill(flows: Flows, endpoint_id: int, count: int, *, alive: bool = True) -> None:
    """Add flows of an endpoint that end in an hour, or ended an hour ago."""
    end = time.monotonic_ns() + (HOUR if alive else -HOUR)
    value = conntrack.VALUE.pack(max(end, 1), 2, Direction.EGRESS, b"\x80\0", 0, 0, bytes(16), bytes(16))
    keys = [
        conntrack.KEY.pack(
            bytes(16), bytes([alive]) + bytes(11) + n.to_bytes(4, "big"), b"\0\1", b"\0\2", endpoint_id, 17, 1
        )
        for n in range(count)
    ]
    libbpf.map_update_batch(flows.fd, [(key, value) for key in keys])


def owners(flows: Flows) -> dict[int, int]:
    """Return how many live flows each endpoint has."""
    found: dict[int, int] = {}
    for flow in flows.dump():
        found[flow.endpoint_id] = found.get(flow.endpoint_id, 0) + 1
    return found


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 4096, 9000])
def test_a_sweep_removes_the_dead_and_only_them(flows: Flows, count: int) -> None:
    fill(flows, 1, count)
    fill(flows, 2, count, alive=False)

    swept = flows.sweep()

    assert (swept.entries, swept.removed, swept.owners) == (2 * count, count, frozenset({1} if count else ()))
    assert owners(flows) == ({1: count} if count else {})
    assert len(libbpf.map_entries(flows.fd, conntrack.KEY.size, conntrack.VALUE.size)) == count


def test_an_endpoint_takes_its_flows_along_and_no_others(flows: Flows) -> None:
    for endpoint_id in (1, 2, 3):
        fill(flows, endpoint_id, 5000)

    assert flows.forget(2).removed == 5000
    assert owners(flows) == {1: 5000, 3: 5000}
    assert flows.forget(2).removed == 0


def test_flows_are_shown_of_one_endpoint_or_of_all(flows: Flows) -> None:
    fill(flows, 1, 3)
    fill(flows, 2, 2)
    fill(flows, 2, 2, alive=False)

    assert [len(flows.dump(id_)) for id_ in (0, 1, 2, 3)] == [5, 3, 2, 0]


class Kernel:
    """What the controller sees of the datapath: the flows, and the addresses of the endpoints."""

    def __init__(self, flows: Flows | None, endpoints: pathmaps.Endpoints) -> None:
        self.flows = flows
        self.endpoints = endpoints


async def test_flows_of_an_endpoint_without_addresses_go_with_the_second_sweep(flows: Flows) -> None:
    """Between the two it may have been about to get some."""
    blocking = Blocking()
    with pathmaps.Endpoints(maps.DEFINITIONS[maps.ENDPOINTS].create({"ENDPOINTS_MAP_SIZE": 16})) as endpoints:
        kernel = cast("Datapath", Kernel(flows, endpoints))
        gc = FlowGc(kernel, FlowLedger(kernel, blocking))
        endpoints.put(peer("10.0.0.1", endpoint_id=1))
        for endpoint_id in (1, 2, 3):
            fill(flows, endpoint_id, 10)

        await gc.run()
        assert owners(flows) == {1: 10, 2: 10, 3: 10}
        endpoints.put(peer("10.0.0.3", endpoint_id=3))
        await gc.run()

    await blocking.stop()
    assert owners(flows) == {1: 10, 3: 10}


async def test_without_anybody_who_tracks_there_is_nothing_to_sweep() -> None:
    with pathmaps.Endpoints(maps.DEFINITIONS[maps.ENDPOINTS].create({"ENDPOINTS_MAP_SIZE": 1})) as endpoints:
        kernel = cast("Datapath", Kernel(None, endpoints))
        await FlowGc(kernel, FlowLedger(kernel, Blocking())).run()
