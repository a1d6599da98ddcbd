"""Events: what the programs tell of packets, handed to whoever listens.

    first listener   what is left in the ring from before goes ──► each CPU is granted CREDIT records of wanted types
    a record comes   the ring is readable ──► up to BATCH are read ──► each to the queues of those who want it
    PAUSE later      all read: CREDIT is granted anew ──► the ring is listened to again
    last listener    nothing is granted any more: nothing is copied, nothing is read

So the reader says how much is sent. A flood costs fifty readings a second and not one for each packet, and a reader
that is slow or dead costs the data path nothing; what has no credit is counted by type in the program, and each
listener hears of that, and of what it was itself too slow for. Where only background listeners want a type (a history
that somebody may look at later), a CPU is granted BACKGROUND of it. They don't hear of link-local noise: each pod that
starts makes some, and to tell of that would cost an ADD more than its own event does.

Invariants: a queue holds at most LONGEST events; a listener that is slow loses its own events only; no listener, no
cost but one look at a map for each drop.
"""

import asyncio
import struct
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass, field

from services.common import telemetry
from services.common.errors import Unavailable
from services.loader import event
from services.loader.conntrack import Flow
from services.loader.datapath import Datapath
from services.loader.event import Ended, Event, EventType, Lost
from services.loader.libbpf_ring import Ring

BATCH = 128
"""Records per reading: what the loop is busy with before it does something else, about 2 ms."""
PAUSE = 0.02
"""Seconds between two readings."""
CREDIT = 64
"""Records of a type that each CPU may send before the next reading."""
BACKGROUND = 8
"""The same where nobody looks on."""
LONGEST = 4096
"""Events that may wait for one listener."""
_COUNT = 1.0  # seconds between two looks at what the programs have lost

_log = telemetry.logger("events")


@dataclass(eq=False)
class Listener:
    """Who wants which events, and what waits for it. `endpoint_id`: at either end of the packet; 0: any.

    `background`: nobody looks on, so fewer will do.
    """

    types: frozenset[EventType]
    endpoint_id: int
    background: bool = False
    waiting: deque[Event | Ended] = field(default_factory=deque)
    lost: dict[EventType, int] = field(default_factory=dict)
    missed: int = 0
    missed_in_all: int = 0
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    ended: bool = False

    def wants(self, type_: int, *ends: int) -> bool:
        """Return whether an event is for this one, given the endpoints at both ends."""
        return type_ in self.types and (not self.endpoint_id or self.endpoint_id in ends)

    def put(self, one: Event | Ended) -> None:
        """Let an event wait, or count it as missed."""
        if len(self.waiting) >= LONGEST:
            self.missed += 1
            self.missed_in_all += 1
        else:
            self.waiting.append(one)
        self.wake.set()

    def take(self) -> list[Event | Ended | Lost]:
        """Return what waits, and what is missing."""
        found: list[Event | Ended | Lost] = [*self.waiting]
        self.waiting.clear()
        why = f"more than what each CPU may send in {PAUSE * 1e3:.0f} ms"
        found += [Lost(type_, count, why) for type_, count in self.lost.items()]
        if self.missed:
            found.append(Lost(None, self.missed, f"this reader was more than {LONGEST} events behind"))
        self.lost, self.missed = {}, 0
        self.wake.clear()
        return found


