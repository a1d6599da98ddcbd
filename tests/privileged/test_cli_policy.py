"""`podlane policy`, `identity` and `endpoint labels` on a real node: what a person types and reads.

Three pods of a shop: `web-0` and `cron-0` speak to `db-0`, which the policy of docs/policy.md is about.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.agreement import until
from tests.node_support import Node, Outcome, Pod
from tests.privileged.test_cli_monitor import monitor
from tests.traffic_support import TcpStream

pytestmark = [pytest.mark.privileged, pytest.mark.xdist_group("cli-policy")]

OUTSIDE = {4: "192.0.2.7", 6: "2001:db8::7"}
AGREE = "the programs in force agree"
DB = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: db
  namespace: shop
spec:
  podSelector:
    matchLabels: {app: db}
  ingress:
  - from:
    - podSelector:
        matchLabels: {app: web}
    ports:
    - {port: 5432}
"""
QUIET = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: quiet
  namespace: shop
spec:
  podSelector:
    matchLabels: {app: cron}
  policyTypes: [Egress]
  egress:
  - to:
    - ipBlock: {cidr: 192.0.2.0/24, except: [192.0.2.64/26]}
"""


@dataclass
class Shop:
    """The node, its pods by name, their addresses (IPv4, IPv6), and how to type a command."""

    node: Node
    pods: dict[str, Pod] = field(default_factory=dict)
    addresses: dict[str, list[str]] = field(default_factory=dict)
    endpoints: dict[str, tuple[int, int]] = field(default_factory=dict)

    def add(self, name: str) -> None:
        """Add a pod whose label `app` is the first part of its name."""
        pod = self.node.pod()
        pod.namespace, pod.name = "shop", name
        labels = [{"key": "app", "value": name.partition("-")[0]}]
        self.addresses[name] = self.node.add(pod, args={"cni": {"labels": labels}}).addresses
        self.pods[name] = pod
        found = self.node.show("endpoint", "get", f"shop/{name}")
        self.endpoints[name] = (found["id"], found["identity"])

    def file(self, text: str, name: str = "shop.yaml") -> str:
        """Write a file; return its path."""
        path = self.node.dir / name
        path.write_text(text)
        return str(path)

    def type(self, *argv: str) -> Outcome:
        """Run `podlane`."""
        done = self.node.podlane(*argv, check=False)
        assert "Traceback" not in done.stderr
        return Outcome(done.returncode, done.stdout, done.stderr)

    def lines(self, *argv: str) -> list[str]:
        """Run `podlane`, which must succeed; return what it prints."""
        outcome = self.type(*argv)
        assert (outcome.code, outcome.stderr) == (0, ""), outcome
        return outcome.stdout.splitlines()

    def explain(self, source: str, target: str, port: str, version: int = 4) -> tuple[int, list[str]]:
        """Return exit code and lines but the last, which always says that the programs agree."""
        outcome = self.type(
            "policy", "explain", "--from", source, "--to", target, "--port", port, "--family", str(version)
        )
        *lines, last = outcome.stdout.splitlines()
        assert last == AGREE, outcome
        return outcome.code, lines

    def stream(self, client: str, server: str, version: int = 4) -> TcpStream:
        """Return a TCP connection between two pods."""
        address = self.addresses[server][0 if version == 4 else 1]
        return TcpStream(self.pods[client], self.pods[server], address)

    def identity(self, name: str) -> int:
        """Return the identity that a pod has by its own labels."""
        return self.endpoints[name][1]

    def id(self, name: str) -> int:
        """Return a pod's endpoint id."""
        return self.endpoints[name][0]


@pytest.fixture(scope="module")
def open_shop() -> Iterator[Shop]:
    """The shop without any policy."""
    with Node() as node:
        shop = Shop(node)
        for name in ("web-0", "db-0", "cron-0"):
            shop.add(name)
        yield shop


@pytest.fixture
def shop(open_shop: Shop) -> Iterator[Shop]:
    """The shop, whose policies of one test are gone after it."""
    yield open_shop
    names = [
        f"netpol/{one['name']['namespace']}/{one['name']['name']}" for one in open_shop.node.show("policy", "list")
    ]
    if names:
        open_shop.lines("policy", "delete", *names)


@pytest.fixture
def closed(shop: Shop) -> Shop:
    """The shop with the policy about its database, and one about what cron may reach."""
    shop.lines("policy", "apply", "-f", shop.file(DB + "---\n" + QUIET))
    return shop


