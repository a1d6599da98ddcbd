"""Who is created next: as many at a time as the CPUs are good for, the others in a line that costs nothing.

    identity ─▶ line ─▶ (its turn) ─▶ creation ─▶ left, and the next one's turn
                  └▶ withdrawn: its caller has hung up, it is deleted, its link is gone

A pod's creation is CPU: the loader's, the verifier's, this service's. Many at once finish together, late; in a line
they finish one after the other, and none has to be the one that its runtime gives up on. First come, first served
(`line.py`). Cilium's counterpart is a token bucket that knows nothing when it starts, refuses with 429, and has those
whom it refuses begin at the end again.

- A place stands behind the identity, which may have to wait for etcd and needs no CPU for that, and inside the first
  event of the endpoint's queue, so that what else is wanted of the endpoint comes after it.
- Who waits has an address, a link, and an endpoint that `podlane endpoint list` shows with position and estimate;
  nothing of it is on disk, and nothing in the kernel but the link. So a place is given up without a trace, and at once.
  Address and link are the caller's to free, its runtime's by DEL, or they expire as after any ADD that was killed.
- A creation that has begun is finished, whoever is still interested: that takes a moment, half a one is worse.
- A caller whose deadline can't be met is refused before it has got an identity or a place, with numbers.
- Deletions never stand here, nor do regenerations, which have permits of their own (`regeneration.py`): neither keeps
  the other waiting for more than a share of the CPUs.

While the node isn't ready (the loader is being started again), whose turn comes waits for that. Once that lasts longer
than a call is to wait for a service, the line is dissolved, everybody with the reason, and not two seconds for each.

Measured on 2 CPUs, medians of four rounds of 120 ADDs at the same moment, whole processes: the last is done after 4.5 s
with one at a time, 4.3 with two, 4.2 with four, 3.9 with eight, 4.0 without a bound, all within what rounds differ by;
the middle one after 74, 75, 79, 77 and 96 % of that. So a bound costs nothing from four on, which is twice the CPUs:
a creation waits for ipam's disk and the loader's threads at times. Most of what the middle one waits for are the
interpreters of those behind it, which start before anybody can ask for anything.

Priorities are left alone. In the same storm a TCP stream between two running pods kept 57 % of its throughput and a
ping-pong took 2.3 times as long; with the services at nice -5 it was 29 % and 2.8, with the plugin at nice 10, 36 % and
3.8 (the services then run all the time), with the services at nice 5, 63 % and 2.6: that one is within the noise, and
on a node whose CPUs are taken by somebody else it would cost every pod. None made the ADDs more than a twelfth faster.
Pings lost nothing, and their p99 stayed below 0.25 ms: packets are forwarded by whoever is interrupted. Where pods have
a cgroup of their own, as with the kubelet, cpu.weight decides about their share in any case.

Invariant: who waits in the line is exactly who has a future here that isn't done.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from services.common.errors import Exhausted, PodlaneError, Unavailable
from services.endpoint.line import Line, Place
from services.endpoint.node import Readiness


def width(setting: int) -> int:
    """Return how many creations may run at a time: the setting, or twice the CPUs when it is 0."""
    return setting or 2 * (os.cpu_count() or 1)


@dataclass
class Tally:
    """What has happened since the start."""

    admitted: int = 0
    waited_seconds: float = 0.0
    refused: int = 0
    withdrawn: int = 0


class Caller:
    """Who asked for a creation, and where it stands. `patience` is how long it waits, in seconds; None: for ever."""

    def __init__(self, patience: float | None = None) -> None:
        """Begin with somebody who listens, and stands nowhere."""
        self._until = None if patience is None else time.monotonic() + patience
        self.gone = False
        self.id = 0

    @property
    def patience(self) -> float | None:
        """Seconds that are left."""
        return None if self._until is None else self._until - time.monotonic()


class Admission:
    """The line and who waits in it, by the ids of their endpoints."""

    def __init__(self, width_: int, readiness: Readiness) -> None:
        """Begin empty."""
        self.line = Line(width_)
        self.tally = Tally()
        self._readiness = readiness
        self._turns: dict[int, asyncio.Future[None]] = {}

    def check(self, patience: float | None) -> None:
        """Raise Exhausted, with numbers, when who comes now can't be done before its caller gives up."""
        waiting = self.line.waiting
        # Where nobody waits there is nothing to come back for.
        expected = self.line.soonest(waiting + 1) if waiting else None
        if patience is None or expected is None or expected <= patience:
            return
        self.tally.refused += 1
        left = f"{max(patience, 0.0):.1f}"
        raise Exhausted(
            f"too many pods are starting on this node: {waiting} wait and {self.line.working} are being made, so this "
            f"one would be done in {expected:.1f} s at best, and its caller waits {left} s: try again later",
            position=waiting + 1,
            estimate_seconds=f"{expected:.1f}",
            patience_seconds=left,
        )

    @contextlib.asynccontextmanager
    async def turn(self, id_: int, caller: Caller) -> AsyncIterator[None]:
        """Wait for an endpoint's turn, and work for the block. Raises what `withdraw` was given, and Unavailable."""
        begin = time.perf_counter()
        if caller.gone:
            raise _hung_up()
        caller.id = id_
        try:
            if not self.line.join(id_):
                await self._wait(id_)
            await self._readiness.still()
            begun = time.perf_counter()
            self.tally.admitted += 1
            self.tally.waited_seconds += begun - begin
            yield
            self.line.learn(time.perf_counter() - begun)
        finally:
            caller.id = 0  # by the time it hangs up it may be somebody else's
            self._leave(id_)

    def hang_up(self, caller: Caller) -> None:
        """Take note that nobody listens any more: a place that is waited for is given up, or never taken."""
        caller.gone = True
        self.withdraw(caller.id, _hung_up())

    def withdraw(self, id_: int, why: PodlaneError) -> bool:
        """Let an endpoint that waits give up its place, which raises `why` there; return whether it did wait."""
        turn = self._turns.get(id_)
        if turn is None or turn.done():
            return False
        self.tally.withdrawn += 1
        turn.set_exception(why)
        self._leave(id_)
        return True

    def places(self) -> Mapping[int, Place]:
        """Return where everybody stands who waits."""
        return self.line.places()

    async def _wait(self, id_: int) -> None:
        turn = self._turns[id_] = asyncio.get_running_loop().create_future()
        try:
            await turn
        finally:
            del self._turns[id_]

    def _leave(self, id_: int) -> None:
        following = self.line.leave(id_)
        if following is not None and not self._turns[following].done():
            self._turns[following].set_result(None)


def _hung_up() -> Unavailable:
    return Unavailable("its caller hung up before its turn came")
