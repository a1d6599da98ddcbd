"""Policies, Namespaces and Pods that hold on all nodes: `policies/v1/<kind>/<namespace>/<name>`, in canonical JSON.

    podlane policy apply --cluster ─▶ tried here ─▶ one commit ─▶ in force here, answered
                                                        └─▶ watch ─▶ taken in on every node: `policy-kvstore`

What comes together is taken in together; where that is refused, each for itself, and the controller fails with what is
wrong until it is right. A node that refuses a document (a map is too small, its own document has the name) goes on with
what it had.

Documents are in the node's own database, too, so that a start during an outage knows them. What a node has applied for
itself alone (`podlane policy apply`, the watched directory) is not here.
"""

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from services.common import controllers, telemetry
from services.common.controller_parameters import Parameters
from services.common.errors import FailedPrecondition, InvalidArgument, PodlaneError, Unavailable
from services.common.kvstore import Batch, Change, Delete, Kvstore, Put
from services.common.kvstore.keys import Keys
from services.endpoint.enforce import Effect
from services.endpoint.policy.document import Document, DocumentName, from_json, name_of, to_json
from services.endpoint.policy.repository import CLUSTER
from services.endpoint.policychange import Change as DocumentChange

if TYPE_CHECKING:
    from services.endpoint.policies import Policies

_log = telemetry.logger("documents")

TAKE = "policy-kvstore"
# Operations that etcd takes in one transaction by default are 128.
_LARGEST_COMMIT = 100
_RETRY_SECONDS, _LONGEST_SECONDS = 1.0, 10.0
_FIRST_SECONDS = 2.0
"""How long a start waits for the store to tell its documents: a new node's first pod is to have its policy."""


class ClusterDocuments:
    """A component: `start` begins to follow the store."""

    def __init__(self, kvstore: Kvstore, keys: Keys, policies: "Policies", own: controllers.Manager) -> None:
        """Wire."""
        self._kvstore, self._keys = kvstore, keys
        self._policies, self._controllers = policies, own
        self._pending: dict[str, str | None] = {}
        self._refused: dict[str, str] = {}
        self._read = asyncio.Event()
        self._taking = asyncio.Lock()
        self._following: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin; the store need not be there."""
        take = Parameters(run=self.take, retry_base=_RETRY_SECONDS, retry_cap=_LONGEST_SECONDS)
        self._controllers.update(TAKE, take)
        self._following = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        """End."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait((self._following,))

    async def look_first(self) -> None:
        """Take in what the store has before the node takes endpoints, if it answers soon."""
        with contextlib.suppress(TimeoutError, PodlaneError):
            await asyncio.wait_for(self._read.wait(), _FIRST_SECONDS)
            await self.take()

    async def apply(
        self, documents: Sequence[Document], dropped: Iterable[DocumentName] = ()
    ) -> tuple[DocumentChange, Effect]:
        """Take documents in on all nodes, and let `dropped` go; return when this node's kernel enforces what follows.

        Raises as Changer.apply, and Unavailable when the store can't be reached: then nothing was changed, or the nodes
        find it there when it is back.
        """
        gone = tuple(dropped)
        change = self._policies.changes.change(documents, CLUSTER, gone)
        self._policies.repository.check_owner(change.outcomes, CLUSTER)
        self._policies.changes.try_out(change, CLUSTER)
        operations: list[Change] = [Put(self.key(name_of(one)), to_json(one)) for one in documents]
        operations += [Delete(self.key(name)) for name in gone]
        if len(operations) > _LARGEST_COMMIT:
            raise InvalidArgument(
                f"{len(operations)} documents: the kvstore takes {_LARGEST_COMMIT} as one; apply them in parts"
            )
        async with self._taking:  # else the watch is faster, and nothing would be left to answer
            if not await self._kvstore.commit((), operations):
                raise Unavailable("the kvstore refused a commit without conditions")
            return await self._policies.changes.apply(documents, CLUSTER, gone)

    def key(self, name: DocumentName) -> str:
        """Return the key of a document."""
        return self._keys.policies + "/".join((str(name.kind).lower(), *filter(None, name[1:])))

    async def take(self) -> None:
        """Take in what has come: the controller `policy-kvstore`. Raises FailedPrecondition, Unavailable."""
        if not self._policies.begun:
            return
        async with self._taking:
            pending, self._pending = self._pending, {}
            try:
                await self._take(pending)
            except PodlaneError as error:
                if len(pending) == 1:
                    self._refuse(next(iter(pending)), pending, error)
                for key in pending if len(pending) > 1 else ():
                    try:
                        await self._take({key: pending[key]})
                    except PodlaneError as one:
                        self._refuse(key, pending, one)
        if self._refused:
            wrong = "; ".join(self._refused.values())
            raise FailedPrecondition(f"what was last taken of these documents stays in force: {wrong}")

    def _refuse(self, key: str, pending: dict[str, str | None], error: PodlaneError) -> None:
        if self._refused.get(key) != error.message:
            _log.warning("refused", key=key, error=error.message)
        self._refused[key] = error.message
        self._pending.setdefault(key, pending[key])  # tried again: what it was refused for may go

    async def _take(self, pending: dict[str, str | None]) -> None:
        there = {self.key(name): name for name in self._policies.repository.of_source(CLUSTER)}
        gone = [there[key] for key, text in pending.items() if text is None and key in there]
        found = [self._document(key, text) for key, text in pending.items() if text is not None]
        change, effect = await self._policies.changes.apply_now(found, CLUSTER, gone)
        for key in pending:
            self._refused.pop(key, None)
        if change.put or change.dropped:
            words = [f"{name} {outcome.name.lower()}" for name, outcome in change.outcomes.items()]
            _log.info("taken", documents=words, endpoints=len(effect.endpoints), failures=effect.failures)

    def _document(self, key: str, text: str) -> Document:
        try:
            found = from_json(text, self._policies.filter, key)
        except ValueError as error:
            raise InvalidArgument(f"{key}: {error}", key=key) from None
        if self.key(name_of(found)) != key:
            raise InvalidArgument(f"{key}: holds {name_of(found)}", key=key)
        return found

    async def _follow(self) -> None:
        first = True
        async for batch in self._kvstore.watch(self._keys.policies):
            if first:
                self._gone(batch)
                first = False
            self._pending.update({key: entry.value if entry is not None else None for key, entry in batch.items()})
            self._read.set()
            self._controllers.trigger(TAKE)

    def _gone(self, listed: Batch) -> None:
        """Let go of what this node's database has and the store has not."""
        for name in self._policies.repository.of_source(CLUSTER):
            if self.key(name) not in listed:
                self._pending[self.key(name)] = None
