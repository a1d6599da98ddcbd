"""Each check of `podlane bugtool check`: a healthy report, one thing changed, and the sentence that follows from it."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.report import checks
from tests.report_support import ALL, DB, NOW, WEB, device, healthy, report, time_text

Members = dict[str, Any]
Change = Callable[[Members], object]
DOCS = Path(__file__).resolve().parents[2] / "docs" / "bugtool.md"

WEB0 = "endpoint 1 (shop/web-0)"
DB0 = "endpoint 2 (shop/db-0)"
ELSE = "0a:ff:ff:ff:ff:ff"


def found(members: Members) -> list[tuple[str, str, str]]:
    findings, skipped = checks.run(report(members))
    assert skipped == []
    return [(one.check, one.object, one.problem) for one in findings]


def put(member: str, *path: str | int, to: Any) -> Change:
    """Return a change of one value."""

    def change(members: Members) -> None:
        place = members[member]
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = to

    return change


def add(member: str, *path: str | int, what: Any) -> Change:
    """Return a change that appends to a list."""

    def change(members: Members) -> None:
        place = members[member]
        for key in path:
            place = place[key]
        place.append(what)

    return change


def drop(member: str, *path: str | int) -> Change:
    """Return a change that takes a value out."""

    def change(members: Members) -> None:
        place = members[member]
        for key in path[:-1]:
            place = place[key]
        del place[path[-1]]

    return change


def both(*changes: Change) -> Change:
    """Return several changes as one."""
    return lambda members: [change(members) for change in changes]


def everywhere(key: str, to: Any, index: int = 0) -> Change:
    """Return a change of what both lists of endpoints say."""
    return both(*(put(f"endpoint/{name}.json", index, key, to=to) for name in ("endpoints", "after")))


def published(**changed: Any) -> Change:
    """Return a change of an endpoint's record in the kvstore."""
    return put("endpoint/endpoints.json", 0, "published", "value", to=json.dumps(WEB.record | changed))


_STRANGER = {"network": "podlane", "container_id": "f" * 64, "ifname": "eth0"}
_KVSTORE = ("endpoint/cluster.json", "kvstore")
_POOL = ("ipam/pools.json", 0, "ranges", 0)
_CONFLIST = "/etc/cni/net.d/10-podlane.conflist"
_INSIDE = f"pods/{WEB.ifname}.json"


def _forget_db(members: Members) -> None:
    """Let there be web-0 alone, and nothing of the IPv4 range be wrong but that."""
    for name, path in (
        ("ipam/allocations.json", ()),
        ("files/ipam.json", ("allocations",)),
        ("files/endpoint.json", ("endpoints",)),
        ("loader/links.json", ()),
        ("loader/datapaths.json", ()),
        ("kernel/ip/addresses.json", ()),
    ):
        place = members[name]
        for key in path:
            place = place[key]
        del place[1]
    members["endpoint/kvstore.json"] = members["endpoint/kvstore.json"][:2]
    members["kernel/bpf/pins.json"].remove("maps/policy_2")
    members["files/state.json"] = {k: v for k, v in members["files/state.json"].items() if not k.startswith("2/")}


