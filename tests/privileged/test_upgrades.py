"""Upgrades in place: every version reads what earlier ones left, and refuses, whole and in words, what a later one did.

`tests/recorded/<version>` holds what the program of that time left on a node (`tests/record_state.py`). A change of a
format needs a migration or a new format number, and a recording of its own.
"""

import asyncio
import contextlib
import json
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from podlane.common.v1 import types_pb2 as types
from podlane.endpoint.v1 import endpoint_pb2 as pb
from podlane.ipam.v1 import ipam_pb2
from podlane.loader.v1 import loader_pb2

from services.common.db import Database
from services.endpoint.policy import allow_all
from services.endpoint.schema import MIGRATIONS as ENDPOINT_MIGRATIONS
from services.ipam.store import MIGRATIONS as IPAM_MIGRATIONS
from services.loader import linkrecord, record
from tests.agreement import Agreement
from tests.endpoint_support import READY, Surroundings
from tests.ipam_support import Ipam, database_path, texts
from tests.loader_support import REPOSITORY, LoaderNode
from tests.node_support import Node
from tests.record_state import NODE

pytestmark = pytest.mark.privileged

RECORDED = sorted((REPOSITORY / "tests" / "recorded").iterdir(), key=lambda path: int(path.name))
MIGRATIONS = {"endpoint": ENDPOINT_MIGRATIONS, "ipam": IPAM_MIGRATIONS}
RANGES = ("10.44.0.0/24", "fd00:44::/112")
versions = pytest.mark.parametrize("recorded", RECORDED, ids=[f"version {path.name}" for path in RECORDED])
services = pytest.mark.parametrize("service", ["endpoint", "ipam"])


def restored(script: Path, database: Path) -> list[dict[str, Any]]:
    """Make a database of a recorded one; return its main table as it was recorded."""
    database.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.executescript(script.read_text())
        # As a service leaves it.
        connection.execute("PRAGMA journal_mode=WAL")
        connection.row_factory = sqlite3.Row
        table = "endpoints" if script.stem == "endpoint" else "allocations"
        return [dict(row) for row in connection.execute(f"SELECT * FROM {table} ORDER BY id")]


def schema(database: Path) -> dict[str, list[tuple[object, ...]]]:
    """Return each table's columns; the order in which a migration added them doesn't count."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {
            table: sorted(tuple(row)[1:] for row in connection.execute(f"PRAGMA table_info({table})"))
            for table in tables
        }


def version(database: Path) -> int:
    """Return the version of a database's schema."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


@versions
@services
async def test_a_recorded_database_becomes_what_a_new_one_is(tmp_path: Path, recorded: Path, service: str):
    old, new = tmp_path / "old.sqlite", tmp_path / "new.sqlite"
    restored(recorded / f"{service}.sql", old)

    for path in (old, new):
        database = Database(path, MIGRATIONS[service])
        await database.start()
        await database.stop()

    assert schema(old) == schema(new)
    assert version(old) == version(new) == len(MIGRATIONS[service])


@services
def test_todays_database_is_recorded(tmp_path: Path, service: str):
    """A migration without a recording can't be held by those who come after it."""
    restored(RECORDED[-1] / f"{service}.sql", tmp_path / "recorded.sqlite")

    assert version(tmp_path / "recorded.sqlite") == len(MIGRATIONS[service]), (
        "record the new schema: python -m tests.record_state tests/recorded/<next number>"
    )


@versions
@pytest.mark.parametrize("name", ["endpoint.json", "node.json", "link record"])
def test_a_recorded_file_is_read_and_what_it_said_is_written_again(recorded: Path, name: str):
    """A key that means something else, or is gone, needs another format number; older programs overlook a new one."""
    if name == "endpoint.json":
        paths = list(recorded.glob("state/*/endpoint.json"))
        again = [record.write_endpoint(record.read_endpoint(path.read_text(), path)) for path in paths]
        today = record.FORMAT_UNCHAINED
    elif name == "node.json":
        paths = [recorded / "state" / "globals" / "node.json"]
        again = [record.write_node(record.read_node(path.read_text(), path)) for path in paths]
        today = record.FORMAT_UNCHAINED
    else:
        paths = list(recorded.glob("links/*.json"))
        again = [linkrecord.write(linkrecord.read(path.read_text(), path)) for path in paths]
        today = linkrecord.FORMAT_UNCHAINED

    assert paths
    for path, rewritten in zip(paths, again, strict=True):
        before, now = json.loads(path.read_text()), json.loads(rewritten)
        assert now["format"] == today
        if before["format"] == today:
            assert {key: now.get(key) for key in before} == before
        if recorded == RECORDED[-1]:
            assert set(now) == set(before), (
                "record what is new: python -m tests.record_state tests/recorded/<next number>"
            )


