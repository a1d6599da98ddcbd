"""A report of a healthy node with two pods, made by hand: what tests change one thing of.

`healthy()` returns decoded members by name. All times are relative to NOW.
"""

import json
from datetime import UTC, datetime
from typing import Any

from cli.report import load
from cli.report.model import Report
from services.common import policydigest
from services.common.model import Attachment

NODE = "node-1"
NOW = 1_800_000_000.0
RANGES = ("10.44.0.0/24", "fd00:44::/112")
GATEWAYS = ("10.44.0.1", "fd00:44::1")
ALL = {"identity": 0, "protocol": 0, "port": 0, "port_prefix_length": 0, "deny": False}


def time_text(seconds: float) -> str:
    """Return a time as messages have it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Pod:
    """What one pod is made of."""

    def __init__(self, id_: int, name: str, identity: int, ingress: tuple[str, ...] = ()) -> None:
        """Derive all of it from the id."""
        self.id, self.name, self.identity, self.ingress = id_, name, identity, ingress
        self.owner = Attachment("podlane", f"{id_:064x}", "eth0")
        self.ifname, self.ifindex = self.owner.host_ifname(), 10 + id_
        self.addresses = (f"10.44.0.{id_ + 1}", f"fd00:44::{id_ + 1:x}")
        self.host_mac, self.pod_mac = f"0a:00:00:00:00:{id_:02x}", f"0a:00:00:00:01:{id_:02x}"
        self.inode = 4_026_530_000 + id_
        self.programs = {"from_container": 100 * id_, "policy": 100 * id_ + 1, "to_container": 100 * id_ + 2}

    @property
    def attachment(self) -> dict[str, str]:
        """As messages have it."""
        return {"network": self.owner.network, "container_id": self.owner.container_id, "ifname": self.owner.ifname}

    @property
    def assigned(self) -> list[dict[str, str]]:
        """Its addresses as messages have them."""
        lengths = (32, 128)
        return [
            {"address": f"{address}/{length}", "gateway": gateway, "range": range_}
            for address, length, gateway, range_ in zip(self.addresses, lengths, GATEWAYS, RANGES, strict=True)
        ]

    @property
    def link(self) -> dict[str, Any]:
        """Its link as messages have it."""
        return {
            "attachment": self.attachment,
            "host_ifname": self.ifname,
            "host_ifindex": self.ifindex,
            "host_mac": self.host_mac,
            "pod_mac": self.pod_mac,
            "netns_path": f"/run/netns/{self.name}",
            "mtu": 1500,
            "pod_ifindex": 2,
            "netns_inode": self.inode,
            "up": True,
            "chained": False,
        }

    @property
    def endpoint(self) -> dict[str, Any]:
        """Its endpoint as GetEndpoint answers."""
        return {
            "id": self.id,
            "generation": self.id,
            "attachment": self.attachment,
            "pod": {"namespace": "shop", "name": self.name, "uid": ""},
            "state": "ready",
            "addresses": self.assigned,
            "link": self.link,
            "labels": {"app": self.name},
            "identity": self.identity,
            "created": time_text(NOW - 600),
            "waiting_for": "",
            "health": {"overall": "ok", "reasons": []},
            "published": {"key": self.key, "value": json.dumps(self.record), "revision": self.id},
            "ingress_policies": list(self.ingress),
            "egress_policies": [],
            "policy_error": "",
        }

    @property
    def key(self) -> str:
        """Of its record in the kvstore."""
        return f"podlane/state/endpoints/v1/{NODE}/{self.id}"

    @property
    def record(self) -> dict[str, Any]:
        """Its record in the kvstore."""
        identity = {"id": self.identity, "labels": {}}
        return {
            "id": self.id,
            "generation": self.id,
            "node": NODE,
            "identity": identity,
            "addresses": list(self.addresses),
        }

    @property
    def rules(self) -> list[dict[str, Any]]:
        """Its policy map's entries."""
        ingress = ALL | (
            {"identity": 300, "protocol": 6, "port": 5432, "port_prefix_length": 16} if self.ingress else {}
        )
        return [{"direction": "ingress", **ingress}, {"direction": "egress", **ALL}]

    @property
    def digest(self) -> str:
        """That of its policy map."""
        keys = ("identity", "protocol", "port", "port_prefix_length", "deny")
        numbers = {"ingress": 1, "egress": 2}
        return policydigest.digest((numbers[one["direction"]], *(one[key] for key in keys)) for one in self.rules).hex()

    @property
    def datapath(self) -> dict[str, Any]:
        """As ListEndpointDatapaths answers."""
        hooks = {"from_container": "tc ingress", "policy": f"call_policy[{self.id}]", "to_container": "tc egress"}
        return {
            "id": self.id,
            "generation": self.id,
            "programs": [{"name": name, "id": id_, "hook": hooks[name]} for name, id_ in self.programs.items()],
            "host_ifname": self.ifname,
            "host_ifindex": self.ifindex,
            "reachable": True,
            "policy_entries": len(self.rules),
            "problems": [],
            "attachment": self.attachment,
            "policy_digest": self.digest,
            "identity": self.identity,
        }

    @property
    def map_entries(self) -> list[dict[str, Any]]:
        """Its entries of the endpoint map."""
        return [
            {
                "address": address,
                "endpoint_id": self.id,
                "ifindex": self.ifindex,
                "pod_mac": self.pod_mac,
                "host_mac": self.host_mac,
                "identity": self.identity,
            }
            for address in self.addresses
        ]

    @property
    def allocation(self) -> dict[str, Any]:
        """As ipam has it."""
        return {
            "owner": self.attachment,
            "pod": {"namespace": "shop", "name": self.name, "uid": ""},
            "pool": "default",
            "addresses": self.assigned,
            "state": "confirmed",
            "created": time_text(NOW - 600),
            "confirmed": time_text(NOW - 599),
            "endpoint_id": self.id,
        }

    @property
    def row(self) -> dict[str, Any]:
        """Its row in ipam's database."""
        return {
            **self._names,
            "pool": "default",
            "ipv4": self.addresses[0],
            "ipv6": self.addresses[1],
            "expires": None,
            "confirmed": NOW - 599,
            "endpoint_id": self.id,
        }

    @property
    def endpoint_row(self) -> dict[str, Any]:
        """Its row in the endpoint service's database."""
        link = {key: value for key, value in self.link.items() if key not in {"attachment", "up", "chained"}}
        return {
            "id": self.id,
            "generation": self.id,
            **self._names,
            **link,
            "identity": self.identity,
            "stage": "created",
            "chained": 0,
        }

    @property
    def address_rows(self) -> list[dict[str, Any]]:
        """Its addresses in the endpoint service's database."""
        return [
            {"endpoint_id": self.id, "address": address, "gateway": gateway}
            for address, gateway in zip(self.addresses, GATEWAYS, strict=True)
        ]

    @property
    def _names(self) -> dict[str, str]:
        pod = {"pod_namespace": "shop", "pod_name": self.name, "pod_uid": ""}
        return {**self.attachment, **pod}

    @property
    def link_record(self) -> dict[str, Any]:
        """The loader's, on disk."""
        routes = [
            ["10.44.0.1/32", "", 0],
            ["fd00:44::1/128", "", 0],
            ["0.0.0.0/0", GATEWAYS[0], 0],
            ["::/0", GATEWAYS[1], 0],
        ]
        keys = ("netns_path", "netns_inode", "host_ifindex", "host_mac", "pod_mac", "mtu")
        return {
            "attachment": list(self.attachment.values()),
            **{key: self.link[key] for key in keys},
            "asked": {"routes": routes},
        }

    @property
    def inside(self) -> dict[str, Any]:
        """What is in its namespace."""
        return {
            "netns_path": self.link["netns_path"],
            "netns_inode": self.inode,
            "addresses": [device("eth0", 2, self.pod_mac, self.addresses)],
            "routes4": [{"dst": "default", "gateway": GATEWAYS[0], "dev": "eth0"}, {"dst": GATEWAYS[0], "dev": "eth0"}],
            "routes6": [{"dst": "default", "gateway": GATEWAYS[1], "dev": "eth0"}, {"dst": GATEWAYS[1], "dev": "eth0"}],
            "rules": [],
            "neighbours": [{"dst": GATEWAYS[0], "dev": "eth0", "lladdr": self.host_mac, "state": ["REACHABLE"]}],
        }


