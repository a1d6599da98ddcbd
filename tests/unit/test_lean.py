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


def test_what_speaks_with_etcd_is_loaded_only_where_etcd_is_set():
    program = "import json, sys, services.common.kvstore.choose; print(json.dumps(list(sys.modules)))"
    told = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)

    assert {"aetcd", "services.common.kvstore.etcd"}.isdisjoint(json.loads(told.stdout))
