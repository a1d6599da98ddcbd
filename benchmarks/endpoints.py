"""What an endpoint's life costs the services: regenerations one by one and of many, a restart with many, and growth.

Figures of Cilium beside which these can be read: 110–160 ms for a regeneration that loads, 52 endpoints in 4.5 s.
"""

import asyncio
import json
import time
from typing import Any, Self

from podlane.endpoint.v1 import endpoint_pb2 as pb
from podlane.endpoint.v1.endpoint_pb2_grpc import EndpointServiceStub
from podlane.loader.v1 import loader_pb2

from benchmarks import enforcing
from benchmarks.harness import Report, Row, quantile, spawn, summary
from services.common.client import Peer
from tests.node_support import Node

RANGES = ("10.48.0.0/20", "fd00:48::/112")
MANY, MOST = 250, 500
# ADDs that stand for "number 10" and "number 500": the neighbours of each.
AROUND = 20
ROUNDS = 60
LEVELS = {1: loader_pb2.REGENERATION_LEVEL_NO_REBUILD, 2: loader_pb2.REGENERATION_LEVEL_REWRITE_LOAD}


class Asker:
    """A connection to a node's endpoint service."""

    def __init__(self, node: Node) -> None:
        """Connect when entered."""
        self._peer = Peer("endpoint", node.loaded.endpoint.socket, 10.0)

    async def __aenter__(self) -> Self:
        """Connect."""
        await self._peer.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Disconnect."""
        await self._peer.stop()

    async def regenerate(self, level: int, id_: int = 0) -> list[Any]:
        """Regenerate one endpoint, or with 0 all."""
        selector = pb.EndpointSelector(id=id_) if id_ else None
        request = pb.RegenerateEndpointsRequest(selector=selector, level=LEVELS[level])
        stub = EndpointServiceStub(self._peer.channel)
        results = list((await self._peer.call(stub.RegenerateEndpoints, request, timeout=60)).results)
        failed = [one.error for one in results if one.error]
        if failed:
            raise RuntimeError(failed[0])
        return results

    async def endpoints(self) -> list[Any]:
        """List all endpoints."""
        stub = EndpointServiceStub(self._peer.channel)
        request = pb.ListEndpointsRequest(page_size=1000)
        return list((await self._peer.call(stub.ListEndpoints, request, timeout=10)).endpoints)

    async def until_ready(self, count: int) -> None:
        """Wait until that many endpoints are ready, by watching."""
        stub, ready = EndpointServiceStub(self._peer.channel), set()
        async for told in self._peer.stream(stub.WatchEndpoints, pb.WatchEndpointsRequest()):
            if told.endpoint.state == pb.ENDPOINT_STATE_READY:
                ready.add(told.endpoint.id)
                if len(ready) == count:
                    return


def fill(node: Node, count: int) -> list[float]:
    """Add pods until there are `count`; return the milliseconds of each ADD, the whole process."""
    plugin, stdin, times = str(node.bin_dir / "podlane"), json.dumps(node.conf()).encode(), []
    while len(node.pods) < count:
        pod = node.pod()
        ran = spawn([plugin], node.environment("ADD", pod), stdin)
        if ran.code:
            raise RuntimeError(ran.stdout.decode())
        times.append(ran.wall_ms)
    return times


def one_by_one(node: Node) -> dict[int, dict[str, float]]:
    """Return the milliseconds of regenerations of one endpoint, by level, service side, from trigger to end."""

    async def measure(level: int) -> dict[str, float]:
        async with Asker(node) as asker:
            id_ = (await asker.endpoints())[0].id
            return summary([(await asker.regenerate(level, id_))[0].duration_us / 1e3 for _ in range(ROUNDS)])

    return {level: asyncio.run(measure(level)) for level in LEVELS}


def all_at_once(node: Node, level: int) -> float:
    """Return the seconds in which all endpoints of a node are regenerated."""

    async def measure() -> float:
        async with Asker(node) as asker:
            begin = time.perf_counter()
            await asker.regenerate(level)
            return time.perf_counter() - begin

    return asyncio.run(measure())


def restart(node: Node) -> float:
    """Return the seconds from the start of the services to all endpoints ready; no program may have been loaded."""

    async def programs() -> set[int]:
        async with Asker(node) as asker:
            return {program.id for one in await asker.endpoints() for program in one.last_regeneration.programs}

    async def ready(count: int) -> None:
        async with Asker(node) as asker:
            await asker.until_ready(count)

    before = asyncio.run(programs())
    node.podlane("node", "down")
    begin = time.perf_counter()
    node.podlane("node", "up")
    asyncio.run(ready(len(node.pods)))
    took = time.perf_counter() - begin
    if asyncio.run(programs()) != before:
        raise RuntimeError("a restart loaded programs")
    return took


def memory(node: Node) -> dict[str, int]:
    """Return each service's resident memory, KiB."""
    return {one["service"]: one["rss_kib"] for one in node.show("node", "status")}


def report(into: Report) -> None:
    """Grow a node to 250 and then 500 endpoints and add the figures."""
    with Node(ranges=RANGES, frugal=False) as node:
        times = fill(node, 10)
        fresh = memory(node)
        times += fill(node, MANY)
        single, together = one_by_one(node), {level: all_at_once(node, level) for level in LEVELS}
        again = restart(node)
        settled = memory(node)
        enforced = enforcing.measure(node)
        times += fill(node, MOST)
        full = memory(node)
    late, early = times[-AROUND:], times[10 - AROUND // 4 : 10 + AROUND]
    growth = quantile(late, 0.5) / quantile(early, 0.5)
    each = {service: (full[service] - settled[service]) / (MOST - MANY) for service in full}
    into.raw["endpoints"] = {
        "add_ms": times,
        "one_by_one_ms": single,
        "all_250_s": together,
        "restart_250_s": again,
        "policy_for_250_ms": enforced,
        "memory_kib": {"10": fresh, "250, after a restart": settled, "500": full},
    }
    for level, bound in ((1, 2.0), (2, 6.0)):
        note = f"service side, trigger to end; p95 {single[level]['p95']:.2f}"
        into.add(Row(f"regeneration at level {level}, p50", single[level]["median"], "ms", bound, note=note))
    into.add(Row(f"{MANY} endpoints regenerated at level 1", together[1], "s"))
    into.add(Row(f"{MANY} endpoints regenerated at level 2", together[2], "s", 3.0))
    for kind, took in enforced.items():
        note = f"applied until enforced, peers by {kind}; p95 {took['p95']:.0f}"
        into.add(Row(f"one policy for {MANY} endpoints", took["median"], "ms", 100.0, note=note))
    into.add(Row(f"restart with {MANY} endpoints to all ready", again, "s", 5.0, note="three services, none loaded"))
    told = f"ms: {quantile(early, 0.5):.1f} and {quantile(late, 0.5):.1f}, medians of {AROUND} around"
    into.add(Row(f"ADD number {MOST} ÷ number 10", growth, "×", 1.2, note=told))
    told = ", ".join(f"{service} {kib:.1f}" for service, kib in each.items())
    into.add(Row("memory per endpoint, all services", sum(each.values()), "KiB", note=told))
