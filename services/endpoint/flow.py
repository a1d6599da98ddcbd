"""Steps with their undo beside them, and the two flows that are made of them.

    create   record → begin confirmation → others' policy maps → datapath → agreement → ready
    delete   intent → datapath → addresses (whose they are, the caller says) → record

`run` does the steps in order. At the first error it undoes the steps that had begun, last first, and raises that error:
a step that failed may have come half-way, so each undo must also be right when there is nothing to undo. An undo
that fails ends the undoing: the steps before it stay, above all the record, which must outlive whatever it names,
and the endpoint stays as a remainder that is taken down later. Deleting has no undo: it only ever goes on.

The addresses of a chained endpoint are another plugin's: nothing is confirmed, nothing agreed on and nothing freed.

The confirmation of the reservation runs beside the building of the datapath, because neither needs the other and a
pod waits for both. Its undo makes the addresses a reservation again, so that the caller finds them as it left them.

A pod waits for one commit, the intent. That the creation finished is written behind the answer: it is true because the
datapath is in the kernel and the confirmation on ipam's disk, and a restart that finds both believes them (`plan.py`).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto

from services.common import telemetry, wire
from services.common.errors import AlreadyExists, FailedPrecondition, PodlaneError
from services.endpoint import plan
from services.endpoint.events import Event, RegenerationEvent
from services.endpoint.managed import ManagedEndpoint
from services.endpoint.model import EndpointState, LogCode, LogType, Regeneration
from services.endpoint.observed import Allocation
from services.endpoint.peers import Ipam, Loader
from services.endpoint.policies import Policies
from services.endpoint.regeneration import Regenerator
from services.endpoint.store import Store
from services.endpoint.timeline import Recorder

_log = telemetry.logger("flow")


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do and how it is taken back; `undo` None: nothing remains of it."""

    name: str
    do: Callable[[], Awaitable[None]]
    undo: Callable[[], Awaitable[None]] | None = None


async def run(steps: Sequence[Step], stuck: Callable[[str, PodlaneError], None] | None = None) -> None:
    """Do the steps; see the module for what an error does. `stuck` is told of an undo that failed."""
    begun: list[Step] = []
    for step in steps:
        begun.append(step)
        try:
            await step.do()
        except BaseException:
            await _undo(begun, stuck)
            raise


async def _undo(begun: Sequence[Step], stuck: Callable[[str, PodlaneError], None] | None) -> None:
    for step in reversed(begun):
        if step.undo is None:
            continue
        try:
            await step.undo()
        except PodlaneError as error:
            _log.error("undo", step=step.name, error=error.message, **error.fields)
            if stuck is not None:
                stuck(step.name, error)
            return


