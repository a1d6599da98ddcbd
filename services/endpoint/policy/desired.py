"""What an endpoint's policies grant it, as a value: small, shared, and turned into map entries when they are asked for.

Pure. A *grant* is one peer of one rule with the rule's ports: a set of identities, each of which may use each of the
ports. An endpoint's policy is a tuple of grants for each direction, or None where no policy isolates it. The sets are
those of the resolver's selectors and the port sets are interned, so that a hundred endpoints with a thousand entries
each share almost all of it; and a grant knows its rule, so that every entry does, at no cost for each.

Entries are what remains after simplification, for each direction:

- The port sets of all grants of one identity are joined, and covered by the fewest prefixes.
- What everybody may (identity 0) isn't repeated for somebody.

Thus two policies may differ and have the same entries. `difference` compares the grants, and turns only the identities
for which they differ into entries.
"""

from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple, Self

from services.endpoint.policy.entry import ANY_IDENTITY, Direction, PolicyEntry
from services.endpoint.policy.networkpolicy import Peer, PolicyName
from services.endpoint.policy.ports import ALL_PORTS, PortPrefix, Ports, prefixes_beyond

EVERYBODY = frozenset({ANY_IDENTITY})


class Origin(NamedTuple):
    """Where a grant comes from: a peer of a rule, `ingress[0].from[1]`, or a setting, when `policy` is None."""

    policy: PolicyName | None
    path: str
    peer: Peer | None = None
    """None: everybody."""

    def __str__(self) -> str:
        """Return it in words."""
        if self.policy is None:
            return self.path
        return f"policy {self.policy}, {self.path}" + (f" ({self.peer})" if self.peer is not None else "")


class Grant(NamedTuple):
    """Each of the peers may use each of the ports."""

    origin: Origin
    peers: frozenset[int]
    ports: Ports

    @property
    def cost(self) -> int:
        """How many entries it takes by itself."""
        return len(self.peers) * len(self.ports.prefixes)


class Side(NamedTuple):
    """One direction of an endpoint that is isolated in it: by which policies, and what is granted nevertheless."""

    isolated_by: tuple[PolicyName, ...]
    grants: tuple[Grant, ...]


class Delta(NamedTuple):
    """Entries to write before any is removed, and entries to remove."""

    added: tuple[PolicyEntry, ...]
    removed: tuple[PolicyEntry, ...]


OPEN = Side((), (Grant(Origin(None, "no policy isolates it"), EVERYBODY, ALL_PORTS),))
"""A direction in which an endpoint is not isolated, as grants."""


@dataclass(frozen=True, slots=True)
class EndpointPolicy:
    """All that is granted to an endpoint; None: not isolated in that direction."""

    ingress: Side | None = None
    egress: Side | None = None

    def side(self, direction: Direction) -> Side:
        """Return what is granted in a direction."""
        return (self.ingress if direction is Direction.INGRESS else self.egress) or OPEN

    def entries(self) -> tuple[PolicyEntry, ...]:
        """Return the whole content of the endpoint's policy map, sorted."""
        return tuple(chain.from_iterable(_entries(way, _prefixes(self.side(way).grants)) for way in Direction))

    def entries_of(self, way: Direction, identities: AbstractSet[int]) -> tuple[PolicyEntry, ...]:
        """Return the entries of some identities in a direction, sorted."""
        return tuple(_entries(way, _prefixes(self.side(way).grants, identities)))

    def size(self) -> int:
        """Return the number of entries."""
        return sum(len(one) for way in Direction for one in _prefixes(self.side(way).grants).values())

    def cost(self) -> int:
        """Return what the entries would be before simplification: quick to tell, and never less than `size`."""
        return sum(grant.cost for way in Direction for grant in self.side(way).grants)

    def difference(self, older: Self) -> Delta:
        """Return what makes the entries of `older` those of this one."""
        added: list[PolicyEntry] = []
        removed: list[PolicyEntry] = []
        for way in Direction:
            ours, theirs = self.side(way).grants, older.side(way).grants
            touched = _touched(ours, theirs)
            # What everybody may decides what has to be said of each.
            only = None if ANY_IDENTITY in touched else touched
            if touched:
                new, old = set(_entries(way, _prefixes(ours, only))), set(_entries(way, _prefixes(theirs, only)))
                added += sorted(new - old)
                removed += sorted(old - new)
        return Delta(tuple(added), tuple(removed))

    def origins(self, entry: PolicyEntry) -> tuple[Origin, ...]:
        """Return the rules that a map entry stands for; several when it joins what several grant."""
        wanted = PortPrefix(entry.protocol, entry.port, entry.port_prefix_length)
        grants = (one for one in self.side(entry.direction).grants if entry.identity in one.peers)
        return tuple(grant.origin for grant in grants if grant.ports.overlaps(wanted))


