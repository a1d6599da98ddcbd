"""What a cluster goes through: its store away, its leader lost, leases and keys taken, nodes killed and cut off."""

import contextlib
import json
import signal
import subprocess
from collections.abc import Iterator
from functools import partial

import pytest

from services.common.kvstore.keys import Keys
from tests.cluster_support import ClusterNode
from tests.kvstore_cluster import PORT, ClusterPod, KvstoreCluster, running, together, until

pytestmark = [pytest.mark.privileged, pytest.mark.long, pytest.mark.timeout(500)]
TOGETHER = pytest.mark.xdist_group("cluster-faults")

KEYS = Keys()
LOCAL_SCOPE = 3 << 24
HIDDEN = (
    "add table inet hidden; add chain inet hidden out { type filter hook output priority 0; };"
    "add chain inet hidden in { type filter hook input priority 0; };"
    f"add rule inet hidden out tcp dport {PORT} drop; add rule inet hidden in tcp sport {PORT} drop"
)
"""Hides etcd from a node, whose pods go on."""


@pytest.fixture(scope="session")
def shared() -> Iterator[KvstoreCluster]:
    """One cluster for those that leave it as they found it."""
    with KvstoreCluster(2) as running:
        yield running


@pytest.fixture
def cluster(shared: KvstoreCluster) -> Iterator[KvstoreCluster]:
    yield shared
    shared.clear()


@contextlib.contextmanager
def pinging(web: ClusterPod, *addresses: str) -> Iterator[None]:
    """Send echo requests all the time; not one may be lost."""
    command = ["nsenter", f"--net={web.pod.path}", "ping", "-i", "0.05", "-q"]
    runs = [subprocess.Popen([*command, one], stdout=subprocess.PIPE, text=True) for one in addresses]
    try:
        yield
    finally:
        told = []
        for process in runs:
            process.send_signal(signal.SIGINT)
            told.append(process.communicate(timeout=20)[0])
    for text in told:
        line = next(line for line in text.splitlines() if "transmitted" in line)
        assert ", 0% packet loss" in line, line


def published(cluster: KvstoreCluster, pod: ClusterPod) -> bool:
    """Whether a pod's addresses are in the store, with a number that all know."""
    ips = cluster.keys(KEYS.ips)
    return all(KEYS.ips + one in ips and ips[KEYS.ips + one]["identity"] < LOCAL_SCOPE for one in pod.addresses)


@TOGETHER
def test_etcd_is_away_for_a_while(cluster: KvstoreCluster) -> None:
    one, two = cluster.nodes
    web, db = cluster.pod(one, "web"), cluster.pod(two, "db")
    cluster.settled()
    with pinging(web, *db.addresses):
        cluster.etcd.kill()
        known = cluster.pod(one, "db")
        assert known.identity == db.identity
        new = cluster.pod(one, "new")
        local = new.identity
        assert local > LOCAL_SCOPE
        assert new.reaches(web)
        assert not published_here(new)
        shown = one.podlane("endpoint", "get", str(new.endpoint()["id"])).stdout
        assert "the kvstore has not given its labels a number yet" in shown
        until(partial(all_fail, one, {"resolve-identity", "sync-ip-identity", "sync-to-kvstore"}), "all of them fail")
        status = json.loads(one.podlane("status", "-o", "json", check=False).stdout)
        assert not status["cluster"]["kvstore"]["reachable"]
        assert status["cluster"]["provisional"] == [new.endpoint()["id"]]

        # A restart of the services touches nothing of what was known.
        one.kill("endpoint")
        one.kill("loader")
        one.podlane("node", "up")
        late = cluster.pod(one, "new")
        assert late.identity == local

        with pinging(new, *web.addresses, *db.addresses):
            cluster.etcds[0].start()
            for pod in (known, new, late):
                until(partial(published, cluster, pod), f"{pod.pod.name} is published")
            cluster.settled()
    shared = new.identity
    assert shared < LOCAL_SCOPE
    assert late.identity == shared
    assert db.reaches(new)
    until(lambda: not one.show("status")["problems"], "nothing is wrong any more")


def all_fail(node: ClusterNode, names: set[str]) -> bool:
    """Whether controllers of these names fail."""
    return names <= {one["name"] for one in node.show("controllers", "--failing")}


def published_here(pod: ClusterPod) -> bool:
    """Whether a pod's own node has put its record."""
    return bool(pod.node.show("endpoint", "get", str(pod.endpoint()["id"])).get("published"))


def test_the_leader_of_three_is_lost() -> None:
    with KvstoreCluster(2, members=3) as cluster:
        one, two = cluster.nodes
        web = cluster.pod(one, "web")
        cluster.settled()
        cluster.etcd_cluster.leader().kill()
        db = cluster.pod(two, "db")
        cluster.settled()
        assert web.reaches(db)
        members = json.loads(one.podlane("status", "-o", "json", check=False).stdout)["cluster"]["kvstore"]["members"]
        assert sorted(bool(member["error"]) for member in members) == [False, False, True]


@TOGETHER
def test_leases_are_revoked_and_keys_deleted_behind_our_back(cluster: KvstoreCluster) -> None:
    one, two = cluster.nodes
    web, db = cluster.pod(one, "web"), cluster.pod(two, "db")
    cluster.settled()
    before = cluster.keys()
    for line in cluster.etcd.ctl("lease", "list").stdout.splitlines():
        if not line.startswith("found"):
            cluster.etcd.ctl("lease", "revoke", line)
    until(lambda: cluster.keys() == before, "everything leased is published again")
    cluster.settled()
    cluster.etcd.ctl("del", "--prefix", KEYS.state)
    until(lambda: cluster.keys() == before, "everything that was deleted is published again")
    cluster.settled()
    assert web.reaches(db)
    assert one.show("status")["cluster"]["kvstore"]["leases_lost"] >= 1


