"""What a node pays: level-2 regenerations of a known shape, verification per program, memory with 100 pods."""

import asyncio
import statistics
from typing import Any

from podlane.endpoint.v1 import endpoint_pb2
from podlane.endpoint.v1.endpoint_pb2_grpc import EndpointServiceStub
from podlane.loader.v1 import loader_pb2
from podlane.loader.v1.loader_pb2_grpc import LoaderServiceStub

from benchmarks.harness import Report, Row, spawn, summary
from services.common.client import Peer
from tests.node_support import Node

PODS = 100


def regenerate(node: Node, rounds: int) -> dict[str, Any]:
    """Regenerate one endpoint at level 2 again and again, its identity changed each time so that nothing is skipped."""

    async def measure() -> list[Any]:
        endpoint_peer = Peer("endpoint", node.loaded.endpoint.socket, 2.0)
        loader_peer = Peer("loader", node.loaded.loader.socket, 2.0)
        await endpoint_peer.start()
        await loader_peer.start()
        try:
            listed = await endpoint_peer.call(
                EndpointServiceStub(endpoint_peer.channel).ListEndpoints, endpoint_pb2.ListEndpointsRequest(), timeout=5
            )
            request = _request(listed.endpoints[0])
            method = LoaderServiceStub(loader_peer.channel).RegenerateEndpoint
            replies = []
            for turn in range(rounds):
                request.endpoint.identity = 300 + turn % 2
                replies.append(await loader_peer.call(method, request, timeout=10))
            request.endpoint.identity = listed.endpoints[0].identity
            replies.append(await loader_peer.call(method, request, timeout=10))
            return replies
        finally:
            await loader_peer.stop()
            await endpoint_peer.stop()

    replies = asyncio.run(measure())
    assert {reply.level for reply in replies} == {loader_pb2.REGENERATION_LEVEL_REWRITE_LOAD}
    phases: dict[str, list[float]] = {}
    for reply in replies:
        for phase in reply.phases:
            phases.setdefault(phase.name, []).append(phase.duration_us / 1000)
    totals = [sum(phase.duration_us for phase in reply.phases) / 1000 for reply in replies]
    programs = {
        program.name: {"instructions": program.instructions, "verified": program.verified_instructions}
        for program in replies[-1].datapath.programs
    }
    return {
        "total_ms": summary(totals),
        "phases_ms": {name: round(statistics.median(values), 3) for name, values in phases.items()},
        "programs": programs,
    }


def _request(endpoint: Any) -> loader_pb2.RegenerateEndpointRequest:
    """Return the request that the endpoint service makes for this endpoint, with everything allowed."""
    return loader_pb2.RegenerateEndpointRequest(
        endpoint=loader_pb2.EndpointConfig(
            id=endpoint.id,
            generation=endpoint.generation,
            attachment=endpoint.attachment,
            host_ifindex=endpoint.link.host_ifindex,
            host_ifname=endpoint.link.host_ifname,
            host_mac=endpoint.link.host_mac,
            pod_mac=endpoint.link.pod_mac,
            addresses=[one.address.address for one in endpoint.addresses],
        ),
        level=loader_pb2.REGENERATION_LEVEL_REWRITE_LOAD,
        policy=[
            loader_pb2.PolicyEntry(direction=loader_pb2.TRAFFIC_DIRECTION_INGRESS),
            loader_pb2.PolicyEntry(direction=loader_pb2.TRAFFIC_DIRECTION_EGRESS),
        ],
    )


def report(node: Node, into: Report) -> None:
    """Add regeneration, program and memory figures of a node; fills it with 100 pods."""
    plugin, stdin = str(node.bin_dir / "podlane"), node.conf()
    import json

    fresh = {one["service"]: one["rss_kib"] for one in node.show("node", "status")}
    for _ in range(PODS):
        pod = node.pod()
        ran = spawn([plugin], node.environment("ADD", pod), json.dumps(stdin).encode())
        if ran.code:
            raise RuntimeError(ran.stdout.decode())
    full = {one["service"]: one["rss_kib"] for one in node.show("node", "status")}
    figures = regenerate(node, 60)
    into.raw["regeneration"] = figures
    into.raw["memory_kib"] = {"fresh": fresh, "with_100_pods": full}
    told = ", ".join(f"{name} {value:.2f}" for name, value in figures["phases_ms"].items())
    into.add(Row("level-2 regeneration, known shape, p50", figures["total_ms"]["median"], "ms", 6.0, 4.0, note=told))
    for name, program in figures["programs"].items():
        into.add(
            Row(f"{name}: instructions verified", program["verified"], "", note=f"{program['instructions']} loaded")
        )
    told = ", ".join(f"{service} {kib / 1024:.0f} (fresh {fresh[service] / 1024:.0f})" for service, kib in full.items())
    into.add(Row("memory of all services, 100 pods", sum(full.values()) / 1024, "MiB", 180, 120, note=f"MiB: {told}"))