@versions
async def test_ipam_holds_what_was_recorded(tmp_path: Path, recorded: Path):
    rows = restored(recorded / "ipam.sql", database_path(tmp_path))
    with contextlib.closing(sqlite3.connect(database_path(tmp_path))) as connection:
        # As if it had been recorded just now: reservations expire.
        connection.execute("UPDATE allocations SET expires = ? WHERE expires IS NOT NULL", (time.time() + 600,))
        connection.execute("UPDATE released SET at = ?", (time.time(),))
        connection.commit()

    async with Ipam.running(tmp_path, ranges=RANGES) as ipam:
        held = await ipam.everything()
        given = texts((await ipam.allocate("next")).allocation)

    states = {True: ipam_pb2.ALLOCATION_STATE_RESERVED, False: ipam_pb2.ALLOCATION_STATE_CONFIRMED}
    assert {
        name: (one.pod.name, one.endpoint_id, one.state, one.created.ToMilliseconds()) for name, one in held.items()
    } == {
        row["container_id"]: (
            row["pod_name"],
            row["endpoint_id"],
            states[row["confirmed"] is None],
            int(row["created"] * 1e3),
        )
        for row in rows
    }
    assert [texts(one) for one in held.values()] == [[f"10.44.0.{n}", f"fd00:44::{n}"] for n in (2, 4, 5, 6, 7)]
    # 3 was released a moment ago and cools down.
    assert given == ["10.44.0.8", "fd00:44::8"]


@pytest.fixture
async def around() -> AsyncIterator[Surroundings]:
    """An endpoint service's peers, which have what its record says."""
    async with Surroundings() as around:
        yield around


def recorded_switches(around: Surroundings, row: Mapping[str, Any]) -> dict[str, bool]:
    """Return the switches of a recorded endpoint: the node's and over them its own."""
    with contextlib.closing(sqlite3.connect(around.settings.endpoint.database)) as connection:
        known = schema(around.settings.endpoint.database)
        rows = connection.execute("SELECT name, enabled FROM node_options") if "node_options" in known else ()
        return {name: bool(on) for name, on in rows} | own_switches(row)


def own_switches(row: Mapping[str, Any]) -> dict[str, bool]:
    """Return the switches that were set for an endpoint alone; the first version had none."""
    found: dict[str, bool] = json.loads(row.get("options", "{}"))
    return found


def confirm(around: Surroundings, row: Mapping[str, Any], switches: Mapping[str, bool]) -> None:
    """Let the peers have an endpoint: its link, its datapath, its addresses."""
    attachment = types.Attachment(network=row["network"], container_id=row["container_id"], ifname=row["ifname"])
    key = (attachment.network, attachment.container_id, attachment.ifname)
    around.kernel.links[key] = around.kernel.recorded[key] = loader_pb2.Link(
        attachment=attachment,
        host_ifname=row["host_ifname"],
        host_ifindex=row["host_ifindex"],
        host_mac=types.MacAddress(packed=row["host_mac"]),
        pod_mac=types.MacAddress(packed=row["pod_mac"]),
    )
    last = json.loads(row["regeneration"])
    around.kernel.datapaths[row["id"]] = loader_pb2.EndpointDatapath(
        id=row["id"],
        generation=row["generation"],
        config_hash=last["config_hash"],
        host_ifname=row["host_ifname"],
        host_ifindex=row["host_ifindex"],
        reachable=True,
        programs=[loader_pb2.Program(name=name, id=id_) for name, id_, *_ in last["programs"]],
        options=[loader_pb2.EndpointOption(name=name, enabled=on) for name, on in switches.items()],
        identity=row["identity"],
    )
    around.kernel.policies[row["id"]] = {entry[:-1]: entry for entry in allow_all()}
    addresses = [
        types.AssignedAddress(address=types.IpPrefix(address=types.IpAddress(packed=packed), length=8 * len(packed)))
        for packed in (
            bytes([10, 44, 0, row["id"] + 1]),
            bytes.fromhex("fd000044") + bytes(11) + bytes([row["id"] + 1]),
        )
    ]
    around.ipam.held[key] = ipam_pb2.Allocation(
        owner=attachment, addresses=addresses, state=ipam_pb2.ALLOCATION_STATE_CONFIRMED, endpoint_id=row["id"]
    )