def without_time(line: str) -> str:
    """Return a line about an effect without how long it took."""
    said, _, took = line.rpartition(" in ")
    assert took.endswith(" ms")
    return said


def test_apply_list_get_and_delete(shop: Shop):
    file = shop.file(DB)

    created = shop.lines("policy", "apply", "-f", file)
    again = shop.lines("policy", "apply", "-f", file)

    assert created[0] == "networkpolicy shop/db created"
    assert without_time(created[1]) == "1 endpoint: 2 entries added, 1 removed, enforced"
    assert again[0] == "networkpolicy shop/db unchanged"
    assert without_time(again[1]) == "no policy map changes, enforced"
    _, row = shop.lines("policy", "list")
    assert row.split()[:6] == ["shop", "db", "NetworkPolicy", "1", "ingress", "applied"]
    assert "endpoints   " + str(shop.id("db-0")) in shop.lines("policy", "get", "netpol/shop/db", "-o", "table")
    shown = "\n".join(shop.lines("policy", "get", "netpol/shop/db", "-o", "yaml"))
    assert shop.lines("policy", "apply", "-f", shop.file(shown, "shown.yaml"))[0] == "networkpolicy shop/db unchanged"

    deleted = shop.lines("policy", "delete", "netpol/shop/db")

    assert deleted[0] == "networkpolicy shop/db deleted"
    assert without_time(deleted[1]) == "1 endpoint: 1 entry added, 2 removed, enforced"
    assert shop.lines("policy", "list") == ["no policies"]
    missing = shop.type("policy", "delete", "netpol/shop/db")
    assert (missing.code, missing.stdout) == (3, "")
    assert missing.stderr == "podlane: there is no NetworkPolicy shop/db: see `podlane policy list`\n"


def test_validate_tells_files_that_are_right_from_those_that_are_not(shop: Shop):
    good, bad = shop.file(DB), shop.file(DB.replace("matchLabels: {app: web}", "matchlabels: {app: web}"), "bad.yaml")
    problem = "spec.ingress[0].from[0].podSelector.matchlabels: unknown field, perhaps matchLabels"

    assert shop.lines("policy", "validate", "-f", good) == [f"{good}: nothing is wrong"]
    outcome = shop.type("policy", "validate", "-f", bad)
    applied = shop.type("policy", "apply", "-f", bad)

    assert (outcome.code, outcome.stdout) == (1, f"{bad}:12: NetworkPolicy shop/db: {problem}\n")
    assert (applied.code, applied.stdout) == (2, "")
    assert problem in applied.stderr
    assert shop.type("policy", "diff", "-f", bad).code == 2
    assert shop.lines("policy", "list") == ["no policies"]


@pytest.mark.parametrize("version", [4, 6])
def test_diff_shows_entries_and_the_live_flow_that_would_be_cut(shop: Shop, version: int):
    web, id_ = shop.identity("web-0"), shop.id("db-0")
    with shop.stream("cron-0", "db-0", version) as stream:
        outcome = shop.type("policy", "diff", "-f", shop.file(DB))
        stream.goes_on()

    *lines, cut = outcome.stdout.splitlines()
    assert outcome.code == 1
    assert lines == [
        "networkpolicy shop/db created",
        "",
        f"endpoint {id_} shop/db-0",
        "  ingress: open → isolated by policy shop/db",
        "- ingress from any, any protocol: no policy isolates it",
        "+ ingress from identity 1, any protocol: the pod's own node always reaches it (a setting)",
        f"+ ingress from identity {web}, 5432/TCP: policy shop/db, ingress[0].from[0] (podSelector app=web)",
    ]
    here, there = (shop.addresses[name][0 if version == 4 else 1] for name in ("cron-0", "db-0"))
    left, right = ("[", "]") if version == 6 else ("", "")
    assert cut.startswith(f"  cuts TCP shop/cron-0 ({left}{here}{right}:")
    assert f") -> shop/db-0 ({left}{there}{right}:" in cut
    assert shop.lines("policy", "list") == ["no policies"]


def test_diff_leaves_out_a_connection_that_is_closed(shop: Shop):
    with shop.stream("cron-0", "db-0"):
        pass

    assert "cuts" not in shop.type("policy", "diff", "-f", shop.file(DB)).stdout