CASES: list[tuple[str, str, str, Change]] = [
    ("services", "podlane-ipam", "is down", put("services/health.json", 1, "health", to="down")),
    (
        "versions",
        "services",
        "are of different versions: podlane-loader 0.1.0, podlane-ipam 0.0.9, podlane-endpoint 0.1.0",
        lambda members: members.update({"services/ipam-metrics.txt": 'podlane_ipam_build_info{version="0.0.9"} 1.0\n'}),
    ),
    (
        "settings",
        "podlane-endpoint",
        "runs with [node] name 'node-2', the settings say 'node-1'",
        put("endpoint/cluster.json", "node", to="node-2"),
    ),
    (
        "settings",
        "podlane-loader",
        "runs with [loader] mtu 1450, the settings say 1400",
        put("files/settings.json", "loader", "mtu", to=1400),
    ),
    (
        "settings",
        "podlane-ipam",
        "runs with the ranges ['10.44.0.0/24', 'fd00:44::/112'] in pool default, the settings say ['10.45.0.0/24']",
        put("files/settings.json", "ipam", "pools", 0, "ranges", to=["10.45.0.0/24"]),
    ),
    (
        "settings",
        "podlane-loader",
        "doesn't know pods' ranges fd00:44::/112, which ipam gives addresses of",
        put("loader/node.json", "config", "pod_cidrs", to=["10.44.0.0/24"]),
    ),
    (
        "conflist",
        _CONFLIST,
        "has ipamSocket /run/ipam.sock, the settings say /run/podlane/ipam/ipam.sock",
        put("files/cni.json", _CONFLIST, "plugins", 0, "ipamSocket", to="/run/ipam.sock"),
    ),
    (
        "conflist",
        _CONFLIST,
        "is no JSON: line 1",
        put("files/cni.json", _CONFLIST, to={"unreadable": "line 1", "text": "{"}),
    ),
    (
        "controllers",
        "controller node/ipam-one",
        "fails, 3 times since it last succeeded: no route",
        both(
            put("services/ipam-controllers.json", 0, "state", to="failing"),
            put(
                "services/ipam-controllers.json",
                0,
                "status",
                to={"consecutive_failure_count": 3, "last_error": "no route"},
            ),
        ),
    ),
    (
        "kvstore",
        "kvstore",
        "doesn't answer: refused",
        lambda m: m[_KVSTORE[0]]["kvstore"].update(reachable=False, error="refused"),
    ),
    ("kvstore", "kvstore member e:1", "no leader", put(*_KVSTORE, "members", 0, "error", to="no leader")),
    (
        "kvstore",
        "kvstore",
        "this node isn't registered: taken",
        put("endpoint/cluster.json", "registration_error", to="taken"),
    ),
    (
        "kvstore",
        "kvstore",
        "key x makes no sense",
        put("endpoint/cluster.json", "problems", to=["key x makes no sense"]),
    ),
    ("kvstore", WEB0, "other nodes don't know its identity yet", put("endpoint/cluster.json", "provisional", to=[1])),
    (
        "journal",
        "deletion a.json",
        "has waited for 700 s",
        add("endpoint/deletions.json", what={"file": "a.json", "journalled": time_text(NOW - 700), "last_error": ""}),
    ),
    (
        "journal",
        "deletion a.json",
        "isn't carried out: ipam is down",
        add(
            "endpoint/deletions.json",
            what={"file": "a.json", "journalled": time_text(NOW), "last_error": "ipam is down"},
        ),
    ),
    (
        "drops",
        DB0,
        "4 packets were dropped (ingress): endpoint not ready",
        add(
            "loader/maps/metrics.json",
            what={"endpoint_id": 2, "direction": "ingress", "reason": "endpoint not ready", "packets": 4, "bytes": 1},
        ),
    ),
    (
        "endpoint-state",
        WEB0,
        "is regenerating and waits for a permit",
        both(everywhere("state", "regenerating"), everywhere("waiting_for", "a permit")),
    ),
    (
        "endpoint-state",
        WEB0,
        "isn't healthy: its policy is too large",
        put("endpoint/endpoints.json", 0, "health", "reasons", to=["its policy is too large"]),
    ),
    ("endpoint-check", WEB0, "eth0 is down", put("endpoint/checks.json", "1", to=["eth0 is down"])),
    ("link", WEB0, f"the loader has no link for it; it stands on {WEB.ifname}", drop("loader/links.json", 0)),
    (
        "link",
        WEB0,
        "ifindex is 11 to the endpoint and 99 to the loader",
        put("loader/links.json", 0, "link", "host_ifindex", to=99),
    ),
    ("link", WEB0, f"link {WEB.ifname}: MTU is 9000", put("loader/links.json", 0, "problems", to=["MTU is 9000"])),
    ("datapath", WEB0, "the loader has no record of its datapath", drop("loader/datapaths.json", 0)),
    (
        "datapath",
        WEB0,
        "generation is 1 to the endpoint and 9 to its programs",
        put("loader/datapaths.json", 0, "generation", to=9),
    ),
    (
        "datapath",
        WEB0,
        "identity is 300 to the endpoint and 9 to its programs",
        put("loader/datapaths.json", 0, "identity", to=9),
    ),
    ("datapath", WEB0, "datapath: no slot", put("loader/datapaths.json", 0, "problems", to=["no slot"])),
    (
        "endpoint-map",
        WEB0,
        "the endpoint map has no entry for 10.44.0.2: nobody reaches it",
        drop("loader/maps/endpoints.json", 0),
    ),
    (
        "endpoint-map",
        WEB0,
        "the endpoint map has ifindex 99 at 10.44.0.2; it is 11",
        put("loader/maps/endpoints.json", 0, "ifindex", to=99),
    ),
    (
        "endpoint-map",
        WEB0,
        "the endpoint map has identity 9 at 10.44.0.2; it is 300",
        put("loader/maps/endpoints.json", 0, "identity", to=9),
    ),
    (
        "endpoint-map",
        WEB0,
        f"the endpoint map has MAC of the pod {ELSE} at fd00:44::2; it is {WEB.pod_mac}",
        put("loader/maps/endpoints.json", 1, "pod_mac", to=ELSE),
    ),
    (
        "call-policy",
        WEB0,
        "its slot of call_policy is empty: packets to it are dropped",
        drop("loader/maps/call_policy.json", 0),
    ),
    (
        "call-policy",
        WEB0,
        "its slot of call_policy has program 9, its policy program is 101",
        put("loader/maps/call_policy.json", 0, "program_id", to=9),
    ),
    ("policy-map", DB0, "it has no policy map", drop("loader/maps/policy.json", "2")),
    (
        "policy-map",
        DB0,
        f"its policy map has 3 entries with digest {{}}, the loader says {DB.digest}",
        add("loader/maps/policy.json", "2", what={"entry": {"direction": "ingress", **ALL, "protocol": 17}}),
    ),
    (
        "policy-map",
        WEB0,
        "no policy isolates it (ingress), and its policy map doesn't allow everything there",
        both(drop("loader/maps/policy.json", "1", 0), put("loader/datapaths.json", 0, "policy_digest", to=None)),
    ),
    (
        "regeneration",
        WEB0,
        "it isn't in force as it should be: policy map policy_1: 1 entries written",
        put("endpoint/regeneration.json", 0, "changes", to=["policy map policy_1: 1 entries written"]),
    ),
    (
        "identities",
        DB0,
        "nobody knows its identity 301",
        drop("endpoint/identities.json", 1),
    ),
    (
        "identities",
        WEB0,
        "identity 300 has the endpoints [] and not this one",
        put("endpoint/identities.json", 0, "endpoints", to=[]),
    ),
    (
        "identities",
        DB0,
        "its policy map has a rule for identity 302, which nobody knows",
        both(
            add("loader/maps/policy.json", "2", what={"entry": {"direction": "ingress", **ALL, "identity": 302}}),
            put("loader/datapaths.json", 1, "policy_digest", to=None),
        ),
    ),
    (
        "ipcache",
        WEB0,
        "the ipcache has its address 10.44.0.2 as another node's, with identity 7",
        add("loader/maps/ipcache.json", what={"address": "10.44.0.2", "identity": 7}),
    ),
    (
        "allocation",
        WEB0,
        "ipam holds nothing for it; it has 10.44.0.2, fd00:44::2",
        both(drop("ipam/allocations.json", 0), drop("files/ipam.json", "allocations", 0)),
    ),
    (
        "allocation",
        WEB0,
        "its addresses are only reserved: they will be taken back",
        both(
            put("ipam/allocations.json", 0, "state", to="reserved"),
            put("ipam/allocations.json", 0, "endpoint_id", to=0),
            put("files/ipam.json", "allocations", 0, "confirmed", to=None),
            put("files/ipam.json", "allocations", 0, "endpoint_id", to=0),
        ),
    ),
    (
        "allocation",
        WEB0,
        "ipam holds its addresses for endpoint 9",
        both(
            put("ipam/allocations.json", 0, "endpoint_id", to=9),
            put("files/ipam.json", "allocations", 0, "endpoint_id", to=9),
        ),
    ),
    (
        "allocation",
        WEB0,
        "10.44.0.2 is in no range of its pool default",
        both(
            put(*_POOL, "prefix", to="10.46.0.0/24"),
            put("files/settings.json", "ipam", "pools", 0, "ranges", to=["10.46.0.0/24", "fd00:44::/112"]),
            put("loader/node.json", "config", "pod_cidrs", to=["10.46.0.0/24", "fd00:44::/112"]),
            both(drop("endpoint/endpoints.json", 1), drop("endpoint/after.json", 1), _forget_db),
        ),
    ),
    (
        "ipam-database",
        WEB0,
        "ipam says 10.44.0.2, fd00:44::2 confirmed by endpoint 1, its database nothing",
        drop("files/ipam.json", "allocations", 0),
    ),
    (
        "addresses-twice",
        "address 10.44.0.2",
        f"belongs to {WEB0} and to device eth7",
        add("kernel/ip/addresses.json", what=device("eth7", 7, ELSE, ("10.44.0.2",))),
    ),
    ("pools", "pool default", "a range is lost", put("ipam/pools.json", 0, "problems", to=["a range is lost"])),
    (
        "pools",
        "pool default",
        "all 253 addresses of 10.44.0.0/24 are used: no pod gets one",
        put(*_POOL, "used", to=253),
    ),
    (
        "pools",
        "pool other",
        "its range 10.44.0.128/25 overlaps 10.44.0.0/24 of pool default",
        both(
            add(
                "ipam/pools.json",
                what={
                    "name": "other",
                    "problems": [],
                    "cluster": True,
                    "delegated": True,
                    "ranges": [{"prefix": "10.44.0.128/25", "size": 126, "used": 0}],
                },
            ),
        ),
    ),
    ("published", WEB0, "it isn't published in the kvstore", drop("endpoint/endpoints.json", 0, "published")),
    ("published", WEB0, "the kvstore has identity 9 of it; it is 300", published(identity={"id": 9})),
    ("published", WEB0, "the kvstore has node node-2 of it; it is node-1", published(node="node-2")),
    ("published-addresses", WEB0, "other nodes aren't told whose 10.44.0.2 is", drop("endpoint/kvstore.json", 0)),
    (
        "published-addresses",
        WEB0,
        "other nodes are told that 10.44.0.2 is endpoint 1 with identity 9; it is 300",
        put("endpoint/kvstore.json", 0, "value", to=json.dumps({"endpoint": 1, "identity": 9})),
    ),
    (
        "published-addresses",
        "address 10.44.0.9",
        "is published as endpoint 9's, which isn't there",
        add("endpoint/kvstore.json", what={"key": "podlane/state/ip/v1/10.44.0.9", "value": '{"endpoint": 9}'}),
    ),
    (
        "host-end",
        WEB0,
        f"the kernel has no {WEB.ifname}, which it stands on",
        both(drop("kernel/ip/addresses.json", 0)),
    ),
    ("host-end", WEB0, f"{WEB.ifname} is down", put("kernel/ip/addresses.json", 0, "flags", to=[])),
    (
        "host-end",
        WEB0,
        f"{WEB.ifname} has MTU 9000, recorded is 1500",
        put("kernel/ip/addresses.json", 0, "mtu", to=9000),
    ),
    (
        "host-end",
        WEB0,
        f"{WEB.ifname} has MAC {ELSE}, recorded is {WEB.host_mac}",
        put("kernel/ip/addresses.json", 0, "address", to=ELSE),
    ),
    ("host-end", WEB0, f"the node has no route to 10.44.0.2 by {WEB.ifname}", drop("kernel/ip/routes4.json", 0)),
    (
        "host-end",
        WEB0,
        f"the node's neighbour fd00:44::2 has MAC none, the pod has {WEB.pod_mac}",
        drop("kernel/ip/neighbours.json", 1),
    ),
    (
        "programs-attached",
        WEB0,
        f"tc ingress of {WEB.ifname} has no program, recorded is from_container (100)",
        put("kernel/ip/filters.json", WEB.ifname, "ingress", to=[]),
    ),
    (
        "programs-attached",
        WEB0,
        f"tc egress of {WEB.ifname} has programs [9], recorded is to_container (102)",
        put("kernel/ip/filters.json", WEB.ifname, "egress", 1, "options", "prog", "id", to=9),
    ),
    ("pod-end", WEB0, "there is no eth0 in its namespace", put(_INSIDE, "addresses", to=[])),
    ("pod-end", WEB0, "eth0 hasn't the address 10.44.0.2 inside", drop(_INSIDE, "addresses", 0, "addr_info", 0)),
    (
        "pod-end",
        WEB0,
        f"eth0 has MAC {ELSE} inside, recorded is {WEB.pod_mac}",
        put(_INSIDE, "addresses", 0, "address", to=ELSE),
    ),
    ("pod-end", WEB0, "eth0 is down inside", put(_INSIDE, "addresses", 0, "flags", to=[])),
    ("pod-end", WEB0, "eth0 has MTU 9000 inside, recorded is 1500", put(_INSIDE, "addresses", 0, "mtu", to=9000)),
    ("pod-end", WEB0, "there is no route to default by 10.44.0.1 inside, over eth0", drop(_INSIDE, "routes4", 0)),
    ("pod-end", WEB0, "there is no route to fd00:44::1 inside, over eth0", drop(_INSIDE, "routes6", 1)),
    ("pod-end", WEB0, "its gateway 10.44.0.1 doesn't answer it", put(_INSIDE, "neighbours", 0, "state", to=["FAILED"])),
    (
        "pod-end",
        WEB0,
        f"another namespace: 5 is at /run/netns/web-0, its own is {WEB.inode}",
        put(_INSIDE, "netns_inode", to=5),
    ),
    (
        "pod-end",
        WEB0,
        "its namespace /run/netns/web-0 can't be looked at: no such file",
        put(_INSIDE, "error", to="no such file"),
    ),
    (
        "forwarding",
        "sysctl net/ipv4/ip_forward",
        "is 0: pods' IPv4 packets leave the node for nowhere",
        put("kernel/sysctls.json", "net/ipv4/ip_forward", to="0"),
    ),
    (
        "forwarding",
        "chain FORWARD",
        "its policy is DROP, and it doesn't accept what 10.44.0.0/24 sends: pods don't reach the world",
        lambda members: members.update({"kernel/iptables.txt": "*filter\n:FORWARD DROP [0:0]\nCOMMIT\n"}),
    ),
    (
        "reverse-path",
        "sysctl net/ipv4/conf/all/rp_filter",
        "is 1, which holds for pods' devices, too, where podlane has set 0",
        put("kernel/sysctls.json", "net/ipv4/conf/all/rp_filter", to="1"),
    ),
    (
        "reverse-path",
        WEB0,
        f"rp_filter of {WEB.ifname} is 1, podlane has set 0",
        put("kernel/sysctls.json", f"net/ipv4/conf/{WEB.ifname}/rp_filter", to="1"),
    ),
    (
        "mtu",
        "device eth1",
        "has MTU 1400, which leaves pods 1350 bytes; they get 1450",
        put("loader/node.json", "underlay", "mtu", to=1400),
    ),
    (
        "left-allocations",
        "allocation of shop/gone",
        "10.44.0.9 are confirmed for endpoint 9, which isn't there",
        add(
            "ipam/allocations.json",
            what=WEB.allocation
            | {
                "owner": _STRANGER,
                "endpoint_id": 9,
                "addresses": [{"address": "10.44.0.9/32"}],
                "pod": {"namespace": "shop", "name": "gone"},
            },
        ),
    ),
    (
        "left-allocations",
        "allocation of shop/gone",
        "the reservation of 10.44.0.9 expired 100 s ago and is still there",
        add(
            "ipam/allocations.json",
            what=WEB.allocation
            | {
                "owner": _STRANGER,
                "endpoint_id": 0,
                "addresses": [{"address": "10.44.0.9/32"}],
                "state": "reserved",
                "expires": time_text(NOW - 100),
                "pod": {"namespace": "shop", "name": "gone"},
            },
        ),
    ),
    (
        "left-links",
        "link lxcffffffffffff",
        "no endpoint stands on it",
        add(
            "loader/links.json",
            what={
                "link": WEB.link | {"attachment": _STRANGER, "host_ifname": "lxcffffffffffff"},
                "problems": [],
                "idle_seconds": 300,
            },
        ),
    ),
    (
        "left-links",
        "device lxcffffffffffff",
        "the loader has no record of it",
        add("kernel/ip/addresses.json", what=device("lxcffffffffffff", 7, ELSE)),
    ),
    (
        "left-datapaths",
        "datapath 9",
        "there is no endpoint of that id",
        add("loader/datapaths.json", what=WEB.datapath | {"id": 9}),
    ),
    ("left-pins", "pin maps/policy_9", "there is no endpoint 9", add("kernel/bpf/pins.json", what="maps/policy_9")),
    ("left-pins", "pin links/9", "there is no endpoint 9", add("kernel/bpf/pins.json", what="links/9/ingress")),
    (
        "left-directories",
        "state directory 9",
        "there is no endpoint 9",
        put("files/state.json", "9/ep_config.h", to=""),
    ),
    (
        "failed-builds",
        WEB0,
        "its last build failed: R1 is scary",
        put("files/state.json", "1_next_fail/verifier.log", to="line 1\nR1 is scary\n"),
    ),
    (
        "garbage",
        "endpoint 9",
        "`podlane gc` would remove it: its link is gone",
        add(
            "endpoint/garbage.json", what={"object": "endpoint 9", "action": "remove", "evidence": ["its link is gone"]}
        ),
    ),
]


