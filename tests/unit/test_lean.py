"""A service process is lean: what its libraries could bring along stays out."""

import json
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
