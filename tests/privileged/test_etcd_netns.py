"""etcd where tests of a cluster have it: in a network namespace, at addresses that others reach."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.etcd_support import Etcd, EtcdCluster
from tests.netns_support import Netns

pytestmark = pytest.mark.privileged

_PROGRAM = """
import asyncio, sys
from tests.kvstore_support import client

async def main():
    async with client(sys.argv[1:]) as kvstore:
        print((await kvstore.put("podlane/a", "1")).value)

asyncio.run(main())
"""


def test_members_in_a_namespace_serve_who_is_in_it_by_both_families() -> None:
    """And nobody outside."""
    with Netns() as store:
        store.command("ip", "addr", "add", "10.9.0.1/32", "dev", "lo")
        store.command("ip", "addr", "add", "fd00:9::1/128", "dev", "lo", "nodad")
        with EtcdCluster(netns=store.path, addresses=["10.9.0.1", "fd00:9::1"]) as cluster:
            for endpoints in (cluster.endpoints, [f"http://[fd00:9::1]:{cluster.members[0].port}"]):
                argv = store.argv(sys.executable, "-c", _PROGRAM, *endpoints)
                done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, env=_environment())
                assert done.stdout == "1\n", done.stderr
            cluster.leader().kill()
            assert cluster.leader().process is not None
        with Etcd(netns=store.path, addresses=["10.9.0.1"], port=2379) as etcd:
            assert etcd.endpoints == ("http://10.9.0.1:2379",)


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
