"""The documents that are in force, and what they say about an endpoint: its labels, its named ports. Pure.

An endpoint's labels are, in this order: those of its pod's document, or else those that CreateEndpoint was given; over
them what an operator has said (`labelchanges.py`). While there is none of the three its labels are not known, which is
something else than having none: it has the identity init.

Each document has one owner: a file of the watched directory, the kvstore, or whoever applied it here. What a file has
nobody else changes, so that the directory tells what is in force; nor what the kvstore has.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from services.common.errors import FailedPrecondition
from services.common.model import Pod
from services.endpoint.policy import labelchanges
from services.endpoint.policy.document import Document, DocumentKind, DocumentName, name_of
from services.endpoint.policy.labels import DEFAULT_NAMESPACE, NO_LABELS, LabelFilter, Labels, identity_labels
from services.endpoint.policy.networkpolicy import NamedPort, NamespaceDocument, NetworkPolicy, PodDocument

CLUSTER = "kvstore"
"""The source of documents that hold on all nodes."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A document in force; `source` is a file of the watched directory or CLUSTER, empty: applied. `applied` in epoch
    seconds.
    """

    document: Document
    source: str
    applied: float

    @property
    def name(self) -> DocumentName:
        """What it is known by."""
        return name_of(self.document)


class Who(NamedTuple):
    """What documents make of an endpoint; no labels: they aren't known."""

    labels: Labels
    named_ports: frozenset[NamedPort]


class Repository:
    """Documents by name. A value: `with_changes` makes another one."""

    def __init__(self, documents: Iterable[Stored] = ()) -> None:
        """Hold these."""
        self._documents: dict[DocumentName, Stored] = {one.name: one for one in documents}

    def __iter__(self) -> Iterator[Stored]:
        """Go through them by kind, namespace and name."""
        return iter([self._documents[name] for name in sorted(self._documents)])

    def get(self, name: DocumentName) -> Stored | None:
        """Return a document."""
        return self._documents.get(name)

    def of_source(self, source: str) -> list[DocumentName]:
        """Return what a file of the watched directory has."""
        return [name for name, one in self._documents.items() if one.source == source]

    def policies(self) -> dict[DocumentName, NetworkPolicy]:
        """Return the policies."""
        return {name: one.document for name, one in self._documents.items() if isinstance(one.document, NetworkPolicy)}

    def with_changes(self, put: Iterable[Stored], dropped: Iterable[DocumentName]) -> "Repository":
        """Return what a change makes of it. What is in both is put."""
        documents = self._documents.copy()
        for name in dropped:
            documents.pop(name, None)
        documents.update((one.name, one) for one in put)
        changed = Repository()
        changed._documents = documents
        return changed

    def check_owner(self, names: Iterable[DocumentName], source: str) -> None:
        """Raise FailedPrecondition when a document belongs to somebody else than `source`."""
        for name in names:
            there = self._documents.get(name)
            if there is not None and there.source != source:
                raise FailedPrecondition(_owned(there), document=str(name))

    def who(self, pod: Pod, own: Mapping[str, str], changes: Mapping[str, str | None], filter_: LabelFilter) -> Who:
        """Return what an endpoint is: of this pod, made with labels `own`, with an operator's `changes`."""
        document = self._pod(pod)
        ports = document.named_ports if document is not None else frozenset[NamedPort]()
        if document is None and not own and not changes:
            return Who(NO_LABELS, ports)
        labels = labelchanges.apply(document.labels if document is not None else own, changes)
        namespace = pod.namespace or DEFAULT_NAMESPACE
        return Who(identity_labels(labels, namespace, self._namespace(namespace), filter_), ports)

    def _pod(self, pod: Pod) -> PodDocument | None:
        if not pod.name:
            return None
        there = self.get(DocumentName(DocumentKind.POD, pod.namespace or DEFAULT_NAMESPACE, pod.name))
        document = there.document if there is not None else None
        return document if isinstance(document, PodDocument) else None

    def _namespace(self, name: str) -> Mapping[str, str]:
        there = self.get(DocumentName(DocumentKind.NAMESPACE, "", name))
        document = there.document if there is not None else None
        return document.labels if isinstance(document, NamespaceDocument) else {}


def _owned(there: Stored) -> str:
    if there.source == CLUSTER:
        return f"{there.name} holds for the whole cluster: change it with --cluster, or delete it so"
    if there.source:
        return f"{there.name} is in the watched file {there.source}: change it there"
    argument = "/".join((str(there.name.kind).lower(), *filter(None, there.name[1:])))
    return f"{there.name} was applied: `podlane policy delete {argument}` first, and then the file's counts"