def test_a_healthy_report_contradicts_nothing():
    assert found(healthy()) == []


@pytest.mark.parametrize(
    ("check", "object_", "problem", "change"), CASES, ids=[f"{n}-{case[0]}" for n, case in enumerate(CASES)]
)
def test_one_thing_changed_is_found_by_its_check_alone(check: str, object_: str, problem: str, change: Change):
    members = healthy()
    change(members)

    (only,) = found(members)

    assert only[:2] == (check, object_)
    assert re.fullmatch(re.escape(problem).replace(r"\{\}", "[0-9a-f]{32}"), only[2]), only[2]


def test_there_is_a_case_for_each_check_and_the_page_has_them_all():
    assert {case[0] for case in CASES} == set(checks.CHECKS)
    listed = re.findall(r"^\| `([a-z-]+)` \| (.*) \|$", DOCS.read_text(), re.MULTILINE)
    assert listed == [
        (name, " ".join((check.__doc__ or "").split()).removesuffix(".")) for name, check in checks.CHECKS.items()
    ]


@pytest.mark.parametrize("member", [name for name in healthy() if name != "manifest.json"])
def test_what_was_not_collected_contradicts_nothing(member: str):
    members = healthy()
    del members[member]

    assert found(members) == []


def test_without_services_the_files_tell_the_same():
    members = {
        name: content for name, content in healthy().items() if name.startswith(("files/", "kernel/", "pods/", "mani"))
    }
    assert [one.title for one in report(members).settled] == [WEB0, DB0]
    assert found(members) == []

    members["files/ipam.json"]["allocations"][0]["endpoint_id"] = 9
    members["files/state.json"]["2/endpoint.json"]["identity"] = 5

    assert {(check, object_) for check, object_, _ in found(members)} == {("allocation", WEB0), ("datapath", DB0)}


