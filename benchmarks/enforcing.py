"""One policy for 250 endpoints: from the request until the kernel enforces it on all of them.

What is timed is the whole call ApplyPolicies: text read, tried on a copy, on disk, resolved, and written into the maps
of all endpoints. The policies have names of pods and ipBlocks; each round applies one and deletes it again.
"""

import asyncio
import json
import time
from typing import Any

from podlane.endpoint.v1 import policy_pb2 as pb
from podlane.endpoint.v1.policy_pb2_grpc import PolicyServiceStub

from benchmarks.harness import summary
from services.common.client import Peer
from tests.node_support import Node

ROUNDS = 20

_RULES: dict[str, dict[str, Any]] = {
    "pods": {"from": [{"podSelector": {"matchLabels": {"app": "web"}}}], "ports": [{"port": 8080}]},
    "ipBlock": {"from": [{"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.64/26"]}}]},
}


def measure(node: Node) -> dict[str, dict[str, float]]:
    """Return the milliseconds of applying one policy to all pods of a node, by the kind of its peers."""
    return asyncio.run(_measure(node))


async def _measure(node: Node) -> dict[str, dict[str, float]]:
    peer = Peer("endpoint", node.loaded.endpoint.socket, 10.0)
    await peer.start()
    try:
        stub = PolicyServiceStub(peer.channel)
        labelled = "\n---\n".join(json.dumps(_pod(pod.namespace, pod.name)) for pod in node.pods)
        await peer.call(stub.ApplyPolicies, pb.ApplyPoliciesRequest(text=labelled), timeout=60)
        return {
            kind: summary([await _round(peer, stub, rule, len(node.pods)) for _ in range(ROUNDS)])
            for kind, rule in _RULES.items()
        }
    finally:
        await peer.stop()


async def _round(peer: Peer, stub: Any, rule: dict[str, Any], endpoints: int) -> float:
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "bench"},
        "spec": {"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [rule]},
    }
    begin = time.perf_counter()
    reply = await peer.call(stub.ApplyPolicies, pb.ApplyPoliciesRequest(text=json.dumps(policy)), timeout=60)
    took = (time.perf_counter() - begin) * 1e3
    if reply.effect.endpoints != endpoints or reply.effect.failures:
        raise RuntimeError(f"{reply.effect.endpoints} of {endpoints} endpoints, {list(reply.effect.failures)}")
    name = pb.DocumentName(kind=pb.DOCUMENT_KIND_NETWORK_POLICY, namespace="default", name="bench")
    await peer.call(stub.DeletePolicies, pb.DeletePoliciesRequest(names=[name]), timeout=60)
    return took


def _pod(namespace: str, name: str) -> dict[str, Any]:
    metadata = {"namespace": namespace, "name": name, "labels": {"app": "web"}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata}
