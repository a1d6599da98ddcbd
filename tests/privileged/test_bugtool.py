"""`podlane bugtool` of a real node: a healthy one contradicts nothing, each real damage is named, no secret leaves.

The tests are steps of one node's story, in the order of the file.
"""

import base64
import json
import stat
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from podlane.common.v1 import types_pb2
from podlane.ipam.v1 import ipam_pb2

from cli import connect
from cli.report import archive
from tests.agreement import until
from tests.certificates import Certificates
from tests.node_support import Node, Pod, run

pytestmark = [pytest.mark.privileged, pytest.mark.long]

POLICY = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: web}}}]
    ports: [{port: 5432}]
"""
PASSWORD = "Tr0ub4dor&3 horse"


class Shop:
    """A node with three pods and a policy."""

    def __init__(self, node: Node) -> None:
        """Add them."""
        self.node = node
        self.pods: dict[str, Pod] = {}
        self.addresses: dict[str, list[str]] = {}
        for name in ("web-0", "db-0", "cron-0"):
            pod = node.pod()
            pod.namespace, pod.name = "shop", name
            labels = [{"key": "app", "value": name.partition("-")[0]}]
            self.addresses[name] = node.add(pod, args={"cni": {"labels": labels}}).addresses
            self.pods[name] = pod
        file = node.dir / "db.yaml"
        file.write_text(POLICY)
        node.podlane("policy", "apply", "-f", str(file))
        until(
            lambda: len(node.show("kvstore", "list", f"state/endpoints/v1/{node.name}")) == 3,
            lambda: "not all are published",
        )

    def endpoint(self, name: str) -> Any:
        """Return an endpoint as the service tells it."""
        return self.node.show("endpoint", "get", f"shop/{name}")

    def report(self, *options: str) -> Path:
        """Make a report; return its path."""
        path = self.node.dir / "report.tar.gz"
        self.node.podlane(*options, "bugtool", "-o", str(path), "--conf-dir", str(self.node.conf_dir))
        return path

    def check(self, path: Path) -> tuple[int, list[Any]]:
        """Check a report; return the exit code and the findings."""
        done = self.node.podlane("bugtool", "check", str(path), "-o", "json", check=False)
        told = json.loads(done.stdout)
        assert told["skipped"] == []
        return done.returncode, told["findings"]

    def map(self, name: str) -> str:
        """Return where a map is pinned."""
        return f"{self.node.dir}/bpf/podlane/maps/{name}"

    def delete_entries(self, name: str, *, holding: bytes = b"") -> None:
        """Delete the entries of a map whose keys hold these bytes."""
        dumped = json.loads(run("bpftool", "-j", "map", "dump", "pinned", self.map(name)).stdout)
        keys = [[int(one, 16) for one in entry["key"]] for entry in dumped if "error" not in entry.get("value", {})]
        chosen = [key for key in keys if holding in bytes(key)]
        assert chosen
        for key in chosen:
            run("bpftool", "map", "delete", "pinned", self.map(name), "key", *map(str, key))


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    """One for all tests of the module."""
    with Node() as node:
        yield Shop(node)


def test_a_healthy_node_contradicts_nothing_and_its_archive_says_what_is_in_it(shop: Shop):
    path = shop.report()

    code, findings = shop.check(path)
    members = archive.unpack(path.read_bytes(), "report")
    manifest = json.loads(members["manifest.json"])

    assert (code, findings) == (0, [])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert manifest["failed"] == []
    assert (manifest["format"], manifest["node"]) == ("1.0", shop.node.name)
    assert {one["name"] for one in manifest["members"]} == set(members) - {"manifest.json"}
    assert {one["pod"]["name"] for one in json.loads(members["endpoint/endpoints.json"])} == {"web-0", "db-0", "cron-0"}
    assert len([name for name in members if name.startswith("pods/")]) == 3
    assert json.loads(members["endpoint/documents.json"])[0]["name"]["name"] == "db"
    assert all(json.loads(members[f"loader/maps/{one}.json"]) for one in ("endpoints", "call_policy", "policy"))
    assert all(members[f"services/{one}-metrics.txt"].startswith(b"# HELP") for one in ("ipam", "loader", "endpoint"))
    assert all(b"ready" in members[f"logs/{one}.log"] for one in ("ipam", "loader", "endpoint"))
    assert b"10.44.0.2" in members["kernel/ip/routes4.json"]


def test_no_secret_that_is_planted_is_in_any_member(shop: Shop):
    node, places = shop.node, shop.node.dir / "secrets"
    places.mkdir()
    made = Certificates(places / "tls")
    (places / "password").write_text(f"{PASSWORD}\n")
    basic = base64.b64encode(f"podlane:{PASSWORD}".encode()).decode()
    key_line = made.client_key.read_text().splitlines()[1]
    planted = ["Url-Pass-word-1", "conflist-t0ken-77", "env-variable-88"]
    settings = node.config_file.read_text().replace(
        "[kvstore]",
        "[kvstore]\n"
        f'endpoints = ["https://me:{planted[0]}@192.0.2.1:2379"]\nca = "{made.ca}"\n'
        f'certificate = "{made.client}"\nkey = "{made.client_key}"\n'
        f'username = "podlane"\npassword_file = "{places}/password"',
    )
    other = places / "podlane.toml"
    other.write_text(settings)
    conflist = next(node.conf_dir.glob("*.conflist"))
    before = conflist.read_text()
    changed = json.loads(before)
    changed["plugins"].append({"type": "meter", "apiToken": planted[1], "env": {"METER": planted[2]}})
    conflist.write_text(json.dumps(changed))
    logs = node.dir / "run" / "log"
    with (logs / "ipam.log").open("a") as log:
        log.write(f'{{"event": "login {PASSWORD} refused", "token": "{planted[1]}"}}\n{made.client_key.read_text()}\n')
        log.write(f"{base64.b64encode(made.client_key.read_bytes()).decode()}\n")
    with (logs / "loader.log").open("a") as log:
        log.write(f"authorization: Basic {basic}\nseen {basic} and x{planted[0]}y, {key_line}, {planted[2]}\n")

    path = shop.report("--config", str(other))
    members = archive.unpack(path.read_bytes(), "report")

    conflist.write_text(before)
    secrets = [PASSWORD, key_line, *planted]
    for secret in secrets:
        for offset in range(3):
            core = base64.b64encode(bytes(offset) + secret.encode())[(0, 2, 3)[offset] :].rstrip(b"=")[:-1]
            found = [name for name, content in members.items() if secret.encode() in content or core in content]
            assert found == [], (secret, found)
    assert f"{places}/password".encode() in members["files/settings.json"]
    assert members["logs/ipam.log"].count(b"<redacted>") >= 3
    assert b"apiToken" in members["files/cni.json"]


def test_each_damage_is_named_and_what_is_whole_is_not(shop: Shop):
    web, db, cron = (shop.endpoint(name) for name in ("web-0", "db-0", "cron-0"))
    path = shop.map("policy_99")

    # web-0: its entry of the endpoint map, its programs, its slot.
    shop.delete_entries("podlane_endpoints", holding=ip_address(shop.addresses["web-0"][0]).packed)
    shop.node.exec("tc", "filter", "del", "dev", web["link"]["host_ifname"], "ingress")
    # db-0: an address inside, a rule.
    shop.pods["db-0"].exec("ip", "addr", "del", f"{shop.addresses['db-0'][0]}/32", "dev", "eth0")
    shop.delete_entries(f"policy_{db['id']}")
    # cron-0: ipam's books, its route on the node.
    owner = types_pb2.Attachment(**cron["attachment"])
    connect.ask(connect.ipam(shop.node.loaded), "ReleaseAddresses", ipam_pb2.ReleaseAddressesRequest(owner=owner))
    shop.node.exec("ip", "route", "del", shop.addresses["cron-0"][0])
    # Of nobody: a pin. Of the node: forwarding.
    run("bpftool", "map", "pin", "pinned", shop.map(f"policy_{db['id']}"), path)
    shop.node.exec("sysctl", "-qw", "net.ipv4.ip_forward=0")

    code, findings = shop.check(shop.report())

    found = {(one["check"], one["object"]) for one in findings}
    name = {pod: f"endpoint {one['id']} (shop/{pod})" for pod, one in (("web-0", web), ("db-0", db), ("cron-0", cron))}
    assert code == 1
    assert {
        ("endpoint-map", name["web-0"]),
        ("programs-attached", name["web-0"]),
        ("pod-end", name["db-0"]),
        ("policy-map", name["db-0"]),
        ("allocation", name["cron-0"]),
        ("host-end", name["cron-0"]),
        ("left-pins", "pin maps/policy_99"),
        ("forwarding", "sysctl net/ipv4/ip_forward"),
    } <= found
    said = " ".join(one["problem"] for one in findings)
    assert f"no entry for {shop.addresses['web-0'][0]}" in said
    assert f"eth0 hasn't the address {shop.addresses['db-0'][0]} inside" in said
    # Each is told of the pod that has it, and of no other.
    assert not {("pod-end", name["web-0"]), ("endpoint-map", name["db-0"]), ("allocation", name["db-0"])} & found
    Path(path).unlink()


def test_with_all_services_down_there_is_still_a_report_of_their_files(shop: Shop):
    shop.node.podlane("endpoint", "check", "--repair", str(shop.endpoint("cron-0")["id"]), check=False)
    shop.node.down()
    lib = {one.name: one.stat().st_mtime_ns for one in (shop.node.dir / "lib").iterdir()}

    path = shop.report()

    code, findings = shop.check(path)
    members = archive.unpack(path.read_bytes(), "report")
    failed = {one["collector"]: one["why"] for one in json.loads(members["manifest.json"])["failed"]}
    assert code == 1
    assert [one["object"] for one in findings if one["check"] == "services"] == [
        "podlane-loader",
        "podlane-ipam",
        "podlane-endpoint",
    ]
    assert "podlane-ipam is down" in failed["ipam/allocations"]
    assert {row["pod_name"] for row in json.loads(members["files/endpoint.json"])["endpoints"]} == {
        "web-0",
        "db-0",
        "cron-0",
    }
    assert "files/ipam.json" in members
    assert len(json.loads(members["kernel/bpf/dump/podlane_call_policy.json"])) >= 3
    # What was damaged in the kernel is found without them, too.
    assert ("pod-end", "db-0") in {(one["check"], one["object"].partition("/")[2].rstrip(")")) for one in findings}
    assert {one.name: one.stat().st_mtime_ns for one in (shop.node.dir / "lib").iterdir()} == lib
