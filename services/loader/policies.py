"""What endpoints' policy maps and the map of prefixes hold, changed while packets pass.

    fill      one map as a regeneration wants it
    update    a change of many maps and of the prefixes: entries added, prefixes added (longest first), entries of
              prefixes that stay added and removed, prefixes removed (shortest first), entries removed, in that order
              over all of them (why: policyupdate.py)
    sync      the whole map of prefixes

So a packet that is allowed before and after is allowed in between, and one that is denied is denied. After each of
them flows are decided again, as far as something changed (`Datapath.revise`), also when it failed half-way.

A change says what it is a change of: the digest of each map before (policydigest.py). It is remembered here after every
fill and update, and computed from the kernel's map when it isn't known: after a start, or when the kernel has failed
in the middle. Whoever changes a map by hand isn't noticed by an update; `ListEndpointDatapaths` reads the map itself.

A map is filled and changed by one at a time (`Datapath.policy_locks`, by endpoint id). That is not the lock of
regenerations, which a compiler may hold for seconds: a policy comes into force meanwhile. Whoever holds a
regeneration's lock may take this one, never the other way round. Updates take all they need in the order of the ids.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from services.common.errors import Exhausted, FailedPrecondition, NotFound, PodlaneError
from services.common.model import Network
from services.loader import model
from services.loader.blocking import Blocking
from services.loader.datapath import Datapath, explained
from services.loader.headers import SIZES
from services.loader.model import EndpointSpec, PolicyEntry
from services.loader.policymaps import Policy, PolicyChange, Prefixes
from services.loader.policyupdate import Packed, Refusal, Target, Update, pack
from services.loader.statedir import StateDir

# Above this a policy is worth a thread: on the loop it would hold up every other call.
_MANY = 1024
# Among the locks by endpoint id, which begin at 1.
_PREFIXES = 0


@dataclass(frozen=True, slots=True)
class _Held:
    """What a map holds: the digest of its content, whose it is, and how many entries it has at most."""

    generation: int
    digest: bytes
    at_most: int


class Policies:
    """Fills and changes the maps."""

    def __init__(self, datapath: Datapath, state: StateDir, blocking: Blocking) -> None:
        """Nothing is known of any map yet."""
        self._datapath = datapath
        self._state = state
        self._blocking = blocking
        self._held: dict[int, _Held] = {}
        self._prefixes_at_most = SIZES["PREFIXES_MAP_SIZE"]

    async def fill(self, spec: EndpointSpec, policy: Policy, entries: Sequence[PolicyEntry]) -> list[str]:
        """Make an endpoint's map hold exactly these entries; say what that changed. Raises Exhausted before anything
        is written when it has no room, BpfError when the kernel refuses.
        """
        async with self._datapath.policy_locks.hold(spec.id):
            known = self._held.get(spec.id)
            if len(entries) + (known.at_most if known is not None else 0) > _MANY:
                return await self._blocking.run(lambda: self._fill(spec, policy, entries))
            return self._fill(spec, policy, entries)

    def _fill(self, spec: EndpointSpec, policy: Policy, entries: Sequence[PolicyEntry]) -> list[str]:
        before = policy.entries()
        changes = model.policy_changes(spec.id, before, entries)
        if changes:
            self._held.pop(spec.id, None)
            with self._revising():
                policy.sync(entries, before)
        content = model.policy_content(entries)
        self._held[spec.id] = _Held(spec.generation, content.digest, content.entries)
        return changes

    def digest(self, id_: int) -> bytes:
        """Return the digest of what an endpoint's map holds, empty when it isn't known."""
        held = self._held.get(id_)
        return held.digest if held is not None else b""

    def fullest(self) -> int:
        """Return how many entries the fullest map has, of those that were filled or changed here; at most so many."""
        return max((held.at_most for held in self._held.values()), default=0)

    async def forget(self, id_: int) -> None:
        """Take an endpoint's map away, once nobody changes it."""
        async with self._datapath.policy_locks.hold(id_):
            self._held.pop(id_, None)
            self._datapath.unpin_policy(id_)

    async def update(self, update: Update) -> list[Refusal]:
        """Change many maps; return the endpoints that were left alone or that the kernel refused, in their order.

        An endpoint whose map holds what it is to hold already is done. Raises Exhausted before anything is written
        when the prefixes have no room, Unavailable when the kernel refuses them: then maps hold what came beside what
        was to go, which no request is a change of, and a regeneration mends it.
        """
        ids = sorted(target.id for target in update.targets())
        async with contextlib.AsyncExitStack() as locks:
            for key in (_PREFIXES, *ids):
                await locks.enter_async_context(self._datapath.policy_locks.hold(key))
            with explained("the map of prefixes"):
                return await self._blocking.run(lambda: self._update(update))

    async def sync(self, wanted: Mapping[Network, int]) -> PolicyChange:
        """Make the map of prefixes hold exactly these; return how many were written and removed.

        Raises Exhausted before anything is written when there is no room.
        """
        async with self._datapath.policy_locks.hold(_PREFIXES):
            with explained("the map of prefixes"):
                return await self._blocking.run(lambda: self._sync(wanted))

    def _update(self, update: Update) -> list[Refusal]:
        self._check_prefixes(update.prefixes_added)
        gone = update.prefixes_gone()
        moving = update.moving(self._datapath.prefixes.present(gone))
        packs = [(change.endpoints, pack(change, moving)) for change in update.changes]
        jobs = [(target, packed) for targets, packed in packs for target in targets]
        refused: dict[int, Refusal] = {}
        begun: dict[int, int] = {}
        with self._revising():
            for target, packed in jobs:
                with _refusing(target, refused):
                    begun.update(self._add(target, packed))
            self._datapath.prefixes.put(update.prefixes_added)
            for target, packed in jobs:
                if target.id in begun:
                    with _refusing(target, refused):
                        self._change_staying(target, packed)
            self._datapath.prefixes.delete(gone)
            for target, packed in jobs:
                if target.id in begun and target.id not in refused:
                    with _refusing(target, refused):
                        self._remove(target, packed)
                        self._held[target.id] = _Held(target.generation, target.after, begun[target.id])
        return [refused[target.id] for target, _ in jobs if target.id in refused]

    def _add(self, target: Target, packed: Packed) -> dict[int, int]:
        """Write what a map gets; return by its endpoint how many entries it then has at most, nothing when it needs no
        change.
        """
        with self._open(target.id) as policy:
            held = self._held.get(target.id) or self._look(target.id, policy)
            if held.generation != target.generation:
                raise FailedPrecondition(
                    f"endpoint {target.id} is of generation {held.generation}, the change is for generation "
                    f"{target.generation}"
                )
            if held.digest == target.after:
                self._held[target.id] = held
                return {}
            if held.digest != target.before:
                raise FailedPrecondition(
                    f"policy map policy_{target.id} holds other entries (digest {held.digest.hex()}) than those that "
                    f"the change is of ({target.before.hex()}): regenerate the endpoint"
                )
            at_most = _check_room(policy, held.at_most, packed)
            self._held.pop(target.id, None)
            policy.write(packed.written)
            return {target.id: at_most}

    def _change_staying(self, target: Target, packed: Packed) -> None:
        if packed.staying_written or packed.staying_deleted:
            with self._open(target.id) as policy:
                policy.write(packed.staying_written)
                policy.delete(packed.staying_deleted)

    def _remove(self, target: Target, packed: Packed) -> None:
        if packed.deleted:
            with self._open(target.id) as policy:
                policy.delete(packed.deleted)

    def _open(self, id_: int) -> Policy:
        policy = self._datapath.pinned_policy(id_)
        if policy is None:
            raise NotFound(f"endpoint {id_} has no policy map: regenerate it")
        return policy

    def _look(self, id_: int, policy: Policy) -> _Held:
        record = self._state.record(id_)
        if record is None:
            raise NotFound(f"nobody has a record of endpoint {id_}: regenerate it")
        content = model.policy_content(policy.entries())
        return _Held(record.spec.generation, content.digest, content.entries)

    def _check_prefixes(self, added: Mapping[Network, int]) -> None:
        """Raise Exhausted when they don't fit beside those that are there; these are counted only when it may be so."""
        if self._prefixes_at_most + len(added) > SIZES["PREFIXES_MAP_SIZE"]:
            present = self._datapath.prefixes.dump()
            _check_room_for_prefixes(present.keys() | added.keys())
            self._prefixes_at_most = len(present)
        self._prefixes_at_most += len(added)

    def _sync(self, wanted: Mapping[Network, int]) -> PolicyChange:
        prefixes = self._datapath.prefixes
        present = prefixes.dump()
        missing = {network: identity for network, identity in wanted.items() if present.get(network) != identity}
        surplus = [network for network in present if network not in wanted]
        if missing or surplus:
            _check_room_for_prefixes(present.keys() | wanted.keys())
            self._prefixes_at_most = len(present.keys() | wanted.keys())
            with self._revising():
                prefixes.put(missing)
                prefixes.delete(surplus)
        return PolicyChange(len(missing), len(surplus))

    @contextlib.contextmanager
    def _revising(self) -> Iterator[None]:
        try:
            yield
        finally:
            self._datapath.revise()


def _check_room(policy: Policy, at_most: int, packed: Packed) -> int:
    """Return how many entries a map has at most once these are written; it is only read when that may be too many."""
    needed = at_most + len(packed.keys)
    if needed > SIZES["POLICY_MAP_SIZE"]:
        needed = len(policy.keys() | packed.keys)
        policy.check_room(needed)
    return needed


def _check_room_for_prefixes(together: AbstractSet[Network]) -> None:
    size = SIZES["PREFIXES_MAP_SIZE"]
    if len(together) > size:
        raise Exhausted(
            f"{Prefixes.name} has room for {size} prefixes and {len(together)} are needed while it changes: "
            f"write fewer ipBlocks or raise PREFIXES_MAP_SIZE",
            size=size,
            needed=len(together),
        )


@contextlib.contextmanager
def _refusing(target: Target, refused: dict[int, Refusal]) -> Iterator[None]:
    """Let what fails with one endpoint be that one's."""
    try:
        with explained(f"policy map policy_{target.id}"):
            yield
    except PodlaneError as error:
        refused[target.id] = Refusal(target.id, error.message)
