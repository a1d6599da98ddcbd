"""Endpoint ↔ link ↔ datapath ↔ maps. All but `state` look at settled endpoints only."""

from collections.abc import Iterator, Mapping
from typing import Any

from cli.report.checks.finding import Finding
from cli.report.model import READY, Endpoint, Report
from services.common import policydigest

_DIRECTIONS = {"ingress": 1, "egress": 2}
_INIT, _LARGEST_RESERVED = 5, 11


def _again(one: Endpoint) -> str:
    return f"`podlane endpoint regenerate {one.id}` puts it in force again"


def state(report: Report) -> Iterator[Finding]:
    """An endpoint was not ready before and after, or its health isn't ok."""
    later = {one["id"]: one["state"] for one in report.items("endpoint/after.json")}
    for one in report.endpoints:
        if one.state != READY:
            if later.get(one.id, one.state) == one.state:
                waits = one.told.get("waiting_for") or "nothing that it tells of"
                yield Finding(
                    one.title, f"is {one.state} and waits for {waits}", f"see `podlane endpoint log {one.id}`"
                )
            continue
        for reason in (one.told.get("health") or {}).get("reasons", ()):
            yield Finding(one.title, f"isn't healthy: {reason}", f"see `podlane endpoint health {one.id}`")


def own_check(report: Report) -> Iterator[Finding]:
    """What `podlane endpoint check` says is wrong."""
    found = report.get("endpoint/checks.json") or {}
    for one in report.settled:
        for problem in found.get(str(one.id), ()):
            yield Finding(one.title, problem, f"`podlane endpoint check {one.id} --repair` mends it")


def link(report: Report) -> Iterator[Finding]:
    """The loader's link is another one than the endpoint's, is missing or has problems of its own."""
    if report.links is None:
        return
    for one in report.settled:
        found = report.links.get(one.owner)
        if found is None:
            yield Finding(
                one.title,
                f"the loader has no link for it; it stands on {one.link.host_ifname}",
                "`podlane gc` takes away an endpoint whose link is gone; the pod is to be started again",
            )
            continue
        pairs = {
            "the node's end": (one.link.host_ifname, found.host_ifname),
            "ifindex": (one.link.host_ifindex, found.host_ifindex),
            "MAC of the node's end": (one.link.host_mac, found.host_mac),
            "MAC of the pod's end": (one.link.pod_mac, found.pod_mac),
            "namespace": (one.link.netns_inode, found.netns_inode),
        }
        for what, (has, is_) in pairs.items():
            if has != is_:
                yield Finding(one.title, f"{what} is {has} to the endpoint and {is_} to the loader", _again(one))
        for problem in found.problems:
            yield Finding(
                one.title,
                f"link {found.host_ifname}: {problem}",
                f"`podlane endpoint check {one.id} --repair` mends it",
            )


def record(report: Report) -> Iterator[Finding]:
    """The datapath's record is missing, of another generation, link or identity, or the kernel has lost something."""
    if report.datapaths is None:
        return
    for one in report.settled:
        found = report.datapaths.get(one.id)
        if found is None or found.owner is None:
            yield Finding(one.title, "the loader has no record of its datapath", _again(one))
            continue
        pairs = {
            "attachment": (one.owner, found.owner),
            "generation": (one.generation, found.generation),
            "identity": (one.identity, found.identity),
            "link": (one.link.host_ifname, found.host_ifname),
            "ifindex": (one.link.host_ifindex, found.host_ifindex),
        }
        for what, (has, is_) in pairs.items():
            if has != is_:
                yield Finding(one.title, f"{what} is {has} to the endpoint and {is_} to its programs", _again(one))
        for problem in found.problems:
            yield Finding(one.title, f"datapath: {problem}", _again(one))


def endpoint_map(report: Report) -> Iterator[Finding]:
    """The endpoint map leads to an endpoint by all its addresses, and says of it what is true."""
    entries = report.get("loader/maps/endpoints.json")
    if entries is None:
        return
    by_address = {entry["address"]: entry for entry in entries}
    for one in report.settled:
        for address in one.addresses:
            entry = by_address.get(address)
            if entry is None:
                yield Finding(one.title, f"the endpoint map has no entry for {address}: nobody reaches it", _again(one))
                continue
            pairs = {
                "endpoint": (one.id, entry["endpoint_id"]),
                "ifindex": (one.link.host_ifindex, entry["ifindex"]),
                "identity": (one.identity, entry["identity"]),
                "MAC of the pod": (one.link.pod_mac, entry["pod_mac"]),
                "MAC of the node's end": (one.link.host_mac, entry["host_mac"]),
            }
            for what, (has, is_) in pairs.items():
                if has != is_:
                    yield Finding(
                        one.title, f"the endpoint map has {what} {is_} at {address}; it is {has}", _again(one)
                    )


