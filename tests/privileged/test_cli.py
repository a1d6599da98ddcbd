"""The operator's command against a real node: what it says, its exit codes, what it leaves running."""

import json
from typing import Any

import pytest

from tests.node_support import Node, run

pytestmark = [pytest.mark.privileged, pytest.mark.xdist_group("cli")]


def test_node_up_again_changes_nothing_and_status_shows_three_serving(shared_node: Node):
    before = {service: shared_node.pid(service) for service in ("loader", "ipam", "endpoint")}

    shared_node.podlane("node", "up")

    found = {one["service"]: one for one in shared_node.show("node", "status")}
    assert {service: one["pid"] for service, one in found.items()} == before
    assert {one["health"] for one in found.values()} == {"serving"}
    assert all(one["rss_kib"] > 10_000 for one in found.values())


def test_endpoint_get_finds_an_endpoint_by_id_address_and_pod(shared_node: Node):
    pod = shared_node.pod()
    addresses = shared_node.add(pod).addresses
    (listed,) = [one for one in shared_node.show("endpoint", "list") if one["pod"]["name"] == pod.name]

    by = [shared_node.show("endpoint", "get", name) for name in (str(listed["id"]), *addresses, f"default/{pod.name}")]

    assert {one["id"] for one in by} == {listed["id"]}
    assert by[0]["state"] == "ready"
    assert {program["name"] for program in by[0]["last_regeneration"]["programs"]} == {
        "from_container",
        "policy",
        "to_container",
    }
    told = shared_node.podlane("endpoint", "get", addresses[0]).stdout
    assert "from_container" in told
    assert pod.container_id in told
    shared_node.delete(pod)


def test_an_endpoint_that_is_not_there_is_named_in_one_line(shared_node: Node):
    for name in ("4242", "10.44.0.250", "default/nobody", "what?"):
        outcome = shared_node.podlane("endpoint", "get", name, check=False)

        assert outcome.returncode == (2 if name == "what?" else 3)
        assert len(outcome.stderr.splitlines()) == 1
        assert outcome.stderr.startswith("podlane: ")
        assert name.removeprefix("default/") in outcome.stderr


def test_ipam_shows_owners_and_how_full_the_pool_is(shared_node: Node):
    pod = shared_node.pod()
    addresses = shared_node.add(pod).addresses

    allocations = shared_node.show("ipam", "list")
    (pool,) = shared_node.show("ipam", "pools")

    (ours,) = [one for one in allocations if one["owner"]["container_id"] == pod.container_id]
    assert [one["address"].partition("/")[0] for one in ours["addresses"]] == addresses
    assert ours["state"] == "confirmed"
    assert [part["prefix"] for part in pool["ranges"]] == ["10.44.0.0/24", "fd00:44::/112"]
    assert all(part["used"] >= 1 for part in pool["ranges"])
    shared_node.delete(pod)


DB = """
apiVersion: v1
kind: Pod
metadata: {name: web-0, namespace: default, labels: {app: web}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: default}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress: [{from: [{ipBlock: {cidr: 10.44.0.0/24}}], ports: [{port: 5432}]}]
"""