def test_diff_of_deleting_and_of_what_is_there(closed: Shop):
    unchanged = closed.type("policy", "diff", "-f", closed.file(DB))
    deleted = closed.type("policy", "diff", "--delete", "netpol/shop/db")

    assert (unchanged.code, unchanged.stdout) == (0, "networkpolicy shop/db unchanged\n")
    assert deleted.code == 1
    assert "  ingress: isolated by policy shop/db → open\n" in deleted.stdout
    assert "+ ingress from any, any protocol: no policy isolates it\n" in deleted.stdout
    assert len(closed.lines("policy", "list")) == 3


@pytest.mark.parametrize("version", [4, 6])
def test_explain_names_the_entry_and_the_rule_or_what_isolates(closed: Shop, version: int):
    web, db = (closed.addresses[name][0 if version == 4 else 1] for name in ("web-0", "db-0"))
    web_identity, db_identity = closed.identity("web-0"), closed.identity("db-0")

    code, lines = closed.explain("shop/web-0", "shop/db-0", "5432/TCP", version)

    rule = "policy shop/db, ingress[0].from[0] (podSelector app=web)"
    first = f"shop/web-0 {web} (identity {web_identity}) → shop/db-0 {db} (identity {db_identity}), 5432/TCP: allowed"
    assert (code, lines) == (
        0,
        [
            first,
            "  egress of shop/web-0: allowed by the entry 'egress to any, any protocol': no policy isolates it",
            f"  ingress of shop/db-0: allowed by the entry 'ingress from identity {web_identity}, 5432/TCP': {rule}",
        ],
    )
    for port in ("icmp", "80/SCTP", "5432/UDP"):
        code, lines = closed.explain("shop/web-0", "shop/db-0", port, version)
        assert code == 1
        assert lines[2].endswith(f"isolated by policy shop/db, and this peer may use only 5432/TCP ({rule})")
    code, lines = closed.explain("shop/cron-0", "shop/web-0", "80", version)
    assert code == 1
    assert lines[1].startswith("  egress of shop/cron-0: denied, no entry matches: isolated by policy shop/quiet, and ")
    assert lines[1].endswith("no rule names this peer by its labels, k8s:app=web,k8s:io.kubernetes.pod.namespace=shop")
    for port in ("icmp", "80/SCTP", "80/UDP"):
        assert closed.explain("shop/db-0", "shop/web-0", port, version)[0] == 0


@pytest.mark.parametrize("version", [4, 6])
def test_explain_knows_the_node_and_the_world_outside(closed: Shop, version: int):
    stranger = OUTSIDE[version]

    from_node = closed.explain("node", "shop/db-0", "5432/TCP", version)
    from_outside = closed.explain(stranger, "shop/db-0", "5432/TCP", version)
    to_outside = closed.explain("shop/cron-0", stranger, "443/TCP", version)
    to_node = closed.explain("shop/cron-0", "node", "icmp", version)

    assert from_node[0] == 0
    assert from_node[1][2].endswith("the pod's own node always reaches it (a setting)")
    assert from_outside[0] == 1
    assert from_outside[1][0].startswith(f"{stranger} (reserved:world) → shop/db-0 ")
    assert from_outside[1][2].endswith(f"isolated by policy shop/db, and no rule has an ipBlock with {stranger}")
    assert to_outside[0] == (0 if version == 4 else 1)
    assert to_node[0] == 1


def test_explain_has_exit_code_2_for_questions_that_have_no_answer(shop: Shop):
    outcome = shop.type("policy", "explain", "--from", "shop/web-0", "--to", "shop/nobody", "--port", "80")

    assert (outcome.code, outcome.stdout) == (2, "")
    assert outcome.stderr == "podlane: there is no endpoint with pod shop/nobody: see `podlane endpoint list`\n"


def test_labels_are_set_removed_and_taken_back(closed: Shop):
    before = closed.identity("web-0")

    said = closed.lines("endpoint", "labels", "shop/web-0", "quarantine=yes", "app-")
    shown = closed.lines("endpoint", "labels", "shop/web-0")
    denied, _ = closed.explain("shop/web-0", "shop/db-0", "5432/TCP")
    listed = {one["id"]: one for one in closed.node.show("identity", "list")}
    back = closed.lines("endpoint", "labels", "shop/web-0", "--reset", "app", "--reset", "quarantine")

    assert said[0].endswith("k8s:io.kubernetes.pod.namespace=shop, k8s:quarantine=yes")
    assert [line.split() for line in shown] == [
        ["LABEL", "VALUE", "SAID", "BY"],
        ["app", "(removed)", "operator"],
        ["app", "web", "pod,", "not", "in", "force"],
        ["quarantine", "yes", "operator"],
    ]
    assert denied == 1
    assert listed[before]["expires_in_seconds"] > 0
    assert back[0].startswith(f"endpoint {closed.id('web-0')} has identity {before}: k8s:app=web, ")
    assert closed.explain("shop/web-0", "shop/db-0", "5432/TCP")[0] == 0


