"""The rows behind policy: the documents that are in force, and which number stands for which labels.

A document is kept as canonical JSON (`policy/document.py`), with the file of the watched directory that it is from. An
identity's row comes with the first endpoint that has it (`store.py`) and goes when its grace time is over, so that a
restart gives no number another meaning while a policy map may still hold the old one.
"""

from collections.abc import Iterable, Mapping, Sequence

from services.common.db import Connection, Database
from services.common.errors import CorruptState, InvalidArgument
from services.endpoint.policy.document import DocumentKind, DocumentName, from_json, to_json
from services.endpoint.policy.labels import LabelFilter, Labels
from services.endpoint.policy.repository import Stored

NOTE_IDENTITY = "INSERT OR REPLACE INTO identities VALUES (?, ?)"
"""In place of an older number of the same labels, too: that one has expired."""


class PolicyStore:
    """Documents and identities on disk. A write returns once it is there, or raises Unavailable: nothing was done."""

    def __init__(self, database: Database) -> None:
        """Use a database that was made with the migrations of schema.py."""
        self._database = database

    async def load(self, labels: LabelFilter) -> tuple[list[Stored], dict[int, Labels]]:
        """Return all documents and all identities.

        Raises CorruptState; also for a policy that selects by labels that `labels` leaves out of identities, because it
        would select everybody or nobody.
        """

        def query(connection: Connection) -> tuple[list[tuple[str, str, float]], list[tuple[int, str]]]:
            documents = connection.execute("SELECT json, source, applied FROM documents ORDER BY kind, namespace, name")
            identities = connection.execute("SELECT number, labels FROM identities")
            return [tuple(row) for row in documents], [tuple(row) for row in identities]

        documents, identities = await self._database.read(query)
        try:
            stored = [Stored(from_json(json, labels), source, applied) for json, source, applied in documents]
            return stored, {number: Labels.parse(labels) for number, labels in identities}
        except (InvalidArgument, ValueError) as error:
            raise CorruptState(
                f"a document in the endpoint database can't be used: {error}; if [endpoint] identity_labels was "
                f"changed, change it back and delete the policy first, else restore the database from a backup"
            ) from None

    async def change(
        self, put: Sequence[Stored], dropped: Iterable[DocumentName], identities: Mapping[int, Labels]
    ) -> None:
        """Write documents in place of those of the same names, delete others, and write new identities, all or none."""
        rows = [(*_key(one.name), one.source, one.applied, to_json(one.document)) for one in put]
        keys = [_key(name) for name in dropped]
        numbers = [(number, labels.canonical) for number, labels in identities.items()]

        def change(connection: Connection) -> None:
            connection.executemany("DELETE FROM documents WHERE kind = ? AND namespace = ? AND name = ?", keys)
            connection.executemany("INSERT OR REPLACE INTO documents VALUES (?, ?, ?, ?, ?, ?)", rows)
            connection.executemany(NOTE_IDENTITY, numbers)

        await self._database.write(change)

    async def forget_identities(self, numbers: Iterable[int]) -> None:
        """Delete identities that no endpoint has."""
        rows = [(number,) for number in numbers]

        def change(connection: Connection) -> None:
            connection.executemany("DELETE FROM identities WHERE number = ?", rows)

        await self._database.write(change)


def _key(name: DocumentName) -> tuple[DocumentKind, str, str]:
    return name.kind, name.namespace, name.name
