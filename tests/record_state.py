"""Writes down what this version leaves on disk: `python -m tests.record_state tests/recorded/<version>`, as root.

Every format that was ever released is recorded once, by the program itself, and never edited: test_upgrades.py holds
that all later versions read it. On a node of its own this brings about one of everything that a record can say, kills
the services, and keeps the databases (as SQL) and the loader's files.

    endpoint.sql   endpoints: ready, half deleted, half made; switches   state/   their directories, and node.json
    ipam.sql       allocations: confirmed, reserved; a released one      links/   link records: done, half made
"""

import contextlib
import shutil
import signal
import sqlite3
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import grpc
from podlane.endpoint.v1 import endpoint_pb2 as pb
from podlane.endpoint.v1 import policy_pb2

from services.common.model import Attachment
from tests.agreement import until
from tests.by_hand import NETWORK, ByHand, attachment
from tests.crash_support import CrashNode
from tests.node_support import SERVICES

NODE = "recorded"
# About others than the pods that are recorded: those are open.
DOCUMENTS = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: others, namespace: shop}
spec: {podSelector: {matchLabels: {app: other}}}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {team: a}}
---
apiVersion: v1
kind: Pod
metadata: {name: other, namespace: shop, labels: {app: other}}
"""


def _begin(call: Callable[[], object]) -> threading.Thread:
    """Begin a call that nobody will answer."""

    def run() -> None:
        with contextlib.suppress(grpc.RpcError):
            call()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def _rows(database: Path, query: str) -> list[str]:
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return [str(value) for (value,) in connection.execute(query)]


def _dump(database: Path, target: Path) -> None:
    """Write a database as SQL; the version of its schema is no part of sqlite3's dump."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        target.write_text("\n".join([*connection.iterdump(), f"PRAGMA user_version = {version};", ""]))


def record(node: CrashNode, target: Path) -> None:
    """Bring everything about, and keep it."""
    by_hand = ByHand(node.agreement)
    ready, released, half_deleted, half_made, reserved, half_linked = (node.pod() for _ in range(6))
    for pod in (ready, released, half_deleted):
        given = by_hand.reserve(pod)
        by_hand.create(pod, given, by_hand.link(pod, given))
    by_hand.configure(ready, debug=True)
    by_hand.configure_node(policy_accounting=True)
    node.agreement.call("policy", "ApplyPolicies", policy_pb2.ApplyPoliciesRequest(text=DOCUMENTS))
    selector = pb.EndpointSelector(attachment=attachment(ready))
    change = policy_pb2.LabelChange(key="release", value="stable")
    node.agreement.call("policy", "UpdateLabels", policy_pb2.UpdateLabelsRequest(selector=selector, changes=[change]))
    node.delete(released)
    by_hand.reserve(reserved)
    given, linking = by_hand.reserve(half_made), by_hand.reserve(half_linked)
    link = by_hand.link(half_made, given)
    database = node.dir / "lib" / "endpoint.sqlite"
    node.signal("loader", signal.SIGSTOP)
    waiting = [
        _begin(lambda: by_hand.create(half_made, given, link)),
        _begin(lambda: by_hand.delete(half_deleted)),
    ]
    stages = ["created", "creating", "disconnecting"]
    until(
        lambda: sorted(_rows(database, "SELECT stage FROM endpoints")) == stages,
        lambda: str(_rows(database, "SELECT stage FROM endpoints")),
    )
    node.kill("endpoint")
    node.signal("loader", signal.SIGCONT)
    links = node.dir / "run" / "state" / "links"
    name = Attachment(NETWORK, half_linked.container_id, half_linked.ifname).host_ifname()
    node.arm("loader", "netlink newlink setlink")
    waiting.append(_begin(lambda: by_hand.link(half_linked, linking)))
    until((links / f"{name}.json").exists, node.logs)
    node.dies("loader")
    node.kill("ipam")
    for thread in waiting:
        thread.join(60)
    target.mkdir(parents=True)
    for service in ("endpoint", "ipam"):
        _dump(node.dir / "lib" / f"{service}.sqlite", target / f"{service}.sql")
    state = node.dir / "run" / "state"
    shutil.copytree(links, target / "links")
    shutil.copytree(state, target / "state", ignore=shutil.ignore_patterns("templates", "links"))


if __name__ == "__main__":
    with CrashNode(settings={"node": {"name": NODE}}) as _node:
        assert set(SERVICES) == {"loader", "ipam", "endpoint"}
        record(_node, Path(sys.argv[1]))
