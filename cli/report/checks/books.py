"""Endpoint ↔ ipam ↔ kvstore: who has an address, by whose books."""

import json
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from typing import Any

from cli.report.checks.finding import Finding
from cli.report.load import seconds
from cli.report.model import Endpoint, Report
from cli.report.recorded import recorded_allocations

# Publishing waits for nothing and nobody waits for it.
_ON_ITS_WAY_SECONDS = 30.0


def allocation(report: Report) -> Iterator[Finding]:
    """An endpoint's addresses are confirmed for it, and in a range of their pool."""
    if report.allocations is None:
        return
    for one in report.settled:
        if one.link.chained:
            continue
        advice = f"`podlane endpoint check {one.id} --repair` claims them"
        held = report.allocations.get(one.owner)
        if held is None:
            yield Finding(one.title, f"ipam holds nothing for it; it has {', '.join(one.addresses)}", advice)
            continue
        if not held.confirmed:
            yield Finding(one.title, "its addresses are only reserved: they will be taken back", advice)
        elif held.endpoint_id != one.id:
            yield Finding(one.title, f"ipam holds its addresses for endpoint {held.endpoint_id}", advice)
        if set(held.addresses) != set(one.addresses):
            has = ", ".join(one.addresses)
            yield Finding(one.title, f"it has {has}, and ipam holds {', '.join(held.addresses)} for it", advice)
        yield from _in_pool(report, one, held.pool)


def _in_pool(report: Report, one: Endpoint, name: str) -> Iterator[Finding]:
    pools = report.get("ipam/pools.json")
    if pools is None:
        return
    pool = next((pool for pool in pools if pool["name"] == name), None)
    if pool is None:
        yield Finding(one.title, f"there is no pool {name}, which its addresses are of", "put it back in the settings")
    elif not pool["cluster"]:  # a cluster's claims may be lost, and pods keep their addresses
        ranges = [ip_network(part["prefix"]) for part in pool["ranges"]]
        for address in one.addresses:
            if not any(ip_address(address) in range_ for range_ in ranges):
                yield Finding(
                    one.title,
                    f"{address} is in no range of its pool {name}",
                    "the pool's ranges were changed in the settings",
                )


def database(report: Report) -> Iterator[Finding]:
    """What ipam says and what is in its database are the same, for endpoints that stood still."""
    recorded = recorded_allocations(report.members)
    if report.get("ipam/allocations.json") is None or recorded is None or report.allocations is None:
        return
    for one in report.settled:
        told, row = report.allocations.get(one.owner), recorded.get(one.owner)
        if told != row and not (told is not None and row is not None and _same(told, row)):
            yield Finding(
                one.title,
                f"ipam says {_words(told)}, its database {_words(row)}",
                "restarting podlane-ipam makes it believe its database; `podlane ipam audit` compares",
            )


def _same(told: Any, row: Any) -> bool:
    return (told.addresses, told.confirmed, told.endpoint_id) == (row.addresses, row.confirmed, row.endpoint_id)


def _words(held: Any) -> str:
    if held is None:
        return "nothing"
    state = f"confirmed by endpoint {held.endpoint_id}" if held.confirmed else "reserved"
    return f"{', '.join(held.addresses)} {state}"


def twice(report: Report) -> Iterator[Finding]:
    """No address is had twice: by endpoints, by allocations, or by a pod and the node."""
    holders: dict[str, list[str]] = {}
    for one in report.endpoints:
        for address in one.addresses if not one.link.chained else ():
            holders.setdefault(address, []).append(one.title)
    for held in (report.allocations or {}).values():
        for address in held.addresses:
            if held.owner not in report.owners:
                holders.setdefault(address, []).append(held.title)
    for device in (report.devices or {}).values():
        for address in device.addresses & set(holders):
            holders[address].append(f"device {device.ifname}")
    for address, those in sorted(holders.items()):
        if len(those) > 1:
            yield Finding(
                f"address {address}", f"belongs to {' and to '.join(those)}", "one of the pods is to be started again"
            )


