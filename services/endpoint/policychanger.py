"""Documents and labels change: tried, written down, carried through, one change at a time.

    allowed? ─▶ who becomes somebody else ─▶ tried on a clone ─▶ on disk ─▶ resolver ─▶ maps of all ─▶ programs of those

Up to the disk a refusal has changed nothing; from there on the change is carried through, now or later. Endpoints that
become somebody else are regenerated when everybody's map knows their new identity; the old one is released then.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from services.common import wire
from services.common.errors import PodlaneError, Unavailable
from services.common.lifecycle import Shielded
from services.endpoint.enforce import Effect
from services.endpoint.managed import ManagedEndpoint
from services.endpoint.model import INIT_IDENTITY, EndpointState
from services.endpoint.policy import labelchanges, overflow
from services.endpoint.policy.document import Document, DocumentName
from services.endpoint.policy.identity import LARGEST
from services.endpoint.policy.labelchanges import LabelChange
from services.endpoint.policy.repository import Repository
from services.endpoint.policychange import Change, Moved, Tried, changed

if TYPE_CHECKING:
    from services.endpoint.policies import Parts, Policies

T = TypeVar("T")
Observe = Callable[[bool, float], None]
"""Told whether a change succeeded, and after how many seconds the kernel enforced it."""
_GOING = {EndpointState.DISCONNECTING, EndpointState.DISCONNECTED}


def _unobserved(_succeeded: bool, _seconds: float) -> None:
    """Nobody counts."""


class Changer:
    """Carries changes through. `map_size` is that of a policy map."""

    def __init__(self, policies: "Policies", parts: "Parts", map_size: int) -> None:
        """Wire."""
        self._policies = policies
        self._parts = parts
        self._map_size = map_size
        self._changing = asyncio.Lock()
        self.moving: set[int] = set()
        """Endpoints that are somebody else by now, whose programs are still of whom they were."""
        self._shielded = Shielded()
        self.observe: Observe = _unobserved
        """Told of each change of documents or labels that ends."""

    async def stop(self) -> None:
        """Let what was begun finish."""
        await self._shielded.stop()

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
        return await self._shielded.run(self._observed(self._apply(documents, source, tuple(dropped))))

    async def relabel(self, managed: ManagedEndpoint, changes: Sequence[LabelChange]) -> Effect:
        """Take an operator's word about an endpoint's labels. Raises as `apply`, and InvalidArgument."""
        checked = labelchanges.check(changes)
        await self._parts.readiness.wait()
        return await self._shielded.run(self._observed(self._relabel(managed, checked)))

    async def _observed(self, work: Coroutine[Any, Any, T]) -> T:
        begin = time.perf_counter()
        try:
            done = await work
        except BaseException:
            self.observe(False, time.perf_counter() - begin)
            raise
        self.observe(True, time.perf_counter() - begin)
        return done

    def change(self, documents: Sequence[Document], source: str, dropped: Iterable[DocumentName] = ()) -> Change:
        """Return what these documents change. Raises NotFound for one to drop that isn't there."""
        return changed(self._policies.repository, documents, source, dropped, wire.now())

    def try_out(self, change: Change, source: str) -> Tried:
        """Return what a change would come to. Raises FailedPrecondition (owner), Exhausted (a map)."""
        numbers = {labels: number for number, labels in self._policies.backend.known().items()}
        moved = []
        for one in self._moved(change, self._after(change)):
            # One that is new is not given out for a question: numbers beyond those of any allocator stand for it.
            number = numbers.setdefault(one.who.labels, LARGEST + 1 + len(numbers)) if one.who.labels else INIT_IDENTITY
            moved.append(one._replace(identity=number))
        return self._try(change, source, moved)

    async def identify_anew(self) -> None:
        """Give those their identity who are somebody else than was recorded: a killed change, another filter, an older
        version. Their programs and maps are compared with that next.
        """
        async with self._changing:
            moved = await self._allocate(self._moved(Change(everybody=True), self._policies.repository))
            released = self._adopt_moved(moved, "its labels are other ones than were recorded")
            self._policies.resolver.settle()
            await asyncio.gather(*(one.managed.save(self._parts.store.update) for one in moved))
            await self._release(released)
            self.moving.clear()  # they are compared next, and published when they are right

    async def identify(self, managed: ManagedEndpoint) -> None:
        """Give an endpoint the number that its labels are to have in place of a provisional one.

        Raises Unavailable, FailedPrecondition, Exhausted: then it keeps the one that it has.
        """
        await self._parts.readiness.wait()
        await self._shielded.run(self._identify(managed))

    async def _identify(self, managed: ManagedEndpoint) -> None:
        if not managed.endpoint.built or managed.endpoint.state in _GOING:
            raise Unavailable("the endpoint isn't ready")
        async with self._changing:
            who = self._policies.who(managed.endpoint)
            if not who.labels:
                return
            number = await self._policies.backend.allocate_shared(who.labels)
            if number == managed.endpoint.identity:
                await self._policies.release(number)
                return
            change = Change(why="the cluster has given its labels a number")
            await self._carry_through(change, "", self._policies.repository, [Moved(managed, who, number)])

    async def _apply(
        self, documents: Sequence[Document], source: str, dropped: tuple[DocumentName, ...]
    ) -> tuple[Change, Effect]:
        async with self._changing:
            change = self.change(documents, source, dropped)
            self._policies.repository.check_owner(change.outcomes, source)
            return change, await self._carry_out(change, source)

    async def _relabel(self, managed: ManagedEndpoint, changes: Sequence[LabelChange]) -> Effect:
        async with self._changing:
            said = labelchanges.merge(managed.endpoint.label_changes, changes)
            labels = {managed.endpoint.id: said}
            return await self._carry_out(Change(labels=labels, why="an operator has changed its labels"))

    async def _carry_out(self, change: Change, source: str = "") -> Effect:
        after = self._after(change)
        return await self._carry_through(change, source, after, await self._allocate(self._moved(change, after)))

    async def _carry_through(self, change: Change, source: str, after: Repository, moved: list[Moved]) -> Effect:
        try:
            if change.put or change.dropped or moved:
                self._try(change, source, moved)
                identities = {one.identity: one.who.labels for one in moved if one.who.labels}
                await self._parts.policy_store.change(change.put, change.dropped, identities)
        except BaseException:
            await self._release(one.identity for one in moved)
            raise
        self._policies.repository = after
        change.adopt(self._policies.resolver)
        released = self._adopt_moved(moved, change.why)
        touched = self._policies.settle(change.why)
        await self._save(change, moved)
        effect = await self._flush()
        await self._regenerate(moved, change.why, effect)
        await self._policies.enforcer.settled(touched)
        await self._release(released)
        if change.concerns_labels and self._moved(late := Change(everybody=True, why=change.why), after):
            # Endpoints that were made meanwhile, of the documents before.
            effect.add(await self._carry_out(late))
        return effect

    def _after(self, change: Change) -> Repository:
        return self._policies.repository.with_changes(change.put, change.dropped)

    def _moved(self, change: Change, after: Repository) -> list[Moved]:
        """Return the endpoints that the change makes somebody else, with INIT_IDENTITY for a number that is to come."""
        moved: list[Moved] = []
        if not change.concerns_labels:
            return moved
        for managed in self._parts.registry:
            endpoint = managed.endpoint
            if endpoint.state in {EndpointState.WAITING_FOR_IDENTITY, *_GOING}:
                continue
            spec, said = endpoint.spec, change.labels.get(endpoint.id, endpoint.label_changes)
            who = after.who(spec.pod, spec.labels, said, self._policies.filter)
            if who.labels != endpoint.identity_labels or who.named_ports != self._policies.who(endpoint).named_ports:
                moved.append(Moved(managed, who, INIT_IDENTITY))
        return moved

    async def _allocate(self, moved: Iterable[Moved]) -> list[Moved]:
        allocated: list[Moved] = []
        try:
            for one in moved:
                number = await self._policies.allocate(one.who)
                allocated.append(one._replace(identity=number))
        except BaseException:
            await self._release(one.identity for one in allocated)
            raise
        return allocated

    async def _release(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            await self._policies.release(number)

    def _try(self, change: Change, source: str, moved: Sequence[Moved]) -> Tried:
        self._policies.repository.check_owner((*(one.name for one in change.put), *change.dropped), source)
        clone = self._policies.resolver.clone()
        change.adopt(clone)
        for one in moved:
            one.take_in(clone)
        changes = clone.settle()
        checked: set[tuple[int, int]] = set()
        for id_ in sorted(changes.endpoints):
            new, old = clone.desired(id_), self._policies.enforcer.in_force(id_)
            if old is not None and (id(new), id(old)) not in checked:
                checked.add((id(new), id(old)))
                overflow.check_transition(new, old, self._map_size, f"endpoint {id_}")
        return Tried(clone, changes.endpoints, {one.managed.endpoint.id: one.identity for one in moved})

    def _adopt_moved(self, moved: list[Moved], why: str) -> list[int]:
        """Make those somebody else who are still there, and leave them in `moved`; return identities to be released."""
        there = {managed.endpoint.id: managed for managed in self._parts.registry}
        released = []
        for one in tuple(moved):
            if there.get(one.managed.endpoint.id) is one.managed:
                released.append(one.managed.endpoint.identity)
                one.take_in(self._policies.resolver)
                self.moving.add(one.managed.endpoint.id)
                one.note(why)
            else:
                released.append(one.identity)
                moved.remove(one)
        return released

    async def _save(self, change: Change, moved: Iterable[Moved]) -> None:
        saved = {one.managed.endpoint.id: one.managed for one in moved}
        for managed in self._parts.registry:
            if managed.endpoint.id in change.labels:
                managed.update(label_changes=change.labels[managed.endpoint.id])
                saved[managed.endpoint.id] = managed
        await asyncio.gather(*(managed.save(self._parts.store.update) for managed in saved.values()))

    async def _flush(self) -> Effect:
        try:
            return await self._policies.enforcer.flush()
        except PodlaneError as error:
            return Effect(failures=[f"not in force yet: {error.message}; it is tried again"])

    async def _regenerate(self, moved: Sequence[Moved], why: str, effect: Effect) -> None:
        """Bring the programs of those to force who are somebody else, and wait for whoever is under way.

        Other nodes are told last: they drop what comes with another identity than they know of its sender.
        """
        there = [one for one in moved if one.managed.endpoint.state not in _GOING]
        ends = list(effect.again)
        ends += [self._parts.regenerate(one.managed, f"identity {one.identity}: {why}") for one in there]
        for end in ends:
            try:
                await end
            except PodlaneError as error:
                effect.failures.append(error.message)
        for one in moved:
            self.moving.discard(one.managed.endpoint.id)
            self._policies.see_to_identity(one.managed)
            self._parts.publish(one.managed)
