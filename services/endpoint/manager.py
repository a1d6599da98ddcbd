"""The endpoints of this node: create, delete, check, and what happens to them without being asked.

Per attachment one thing happens at a time: an ADD, a DEL, a link that vanished, a remainder that is taken down. So a
DEL waits for the ADD that is in flight, even when nobody waits for that ADD any more, and finds its endpoint. All of it
runs shielded: a caller that hangs up stops waiting, the work goes on. What hasn't begun is another matter: a creation
that waits for its turn (`admission.py`) is given up by its caller, by a DEL and by the loss of its link.

A creation that fails leaves nothing; where even undoing fails (the loader is gone), the endpoint stays as a remainder,
`disconnecting`, and is taken down as soon as that is possible: by the controller `removal`, by a DEL, or by the next
ADD of the same attachment, whichever comes first.

Not here: how an endpoint comes to be (`creating.py`) and goes (`removal.py`), steps and their undo (`flow.py`),
comparing with the kernel (`restore.py`), what operators ask (`operate.py`).
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager

from services.common import telemetry, wire
from services.common.errors import FailedPrecondition, PodlaneError
from services.common.lifecycle import Background, Shielded
from services.common.locks import KeyedLocks
from services.common.model import Attachment
from services.endpoint import plan
from services.endpoint.admission import Caller
from services.endpoint.creating import Creator
from services.endpoint.events import Request
from services.endpoint.flow import Addresses
from services.endpoint.ids import Ids
from services.endpoint.line import Place
from services.endpoint.managed import Home, ManagedEndpoint
from services.endpoint.model import Endpoint, EndpointSpec, EndpointState, LogCode, LogType
from services.endpoint.observed import LinkRemoval
from services.endpoint.options import NO_OPTIONS, Options
from services.endpoint.parts import Parts
from services.endpoint.policy.desired import EndpointPolicy
from services.endpoint.regeneration import REPEATED, Regenerator
from services.endpoint.registry import Selector
from services.endpoint.removal import Remover
from services.endpoint.timeline import Recorder
from services.endpoint.watch import Change, Told

_log = telemetry.logger("manager")


class Manager:
    """A component: `start` reads the records, `stop` waits for what runs."""

    def __init__(self, parts: Parts, queue_size: int, permits: int) -> None:
        """Wire; nothing is read before `start`."""
        self._store, self._controllers, self._publisher = parts.store, parts.controllers, parts.publisher
        self._watchers, self._readiness = parts.watchers, parts.readiness
        self._home = Home(queue_size, parts.controllers, self._publish)
        self.registry, self._policies = parts.registry, parts.policies
        self._admission, self._chronicle = parts.admission, parts.chronicle
        self._ids = Ids()
        self._locks = KeyedLocks()
        self._shielded = Shielded()
        self._background = Background()
        self.remover = Remover(parts, self._locks, self._background, lambda: self._ids)
        self.regenerator = Regenerator(
            parts.loader,
            parts.store,
            parts.policies.enforcer,
            permits,
            link_gone=self.remover.lost_link,
            observe=parts.chronicle.regenerated,
        )
        self._creator = Creator(parts, self._home, self.regenerator, self.remover, lambda: self._ids)

    async def start(self) -> None:
        """Read the records; every endpoint is `restoring` until it was compared. Raises CorruptState, Unavailable."""
        endpoints, self._ids, self.regenerator.node_options = await self._store.load()
        for endpoint in endpoints:
            managed = ManagedEndpoint(endpoint, self._home, saved=endpoint.log[-1].number if endpoint.log else 0)
            managed.update(unready_since=wire.now())
            managed.explain("a comparison with the kernel, once the loader and ipam answer")
            self._publisher.adopt(managed)
            self.registry.put(managed)
        self._chronicle.restored(endpoints)
        _log.info("records read", endpoints=len(endpoints))

    async def stop(self) -> None:
        """Let what was begun finish, in the order in which it depends on each other."""
        await self._controllers.stop()
        await self._shielded.stop()
        await self._background.stop()
        await asyncio.gather(*(managed.queue.close("the service is stopping") for managed in self.registry))

    def __iter__(self) -> Iterator[ManagedEndpoint]:
        """Go through the live endpoints in the order of their ids."""
        return iter(self.registry)

    async def create(
        self,
        spec: EndpointSpec,
        patience: float | None = None,
        options: Options = NO_OPTIONS,
        watch: Recorder | None = None,
    ) -> tuple[Endpoint, bool]:
        """Return the endpoint, ready, and whether it is new. `patience` is how long the caller waits, in seconds;
        `options` are the switches that a new one begins with; `watch` has begun when the call came.

        Raises AlreadyExists (address), NotFound (reservation or link), FailedPrecondition (datapath), Exhausted (ids,
        or its turn would come too late), InvalidArgument (no such option), Unavailable.
        """
        caller = Caller(patience)
        try:
            return await self._shielded.run(self._create(spec, caller, options, watch or Recorder()))
        except asyncio.CancelledError:
            self._admission.hang_up(caller)
            raise

    async def delete(self, selector: Selector) -> bool:
        """Take an endpoint down and forget it; False when there was none. Raises Unavailable: repeat it."""
        return await self._shielded.run(self._delete(selector))

    def get(self, selector: Selector) -> ManagedEndpoint:
        """Return one endpoint. Raises NotFound."""
        return self.registry.get(selector)

    def page(self, after: int, size: int) -> list[Endpoint]:
        """Return up to `size` endpoints with ids beyond `after`, in their order."""
        found = (managed.endpoint for managed in self.registry if managed.endpoint.id > after)
        return [endpoint for endpoint, _ in zip(found, range(size), strict=False)]

    def places(self) -> Mapping[int, Place]:
        """Return where the endpoints stand that wait for their turn to be created, by their ids."""
        return self._admission.places()

    def watch(self) -> AsyncIterator[Told]:
        """Yield what exists and then every change."""
        return self._watchers.watch(managed.endpoint for managed in self.registry)

    def policy_of(self, endpoint: Endpoint) -> EndpointPolicy | None:
        """Return what an endpoint is granted; None: that isn't resolved yet, or doesn't fit its map."""
        try:
            return self._policies.wanted(endpoint.id)
        except PodlaneError:
            return None

    def asked_for(self, endpoint: Endpoint) -> plan.Wanted:
        """Return what an endpoint's datapath is to be like."""
        return plan.Wanted(self.regenerator.switches(endpoint), self._policies.wanted_digest(endpoint.id))

    def avoid_ids(self, kernel: Iterable[tuple[int, int]]) -> None:
        """Take note of the ids and generations that the kernel has, whether or not there is a record of them."""
        self._ids.avoid(kernel)

    def link_removed(self, removal: LinkRemoval) -> None:
        """Take down, in the background, the endpoint whose link the kernel reports gone."""
        managed = self.registry.linked(removal.host_ifname, removal.host_ifindex)
        if managed is not None:
            self.remover.lost_link(managed)

    def again(self, managed: ManagedEndpoint, request: Request) -> Awaitable[None]:
        """Begin to regenerate an endpoint; what is returned may be awaited for the end, or left."""

        async def run() -> None:
            await self.regenerator.trigger(managed, request).result()

        task = self._background.begin(run())
        task.add_done_callback(_ended)
        return task

    async def restored(self, managed: ManagedEndpoint) -> None:
        """Say that a restored endpoint is as it should be; complete its record if the last run could not."""
        complete = managed.endpoint.built
        managed.update(built=True)
        managed.move(EndpointState.READY, "", builder=True)
        managed.note(LogType.BPF, LogCode.OK, "restored: the datapath is as it was put in force")
        if not complete:
            await managed.save(self._store.update)

    def busy(self, attachment: Attachment) -> bool:
        """Return whether something happens to an attachment right now."""
        return self._locks.busy(attachment)

    def hold(self, attachment: Attachment) -> AbstractAsyncContextManager[None]:
        """Keep everything else away from an attachment for the block."""
        return self._locks.hold(attachment)

    async def _create(
        self, spec: EndpointSpec, caller: Caller, options: Options, watch: Recorder
    ) -> tuple[Endpoint, bool]:
        asked = time.perf_counter_ns()
        await self._readiness.wait()
        async with self._locks.hold(spec.attachment):
            present = self.registry.attached(spec.attachment)
            if present is not None and plan.repeat(present.endpoint, spec) is plan.Repeat.SAME:
                await self._make_ready(present)
                return present.endpoint, False
            if present is not None:
                _log.info("rebuilt for another link or after a failure", endpoint=present.endpoint.id)
                await self.remover.at_once(present, Addresses.GIVE_BACK)
            watch.add("node", asked)
            return await self._creator.create(spec, caller, options, watch), True

    async def _make_ready(self, managed: ManagedEndpoint) -> None:
        if managed.endpoint.state is not EndpointState.READY:
            await self.regenerator.trigger(managed, REPEATED).result()

    async def _delete(self, selector: Selector) -> bool:
        attachment = selector.attachment
        if attachment is None:
            found = self.registry.find(selector)
            if found is None:
                return False
            attachment = found.endpoint.spec.attachment
        if (waiting := self.registry.find(selector)) is not None:
            # Its creation holds the lock, and a deletion frees things: it isn't to stand in the creations' line.
            self._admission.withdraw(waiting.endpoint.id, FailedPrecondition("it was deleted before its turn came"))
        async with self._locks.hold(attachment):
            managed = self.registry.attached(attachment)
            # Another endpoint may have come while this waited; it is not the one that was meant.
            if managed is None or self.registry.find(selector) is not managed:
                return False
            await self.remover.at_once(managed, Addresses.LEAVE)
            return True

    def _publish(self, changed: Endpoint) -> None:
        self._watchers.tell(Change.UPSERTED, changed)


def _ended(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()  # it is in the endpoint's log, and the controller `regeneration-recovery` sees to it
