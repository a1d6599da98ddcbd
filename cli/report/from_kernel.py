"""What the kernel has, by the tools that a person would use, in the namespace of whoever asks: the node's.

    kernel/machine.json     kernel, BTF, mounts, memory, CPUs, time
    kernel/sysctls.json     those that decide over pods' packets
    kernel/ip/…             links, addresses, routes of all tables, rules, neighbours; tc's qdiscs and filters
    kernel/bpf/…            podlane's programs, maps and links as bpftool shows them; what is pinned; with the loader
                            down, what is in the pinned maps, as bytes
    kernel/nft.json, iptables.txt, ip6tables.txt, dmesg.txt
    pods/<link>.json        addresses, routes, rules and neighbours inside each pod's namespace

A tool that isn't installed is told in the manifest as what is missing.
"""

import asyncio
import json
import os
import platform
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from cli.report import from_files, gathering, tools
from cli.report.gathering import Collector, Member
from services.common.config import Settings
from services.common.errors import PodlaneError

_PREFIXES = ("lxc", "podlane_")
_PODS_AT_MOST, _AT_A_TIME = 1000, 4
_DUMPED = ("podlane_endpoints", "podlane_call_policy", "podlane_prefixes", "podlane_metrics", "policy_")
_SYSCTLS = (
    "ipv4/ip_forward",
    "ipv4/conf/{all,default,own}/rp_filter",
    "ipv4/conf/{all,default,own}/forwarding",
    "ipv4/conf/{all,default,own}/proxy_arp",
    "ipv4/conf/{all,default,own}/accept_local",
    "ipv6/conf/{all,default,own}/forwarding",
    "ipv6/conf/{all,default,own}/disable_ipv6",
    "ipv6/conf/{all,default,own}/accept_ra",
    "ipv4/neigh/default/gc_thresh3",
    "ipv6/neigh/default/gc_thresh3",
    "netfilter/nf_conntrack_max",
    "netfilter/nf_conntrack_count",
    "core/bpf_jit_enable",
    "bridge/bridge-nf-call-iptables",
)
_KERNEL_SYSCTLS = ("kernel/unprivileged_bpf_disabled", "kernel/pid_max", "kernel/ostype", "fs/file-nr")
_INSIDE = (
    ("addresses", "ip -j -d addr show"),
    ("routes4", "ip -j -4 route show table all"),
    ("routes6", "ip -j -6 route show table all"),
    ("rules", "ip -j -4 rule show"),
    ("neighbours", "ip -j neigh show"),
)
_MARK = "-- next --"


def collectors(settings: Settings) -> list[Collector]:
    """Return them."""
    shown = {
        "kernel/ip/addresses.json": ("ip", "-j", "-d", "addr", "show"),
        "kernel/ip/links.json": ("ip", "-j", "-d", "-s", "link", "show"),
        "kernel/ip/routes4.json": ("ip", "-j", "-4", "route", "show", "table", "all"),
        "kernel/ip/routes6.json": ("ip", "-j", "-6", "route", "show", "table", "all"),
        "kernel/ip/rules4.json": ("ip", "-j", "-4", "rule", "show"),
        "kernel/ip/rules6.json": ("ip", "-j", "-6", "rule", "show"),
        "kernel/ip/neighbours.json": ("ip", "-j", "neigh", "show"),
        "kernel/ip/qdiscs.json": ("tc", "-j", "qdisc", "show"),
        "kernel/nft.json": ("nft", "-j", "list", "ruleset"),
        "kernel/iptables.txt": ("iptables-save",),
        "kernel/ip6tables.txt": ("ip6tables-save",),
    }
    tools_ = [gathering.one(name, lambda argv=argv, name=name: _said(name, *argv)) for name, argv in shown.items()]  # type: ignore[misc] # mypy can't type a lambda's default
    return [
        *tools_,
        gathering.from_thread("kernel/machine", lambda: [Member("kernel/machine.json", _machine(settings))]),
        gathering.one("kernel/dmesg.txt", _dmesg),
        gathering.from_thread("kernel/sysctls", lambda: [Member("kernel/sysctls.json", dict(_sysctls()))]),
        gathering.from_thread("kernel/bpf/pins", lambda: [Member("kernel/bpf/pins.json", _pins(settings))]),
        Collector("kernel/ip/filters", _filters, 60.0),
        Collector("kernel/bpf", _bpf),
        Collector("kernel/bpf/dump", lambda: _dumps(settings)),
        Collector("pods", lambda: _pods(settings), 60.0),
    ]


async def _said(name: str, *argv: str) -> Any:
    done = await tools.run(*argv)
    return _json(done.stdout) if name.endswith(".json") else done.stdout


def _json(text: str) -> Any:
    """Return what a tool said; nothing at all is an empty list, as `ip -j` means it."""
    return json.loads(text) if text.strip() else []


async def _dmesg() -> str:
    return "\n".join((await tools.run("dmesg", "-T")).stdout.splitlines()[-500:]) + "\n"


