"""The data path between two pods of one node: TCP throughput, and a one-byte ping-pong with both ends on one CPU.

With two CPUs a virtual machine's wake-ups (a halt, an interrupt, an exit each) hide what the path itself costs; on
one CPU sender, path and receiver run one after another and nothing else is in the figure. Contestants take turns.
"""

import json
import statistics
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.harness import Report, Row
from tests.node_support import run

# Client namespace, server namespace (names, or paths), server address.
Pair = tuple[str, str, str]
# Where the throughput's and the ping-pong's servers listen.
PORTS = (5301, 5303)


def build(directory: Path) -> Path:
    """Compile the ping-pong."""
    directory.mkdir(parents=True, exist_ok=True)
    binary = directory / "rr"
    run("clang", "-O2", "-o", str(binary), str(Path(__file__).with_name("rr.c")))
    return binary


def inside(netns: str, cpu: int, *argv: str) -> list[str]:
    """Return the command line that runs `argv` in a namespace, by its name or path, on one CPU."""
    return ["nsenter", f"--net={Path('/run/netns') / netns}", "taskset", "-c", str(cpu), *argv]


@contextmanager
def serving(argv: list[str], ready: str) -> Iterator[None]:
    """Run a server for the block; it is ready when a line with `ready` appears."""
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            while ready not in (line := server.stdout.readline()):
                if not line:
                    raise RuntimeError(f"{argv} ended")
            yield
        finally:
            server.terminate()


def throughput(pair: Pair, *amount: str) -> float:
    """Return Gbit/s of one TCP stream, server on CPU 0, client on CPU 1. `amount` is iperf3's: `-t 2`, `-n 256M`."""
    client, server, address = pair
    with serving(inside(server, 0, "iperf3", "-s", "-1", "--forceflush", "-p", str(PORTS[0])), "Server listening"):
        told = run(*inside(client, 1, "iperf3", "-c", address, "-p", str(PORTS[0]), *amount, "-J")).stdout
    return float(json.loads(told)["end"]["sum_received"]["bits_per_second"]) / 1e9


def ping_pong(binary: Path, pair: Pair, seconds: float) -> float:
    """Return microseconds per transaction, both ends on CPU 1."""
    client, server, address = pair
    with serving(inside(server, 1, str(binary), "serve", str(PORTS[1])), "listening"):
        return float(
            run(*inside(client, 1, str(binary), "ask", address, str(PORTS[1]), f"{seconds:g}")).stdout.split()[0]
        )


def report(pairs: Mapping[str, Pair], into: Report, work: Path, rounds: int = 7, seconds: float = 2.0) -> None:
    """Measure all pairs in turns and add the ratios to `bare` and `bridge`."""
    binary = build(work)
    gbps: dict[str, list[float]] = {name: [] for name in pairs}
    micros: dict[str, list[float]] = {name: [] for name in pairs}
    for turn in range(rounds):
        names = list(pairs)
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            gbps[name].append(throughput(pairs[name], "-t", f"{seconds:g}"))
            micros[name].append(ping_pong(binary, pairs[name], seconds))
    into.raw["path"] = {"gbps": gbps, "ping_pong_us": micros}
    _add_rows(into, gbps, micros)


def _add_rows(into: Report, gbps: Mapping[str, list[float]], micros: Mapping[str, list[float]]) -> None:
    fast = {name: statistics.median(values) for name, values in gbps.items()}
    slow = {name: statistics.median(values) for name, values in micros.items()}
    note = told(fast, "Gbit/s")
    into.add(Row("TCP pod→pod ÷ bridge", fast["podlane"] / fast["bridge"], "×", 1.0, at_most=False, note=note))
    into.add(Row("TCP pod→pod ÷ bare veth", fast["podlane"] / fast["bare"], "×", aim=0.97, at_most=False))
    note = told(slow, "µs")
    into.add(Row("ping-pong pod↔pod ÷ bridge", slow["podlane"] / slow["bridge"], "×", 1.0, note=note))
    into.add(Row("ping-pong pod↔pod ÷ bare veth", slow["podlane"] / slow["bare"], "×", aim=1.15))


def told(figures: Mapping[str, Any], unit: str) -> str:
    """Return all figures in a row."""
    return f"{unit}: " + ", ".join(f"{name} {value:.2f}" for name, value in figures.items())
