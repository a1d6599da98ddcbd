"""Cases about endpoints, their datapaths, addresses, keys: the check, its object, the problem, and what was changed."""

import json

from tests.bugtool_changes import DB0, ELSE, POOL, WEB0, Case, add, both, drop, everywhere, forget_db, published, put
from tests.report_support import ALL, DB, WEB, device

ENDPOINTS: list[Case] = [
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
            put(*POOL, "prefix", to="10.46.0.0/24"),
            put("files/settings.json", "ipam", "pools", 0, "ranges", to=["10.46.0.0/24", "fd00:44::/112"]),
            put("loader/node.json", "config", "pod_cidrs", to=["10.46.0.0/24", "fd00:44::/112"]),
            both(drop("endpoint/endpoints.json", 1), drop("endpoint/after.json", 1), forget_db),
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
        put(*POOL, "used", to=253),
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
]