class Creation:
    """The making of one endpoint. It runs as the first event of the endpoint's queue."""

    def __init__(
        self,
        managed: ManagedEndpoint,
        store: Store,
        loader: Loader,
        ipam: Ipam,
        regenerator: Regenerator,
        *,
        policies: Policies,
        watch: Recorder,
    ) -> None:
        """Wire; `run` begins. `watch` is the creation's stopwatch."""
        self._managed = managed
        self._store = store
        self._loader, self._ipam = loader, ipam
        self._regenerator = regenerator
        self._policies = policies
        self._watch = watch
        self._begin = time.perf_counter_ns()
        self._confirmation: asyncio.Task[Allocation]
        self._built: Regeneration
        self.undone = True
        """After a failure: whether nothing of it is left."""

    async def run(self, event: RegenerationEvent) -> None:
        """Make the endpoint, or leave none. Raises the first error."""
        self._watch.add("turn", self._begin)
        ours = not self._managed.endpoint.spec.link.chained
        steps = (
            Step("record", self._record, self._forget),
            *((Step("confirmation", self._begin_confirmation, self._give_back),) if ours else ()),
            Step("peers", self._tell_others),
            Step("datapath", lambda: self._build(event), self._take_down),
            *((Step("agreement", self._agree),) if ours else ()),
            Step("ready", self._ready),
        )
        await run(steps, self._stuck)
        self._managed.queue.enqueue(Event("the end of its record", self._complete))

    async def _record(self) -> None:
        with self._watch.phase("record"):
            await self._managed.save(self._store.insert)

    async def _forget(self) -> None:
        await self._store.delete(self._managed.endpoint)

    async def _begin_confirmation(self) -> None:
        self._confirmation = asyncio.create_task(self._confirm())

    async def _confirm(self) -> Allocation:
        with self._watch.phase("confirm"):
            return await self._confirmed()

    async def _confirmed(self) -> Allocation:
        endpoint = self._managed.endpoint
        owner = endpoint.spec.attachment
        try:
            return await self._ipam.confirm(owner, endpoint.id)
        except AlreadyExists:
            # By an endpoint of this attachment that is gone: there is one at a time, and this is it. Its deletion
            # ended before ipam was told, or the record of it was lost.
            for held in await self._ipam.allocations(owner):
                await self._ipam.unconfirm(owner, held.endpoint_id)
            return await self._ipam.confirm(owner, endpoint.id)

    async def _give_back(self) -> None:
        # Its own error was reported, or is not the first; only whether it still runs matters here.
        await asyncio.wait((self._confirmation,))
        self._confirmation.exception()
        endpoint = self._managed.endpoint
        await self._ipam.unconfirm(endpoint.spec.attachment, endpoint.id)

    async def _tell_others(self) -> None:
        try:
            with self._watch.phase("peers"):
                await self._policies.tell_others()
        except PodlaneError as error:
            # Others' maps don't let this pod in yet, which is safe; they are seen to in the background.
            self._managed.note(LogType.POLICY, LogCode.WARNING, f"its peers don't know it yet: {error.message}")

    async def _build(self, event: RegenerationEvent) -> None:
        with self._watch.phase("datapath"):
            self._built = await self._regenerator.build(self._managed, event.begin())
        self._watch.built(self._built.phases)
        event.finish(self._built)

    async def _take_down(self) -> None:
        endpoint = self._managed.endpoint
        self._managed.move(EndpointState.DISCONNECTING, "the loader to take back what its failed creation made")
        await self._loader.remove(endpoint.id, endpoint.generation)

    async def _agree(self) -> None:
        with self._watch.phase("agreement"):
            allocation = await self._confirmation
        spec = self._managed.endpoint.spec
        if not plan.agrees(spec, allocation):
            raise FailedPrecondition(
                f"addresses: ipam holds {plan.join(allocation.addresses)} for {spec.attachment}, the request says "
                f"{plan.join(spec.ips)}: give CreateEndpoint what AllocateAddresses returned",
                attachment=spec.attachment,
                held=plan.join(allocation.addresses),
            )

    async def _ready(self) -> None:
        spec = self._managed.endpoint.spec
        # The caller's link was down; putting the datapath in force has raised it.
        raised = replace(spec, link=replace(spec.link, up=True))
        self._managed.update(
            built=True, spec=raised, last_regeneration=self._built, timeline=self._watch.timeline(wire.now())
        )
        self._managed.move(EndpointState.READY, "", builder=True)

    async def _complete(self, _event: Event) -> None:
        try:
            await self._managed.save(self._store.update_soon)
        except PodlaneError as error:
            message = f"the record could not be completed, a restart will compare instead: {error.message}"
            self._managed.note(LogType.OTHER, LogCode.WARNING, message)
            _log.error("record", endpoint=self._managed.endpoint.id, error=message)

    def _stuck(self, step: str, error: PodlaneError) -> None:
        self.undone = False
        self._managed.note(LogType.OTHER, LogCode.FAILURE, f"undoing its creation stopped at {step}: {error.message}")


class Addresses(Enum):
    """What a deletion does with the endpoint's addresses."""

    LEAVE = auto()
    """The CNI shim frees them next."""
    RELEASE = auto()
    """The pod is gone and nobody else will."""
    GIVE_BACK = auto()
    """They become a reservation again: another endpoint of this attachment, or expiry, comes next."""


async def take_down(managed: ManagedEndpoint, addresses: Addresses, store: Store, loader: Loader, ipam: Ipam) -> None:
    """Take an endpoint down and delete its record. Repeating it goes on where it stopped.

    Raises Unavailable and friends; then the endpoint stays, `disconnecting`.
    """
    endpoint = managed.endpoint

    async def intent() -> None:
        if endpoint.state is not EndpointState.DISCONNECTING:
            managed.move(EndpointState.DISCONNECTING, "the loader to remove its datapath")
            await managed.save(store.update)

    async def datapath() -> None:
        await loader.remove(endpoint.id, endpoint.generation)

    async def free() -> None:
        if endpoint.spec.link.chained:
            return
        if addresses is Addresses.RELEASE:
            await ipam.release(endpoint.spec.attachment)
        elif addresses is Addresses.GIVE_BACK:
            await ipam.unconfirm(endpoint.spec.attachment, endpoint.id)

    async def record() -> None:
        await store.delete(endpoint)

    await run((Step("intent", intent), Step("datapath", datapath), Step("addresses", free), Step("record", record)))
