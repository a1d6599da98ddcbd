"""One packet through an endpoint's programs, each with what it asked and what it did.

    1  the maps are asked what the programs will ask them (replay.py)
    2  the programs in force run over the packet (probe.py)
    3  both are compared: how it ends, why, under which identities, what it is to its flow

The programs' own word counts where both differ, and the difference is told: then either the replay is wrong, or the
programs don't run with the maps that the loader has. Of flows nothing stays: those that the run opens are removed, and
one that was there is written back as it was, so packets of that flow that come within this millisecond are forgotten.

`from_overlay` can't be run over a packet that nobody sent: it asks for the tunnel's key, which a test run hasn't got.
What another node tunnels is told from the maps alone.
"""

import ipaddress
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

from services.common.errors import InvalidArgument, NotFound
from services.common.model import Address, Network
from services.loader import conntrack, layout, libbpf, packetdiff
from services.loader.datapath import Datapath
from services.loader.layout import EndpointEntry, IpcacheEntry
from services.loader.model import Direction, EndpointRecord, EndpointSpec, NodeConfig, PolicyEntry
from services.loader.packetdiff import Rewrite
from services.loader.probe import Prober, Run
from services.loader.probepacket import Probe
from services.loader.refusal import place_text, reason_text
from services.loader.replay import Replay
from services.loader.replaysteps import Node, Step, Verdict
from services.loader.statedir import StateDir

# In struct __sk_buff.
_MARK = struct.Struct("=8xI")
_VERDICTS = {0: Verdict.OK, 2: Verdict.SHOT, 7: Verdict.REDIRECT, 0xFFFFFFFF: Verdict.OK}
# Who makes which change.
_ONLY_TUNNEL = frozenset({"VXLAN"})


@dataclass(frozen=True, slots=True)
class TracedStep:
    """A step, the program that it is of (id 0: not known), what it rewrote, and of a drop where that was decided."""

    step: Step
    program_id: int
    hook: str
    rewrites: tuple[Rewrite, ...]
    place: str
    ran: bool


@dataclass(frozen=True, slots=True)
class PacketTrace:
    """What became of a packet; `packet` is its frame."""

    steps: tuple[TracedStep, ...]
    disagreements: tuple[str, ...]
    packet: bytes

    @property
    def passed(self) -> bool:
        """Whether no program dropped it."""
        return self.steps[-1].step.verdict is not Verdict.SHOT


class LiveTables:
    """The maps as they are, each asked at most once for each question."""

    def __init__(self, datapath: Datapath, state: StateDir) -> None:
        """Ask these."""
        self._datapath, self._state = datapath, state
        self.flows: dict[bytes, bytes | None] = {}
        self.policy = cache(self._policy)

    def endpoint(self, address: Address) -> EndpointEntry | None:
        """See Tables."""
        return self._datapath.endpoints.get(address)

    def ipcache(self, address: Address) -> IpcacheEntry | None:
        """See Tables."""
        return self._datapath.ipcache.get(address) if self._datapath.ipcache is not None else None

    def prefix(self, address: Address) -> tuple[Network, int] | None:
        """See Tables."""
        return longest(self._prefixes, address)

    @cached_property
    def _prefixes(self) -> dict[Network, int]:
        return self._datapath.prefixes.dump()

    def _policy(self, endpoint_id: int) -> Sequence[PolicyEntry]:
        return self._datapath.policy_entries(endpoint_id)

    def flow(self, key: bytes) -> bytes | None:
        """See Tables; what was there is kept in `flows`."""
        flows = self._datapath.flows
        found = libbpf.map_lookup(flows.fd, key, conntrack.VALUE.size) if flows is not None else None
        self.flows[key] = found
        return found

    def put_back(self) -> None:
        """Give the flows that were asked for what they had; those that weren't there are nobody's."""
        flows = self._datapath.flows
        if flows is None:
            return
        for key, value in self.flows.items():
            if value is not None:
                libbpf.map_update(flows.fd, key, value)
        flows.remove(key for key, value in self.flows.items() if value is None)

    def slot(self, endpoint_id: int) -> int | None:
        """See Tables."""
        return self._datapath.call_policy.get(endpoint_id)

    def spec(self, endpoint_id: int) -> EndpointSpec | None:
        """See Tables."""
        record = self._state.record(endpoint_id)
        return record.spec if record is not None else None

    @property
    def revision(self) -> int:
        """See Tables."""
        return self._datapath.revision.get()

    @property
    def now(self) -> int:
        """See Tables."""
        return time.monotonic_ns()