def _machine(settings: Settings) -> Any:
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    memory = (line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines()[:8])
    return {
        "uname": list(os.uname()),
        "version": Path("/proc/version").read_text().strip(),
        "python": platform.python_version(),
        "btf": Path("/sys/kernel/btf/vmlinux").exists(),
        "mounts": [line for line in mounts if line.partition(" - ")[2].split(" ")[0] in {"bpf", "cgroup", "cgroup2"}],
        "bpffs": str(settings.node.bpffs),
        "memory": {name: value.strip() for name, value in memory},
        "cpus": os.cpu_count(),
        "load": list(os.getloadavg()),
        "uptime_seconds": round(time.clock_gettime(time.CLOCK_BOOTTIME)),
        "time": time.time(),
        "uid": os.getuid(),
        "network_namespace": Path("/proc/self/ns/net").stat().st_ino,
    }


def _sysctls() -> Iterator[tuple[str, str]]:
    """Yield names, as in /proc/sys, with their values. A name that this kernel doesn't have is left out."""
    own = [name for name in os.listdir("/proc/sys/net/ipv4/conf") if name.startswith(_PREFIXES)]  # noqa: PTH208 # names are all that is needed
    for pattern in _SYSCTLS:
        head, brace, tail = pattern.partition("{all,default,own}")
        for name in ("all", "default", *sorted(own)) if brace else ("",):
            yield from _sysctl(f"net/{head}{name}{tail}")
    for name in _KERNEL_SYSCTLS:
        yield from _sysctl(name)


def _sysctl(name: str) -> Iterator[tuple[str, str]]:
    try:
        yield name, Path("/proc/sys", name).read_text().strip()
    except OSError:
        return


def _pins(settings: Settings) -> list[str]:
    root = settings.node.bpffs / "podlane"
    root.stat()
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


async def _filters() -> AsyncIterator[Member]:
    found: dict[str, Any] = {}
    devices = [one["ifname"] for one in _json((await tools.run("ip", "-j", "link", "show")).stdout)]
    for name in devices:
        if not name.startswith(_PREFIXES):
            continue
        found[name] = {}
        for hook in ("ingress", "egress"):
            done = await tools.run("tc", "-j", "filter", "show", "dev", name, hook, check=False)
            found[name][hook] = _json(done.stdout) if not done.code else {"error": done.stderr.strip()}
    yield Member("kernel/ip/filters.json", found)


async def _bpf() -> AsyncIterator[Member]:
    """Yield what is podlane's, by the names of its maps: other programs of the machine are nobody's business here."""
    maps = [one for one in await _bpftool("map") if str(one.get("name", "")).startswith("podlane")]
    yield Member("kernel/bpf/maps.json", maps)
    own = {one["id"] for one in maps}
    programs = [one for one in await _bpftool("prog") if own & set(one.get("map_ids", ()))]
    yield Member("kernel/bpf/programs.json", programs)
    ids = {one["id"] for one in programs}
    yield Member("kernel/bpf/links.json", [one for one in await _bpftool("link") if one.get("prog_id") in ids])


async def _bpftool(what: str) -> list[dict[str, Any]]:
    found = _json((await tools.run("bpftool", "-j", what, "show")).stdout)
    return found if isinstance(found, list) else []


async def _dumps(settings: Settings) -> AsyncIterator[Member]:
    if settings.loader.socket.exists():
        return
    for path in sorted((settings.node.bpffs / "podlane" / "maps").glob("*")):
        if path.name.startswith(_DUMPED):
            done = await tools.run("bpftool", "-j", "map", "dump", "pinned", str(path))
            yield Member(f"kernel/bpf/dump/{path.name}.json", _json(done.stdout))


async def _pods(settings: Settings) -> AsyncIterator[Member]:
    records = list(from_files.link_records(settings))[:_PODS_AT_MOST]
    turns = asyncio.Semaphore(_AT_A_TIME)

    async def look(name: str, path: str) -> Member:
        async with turns:
            return Member(f"pods/{name}.json", await _inside(path))

    looks = [look(name, str(record.get("netns_path", ""))) for name, record in records]
    for done in asyncio.as_completed(looks):
        yield await done


async def _inside(path: str) -> dict[str, Any]:
    """Return what is in a namespace; a pod that is going away says so."""
    found: dict[str, Any] = {"netns_path": path}
    try:
        found["netns_inode"] = os.stat(path).st_ino  # noqa: PTH116 # beside the tool's run it takes no time
        script = f"; echo '{_MARK}'; ".join(command for _, command in _INSIDE)
        done = await tools.run("nsenter", f"--net={path}", "sh", "-c", script)
        found |= {name: _json(said) for (name, _), said in zip(_INSIDE, done.stdout.split(_MARK), strict=True)}
    except (OSError, ValueError, PodlaneError) as error:
        found["error"] = error.message if isinstance(error, PodlaneError) else str(error)
    return found