class Events:
    """The ring's reader and its listeners. A component, started when the maps are open."""

    def __init__(self, datapath: Datapath) -> None:
        """Wire; nothing is read yet."""
        self._datapath = datapath
        self._listeners: set[Listener] = set()
        self._ring: Ring | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._counter: asyncio.TimerHandle | None = None
        self._not_sent: dict[EventType, int] = {}
        self._wanted: frozenset[EventType] = frozenset()
        self._stopped = False
        self.not_sent = dict.fromkeys(EventType, 0)
        """Events that somebody wanted and that the programs had no credit for, since the start."""
        self._missed = 0

    async def start(self) -> None:
        """Forget what a killed loader's listeners wanted."""
        self._grant(())

    async def stop(self) -> None:
        """End every stream, send and read no more."""
        self._stopped = True
        for listener in tuple(self._listeners):
            listener.ended = True
            listener.wake.set()
        self._close()

    def listen(self, types: Iterable[EventType], endpoint_id: int = 0, *, background: bool = False) -> Listener:
        """Add a listener from now on; `types` empty: all. `forget` it when done."""
        listener = Listener(frozenset(types) or frozenset(EventType), endpoint_id, background)
        if self._ring is None:
            self._open()
        self._listeners.add(listener)
        self._want()
        return listener

    @property
    def listening(self) -> int:
        """How many listen."""
        return len(self._listeners)

    @property
    def missed(self) -> int:
        """Events that listeners were too slow for, since the start."""
        return self._missed + sum(one.missed_in_all for one in self._listeners)

    def forget(self, listener: Listener) -> None:
        """Remove a listener; twice is harmless."""
        if listener in self._listeners:
            self._missed += listener.missed_in_all
        self._listeners.discard(listener)
        if self._listeners:
            self._want()
        else:
            self._close()

    async def watch(self, listener: Listener) -> AsyncGenerator[Event | Ended | Lost, None]:
        """Yield a listener's events as they come, until the caller ends the iteration.

        Raises Unavailable when the service ends.
        """
        try:
            while not listener.ended:
                await listener.wake.wait()
                for one in listener.take():
                    yield one
        finally:
            self.forget(listener)
        raise Unavailable("the loader is stopping: watch again when it is back")

    def _open(self) -> None:
        ring = self._ring = Ring(self._datapath.event_ring.fd)
        while ring.read(BATCH):
            pass  # from before, when somebody else listened
        self._not_sent = self._datapath.packet.not_sent()
        self._listen(grant=False)
        self._count()

    def _close(self) -> None:
        if self._ring is None:
            return
        self._grant(())
        for timer in (self._timer, self._counter):
            if timer is not None:
                timer.cancel()
        asyncio.get_running_loop().remove_reader(self._datapath.event_ring.fd.fileno())
        self._ring.close()
        self._ring = self._timer = self._counter = None

    def _want(self) -> None:
        wanted: frozenset[EventType] = frozenset().union(*(one.types for one in self._listeners))
        now = self._datapath.packet.not_sent()
        for type_ in wanted - self._wanted:
            self._not_sent[type_] = now[type_]  # while nobody wanted it nothing was lost
        self._grant(wanted)

    def expired(self, flows: Iterable[Flow]) -> None:
        """Tell listeners of connections that have ended without a packet."""
        now = time.monotonic_ns()
        for flow in flows:
            for listener in self._listeners:
                if listener.wants(EventType.CONNECTION, flow.endpoint_id):
                    listener.put(Ended(flow, now))

    def _grant(self, types: Iterable[EventType]) -> None:
        self._wanted = frozenset(types)
        watched = frozenset().union(*(one.types for one in self._listeners if not one.background))
        self._datapath.event_credits.grant(
            {type_: CREDIT if type_ in watched else BACKGROUND for type_ in self._wanted}
        )

    def _listen(self, *, grant: bool) -> None:
        self._timer = None
        if grant:
            self._grant(self._wanted)
        asyncio.get_running_loop().add_reader(self._datapath.event_ring.fd.fileno(), self._readable)

    def _readable(self) -> None:
        if self._ring is None:
            return
        records = self._ring.read(BATCH)
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._datapath.event_ring.fd.fileno())
        self._timer = loop.call_later(PAUSE, lambda: self._listen(grant=len(records) < BATCH))
        for record in records:
            self._hand_out(record)

    def _hand_out(self, record: bytes) -> None:
        try:
            wanting = [one for one in self._listeners if one.wants(*event.kind_of(record))]
            if event.is_noise(record):
                wanting = [one for one in wanting if not one.background]
            if not wanting:
                return
            one = event.read(record)
        except (ValueError, struct.error, IndexError):
            _log.warning("a record that this loader can't read", size=len(record), record=record[:16].hex())
            return
        for listener in wanting:
            listener.put(one)

    def _count(self) -> None:
        """Tell the listeners what the programs have not sent since the last look."""
        self._counter = asyncio.get_running_loop().call_later(_COUNT, self._count)
        before, self._not_sent = self._not_sent, self._datapath.packet.not_sent()
        for type_ in self._wanted:
            new = self._not_sent[type_] - before[type_]
            if not new:
                continue
            self.not_sent[type_] += new
            for listener in self._listeners:
                if type_ in listener.types:
                    listener.lost[type_] = listener.lost.get(type_, 0) + new
                    listener.wake.set()
