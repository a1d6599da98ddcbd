"""Policies for tests of the endpoint service: documents, what they make of a map, and pods that have labels."""

import asyncio
from collections.abc import Callable
from typing import Any

from podlane.endpoint.v1 import policy_pb2 as pb
from podlane.loader.v1 import loader_pb2

from tests.endpoint_support import Client, FakePod, Surroundings

INGRESS, EGRESS = loader_pb2.TRAFFIC_DIRECTION_INGRESS, loader_pb2.TRAFFIC_DIRECTION_EGRESS
OPEN = {(INGRESS, 0, 0, 0, 0, False), (EGRESS, 0, 0, 0, 0, False)}
HOST = (INGRESS, 1, 0, 0, 0, False)
OUT = (EGRESS, 0, 0, 0, 0, False)
POLICY = pb.DOCUMENT_KIND_NETWORK_POLICY


def policy(name: str, *rules: dict[str, Any], app: str = "web", **spec: Any) -> dict[str, Any]:
    """Return a NetworkPolicy for the pods of an app."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name},
        "spec": {"podSelector": {"matchLabels": {"app": app}}, "ingress": list(rules), **spec},
    }


def pod_document(name: str, app: str, **ports: int) -> dict[str, Any]:
    """Return a Pod with a label and named ports."""
    listed = [{"name": key, "containerPort": number} for key, number in ports.items()]
    spec = {"containers": [{"name": "main", "ports": listed}]} if ports else {"containers": []}
    metadata = {"name": name, "namespace": "default", "labels": {"app": app}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def from_app(app: str) -> dict[str, Any]:
    """Return a rule that lets an app in, at port 80."""
    return {"from": [{"podSelector": {"matchLabels": {"app": app}}}], "ports": [{"port": 80}]}


def name(policy_name: str) -> pb.DocumentName:
    """Return what a policy is known by."""
    return pb.DocumentName(kind=POLICY, namespace="default", name=policy_name)


async def started(around: Surroundings, client: Client, pod_name: str, app: str = "") -> FakePod:
    """Make a pod's endpoint; `app` is its label, as an operator gives it."""
    pod = around.pod(pod_name)
    await client.create(pod)
    if app:
        await client.label(pod, app=app)
    return pod


def entries(around: Surroundings, id_: int) -> set[tuple[Any, ...]]:
    """Return what an endpoint's policy map holds."""
    return set(around.kernel.policies[id_].values())


def asked(around: Surroundings, method: str) -> list[Any]:
    """Return the requests of a method so far."""
    return [request for called, request in around.loader.script.calls if called == method]


async def until(condition: Callable[[], Any]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)