class PacketTracer:
    """Traces packets, one at a time."""

    def __init__(self, prober: Prober, datapath: Datapath, state: StateDir) -> None:
        """Wire."""
        self._prober, self._datapath, self._state = prober, datapath, state

    async def trace(
        self, id_: int, probe: Probe, direction: Direction, config: NodeConfig, *, forwarded: bool
    ) -> PacketTrace:
        """Follow a packet. Raises NotFound (no programs), InvalidArgument (not the endpoint's), Unavailable."""
        return await self._prober.alone(id_, lambda: self._trace(id_, probe, direction, config, forwarded=forwarded))

    def _trace(
        self, id_: int, probe: Probe, direction: Direction, config: NodeConfig, *, forwarded: bool
    ) -> PacketTrace:
        record = self._prober.record(id_)
        tables = LiveTables(self._datapath, self._state)
        replay = Replay(tables, self._node(config), probe)
        if direction is Direction.EGRESS:
            steps = replay.egress(record.spec)
            return self._told(steps, self._run(record, probe, direction, 0, tables))
        if probe.destination not in record.spec.addresses:
            raise InvalidArgument(f"destination: {probe.destination} is not endpoint {id_}'s", field="destination")
        there = tables.ipcache(probe.source) if forwarded else None
        if there is not None and there.node is not None and tables.endpoint(probe.source) is None:
            told = tuple(self._traced(step, (), "", ran=False) for step in replay.overlay(record.spec, there))
            return PacketTrace(told, (), b"")
        ifindex = self._came_in_at(probe, there) if forwarded else 0
        steps = replay.ingress(record.spec, ifindex)
        return self._told(steps, self._run(record, probe, direction, ifindex, tables))

    def _node(self, config: NodeConfig) -> Node:
        return Node(config.routing, config.tunnel_port, self._underlay())

    def _underlay(self) -> int:
        if self._datapath.underlay is None:
            return 0
        value = libbpf.map_lookup(self._datapath.underlay.fd, layout.SLOT.pack(0), layout.UNDERLAY.size)
        return int(layout.UNDERLAY.unpack(value)[0]) if value is not None else 0

    def _came_in_at(self, probe: Probe, there: IpcacheEntry | None) -> int:
        routed = self._underlay() if there is not None else 0
        return routed or self._prober.came_in_at(probe)

    def _run(self, record: EndpointRecord, probe: Probe, direction: Direction, ifindex: int, tables: LiveTables) -> Run:
        try:
            return self._prober.observe(record, probe, direction, ifindex)
        finally:
            tables.put_back()

    def _told(self, steps: list[Step], run: Run) -> PacketTrace:
        wrong = disagreements(steps, run)
        changed = packetdiff.rewrites(run.packet, run.result.data) + packetdiff.marked(0, _mark(run))
        place = place_text(run.seen.file, run.seen.line) if steps[-1].verdict is Verdict.SHOT else ""
        told = [self._traced(step, _own(step, changed), place if step is steps[-1] else "", ran=True) for step in steps]
        return PacketTrace(tuple(told), tuple(wrong), run.packet)

    def _traced(self, step: Step, rewrites: tuple[Rewrite, ...], place: str, *, ran: bool) -> TracedStep:
        if step.program == "tunnel":
            return TracedStep(step, self._datapath.call_policy.get(0) or 0, "call_policy[0]", rewrites, place, ran)
        record = self._state.record(step.endpoint_id)
        if record is None:
            raise NotFound(f"endpoint {step.endpoint_id} has gone meanwhile", endpoint=step.endpoint_id)
        named = {program.name: program for program in record.programs}
        program = named.get(step.program)
        number, hook = (program.id, program.hook) if program is not None else (0, "ingress of podlane_vxlan")
        at = f" of {record.spec.host_ifname}" if program is not None and not hook.startswith("call_policy") else ""
        return TracedStep(step, number, hook + at, rewrites, place, ran)


def _own(step: Step, changed: Sequence[Rewrite]) -> tuple[Rewrite, ...]:
    """Return what of all changes a step has made: outer headers are the tunnel's, the others the sender's."""
    if step.program not in {"from_container", "tunnel"}:
        return ()
    return tuple(one for one in changed if (step.program == "tunnel") == (one.field in _ONLY_TUNNEL))


def _mark(run: Run) -> int:
    return int(_MARK.unpack_from(run.result.context)[0]) if len(run.result.context) >= _MARK.size else 0


def disagreements(steps: Sequence[Step], run: Run) -> list[str]:
    """Say where the programs did something else than the replay, and let the last step say what they did."""
    last, seen = steps[-1], run.seen
    verdict = _VERDICTS.get(run.result.retval, Verdict.SHOT)
    pairs: list[tuple[str, object, object]] = [
        ("the last program is of endpoint", last.endpoint_id, seen.endpoint_id),
        ("it ends with", last.verdict.name.lower(), verdict.name.lower()),
        ("the sender's identity is", last.source_identity, seen.source_identity),
        ("the receiver's identity is", last.destination_identity, seen.destination_identity),
    ]
    if last.conntrack and last.program != "tunnel":
        pairs.append(("to its flow the packet is state", last.conntrack, seen.conntrack))
    reason = reason_text(seen.reason) if verdict is Verdict.SHOT else ""
    if verdict is Verdict.SHOT or last.verdict is Verdict.SHOT:
        pairs.append(("the drop's reason is", last.reason or "none", reason or "none"))
    wrong = [
        f"{what} {mine} by the maps, and {theirs} by the programs" for what, mine, theirs in pairs if mine != theirs
    ]
    if last.verdict is not verdict or last.reason != reason:
        last.verdict, last.reason = verdict, reason
        last.next = f"dropped: {reason}" if reason else "it passes"
    return wrong


def longest(prefixes: dict[Network, int], address: Address) -> tuple[Network, int] | None:
    """Return the longest prefix that an address lies in, and its identity."""
    for length in range(address.max_prefixlen, -1, -1):
        network = ipaddress.ip_network((address, length), strict=False)
        if network in prefixes:
            return network, prefixes[network]
    return None
