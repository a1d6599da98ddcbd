"""A change of documents and labels, as a value: what it puts, what it drops, who becomes somebody else. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from services.common.errors import NotFound
from services.endpoint.managed import ManagedEndpoint
from services.endpoint.model import LogCode, LogType
from services.endpoint.policy.document import Document, DocumentKind, DocumentName, name_of
from services.endpoint.policy.identity import SMALLEST
from services.endpoint.policy.networkpolicy import NetworkPolicy, PolicyName
from services.endpoint.policy.repository import Repository, Stored, Who
from services.endpoint.policy.resolve import Resolver


class Outcome(IntEnum):
    """What a change does to a document; the numbers are the API's."""

    CREATED = 1
    CONFIGURED = 2
    UNCHANGED = 3
    DELETED = 4


class Moved(NamedTuple):
    """An endpoint that becomes somebody else: what documents make of it, and the number of that."""

    managed: ManagedEndpoint
    who: Who
    identity: int

    def take_in(self, resolver: Resolver) -> None:
        """Tell a resolver."""
        if self.identity >= SMALLEST:
            resolver.put_identity(self.identity, self.who.labels)
        resolver.put_endpoint(self.managed.endpoint.id, self.identity, self.who.named_ports)

    def note(self, why: str) -> None:
        """Write it into the endpoint's value and its log."""
        managed, before = self.managed, self.managed.endpoint
        managed.update(identity=self.identity, identity_labels=self.who.labels)
        if self.identity != before.identity:
            words = f"identity {self.identity} ({self.who.labels or 'labels not known'}), it was {before.identity}"
            managed.note(LogType.POLICY, LogCode.OK, f"{words}: {why}")


@dataclass(frozen=True, slots=True)
class Change:
    """A change of documents, and of labels that an operator sets. `why` is what endpoints' logs say."""

    put: tuple[Stored, ...] = ()
    dropped: tuple[DocumentName, ...] = ()
    labels: Mapping[int, Mapping[str, str | None]] = field(default_factory=dict)
    """All that an operator has said, by endpoint id."""
    outcomes: Mapping[DocumentName, Outcome] = field(default_factory=dict)
    why: str = ""
    everybody: bool = False
    """Everybody is to be looked at anew, although nothing changes here."""

    @property
    def concerns_labels(self) -> bool:
        """Whether it can make an endpoint somebody else."""
        kinds = {*(one.name.kind for one in self.put), *(name.kind for name in self.dropped)}
        return self.everybody or bool(self.labels) or not kinds <= {DocumentKind.NETWORK_POLICY}

    def adopt(self, resolver: Resolver) -> None:
        """Tell a resolver of its policies."""
        for one in self.put:
            if isinstance(one.document, NetworkPolicy):
                resolver.put_policy(one.document)
        for name in self.dropped:
            if name.kind is DocumentKind.NETWORK_POLICY:
                resolver.drop_policy(PolicyName(name.namespace, name.name))


@dataclass(frozen=True, slots=True)
class Tried:
    """What a change would come to. `endpoints` are those whose policy would be another one."""

    resolver: Resolver
    endpoints: frozenset[int]
    moved: Mapping[int, int]
    """Identities that endpoints would get."""

    def identity_of(self, id_: int) -> int | None:
        """Return the identity that an endpoint would get; None: it keeps its own."""
        return self.moved.get(id_)


def changed(
    repository: Repository, documents: Sequence[Document], source: str, dropped: Iterable[DocumentName], now: float
) -> Change:
    """Return what documents of a source change, and what is to be dropped. Raises NotFound for what isn't there."""
    put: list[Stored] = []
    outcomes: dict[DocumentName, Outcome] = {}
    for document in documents:
        name = name_of(document)
        there = repository.get(name)
        if there is not None and there.document == document and there.source == source:
            outcomes[name] = Outcome.UNCHANGED
            continue
        put.append(Stored(document, source, now))
        outcomes[name] = Outcome.CREATED if there is None else Outcome.CONFIGURED
    for name in dropped:
        if repository.get(name) is None:
            raise NotFound(f"there is no {name}: see `podlane policy list`", document=str(name))
        outcomes.setdefault(name, Outcome.DELETED)
    gone = tuple(name for name, outcome in outcomes.items() if outcome is Outcome.DELETED)
    names = [str(name) for name, outcome in outcomes.items() if outcome is not Outcome.UNCHANGED]
    why = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return Change(tuple(put), gone, outcomes=outcomes, why=why)
