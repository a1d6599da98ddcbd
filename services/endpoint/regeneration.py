"""What a regeneration does, and what happens when it fails.

    trigger ─▶ (fold into the waiting one │ enqueue) ─▶ permit ─▶ begin ─▶ regenerating ─▶ loader ─▶ ready ─▶ record
                                                                                │ error
                                                                                ▼
                                                  waiting-to-regenerate, tried again until it succeeds

Permits bound how many regenerations run at a time, so that a restart with hundreds of endpoints leaves the node its
CPUs. The first build of an endpoint takes none: it is what a pod waits for, and runtimes bound those themselves.

A failed regeneration changes nothing in the kernel: the loader keeps the old programs live. The endpoint's record keeps
the last success beside it, so that a restart compares with what is really in force.
"""

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import replace

from services.common import wire
from services.common.errors import FailedPrecondition, NotFound, PodlaneError
from services.common.model import Phase
from services.endpoint import policy
from services.endpoint.events import RegenerationEvent, Request
from services.endpoint.managed import ManagedEndpoint
from services.endpoint.model import EndpointState, Level, LogCode, LogType, Regeneration
from services.endpoint.peers import Loader
from services.endpoint.recovery import Recovery
from services.endpoint.store import Store

INITIAL = Request(Level.REWRITE_LOAD, ("initial build on endpoint creation",))
RETRY = Request(Level.REWRITE_LOAD, ("retrying regeneration",))
REPEATED = Request(Level.REWRITE_LOAD, ("endpoint creation was repeated",))


def permits(setting: int) -> int:
    """Return how many regenerations may run at a time: the setting, or max(2, CPUs) when it is 0."""
    return setting or max(2, os.cpu_count() or 1)


class Regenerator:
    """Regenerates endpoints. `link_gone` is called with an endpoint whose link the loader can't find."""

    def __init__(
        self,
        loader: Loader,
        store: Store,
        recovery: Recovery,
        permits_: int,
        link_gone: Callable[[ManagedEndpoint], None],
    ) -> None:
        """Wire the parts."""
        self._loader = loader
        self._store = store
        self._recovery = recovery
        self._permits = asyncio.Semaphore(permits_)
        self._link_gone = link_gone

    def trigger(self, managed: ManagedEndpoint, request: Request) -> RegenerationEvent:
        """Ask for a regeneration; await the event's `result` or leave it.

        Raises FailedPrecondition (the endpoint is going) and Exhausted (its queue is full).
        """
        event = managed.queue.trigger(request, lambda event: self._regenerate(managed, event))
        reasons = "; ".join(event.request.reasons)
        waiting_for = f"a regeneration at level {event.request.level} ({reasons})"
        if managed.endpoint.state in {EndpointState.WAITING_TO_REGENERATE, EndpointState.RESTORING}:
            managed.explain(waiting_for)
        else:
            managed.move(EndpointState.WAITING_TO_REGENERATE, waiting_for)
        return event

    async def build(self, managed: ManagedEndpoint, request: Request) -> Regeneration:
        """Have the loader build the endpoint, and note what came of it; the state stays `regenerating`.

        Raises what the loader raises, and FailedPrecondition when the endpoint is going.
        """
        reasons = "; ".join(request.reasons)
        waiting_for = f"the loader to finish a regeneration ({reasons})"
        if not managed.move(EndpointState.REGENERATING, waiting_for, builder=True):
            raise FailedPrecondition(f"{managed.endpoint} is {managed.endpoint.state}: it is not regenerated")
        started, begin = wire.now(), time.perf_counter()
        try:
            built = await self._loader.regenerate(managed.endpoint, request.level, policy.allow_all())
        except PodlaneError as error:
            failed = Regeneration(request.level, request.reasons, started, _phases(begin, ()), error.message)
            managed.update(last_regeneration=_keeping(failed, managed.endpoint.last_regeneration))
            message = f"regeneration at level {request.level} failed ({reasons}): {error.message}"
            managed.note(LogType.BPF, LogCode.FAILURE, message)
            raise
        done = Regeneration(
            level=built.level,
            reasons=request.reasons,
            started=started,
            phases=_phases(begin, built.phases),
            programs=built.datapath.programs,
            config_hash=built.datapath.config_hash,
        )
        managed.update(last_regeneration=done)
        managed.note(LogType.BPF, LogCode.OK, f"regenerated at level {built.level} ({reasons})")
        return done

    async def _regenerate(self, managed: ManagedEndpoint, event: RegenerationEvent) -> None:
        """Run as an event of the endpoint's queue."""
        async with self._permits:
            request = event.begin()
            try:
                await self.build(managed, request)
            except PodlaneError as error:
                self._failed(managed, error)
                raise
        managed.move(EndpointState.READY, "", builder=True)
        await managed.save(self._store.update)

    def _failed(self, managed: ManagedEndpoint, error: PodlaneError) -> None:
        if managed.endpoint.state in {EndpointState.DISCONNECTING, EndpointState.DISCONNECTED}:
            return
        managed.move(EndpointState.WAITING_TO_REGENERATE, f"the next attempt; the last one failed: {error.message}")
        if isinstance(error, NotFound):
            self._link_gone(managed)
        self._recovery.retry(recovery_name(managed.endpoint.id), lambda: self._try_again(managed))

    async def _try_again(self, managed: ManagedEndpoint) -> None:
        if managed.endpoint.state is not EndpointState.READY:
            await self.trigger(managed, RETRY).result()


def recovery_name(endpoint_id: int) -> str:
    """Return the name under which an endpoint's failed regeneration is tried again."""
    return f"endpoint-{endpoint_id}-regeneration-recovery"


def _phases(begin: float, loader: tuple[Phase, ...]) -> tuple[Phase, ...]:
    whole = Phase("regenerate", round((time.perf_counter() - begin) * 1e6))
    return (whole, *(Phase(f"regenerate:{phase.name}", phase.duration_us) for phase in loader))


def _keeping(failed: Regeneration, last: Regeneration | None) -> Regeneration:
    """Return a failure that still says which programs are in force: those of the last success."""
    return failed if last is None else replace(failed, programs=last.programs, config_hash=last.config_hash)