@versions
async def test_recorded_endpoints_come_back_as_they_were_and_untouched(around: Surroundings, recorded: Path):
    """The ready one as it was; the half deleted and the half made one end as they would have without an upgrade."""
    rows = {row["stage"]: row for row in restored(recorded / "endpoint.sql", around.settings.endpoint.database)}
    assert set(rows) == {"created", "creating", "disconnecting"}
    row = rows["created"]
    confirm(around, row, recorded_switches(around, row))

    async with around.process() as (_process, client):
        async with asyncio.timeout(10):
            # One that gets its first identity is regenerated with it.
            while not (ready := [one for one in await client.endpoints() if one.state == READY]):
                await asyncio.sleep(0.01)
        (endpoint,) = ready
        selector = pb.EndpointSelector(id=endpoint.id)
        request = pb.GetEndpointRequest(selector=selector)
        endpoint = (await client.peer.call(client.stub.GetEndpoint, request, timeout=20)).endpoint
        problems = (
            await client.peer.call(client.stub.CheckEndpoint, pb.CheckEndpointRequest(selector=selector), timeout=20)
        ).problems
        async for _change in client.watch():
            if len(await client.endpoints()) == 1:
                break
        made = (await client.create(around.pod())).endpoint
        documents = list(await client.documents())

    assert list(problems) == []
    assert (endpoint.id, endpoint.generation) == (row["id"], row["generation"])
    assert (endpoint.attachment.container_id, endpoint.pod.name) == (row["container_id"], row["pod_name"])
    assert dict(endpoint.labels) == json.loads(row["labels"])
    assert endpoint.created.ToMilliseconds() == int(row["created"] * 1e3)
    assert dict(endpoint.options) == own_switches(row)
    assert (made.id, made.generation) == (5, 5)
    said = [entry.message.partition(" ")[0] for entry in endpoint.log]
    if "label_changes" not in row:
        # From before there were identities: its labels are known, so it gets one, and its programs with it.
        assert endpoint.identity == 256
        assert dict(endpoint.identity_labels)["k8s:app"] == "web"
        assert around.loader.script.count("RegenerateEndpoint") == 2  # its own, and the new pod's
        return
    assert endpoint.identity == row["identity"]
    assert dict(endpoint.operator_labels) == json.loads(row["label_changes"])
    assert documents == ["1 shop/others", "2 /shop", "3 shop/other"]
    assert (said[:2], said[-1]) == (["identity", "regenerated"], "restored:")
    last = json.loads(row["regeneration"])
    assert endpoint.last_regeneration.config_hash == last["config_hash"]
    assert [(one.name, one.id, one.tag.hex()) for one in endpoint.last_regeneration.programs] == [
        (name, id_, tag) for name, id_, tag, *_ in last["programs"]
    ]
    assert {one.name: one.duration_us for one in endpoint.last_regeneration.phases} == dict(last["phases"])
    counters = endpoint.counters
    assert [counters.regenerations, counters.failures, counters.folded, counters.refused] == json.loads(
        row.get("counters", "[0, 0, 0, 0]")
    )
    assert around.loader.script.count("RegenerateEndpoint") == 1  # the new pod's


