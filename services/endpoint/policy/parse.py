"""Reads NetworkPolicy, Namespace and Pod documents, strictly: all mistakes are named, and one of them refuses all.

    text ──yamltree──▶ nodes with lines ──fields──▶ known fields of the right types ──here, policyspec──▶ values

The API server's validation is repeated here because there may be no API server: what it would refuse is refused, with
path and line. Stricter than it: an unknown field is an error (there it may be dropped with a warning), so is a policy
without `spec` (there it isolates its whole namespace), a `null` in a list (there, among rules, it allows everything)
and a selector that uses a label which identities leave out. A Pod's `spec` has hundreds of fields that policy has
nothing to do with: of it only what is read is checked.

Warnings refuse nothing: host bits in a CIDR, rules that `policyTypes` makes meaningless, named ports for an `ipBlock`,
`from` or `to` that is null.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

from services.common.errors import InvalidArgument
from services.endpoint.policy import syntax
from services.endpoint.policy.fields import Book, Field, Fields
from services.endpoint.policy.labels import DEFAULT_NAMESPACE, LabelFilter
from services.endpoint.policy.networkpolicy import (
    Documents,
    NamedPort,
    NamespaceDocument,
    NetworkPolicy,
    PodDocument,
    PolicyName,
    Problem,
)
from services.endpoint.policy.policyspec import read_policy, read_protocol
from services.endpoint.policy.yamltree import Node, NotYaml, documents

_SHOWN = 5
_VERSIONS = {"NetworkPolicy": "networking.k8s.io/v1", "Namespace": "v1", "Pod": "v1", "List": "v1"}
_TOP = {"apiVersion", "kind", "metadata", "spec", "status"}
# ObjectMeta; kubectl and the API server write most of it.
_STRINGS = {"creationTimestamp", "deletionTimestamp", "generateName", "resourceVersion", "selfLink", "uid"}
_NUMBERS = {"deletionGracePeriodSeconds", "generation"}
_LISTS = {"finalizers", "managedFields", "ownerReferences"}
_METADATA = {"annotations", "labels", "name", "namespace"} | _STRINGS | _NUMBERS | _LISTS

KEEP_ALL = LabelFilter()


class InvalidDocuments(InvalidArgument):
    """A text of which nothing is used. The message has the first problems, `problems` has all, in order of lines."""

    def __init__(self, source: str, problems: Iterable[Problem]) -> None:
        """Make the sentence."""
        self.problems = tuple(sorted(problems))
        count = len(self.problems)
        shown = "; ".join(map(str, self.problems[:_SHOWN]))
        super().__init__(
            f"{source}: {count} problem{'s' if count > 1 else ''}, so nothing in it is used: {shown}"
            + (f"; and {count - _SHOWN} more" if count > _SHOWN else ""),
            source=source,
            problems=count,
            line=self.problems[0].line,
            path=self.problems[0].path,
        )


def parse(text: str, source: str = "documents", labels: LabelFilter = KEEP_ALL) -> Documents:
    """Return what a YAML or JSON text holds. `source` is what errors call it, a file's name for example.

    `labels` is the filter of identities. Raises InvalidDocuments.
    """
    return read(documents(text), source, labels)


def read(roots: Iterable[Node], source: str, labels: LabelFilter) -> Documents:
    """Return what documents hold that are trees already. Iterating over `roots` may raise NotYaml.

    Raises InvalidDocuments.
    """
    reader = _Reader(labels)
    problems: list[Problem] = []
    try:
        for number, root in enumerate(roots, 1):
            reader.read(Field(root, "", root.line, Book(f"document {number}")))
    except NotYaml as error:
        problems.append(Problem(error.line, "", "", error.message))
    problems += (problem for book in reader.books for problem in book.named(book.problems))
    if problems:
        raise InvalidDocuments(source, problems)
    warnings = sorted(warning for book in reader.books for warning in book.named(book.warnings))
    return Documents(tuple(reader.policies), tuple(reader.namespaces), tuple(reader.pods), tuple(warnings))


class _Reader:
    """Reads one document after the other, and keeps what it finds."""

    def __init__(self, labels: LabelFilter) -> None:
        self._labels = labels
        self._first: dict[str, int] = {}  # a document's kind and name → its line
        self.books: list[Book] = []
        self.policies: list[NetworkPolicy] = []
        self.namespaces: list[NamespaceDocument] = []
        self.pods: list[PodDocument] = []

    def read(self, document: Field) -> None:
        """Read a document of any kind."""
        self.books.append(document.book)
        readers = {"NetworkPolicy": self._policy, "Namespace": self._namespace, "Pod": self._pod, "List": self._list}
        head = document.require("apiVersion", "kind")
        kind, version = head.string("kind"), head.string("apiVersion")
        if kind is None:
            return
        if kind not in readers:
            head["kind"].problem(f"{syntax.quoted(kind)} is nothing that policy is made of: {', '.join(readers)}")
        elif version is not None and version != _VERSIONS[kind]:
            head["apiVersion"].problem(f"must be {_VERSIONS[kind]} for a {kind}, not {syntax.quoted(version)}")
        else:
            readers[kind](document)

    def _list(self, document: Field) -> None:
        fields = document.object({"apiVersion", "kind", "metadata", "items"}, required=("items",))
        for item in fields.list("items"):
            self.read(Field(item.node, item.path, item.line, Book(document.book.document)))

    def _policy(self, document: Field) -> None:
        fields = document.object(_TOP, required=("metadata", "spec"))
        name, _ = self._metadata("NetworkPolicy", document, fields, syntax.dns_name)
        fields.map("status")
        if "spec" in fields:
            self.policies.append(read_policy(name, fields["spec"], self._labels))

    def _namespace(self, document: Field) -> None:
        fields = document.object(_TOP, required=("metadata",))
        name, labels = self._metadata("Namespace", document, fields, syntax.dns_label)
        self.namespaces.append(NamespaceDocument(name.name, labels))

    def _pod(self, document: Field) -> None:
        fields = document.object(_TOP, required=("metadata",))
        name, labels = self._metadata("Pod", document, fields, syntax.dns_name)
        spec = fields.map("spec")
        # Init containers that stay (sidecars) serve ports, too; those of the others harm nobody.
        containers = [*spec.list("initContainers"), *spec.list("containers")]
        ports = frozenset(port for container in containers for port in _named_ports(container.entries()))
        host_network = "hostNetwork" in spec and spec["hostNetwork"].boolean()
        self.pods.append(PodDocument(*name, labels, ports, host_network))

    def _metadata(
        self, kind: str, document: Field, fields: Fields, judge: Callable[[str], str | None]
    ) -> tuple[PolicyName, Mapping[str, str]]:
        """Read name, namespace and labels, check the rest, and note who is there twice."""
        if "metadata" not in fields:
            return PolicyName("", ""), {}
        where = fields["metadata"]
        metadata = where.object(_METADATA, required=("name",))
        name = metadata.string("name", judge) or ""
        namespace = metadata.string("namespace", syntax.dns_label) or DEFAULT_NAMESPACE
        if kind == "Namespace":
            namespace = ""
            if "namespace" in metadata:
                metadata["namespace"].problem("a Namespace is in no namespace")
        document.book.document = f"{kind} {namespace}/{name}" if namespace else f"{kind} {name}"
        if name and document.book.document in self._first:
            first = self._first[document.book.document]
            metadata["name"].problem(f"{document.book.document} is there twice, first in line {first}")
        self._first.setdefault(document.book.document, metadata["name"].line if name else where.line)
        _check_unread(metadata)
        return PolicyName(namespace, name), dict(_labels(metadata.map("labels")))


def _check_unread(metadata: Fields) -> None:
    for key, value in metadata.items():
        if key in _STRINGS:
            value.string()
        elif key in _NUMBERS:
            value.integer()
        elif key in _LISTS:
            value.items()
    for value in metadata.map("annotations").values():
        value.string()


def _labels(labels: Fields) -> Iterator[tuple[str, str]]:
    for key, value in labels.items():
        value.problem(syntax.label_key(key))
        yield key, value.string(syntax.label_value) or ""


def _named_ports(container: Fields) -> Iterator[NamedPort]:
    for port in container.list("ports"):
        fields = port.object({"containerPort", "hostIP", "hostPort", "name", "protocol"}, required=("containerPort",))
        name, number = fields.string("name", syntax.port_name), fields.integer("containerPort", syntax.port_number)
        protocol = read_protocol(fields)
        if name and number is not None:
            yield NamedPort(name, protocol, number)
