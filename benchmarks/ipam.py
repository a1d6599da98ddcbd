"""How many allocations a second ipam serves to one client process, durably, and whether a full pool costs more.

Two real `python -m services.ipam` processes with the log level of production, one with an empty /16 and one with a /16
of which 95 % are held, take turns; the client keeps 64 calls in flight. Each allocation is dual stack and on
disk before it is answered. What was allocated is released again between the turns, unmeasured.

    python -m benchmarks.ipam [allocations per turn]
"""

import asyncio
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from podlane.common.v1 import types_pb2 as common
from podlane.ipam.v1 import ipam_pb2 as pb

from benchmarks.harness import Report, Row, quantile
from services.common.client import Peer
from services.common.config import PoolSettings
from services.common.db import Database
from services.common.model import Attachment
from services.ipam.ledger import Ledger
from services.ipam.model import AllocationRequest, Clock
from services.ipam.poolplan import plan
from services.ipam.store import MIGRATIONS, Store

IN_FLIGHT = 64
ROUNDS = 5
RANGES = ("10.244.0.0/16", "fd00:10:244::/64")
METHOD = "/podlane.ipam.v1.IpamService/"


@dataclass
class Contestant:
    """One running ipam service with its client's channel, and what was measured of it."""

    name: str
    peer: Peer
    pid: int
    seconds: list[float] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)
    cpu_seconds: float = 0.0
    allocations: int = 0

    def summary(self) -> dict[str, float]:
        """Return rate and latency over all turns."""
        return {
            "allocations_per_second": round(self.allocations / sum(self.seconds), 1),
            "p50_ms": round(quantile(self.latencies_ms, 0.50), 3),
            "p95_ms": round(quantile(self.latencies_ms, 0.95), 3),
            "server_cpu_us": round(self.cpu_seconds / self.allocations * 1e6, 1),
            "rss_mib": round(_rss_kib(self.pid) / 1024, 1),
        }


def owner(name: str) -> Attachment:
    """Return the attachment of a container."""
    return Attachment("bench", name, "eth0")


async def fill(database: Path, share: float) -> None:
    """Write a database in which `share` of the IPv4 range is confirmed."""
    clock = Clock()
    pools = plan((PoolSettings("default", RANGES),))
    ledger = Ledger(pools, 30.0, 600.0, clock)
    opened = Database(database, MIGRATIONS)
    await opened.start()
    store = Store(opened)
    writes = []
    for number in range(int(pools[0].ranges[0].size * share)):
        reserved = ledger.reserve(AllocationRequest(owner(f"held{number:060d}"))).allocation
        writes.append(store.add(ledger.confirmed(reserved, number % 65535 + 1), ()))
    await asyncio.gather(*writes)
    await opened.stop()


@asynccontextmanager
async def service(name: str, directory: Path, share: float) -> AsyncIterator[Contestant]:
    """Run an ipam process, `share` of whose IPv4 range is held."""
    await fill(directory / "lib" / "ipam.sqlite", share)
    settings = directory / "podlane.toml"
    settings.write_text(
        f'[node]\nrun_dir = "{directory}/run"\nlib_dir = "{directory}/lib"\nlog_format = "json"\n'
        f'[[ipam.pools]]\nname = "default"\nranges = {json.dumps(RANGES)}\n'
    )
    with (directory / "log").open("wb") as log:
        argv = [sys.executable, "-m", "services.ipam", "--config", str(settings)]
        process = await asyncio.create_subprocess_exec(*argv, stderr=log, stdin=subprocess.DEVNULL)
    peer = Peer("ipam", directory / "run" / "ipam" / "ipam.sock", 60.0)
    await peer.start()
    try:
        await peer.channel.channel_ready()
        yield Contestant(name, peer, process.pid)
    finally:
        await peer.stop()
        process.terminate()
        await process.wait()


async def calls(channel: grpc.aio.Channel, method: str, requests: Iterable[bytes]) -> list[float]:
    """Make all calls, 64 in flight, and return how long each took in milliseconds.

    Requests are ready bytes and replies stay bytes: what is measured is the service, not the client's protobuf.
    """
    stub: Any = channel.unary_unary(METHOD + method)
    left = iter(requests)
    took: list[float] = []

    async def worker() -> None:
        for request in left:
            begin = time.perf_counter()
            await stub(request, timeout=60)
            took.append((time.perf_counter() - begin) * 1e3)

    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
    return took


async def turn(contestant: Contestant, count: int) -> None:
    """Measure `count` allocations, then release them."""
    tag = secrets.token_hex(24)
    owners = [common.Attachment(network="bench", container_id=f"{tag}{n:016d}", ifname="eth0") for n in range(count)]
    pod = common.Pod(namespace="default", name="web-7d9c6bcd9-x2x4z", uid="6f1a1b0e-8a3f-4a52-9d2c-0f6f0c1f7b11")
    allocate = [pb.AllocateAddressesRequest(owner=one, pod=pod).SerializeToString() for one in owners]
    release = [pb.ReleaseAddressesRequest(owner=one).SerializeToString() for one in owners]
    cpu, begin = _cpu_seconds(contestant.pid), time.perf_counter()
    contestant.latencies_ms += await calls(contestant.peer.channel, "AllocateAddresses", allocate)
    contestant.seconds.append(time.perf_counter() - begin)
    contestant.cpu_seconds += _cpu_seconds(contestant.pid) - cpu
    contestant.allocations += count
    await calls(contestant.peer.channel, "ReleaseAddresses", release)


async def measure(allocations: int) -> dict[str, Any]:
    """Let both services take turns until each has served about `allocations`."""
    # Below what a 95 % full /16 has left, so that no turn runs into the pool's end.
    count = min(max(allocations // ROUNDS, IN_FLIGHT), 2000)
    async with AsyncExitStack() as stack:
        contestants = []
        for name, share in (("empty", 0.0), ("95 % full", 0.95)):
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="podlane-bench-")))
            contestants.append(await stack.enter_async_context(service(name, directory, share)))
        for contestant in contestants:
            await turn(contestant, IN_FLIGHT)
            contestant.seconds.clear()
            contestant.latencies_ms.clear()
            contestant.allocations, contestant.cpu_seconds = 0, 0.0
        for number in range(ROUNDS):
            for contestant in contestants if number % 2 else reversed(contestants):
                await turn(contestant, count)
        figures: dict[str, Any] = {contestant.name: contestant.summary() for contestant in contestants}
    rates = [figure["allocations_per_second"] for figure in figures.values()]
    return figures | {"full_over_empty": round(rates[1] / rates[0], 3)}


def run(allocations: int = 10_000) -> dict[str, Any]:
    """Return rates, latencies and memory of both, and the ratio of their rates."""
    return asyncio.run(measure(allocations))


def report(into: Report, allocations: int) -> None:
    """Add the rows of this benchmark."""
    figures = run(allocations)
    into.raw["ipam"] = figures
    for name in ("empty", "95 % full"):
        figure = figures[name]
        note = (
            f"dual stack, durable, 64 in flight: p50 {figure['p50_ms']} ms, p95 {figure['p95_ms']} ms, "
            f"{figure['server_cpu_us']:.0f} µs of the service's CPU each"
        )
        into.add(Row(f"ipam: /16 {name}", figure["allocations_per_second"], "/s", 2000, at_most=False, note=note))
    into.add(Row("ipam: full / empty", figures["full_over_empty"], "", 0.9, at_most=False, note="rate"))


def _rss_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Print the table."""
    into = Report()
    report(into, int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
    print(into.table())
    print(json.dumps(into.raw["ipam"], indent=1))


if __name__ == "__main__":
    main()
