"""A cluster in which nothing is wrong: nodes find each other, and pods reach each other as policy says."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.certificates import Certificates
from tests.cluster_support import WORLD_V4, ClusterNode
from tests.kvstore_cluster import KvstoreCluster, until

pytestmark = [pytest.mark.privileged, pytest.mark.timeout(180), pytest.mark.xdist_group("cluster")]

POLICY = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: web}}}]
"""


BOTH_WAYS = pytest.mark.parametrize("routing", ["overlay", "native"])


# Of the session, because their start is most of what these tests take.
@pytest.fixture(scope="session")
def overlay() -> Iterator[KvstoreCluster]:
    with KvstoreCluster(2, settings={"cluster": {"routing": "overlay"}}) as running:
        yield running


@pytest.fixture(scope="session")
def native() -> Iterator[KvstoreCluster]:
    with KvstoreCluster(2, settings={"cluster": {"routing": "native"}}) as running:
        yield running


@pytest.fixture
def routing() -> str:
    return "overlay"


@pytest.fixture
def cluster(request: pytest.FixtureRequest, routing: str) -> Iterator[KvstoreCluster]:
    running: KvstoreCluster = request.getfixturevalue(routing)
    yield running
    running.clear()


@BOTH_WAYS
def test_policy_of_the_cluster_holds_on_all_nodes_by_identity(cluster: KvstoreCluster, tmp_path) -> None:
    one, two = cluster.nodes
    web, other, db, web_too = (
        cluster.pod(one, "web"),
        cluster.pod(one, "other"),
        cluster.pod(two, "db"),
        cluster.pod(two, "web"),
    )
    cluster.settled()
    assert web.identity == web_too.identity
    assert web.reaches(db)
    assert other.reaches(db)

    file = tmp_path / "db.yaml"
    file.write_text(POLICY)
    one.podlane("policy", "apply", "--cluster", "-f", str(file))
    until(lambda: two.show("policy", "list"), "the other node has taken the policy in")
    until(lambda: not other.reaches(db), "the policy is enforced there")
    assert web.reaches(db)
    assert web_too.reaches(db)
    assert not other.pod.ping(db.v6)
    assert two.show("policy", "list")[0]["source"] == "kvstore"

    two.podlane("policy", "delete", "--cluster", "netpol/default/db")
    until(lambda: other.reaches(db), "it holds no more")
    until(lambda: not one.show("policy", "list"), "nor on the node that it came from")


def test_blocks_hold_across_nodes(cluster: KvstoreCluster, tmp_path) -> None:
    one, two = cluster.nodes
    near, far, db = cluster.pod(one, "near"), cluster.pod(one, "far"), cluster.pod(two, "db")
    cluster.settled()
    file = tmp_path / "db.yaml"
    text = POLICY.replace("podSelector: {matchLabels: {app: web}}", f"ipBlock: {{cidr: {near.v4}/32}}")
    file.write_text(text)
    one.podlane("policy", "apply", "--cluster", "-f", str(file))
    until(lambda: not far.ping(db.v4), "the block is enforced")
    assert near.ping(db.v4)
    assert not near.ping(db.v6)


@BOTH_WAYS
def test_hosts_and_remote_pods(cluster: KvstoreCluster) -> None:
    one, two = cluster.nodes
    web, db = cluster.pod(one, "web"), cluster.pod(two, "db")
    cluster.settled()
    for address in db.addresses:
        until(partial(answers, one, address), f"a node reaches another one's pod at {address}")
    for address in (two.v4, two.v6):
        until(partial(web.ping, address), f"a pod reaches another node at {address}")


def answers(node: ClusterNode, address: str) -> bool:
    """Whether an address answers to the node itself."""
    return not node.exec("ping", "-c", "1", "-W", "1", address, check=False).returncode


def test_what_an_operator_sees(cluster: KvstoreCluster) -> None:
    one, two = cluster.nodes
    web = cluster.pod(one, "web")
    cluster.settled()

    status = two.show("status")
    assert status["problems"] == []
    assert status["cluster"]["kvstore"]["reachable"]
    assert status["cluster"]["kvstore"]["members"][0]["leader"]
    assert 0 < status["cluster"]["kvstore"]["lease_left_ms"] <= 25_000
    assert {node["name"] for node in status["cluster"]["nodes"]} == {one.name, two.name}
    table = two.podlane("status").stdout
    assert f"{two.name} (this)" in table
    assert "registered" in table

    listed = two.podlane("kvstore", "list", "state/ip").stdout
    assert f"pod default/{web.pod.name} on {one.name}" in listed
    assert "k8s:app=web" in listed
    value = json.loads(two.podlane("kvstore", "get", f"state/ip/v1/{web.v4}").stdout)
    assert value["node"] == one.name
    assert two.podlane("kvstore", "get", "state/ip/v1/nobody", check=False).returncode == 3

    names = {one["name"] for one in two.show("controllers")}
    assert {"register-node", "sync-ipcache", "sync-nodes", "sync-identities", "kvstore-lease"} <= names
    names = {one["name"] for one in one.show("controllers")}
    assert {"sync-to-kvstore", "sync-ip-identity"} <= names


def test_the_report_of_a_healthy_node_contradicts_nothing(cluster: KvstoreCluster, tmp_path: Path) -> None:
    one, two = cluster.nodes
    cluster.pod(one, "web"), cluster.pod(two, "db")
    cluster.settled()
    report = str(tmp_path / "report.tar.gz")

    one.podlane("bugtool", "-o", report, "--conf-dir", str(one.conf_dir))

    told = one.show("bugtool", "check", report)
    assert (told["node"], told["findings"], told["skipped"]) == (one.name, [], [])


def test_deleting_a_pod_takes_all_of_it_away_everywhere(cluster: KvstoreCluster) -> None:
    one, two = cluster.nodes
    web = cluster.pod(one, "web")
    cluster.settled()
    assert set(cluster.ipcache(two)) == set(web.addresses)
    one.delete(web.pod)
    one.pods.clear()
    until(lambda: not cluster.ipcache(two), "the other node has forgotten it")
    kinds = {key.split("/")[2] for key in cluster.keys("podlane/state/")}
    assert kinds == {"nodes", "identities"}


def test_etcd_with_certificates_and_passwords(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("secret")
    certificates = Certificates(tmp_path, [WORLD_V4])
    with KvstoreCluster(2, tls=certificates, password_file=password) as cluster:
        one, two = cluster.nodes
        web, db = cluster.pod(one, "web"), cluster.pod(two, "db")
        cluster.settled()
        assert web.reaches(db)

        password.write_text("another")
        one.kill("endpoint")
        one.podlane("node", "up")
        until(lambda: "refuses the user name or the password" in complaints(one), "it is said what is wrong")
        assert web.reaches(db)
        known = cluster.pod(one, "web")
        assert known.identity == web.identity
        log = (one.dir / "run" / "log" / "endpoint.log").read_text()
        said = [line for line in log.splitlines() if '"module": "kvstore"' in line and "refuses the user" in line]
        assert len(said) == 1, said

        password.write_text("secret")
        until(lambda: not complaints(one), "it goes on by itself")
        cluster.settled()


def complaints(node: ClusterNode) -> str:
    """Return what `podlane status` says is wrong."""
    shown = json.loads(node.podlane("status", "-o", "json", check=False).stdout)
    return "; ".join(shown["problems"])
