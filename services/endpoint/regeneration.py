"""What a regeneration does, and what happens when it fails.

    trigger ─▶ (fold into the waiting one │ enqueue) ─▶ permit ─▶ begin ─▶ regenerating ─▶ loader ─▶ ready ─▶ record
                                                                                │ error
                                                                                ▼
                                        waiting-to-regenerate; the controller `regeneration-recovery` tries again
                                        until it succeeds, or the link turns out to be gone

Level 2 is asked for by who wants programs loaded: a new endpoint, or an operator. Everybody else (a restart, changed
switches, the periodic regeneration) asks for level 1, which the loader promotes where that is needed.

Permits bound how many regenerations run at a time, so that a restart with hundreds of endpoints leaves the node its
CPUs. The first build of an endpoint takes none: a pod waits for it, and it has a bound of its own (`admission.py`).

A failed regeneration changes nothing in the kernel: the loader keeps the old programs live. The endpoint's record keeps
the last success beside it, so that a restart compares with what is really in force. A regeneration that found all as it
should be leaves no trace but a count: the periodic one does so every few minutes.

A regeneration writes the whole policy map, as policy is when it begins. What changes for endpoints at rest is one call
for all of them instead (`enforce.py`), which is level 1, too, and nothing but maps.
"""

import asyncio
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from services.common import wire
from services.common.controller_parameters import Parameters
from services.common.errors import FailedPrecondition, NotFound, PodlaneError
from services.common.model import Phase
from services.common.stopwatch import Stopwatch
from services.endpoint import options
from services.endpoint.enforce import Enforcer
from services.endpoint.events import RegenerationEvent, Request
from services.endpoint.managed import ManagedEndpoint
from services.endpoint.model import Endpoint, EndpointState, Level, LogCode, LogType, Regeneration
from services.endpoint.observed import Built
from services.endpoint.peers import Loader
from services.endpoint.policy.desired import EndpointPolicy
from services.endpoint.store import Store

INITIAL = Request(Level.REWRITE_LOAD, ("initial build on endpoint creation",))
REPEATED = Request(Level.NO_REBUILD, ("endpoint creation was repeated",))
PERIODIC = Request(Level.NO_REBUILD, ("periodic endpoint regeneration",))
RECOVERY = "regeneration-recovery"

_RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 0.5, 30.0


def permits(setting: int) -> int:
    """Return how many regenerations may run at a time: the setting, or max(2, CPUs) when it is 0."""
    return setting or max(2, os.cpu_count() or 1)


@dataclass
class Tally:
    """What has happened since the start."""

    succeeded: int = 0
    failed: int = 0
    folded: int = 0


