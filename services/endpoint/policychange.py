"""A change of documents and labels, as a value: what it puts, what it drops, who becomes somebody else. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from services.common.errors import NotFound
from services.endpoint.managed import ManagedEndpoint
from services.endpoint.policy.document import Document, DocumentName, name_of
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


@dataclass(frozen=True, slots=True)
class Change:
    """A change of documents, and of labels that an operator sets. `why` is what endpoints' logs say."""

    put: tuple[Stored, ...] = ()
    dropped: tuple[DocumentName, ...] = ()
    labels: Mapping[int, Mapping[str, str | None]] = field(default_factory=dict)
    """All that an operator has said, by endpoint id."""
    outcomes: Mapping[DocumentName, Outcome] = field(default_factory=dict)
    why: str = ""


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