def call_policy(report: Report) -> Iterator[Finding]:
    """An endpoint's slot has its own policy program."""
    slots = report.get("loader/maps/call_policy.json")
    if slots is None:
        return
    filled = {slot["endpoint_id"]: slot["program_id"] for slot in slots}
    for one in report.settled:
        datapath = (report.datapaths or {}).get(one.id)
        program = datapath.programs.get("policy") if datapath is not None else None
        if one.id not in filled:
            yield Finding(one.title, "its slot of call_policy is empty: packets to it are dropped", _again(one))
        elif program is not None and filled[one.id] != program:
            yield Finding(
                one.title,
                f"its slot of call_policy has program {filled[one.id]}, its policy program is {program}",
                _again(one),
            )


def policy_map(report: Report) -> Iterator[Finding]:
    """The rules: what the loader says they are, and open where no policy isolates."""
    maps = report.get("loader/maps/policy.json")
    if maps is None:
        return
    for one in report.settled:
        entries = maps.get(str(one.id))
        if entries is None:
            yield Finding(one.title, "it has no policy map", _again(one))
            continue
        yield from _open(report, one, entries)
        datapath = (report.datapaths or {}).get(one.id)
        if datapath is None or datapath.digest is None or not _quiet(report):
            continue
        digest = policydigest.digest(_packed(entry["entry"]) for entry in entries).hex()
        if digest != datapath.digest:
            yield Finding(
                one.title,
                f"its policy map has {len(entries)} entries with digest {digest}, the loader says {datapath.digest}",
                "make another report: when that says so, too, " + _again(one),
            )


def _open(report: Report, one: Endpoint, entries: list[Any]) -> Iterator[Finding]:
    denied = one.identity == _INIT and (report.settings.get("endpoint") or {}).get("init_policy", "allow") != "allow"
    if one.policies is None or denied:
        return
    everything = {
        entry["entry"]["direction"]
        for entry in entries
        if not any(entry["entry"][key] for key in ("identity", "protocol", "port_prefix_length", "deny"))
    }
    for direction, policies in one.policies.items():
        if not policies and direction not in everything:
            yield Finding(
                one.title,
                f"no policy isolates it ({direction}), and its policy map doesn't allow everything there",
                _again(one),
            )


def _packed(entry: Mapping[str, Any]) -> policydigest.Entry:
    return (
        _DIRECTIONS[entry["direction"]],
        entry["identity"],
        entry["protocol"],
        entry["port"],
        entry["port_prefix_length"],
        entry["deny"],
    )


def _quiet(report: Report) -> bool:
    """Whether nobody came or went while the report was made, so that policies stood still."""
    return len(report.settled) == len(report.endpoints) == len(report.ids)


def regeneration(report: Report) -> Iterator[Finding]:
    """What putting an endpoint in force again would change."""
    settled = {one.id: one for one in report.settled}
    for result in report.items("endpoint/regeneration.json"):
        one = settled.get(result["id"])
        if one is None:
            continue
        for what in (result["error"], result["reload_reason"], *result["changes"]):
            if what:
                yield Finding(one.title, f"it isn't in force as it should be: {what}", _again(one))


def identities(report: Report) -> Iterator[Finding]:
    """Whoever has an identity, and every peer in a policy map, is known by that number."""
    told = report.get("endpoint/identities.json")
    if told is None or not _quiet(report):
        return
    known = {one["id"]: one for one in told}
    for one in report.settled:
        if one.identity > _LARGEST_RESERVED and one.identity not in known:
            yield Finding(one.title, f"nobody knows its identity {one.identity}", "`podlane identity list` shows all")
        elif one.identity in known and one.id not in known[one.identity]["endpoints"]:
            has = f"identity {one.identity} has the endpoints {known[one.identity]['endpoints']}"
            yield Finding(one.title, f"{has} and not this one", _again(one))
        entries = (report.get("loader/maps/policy.json") or {}).get(str(one.id), ())
        peers = {entry["entry"]["identity"] for entry in entries}
        for peer in sorted(peers - set(known)):
            if peer > _LARGEST_RESERVED:
                yield Finding(
                    one.title, f"its policy map has a rule for identity {peer}, which nobody knows", _again(one)
                )


def ipcache(report: Report) -> Iterator[Finding]:
    """Own pods' addresses are in the endpoint map, never among those of other nodes."""
    entries = {entry["address"]: entry for entry in report.items("loader/maps/ipcache.json")}
    for one in report.settled:
        for address in one.addresses if not one.link.chained else ():
            if (entry := entries.get(address)) is not None:
                yield Finding(
                    one.title,
                    f"the ipcache has its address {address} as another node's, with identity {entry['identity']}",
                    f"another node has published it: `podlane kvstore get state/ip/v1/{address}` says which",
                )
