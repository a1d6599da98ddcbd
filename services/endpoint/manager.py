"""The endpoints of this node: create, delete, check, and what happens to them without being asked.

Per attachment one thing happens at a time: an ADD, a DEL, a link that vanished, a remainder that is taken down. So a
DEL waits for the ADD that is in flight, even when nobody waits for that ADD any more, and finds its endpoint. All of it
runs shielded: a caller that hangs up stops waiting, the work goes on. What hasn't begun is another matter: a creation
that waits for its turn (`admission.py`) is given up by its caller, by a DEL and by the loss of its link.

A creation that fails leaves nothing; where even undoing fails (the loader is gone), the endpoint stays as a remainder,
`disconnecting`, and is taken down as soon as that is possible: by the controller `removal`, by a DEL, or by the next
ADD of the same attachment, whichever comes first.

Not here: steps and their undo (`flow.py`), comparing with the kernel (`restore.py`), what operators ask (`operate.py`).
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from services.common import controllers, telemetry, wire
from services.common.controller import Parameters
from services.common.errors import FailedPrecondition, NotFound, PodlaneError
from services.common.lifecycle import Shielded
from services.common.locks import KeyedLocks
from services.common.model import Attachment
from services.endpoint import flow, plan
from services.endpoint.admission import Admission, Caller
from services.endpoint.chronicle import Chronicle
from services.endpoint.events import RegenerationEvent, Request
from services.endpoint.flow import Addresses, Creation
from services.endpoint.ids import Ids
from services.endpoint.line import Place
from services.endpoint.managed import Home, ManagedEndpoint
from services.endpoint.model import Endpoint, EndpointSpec, EndpointState, LogCode, LogType
from services.endpoint.node import Readiness
from services.endpoint.observed import LinkRemoval
from services.endpoint.options import NO_OPTIONS, Options, check
from services.endpoint.peers import Ipam, Loader
from services.endpoint.policies import Policies
from services.endpoint.policy.desired import EndpointPolicy
from services.endpoint.publisher import Publisher
from services.endpoint.regeneration import INITIAL, RECOVERY, REPEATED, Regenerator
from services.endpoint.registry import Registry, Selector
from services.endpoint.store import Store
from services.endpoint.timeline import Recorder
from services.endpoint.watch import Change, Told, Watchers

_log = telemetry.logger("manager")

REMOVAL = "removal"
_RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 0.5, 30.0


@dataclass(frozen=True, slots=True)
class Parts:
    """What the manager works with."""

    store: Store
    loader: Loader
    ipam: Ipam
    controllers: controllers.Registry
    publisher: Publisher
    watchers: Watchers
    readiness: Readiness
    registry: Registry
    policies: Policies
    admission: Admission
    chronicle: Chronicle


class Manager:
    """A component: `start` reads the records, `stop` waits for what runs."""

    def __init__(self, parts: Parts, queue_size: int, permits: int) -> None:
        """Wire; nothing is read before `start`."""
        self._store, self._loader, self._ipam = parts.store, parts.loader, parts.ipam
        self._controllers, self._publisher = parts.controllers, parts.publisher
        self._watchers, self._readiness = parts.watchers, parts.readiness
        self._home = Home(queue_size, parts.controllers, self._publish)
        self.registry, self._policies = parts.registry, parts.policies
        self._admission, self._chronicle = parts.admission, parts.chronicle
        self._ids = Ids()
        self._locks = KeyedLocks()
        self._shielded = Shielded()
        self._background: set[asyncio.Task[None]] = set()
        self.regenerator = Regenerator(
            parts.loader,
            parts.store,
            parts.policies.enforcer,
            permits,
            link_gone=self._lost_link,
            observe=parts.chronicle.regenerated,
        )

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
        while self._background:
            await asyncio.wait(self._background)
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
            self._lost_link(managed)

    def again(self, managed: ManagedEndpoint, request: Request) -> Awaitable[None]:
        """Begin to regenerate an endpoint; what is returned may be awaited for the end, or left."""

        async def run() -> None:
            await self.regenerator.trigger(managed, request).result()

        task = asyncio.create_task(run())
        self._background.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled():
            task.exception()  # it is in the endpoint's log, and the controller `regeneration-recovery` sees to it

    def dispose(self, managed: ManagedEndpoint, addresses: Addresses, why: str) -> None:
        """Take an endpoint down in the background, again and again until it succeeds: the controller `removal`.

        With RELEASE it is not touched if its link turns out to be there after all.
        """

        async def attempt() -> None:
            await self._dispose(managed, addresses, why)

        async def first() -> None:
            try:
                await attempt()
            except PodlaneError as error:
                endpoint = managed.endpoint
                _log.warning("not taken down yet", endpoint=endpoint.id, why=why, error=error.message)
                removal = Parameters(run=attempt, retry_base=_RETRY_SECONDS, retry_cap=_LONGEST_RETRY_SECONDS)
                managed.controllers.update(REMOVAL, removal, delay=_RETRY_SECONDS)

        self._begin(first())

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

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

    async def take_down(self, managed: ManagedEndpoint, addresses: Addresses, why: str) -> None:
        """Take an endpoint down, whose attachment is held. Raises Unavailable: then it stays, `disconnecting`."""
        endpoint = managed.endpoint
        _log.info("taking down", endpoint=endpoint.id, attachment=str(endpoint.spec.attachment), why=why)
        if endpoint.state is not EndpointState.DISCONNECTING:
            managed.note(LogType.OTHER, LogCode.WARNING, f"taken down: {why}")
        await self._take_down(managed, addresses)

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
                await self._take_down(present, Addresses.GIVE_BACK)
            watch.add("node", asked)
            return await self._build(spec, caller, options, watch), True

    async def _make_ready(self, managed: ManagedEndpoint) -> None:
        if managed.endpoint.state is not EndpointState.READY:
            await self.regenerator.trigger(managed, REPEATED).result()

    async def _build(self, spec: EndpointSpec, caller: Caller, options: Options, watch: Recorder) -> Endpoint:
        if options:
            check(options, await self._loader.options())
        self.registry.check_addresses(spec.ips)
        self._admission.check(caller.patience)
        managed = self._new(spec, options)
        try:
            with watch.phase("identity"):
                await self._policies.admit(managed)
        except BaseException:
            managed.move(EndpointState.DISCONNECTING, "nothing: it got no identity")
            await self._forget(managed)
            raise
        self._identified(managed)
        creation = Creation(
            managed, self._store, self._loader, self._ipam, self.regenerator, policies=self._policies, watch=watch
        )

        async def in_turn(event: RegenerationEvent) -> None:
            async with self._admission.turn(managed.endpoint.id, caller):
                await creation.run(event)

        # It waits inside its event: what others want of this endpoint meanwhile comes after it, or is folded in.
        event, _ = managed.queue.trigger(INITIAL, in_turn)
        try:
            await event.result()
        except BaseException as error:
            self._chronicle.failed(managed.endpoint, watch.timeline(wire.now()), error)
            await self._failed(managed, creation, error)
            raise
        self._chronicle.created(managed)
        self._publisher.begin(managed)
        self._policies.see_to_identity(managed)
        return managed.endpoint

    def _new(self, spec: EndpointSpec, options: Options) -> ManagedEndpoint:
        """Make an endpoint that waits for its identity."""
        id_, generation = self._ids.take()
        now = wire.now()
        new = Endpoint(
            id_, generation, spec, now, EndpointState.WAITING_FOR_IDENTITY, options=options, unready_since=now
        )
        managed = ManagedEndpoint(new, self._home)
        self.registry.put(managed)
        self._watchers.tell(Change.UPSERTED, new)
        return managed

    def _identified(self, managed: ManagedEndpoint) -> None:
        """Bring an endpoint that has its identity as far as it gets without anybody's help."""
        endpoint, now = managed.endpoint, wire.now()
        labels = endpoint.identity_labels
        who = f"({labels})" if labels else "(reserved:init): its labels are not known"
        why = self._policies.backend.provisional(endpoint.identity)
        code, for_now = (LogCode.WARNING, f", until it has another one: {why}") if why else (LogCode.OK, "")
        known = endpoint.noted(LogType.OTHER, code, f"identity {endpoint.identity} {who}{for_now}", now)
        # In one go: nobody may see `ready`, which the table has in between, before there is a datapath.
        managed.endpoint = known.moved(EndpointState.READY, "", now).moved(
            EndpointState.WAITING_TO_REGENERATE, f"a regeneration ({INITIAL.reasons[0]})", endpoint.unready_since
        )
        self._watchers.tell(Change.UPSERTED, managed.endpoint)

    async def _failed(self, managed: ManagedEndpoint, creation: Creation, error: BaseException) -> None:
        why = error.message if isinstance(error, PodlaneError) else "a bug: see the service's log"
        waiting_for = f"what its creation left to be removed; it failed: {why}"
        if managed.endpoint.state is EndpointState.DISCONNECTING:
            managed.explain(waiting_for)
        else:
            managed.move(EndpointState.DISCONNECTING, waiting_for)
        if creation.undone:
            await self._forget(managed)
        else:
            self.dispose(managed, Addresses.GIVE_BACK, "its creation failed and could not be undone")

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
            await self._take_down(managed, Addresses.LEAVE)
            return True

    async def _take_down(self, managed: ManagedEndpoint, addresses: Addresses) -> None:
        await managed.controllers.remove(RECOVERY)
        await managed.queue.close("the endpoint is being deleted")
        try:
            await flow.take_down(managed, addresses, self._store, self._loader, self._ipam)
        except PodlaneError as error:
            managed.explain(f"its removal to be repeated; the last attempt failed: {error.message}")
            raise
        await self._forget(managed)

    async def _forget(self, managed: ManagedEndpoint) -> None:
        managed.move(EndpointState.DISCONNECTED, "")
        self.registry.remove(managed)
        self._ids.free(managed.endpoint.id)
        self._watchers.tell(Change.DELETED, managed.endpoint)
        await self._policies.forget(managed)
        await managed.queue.close("the endpoint is deleted")
        # Not waited for: a kvstore that is away must not keep anybody.
        self._begin(managed.controllers.remove_all())

    def _lost_link(self, managed: ManagedEndpoint) -> None:
        link = managed.endpoint.spec.link
        why = f"link {link.host_ifname} (ifindex {link.host_ifindex}) is gone"
        self._admission.withdraw(managed.endpoint.id, NotFound(f"{managed.endpoint}: {why}"))
        self.dispose(managed, Addresses.RELEASE, why)

    async def _dispose(self, managed: ManagedEndpoint, addresses: Addresses, why: str) -> None:
        attachment, link = managed.endpoint.spec.attachment, managed.endpoint.spec.link
        async with self._locks.hold(attachment):
            if self.registry.attached(attachment) is not managed:
                return
            if addresses is Addresses.RELEASE:
                # What was seen may be old news by now: a mark is checked again before the sweep.
                links = await self._loader.links(attachment)
                if any(one.is_same(link) for one in links):
                    return
                # Another link is another ADD on its way, which has been told these addresses.
                addresses = Addresses.GIVE_BACK if links else addresses
            await self.take_down(managed, addresses, why)

    def _publish(self, changed: Endpoint) -> None:
        self._watchers.tell(Change.UPSERTED, changed)