@versions
async def test_the_loader_knows_recorded_endpoints_and_links(tmp_path: Path, recorded: Path):
    """The kernel has lost them since, and that is what it says of them."""
    node = LoaderNode(tmp_path)
    node.state.parent.mkdir(parents=True)
    shutil.copytree(recorded / "state", node.state)
    shutil.copytree(recorded / "links", node.state / "links")
    async with node:
        view = await node.call("GetNode", loader_pb2.GetNodeRequest())
        datapaths = {one.id: one for one in await node.datapaths()}
        links = (await node.call("ListLinks", loader_pb2.ListLinksRequest())).links

    assert len(view.config.pod_cidrs) == len(view.config.gateways) == 2
    assert set(datapaths) == {1, 3}
    for id_, datapath in datapaths.items():
        kept = json.loads((recorded / "state" / str(id_) / "endpoint.json").read_text())
        assert (datapath.generation, datapath.config_hash) == (kept["generation"], kept["config_hash"])
        assert datapath.problems[0] == f"link {kept['host_ifname']} (ifindex {kept['host_ifindex']}) is gone"
    kept = [json.loads(path.read_text()) for path in sorted((recorded / "links").iterdir())]
    done = [one for one in kept if one["done"]]
    assert {one.link.attachment.container_id for one in links} == {one["attachment"][1] for one in done}
    assert [list(one.problems) for one in links] == [[f"{one.link.host_ifname} is gone"] for one in links]


@versions
def test_a_node_that_was_upgraded_while_it_was_switched_off_starts_empty_and_takes_pods(recorded: Path):
    """A reboot takes links, maps and the run directory; the databases are what is left."""
    with Node(start=False, settings={"node": {"name": NODE}}) as node:
        for service in MIGRATIONS:
            restored(recorded / f"{service}.sql", node.dir / "lib" / f"{service}.sqlite")
        node.podlane("node", "up")
        agreement = Agreement(node)
        agreement.reached()
        assert agreement.endpoints() == []
        pod = node.pod()
        node.add(pod)
        (endpoint,) = agreement.endpoints()
        assert (endpoint.id, endpoint.generation) == (5, 5)


def start(node: Node, service: str) -> "subprocess.CompletedProcess[str]":
    """Run a service that must refuse to start."""
    argv = [sys.executable, "-m", f"services.{service}", "--config", str(node.config_file)]
    return node.exec(*argv, check=False, cwd=REPOSITORY)


@pytest.fixture
def unstarted() -> Any:
    """A node whose services have never run."""
    with Node(start=False) as node:
        yield node


@services
def test_a_database_of_a_newer_podlane_is_refused_and_kept(unstarted: Node, service: str):
    database = unstarted.dir / "lib" / f"{service}.sqlite"
    restored(RECORDED[-1] / f"{service}.sql", database)
    newer = len(MIGRATIONS[service]) + 1
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute(f"PRAGMA user_version = {newer}")
    before = database.read_bytes()

    refused = start(unstarted, service)

    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1] == (
        f"podlane-{service}: {database} has schema {newer} and this program knows schemas up to {newer - 1}: a newer "
        "podlane wrote it; run that one, or move the file away to start with an empty one"
    )
    assert "Traceback" not in refused.stderr
    assert database.read_bytes() == before


@pytest.mark.parametrize("where", ["state/1/endpoint.json", "state/globals/node.json", "links"])
def test_a_file_of_a_newer_podlane_is_refused_and_kept(unstarted: Node, where: str):
    state = unstarted.dir / "run" / "state"
    shutil.copytree(RECORDED[-1] / "state", state)
    shutil.copytree(RECORDED[-1] / "links", state / "links")
    path = next((state / "links").iterdir()) if where == "links" else unstarted.dir / "run" / where
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99, "later": "unheard of"}))
    before = {one: one.read_bytes() for one in state.rglob("*.json")}

    refused = start(unstarted, "loader")

    known = linkrecord.FORMAT if where == "links" else record.FORMAT
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1] == (
        f"podlane-loader: {path} has format 99 and this loader knows formats up to {known}: a newer podlane wrote it; "
        "run that one"
    )
    assert "Traceback" not in refused.stderr
    assert {one: one.read_bytes() for one in state.rglob("*.json")} == before
