"""Identities that no node uses any more are taken out of the kvstore: the controller `kvstore-identity-gc`.

    no ref/<number>/… ─▶ marked ─▶ a round later still none, and id/<number> unchanged ─▶ id/ and value/ are deleted

The deletion is one commit with both conditions, so a node that refers to the number in the same moment keeps it. Nodes
refer to what they use from the first moment, or, if they know the number already, a moment later; a round is long
against that. One node does this, the first by name of those that live; where two think that they are it, for a moment,
the commits don't mind.

A node that was cut off for longer than its lease and goes on using the number puts it again when it is back
(`identities.py`); if the number was given to others meanwhile, its endpoints get another one.
"""

from typing import Protocol

from services.common import telemetry
from services.common.kvstore import AbsentBelow, Delete, Kvstore, Unchanged
from services.common.kvstore.keys import Keys
from services.endpoint.cluster.identitybook import IdentityBook

_log = telemetry.logger("identitygc")

COLLECT = "kvstore-identity-gc"


class Election(Protocol):
    """What is needed of registration.py."""

    @property
    def first(self) -> bool:
        """Whether this node does what one of all has to do."""


class IdentityCollector:
    """Marks and sweeps."""

    def __init__(self, kvstore: Kvstore, keys: Keys, book: IdentityBook, registration: Election) -> None:
        """Wire."""
        self._kvstore, self._keys = kvstore, keys
        self._book, self._registration = book, registration
        self._marked: dict[int, int] = {}

    async def run(self) -> None:
        """Do one round. Raises Unavailable, FailedPrecondition."""
        marked, self._marked = self._marked, {}
        if not self._registration.first:
            return
        for number in list(self._book.shared()):
            revision = self._book.revision(number)
            if revision and not self._book.uses(number):
                await self._judge(number, revision, sweep=marked.get(number) == revision)

    async def _judge(self, number: int, revision: int, *, sweep: bool) -> None:
        labels = self._book.labels(number)
        if labels is None:
            return
        unused = (
            Unchanged(self._keys.identity(number), revision),
            AbsentBelow(self._keys.identity_references_of(number)),
        )
        gone = (Delete(self._keys.identity(number)), Delete(self._keys.identity_value(labels.canonical)))
        if not await self._kvstore.commit(unused, gone if sweep else ()):
            return
        if sweep:
            _log.info("removed an identity that no node uses", identity=number, labels=str(labels))
        else:
            self._marked[number] = revision