def test_endpoints_and_identities_show_who_is_isolated_by_what(closed: Shop):
    db, id_ = closed.identity("db-0"), closed.id("db-0")

    got = closed.lines("endpoint", "get", "shop/db-0")
    head, *rows = closed.lines("endpoint", "list", "-o", "wide")
    listed = closed.lines("identity", "list")
    identity = closed.lines("identity", "get", str(db))

    assert {f"identity    {db}", "label       k8s:app=db", "ingress     isolated by shop/db"} <= set(got)
    assert head.split("  ")[-1] == "LABELS"
    (row,) = [row.split() for row in rows if " shop/db-0 " in row]
    assert row[-3:-1] == ["shop/db", "-"]
    assert row[-1].startswith("k8s:app=db,")
    assert any(line.split()[:2] == ["1", "reserved:host"] for line in listed)
    assert any(line.split()[1:] == ["192.0.2.0/24", "-", "shop/quiet", "-"] for line in listed)
    assert {f"endpoints   {id_}", "policies    shop/db"} <= set(identity)
    assert closed.type("identity", "get", "9999").code == 3


def knock(shop: Shop, client: str) -> None:
    """Send a datagram to the database's port 5432."""
    address = shop.addresses["db-0"][0]
    shop.pods[client].exec("bash", "-c", f"echo >/dev/udp/{address}/5432")


def test_monitor_names_pods_and_what_isolates(closed: Shop):
    with monitor(closed.node, "--type", "drop", "--endpoint", "shop/db-0", "-o", "json") as process:
        knock(closed, "web-0")
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())

    assert told["drop"]["reason"] == "policy"
    assert (told["source"]["name"], told["destination"]["name"]) == ("shop/web-0", "shop/db-0")
    assert told["source"]["labels"]["k8s:app"] == "web"
    assert told["isolated_by"] == ["shop/db"]
    assert told["summary"].startswith("shop/web-0 => shop/db-0: drop (policy)")
    assert told["summary"].endswith("; isolated by shop/db")


def test_monitor_names_the_rule_of_a_verdict(closed: Shop):
    closed.lines("endpoint", "config", "shop/db-0", "policy-verdict=on")
    address = closed.addresses["db-0"][0]
    with monitor(closed.node, "--type", "verdict", "--endpoint", "shop/db-0") as process:
        # Nobody listens: the answer is a refusal, which shows that policy let the packet pass.
        closed.pods["web-0"].exec("bash", "-c", f"echo >/dev/tcp/{address}/5432", check=False)
        assert process.stdout is not None
        line = process.stdout.readline()
    closed.lines("endpoint", "config", "shop/db-0", "policy-verdict=default")

    assert "shop/web-0 => shop/db-0: " in line
    assert line.endswith("; allowed by policy shop/db, ingress[0].from[0] (podSelector app=web)\n")


def test_a_file_of_the_watched_directory_is_in_force_and_belongs_to_the_directory(shop: Shop):
    directory = Path(shop.node.loaded.endpoint.policy_dir)
    directory.mkdir(exist_ok=True)
    hidden = directory / ".db.yaml"
    hidden.write_text(DB)
    hidden.rename(directory / "db.yaml")

    def listed() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = shop.node.show("policy", "list")
        return found

    until(listed, lambda: "the file is not taken in")
    until(lambda: shop.explain("shop/cron-0", "shop/db-0", "5432")[0] == 1, lambda: "the file is not in force")
    _, row = shop.lines("policy", "list")
    refused = shop.type("policy", "delete", "netpol/shop/db")
    (directory / "db.yaml").unlink()
    until(lambda: not listed(), lambda: "the file's documents outlive it")

    assert row.split()[5] == "db.yaml"
    assert refused.code == 5
    assert refused.stderr == "podlane: NetworkPolicy shop/db is in the watched file db.yaml: change it there\n"
