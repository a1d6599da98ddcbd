"""What policy costs on the data path: the same path with few and with many entries in the policy maps.

Two pods of one node whose maps are filled by hand: none is what a pod without policies has (everything is allowed),
the others have entries of many identities and ports, of which one lets the packets pass, and prefixes around many
addresses, the pods' among them. An open flow isn't asked about, so its packets should cost the same under each; a
flow's first packet pays for three look-ups, which `asked` shows alone: the programs without connection tracking.

Fillings take turns, with connections of their own each time.
"""

import contextlib
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path

from scapy.layers.inet import IP, TCP

from benchmarks import path
from benchmarks.harness import Report, Row
from benchmarks.path import Pair, told
from benchmarks.programs import loaded, once
from services.common.model import Network
from services.loader import headers, libbpf_programs, maps, pathmaps, policymaps
from services.loader.model import Direction, PolicyEntry
from tests.bpf_support import ALLOW_ALL, ETHER, PEER_IDENTITY, PEER_V4, POD_IDENTITY, POD_V4

_TCP = 6
_FIRST_IDENTITY, _FIRST_PORT, _PORTS = 1_000, 20_000, 50
_OF_PREFIXES = 1 << 24
_NEW_FLOWS = 20_000
_ROUNDS = 100
_SECONDS = 1.0


@dataclass(frozen=True)
class Filling:
    """What is in the maps beside what lets the packets pass."""

    name: str
    entries: int
    prefixes: int

    def policy(self, peers: frozenset[int], ports: tuple[int, ...]) -> list[PolicyEntry]:
        """Return entries by which these peers reach these ports, among as many that apply to nobody here."""
        if not self.entries:
            return list(ALLOW_ALL)
        mine = [
            PolicyEntry(direction, peer, _TCP, port, 16) for direction in Direction for peer in peers for port in ports
        ]
        others = [
            PolicyEntry(direction, _FIRST_IDENTITY + number // _PORTS, _TCP, _FIRST_PORT + number % _PORTS, 16)
            for number in range(self.entries // 2 - len(mine) // 2)
            for direction in Direction
        ]
        return mine + others

    def table(self, pods: tuple[str, ...]) -> dict[Network, int]:
        """Return prefixes: one around each pod, the others around addresses of nobody."""
        if not self.prefixes:
            return {}
        around = {ip_network(f"{address}/24", strict=False): _OF_PREFIXES for address in pods}
        others = {
            ip_network(f"198.{18 + number // 256}.{number % 256}.0/{24 + number % 5}"): _OF_PREFIXES + 1 + number
            for number in range(self.prefixes - len(around))
        }
        return {**around, **others}


NONE = Filling("none", 0, 0)
FILLINGS = (NONE, Filling("100 entries", 100, 0), Filling("10,000 entries, 1,000 prefixes", 10_000, 1_000))


class Maps:
    """The maps of a node that is up and has two pods, opened by their pins."""

    def __init__(self, pins: Path, stack: contextlib.ExitStack) -> None:
        """Open the policy maps of all endpoints, the prefixes and the revision."""
        self._policies = [
            stack.enter_context(policymaps.Policy.open(pin, headers.SIZES)) for pin in sorted(pins.glob("policy_*"))
        ]
        self._prefixes = stack.enter_context(policymaps.Prefixes.open(pins / maps.PREFIXES, headers.SIZES))
        self._revision = stack.enter_context(policymaps.Revision.open(pins / maps.REVISION, headers.SIZES))
        endpoints = stack.enter_context(pathmaps.Endpoints.open(pins / maps.ENDPOINTS, headers.SIZES))
        self.identities = frozenset(entry.identity for entry in endpoints.dump() if not entry.host)

    def fill(self, policy: list[PolicyEntry], table: Mapping[Network, int]) -> None:
        """Put a filling in force."""
        for one in self._policies:
            one.sync(policy)
        self._prefixes.delete(self._prefixes.dump())
        self._prefixes.put(table)
        self._revision.bump()

    def check(self, policy: list[PolicyEntry]) -> None:
        """Fail when a filling is no longer there: somebody has mended it meanwhile."""
        if any(len(one.entries()) != len(policy) for one in self._policies):
            raise RuntimeError("the policy maps were changed during the measurement")


def over_the_path(pair: Pair, pins: Path, work: Path, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Return Gbit/s and microseconds of a ping-pong under each filling."""
    binary = path.build(work)
    found: dict[str, dict[str, list[float]]] = {"gbps": {}, "ping_pong_us": {}}
    with contextlib.ExitStack() as stack:
        here = Maps(pins, stack)
        for turn in range(rounds):
            for filling in FILLINGS[turn % len(FILLINGS) :] + FILLINGS[: turn % len(FILLINGS)]:
                policy = filling.policy(here.identities, path.PORTS)
                here.fill(policy, filling.table((pair[2],)))
                found["gbps"].setdefault(filling.name, []).append(path.throughput(pair, "-t", f"{_SECONDS:g}"))
                found["ping_pong_us"].setdefault(filling.name, []).append(path.ping_pong(binary, pair, _SECONDS))
                here.check(policy)
        here.fill(list(ALLOW_ALL), {})
    return found


def per_packet(filling: Filling) -> dict[str, float]:
    """Return the median nanoseconds of a packet from pod to pod, both programs: of an open flow, the first of a new
    one, and one that is asked about because nothing is tracked.
    """
    packet = ETHER / IP(src=POD_V4, dst=PEER_V4, ttl=255) / TCP(sport=4242, dport=80)
    frames = [
        bytes(ETHER / IP(src=POD_V4, dst=PEER_V4) / TCP(sport=1 + number % 65_535, dport=80, flags="S"))
        for number in range(_NEW_FLOWS)
    ]
    policy = filling.policy(frozenset({PEER_IDENTITY, POD_IDENTITY}), (80,))
    found = {}
    for what, turned in (("open flow", ()), ("asked", ("conntrack",))):
        with loaded(turned) as datapath:
            datapath.enforce(policy).prefixes.put(filling.table((PEER_V4,)))
            found[what] = statistics.median(once(datapath, "from_container", packet) for _ in range(_ROUNDS))
            if not turned:
                found["new flow"] = statistics.median(
                    libbpf_programs.prog_test_run(datapath.programs["from_container"], frame).duration_ns
                    for frame in frames
                )
    return found


def report(pair: Pair, pins: Path, into: Report, work: Path, rounds: int = 9) -> None:
    """Add the ratios to a path without policy, and the programs' nanoseconds."""
    measured = over_the_path(pair, pins, work, rounds)
    programs = {filling.name: per_packet(filling) for filling in FILLINGS}
    into.raw["policypath"] = {**measured, "ns_per_packet": programs}
    fast, slow = (
        {name: statistics.median(values) for name, values in measured[what].items()}
        for what in ("gbps", "ping_pong_us")
    )
    for filling in FILLINGS[1:]:
        name = filling.name
        into.add(
            Row(
                f"TCP, {name} ÷ none",
                fast[name] / fast["none"],
                "×",
                aim=0.97,
                at_most=False,
                note=told(fast, "Gbit/s"),
            )
        )
        into.add(Row(f"ping-pong, {name} ÷ none", slow[name] / slow["none"], "×", aim=1.03, note=told(slow, "µs")))
    for name, figures in programs.items():
        for what, nanoseconds in figures.items():
            into.add(Row(f"program, pod → pod, {what}, {name}", nanoseconds, "ns"))
