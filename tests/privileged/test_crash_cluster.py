"""The endpoint service dies before and behind each request to etcd; afterwards the store says what there is."""

import base64
import json
import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

import pytest
from podlane.endpoint.v1 import endpoint_pb2 as pb

from services.common.kvstore.keys import Keys
from tests.agreement import Agreement, until
from tests.by_hand import ByHand
from tests.cluster_support import WORLD_V4, Fabric
from tests.crash_support import CrashNode
from tests.etcd_support import Etcd
from tests.node_support import Outcome, Pod

pytestmark = [pytest.mark.privileged, pytest.mark.xdist_group("crash-cluster")]

PORT = 2379
KEYS = Keys()
FIRST_OF_CLUSTER = 256
LOCAL_SCOPE = 3 << 24

# Each asked and answered is a point of its own.
REQUESTS: Mapping[str, list[str]] = {
    # Its identity; its addresses, its record.
    "add": ["commit", "commit", "put"],
    "add of a known identity": ["commit", "put"],
    "labels": ["commit", "commit", "put"],
    "del": ["commit", "delete"],
}


@dataclass
class ClusterCrashNode(CrashNode):
    """A CrashNode on an underlay that leads to etcd."""

    fabric: Fabric | None = None

    def prepare(self) -> None:
        """Join it."""
        assert self.fabric is not None
        self.fabric.join(f"/run/netns/{self.name}", 1)


class StoreAgreement(Agreement):
    """The agreement of a node with etcd."""

    def __init__(self, node: ClusterCrashNode, etcd: Etcd) -> None:
        """Ask nobody yet."""
        super().__init__(node)
        self._name, self._etcd = node.name, etcd

    def keys(self) -> dict[str, Any]:
        """Return values by key."""
        found = json.loads(self._etcd.ctl("get", "--prefix", "-w", "json", KEYS.state).stdout).get("kvs", [])
        return {
            base64.b64decode(one["key"]).decode(): json.loads(base64.b64decode(one["value"]).decode()) for one in found
        }

    def _published(self) -> Iterator[str]:
        """etcd has addresses and records of all endpoints and no others, and who they are under one number."""
        keys, endpoints = self.keys(), self.endpoints()
        yield from _differ("addresses", _below(keys, KEYS.ips, "identity"), dict(_addresses(endpoints)))
        records = {int(key.rpartition("/")[2]) for key in keys if key.startswith(KEYS.endpoints)}
        yield from _differ("records", records, {one.id for one in endpoints})
        used = {one.identity for one in endpoints}
        if local := {one for one in used if one >= LOCAL_SCOPE}:
            yield f"identities of the node alone: {sorted(local)}"
        for number in (one for one in used if FIRST_OF_CLUSTER <= one < LOCAL_SCOPE):
            if KEYS.identity_reference(number, self._name) not in keys:
                yield f"identity {number} is used and has no reference"
        ids = {int(key.rpartition("/")[2]) for key in keys if key.startswith(KEYS.identities)}
        values = _below(keys, KEYS.identity_values, "identity")
        yield from _differ("identities", Counter(values.values()), Counter(ids))


def _below(keys: Mapping[str, Any], prefix: str, field: str) -> dict[str, int]:
    return {key.removeprefix(prefix): value[field] for key, value in keys.items() if key.startswith(prefix)}


def _addresses(endpoints: list[pb.Endpoint]) -> Iterator[tuple[str, int]]:
    for endpoint in endpoints:
        for one in endpoint.addresses:
            yield str(ip_address(one.address.address.packed)), endpoint.identity


def _differ(what: str, found: object, wanted: object) -> Iterator[str]:
    if found != wanted:
        yield f"{what} in the store: {found}, wanted {wanted}"


class Site:
    """A node, its etcd, and a pod that stands."""

    def __init__(self) -> None:
        """Bring it up."""
        self.fabric = Fabric()
        self.etcd = Etcd(port=PORT, netns=self.fabric.netns.path, addresses=[WORLD_V4])
        self.etcd.__enter__()
        settings: dict[str, dict[str, Any]] = {
            "kvstore": {"endpoints": [f"http://{WORLD_V4}:{PORT}"], "timeout_seconds": 2.0},
            "cluster": {"cidrs": ["10.44.0.0/16", "fd00:44::/96"]},
            "endpoint": {"peer_wait_seconds": 0.3},
        }
        self.node = ClusterCrashNode(settings=settings, fabric=self.fabric)
        self.node.__enter__()
        self.agreement = StoreAgreement(self.node, self.etcd)
        self.by_hand = ByHand(self.agreement)
        self.standing = self.node.pod()
        assert self.add(self.standing, "known").code == 0
        self.agreement.reached()

    def close(self) -> None:
        """Take all of it away."""
        self.node.close()
        self.etcd.close()
        self.fabric.close()

    def add(self, pod: Pod, app: str) -> Outcome:
        """ADD with a label."""
        labels = [{"key": "app", "value": app}]
        return self.node.cni("ADD", pod, self.node.conf(args={"cni": {"labels": labels}}))

    def works(self, operation: str) -> tuple[Pod, Callable[[], object]]:
        """Make a pod ready for an operation; return it, and what does the operation."""
        pod, unknown = self.node.pod(), secrets.token_hex(4)
        if operation in {"labels", "del"}:
            assert self.add(pod, "known").code == 0
            self.agreement.reached()
        works: Mapping[str, Callable[[], object]] = {
            "add": lambda: self.add(pod, unknown),
            "add of a known identity": lambda: self.add(pod, "known"),
            "labels": lambda: self.by_hand.label(pod, release=unknown),
            "del": lambda: self.node.cni("DEL", pod),
        }
        return pod, works[operation]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.close()


def effects(operation: str) -> list[str]:
    """Return an operation's effects on the store, each asked and answered."""
    return [f"kvstore {name}{end}" for name in REQUESTS[operation] for end in ("", " answered")]


@pytest.mark.parametrize("operation", REQUESTS)
def test_the_requests_of_an_operation_are_these(site: Site, operation: str) -> None:
    pod, work = site.works(operation)
    wanted = Counter(effects(operation))
    with site.node.traced("endpoint") as trace:
        work()
        until(lambda: Counter(one for one in trace() if one.startswith("kvstore")) >= wanted, lambda: str(trace()))
        site.agreement.reached()

    assert Counter(one for one in trace() if one.startswith("kvstore")) == wanted
    site.node.delete(pod)
    site.agreement.reached()


@pytest.mark.parametrize(
    ("operation", "effect", "number"),
    [
        (operation, effect, number)
        for operation in REQUESTS
        for effect, count in Counter(effects(operation)).items()
        for number in range(1, count + 1)
    ],
)
def test_what_a_death_at_the_store_leaves_is_put_right(site: Site, operation: str, effect: str, number: int) -> None:
    pod, work = site.works(operation)
    site.node.arm("endpoint", effect, number)
    with ThreadPoolExecutor(1) as executor:
        working = executor.submit(work)
        site.node.dies("endpoint")
        site.node.revive("endpoint")
        working.exception(60)
    # As a runtime does when it wasn't answered.
    if operation.startswith("add"):
        until(lambda: site.add(pod, "again").code == 0, lambda: "the repeated ADD fails")
    site.agreement.reached(deleting=pod if operation == "del" else None)

    site.node.delete(pod)
    site.agreement.reached()
    assert site.agreement.left_beside(site.standing) == []
