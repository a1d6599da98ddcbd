"""The programs themselves: nanoseconds per packet by BPF_PROG_TEST_RUN, and what loading them costs.

TEST_RUN leaves out everything around a program (the skb's allocation, the veth, the redirect), so these figures tell
programs apart, not paths; `path.py` is about paths. Shapes take turns within each round, so that the machine's moods
hit all of them.
"""

import re
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from benchmarks.harness import Report, Row
from services.loader import libbpf, libbpf_programs, objects
from services.loader.event import EventType
from tests.bpf_support import (
    ETHER,
    HOST_MAC,
    PEER_V4,
    PEER_V6,
    POD_MAC,
    POD_V4,
    POD_V6,
    WORLD_V4,
    Datapath,
    compiled,
    constants,
    octets,
    peer,
)

# Each repetition is one hop of the same packet: it must not run out of them.
_HOPS = 200
_ROUNDS = 200
_LOADS = 25

INBOUND = Ether(src=HOST_MAC, dst=POD_MAC)
SPOOFED = ETHER / IP(src=WORLD_V4, dst=PEER_V4, ttl=255) / TCP(dport=80)
PATHS: dict[str, tuple[str, Packet]] = {
    "pod → pod, IPv4": ("from_container", ETHER / IP(src=POD_V4, dst=PEER_V4, ttl=255) / TCP(dport=80)),
    "pod → pod, IPv6": ("from_container", ETHER / IPv6(src=POD_V6, dst=PEER_V6, hlim=255) / TCP(dport=80)),
    "pod → stack, IPv4": ("from_container", ETHER / IP(src=POD_V4, dst=WORLD_V4, ttl=255) / TCP(dport=80)),
    "stack → pod, IPv4": ("to_container", INBOUND / IP(src=WORLD_V4, dst=POD_V4, ttl=255) / TCP(dport=80)),
    "spoofed source, dropped": ("from_container", SPOOFED),
}
# Of each shape: the switches that are turned, and the milliseconds in which an endpoint must be verified.
SHAPES: dict[str, tuple[tuple[str, ...], float]] = {"": ((), 3.0), "no conntrack": (("conntrack",), 1.4)}


@contextmanager
def loaded(turned: tuple[str, ...]) -> Iterator[Datapath]:
    """Yield a shape on maps of its own, everything allowed."""
    with Datapath(compiled(*turned)) as datapath:
        datapath.allow_all()
        # TEST_RUN repeats on the packet as the last run left it: it must still be the pod's own.
        for address in (PEER_V4, PEER_V6):
            datapath.endpoints.put(peer(address, host_mac=octets(POD_MAC)))
        yield datapath


def once(datapath: Datapath, program: str, packet: Packet) -> int:
    """Return the average nanoseconds of one row of repetitions."""
    return libbpf_programs.prog_test_run(datapath.programs[program], bytes(packet), repeat=_HOPS).duration_ns


def per_packet(datapaths: Mapping[str, Datapath]) -> dict[str, dict[str, float]]:
    """Return each shape's median nanoseconds of each path; pod → pod includes the destination's policy program."""
    runs: dict[str, dict[str, list[int]]] = {shape: {path: [] for path in PATHS} for shape in datapaths}
    for _ in range(_ROUNDS):
        for shape, datapath in datapaths.items():
            for path, (program, packet) in PATHS.items():
                runs[shape][path].append(once(datapath, program, packet))
    return {shape: {path: statistics.median(times) for path, times in of.items()} for shape, of in runs.items()}


def per_event(datapath: Datapath) -> dict[str, float]:
    """Return the median nanoseconds of a dropped packet: told of, and beyond what the reader has granted."""
    told, beyond = [], []
    for _ in range(_ROUNDS):
        datapath.listen(EventType.DROP, credit=_HOPS)
        told.append(once(datapath, "from_container", SPOOFED))
        datapath.events()
        datapath.listen(EventType.DROP, credit=0)
        beyond.append(once(datapath, "from_container", SPOOFED))
    return {"told of": statistics.median(told), "beyond what is granted": statistics.median(beyond)}


def verification(datapaths: Mapping[str, Datapath]) -> dict[str, dict[str, dict[str, float]]]:
    """Return each shape's programs: instructions, those that the verifier processed, and its time in microseconds."""
    times: dict[tuple[str, str], list[int]] = {}
    found: dict[str, dict[str, dict[str, float]]] = {shape: {} for shape in datapaths}
    for _ in range(_LOADS):
        for shape, datapath in datapaths.items():
            code = compiled(*SHAPES[shape][0])
            for name in code.programs:
                with objects.load(code, constants(), datapath.fds, log_level=4, only=name) as programs:
                    said = re.search(r"verification time (\d+) usec", programs.log)
                    info = libbpf.program_info(programs[name])
                times.setdefault((shape, name), []).append(int(said[1]) if said else 0)
                found[shape][name] = {"instructions": info.instructions, "verified": info.verified_instructions}
    for (shape, name), measured in times.items():
        found[shape][name]["verification_us"] = statistics.median(measured)
    return found


def load_ms(shape: str, datapath: Datapath) -> float:
    """Return the median milliseconds of opening the object, writing the constants and loading all programs."""
    times = []
    for _ in range(50):
        begin = time.perf_counter()
        objects.load(compiled(*SHAPES[shape][0]), constants(), datapath.fds).close()
        times.append((time.perf_counter() - begin) * 1e3)
    return statistics.median(times)


def report(into: Report) -> None:
    """Add the figures of all programs."""
    with ExitStack() as stack:
        datapaths = {shape: stack.enter_context(loaded(turned)) for shape, (turned, _) in SHAPES.items()}
        speed, checks = per_packet(datapaths), verification(datapaths)
        events = per_event(datapaths[""])
        loads = {shape: load_ms(shape, datapath) for shape, datapath in datapaths.items()}
    into.raw["programs"] = {"ns_per_packet": speed, "ns_per_event": events, "verification": checks, "load_ms": loads}
    for shape, paths in speed.items():
        for path, nanoseconds in paths.items():
            into.add(Row(f"program, {_named(path, shape)}", nanoseconds, "ns"))
    for what, nanoseconds in events.items():
        into.add(Row(f"program, dropped, {what}", nanoseconds, "ns"))
    for shape, programs in checks.items():
        for name, figures in programs.items():
            told = f"{figures['instructions']:.0f} instructions, {figures['verified']:.0f} processed by the verifier"
            took = figures["verification_us"] / 1e3
            into.add(Row(f"verification of {_named(name, shape)}", took, "ms", note=told))
        total = sum(figures["verification_us"] for figures in programs.values()) / 1e3
        note = f"open, rewrite and load: {loads[shape]:.2f} ms"
        into.add(Row(f"verification of {_named('an endpoint', shape)}", total, "ms", SHAPES[shape][1], note=note))


def _named(what: str, shape: str) -> str:
    return f"{what}, {shape}" if shape else what