NOT_ISOLATED = EndpointPolicy()
"""That of an endpoint that no policy selects."""


def _touched(ours: tuple[Grant, ...], theirs: tuple[Grant, ...]) -> AbstractSet[int]:
    """Return the identities whose entries may differ."""
    touched: set[int] = set()
    head = 0
    # Both are in the order of policies, and mostly they differ in the members of some selectors, or in one policy: then
    # grants stand at the same places, from the one end or the other. What is the same object is equal; what isn't may
    # be, and is found out more slowly.
    for our, their in zip(ours, theirs, strict=False):
        if our is not their:
            if our.origin is not their.origin or our.ports is not their.ports:
                break
            touched |= our.peers ^ their.peers
        head += 1
    tail = 0
    for our, their in zip(reversed(ours[head:]), reversed(theirs[head:]), strict=False):
        if our is not their:
            break
        tail += 1
    before, after = _by_rule(theirs[head : len(theirs) - tail]), _by_rule(ours[head : len(ours) - tail])
    for rule in before.keys() | after.keys():
        touched |= before.get(rule, frozenset()) ^ after.get(rule, frozenset())
    return touched


def _by_rule(grants: Iterable[Grant]) -> Mapping[tuple[Origin, Ports], frozenset[int]]:
    """Join the peers of grants that differ in nothing else."""
    found: dict[tuple[Origin, Ports], frozenset[int]] = {}
    for grant in grants:
        key = (grant.origin, grant.ports)
        found[key] = found[key] | grant.peers if key in found else grant.peers
    return found


def _prefixes(grants: Iterable[Grant], only: AbstractSet[int] | None = None) -> dict[int, tuple[PortPrefix, ...]]:
    """Return the port prefixes of each identity (of `only`, if given), without those that everybody may use."""
    # A set of identities is often shared by several grants, and the walk over identities is what costs.
    by_peers: dict[frozenset[int], list[Ports]] = {}
    for grant in grants:
        by_peers.setdefault(grant.peers, []).append(grant.ports)
    masks: dict[int, int] = {}
    for place, peers in enumerate(by_peers):
        bit = 1 << place
        for identity in peers if only is None else peers & only:
            masks[identity] = masks.get(identity, 0) | bit
    ports = [Ports.union(sets) if len(sets) > 1 else sets[0] for sets in by_peers.values()]
    everybody = Ports.union(one for one, peers in zip(ports, by_peers, strict=True) if ANY_IDENTITY in peers)
    of_mask = {
        mask: Ports.union(one for place, one in enumerate(ports) if mask >> place & 1) for mask in set(masks.values())
    }
    left = {mask: prefixes_beyond(one, everybody) for mask, one in of_mask.items()}
    found = {identity: left[mask] for identity, mask in masks.items() if left[mask]}
    if ANY_IDENTITY in masks:
        found[ANY_IDENTITY] = everybody.prefixes
    return found


def _entries(way: Direction, prefixes: Mapping[int, tuple[PortPrefix, ...]]) -> Iterator[PolicyEntry]:
    for identity in sorted(prefixes):
        for protocol, port, length in prefixes[identity]:
            yield PolicyEntry(way, identity, protocol, port, length)
