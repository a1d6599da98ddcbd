"""Policy on this node: documents, identities and endpoints kept together, and every change of them carried through.

    change ─▶ allowed? (owner, mistakes; tried on a clone: does it fit?) ─▶ on disk ─▶ resolver ─▶ Enforcer ─▶ kernel
                                                                                          └▶ new identities: level 1

What changes: documents (applied, deleted, of the watched directory), labels that an operator sets, endpoints that come
and go, identities that come and expire. A change of documents or labels that is refused has changed nothing; one that
is on disk is carried through, now or by the controller `sync-policymap`.

An endpoint's identity follows from its labels. A new one is made known to all who select it, in their maps, before the
endpoint has it; the programs have it as a constant, so an endpoint that is given another one is regenerated. The old
one is released then, and its number is forgotten after the grace time (`identity-gc`).

The resolver is made at the first session with the loader, because prefixes keep the numbers that the kernel's map has.

Invariants: documents change one change at a time; the resolver is changed and settled without awaiting in between;
what is recorded of an endpoint's identity is on disk before a map has it.

Not here: what policies mean (`policy/`), whose map is written when (`enforce.py`), messages (`policyservicer.py`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from services.common import controllers, policydigest, telemetry, wire
from services.common.controller import Parameters
from services.common.errors import Exhausted, FailedPrecondition, NotFound, PodlaneError
from services.common.lifecycle import Shielded
from services.endpoint.enforce import Effect, Enforcer
from services.endpoint.identities import LocalBackend
from services.endpoint.managed import ManagedEndpoint
from services.endpoint.model import INIT_IDENTITY, Endpoint, EndpointState, LogCode, LogType
from services.endpoint.node import Readiness
from services.endpoint.peers import Loader
from services.endpoint.policy import labelchanges, overflow
from services.endpoint.policy.desired import EndpointPolicy
from services.endpoint.policy.document import Document, DocumentKind, DocumentName
from services.endpoint.policy.identity import LARGEST, SMALLEST
from services.endpoint.policy.labelchanges import LabelChange
from services.endpoint.policy.labels import LabelFilter, Labels
from services.endpoint.policy.networkpolicy import NetworkPolicy, PolicyName
from services.endpoint.policy.prefixes import PrefixChanges, PrefixTable
from services.endpoint.policy.repository import Repository, Who
from services.endpoint.policy.resolve import Resolver
from services.endpoint.policy.settings import Settings
from services.endpoint.policychange import Change, Moved, Tried, changed
from services.endpoint.policystore import PolicyStore
from services.endpoint.registry import Registry
from services.endpoint.store import Store

_log = telemetry.logger("policies")

_GC_SECONDS = 30.0
_NOTHING = PrefixChanges({}, {})


@dataclass(frozen=True, slots=True)
class Parts:
    """What policies work with. `regenerate` begins a level-1 regeneration; `publish` tells of a new identity."""

    loader: Loader
    registry: Registry
    store: Store
    policy_store: PolicyStore
    controllers: controllers.Manager
    readiness: Readiness
    regenerate: Callable[[ManagedEndpoint, str], Awaitable[None]]
    publish: Callable[[ManagedEndpoint], None]


class Policies:
    """A component: `start` reads documents and identities, after the endpoints were read."""

    def __init__(self, parts: Parts, settings: Settings, labels: LabelFilter, grace: float) -> None:
        """Wire. `labels` says which are part of identities, `grace` for how many seconds a number outlives its use."""
        self._parts = parts
        self._settings = settings
        self.filter = labels
        self.backend = LocalBackend(grace)
        self.repository = Repository()
        self.enforcer = Enforcer(parts.loader, parts.registry, self.wanted, parts.regenerate)
        self.before_first: Callable[[], Awaitable[None]] | None = None
        """Awaited in the first session, before the node takes endpoints."""
        self._resolver: Resolver | None = None
        self._changing = asyncio.Lock()
        self._shielded = Shielded()
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read documents and identities. Raises CorruptState, Unavailable."""
        documents, identities = await self._parts.policy_store.load(self.filter)
        self.repository = Repository(documents)
        used: dict[int, int] = {}
        for managed in self._parts.registry:
            number = managed.endpoint.identity
            if number >= SMALLEST:
                used[number] = used.get(number, 0) + 1
        self.backend.restore(identities, used)
        self._watching = asyncio.create_task(self._watch())
        self._parts.controllers.update("sync-policymap", Parameters(run=self._sync))
        self._parts.controllers.update("identity-gc", Parameters(run=self.backend.expire, interval=_GC_SECONDS))
        _log.info("policy read", documents=len(documents), identities=len(identities))

    async def stop(self) -> None:
        """Let what was begun finish."""
        await self._shielded.stop()
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait((self._watching,))

    # What is

    @property
    def resolver(self) -> Resolver:
        """All that is known. Raises FailedPrecondition before the first session with the loader."""
        if self._resolver is None:
            raise FailedPrecondition("policy isn't resolved before the loader was reached: see `podlane node status`")
        return self._resolver

    def wanted(self, id_: int) -> EndpointPolicy:
        """Return what an endpoint's map is to hold. Raises Exhausted when the map is too small for it, NotFound."""
        return self.resolver.desired(id_)

    def wanted_digest(self, id_: int) -> bytes | None:
        """Return the digest of what an endpoint's map is to hold; None when that doesn't fit."""
        try:
            return policydigest.digest(self.wanted(id_).entries())
        except (Exhausted, NotFound):
            return None

    @property
    def begun(self) -> bool:
        """Whether there was a session with the loader, before which nothing can be resolved."""
        return self._resolver is not None

    def selected(self, policy: PolicyName) -> frozenset[int]:
        """Return the endpoints that a policy selects; none before the first session."""
        return self._resolver.selected(policy) if self._resolver is not None else frozenset()

    # Sessions

    async def begin(self) -> None:
        """Begin a session with the loader: prefixes first, then whom documents make somebody else than is recorded."""
        first = self._resolver is None
        if first:
            known = await self._parts.loader.prefixes()
            self._resolver = self._resolved(PrefixTable(self._settings.prefix_map_size, known))
        await self._parts.loader.sync_prefixes(self.resolver.prefixes().numbers())
        if first:
            async with self._changing:
                await self._identify_anew()
            if self.before_first is not None:
                await self.before_first()

    async def _identify_anew(self) -> None:
        """Give those their identity who are somebody else than was recorded: a killed change, another filter, an older
        version. Their programs and maps are compared with that next.
        """
        for one in await self._allocate(self._moved(Change(), self.repository)):
            before = one.managed.endpoint.identity
            self._take_in(one, self.resolver)
            self._note_move(one, "its labels are other ones than were recorded")
            await one.managed.save(self._parts.store.update)
            await self._release(before)
        self.resolver.settle()

    def _resolved(self, prefixes: PrefixTable) -> Resolver:
        resolver = Resolver(self._settings, prefixes)
        for number, labels in self.backend.known().items():
            resolver.put_identity(number, labels)
        for policy in self.repository.policies().values():
            resolver.put_policy(policy)
        for managed in self._parts.registry:
            endpoint = managed.endpoint
            resolver.put_endpoint(endpoint.id, endpoint.identity, self.who(endpoint).named_ports)
        resolver.settle()
        return resolver

    def compared(self, managed: ManagedEndpoint) -> None:
        """Take it that an endpoint's map holds what is wanted: the kernel was asked."""
        try:
            policy = self.wanted(managed.endpoint.id)
        except Exhausted:
            return  # nobody knows what it holds; its next regeneration says so
        self.enforcer.found(managed.endpoint.id, policy)

    # Endpoints come and go

    def who(self, endpoint: Endpoint, repository: Repository | None = None) -> Who:
        """Return what documents make of an endpoint; `repository` None: those in force."""
        spec = endpoint.spec
        return (repository or self.repository).who(spec.pod, spec.labels, endpoint.label_changes, self.filter)

    async def admit(self, managed: ManagedEndpoint) -> None:
        """Give a new endpoint its identity and its policy. Raises Exhausted, Unavailable."""
        who = self.who(managed.endpoint)
        number = await self.backend.allocate(who.labels) if who.labels else INIT_IDENTITY
        managed.update(identity=number, identity_labels=who.labels)
        self._take_in(Moved(managed, who, number), self.resolver)
        self._settle(f"identity {number} ({who.labels}) is new")

    async def forget(self, managed: ManagedEndpoint) -> None:
        """Let an endpoint go that is gone."""
        endpoint = managed.endpoint
        self.enforcer.forget(endpoint.id)
        if self._resolver is not None:
            self._resolver.drop_endpoint(endpoint.id)
            self._settle(f"endpoint {endpoint.id} is gone")
        if endpoint.identity >= SMALLEST:
            await self.backend.release(endpoint.identity)

    async def tell_others(self) -> None:
        """Have everybody's maps know what `admit` has brought. Raises Unavailable; it is made up for then."""
        if self.enforcer.pending:
            await self.enforcer.flush()

    # Documents and labels change

    async def apply(
        self, documents: Sequence[Document], source: str, dropped: Iterable[DocumentName] = ()
    ) -> tuple[Change, Effect]:
        """Take documents in, and let `dropped` go; return when the kernel enforces what follows.

        Raises FailedPrecondition (another owner), NotFound (dropped), Exhausted (a map), Unavailable.
        """
        await self._parts.readiness.wait()
        return await self.apply_now(documents, source, dropped)

    async def apply_now(
        self, documents: Sequence[Document], source: str, dropped: Iterable[DocumentName] = ()
    ) -> tuple[Change, Effect]:
        """Do as `apply`, also before the node takes endpoints. Raises FailedPrecondition before the first session."""
        return await self._shielded.run(self._apply(documents, source, tuple(dropped)))

    async def relabel(self, managed: ManagedEndpoint, changes: Sequence[LabelChange]) -> Effect:
        """Take an operator's word about an endpoint's labels. Raises as `apply`, and InvalidArgument."""
        checked = labelchanges.check(changes)
        await self._parts.readiness.wait()
        return await self._shielded.run(self._relabel(managed, checked))

    def change(self, documents: Sequence[Document], source: str, dropped: Iterable[DocumentName] = ()) -> Change:
        """Return what these documents change. Raises NotFound for one to drop that isn't there."""
        return changed(self.repository, documents, source, dropped, wire.now())

    def try_out(self, change: Change, source: str) -> Tried:
        """Return what a change would come to. Raises FailedPrecondition (owner), Exhausted (a map)."""
        numbers = {labels: number for number, labels in self.backend.known().items()}
        moved = []
        for one in self._moved(change, self._after(change)):
            # One that is new is not given out for a question: numbers beyond those of any allocator stand for it.
            number = numbers.setdefault(one.who.labels, LARGEST + 1 + len(numbers)) if one.who.labels else INIT_IDENTITY
            moved.append(one._replace(identity=number))
        return self._try(change, source, moved)

    async def _apply(
        self, documents: Sequence[Document], source: str, dropped: tuple[DocumentName, ...]
    ) -> tuple[Change, Effect]:
        async with self._changing:
            change = self.change(documents, source, dropped)
            self.repository.check_owner(change.outcomes, source)
            return change, await self._carry_out(change, source)

    async def _relabel(self, managed: ManagedEndpoint, changes: Sequence[LabelChange]) -> Effect:
        async with self._changing:
            said = labelchanges.merge(managed.endpoint.label_changes, changes)
            labels = {managed.endpoint.id: said}
            return await self._carry_out(Change(labels=labels, why="an operator has changed its labels"))

    async def _carry_out(self, change: Change, source: str = "") -> Effect:
        after = self._after(change)
        moved = await self._allocate(self._moved(change, after))
        try:
            if change.put or change.dropped or moved:
                self._try(change, source, moved)
            if change.put or change.dropped:
                await self._parts.policy_store.change(change.put, change.dropped)
        except BaseException:
            for one in moved:
                await self._release(one.identity)
            raise
        before = [one.managed.endpoint.identity for one in moved]
        self.repository = after
        self._adopt(self.resolver, change, moved)
        for one in moved:
            self._note_move(one, change.why)
        touched = self._settle(change.why)
        saved = {one.managed.endpoint.id: one.managed for one in moved}
        for managed in self._parts.registry:
            if managed.endpoint.id in change.labels:
                managed.update(label_changes=change.labels[managed.endpoint.id])
                saved[managed.endpoint.id] = managed
        await asyncio.gather(*(managed.save(self._parts.store.update) for managed in saved.values()))
        effect = await self._flush()
        await self._regenerate(moved, change.why, effect)
        await self.enforcer.settled(touched)
        for number in before:
            await self._release(number)
        return effect

    def _after(self, change: Change) -> Repository:
        return self.repository.with_changes(change.put, change.dropped)

    def _moved(self, change: Change, after: Repository) -> list[Moved]:
        """Return the endpoints that the change makes somebody else; those without an identity yet by INIT_IDENTITY."""
        moved = []
        for managed in self._parts.registry:
            endpoint = managed.endpoint
            if endpoint.state in {EndpointState.WAITING_FOR_IDENTITY, EndpointState.DISCONNECTING}:
                continue
            spec, said = endpoint.spec, change.labels.get(endpoint.id, endpoint.label_changes)
            who = after.who(spec.pod, spec.labels, said, self.filter)
            if who.labels != endpoint.identity_labels or who.named_ports != self.who(endpoint).named_ports:
                moved.append(Moved(managed, who, INIT_IDENTITY))
        return moved

    async def _allocate(self, moved: Iterable[Moved]) -> list[Moved]:
        allocated: list[Moved] = []
        try:
            for one in moved:
                number = await self.backend.allocate(one.who.labels) if one.who.labels else INIT_IDENTITY
                allocated.append(one._replace(identity=number))
        except BaseException:
            for one in allocated:
                await self._release(one.identity)
            raise
        return allocated

    async def _release(self, number: int) -> None:
        if number >= SMALLEST:
            await self.backend.release(number)

    def _try(self, change: Change, source: str, moved: Sequence[Moved]) -> Tried:
        self.repository.check_owner((*(one.name for one in change.put), *change.dropped), source)
        clone = self.resolver.clone()
        self._adopt(clone, change, moved)
        changes = clone.settle()
        checked: set[tuple[int, int]] = set()
        for id_ in sorted(changes.endpoints):
            new, old = clone.desired(id_), self.enforcer.in_force(id_)
            if old is not None and (id(new), id(old)) not in checked:
                checked.add((id(new), id(old)))
                overflow.check_transition(new, old, self._settings.policy_map_size, f"endpoint {id_}")
        return Tried(clone, changes.endpoints, {one.managed.endpoint.id: one.identity for one in moved})

    def _adopt(self, resolver: Resolver, change: Change, moved: Iterable[Moved]) -> None:
        for one in change.put:
            if isinstance(one.document, NetworkPolicy):
                resolver.put_policy(one.document)
        for name in change.dropped:
            if name.kind is DocumentKind.NETWORK_POLICY:
                resolver.drop_policy(PolicyName(name.namespace, name.name))
        for moving in moved:
            self._take_in(moving, resolver)

    @staticmethod
    def _take_in(one: Moved, resolver: Resolver) -> None:
        if one.identity >= SMALLEST:
            resolver.put_identity(one.identity, one.who.labels)
        resolver.put_endpoint(one.managed.endpoint.id, one.identity, one.who.named_ports)

    @staticmethod
    def _note_move(one: Moved, why: str) -> None:
        managed, before = one.managed, one.managed.endpoint
        managed.update(identity=one.identity, identity_labels=one.who.labels)
        if one.identity != before.identity:
            words = f"identity {one.identity} ({one.who.labels or 'labels not known'}), it was {before.identity}"
            managed.note(LogType.POLICY, LogCode.OK, f"{words}: {why}")

    async def _regenerate(self, moved: Iterable[Moved], why: str, effect: Effect) -> None:
        """Bring the programs of those to force who are somebody else, and wait for whoever is under way."""
        ends = list(effect.again)
        for one in moved:
            managed = one.managed
            self._parts.publish(managed)
            if managed.endpoint.state not in {EndpointState.DISCONNECTING, EndpointState.DISCONNECTED}:
                ends.append(self._parts.regenerate(managed, f"identity {one.identity}: {why}"))
        for end in ends:
            try:
                await end
            except PodlaneError as error:
                effect.failures.append(error.message)

    # Carrying through

    def _settle(self, why: str) -> frozenset[int]:
        """Note what follows from what has changed; return whose policy is another one."""
        changes = self.resolver.settle()
        if changes.endpoints or any(changes.prefixes):
            self.enforcer.note(changes.endpoints, changes.prefixes, why)
            self._parts.controllers.trigger("sync-policymap", 1.0)
        return changes.endpoints

    async def _flush(self) -> Effect:
        try:
            return await self.enforcer.flush()
        except PodlaneError as error:
            return Effect(failures=[f"not in force yet: {error.message}; it is tried again"])

    async def _sync(self) -> None:
        """Make up for what was not sent: the controller `sync-policymap`. Raises Unavailable."""
        if self._resolver is not None:
            await self.enforcer.flush()

    async def _watch(self) -> None:
        """Take in identities that others have, and let go of those that are no more."""
        async for batch in self.backend.watch():
            for number, labels in batch.items():
                self._learn(number, labels)
            try:
                if self._resolver is not None:
                    self._settle("identities have come and gone")
                    await self.enforcer.flush()
                # Behind the maps: until then a restart must not give the number away.
                await self._parts.policy_store.forget_identities([one for one in batch if batch[one] is None])
            except PodlaneError as error:
                _log.warning("identities", error=error.message)

    def _learn(self, number: int, labels: Labels | None) -> None:
        if self._resolver is None:
            return
        if labels is not None:
            self._resolver.put_identity(number, labels)
        else:
            self._resolver.drop_identity(number)
