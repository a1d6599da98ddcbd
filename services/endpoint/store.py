"""The rows behind the endpoints: what they are, their addresses, logs and switches, and which id was handed out last.

Of the state only its *stage* reaches the disk, because only that decides what a restart does: `creating` (the
intent; undone unless it is whole), `created`, `disconnecting` (to be finished). The rest is found out by comparing
with the kernel. The UNIQUE columns make the database itself refuse a second endpoint of an attachment and a second
holder of an address. An identity's labels are written with the endpoint that has it (`policystore.py` deletes them).

Addresses are packed, in network order; times are seconds since the epoch; a log entry is written once and never
changed. `ids` has one row, written with each insert. The embedded kvstore lives in the same file, so that what is
published with a record's write shares its commit.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any, TypeVar

from services.common.db import PATIENCE, Connection, Database, Row
from services.common.errors import CorruptState
from services.common.model import AssignedAddress, Attachment, Phase, Pod
from services.endpoint.ids import Ids
from services.endpoint.model import (
    LOG_ENTRIES,
    Counters,
    Endpoint,
    EndpointSpec,
    EndpointState,
    Level,
    Link,
    LogCode,
    LogEntry,
    LogType,
    Program,
    Regeneration,
)
from services.endpoint.policy.labels import Labels
from services.endpoint.policystore import NOTE_IDENTITY
from services.endpoint.timeline import Timeline

T = TypeVar("T")

_INSERT = f"INSERT INTO endpoints VALUES ({', '.join('?' * 25)})"  # noqa: S608 - only question marks


class Store:
    """Endpoints on disk. Each write returns once it is there, or raises Unavailable and has done nothing."""

    def __init__(self, database: Database) -> None:
        """Use a database that was made with the migrations of schema.py."""
        self._database = database

    async def load(self) -> tuple[list[Endpoint], Ids, dict[str, bool]]:
        """Return every endpoint, restoring or disconnecting, the ids and the node's switches. Raises CorruptState."""
        return await self._database.read(_load)

    async def instance(self) -> str:
        """Return what tells this machine from another one of its name: made with the database."""

        def query(connection: Connection) -> str:
            return str(connection.execute("SELECT instance FROM node").fetchone()["instance"])

        return await self._database.read(query)

    async def write_node_options(self, options: Mapping[str, bool]) -> None:
        """Write the node's switches, all of them."""

        def change(connection: Connection) -> None:
            connection.execute("DELETE FROM node_options")
            connection.executemany("INSERT INTO node_options VALUES (?, ?)", options.items())

        await self._database.write(change)

    async def insert(self, endpoint: Endpoint, log: Sequence[LogEntry]) -> None:
        """Write a new endpoint, and that its id and generation have been handed out."""
        values, addresses = _values(endpoint), _addresses(endpoint)

        def change(connection: Connection) -> None:
            _note_identity(connection, endpoint)
            connection.execute(_INSERT, (*values, endpoint.spec.link.chained))
            connection.executemany("INSERT INTO addresses VALUES (?, ?, ?, ?, ?)", addresses)
            # Concurrent creations need not arrive in the order of their generations.
            counter = (endpoint.id, endpoint.generation, endpoint.generation)
            connection.execute("UPDATE ids SET last = ?, generation = ? WHERE generation < ?", counter)
            _append(connection, endpoint.id, log)

        await self._database.write(change)

    async def update_soon(self, endpoint: Endpoint, log: Sequence[LogEntry]) -> None:
        """Do as `update`, with the next write that somebody waits for or a few milliseconds later."""
        await self.update(endpoint, log, patience=PATIENCE)

    async def update(self, endpoint: Endpoint, log: Sequence[LogEntry], *, patience: float = 0.0) -> None:
        """Write what can change of an endpoint; a record that is gone stays gone."""
        values = _changing(endpoint)

        def change(connection: Connection) -> None:
            cursor = connection.execute(
                "UPDATE endpoints SET identity = ?, stage = ?, regeneration = ?, options = ?, counters = ?, "
                "label_changes = ? WHERE id = ? AND generation = ?",
                (*values, endpoint.id, endpoint.generation),
            )
            if cursor.rowcount:
                _note_identity(connection, endpoint)
                _append(connection, endpoint.id, log)

        await self._database.write(change, patience=patience)

    async def delete(self, endpoint: Endpoint) -> None:
        """Delete an endpoint with its addresses and log; already gone is success."""
        key = (endpoint.id, endpoint.generation)

        def change(connection: Connection) -> None:
            connection.execute("DELETE FROM endpoints WHERE id = ? AND generation = ?", key)

        await self._database.write(change)


