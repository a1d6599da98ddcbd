"""Pods as the kubelet makes them: RunPodSandbox and StopPodSandbox of containerd with podlane and with bridge.

Both have a containerd of their own, with the same image and settings, and take turns: a turn runs so many sandboxes,
`width` at a time, and stops them likewise; removing them isn't timed. Then each fills a fresh node with 110 pods, as
many as a kubelet takes by default: what is told is the time from the first call to the last sandbox that is ready.
"""

import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import Report, Row, summary, together
from tests.containerd_support import Containerd, Sandbox
from tests.node_support import Node

VERBS = ("RunPodSandbox", "StopPodSandbox")
BOUND = 1.25
FULL, FULL_WIDTH = 110, 10


@contextlib.contextmanager
def podlane() -> Iterator[Containerd]:
    """Yield a containerd on a fresh node of podlane's; pods get an address of each family."""
    with Node(frugal=False) as node, Containerd(node) as runtime:
        yield runtime


@contextlib.contextmanager
def bridge(subnet: str) -> Iterator[Containerd]:
    """Yield a containerd in this namespace with bridge and host-local; pods get an IPv4 address."""
    with tempfile.TemporaryDirectory(prefix="pl-peer-") as made:
        ipam = {"type": "host-local", "dataDir": f"{made}/data", "ranges": [[{"subnet": subnet}]]}
        plugin = {"type": "bridge", "bridge": "plcri0", "isGateway": True, "ipam": ipam}
        conflist = {"cniVersion": "1.0.0", "name": "bench", "plugins": [plugin]}
        bin_dir, conf_dir = Path(made, "bin"), Path(made, "conf")
        for directory in (bin_dir, conf_dir):
            directory.mkdir()
        (conf_dir / "10-bench.conflist").write_text(json.dumps(conflist))
        with Containerd(netns="/proc/self/ns/net", bin_dir=bin_dir, conf_dir=conf_dir) as runtime:
            yield runtime


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return milliseconds and what it returned."""
    begin = time.perf_counter()
    done = work()
    return (time.perf_counter() - begin) * 1e3, done


def turn(runtime: Containerd, names: list[str], width: int) -> dict[str, list[float]]:
    """Run sandboxes and stop them; return what each call took in milliseconds."""
    ran = together([partial(timed, partial(runtime.run, name)) for name in names], width)
    sandboxes: list[Sandbox] = [sandbox for _, sandbox in ran]
    stopped = together([partial(timed, partial(runtime.stop, sandbox)) for sandbox in sandboxes], width)
    for sandbox in sandboxes:
        runtime.remove(sandbox)
    return {"RunPodSandbox": [one for one, _ in ran], "StopPodSandbox": [one for one, _ in stopped]}


def measure(contestants: dict[str, Containerd], turns: int, width: int, mark: str) -> dict[str, Any]:
    """Return {verb: {contestant: summary in milliseconds}} of so many turns each."""
    taken: dict[str, dict[str, list[float]]] = {verb: {name: [] for name in contestants} for verb in VERBS}
    for number in range(turns):
        order = list(contestants)[:: 1 if number % 2 else -1]
        for name in order:
            names = [f"{mark}-{number}-{place}" for place in range(width)]
            for verb, wall in turn(contestants[name], names, width).items():
                taken[verb][name] += wall
    return {verb: {name: summary(wall) for name, wall in found.items()} for verb, found in taken.items()}


def fill(runtime: Containerd) -> float:
    """Return the seconds from the first of 110 sandboxes to the last that is ready."""
    wall, _ = timed(lambda: together([partial(runtime.run, f"full-{one}") for one in range(FULL)], FULL_WIDTH))
    return wall / 1e3


def report(into: Report, rounds: int, turns: int) -> None:
    """Add the ratios of one at a time and five at a time, and the full node."""
    with podlane() as ours, bridge("10.48.0.0/16") as theirs:
        contestants = {"podlane": ours, "bridge": theirs}
        for name, runtime in contestants.items():
            turn(runtime, [f"first-{name}"], 1)  # makes bridges and fills caches
        for width in (1, 5):
            count = turns * 2 if width == 1 else turns
            measured = [measure(contestants, count, width, f"w{width}-{one}") for one in range(rounds)]
            into.raw[f"cri_{width}"] = measured
            for verb in VERBS:
                into.add(_row(verb, width, [one[verb] for one in measured]))
    full = {}
    for name, fresh in (("podlane", podlane), ("bridge", partial(bridge, "10.48.0.0/16"))):
        with fresh() as runtime:
            full[name] = fill(runtime)
    into.raw["cri_full_seconds"] = full
    note = f"{FULL_WIDTH} at a time; bridge {full['bridge']:.1f} s, so {full['podlane'] / full['bridge']:.2f} ×"
    into.add(Row(f"{FULL} pods on a fresh node, first to last ready", full["podlane"], "s", note=note))


def _row(verb: str, width: int, rounds: list[dict[str, dict[str, float]]]) -> Row:
    """Return the median of the rounds' ratios; a ratio is of one round, because the machine changes between rounds."""
    ratios = sorted(one["podlane"]["median"] / one["bridge"]["median"] for one in rounds)

    def middle(name: str, figure: str) -> float:
        return statistics.median([one[name][figure] for one in rounds])

    told = ", ".join(f"{name} {middle(name, 'median'):.0f} (p95 {middle(name, 'p95'):.0f})" for name in rounds[0])
    spread = f"{ratios[0]:.2f}–{ratios[-1]:.2f} in {len(ratios)} rounds"
    what = f"CRI {verb}, {width} at a time, p50 ÷ bridge"
    return Row(what, statistics.median(ratios), "×", BOUND, 1.0, note=f"{spread}; ms: {told}")