def test_each_map_of_the_kernel_is_shown_with_names(shared_node: Node):
    pod, other = shared_node.pod(), shared_node.pod()
    pod.name, other.name = "web-0", "cron-0"
    v4 = shared_node.add(pod).addresses[0]
    shared_node.add(other)
    file = shared_node.dir / "db.yaml"
    file.write_text(DB)
    shared_node.podlane("policy", "apply", "-f", str(file))
    assert not other.ping(v4)
    id_ = shared_node.show("endpoint", "get", "default/web-0")["id"]

    def bpf(*argv: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = shared_node.show("bpf", *argv)
        return [one for one in found if one.get("pod", "default/web-0") == "default/web-0"]

    assert v4 in {one["address"] for one in bpf("endpoint", "list")}
    programs = {one["name"]: one["id"] for one in bpf("prog", "list")}
    assert set(programs) == {"from_container", "policy", "to_container"}
    assert [one["program_id"] for one in bpf("call", "list")] == [programs["policy"]]
    rules = bpf("policy", "get", "default/web-0")
    assert {(one["entry"]["port"], *one["origins"]) for one in rules} == {
        (0, "the pod's own node always reaches it (a setting)"),
        (5432, "policy default/db, ingress[0].from[0] (ipBlock 10.44.0.0/24)"),
        (0, "no policy isolates it"),
    }
    assert all(one["origins"] for one in bpf("policy", "get", "--all"))
    assert [one["policy_entries"] for one in bpf("policy", "list")] == [len(rules)]
    assert [(one["prefix"], one["policies"]) for one in bpf("prefixes", "list")] == [("10.44.0.0/24", ["default/db"])]
    assert ("ingress", "policy") in {(one["direction"], one["reason"]) for one in bpf("metrics", "list")}
    assert "default/cron-0" in shared_node.podlane("bpf", "ct", "list").stdout
    pins = {one["path"].rpartition("/")[2]: one["endpoint_id"] for one in bpf("fs", "show")}
    assert pins[f"policy_{id_}"] == id_
    assert shared_node.podlane("bpf", "ipcache", "list").stdout == "no addresses of other nodes\n"
    assert "default/web-0" in shared_node.podlane("bpf", "ipcache", "get", v4).stdout
    shared_node.podlane("policy", "delete", "-f", str(file))
    for one in (pod, other):
        shared_node.delete(one)


def test_uninstall_takes_away_what_install_wrote_and_can_be_repeated(shared_node: Node):
    where = ("--bin-dir", str(shared_node.dir / "b"), "--conf-dir", str(shared_node.dir / "c"))
    written = shared_node.podlane("cni", "install", *where).stdout
    conflist = json.loads((shared_node.dir / "c" / "10-podlane.conflist").read_text())

    removed = shared_node.podlane("cni", "uninstall", *where).stdout
    again = shared_node.podlane("cni", "uninstall", *where).stdout

    assert written.count("wrote") == 3
    assert (conflist["cniVersion"], conflist["plugins"][0]["type"]) == ("1.0.0", "podlane")
    assert "10-podlane.conflist" in removed
    assert "nothing was installed" in again
    assert list((shared_node.dir / "b").iterdir()) == []


def test_a_service_that_is_down_is_named_with_its_socket_and_the_next_step(node: Node):
    node.kill("ipam")

    outcome = node.podlane("ipam", "list", check=False)
    status = node.podlane("node", "status", check=False)

    assert outcome.returncode == 4
    assert "podlane-ipam does not answer" in outcome.stderr
    assert str(node.loaded.ipam.socket) in outcome.stderr
    assert status.returncode == 1
    assert "down" in status.stdout


def test_down_leaves_the_pods_talking_and_a_second_down_is_no_error(node: Node):
    one, other = node.pod(), node.pod()
    node.add(one)
    address = node.add(other).addresses[0]

    node.podlane("node", "down")
    again = node.podlane("node", "down")

    assert again.stdout.count("was not running") == 3
    assert one.ping(address)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[ipam]\ncooldown = 3\n", "cooldown"),
        ("[node]\nlog_level = 3\n", "log_level"),
        ("[node\n", "not TOML"),
        ('[loader]\nattach_mode = "xdp"\n', "attach_mode"),
        ('[[ipam.pools]]\nname = "default"\nranges = ["10.0.0.0/33"]\n', "10.0.0.0/33"),
    ],
)
def test_a_bad_setting_is_named_in_the_first_line(shared_node: Node, text: str, named: str):
    file, bpffs = shared_node.dir / "bad.toml", shared_node.dir / "b"
    places = f'run_dir = "{shared_node.dir}/r"\nlib_dir = "{shared_node.dir}/l"\nbpffs = "{bpffs}"\n'
    file.write_text(text.replace("[node]\n", "[node]\n" + places) if "[node]" in text else f"[node]\n{places}{text}")
    bpffs.mkdir(exist_ok=True)
    run("mount", "-t", "bpf", "bpf", str(bpffs))
    try:
        outcome = shared_node.exec(*shared_node.command(file), "node", "up", check=False)
        shared_node.exec(*shared_node.command(file), "node", "down", check=False)
    finally:
        run("umount", str(bpffs))

    assert outcome.returncode == (4 if "ended at once" in outcome.stderr else 2)
    assert named in outcome.stderr
    assert "Traceback" not in outcome.stderr
