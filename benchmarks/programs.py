"""The programs themselves: nanoseconds per packet by BPF_PROG_TEST_RUN, and what loading them costs.

TEST_RUN leaves out everything around a program (the skb's allocation, the veth, the redirect), so these figures tell
programs apart, not paths; `path.py` is about paths.
"""

import re
import statistics
import time

from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from benchmarks.harness import Report, Row
from services.loader import libbpf, objects
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

INBOUND = Ether(src=HOST_MAC, dst=POD_MAC)
PATHS: dict[str, tuple[str, Packet]] = {
    "pod → pod, IPv4": ("from_container", ETHER / IP(src=POD_V4, dst=PEER_V4, ttl=255) / TCP(dport=80)),
    "pod → pod, IPv6": ("from_container", ETHER / IPv6(src=POD_V6, dst=PEER_V6, hlim=255) / TCP(dport=80)),
    "pod → stack, IPv4": ("from_container", ETHER / IP(src=POD_V4, dst=WORLD_V4, ttl=255) / TCP(dport=80)),
    "stack → pod, IPv4": ("to_container", INBOUND / IP(src=WORLD_V4, dst=POD_V4, ttl=255) / TCP(dport=80)),
    "spoofed source, dropped": ("from_container", ETHER / IP(src=WORLD_V4, dst=PEER_V4, ttl=255) / TCP(dport=80)),
}


def per_packet(datapath: Datapath) -> dict[str, float]:
    """Return the median nanoseconds of each path; pod → pod includes the destination's policy program."""
    found = {}
    for name, (program, packet) in PATHS.items():
        runs = [
            libbpf.prog_test_run(datapath.programs[program], bytes(packet), repeat=_HOPS).duration_ns
            for _ in range(_ROUNDS)
        ]
        found[name] = statistics.median(runs)
    return found


def verification(datapath: Datapath) -> dict[str, dict[str, float]]:
    """Return each program's instructions, those that the verifier processed, and its time in microseconds."""
    code = compiled()
    found = {}
    for name in code.programs:
        times = []
        for _ in range(15):
            with objects.load(code, constants(), datapath.fds, log_level=4, only=name) as programs:
                times.append(int(re.search(r"verification time (\d+) usec", programs.log).group(1)))  # type: ignore[union-attr] # level 4 always says it
                info = libbpf.program_info(programs[name])
        found[name] = {
            "instructions": info.instructions,
            "verified": info.verified_instructions,
            "verification_us": statistics.median(times),
        }
    return found


def load_ms(datapath: Datapath) -> float:
    """Return the median milliseconds of opening the object, writing the constants and loading all programs."""
    times = []
    for _ in range(50):
        begin = time.perf_counter()
        objects.load(compiled(), constants(), datapath.fds).close()
        times.append((time.perf_counter() - begin) * 1e3)
    return statistics.median(times)


def report(into: Report) -> None:
    """Add the figures of all programs."""
    compiled()  # not what is measured
    with Datapath() as datapath:
        datapath.allow_all()
        # TEST_RUN repeats on the packet as the last run left it: it must still be the pod's own.
        for address in (PEER_V4, PEER_V6):
            datapath.endpoints.put(peer(address, host_mac=octets(POD_MAC)))
        speed, checks, load = per_packet(datapath), verification(datapath), load_ms(datapath)
    into.raw["programs"] = {"ns_per_packet": speed, "verification": checks, "load_ms": load}
    for name, nanoseconds in speed.items():
        into.add(Row(f"program, {name}", nanoseconds, "ns"))
    for name, figures in checks.items():
        told = f"{figures['instructions']:.0f} instructions, {figures['verified']:.0f} processed by the verifier"
        into.add(Row(f"verification of {name}", figures["verification_us"] / 1e3, "ms", note=told))
    total = sum(figures["verification_us"] for figures in checks.values()) / 1e3
    into.add(Row("verification of an endpoint", total, "ms", 3.0, note=f"open, rewrite and load: {load:.2f} ms"))