def _note_identity(connection: Connection, endpoint: Endpoint) -> None:
    """Write what an endpoint's identity stands for, with the endpoint: no number may be found without its labels."""
    if endpoint.identity_labels:
        connection.execute(NOTE_IDENTITY, (endpoint.identity, endpoint.identity_labels.canonical))


def _append(connection: Connection, endpoint_id: int, log: Sequence[LogEntry]) -> None:
    if not log:
        return
    rows = [(endpoint_id, one.number, one.time, one.type, one.code, one.message, one.state) for one in log]
    connection.executemany("INSERT OR REPLACE INTO log VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
    oldest = log[-1].number - LOG_ENTRIES
    if oldest > 0:
        connection.execute("DELETE FROM log WHERE endpoint_id = ? AND number <= ?", (endpoint_id, oldest))


def _stage(endpoint: Endpoint) -> str:
    if not endpoint.built:
        return "creating"
    return "disconnecting" if endpoint.state is EndpointState.DISCONNECTING else "created"


def _values(endpoint: Endpoint) -> tuple[object, ...]:
    spec = endpoint.spec
    attachment, pod, link = spec.attachment, spec.pod, spec.link
    return (
        *(endpoint.id, endpoint.generation),
        *(attachment.network, attachment.container_id, attachment.ifname),
        *(pod.namespace, pod.name, pod.uid),
        *(link.host_ifname, link.host_ifindex, link.host_mac, link.pod_mac),
        *(link.netns_path, link.mtu, link.pod_ifindex, link.netns_inode),
        json.dumps(dict(spec.labels)),
        endpoint.created,
        *_changing(endpoint),
    )


def _changing(endpoint: Endpoint) -> tuple[object, ...]:
    """Return what an update writes."""
    return (
        endpoint.identity,
        _stage(endpoint),
        _regeneration(endpoint.last_regeneration, endpoint.timeline),
        json.dumps(dict(endpoint.options)),
        json.dumps(dataclasses.astuple(endpoint.counters)),
        json.dumps(dict(endpoint.label_changes)),
    )


def _addresses(endpoint: Endpoint) -> list[tuple[object, ...]]:
    return [
        (endpoint.id, one.address.packed, one.address.network.prefixlen, one.gateway.packed, str(one.range))
        for one in endpoint.spec.addresses
    ]


def _regeneration(last: Regeneration | None, timeline: Timeline | None) -> str | None:
    if last is None:
        return None
    # How it was created is beside it: a version that doesn't know that leaves it out and goes on.
    creation = {"creation": timeline.written()} if timeline is not None else {}
    return json.dumps(
        {
            **creation,
            "level": last.level,
            "reasons": last.reasons,
            "started": last.started,
            "phases": [(phase.name, phase.duration_us) for phase in last.phases],
            "error": last.error,
            "programs": [
                (one.name, one.id, one.tag.hex(), one.instructions, one.verified_instructions, one.hook)
                for one in last.programs
            ],
            "config_hash": last.config_hash,
            "reload_reason": last.reload_reason,
            "changes": last.changes,
            "request_id": last.request_id,
        }
    )


def _load(connection: Connection) -> tuple[list[Endpoint], Ids, dict[str, bool]]:
    try:
        addresses, logs = _grouped(connection, "addresses", _read_address), _grouped(connection, "log", _read_entry)
        rows = connection.execute(
            "SELECT endpoints.*, identities.labels AS identity_labels FROM endpoints "
            "LEFT JOIN identities ON number = identity ORDER BY id"
        )
        endpoints = [_read_endpoint(row, addresses.get(row["id"], ()), logs.get(row["id"], ())) for row in rows]
        ids = Ids(*connection.execute("SELECT last, generation FROM ids").fetchone())
        options = {name: bool(enabled) for name, enabled in connection.execute("SELECT * FROM node_options")}
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptState(
            f"the endpoint database holds what the service never writes: {error!r}; restore it from a backup"
        ) from None
    for endpoint in endpoints:
        ids.observe(endpoint.id, endpoint.generation)
    return endpoints, ids, options


def _grouped(connection: Connection, table: str, read: Callable[[Row], T]) -> dict[int, tuple[T, ...]]:
    found: dict[int, list[T]] = {}
    for row in connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2"):  # noqa: S608 - the callers' constants
        found.setdefault(row["endpoint_id"], []).append(read(row))
    return {id_: tuple(values) for id_, values in found.items()}


def _read_endpoint(row: Row, addresses: tuple[AssignedAddress, ...], log: tuple[LogEntry, ...]) -> Endpoint:
    attachment = Attachment(row["network"], row["container_id"], row["ifname"])
    return Endpoint(
        id=row["id"],
        generation=row["generation"],
        spec=EndpointSpec(
            attachment=attachment,
            pod=Pod(row["pod_namespace"], row["pod_name"], row["pod_uid"]),
            link=_read_link(row, attachment),
            addresses=addresses,
            labels=json.loads(row["labels"]),
        ),
        created=row["created"],
        state=EndpointState.DISCONNECTING if row["stage"] == "disconnecting" else EndpointState.RESTORING,
        identity=row["identity"],
        built=row["stage"] != "creating",
        last_regeneration=_read_regeneration(row["regeneration"]),
        timeline=_read_timeline(row["regeneration"]),
        log=log,
        options=json.loads(row["options"]),
        counters=Counters(*json.loads(row["counters"])),
        identity_labels=Labels.parse(row["identity_labels"] or ""),
        label_changes=json.loads(row["label_changes"]),
    )


def _read_link(row: Row, attachment: Attachment) -> Link:
    return Link(
        attachment=attachment,
        host_ifname=row["host_ifname"],
        host_ifindex=row["host_ifindex"],
        host_mac=row["host_mac"],
        pod_mac=row["pod_mac"],
        netns_path=row["netns_path"],
        mtu=row["mtu"],
        pod_ifindex=row["pod_ifindex"],
        netns_inode=row["netns_inode"],
        up=True,
        chained=bool(row["chained"]),
    )


def _read_regeneration(text: str | None) -> Regeneration | None:
    if text is None:
        return None
    kept: dict[str, Any] = json.loads(text)
    return Regeneration(
        level=Level(kept["level"]),
        reasons=tuple(kept["reasons"]),
        started=kept["started"],
        phases=tuple(Phase(name, duration_us) for name, duration_us in kept["phases"]),
        error=kept["error"],
        programs=tuple(Program(name, id_, bytes.fromhex(tag), *rest) for name, id_, tag, *rest in kept["programs"]),
        config_hash=kept["config_hash"],
        # Schema 1 had no such words, later ones no id.
        reload_reason=kept.get("reload_reason", ""),
        changes=tuple(kept.get("changes", ())),
        request_id=kept.get("request_id", ""),
    )


def _read_timeline(text: str | None) -> Timeline | None:
    kept = json.loads(text).get("creation") if text is not None else None
    return Timeline.read(kept) if kept is not None else None


def _read_address(row: Row) -> AssignedAddress:
    address = ip_interface((ip_address(row["address"]), row["prefix_length"]))
    return AssignedAddress(address, ip_address(row["gateway"]), ip_network(row["range"]))


def _read_entry(row: Row) -> LogEntry:
    return LogEntry(
        number=row["number"],
        time=row["time"],
        type=LogType(row["type"]),
        code=LogCode(row["code"]),
        message=row["message"],
        state=EndpointState(row["state"]),
    )
