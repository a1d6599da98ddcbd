"""`make bench`: everything in one run, as a table and as build/bench.json.

The run enters a network namespace of its own first: bridge and ptp take it for their node, podlane's node has
another, and the machine's own network is left alone.
"""

import argparse
import json
import os
import platform
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from benchmarks import (
    cni,
    controllers,
    crossnode,
    endpoints,
    ipam,
    node,
    path,
    peers,
    policy,
    policymaps,
    policypath,
    programs,
    runtime,
    scale,
    shim,
    storm,
)
from benchmarks.harness import Report
from tests.node_support import Node, run

OUTPUT = Path("build/bench.json")


def with_cni(report: Report, quick: bool) -> None:
    """ADD and DEL against the reference plugins."""
    with ExitStack() as stack:
        # The reference plugins give a pod an IPv4 address; podlane by default gives it one of each family.
        nodes = Node(frugal=False), Node(ranges=["10.47.0.0/24"], frugal=False)
        both, single = map(stack.enter_context, nodes)
        contestants = [
            peers.podlane(both),
            peers.podlane(single, "podlane IPv4"),
            stack.enter_context(peers.reference("bridge", "10.45.0.0/16")),
            stack.enter_context(peers.reference("ptp", "10.46.0.0/16")),
        ]
        cni.report(contestants, report, pods=20 if quick else 100, wide=24 if quick else 96)


def with_storm(report: Report, quick: bool) -> None:
    """Two hundred ADDs at once against bridge."""
    with ExitStack() as stack:
        here = stack.enter_context(Node(ranges=["10.44.0.0/22", "fd00:44::/112"], frugal=False))
        contestants = [peers.podlane(here), stack.enter_context(peers.reference("bridge", "10.45.0.0/16"))]
        storm.report(contestants, report, count=60 if quick else 200)


def with_path(report: Report, quick: bool) -> None:
    """Throughput and ping-pong against the reference plugins and a bare veth pair."""
    with ExitStack() as stack:
        here = stack.enter_context(Node(frugal=False))
        pairs = {"bare": stack.enter_context(peers.bare_pair())}
        pods = [here.pod(), here.pod()]
        addresses = [here.add(pod).addresses[0] for pod in pods]
        pairs["podlane"] = (pods[0].netns, pods[1].netns, addresses[1])
        for kind, subnet in (("bridge", "10.45.0.0/16"), ("ptp", "10.46.0.0/16")):
            pairs[kind] = stack.enter_context(peers.pair(kind, subnet))
        path.report(pairs, report, Path("build"), rounds=3 if quick else 7, seconds=1.0 if quick else 2.0)


def with_policypath(report: Report, quick: bool) -> None:
    """The same between two pods of one node, with few and many policy entries."""
    with Node(frugal=False) as here:
        pods = [here.pod(), here.pod()]
        address = [here.add(pod).addresses[0] for pod in pods][1]
        pins = here.dir / "bpf" / "podlane" / "maps"
        pair = (pods[0].netns, pods[1].netns, address)
        policypath.report(pair, pins, report, Path("build"), rounds=3 if quick else 9)


def with_node(report: Report, _quick: bool) -> None:
    """Regeneration, programs, memory."""
    with Node(frugal=False) as here:
        node.report(here, report)


PARTS: dict[str, Callable[[Report, bool], None]] = {
    "cni": with_cni,
    "runtime": lambda report, quick: runtime.report(report, rounds=2 if quick else 3, turns=3 if quick else 6),
    "storm": with_storm,
    "shim": lambda report, quick: shim.report(report, 20 if quick else 60),
    "path": with_path,
    "crossnode": lambda report, quick: crossnode.report(report, Path("build"), rounds=8 if quick else 40),
    "policypath": with_policypath,
    "programs": lambda report, _quick: programs.report(report),
    "node": with_node,
    "endpoints": lambda report, _quick: endpoints.report(report),
    "controllers": lambda report, _quick: controllers.report(report),
    "policy": lambda report, _quick: policy.report(report),
    "policymaps": lambda report, _quick: policymaps.report(report),
    "scale": lambda report, quick: scale.report(report, quick=quick),
    "ipam": lambda report, quick: ipam.report(report, 2_000 if quick else 10_000),
}


def measure(parts: list[str], quick: bool) -> None:
    """Run the parts, print the table, write the JSON."""
    report = Report()
    report.raw["machine"] = {"cpus": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version()}
    for name in parts:
        print(f"{name} …", flush=True)
        PARTS[name](report, quick)
    print(report.table())
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text(json.dumps(report.json(), indent=1) + "\n")
    print(f"\nAll figures are in {OUTPUT}.")


def main() -> int:
    """Parse, enter a namespace, measure."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], default=[], help="default: all of them")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: to try it out, not to quote")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        measure(arguments.parts or list(PARTS), arguments.quick)
        return 0
    netns = f"plb-{secrets.token_hex(3)}"
    run("ip", "netns", "add", netns)
    try:
        run("ip", "-n", netns, "link", "set", "lo", "up")
        nsenter = shutil.which("nsenter") or "nsenter"
        again = [sys.executable, "-m", "benchmarks.main", *sys.argv[1:], "--inside"]
        return subprocess.run([nsenter, f"--net=/run/netns/{netns}", *again], check=False).returncode
    finally:
        run("ip", "netns", "del", netns)


if __name__ == "__main__":
    sys.exit(main())
