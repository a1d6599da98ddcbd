"""Cases about the services and the node: the check, its object, the problem, and what was changed."""

from tests.bugtool_changes import CONFLIST, DB0, KVSTORE, WEB0, Case, add, both, put
from tests.report_support import NOW, time_text

NODE: list[Case] = [
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
        CONFLIST,
        "has ipamSocket /run/ipam.sock, the settings say /run/podlane/ipam/ipam.sock",
        put("files/cni.json", CONFLIST, "plugins", 0, "ipamSocket", to="/run/ipam.sock"),
    ),
    (
        "conflist",
        CONFLIST,
        "is no JSON: line 1",
        put("files/cni.json", CONFLIST, to={"unreadable": "line 1", "text": "{"}),
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
        lambda m: m[KVSTORE[0]]["kvstore"].update(reachable=False, error="refused"),
    ),
    ("kvstore", "kvstore member e:1", "no leader", put(*KVSTORE, "members", 0, "error", to="no leader")),
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
]