def pools(report: Report) -> Iterator[Finding]:
    """Ranges have room, don't overlap, and are this node's."""
    seen: list[tuple[Any, str]] = []
    for pool in report.items("ipam/pools.json"):
        what = f"pool {pool['name']}"
        for problem in pool["problems"]:
            yield Finding(what, problem, "see `podlane ipam pools` and `podlane ipam claims`")
        for part in pool["ranges"]:
            range_ = ip_network(part["prefix"])
            for other, of in seen:
                if range_.version == other.version and range_.overlaps(other):
                    yield Finding(what, f"its range {range_} overlaps {other} of {of}", "change the settings")
            seen.append((range_, what))
            if part["used"] > part["size"]:
                yield Finding(what, f"{part['used']} addresses of {range_} are used, and it has {part['size']}", "")
            elif part["used"] == part["size"]:
                advice = "add a range to the settings; `podlane ipam list` shows who holds them"
                yield Finding(what, f"all {part['size']} addresses of {range_} are used: no pod gets one", advice)


def _late(report: Report, one: Endpoint) -> bool:
    created = one.told.get("created")
    return created is not None and report.created_seconds - seconds(created) > _ON_ITS_WAY_SECONDS


def _provisional(report: Report) -> set[int]:
    return set((report.get("endpoint/cluster.json") or {}).get("provisional", ()))


def published(report: Report) -> Iterator[Finding]:
    """An endpoint's record in the kvstore says what is true."""
    if report.get("endpoint/endpoints.json") is None:
        return
    for one in report.settled:
        advice = f"see the controllers of endpoint-{one.id}: `podlane controllers`"
        if one.published is None:
            if _late(report, one) and one.id not in _provisional(report):
                yield Finding(one.title, "it isn't published in the kvstore", advice)
            continue
        value = json.loads(one.published["value"])
        pairs = {
            "id": (one.id, value.get("id")),
            "generation": (one.generation, value.get("generation")),
            "identity": (one.identity, (value.get("identity") or {}).get("id")),
            "node": (report.node, value.get("node")),
            "addresses": (sorted(one.addresses), sorted(value.get("addresses") or ())),
        }
        for what, (has, is_) in pairs.items():
            if has != is_ and not (what == "addresses" and one.link.chained):
                yield Finding(one.title, f"the kvstore has {what} {is_} of it; it is {has}", advice)


def published_addresses(report: Report) -> Iterator[Finding]:
    """In a cluster: other nodes are told of each address, with its identity, and of none that nobody has."""
    entries = report.get("endpoint/kvstore.json")
    if entries is None or not (report.get("endpoint/cluster.json") or {}).get("routing"):
        return
    told = {
        entry["key"].rpartition("/")[2]: json.loads(entry["value"])
        for entry in entries
        if "/state/ip/v1/" in entry["key"]
    }
    for one in report.settled:
        advice = f"see the controller sync-ip-identity of endpoint-{one.id}: `podlane controllers`"
        if one.link.chained or one.id in _provisional(report):
            continue
        for address in one.addresses:
            value = told.get(address)
            if value is None:
                if _late(report, one):
                    yield Finding(one.title, f"other nodes aren't told whose {address} is", advice)
            elif (value.get("endpoint"), value.get("identity")) != (one.id, one.identity):
                has = f"endpoint {value.get('endpoint')} with identity {value.get('identity')}"
                yield Finding(one.title, f"other nodes are told that {address} is {has}; it is {one.identity}", advice)
    for address, value in sorted(told.items()):
        if value.get("endpoint") not in report.ids:
            yield Finding(
                f"address {address}",
                f"is published as endpoint {value.get('endpoint')}'s, which isn't there",
                "the controller prune-addresses takes it away: see `podlane controllers`",
            )
