"""Connection tracking against a model of it: whatever comes in whatever order, the programs say what the model says."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from services.loader import libbpf
from services.loader.model import Direction, PolicyEntry
from tests.bpf_support import ETHER, HOST_MAC, OK, POD_MAC, POD_V4, WORLD_V4, Datapath

pytestmark = pytest.mark.privileged

IN, OUT = Direction.INGRESS, Direction.EGRESS
FIN, SYN, RST, ACK = 1, 2, 4, 16
TCP_NUMBER, UDP_NUMBER = 6, 17
PORTS = (80, 4242)

# Seconds. No sum of them comes within a second of a lifetime from below, which is what an entry's end may be off by.
AGES = (7, 14, 35, 63, 3997, 8001)


@dataclass(frozen=True)
class Segment:
    """A packet between a port of the pod and a port of the world; flags are TCP's."""

    direction: Direction
    protocol: int
    local: int
    remote: int
    flags: int

    def packet(self) -> Packet:
        """Return it as the programs meet it."""
        out = self.direction is OUT
        source, destination = (self.local, self.remote) if out else (self.remote, self.local)
        l4: Packet = UDP(sport=source, dport=destination)
        if self.protocol == TCP_NUMBER:
            l4 = TCP(sport=source, dport=destination, flags=self.flags)
        if out:
            return ETHER / IP(src=POD_V4, dst=WORLD_V4) / l4
        return Ether(src=HOST_MAC, dst=POD_MAC) / IP(src=WORLD_V4, dst=POD_V4) / l4


@dataclass
class Entry:
    """A flow as the model has it; `seen` of the opener and of the replies."""

    direction: Direction
    end: float
    seen: list[int] = field(default_factory=lambda: [0, 0])
    answered: bool = False
    past_syn: bool = False

    @property
    def closing(self) -> bool:
        """Reset by one side, or ended by both."""
        return bool((self.seen[0] | self.seen[1]) & RST or self.seen[0] & self.seen[1] & FIN)

    def note(self, flags: int, *, reply: bool, tcp: bool, now: float) -> None:
        """Take a packet into account."""
        self.answered |= reply
        lifetime = 60
        if tcp:
            self.seen[reply] |= flags & (FIN | RST)
            self.past_syn |= not flags & SYN
            lifetime = 8000 if self.answered and self.past_syn else 60
            lifetime = 10 if self.closing else lifetime
        self.end = now + lifetime


@dataclass
class Model:
    """What may pass, by the rules at the top of bpf/lib/conntrack.h."""

    allowed: frozenset[tuple[Direction, int, int]] = frozenset()
    flows: dict[tuple[int, int, int], Entry] = field(default_factory=dict)
    now: float = 0.0

    def passes(self, one: Segment) -> bool:
        """Return whether a packet passes, and remember it."""
        key, tcp = (one.protocol, one.local, one.remote), one.protocol == TCP_NUMBER
        entry = self.flows.get(key)
        if entry is not None and entry.end <= self.now:
            entry = None
        if entry is not None and tcp and one.flags & (SYN | ACK) == SYN:
            entry = None if entry.direction != one.direction or entry.closing else entry
        if entry is not None and entry.direction != one.direction:
            entry.note(one.flags, reply=True, tcp=tcp, now=self.now)
            return True
        port = one.local if one.direction is IN else one.remote
        if (one.direction, one.protocol, port) not in self.allowed:
            if entry is not None:
                del self.flows[key]
            return False
        if entry is None:
            if tcp and one.flags & RST:
                return True
            entry = self.flows[key] = Entry(one.direction, 0)
        entry.note(one.flags, reply=False, tcp=tcp, now=self.now)
        return True


PACKETS = st.builds(
    Segment,
    st.sampled_from(Direction),
    st.sampled_from((TCP_NUMBER, UDP_NUMBER)),
    st.sampled_from(PORTS),
    st.sampled_from(PORTS),
    st.sampled_from((SYN, SYN | ACK, ACK, ACK, FIN | ACK, RST, RST | ACK)),
)
EVERYTHING = frozenset((one, protocol, port) for one in Direction for protocol in (6, 17) for port in PORTS)
RULES = st.frozensets(st.sampled_from(sorted(EVERYTHING)))
STEPS = st.lists(st.one_of(PACKETS, PACKETS, PACKETS, PACKETS, RULES, st.sampled_from(AGES)), min_size=5, max_size=40)


@pytest.fixture(scope="module")
def shared() -> Iterator[Datapath]:
    with Datapath() as datapath:
        yield datapath


def passes(datapath: Datapath, one: Segment) -> bool:
    """Return whether the programs let a packet pass."""
    if one.direction is OUT:
        return datapath.send(one.packet()).verdict == OK
    return datapath.receive(one.packet(), came_in_at=5).verdict == OK


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_the_programs_agree_with_the_model(
    shared: Datapath, steps: list[Segment | frozenset[tuple[Direction, int, int]] | int]
) -> None:
    model, done = Model(), []
    libbpf.map_delete_batch(shared.flows.fd, [key for key, _ in shared.entries()])
    for step in [EVERYTHING, *steps]:
        done.append(step)
        if isinstance(step, int):
            model.now += step
            shared.age(step)
        elif isinstance(step, frozenset):
            model.allowed = step
            shared.enforce([PolicyEntry(one, 0, protocol, port, 16) for one, protocol, port in step])
        else:
            assert passes(shared, step) == model.passes(step), done
