"""PolicyService: messages in, messages out, no decisions."""

import time
from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence
from typing import Any

import structlog
from podlane.endpoint.v1 import policy_pb2 as pb
from podlane.endpoint.v1 import policy_pb2_grpc

from services.common.errors import FailedPrecondition, NotFound
from services.endpoint import messages, policymessages
from services.endpoint.cluster.documents import ClusterDocuments
from services.endpoint.enforce import Effect
from services.endpoint.flowwatch import FlowWatch
from services.endpoint.policies import Policies
from services.endpoint.policy.document import Document, DocumentKind, DocumentName, documents_of, name_of
from services.endpoint.policy.labels import DEFAULT_NAMESPACE
from services.endpoint.policy.networkpolicy import NetworkPolicy
from services.endpoint.policy.parse import InvalidDocuments, parse
from services.endpoint.policy.repository import Stored
from services.endpoint.policychange import Change
from services.endpoint.policyview import PolicyView
from services.endpoint.registry import Registry


class PolicyServicer(policy_pb2_grpc.PolicyServiceServicer):
    """The RPCs of policy.proto."""

    def __init__(
        self,
        policies: Policies,
        view: PolicyView,
        watch: FlowWatch,
        registry: Registry,
        *,
        documents: ClusterDocuments | None = None,
    ) -> None:
        """Serve what they do; `documents` are those of a cluster."""
        self._documents = documents
        self._policies = policies
        self._view = view
        self._watch = watch
        self._registry = registry

    async def ApplyPolicies(  # noqa: N802 - the name that grpc calls
        self, request: pb.ApplyPoliciesRequest, _context: Any
    ) -> pb.ApplyPoliciesResponse:
        """Take documents in."""
        begin = time.perf_counter()
        found = parse(policymessages.read_text(request.text), request.source or "text", self._policies.filter)
        change, effect = await self._apply(documents_of(found), cluster=request.cluster)
        structlog.contextvars.bind_contextvars(changed=change.why, endpoints=len(effect.endpoints))
        return pb.ApplyPoliciesResponse(
            documents=policymessages.write_outcomes(change.outcomes),
            warnings=policymessages.write_problems(found.warnings),
            effect=policymessages.write_effect(effect, time.perf_counter() - begin),
        )

    async def DeletePolicies(  # noqa: N802 - the name that grpc calls
        self, request: pb.DeletePoliciesRequest, _context: Any
    ) -> pb.DeletePoliciesResponse:
        """Forget documents."""
        begin = time.perf_counter()
        change, effect = await self._apply((), self._names(request), cluster=request.cluster)
        structlog.contextvars.bind_contextvars(changed=change.why, endpoints=len(effect.endpoints))
        return pb.DeletePoliciesResponse(
            documents=policymessages.write_outcomes(change.outcomes),
            effect=policymessages.write_effect(effect, time.perf_counter() - begin),
        )

    def _apply(
        self, documents: Sequence[Document], dropped: Sequence[DocumentName] = (), *, cluster: bool
    ) -> Awaitable[tuple[Change, Effect]]:
        if not cluster:
            return self._policies.changes.apply(documents, "", dropped)
        if self._documents is None:
            raise FailedPrecondition("this node is alone: [kvstore] endpoints names no etcd, so there is no cluster")
        return self._documents.apply(documents, dropped)

    def _names(self, request: pb.DeletePoliciesRequest) -> list[DocumentName]:
        names = [policymessages.read_name(one, f"names[{index}]") for index, one in enumerate(request.names)]
        text = policymessages.read_text(request.text)
        found = documents_of(parse(text, request.source or "text", self._policies.filter)) if text else ()
        return [*names, *map(name_of, found)]

    async def ListPolicies(  # noqa: N802 - the name that grpc calls
        self, _request: pb.ListPoliciesRequest, _context: Any
    ) -> pb.ListPoliciesResponse:
        """List the documents."""
        return pb.ListPoliciesResponse(documents=[self._document(one) for one in self._policies.repository])

    async def GetPolicy(  # noqa: N802 - the name that grpc calls
        self, request: pb.GetPolicyRequest, _context: Any
    ) -> pb.GetPolicyResponse:
        """Show one document."""
        name = policymessages.read_name(request.name, "name")
        stored = self._policies.repository.get(name)
        if stored is None:
            raise NotFound(f"there is no {name}: see `podlane policy list`", document=str(name))
        return pb.GetPolicyResponse(document=self._document(stored, whole=True))

    def _document(self, stored: Stored, *, whole: bool = False) -> pb.Document:
        return policymessages.write_document(stored, self._concerned(stored.document), whole=whole)

    def _concerned(self, document: Document) -> Iterable[int]:
        if isinstance(document, NetworkPolicy):
            return sorted(self._policies.selected(document.name))
        kind, namespace, name = name_of(document)
        pods = ((managed.endpoint.id, managed.endpoint.spec.pod) for managed in self._registry)
        if kind is DocumentKind.NAMESPACE:
            return [id_ for id_, pod in pods if (pod.namespace or DEFAULT_NAMESPACE) == name]
        return [id_ for id_, pod in pods if (pod.namespace or DEFAULT_NAMESPACE, pod.name) == (namespace, name)]

    async def ValidatePolicies(  # noqa: N802 - the name that grpc calls
        self, request: pb.ValidatePoliciesRequest, _context: Any
    ) -> pb.ValidatePoliciesResponse:
        """Check a text."""
        try:
            found = parse(policymessages.read_text(request.text), "text", self._policies.filter)
        except InvalidDocuments as error:
            return pb.ValidatePoliciesResponse(problems=policymessages.write_problems(error.problems))
        return pb.ValidatePoliciesResponse(
            warnings=policymessages.write_problems(found.warnings),
            documents=[policymessages.write_name(name_of(one)) for one in documents_of(found)],
        )

    async def DiffPolicies(  # noqa: N802 - the name that grpc calls
        self, request: pb.DiffPoliciesRequest, _context: Any
    ) -> pb.DiffPoliciesResponse:
        """Say what a change would do."""
        text = policymessages.read_text(request.text)
        found = parse(text, request.source or "text", self._policies.filter) if text else None
        gone = [policymessages.read_name(one, f"deleted[{index}]") for index, one in enumerate(request.deleted)]
        change = self._policies.changes.change(documents_of(found) if found is not None else (), "", gone)
        differences = await self._view.differences(change, "")
        return pb.DiffPoliciesResponse(
            documents=policymessages.write_outcomes(change.outcomes),
            endpoints=map(policymessages.write_diff, differences),
            warnings=policymessages.write_problems(found.warnings if found is not None else ()),
        )

    async def ExplainPolicy(  # noqa: N802 - the name that grpc calls
        self, request: pb.ExplainPolicyRequest, _context: Any
    ) -> pb.ExplainPolicyResponse:
        """Say what becomes of a packet and why."""
        # `from` is a word of Python's, so the field goes by its name.
        ends = (
            policymessages.read_end(getattr(request, "from"), "from"),
            policymessages.read_end(request.to, "to"),
        )
        protocol, port, version = policymessages.read_packet(request)
        return policymessages.write_explained(await self._view.explain(ends, protocol, port, version))

    async def ListPolicyEntries(  # noqa: N802 - the name that grpc calls
        self, request: pb.ListPolicyEntriesRequest, _context: Any
    ) -> pb.ListPolicyEntriesResponse:
        """Show what a policy map is to hold, and why."""
        id_ = self._registry.get(messages.read_selector(request.selector)).endpoint.id
        return policymessages.write_wanted(id_, self._policies.wanted(id_))

    async def UpdateLabels(  # noqa: N802 - the name that grpc calls
        self, request: pb.UpdateLabelsRequest, _context: Any
    ) -> pb.UpdateLabelsResponse:
        """Take an operator's word about labels."""
        begin = time.perf_counter()
        managed = self._registry.get(messages.read_selector(request.selector))
        structlog.contextvars.bind_contextvars(endpoint=managed.endpoint.id)
        effect = await self._policies.changes.relabel(managed, policymessages.read_label_changes(request.changes))
        return pb.UpdateLabelsResponse(
            endpoint=messages.write_endpoint(managed.endpoint),
            effect=policymessages.write_effect(effect, time.perf_counter() - begin),
        )

    async def ListIdentities(  # noqa: N802 - the name that grpc calls
        self, request: pb.ListIdentitiesRequest, _context: Any
    ) -> pb.ListIdentitiesResponse:
        """Show identities."""
        found = self._view.identities(request.identity)
        return pb.ListIdentitiesResponse(identities=map(policymessages.write_identity, found))

    async def WatchFlows(  # noqa: N802 - the name that grpc calls
        self, request: pb.WatchFlowsRequest, context: Any
    ) -> AsyncIterator[pb.WatchFlowsResponse]:
        """Stream what happens to packets, with names."""
        chosen = self._registry.get(messages.read_selector(request.selector)) if request.HasField("selector") else None
        id_ = chosen.endpoint.id if chosen is not None else 0
        async for told in self._watch.watch(request.types, id_, lambda: context.send_initial_metadata(())):
            yield told
