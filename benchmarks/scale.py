"""A large cluster as one node sees it: 100,000 addresses of other nodes and 5,000 identities, in a real etcd.

    filling     a fresh node's endpoint service is started; until its loader's map has them all, and what it takes
    updates     1,000 addresses a second get another identity; from right before the put to the kernel's map
    requests    what a node asks of etcd for each endpoint, by its own counters

What that means for 5,000 nodes is in docs/scale.md.
"""

import http.client
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import Report, Row, quantile, spent_ms, summary
from benchmarks.kvwriter import PROBES, UPDATED, address
from services.loader import headers, maps
from services.loader.ipcache import Ipcache
from tests.cluster_support import WORLD_V4, ClusterNode
from tests.kvstore_cluster import PORT, KvstoreCluster

ADDRESSES, IDENTITIES = 100_000, 5_000
RATE, SECONDS = 1_000, 10.0
PODS = 20
_PATIENCE = 120.0


def report(into: Report, *, quick: bool = False) -> None:
    """Measure, and add the rows."""
    addresses, identities = (10_000, 500) if quick else (ADDRESSES, IDENTITIES)
    with KvstoreCluster(1) as cluster:
        (node,) = cluster.nodes
        requests = _requests(cluster, node)
        into.raw["kvstore_requests"] = requests
        for what, count in requests.items():
            into.add(Row(f"etcd requests for an endpoint, {what}", count, "", note="its record, its two addresses"))
        filling = _filling(cluster, node, addresses, identities)
        into.raw["filling"] = filling
        note = f"etcd's list to the kernel's map; CPU: endpoint {filling['cpu_ms']:.0f} ms"
        into.add(Row(f"{addresses:,} addresses into a fresh node", filling["seconds"], "s", aim=10, note=note))
        into.add(
            Row(
                "memory of each in the endpoint service", filling["bytes_each"] / 1024, "KiB", aim=1, note="RSS, Python"
            )
        )
        delays = _updates(cluster, node, 3.0 if quick else SECONDS)
        into.raw["updates"] = summary(delays) | {"p99": quantile(delays, 0.99), "max": max(delays)}
        note = f"p50 {quantile(delays, 0.5):.1f}, max {max(delays):.1f}; {len(delays)} of {RATE}/s looked at"
        into.add(Row("from etcd's put to the kernel, 1,000/s, p99", quantile(delays, 0.99), "ms", note=note))


def _requests(cluster: KvstoreCluster, node: ClusterNode) -> dict[str, float]:
    """Return how many requests an endpoint costs whose identity is new, and one whose isn't."""
    cluster.pod(node, "web")
    cluster.settled()
    found = {}
    for what, labels in (("known identity", ["web"] * PODS), ("new identity", [f"new-{one}" for one in range(PODS)])):
        before = _asked(node)
        for one in labels:
            cluster.pod(node, one)
        cluster.settled()
        found[what] = (_asked(node) - before) / PODS
    return found


def _asked(node: ClusterNode) -> float:
    """Return how many requests the endpoint service has sent, its keep-alives aside."""
    page = _get(node.dir / "run" / "endpoint" / "metrics.sock")
    lines = [line for line in page.splitlines() if line.startswith("podlane_kvstore_requests_total{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines if 'verb="lease"' not in line)


class _Connection(http.client.HTTPConnection):
    """To a Unix socket."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.host)


def _get(path: Path) -> str:
    """Return the metrics page behind a Unix socket."""
    connection = _Connection(str(path))
    connection.request("GET", "/metrics", headers={"Host": "localhost"})
    page = connection.getresponse().read().decode()
    connection.close()
    return page


def _filling(cluster: KvstoreCluster, node: ClusterNode, addresses: int, identities: int) -> dict[str, Any]:
    """Fill etcd while the service is down, start it, and wait for the map."""
    node.kill("endpoint")
    fresh = _fresh(node)
    node.kill("endpoint")
    _write(cluster, "fill", str(addresses), str(identities))
    begin = time.monotonic()
    node.launch("endpoint")
    with _ipcache(node) as ipcache:
        last = address(addresses - 1)
        _wait(lambda: ipcache.get(last) is not None and len(ipcache.dump()) >= addresses, "the map is filled")
        seconds = time.monotonic() - begin
    pid = node.pid("endpoint")
    node.podlane("node", "up")
    return {"seconds": seconds, "cpu_ms": spent_ms(pid), "bytes_each": (_rss(pid) - fresh) / (addresses + identities)}


def _fresh(node: ClusterNode) -> int:
    """Return the memory of a service that knows of nothing, and take what it had away."""
    node.launch("endpoint")
    node.podlane("node", "up")
    return _rss(node.pid("endpoint"))


def _updates(cluster: KvstoreCluster, node: ClusterNode, seconds: float) -> list[float]:
    """Return the delays of the probes, milliseconds."""
    seen: dict[tuple[str, int], int] = {}
    probes = [address(number) for number in range(0, UPDATED, UPDATED // PROBES)]
    writer = subprocess.Popen(_command(cluster, "update", str(RATE), str(seconds)), stdout=subprocess.PIPE, text=True)
    try:
        with _ipcache(node) as ipcache:
            ended = float("inf")
            while time.monotonic() < ended:
                for probe in probes:
                    entry = ipcache.get(probe)
                    if entry is not None:
                        seen.setdefault((str(probe), entry.identity), time.monotonic_ns())
                time.sleep(0.0005)
                if writer.poll() is not None and ended == float("inf"):
                    ended = time.monotonic() + 2.0
        told = writer.communicate()[0].splitlines()
    finally:
        writer.kill()
    sent = [line.split() for line in told if not line.startswith("{")]
    # What was overtaken by the address's next identity was never seen.
    delays = [(seen[one, int(id_)] - int(at)) / 1e6 for one, id_, at in sent if (one, int(id_)) in seen]
    assert len(delays) > len(sent) / 2, f"{len(delays)} of {len(sent)} were seen"
    return delays


def _write(cluster: KvstoreCluster, *argv: str) -> None:
    subprocess.run(_command(cluster, *argv), check=True, timeout=300)


def _command(cluster: KvstoreCluster, *argv: str) -> list[str]:
    inside = ["nsenter", f"--net={cluster.fabric.netns.path}", sys.executable, "-m", "benchmarks.kvwriter"]
    return [*inside, f"http://{WORLD_V4}:{PORT}", *argv]


def _ipcache(node: ClusterNode) -> Ipcache:
    return Ipcache.open(node.dir / "bpf" / "podlane" / "maps" / maps.IPCACHE, headers.SIZES)


def _rss(pid: int) -> int:
    """Return a process's resident memory, bytes."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def _wait(holds: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not holds():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not in {_PATIENCE:g} s: {what}")
        time.sleep(0.02)
