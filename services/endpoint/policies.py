"""Policy on this node: documents, identities and endpoints kept together, and every change of them carried through.

    documents, labels   policychanger.py ─┐
    endpoints           admit, forget  ───┼─▶ resolver ─▶ settle ─▶ Enforcer ─▶ maps of all whom it concerns
    identities          the backend's watch ┘

What was settled and could not be sent is sent by the controller `sync-policymap`.

An endpoint's identity follows from its labels. A new one is made known to all who select it, in their maps, before the
endpoint has it; the programs have it as a constant, so an endpoint that is given another one is regenerated. The old
one is released then, and its number is forgotten after the grace time (`identity-gc`).

The resolver is made at the first session with the loader, because prefixes keep the numbers that the kernel's map has.

Invariants: the resolver is changed and settled without awaiting in between; what an identity stands for is on disk
before a map has its number.

Not here: what a session with the loader begins with (`policysession.py`), how documents change (`policychanger.py`),
what policies mean (`policy/`), whose map is written when (`enforce.py`), messages (`policyservicer.py`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from services.common import controllers, policydigest, telemetry
from services.common.controller_parameters import ControllerDone, Parameters
from services.common.errors import Exhausted, FailedPrecondition, NotFound, PodlaneError
from services.common.model import Address
from services.endpoint.cluster.records import IpRecord
from services.endpoint.enforce import Enforcer
from services.endpoint.identities import Backend
from services.endpoint.managed import ManagedEndpoint
from services.endpoint.model import INIT_IDENTITY, Endpoint
from services.endpoint.node import Readiness
from services.endpoint.peers import Loader
from services.endpoint.policy.desired import EndpointPolicy
from services.endpoint.policy.identity import SMALLEST
from services.endpoint.policy.labels import LabelFilter, Labels
from services.endpoint.policy.networkpolicy import PolicyName
from services.endpoint.policy.prefixes import PrefixTable
from services.endpoint.policy.repository import Repository, Who
from services.endpoint.policy.resolve import Resolver
from services.endpoint.policy.settings import Settings
from services.endpoint.policychange import Moved
from services.endpoint.policychanger import Changer
from services.endpoint.policysession import Session, filled
from services.endpoint.policystore import PolicyStore
from services.endpoint.registry import Registry
from services.endpoint.store import Store

_log = telemetry.logger("policies")

RESOLVE_IDENTITY = "resolve-identity"
_GC_SECONDS = 30.0
_LONGEST_SECONDS = 10.0


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

    def __init__(self, parts: Parts, settings: Settings, labels: LabelFilter, backend: Backend) -> None:
        """Wire. `labels` says which are part of identities, `backend` gives them numbers."""
        self._parts = parts
        self._settings = settings
        self.filter = labels
        self.backend = backend
        self.repository = Repository()
        self.session = Session(self, parts)
        self.enforcer = Enforcer(parts.loader, parts.registry, self.wanted, parts.regenerate, self.session.catch_up)
        self.look_first_at: Sequence[Callable[[], Awaitable[None]]] = ()
        """Awaited in the first session, before the node takes endpoints."""
        self._resolver: Resolver | None = None
        self.changes = Changer(self, parts, settings.policy_map_size)
        self._peers: dict[Address, IpRecord] = {}
        self._watching: asyncio.Task[None] | None = None
        self._restored: Mapping[int, Labels] = {}

    async def start(self) -> None:
        """Read documents and identities. Raises CorruptState, Unavailable."""
        documents, identities = await self._parts.policy_store.load(self.filter)
        self.repository = Repository(documents)
        used: dict[int, int] = {}
        for managed in self._parts.registry:
            number = managed.endpoint.identity
            if number >= SMALLEST:
                used[number] = used.get(number, 0) + 1
                # A kill may have left an endpoint the number that its labels had before.
                identities.setdefault(number, managed.endpoint.identity_labels)
        self.backend.restore(identities, used)
        self.backend.renumber = self._renumber
        self._restored = identities
        self._watching = asyncio.create_task(self._watch())
        self._parts.controllers.update("sync-policymap", Parameters(run=self._sync))
        self._parts.controllers.update("identity-gc", Parameters(run=self.backend.expire, interval=_GC_SECONDS))
        _log.info("policy read", documents=len(documents), identities=len(identities))

    async def stop(self) -> None:
        """Let what was begun finish."""
        await self.changes.stop()
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
        """Begin a session with the loader: what is wanted is known after it."""
        if self._resolver is None:
            known = await self._parts.loader.prefixes()
            resolver = Resolver(self._settings, PrefixTable(self._settings.prefix_map_size, known))
            self._resolver = filled(resolver, self, self._parts.registry, self._peers)
            await self.changes.identify_anew()
            for managed in self._parts.registry:
                self.see_to_identity(managed)

    async def look_first(self) -> None:
        """Take in what nobody has looked at yet, once, before the node takes endpoints."""
        first, self.look_first_at = self.look_first_at, ()
        for look in first:
            await look()

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
        number = await self.allocate(who)
        while (now := self.who(managed.endpoint)) != who:  # documents have changed meanwhile
            await self.release(number)
            who, number = now, await self.allocate(now)
        if who.labels and self.resolver.labels(number) is None:
            # Before a map has it: no restart may give the number another meaning.
            await self._parts.policy_store.change((), (), {number: who.labels})
        managed.update(identity=number, identity_labels=who.labels)
        Moved(managed, who, number).take_in(self.resolver)
        self.settle(f"identity {number} ({who.labels}) is new")

    def see_to_identity(self, managed: ManagedEndpoint) -> None:
        """Have an endpoint get the number that its labels are to have, if it hasn't: the controller `resolve-identity`.

        It ends when it has.
        """
        if not self.backend.provisional(managed.endpoint.identity):
            return

        async def run() -> None:
            if self.backend.provisional(managed.endpoint.identity):
                await self.changes.identify(managed)
            raise ControllerDone

        if not managed.controllers.trigger(RESOLVE_IDENTITY):
            managed.controllers.update(RESOLVE_IDENTITY, Parameters(run=run, retry_cap=_LONGEST_SECONDS))

    def _renumber(self, number: int) -> None:
        for managed in self._parts.registry:
            if managed.endpoint.identity == number:
                self.see_to_identity(managed)

    def put_peers(self, records: Mapping[Address, IpRecord | None]) -> None:
        """Take in named ports of pods on other nodes, by address; None: it has none any more."""
        for address, record in records.items():
            if record is None:
                self._peers.pop(address, None)
            else:
                self._peers[address] = record
            if self._resolver is not None and record is None:
                self._resolver.drop_peer(str(address))
            elif self._resolver is not None and record is not None:
                self._resolver.put_peer(str(address), record.identity, record.ports)
        if self._resolver is not None and self.settle("pods of other nodes have come and gone"):
            self._parts.controllers.trigger("sync-policymap")

    async def forget(self, managed: ManagedEndpoint) -> None:
        """Let an endpoint go that is gone."""
        endpoint = managed.endpoint
        self.enforcer.forget(endpoint.id)
        if self._resolver is not None:
            self._resolver.drop_endpoint(endpoint.id)
            self.settle(f"endpoint {endpoint.id} is gone")
        await self.release(endpoint.identity)

    async def allocate(self, who: Who) -> int:
        """Return an identity for one use. Raises Exhausted, Unavailable."""
        return await self.backend.allocate(who.labels) if who.labels else INIT_IDENTITY

    async def release(self, number: int) -> None:
        """Take a use back."""
        if number >= SMALLEST:
            await self.backend.release(number)

    async def tell_others(self) -> None:
        """Have everybody's maps know what `admit` has brought. Raises Unavailable; it is made up for then."""
        if self.enforcer.pending:
            await self.enforcer.flush()

    # Carrying through

    def settle(self, why: str) -> frozenset[int]:
        """Note what follows from what has changed; return whose policy is another one."""
        changes = self.resolver.settle()
        if changes.endpoints or any(changes.prefixes):
            self.enforcer.note(changes.endpoints, changes.prefixes, why)
            self._parts.controllers.trigger("sync-policymap", 1.0)
        return changes.endpoints

    async def _sync(self) -> None:
        """Make up for what was not sent: the controller `sync-policymap`. Raises Unavailable."""
        if self._resolver is not None:
            await self.enforcer.flush()

    async def _watch(self) -> None:
        """Take in identities that others have, and let go of those that are no more."""
        async for batch in self.backend.watch():
            try:
                if new := self._not_on_disk(batch):
                    await self._parts.policy_store.change((), (), new)
                for number, labels in batch.items():
                    self._learn(number, labels)
                if self._resolver is not None:
                    self.settle("identities have come and gone")
                    await self.enforcer.flush()
                # Behind the maps: until then a restart must not give the number away.
                if gone := [one for one in batch if batch[one] is None]:
                    await self._parts.policy_store.forget_identities(gone)
            except PodlaneError as error:
                _log.warning("identities", error=error.message)

    def _not_on_disk(self, batch: Mapping[int, Labels | None]) -> dict[int, Labels]:
        known = self._resolver.identities() if self._resolver is not None else self._restored
        return {
            number: labels for number, labels in batch.items() if labels is not None and known.get(number) != labels
        }

    def _learn(self, number: int, labels: Labels | None) -> None:
        if self._resolver is None:
            return
        if labels is not None:
            self._resolver.put_identity(number, labels)
        else:
            self._resolver.drop_identity(number)
