"""Every socket answers the real grpcurl: list, describe, call, health."""

import json
import sys
from pathlib import Path

import pytest

from tests.node_support import Node

pytestmark = [pytest.mark.privileged, pytest.mark.xdist_group("grpcurl")]

GRPCURL = str(Path(sys.executable).with_name("grpcurl"))
CALLS = {
    "ipam": ("podlane.ipam.v1.IpamService", "ListPools", "pools"),
    "loader": ("podlane.loader.v1.LoaderService", "GetNode", "config"),
    "endpoint": ("podlane.endpoint.v1.EndpointService", "ListEndpoints", None),
}


def grpcurl(node: Node, service: str, *argv: str) -> str:
    """Run grpcurl against a service's socket: options first, as its command line wants."""
    socket = f"{node.dir}/run/{service}/{service}.sock"
    options = [word for word in argv if word.startswith("{")]
    data = ["-d", options[0]] if options else []
    words = [word for word in argv if not word.startswith("{")]
    return node.exec(GRPCURL, "-plaintext", "-unix", *data, socket, *words).stdout


@pytest.mark.parametrize("service", CALLS)
def test_reflection_health_and_calls(shared_node: Node, service: str):
    name, method, field = CALLS[service]

    listed = grpcurl(shared_node, service, "list").split()
    described = grpcurl(shared_node, service, "describe", name)
    answer = json.loads(grpcurl(shared_node, service, f"{name}/{method}"))
    health = json.loads(grpcurl(shared_node, service, "{}", "grpc.health.v1.Health/Check"))

    assert name in listed
    assert {"grpc.health.v1.Health", "podlane.common.v1.ControllerService"} <= set(listed)
    assert f"rpc {method} " in described
    assert field is None or field in answer
    assert health == {"status": "SERVING"}
