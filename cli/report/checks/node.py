"""The services among themselves, and with the settings, the runtime's configuration and the kvstore."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from cli.report.checks.finding import Finding
from cli.report.load import seconds
from cli.report.model import Report

_SERVICES = ("loader", "ipam", "endpoint")
_BUILD = re.compile(r'^podlane\w*_build_info\{[^}]*\bversion="([^"]*)"', re.MULTILINE)
_JOURNAL_SECONDS = 600.0
# Not what policy or a pod's own mistakes account for: the node's state does.
_ODD = {
    "endpoint not ready": "its policy program was missing: see `podlane endpoint health`",
    "conntrack full": "too many flows; `podlane bpf` shows the map, and who opens them",
    "invalid identity": "a node and this one disagree about who a pod is: compare `podlane kvstore list state/ip`",
    "no tunnel endpoint": "the node of the peer isn't known: see `podlane status`",
    "no tunnel key": "the overlay's device was changed: restart podlane-loader",
    "encap prohibited": "the ipcache leads a packet back into the tunnel: see `podlane status`",
    "invalid source ip": "the pod uses an address that isn't its own",
    "invalid source mac": "the pod uses a MAC that isn't its own",
}


def services(report: Report) -> Iterator[Finding]:
    """All three services serve."""
    for one in report.items("services/health.json"):
        if one["health"] != "serving":
            name = f"podlane-{one['service']}"
            yield Finding(
                name, f"is {one['health']}", f"see logs/{one['service']}.log; what it knows is read from its files"
            )


def versions(report: Report) -> Iterator[Finding]:
    """All services are of one version."""
    found = {}
    for name in _SERVICES:
        match = _BUILD.search(str(report.get(f"services/{name}-metrics.txt") or ""))
        if match:
            found[name] = match.group(1)
    if len(set(found.values())) > 1:
        told = ", ".join(f"podlane-{name} {version}" for name, version in found.items())
        yield Finding("services", f"are of different versions: {told}", "restart those that are old")


def settings(report: Report) -> Iterator[Finding]:
    """What runs was started with the settings that there are now."""
    if not report.settings:
        return
    wanted: Mapping[str, Any] = report.settings
    node = report.get("loader/node.json") or {}
    cluster = report.get("endpoint/cluster.json") or {}
    pairs = {
        ("endpoint", "[node] name"): (wanted["node"]["name"], cluster.get("node")),
        ("loader", "[loader] attach_mode"): (wanted["loader"]["attach_mode"], node.get("attach_mode")),
        ("loader", "[loader] mtu"): (wanted["loader"]["mtu"] or None, node.get("mtu")),
        ("loader", "[loader] masquerade"): (
            wanted["loader"]["masquerade"],
            (node.get("config") or {}).get("masquerade"),
        ),
    }
    for (service, key), (has, is_) in pairs.items():
        if has is not None and is_ is not None and has != is_:
            yield Finding(f"podlane-{service}", f"runs with {key} {is_!r}, the settings say {has!r}", _restart(service))
    yield from _pools(report, wanted["ipam"]["pools"])
    yield from _ranges(report, node.get("config"))


def _restart(service: str) -> str:
    return f"restart podlane-{service}, or give this command the settings that it has (--config)"


def _pools(report: Report, pools: Any) -> Iterator[Finding]:
    told = report.get("ipam/pools.json")
    if told is None:
        return
    wanted = {one["name"]: sorted(one["ranges"]) for one in pools if not one["cluster_ranges"]}
    runs = {one["name"]: sorted(part["prefix"] for part in one["ranges"]) for one in told if not one["cluster"]}
    for name in sorted(set(wanted) | set(runs)):
        has, is_ = wanted.get(name), runs.get(name)
        if has != is_:
            yield Finding(
                "podlane-ipam", f"runs with the ranges {is_} in pool {name}, the settings say {has}", _restart("ipam")
            )


def _ranges(report: Report, config: Any) -> Iterator[Finding]:
    pools = report.get("ipam/pools.json")
    if pools is None or config is None:
        return
    given = {part["prefix"] for pool in pools if not pool["delegated"] for part in pool["ranges"]}
    missing = sorted(given - set(config["pod_cidrs"]))
    if missing:
        yield Finding(
            "podlane-loader",
            f"doesn't know pods' ranges {', '.join(missing)}, which ipam gives addresses of",
            "see the controller configure-node: `podlane controllers`",
        )


def conflist(report: Report) -> Iterator[Finding]:
    """The runtime's configuration leads to this node's sockets and journal."""
    if not report.settings:
        return
    wanted = {f"{name}Socket": str(report.settings[name]["socket"]) for name in _SERVICES}
    wanted["journalDir"] = str(report.settings["endpoint"]["journal_dir"])
    for path, content in sorted((report.get("files/cni.json") or {}).items()):
        if not isinstance(content, dict):
            continue
        if "unreadable" in content:
            yield Finding(path, f"is no JSON: {content['unreadable']}", "the runtime passes over it, or takes no pod")
        for plugin in content.get("plugins", [content]):
            if plugin.get("type") != "podlane":
                continue
            for key, has in wanted.items():
                if key in plugin and plugin[key] != has:
                    yield Finding(
                        path, f"has {key} {plugin[key]}, the settings say {has}", "`podlane cni install` writes it anew"
                    )


def controllers(report: Report) -> Iterator[Finding]:
    """What the services do by themselves succeeds."""
    for name in _SERVICES:
        for one in report.items(f"services/{name}-controllers.json"):
            if one["state"] in {"failing", "hanging"}:
                status = one["status"]
                times = status["consecutive_failure_count"]
                what = f"fails, {times} times since it last succeeded" if one["state"] == "failing" else "hangs"
                said = f": {status['last_error']}" if status["last_error"] else ""
                yield Finding(
                    f"controller {one['resource']}/{one['name']}",
                    f"{what}{said}",
                    f"see logs/{name}.log, `podlane controllers`",
                )


def kvstore(report: Report) -> Iterator[Finding]:
    """The kvstore answers, this node is registered, and others make sense."""
    found = report.get("endpoint/cluster.json")
    if found is None:
        return
    store = found["kvstore"]
    advice = "see `podlane status`; docs/kvstore.md has every fault"
    if not store["reachable"]:
        yield Finding("kvstore", f"doesn't answer: {store['error']}", advice)
    if found["registration_error"] and found["registration_error"] != store["error"]:
        yield Finding("kvstore", f"this node isn't registered: {found['registration_error']}", advice)
    for member in store["members"]:
        if member["error"]:
            yield Finding(f"kvstore member {member['endpoint']}", member["error"], advice)
    for problem in found["problems"]:
        yield Finding("kvstore", problem, advice)
    for id_ in found["provisional"]:
        one = report.by_id.get(id_)
        yield Finding(one.title if one else f"endpoint {id_}", "other nodes don't know its identity yet", advice)


def journal(report: Report) -> Iterator[Finding]:
    """Deletions that were journalled are carried out."""
    told = report.get("endpoint/deletions.json")
    if told is None:
        entries = [
            (one["file"], one["when"], one["error"]) for one in report.items("files/journal.json") if "file" in one
        ]
    else:
        entries = [(one["file"], _when(one), one["last_error"]) for one in told]
    for file, when, error in entries:
        waited = report.created_seconds - when if when else 0.0
        if error:
            yield Finding(f"deletion {file}", f"isn't carried out: {error}", "see `podlane cni journal`")
        elif waited > _JOURNAL_SECONDS:
            yield Finding(
                f"deletion {file}",
                f"has waited for {waited:.0f} s",
                "see `podlane cni journal`; podlane-endpoint carries it out",
            )


def _when(one: Mapping[str, Any]) -> float:
    return seconds(one["journalled"]) if one.get("journalled") else 0.0


def drops(report: Report) -> Iterator[Finding]:
    """Packets were dropped for a reason that policy doesn't account for."""
    for entry in report.items("loader/maps/metrics.json"):
        advice = _ODD.get(entry["reason"])
        if advice and entry["packets"]:
            one = report.by_id.get(entry["endpoint_id"])
            who = one.title if one else f"endpoint {entry['endpoint_id']}"
            yield Finding(
                who, f"{entry['packets']} packets were dropped ({entry['direction']}): {entry['reason']}", advice
            )
