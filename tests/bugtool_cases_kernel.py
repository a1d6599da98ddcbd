"""Cases about the kernel, and what is left behind: the check, its object, the problem, and what was changed."""

from tests.bugtool_changes import ELSE, INSIDE, STRANGER, WEB0, Case, add, both, drop, put
from tests.report_support import NOW, WEB, device, time_text

KERNEL: list[Case] = [
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
    ("pod-end", WEB0, "there is no eth0 in its namespace", put(INSIDE, "addresses", to=[])),
    ("pod-end", WEB0, "eth0 hasn't the address 10.44.0.2 inside", drop(INSIDE, "addresses", 0, "addr_info", 0)),
    (
        "pod-end",
        WEB0,
        f"eth0 has MAC {ELSE} inside, recorded is {WEB.pod_mac}",
        put(INSIDE, "addresses", 0, "address", to=ELSE),
    ),
    ("pod-end", WEB0, "eth0 is down inside", put(INSIDE, "addresses", 0, "flags", to=[])),
    ("pod-end", WEB0, "eth0 has MTU 9000 inside, recorded is 1500", put(INSIDE, "addresses", 0, "mtu", to=9000)),
    ("pod-end", WEB0, "there is no route to default by 10.44.0.1 inside, over eth0", drop(INSIDE, "routes4", 0)),
    ("pod-end", WEB0, "there is no route to fd00:44::1 inside, over eth0", drop(INSIDE, "routes6", 1)),
    ("pod-end", WEB0, "its gateway 10.44.0.1 doesn't answer it", put(INSIDE, "neighbours", 0, "state", to=["FAILED"])),
    (
        "pod-end",
        WEB0,
        f"another namespace: 5 is at /run/netns/web-0, its own is {WEB.inode}",
        put(INSIDE, "netns_inode", to=5),
    ),
    (
        "pod-end",
        WEB0,
        "its namespace /run/netns/web-0 can't be looked at: no such file",
        put(INSIDE, "error", to="no such file"),
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
                "owner": STRANGER,
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
                "owner": STRANGER,
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
                "link": WEB.link | {"attachment": STRANGER, "host_ifname": "lxcffffffffffff"},
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
