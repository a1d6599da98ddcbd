"""Bringing the policy maps of this node's endpoints to what policy asks for, many at a time.

    the resolver has settled ─▶ `note`: whose policy is another one, which prefixes ─▶ `flush`: one call of the loader
                                                                                        for all that was noted so far

What is in force is known for each endpoint at rest: whoever put its whole map in force says so, or found it by its
digest. A flush sends the difference to what is wanted *now*, so it makes up for everything before it, and any number of
changes that come while one runs are one more flush. Entries and prefixes are written in the order that `resolve.py`
asks for.

An endpoint whose regeneration is under way (`carrying`) is left alone: its map is about to be written as a whole. When
that is done and its policy is another one by then, it is noted again. One that the loader refuses, or whose answer was
lost, is regenerated at level 1, which writes the whole map. After an answer that was lost the kernel may lack prefixes,
and a map that is written whole then lets nobody in whom it names by them; or maps may lack what is to be there before
prefixes go. So first, before the next map or flush, what is missing everywhere is made up for, in the order of all
changes (`catch_up`). What can't be written because the map is too small is said and left as it is, which opens nothing.

Invariants: at most one flush at a time; the difference is sent only against a content that the loader finds there
(`policydigest.py`).

Not here: what policies mean (`policy/`), documents and identities (`policies.py`), the message (`loaderpeer.py`).
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from services.common import telemetry, wire
from services.common.errors import Exhausted, PodlaneError
from services.common.model import Network, Phase
from services.endpoint.managed import ManagedEndpoint
from services.endpoint.model import EndpointState, Level, LogCode, LogType, Regeneration
from services.endpoint.observed import PolicyChange
from services.endpoint.policy.desired import EndpointPolicy
from services.endpoint.policy.prefixes import PrefixChanges
from services.endpoint.policybatch import Batch, Change, InForce
from services.endpoint.registry import Registry, Selector

_log = telemetry.logger("enforce")


class Enforcing(Protocol):
    """What is needed of the loader."""

    async def update_policies(self, changes: Iterable[PolicyChange], prefixes: PrefixChanges) -> Mapping[int, str]:
        """Change policy maps and prefixes; return whom it refused, and why."""


@dataclass
class Effect:
    """What flushes came to. `failures` are sentences."""

    endpoints: set[int] = field(default_factory=set)
    added: int = 0
    removed: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)
    again: list[Awaitable[None]] = field(default_factory=list)
    """Ends of the regenerations of those that were refused."""

    def add(self, other: "Effect") -> None:
        """Add what more flushes came to."""
        self.endpoints |= other.endpoints
        self.added += other.added
        self.removed += other.removed
        self.failures += other.failures


class Enforcer:
    """Knows what is in force. `wanted` returns an endpoint's policy, or raises Exhausted; `again` begins to
    regenerate an endpoint and returns what waits for the end; `catch_up` compares maps and prefixes with the kernel's.
    """

    def __init__(
        self,
        loader: Enforcing,
        registry: Registry,
        wanted: Callable[[int], EndpointPolicy],
        again: Callable[[ManagedEndpoint, str], Awaitable[None]],
        catch_up: Callable[[], Awaitable[object]],
    ) -> None:
        """Wire."""
        self._loader = loader
        self._registry = registry
        self._wanted, self._again, self._catch_up = wanted, again, catch_up
        self._behind = False
        """Whether a flush was lost, and nobody has looked since what of it the kernel has."""
        self._in_force: dict[int, InForce] = {}
        self._carried: dict[int, asyncio.Event] = {}
        self._noted: dict[int, set[str]] = {}
        self._added: dict[Network, int] = {}
        self._removed: dict[Network, int] = {}
        self._flushing = asyncio.Lock()

    @property
    def pending(self) -> bool:
        """Whether something was noted and not sent."""
        return bool(self._noted or self._added or self._removed)

    def note(self, endpoints: Iterable[int], prefixes: PrefixChanges, why: str) -> None:
        """Take note of endpoints whose policy is another one, and of prefixes that came and went."""
        for id_ in endpoints:
            self._noted.setdefault(id_, set()).add(why)
        for network, number in prefixes.added.items():
            if self._removed.get(network) == number:
                del self._removed[network]
            else:
                self._added[network] = number
        for network, number in prefixes.removed.items():
            if self._added.pop(network, None) is None:
                self._removed[network] = number

    def found(self, id_: int, policy: EndpointPolicy) -> None:
        """Take it that an endpoint's map holds a policy: it was compared."""
        if id_ not in self._carried:
            self._in_force[id_] = InForce(policy)

    def forget(self, id_: int) -> None:
        """Let an endpoint go."""
        self._in_force.pop(id_, None)
        self._noted.pop(id_, None)

    def in_force(self, id_: int) -> EndpointPolicy | None:
        """Return what an endpoint's map holds; None: it is being written, or nobody knows."""
        known = self._in_force.get(id_)
        return known.policy if known is not None else None

    @contextlib.asynccontextmanager
    async def carrying(self, managed: ManagedEndpoint) -> AsyncIterator[EndpointPolicy | None]:
        """Have an endpoint's whole map written in the block: the policy to write, or None to leave the map as it is.

        None is for an endpoint that runs and whose policy doesn't fit its map; one that is new is not made: Exhausted.
        """
        id_ = managed.endpoint.id
        if self._behind:
            async with self._flushing:
                await self._make_up()
        before = self._in_force.pop(id_, None)
        policy = self.judge(managed)
        done = self._carried[id_] = asyncio.Event()
        try:
            yield policy
            if policy is not None:
                self._in_force[id_] = InForce(policy)
            elif before is not None:
                self._in_force[id_] = before
            if self._is_stale(id_):
                self.note((id_,), PrefixChanges({}, {}), "policy changed while it was regenerated")
                await self.flush()
        finally:
            del self._carried[id_]
            done.set()

    async def _make_up(self) -> None:
        """Have the kernel get what a lost flush has kept from it, unless it has been compared since."""
        if self._behind:
            try:
                await self._catch_up()
            except Exhausted as error:
                # Prefixes don't fit: said by every flush; no map is to wait for that.
                _log.error("policy", error=error.message)
            self._behind = False

    async def settled(self, endpoints: Iterable[int]) -> None:
        """Wait until none of these is being regenerated."""
        for id_ in endpoints:
            if id_ in self._carried:
                await self._carried[id_].wait()

    async def flush(self) -> Effect:
        """Send what was noted. Raises Unavailable and friends: then whom it concerned is regenerated as a whole."""
        effect = Effect()
        begin = time.perf_counter()
        async with self._flushing:
            # What is pending may be the rest of a flush that was lost: prefixes alone, without the maps' part.
            await self._make_up()
            while self.pending:
                await self._send(effect)
        effect.seconds = time.perf_counter() - begin
        return effect

    async def _send(self, effect: Effect) -> None:
        noted, self._noted = self._noted, {}
        prefixes = PrefixChanges(self._added, self._removed)
        self._added, self._removed = {}, {}
        work = Batch()
        for id_, whys in noted.items():
            self._collect(work, id_, "; ".join(sorted(whys)), effect)
        if not work.changes and not any(prefixes):
            return
        started, begin = wire.now(), time.perf_counter()
        try:
            refused = await self._call(work, prefixes)
        except PodlaneError as error:
            self._added = {**prefixes.added, **self._added}
            self._removed = {**prefixes.removed, **self._removed}
            self._behind = True
            for one in work.changes.values():
                for managed, _ in one.targets:
                    self._lost(managed, error.message, effect)
            raise
        phase = Phase("policy", round((time.perf_counter() - begin) * 1e6))
        for one in work.changes.values():
            for managed, why in one.targets:
                id_ = managed.endpoint.id
                if id_ in refused:
                    self._lost(managed, refused[id_], effect)
                else:
                    self._done(managed, one, why, effect, started=started, phase=phase)

    def _collect(self, work: Batch, id_: int, why: str, effect: Effect) -> None:
        """Add what an endpoint needs. Whoever isn't at rest is somebody else's to write."""
        managed, known = self._registry.find(Selector(id=id_)), self._in_force.get(id_)
        if managed is None or known is None:
            return
        try:
            policy = self.judge(managed)
        except Exhausted as error:  # of an endpoint whose creation is about to end
            effect.failures.append(error.message)
            return
        if policy is None:
            effect.failures.append(managed.endpoint.policy_error)
        elif policy is not known.policy:
            work.add(managed, known, policy, why)

    async def _call(self, work: Batch, prefixes: PrefixChanges) -> dict[int, str]:
        """Send a batch, in one call whatever its size: the order of its parts is what makes it atomic."""
        changes = [one.message() for one in work.changes.values() if one.delta.added or one.delta.removed]
        if not changes and not any(prefixes):
            return {}
        return dict(await self._loader.update_policies(changes, prefixes))

    def judge(self, managed: ManagedEndpoint) -> EndpointPolicy | None:
        """Return what an endpoint's map is to hold; None when that doesn't fit. Raises Exhausted for a new endpoint."""
        try:
            policy = self._wanted(managed.endpoint.id)
        except Exhausted as error:
            if not managed.endpoint.built:
                raise
            if managed.endpoint.policy_error != error.message:
                managed.update(policy_error=error.message)
                managed.note(LogType.POLICY, LogCode.FAILURE, error.message)
                _log.error("policy", endpoint=managed.endpoint.id, error=error.message)
            return None
        if managed.endpoint.policy_error:
            managed.update(policy_error="")
            managed.note(LogType.POLICY, LogCode.OK, "its policies fit its policy map again")
        return policy

    def _is_stale(self, id_: int) -> bool:
        known = self._in_force.get(id_)
        if known is None:
            return False
        try:
            return self._wanted(id_) is not known.policy
        except PodlaneError:
            return False

    def _done(
        self, managed: ManagedEndpoint, change: Change, why: str, effect: Effect, *, started: float, phase: Phase
    ) -> None:
        """Note that a change is in force."""
        id_, delta = managed.endpoint.id, change.delta
        if id_ in self._in_force:
            self._in_force[id_] = change.after
        if not (delta.added or delta.removed):
            return
        effect.endpoints.add(id_)
        effect.added += len(delta.added)
        effect.removed += len(delta.removed)
        words = f"policy map policy_{id_}: {len(delta.added)} entries written, {len(delta.removed)} removed"
        last = managed.endpoint.last_regeneration
        managed.count(regenerations=1)
        managed.update(
            last_regeneration=Regeneration(
                Level.NO_REBUILD,
                (why,),
                started,
                (phase,),
                programs=last.programs if last is not None else (),
                config_hash=last.config_hash if last is not None else "",
                request_id=last.request_id if last is not None else "",
                changes=(words,),
            )
        )
        managed.note(LogType.POLICY, LogCode.OK, f"regenerated at level {Level.NO_REBUILD} ({why}): {words}")

    def _lost(self, managed: ManagedEndpoint, why: str, effect: Effect) -> None:
        """Have the whole map written, because nobody knows what is in it."""
        id_ = managed.endpoint.id
        self._in_force.pop(id_, None)
        if managed.endpoint.state not in {EndpointState.DISCONNECTING, EndpointState.DISCONNECTED}:
            effect.again.append(self._again(managed, f"its policy map could not be changed: {why}"))