def test_a_node_is_killed_and_another_one_cut_off() -> None:
    with KvstoreCluster(3) as cluster:
        one, two, three = cluster.nodes
        web, killed, cut = cluster.pod(one, "web"), cluster.pod(two, "db"), cluster.pod(three, "db")
        cluster.settled()
        assert web.reaches(killed)
        assert web.reaches(cut)
        for service in ("endpoint", "loader", "ipam"):
            two.kill(service)
        cluster.fabric.cut(3)
        meanwhile = cluster.pod(three, "late")
        until(lambda: set(cluster.keys(KEYS.nodes)) == {KEYS.node(one.name)}, "their leases end", 90)
        until(lambda: not cluster.ipcache(one), "their pods' addresses are forgotten")
        cut_network = cut.v4.rpartition(".")[0]
        until(lambda: cut_network not in one.exec("ip", "route").stdout, "and their routes")
        cluster.etcd.compact()

        # Of the node that was cut off nothing was lost on its own side.
        assert set(cluster.ipcache(three)) == {*web.addresses, *killed.addresses}
        cluster.fabric.mend(3)
        until(lambda: published(cluster, cut) and published(cluster, meanwhile), "it is back", 90)
        until(lambda: set(cluster.ipcache(three)) == set(web.addresses), "it learns what is gone")
        until(lambda: web.reaches(cut) and web.reaches(meanwhile), "pods reach each other again")
        assert set(cluster.ipcache(one)) == {*cut.addresses, *meanwhile.addresses}

        two.podlane("node", "up")
        until(lambda: web.reaches(killed), "the killed one is back, with its pod's address")
        assert running(two) == [list(killed.addresses)]


def test_two_nodes_with_one_name() -> None:
    with KvstoreCluster(2) as cluster:
        one, two = cluster.nodes
        web = cluster.pod(two, "web")
        cluster.settled()
        impostor = cluster.cluster.join(node={"name": two.name})
        until(
            lambda: "another node is named" in impostor.podlane("status", check=False).stdout,
            "the second one is refused",
        )
        lonely = cluster.pod(impostor, "lonely")
        assert lonely.identity > LOCAL_SCOPE
        assert cluster.keys(KEYS.node(two.name))[KEYS.node(two.name)]["address"] == two.v4
        assert not any(KEYS.ips + one_ in cluster.keys(KEYS.ips) for one_ in lonely.addresses)
        assert set(cluster.ipcache(one)) == set(web.addresses)


@TOGETHER
def test_what_changed_while_etcd_was_away_and_compacted(cluster: KvstoreCluster) -> None:
    """A watch that can't go on where it was lists again, and nothing that stayed is touched meanwhile."""
    one, two = cluster.nodes
    web, stays, goes = cluster.pod(one, "web"), cluster.pod(two, "db"), cluster.pod(two, "goes")
    cluster.settled()
    with pinging(web, *stays.addresses):
        one.exec("nft", HIDDEN)
        two.delete(goes.pod)
        comes = cluster.pod(two, "comes")
        until(lambda: published(cluster, comes), "it is published")
        cluster.etcd.compact()
        assert set(cluster.ipcache(one)) == {*stays.addresses, *goes.addresses}
        one.exec("nft", "delete table inet hidden")
        until(lambda: set(cluster.ipcache(one)) == {*stays.addresses, *comes.addresses}, "differences are applied")


def test_a_clock_that_is_an_hour_off() -> None:
    with KvstoreCluster(2) as cluster:
        one, two = cluster.nodes
        for service in ("endpoint", "loader", "ipam"):
            two.kill(service)
        two.clock = "+1h"
        for service in ("ipam", "loader", "endpoint"):
            two.launch(service)
        two.podlane("node", "up")
        web, db = cluster.pod(one, "web"), cluster.pod(two, "db")
        cluster.settled()
        assert web.reaches(db)
        assert db.endpoint()["created"] > web.endpoint()["created"]
        assert one.show("status")["problems"] == two.show("status")["problems"] == []


def test_a_burst_of_fifty_thousand_events() -> None:
    with KvstoreCluster(1) as cluster:
        (one,) = cluster.nodes
        web = cluster.pod(one, "web")
        value = json.dumps({"node": "far", "host": "10.99.0.77", "identity": 300, "endpoint": 1, "pod": "", "key": 0})
        addresses = [f"10.{64 + number // 62500}.{number // 250 % 250}.{number % 250 + 1}" for number in range(50_000)]

        def put(part: list[str]) -> None:
            lines = [f"put {KEYS.ips}{address} {json.dumps(value)}\n" for address in part]
            for start in range(0, len(lines), 100):
                cluster.etcd.txn("\n" + "".join(lines[start : start + 100]) + "\n\n")

        together([partial(put, addresses[place::2]) for place in range(2)])
        until(lambda: one.ipcache_size() >= len(addresses), "all are in the datapath", 200)
        assert cluster.ipcache(one) == dict.fromkeys(addresses, 300)
        assert web.ping(one.v4)
        cluster.etcd.ctl("del", "--prefix", f"{KEYS.ips}10.")
        until(lambda: one.ipcache_size() < 100 and not cluster.ipcache(one), "and all are gone", 200)
        until(lambda: published(cluster, web), "but for our own, which are put again")
