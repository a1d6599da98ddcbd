"""A service process is lean: what its libraries could bring along stays out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import json, sys
from services.common.lean import shed
shed()
import services.{service}.main
print(json.dumps(sorted(name for name, module in sys.modules.items() if module is not None)))
"""


@pytest.mark.parametrize("service", ["ipam", "loader", "endpoint"])
def test_a_service_loads_neither_tls_nor_http_servers_nor_tracebacks_in_colour(service: str):
    told = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(service=service)], cwd=ROOT, capture_output=True, text=True, check=True
    )

    loaded = set(json.loads(told.stdout))
    assert loaded.isdisjoint({"ssl", "_ssl", "_hashlib", "http.server", "wsgiref", "urllib.request", "rich"})
    assert {"prometheus_client.metrics", "prometheus_client.registry"} <= loaded
    assert "prometheus_client.exposition" not in loaded


def test_protobuf_in_python_is_left_out_where_it_is_there_in_c():
    program = (
        "from services.common.lean import shed; shed(); import sys, podlane.loader.v1.loader_pb2 as pb;"
        "from google.protobuf import json_format, descriptor_pool;"
        "one = json_format.Parse('{\"endpointId\": 7}', pb.WatchEventsRequest());"
        "print(one.endpoint_id, hasattr(descriptor_pool.python_message, 'GeneratedProtocolMessageType'))"
    )
    told = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)

    assert told.stdout == "7 False\n"


def test_what_speaks_with_etcd_is_loaded_only_where_etcd_is_set():
    program = "import json, sys, services.common.kvstore.choose; print(json.dumps(list(sys.modules)))"
    told = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)

    assert {"aetcd", "services.common.kvstore.etcd"}.isdisjoint(json.loads(told.stdout))


CALL = """
import asyncio, os, sys
from services.common.lean import shed
shed()
import grpc

async def main(path):
    async def echo(request, _context):
        return request
    handler = grpc.unary_unary_rpc_method_handler(echo)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("a", {"b": handler}),))
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        call = channel.unary_unary("/a/b")
        await call(b"")
        before = switches()
        for _ in range(200):
            await call(b"")
        print(switches() - before)
    await server.stop(None)

def switches():
    # Of the threads that the newer way hands events to.
    total = 0
    for thread in os.listdir("/proc/self/task"):
        if open(f"/proc/self/task/{thread}/comm").read().startswith("event_engine"):
            status = open(f"/proc/self/task/{thread}/status").read()
            total += int(status.partition("voluntary_ctxt_switches:")[2].split()[0])
    return total

asyncio.run(main(sys.argv[1]))
"""


def test_grpc_waits_for_sockets_without_handing_them_to_threads(tmp_path: Path):
    """Whether the installed gRPC still knows the experiments by these names: it complains, or does it its own way."""

    def run(**environment: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-c", CALL, str(tmp_path / "socket")],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "GRPC_VERBOSITY": "ERROR", **environment},
        )

    ours, own = run(), run(GRPC_EXPERIMENTS="")

    assert ours.stderr == ""
    assert int(ours.stdout) < 200 < int(own.stdout)
