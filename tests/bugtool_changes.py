"""What the cases of tests/unit/test_bugtool_checks.py do to a healthy report: values put, added and dropped."""

import json
from collections.abc import Callable
from typing import Any

from tests.report_support import WEB

Members = dict[str, Any]
Change = Callable[[Members], object]
Case = tuple[str, str, str, Change]
"""A check, its object, the problem that it tells, and the change that makes it."""

WEB0 = "endpoint 1 (shop/web-0)"
DB0 = "endpoint 2 (shop/db-0)"
ELSE = "0a:ff:ff:ff:ff:ff"


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


STRANGER = {"network": "podlane", "container_id": "f" * 64, "ifname": "eth0"}
KVSTORE = ("endpoint/cluster.json", "kvstore")
POOL = ("ipam/pools.json", 0, "ranges", 0)
CONFLIST = "/etc/cni/net.d/10-podlane.conflist"
INSIDE = f"pods/{WEB.ifname}.json"


def forget_db(members: Members) -> None:
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