def test_who_came_or_went_meanwhile_contradicts_nothing():
    members = healthy()
    # db-0 was deleted after the first list; of web-0's successor only the second list knows.
    members["endpoint/after.json"] = [
        members["endpoint/after.json"][0],
        WEB.endpoint
        | {
            "id": 3,
            "generation": 3,
            "attachment": _STRANGER,
            "state": "regenerating",
        },
    ]
    members["files/endpoint.json"]["endpoints"] = []
    members["loader/maps/endpoints.json"] = [
        one for one in members["loader/maps/endpoints.json"] if one["endpoint_id"] != 2
    ]
    members["ipam/allocations.json"] = [
        WEB.allocation,
        WEB.allocation
        | {
            "owner": _STRANGER,
            "endpoint_id": 3,
            "addresses": [{"address": "10.44.0.9/32"}],
        },
    ]
    members["loader/datapaths.json"].append(WEB.datapath | {"id": 3})
    members["kernel/bpf/pins.json"].append("maps/policy_3")

    assert found(members) == []


def test_a_chained_endpoint_is_held_against_nothing_of_ipam_and_no_route():
    members = healthy()
    for one in (members["endpoint/endpoints.json"][0], members["endpoint/after.json"][0]):
        one["link"] = one["link"] | {"chained": True}
    del members["ipam/allocations.json"][0]
    del members["files/ipam.json"]["allocations"][0]
    del members["kernel/ip/routes4.json"][0]
    members["kernel/ip/neighbours.json"] = members["kernel/ip/neighbours.json"][2:]
    members["endpoint/kvstore.json"] = members["endpoint/kvstore.json"][2:]

    assert found(members) == []


def test_a_check_that_cannot_read_its_part_is_told_and_the_others_are_made():
    members = healthy()
    members["loader/maps/call_policy.json"] = {"slots": "of a later format"}
    members["services/health.json"][0]["health"] = "down"

    findings, skipped = checks.run(report(members))

    assert [name for name, _ in skipped] == ["call-policy"]
    assert [one.check for one in findings] == ["services"]
