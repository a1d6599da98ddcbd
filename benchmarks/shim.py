"""What the shim itself costs: the installed plugin against services that answer at once, over the bare interpreter.

The services are one process, which answers every call with bytes prepared before, so that what is measured is the
plugin and grpcio's own way of taking a call. Both contestants take turns, whole processes, one at a time and eight at
a time; an ADD is three calls to three sockets, a DEL too.

    python -m benchmarks.shim [rounds]
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from benchmarks.harness import Ran, Report, Row, spawn, summary, together
from cni import install
from tests import shim_support

PYTHON = "/usr/bin/python3"
METHODS = {
    "ipam": ("podlane.ipam.v1.IpamService", ("AllocateAddresses", "ReleaseAddresses")),
    "loader": ("podlane.loader.v1.LoaderService", ("CreateLink", "DeleteLink")),
    "endpoint": ("podlane.endpoint.v1.EndpointService", ("CreateEndpoint", "DeleteEndpoint")),
}
WIDE = 8
BOUND_MS = 6.0


async def serve(directory: Path) -> None:
    """Answer on the three sockets until stdin ends."""
    server = grpc.aio.server()
    answers = {name: answer.SerializeToString() for name, answer in shim_support.healthy().items()}
    for service, (full_name, methods) in METHODS.items():
        handlers: dict[str, Any] = {
            method: grpc.unary_unary_rpc_method_handler(_answering(answers[method])) for method in methods
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(full_name, handlers),))
        server.add_insecure_port(f"unix:{directory / service}.sock")
    await server.start()
    print("serving", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)


def _answering(answer: bytes) -> Callable[[Any, Any], Any]:
    async def method(_request: bytes, _context: Any) -> bytes:
        return answer

    return method


@contextmanager
def serving(directory: Path) -> Iterator[dict[str, Any]]:
    """Run the services as a process and yield a network configuration for them."""
    argv = [sys.executable, "-m", "benchmarks.shim", "--serve", str(directory)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"serving\n"
        sockets = {f"{service}Socket": f"{directory / service}.sock" for service in METHODS}
        journal = {"journalDir": f"{directory}/deletions"}
        yield {"cniVersion": "1.1.0", "name": "bench", "type": "podlane", **sockets, **journal}
        process.stdin.close()


def run(n: int) -> dict[str, Any]:
    """Return, for widths 1 and 8, wall and CPU milliseconds of bare interpreter, ADD and DEL, and what each adds."""
    with tempfile.TemporaryDirectory() as name, serving(Path(name)) as conf:
        plugin, *_ = install.install(Path(name) / "bin", Path(name) / "net.d", python=Path(PYTHON))
        contestants: dict[str, Callable[[], Ran]] = {
            "bare": lambda: spawn([PYTHON, "-I", "-S", "-c", "pass"], {}, b""),
            "ADD": lambda: _call(plugin, "ADD", conf),
            "DEL": lambda: _call(plugin, "DEL", conf),
        }
        for contestant in contestants.values():
            contestant()
        return {f"width_{width}": _turns(contestants, n, width) for width in (1, WIDE)}


def _turns(contestants: dict[str, Callable[[], Ran]], n: int, width: int) -> dict[str, Any]:
    ran: dict[str, list[Ran]] = {name: [] for name in contestants}
    for _ in range(max(1, n // width)):
        for name, contestant in contestants.items():
            ran[name] += together([contestant] * width, width)
    figures: dict[str, Any] = {
        name: {"wall_ms": summary([one.wall_ms for one in runs]), "cpu_ms": summary([one.cpu_ms for one in runs])}
        for name, runs in ran.items()
    }
    for verb in ("ADD", "DEL"):
        for kind in ("wall_ms", "cpu_ms"):
            added = figures[verb][kind]["median"] - figures["bare"][kind]["median"]
            figures[verb][f"over_bare_{kind}"] = round(added, 3)
    return figures


def _call(plugin: Path, verb: str, conf: dict[str, Any]) -> Ran:
    environment = {
        "CNI_COMMAND": verb,
        "CNI_CONTAINERID": os.urandom(32).hex(),
        "CNI_NETNS": "/run/netns/bench",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": str(plugin.parent),
        "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_UID=u1",
    }
    ran = spawn([str(plugin)], environment, json.dumps(conf).encode())
    if ran.code:
        raise AssertionError((ran.stdout + ran.stderr).decode())
    return ran


def report(into: Report, n: int) -> None:
    """Add the shim's rows to `make bench`."""
    figures = run(n)
    into.raw["shim"] = figures
    for width in (1, WIDE):
        for verb in ("ADD", "DEL"):
            added = figures[f"width_{width}"][verb]["over_bare_wall_ms"]
            bound = BOUND_MS if (width, verb) == (1, "ADD") else None
            into.add(Row(f"shim {verb} over the bare interpreter, {width} at a time", added, "ms", bound))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        asyncio.run(serve(Path(sys.argv[2])))
    else:
        print(json.dumps(run(int(sys.argv[1]) if sys.argv[1:] else 60), indent=1))
