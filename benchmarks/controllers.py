"""What controllers and metrics cost where there are many: 500 endpoints with three controllers each, in one process.

Times are CPU times of this process, so that a busy machine changes them little.
"""

import asyncio
import gc
import time
import tracemalloc

from benchmarks.harness import Report, Row
from services.common.controller_parameters import Parameters
from services.common.controllers import Manager, Registry
from services.common.metrics import Metrics

ENDPOINTS, NAMES = 500, ("sync-to-kvstore", "sync-policymap", "regeneration-recovery")
ALL = ENDPOINTS * len(NAMES)
# Enough for each to have all the outcomes that it keeps.
_RUNS = 20
_CALLS = 100_000


async def _nothing() -> None:
    """The work of a controller that finds nothing to do."""


async def _settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def _create(registry: Registry) -> None:
    for number in range(ENDPOINTS):
        manager = Manager(f"endpoint-{number}", registry)
        for name in NAMES:
            manager.update(name, Parameters(_nothing, interval=300))


async def _size() -> float:
    """Return the bytes of a controller that has run often and waits, with its share of its manager."""
    registry = Registry()
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    _create(registry)
    for _ in range(_RUNS):
        await _settle()
        for controller in registry:
            controller.trigger()
    await _settle()
    gc.collect()
    size = (tracemalloc.get_traced_memory()[0] - before) / ALL
    tracemalloc.stop()
    await registry.stop()
    return size


async def _times() -> tuple[float, float]:
    """Return the microseconds that creating a controller and one run of it take, counted in metrics."""
    metrics = Metrics()
    registry = Registry(metrics.ran)
    begin = time.process_time()
    _create(registry)
    created = time.process_time()
    await _settle()
    ran = time.process_time()
    await registry.stop()
    return (created - begin) / ALL * 1e6, (ran - created) / ALL * 1e6


def _call() -> float:
    """Return the microseconds that counting an RPC takes."""
    metrics = Metrics()
    begin = time.process_time()
    for _ in range(_CALLS):
        metrics.rpc("AllocateAddresses", "OK", 0.003)
    return (time.process_time() - begin) / _CALLS * 1e6


def report(into: Report) -> None:
    """Add the figures."""
    size = asyncio.run(_size())
    times = [asyncio.run(_times()) for _ in range(5)]
    created, ran = (min(each) for each in zip(*times, strict=True))
    counted = min(_call() for _ in range(3))
    into.raw["controllers"] = {"bytes": size, "create_us": created, "run_us": ran, "rpc_counted_us": counted}
    note = f"{ALL} in one process; a run that does nothing {ran:.1f} µs"
    into.add(Row("a controller that waits", size / 1024, "KiB", 2, note="with its 16 outcomes"))
    into.add(Row("a controller's creation", created, "µs", 20, note=note))
    into.add(Row("counting an RPC", counted, "µs", 5))