def device(name: str, index: int, mac: str, addresses: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return a device as `ip -j addr` shows it."""
    info = [{"local": one} for one in addresses]
    return {"ifname": name, "ifindex": index, "address": mac, "mtu": 1500, "flags": ["UP"], "addr_info": info}


def program(id_: int) -> list[dict[str, Any]]:
    """Return a filter as `tc -j filter` shows it."""
    return [{"kind": "bpf"}, {"kind": "bpf", "options": {"prog": {"id": id_}}}]


def controller(name: str) -> dict[str, Any]:
    """Return a controller that succeeds."""
    status = {"consecutive_failure_count": 0, "last_error": ""}
    return {"resource": "node", "name": name, "state": "ok", "status": status}


WEB, DB = Pod(1, "web-0", 300), Pod(2, "db-0", 301, ("shop/db",))
PODS = (WEB, DB)


def healthy() -> dict[str, Any]:
    """Return the members, new ones each time."""
    run = "/run/podlane"
    services = ("loader", "ipam", "endpoint")
    sockets = {name: f"{run}/{name}/{name}.sock" for name in services}
    journal = "/var/lib/podlane/deletions"
    members: dict[str, Any] = {
        "manifest.json": {
            "format": "1.0",
            "podlane": "0.1.0",
            "node": NODE,
            "created": "2027-01-15T08:00:00Z",
            "created_seconds": NOW,
            "failed": [],
        },
        "services/health.json": [{"service": name, "health": "serving"} for name in services],
        "endpoint/endpoints.json": [pod.endpoint for pod in PODS],
        "endpoint/after.json": [
            {key: value for key, value in pod.endpoint.items() if key != "published"} for pod in PODS
        ],
        "endpoint/checks.json": {str(pod.id): [] for pod in PODS},
        "endpoint/regeneration.json": [{"id": pod.id, "reload_reason": "", "changes": [], "error": ""} for pod in PODS],
        "endpoint/garbage.json": [],
        "endpoint/deletions.json": [],
        "endpoint/identities.json": [{"id": pod.identity, "endpoints": [pod.id]} for pod in PODS],
        "endpoint/cluster.json": {
            "kvstore": {"kind": "etcd", "reachable": True, "error": "", "members": [{"endpoint": "e:1", "error": ""}]},
            "node": NODE,
            "registration_error": "",
            "routing": "overlay",
            "problems": [],
            "provisional": [],
        },
        "endpoint/kvstore.json": [
            {
                "key": f"podlane/state/ip/v1/{address}",
                "value": json.dumps({"node": NODE, "identity": pod.identity, "endpoint": pod.id}),
            }
            for pod in PODS
            for address in pod.addresses
        ],
        "ipam/allocations.json": [pod.allocation for pod in PODS],
        "ipam/pools.json": [
            {
                "name": "default",
                "problems": [],
                "cluster": False,
                "delegated": False,
                "ranges": [{"prefix": one, "size": 253, "used": 2} for one in RANGES],
            }
        ],
        "loader/node.json": {
            "config": {"pod_cidrs": list(RANGES), "masquerade": True, "routing": "overlay"},
            "attach_mode": "tc",
            "mtu": 1450,
            "underlay": {"device": "eth1", "address": "192.0.2.1", "mtu": 1500},
        },
        "loader/links.json": [{"link": pod.link, "problems": [], "idle_seconds": 600} for pod in PODS],
        "loader/datapaths.json": [pod.datapath for pod in PODS],
        "loader/maps/endpoints.json": [
            *(entry for pod in PODS for entry in pod.map_entries),
            *({"address": one, "endpoint_id": 0, "ifindex": 0, "identity": 1} for one in GATEWAYS),
        ],
        "loader/maps/call_policy.json": [{"endpoint_id": pod.id, "program_id": pod.programs["policy"]} for pod in PODS],
        "loader/maps/policy.json": {
            str(pod.id): [{"entry": one, "packets": 0, "bytes": 0} for one in pod.rules] for pod in PODS
        },
        "loader/maps/metrics.json": [
            {"endpoint_id": 1, "direction": "egress", "reason": "link local noise", "packets": 6, "bytes": 596}
        ],
        "loader/maps/ipcache.json": [{"address": "10.44.1.2", "identity": 300}],
        "files/settings.json": {
            "node": {"name": NODE},
            "ipam": {
                "socket": sockets["ipam"],
                "pools": [{"name": "default", "ranges": list(RANGES), "cluster_ranges": []}],
            },
            "loader": {"socket": sockets["loader"], "attach_mode": "tc", "mtu": 0, "masquerade": True},
            "endpoint": {"socket": sockets["endpoint"], "journal_dir": journal, "gc_grace_seconds": 120.0},
        },
        "files/ipam.json": {"allocations": [pod.row for pod in PODS]},
        "files/endpoint.json": {
            "endpoints": [pod.endpoint_row for pod in PODS],
            "addresses": [row for pod in PODS for row in pod.address_rows],
        },
        "files/state.json": {
            **{f"{pod.id}/endpoint.json": _record(pod) for pod in PODS},
            **{f"links/{pod.ifname}.json": pod.link_record for pod in PODS},
            "globals/node.json": {},
        },
        "files/cni.json": {
            "/etc/cni/net.d/10-podlane.conflist": {
                "plugins": [
                    {"type": "podlane", **{f"{name}Socket": sockets[name] for name in services}, "journalDir": journal}
                ]
            }
        },
        "kernel/ip/addresses.json": [
            *(device(pod.ifname, pod.ifindex, pod.host_mac) for pod in PODS),
            device("podlane_host", 3, "0a:00:00:00:00:ff", GATEWAYS),
        ],
        "kernel/ip/routes4.json": [{"dst": pod.addresses[0], "dev": pod.ifname} for pod in PODS],
        "kernel/ip/routes6.json": [{"dst": pod.addresses[1], "dev": pod.ifname} for pod in PODS],
        "kernel/ip/neighbours.json": [
            {"dst": address, "dev": pod.ifname, "lladdr": pod.pod_mac} for pod in PODS for address in pod.addresses
        ],
        "kernel/ip/filters.json": {
            pod.ifname: {
                "ingress": program(pod.programs["from_container"]),
                "egress": program(pod.programs["to_container"]),
            }
            for pod in PODS
        },
        "kernel/bpf/pins.json": ["maps", "maps/podlane_endpoints", *(f"maps/policy_{pod.id}" for pod in PODS)],
        "kernel/sysctls.json": {
            "net/ipv4/ip_forward": "1",
            "net/ipv6/conf/all/forwarding": "1",
            "net/ipv4/conf/all/rp_filter": "0",
            **{f"net/ipv4/conf/{pod.ifname}/rp_filter": "0" for pod in PODS},
        },
        "kernel/iptables.txt": "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\nCOMMIT\n",
    }
    for name in services:
        members[f"services/{name}-controllers.json"] = [controller(f"{name}-one")]
        members[f"services/{name}-metrics.txt"] = f'podlane_{name}_build_info{{version="0.1.0"}} 1.0\n'
    members |= {f"pods/{pod.ifname}.json": pod.inside for pod in PODS}
    return members


def _record(pod: Pod) -> dict[str, Any]:
    keys = ("id", "generation", "host_ifname", "host_ifindex", "identity", "programs")
    return {"attachment": list(pod.attachment.values()), **{key: pod.datapath[key] for key in keys}}


def report(members: dict[str, Any]) -> Report:
    """Return the report that checks are run over."""
    return load.of(members, "test")
