"""Policies × identities × endpoints → what each endpoint is granted, incrementally. Pure.

    put_*, drop_*  note what has changed           (anything, in any order, any number)
    settle         work out what follows from it   → Changes: which endpoints, which prefixes
    desired        what an endpoint is granted     → EndpointPolicy

What is recomputed: a new or removed identity touches the selectors that match it, the policies that use those, and the
endpoints these select. A changed policy touches the endpoints that it selects or selected. An endpoint touches itself,
and those who may send to its named ports. A new prefix touches the blocks that it splits. Endpoints of one identity
with the same named ports are one *subject*, resolved once.

Whoever writes the changes keeps this order, so that no packet is dropped that the policies before and after both allow,
and none passes that both forbid:

    1 entries added    2 prefixes added    3 entries of prefixes that stay    4 prefixes removed    5 entries removed

An endpoint is put under an identity that is known already, and an identity is dropped when no endpoint has it any more:
the other order would leave an endpoint that no selector can see, and so open.

To try something (`policy diff`, or a file of which all or nothing is to be applied), do it to a `clone`.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple, TypeVar

from services.common.errors import FailedPrecondition, NotFound
from services.common.model import Network
from services.endpoint.policy import overflow
from services.endpoint.policy.clone import Cloneable
from services.endpoint.policy.compiled import Compiled, compiled
from services.endpoint.policy.desired import NOT_ISOLATED, EndpointPolicy, Side
from services.endpoint.policy.entry import Direction
from services.endpoint.policy.granting import Granting
from services.endpoint.policy.identity import CIDR_SCOPE, SMALLEST, Reserved
from services.endpoint.policy.labels import Labels
from services.endpoint.policy.namedports import PortName
from services.endpoint.policy.networkpolicy import IPBlock, NamedPort, NetworkPolicy, PolicyName
from services.endpoint.policy.prefixes import PrefixChanges, PrefixTable
from services.endpoint.policy.selectors import LabelSelector
from services.endpoint.policy.settings import DEFAULTS, ONLY_HOST, InitPolicy, Settings, granted_to_host

K = TypeVar("K")
V = TypeVar("V")


class Changes(NamedTuple):
    """What settling came to: the endpoints whose EndpointPolicy is another one, and the changes of the prefixes."""

    endpoints: frozenset[int]
    prefixes: PrefixChanges


class _SubjectKey(NamedTuple):
    """What decides what an endpoint is granted, policies aside."""

    identity: int
    named_ports: frozenset[NamedPort]


@dataclass
class _Subject(Cloneable):
    policies: set[PolicyName]
    endpoints: set[int] = field(default_factory=set)
    desired: EndpointPolicy = NOT_ISOLATED


class _Endpoint(NamedTuple):
    subject: _SubjectKey
    desired: EndpointPolicy | None
    """As of the last `settle`; None: it is newer than that."""


class Resolver(Cloneable):
    """All that is known of identities, policies and this node's endpoints, and what follows from it."""

    def __init__(self, settings: Settings = DEFAULTS, prefixes: PrefixTable | None = None) -> None:
        """Start with nothing. `prefixes` is given when numbers of an earlier run are to be kept."""
        self._settings = settings
        self._granting = Granting(PrefixTable(settings.prefix_map_size) if prefixes is None else prefixes)
        self._policies: dict[PolicyName, Compiled] = {}
        self._subjects: dict[_SubjectKey, _Subject] = {}
        self._endpoints: dict[int, _Endpoint] = {}
        self._peers: dict[str, _SubjectKey] = {}
        # Who must look again: whose peers, blocks or names these are; whose subjects a selector selects.
        self._users: defaultdict[LabelSelector | IPBlock | PortName, set[PolicyName]] = defaultdict(set)
        self._selecting: defaultdict[LabelSelector, set[PolicyName]] = defaultdict(set)
        self._of_identity: defaultdict[int, set[_SubjectKey]] = defaultdict(set)
        self._stale_policies: set[PolicyName] = set()
        self._stale_subjects: set[_SubjectKey] = set()
        self._moved: set[int] = set()

    # What is known

    def identities(self) -> dict[int, Labels]:
        """Return the identities that are known, reserved ones aside."""
        return self._granting.selection.identities()

    def labels(self, identity: int) -> Labels | None:
        """Return what an identity stands for; None: it isn't known."""
        return self._granting.selection.labels(identity)

    def policies(self) -> list[NetworkPolicy]:
        """Return the policies, by name."""
        return [self._policies[name].policy for name in sorted(self._policies)]

    def prefixes(self) -> PrefixTable:
        """Return the table of prefixes, to be looked at."""
        return self._granting.prefixes

    def selected(self, policy: PolicyName) -> frozenset[int]:
        """Return the endpoints that a policy selects; none for one that isn't there."""
        keys = self._selected(self._policies[policy]) if policy in self._policies else ()
        return frozenset(chain.from_iterable(self._subjects[key].endpoints for key in keys))

    def seeing(self, identity: int) -> list[PolicyName]:
        """Return the policies that select an identity, or have it among their peers, by name."""
        labels = self._granting.selection.labels(identity)
        found: set[PolicyName] = set()
        for selector in self._granting.selection.selecting(labels) if labels is not None else ():
            found |= self._users.get(selector, set()) | self._selecting.get(selector, set())
        if identity > CIDR_SCOPE:
            for block, users in self._users.items():
                if isinstance(block, IPBlock) and identity in self._granting.prefixes.within(block):
                    found |= users
        return sorted(found)

    def desired(self, endpoint: int) -> EndpointPolicy:
        """Return what an endpoint is granted, as of the last `settle`.

        Raises Exhausted when its map is too small for it: then nothing is to be written. Raises NotFound.
        """
        known = self._endpoints.get(endpoint)
        if known is None or known.desired is None:
            raise NotFound(f"endpoint {endpoint} has no resolved policy", endpoint=endpoint)
        whose = f"endpoint {endpoint} (identity {known.subject.identity})"
        overflow.check(known.desired, self._settings.policy_map_size, whose)
        return known.desired

    # What changes

    def put_identity(self, identity: int, labels: Labels) -> None:
        """Make an identity known. Raises Internal when it stands for other labels already."""
        self._members_changed(self._granting.selection.add(identity, labels))

    def drop_identity(self, identity: int) -> None:
        """Forget an identity. Raises FailedPrecondition when an endpoint has it."""
        if self._of_identity.get(identity):
            endpoints = sorted(
                chain.from_iterable(self._subjects[key].endpoints for key in self._of_identity[identity])
            )
            raise FailedPrecondition(f"identity {identity} is that of endpoints {endpoints}", identity=identity)
        self._members_changed(self._granting.selection.remove(identity))

    def put_policy(self, policy: NetworkPolicy) -> None:
        """Take in a policy, in place of one of the same name. Raises Exhausted, and then has changed nothing."""
        name, new, old = policy.name, compiled(policy), self._policies.get(policy.name)
        if old is not None and old.policy == policy:
            return
        # The new one first, so that what both have is never given up in between.
        self._granting.prefixes.name(new.blocks)
        for selector in new.selectors:
            self._granting.selection.use(selector)
        if old is not None:
            self._forget(old)
        self._policies[name] = new
        self._stale_policies.add(name)
        for dependency in new.dependencies:
            self._users[dependency].add(name)
        self._selecting[new.subject].add(name)
        for key in self._selected(new):
            self._subjects[key].policies.add(name)

    def drop_policy(self, name: PolicyName) -> None:
        """Forget a policy; one that isn't there changes nothing."""
        old = self._policies.pop(name, None)
        if old is not None:
            self._forget(old)

    def put_endpoint(self, endpoint: int, identity: int, named_ports: Iterable[NamedPort] = ()) -> None:
        """Take in an endpoint of this node, or its new identity. Raises FailedPrecondition for an unknown identity."""
        key, known = _SubjectKey(identity, frozenset(named_ports)), self._endpoints.get(endpoint)
        if known is not None and known.subject == key:
            return
        labels = self._granting.selection.labels(identity)
        if labels is None and identity >= SMALLEST:
            raise FailedPrecondition(f"endpoint {endpoint}: identity {identity} isn't known", identity=identity)
        if key not in self._subjects:
            selecting = self._granting.selection.selecting(labels) if labels is not None else ()
            names = chain.from_iterable(self._selecting.get(selector, ()) for selector in selecting)
            self._subjects[key] = _Subject(set(names))
            self._of_identity[identity].add(key)
            self._stale_subjects.add(key)
        self._subjects[key].endpoints.add(endpoint)
        self._endpoints[endpoint] = _Endpoint(key, known.desired if known is not None else None)
        self._moved.add(endpoint)
        self._named(key, known.subject if known is not None else None)
        if known is not None:
            self._leave(endpoint, known.subject)

    def drop_endpoint(self, endpoint: int) -> None:
        """Forget an endpoint; one that isn't there changes nothing."""
        known = self._endpoints.pop(endpoint, None)
        if known is not None:
            self._named(None, known.subject)
            self._leave(endpoint, known.subject)
            self._moved.discard(endpoint)

    def put_peer(self, pod: str, identity: int, named_ports: Iterable[NamedPort]) -> None:
        """Take in the named ports of a pod on another node, or its new ones; `pod` is any name that only it has."""
        key = _SubjectKey(identity, frozenset(named_ports))
        self._named(key, self._peers.get(pod))
        self._peers[pod] = key

    def drop_peer(self, pod: str) -> None:
        """Forget a pod on another node; one that isn't there changes nothing."""
        self._named(None, self._peers.pop(pod, None))

    # What follows

    def settle(self) -> Changes:
        """Work out what follows from all that was noted since the last time."""
        prefixes = self._granting.prefixes.changes()
        self._prefixes_changed([*prefixes.added, *prefixes.removed])
        for name in self._stale_policies & self._policies.keys():
            self._granting.forget(name)
            self._stale_subjects.update(self._selected(self._policies[name]))
        candidates, self._moved = self._moved, set()
        for key in self._stale_subjects & self._subjects.keys():
            subject = self._subjects[key]
            desired = self._resolve(key, sorted(subject.policies))
            if desired != subject.desired:
                subject.desired = desired
                candidates |= subject.endpoints
        self._stale_policies.clear()
        self._stale_subjects.clear()
        return Changes(frozenset(one for one in candidates if self._tell(one)), prefixes)

    def _tell(self, endpoint: int) -> bool:
        """Make an endpoint's policy what its subject's is; return whether it was another one."""
        known = self._endpoints[endpoint]
        desired = self._subjects[known.subject].desired
        self._endpoints[endpoint] = _Endpoint(known.subject, desired)
        return known.desired != desired

    def _resolve(self, key: _SubjectKey, policies: list[PolicyName]) -> EndpointPolicy:
        if key.identity == Reserved.INIT and self._settings.init_policy is InitPolicy.DENY:
            return ONLY_HOST
        return EndpointPolicy(*(self._side(way, key, policies) for way in Direction))

    def _side(self, way: Direction, key: _SubjectKey, policies: list[PolicyName]) -> Side | None:
        isolating = tuple(name for name in policies if way in self._policies[name].terms)
        if not isolating:
            return None
        grants = (self._granting.grants(self._policies[name], way, key.named_ports) for name in isolating)
        return Side(isolating, (*chain.from_iterable(grants), *granted_to_host(self._settings, way)))

    # Who must look again

    def _selected(self, policy: Compiled) -> Iterator[_SubjectKey]:
        members = self._granting.selection.members(policy.subject)
        return chain.from_iterable(self._of_identity[one] for one in members & self._of_identity.keys())

    def _members_changed(self, selectors: Iterable[LabelSelector]) -> None:
        for selector in selectors:
            self._stale_policies |= self._users.get(selector, frozenset())

    def _prefixes_changed(self, changed: Iterable[Network]) -> None:
        """A block has other numbers only when a prefix begins within it."""
        firsts = sorted((one.version, int(one.network_address)) for one in changed)
        if not firsts:
            return
        for block, users in self._users.items():
            if isinstance(block, IPBlock):
                cidr = block.cidr
                place = bisect_left(firsts, (cidr.version, int(cidr.network_address)))
                if place < len(firsts) and firsts[place] <= (cidr.version, int(cidr.broadcast_address)):
                    self._stale_policies |= users

    def _named(self, now: _SubjectKey | None, before: _SubjectKey | None) -> None:
        """Count in a pod's named ports, and out those that it had."""
        changed = self._granting.named_ports.add(*now) if now is not None else set()
        changed |= self._granting.named_ports.remove(*before) if before is not None else set()
        for name in changed:
            self._stale_policies |= self._users.get(name, frozenset())

    def _leave(self, endpoint: int, key: _SubjectKey) -> None:
        subject = self._subjects[key]
        subject.endpoints.discard(endpoint)
        if not subject.endpoints:
            del self._subjects[key]
            _discard(self._of_identity, key.identity, key)

    def _forget(self, old: Compiled) -> None:
        """Take out what a policy brought; its name may have gone already, or be about to come again."""
        name = old.policy.name
        for key in self._selected(old):
            self._subjects[key].policies.discard(name)
            self._stale_subjects.add(key)
        for dependency in old.dependencies:
            _discard(self._users, dependency, name)
        _discard(self._selecting, old.subject, name)
        for selector in old.selectors:
            self._granting.selection.disuse(selector)
        self._granting.prefixes.forget(old.blocks)
        self._granting.forget(name)


def _discard(sets: dict[K, set[V]], key: K, value: V) -> None:
    sets[key].discard(value)
    if not sets[key]:
        del sets[key]