class Regenerator:
    """Regenerates endpoints. `link_gone` is called with an endpoint whose link the loader can't find."""

    def __init__(
        self,
        loader: Loader,
        store: Store,
        enforcer: Enforcer,
        permits_: int,
        *,
        link_gone: Callable[[ManagedEndpoint], None],
        observe: Callable[[Iterable[Phase]], None],
    ) -> None:
        """Wire the parts. `observe` is told what the loader says about the time of each regeneration."""
        self._loader = loader
        self._store = store
        self._enforcer = enforcer
        self._permits = asyncio.Semaphore(permits_)
        self._link_gone, self._observe = link_gone, observe
        self.tally = Tally()
        self.node_options: options.Options = {}
        """The node's switches; they count from the next regeneration on."""

    def trigger(self, managed: ManagedEndpoint, request: Request) -> RegenerationEvent:
        """Ask for a regeneration; await the event's `result` or leave it.

        Raises FailedPrecondition (the endpoint is going) and Exhausted (its queue is full).
        """
        event, folded = managed.queue.trigger(request, lambda event: self._regenerate(managed, event))
        managed.count(folded=folded)
        self.tally.folded += folded
        reasons = "; ".join(event.request.reasons)
        waiting_for = f"a regeneration at level {event.request.level} ({reasons})"
        if managed.endpoint.state in {EndpointState.WAITING_TO_REGENERATE, EndpointState.RESTORING}:
            managed.explain(waiting_for)
        else:
            managed.move(EndpointState.WAITING_TO_REGENERATE, waiting_for)
        return event

    async def preview(self, managed: ManagedEndpoint, level: Level) -> Built:
        """Return what a regeneration would do now; nothing is touched. Raises what the loader raises."""
        return await self._ask(managed.endpoint, level, self._enforcer.judge(managed), dry_run=True)

    async def build(self, managed: ManagedEndpoint, request: Request) -> Regeneration:
        """Have the loader build the endpoint, and note what came of it; the state stays `regenerating`.

        Raises what the loader raises, and FailedPrecondition when the endpoint is going.
        """
        reasons = "; ".join(request.reasons)
        waiting_for = f"the loader to finish a regeneration ({reasons})"
        if not managed.move(EndpointState.REGENERATING, waiting_for, builder=True):
            raise FailedPrecondition(f"{managed.endpoint} is {managed.endpoint.state}: it is not regenerated")
        started, watch, begin = wire.now(), Stopwatch(), time.perf_counter_ns()
        try:
            async with self._enforcer.carrying(managed) as policy:
                watch.add("resolve", begin)
                built = await self._ask(managed.endpoint, request.level, policy)
        except PodlaneError as error:
            failed = Regeneration(request.level, request.reasons, started, _phases(begin, watch.phases), error.message)
            managed.update(last_regeneration=_keeping(failed, managed.endpoint.last_regeneration))
            managed.count(failures=1)
            self.tally.failed += 1
            message = f"regeneration at level {request.level} failed ({reasons}): {error.message}"
            managed.note(LogType.BPF, LogCode.FAILURE, message)
            raise
        managed.count(regenerations=1)
        self.tally.succeeded += 1
        phases = _phases(begin, (*watch.phases, *built.phases))
        self._observe(phases)
        done = Regeneration(
            level=built.level,
            reasons=request.reasons,
            started=started,
            phases=phases,
            programs=built.datapath.programs,
            config_hash=built.datapath.config_hash,
            reload_reason=built.reason,
            changes=built.changes,
            request_id=built.datapath.request_id,
        )
        if _says_something(done, managed.endpoint.last_regeneration):
            managed.update(last_regeneration=done)
            managed.note(LogType.BPF, LogCode.OK, _describe(done))
        return done

    def switches(self, endpoint: Endpoint) -> dict[str, bool]:
        """Return the switches that an endpoint's programs are to have."""
        return options.effective(self.node_options, endpoint.options)

    async def _ask(
        self, endpoint: Endpoint, level: Level, policy: EndpointPolicy | None, *, dry_run: bool = False
    ) -> Built:
        entries = policy.entries() if policy is not None else None
        return await self._loader.regenerate(endpoint, level, entries, self.switches(endpoint), dry_run=dry_run)

    async def _regenerate(self, managed: ManagedEndpoint, event: RegenerationEvent) -> None:
        """Run as an event of the endpoint's queue."""
        before = managed.endpoint.last_regeneration
        async with self._permits:
            request = event.begin()
            try:
                event.finish(await self.build(managed, request))
            except PodlaneError as error:
                self._failed(managed, error)
                raise
        managed.move(EndpointState.READY, "", builder=True)
        if managed.endpoint.last_regeneration is not before:
            await managed.save(self._store.update)

    def _failed(self, managed: ManagedEndpoint, error: PodlaneError) -> None:
        if managed.endpoint.state in {EndpointState.DISCONNECTING, EndpointState.DISCONNECTED}:
            return
        managed.move(EndpointState.WAITING_TO_REGENERATE, f"the next attempt; the last one failed: {error.message}")
        if isinstance(error, NotFound):
            self._link_gone(managed)
        # Its own attempt fails here, too: then its back-off decides when the next one is.
        if RECOVERY not in managed.controllers:
            recover = Parameters(
                run=lambda: self._try_again(managed), retry_base=_RETRY_SECONDS, retry_cap=_LONGEST_RETRY_SECONDS
            )
            managed.controllers.update(RECOVERY, recover, delay=_RETRY_SECONDS)

    async def _try_again(self, managed: ManagedEndpoint) -> None:
        endpoint = managed.endpoint
        if endpoint.state is not EndpointState.READY:
            failed = endpoint.last_regeneration
            level = failed.level if failed is not None and failed.error else Level.NO_REBUILD
            await self.trigger(managed, Request(level, ("retrying regeneration",))).result()
        await managed.controllers.remove(RECOVERY)


def _says_something(done: Regeneration, last: Regeneration | None) -> bool:
    """Return whether a regeneration did anything, ends a failure, or found what a killed one had put in force."""
    if last is None or last.error or done.config_hash != last.config_hash:
        return True
    return done.level is Level.REWRITE_LOAD or bool(done.changes)


def _describe(done: Regeneration) -> str:
    what = "; ".join(filter(None, (done.reload_reason, *done.changes)))
    return f"regenerated at level {done.level} ({'; '.join(done.reasons)})" + (f": {what}" if what else "")


def _phases(begin: int, parts: Iterable[Phase]) -> tuple[Phase, ...]:
    """Return `regenerate`, which began at `begin` and ends now, and its parts."""
    whole = Phase("regenerate", (time.perf_counter_ns() - begin) // 1000, begin // 1000)
    return (whole, *(replace(phase, name=f"regenerate:{phase.name}") for phase in parts))


def _keeping(failed: Regeneration, last: Regeneration | None) -> Regeneration:
    """Return a failure that still says which programs are in force: those of the last success."""
    if last is None:
        return failed
    return replace(failed, programs=last.programs, config_hash=last.config_hash, request_id=last.request_id)
