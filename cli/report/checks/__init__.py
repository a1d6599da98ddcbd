"""What can't be true at the same time. Each check is a pure function over a report; docs/bugtool.md lists them all.

A finding names the object, says what is against what, and what to do. A check that lacks what it compares finds
nothing; which part of a report is missing is a finding of its own (`services`).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from cli.report.checks import books, datapath, kernel, leftovers, node
from cli.report.checks.finding import Finding
from cli.report.model import Report

Check = Callable[[Report], Iterator[Finding]]

CHECKS: Mapping[str, Check] = {
    "services": node.services,
    "versions": node.versions,
    "settings": node.settings,
    "conflist": node.conflist,
    "controllers": node.controllers,
    "kvstore": node.kvstore,
    "journal": node.journal,
    "drops": node.drops,
    "endpoint-state": datapath.state,
    "endpoint-check": datapath.own_check,
    "link": datapath.link,
    "datapath": datapath.record,
    "endpoint-map": datapath.endpoint_map,
    "call-policy": datapath.call_policy,
    "policy-map": datapath.policy_map,
    "regeneration": datapath.regeneration,
    "identities": datapath.identities,
    "ipcache": datapath.ipcache,
    "allocation": books.allocation,
    "ipam-database": books.database,
    "addresses-twice": books.twice,
    "pools": books.pools,
    "published": books.published,
    "published-addresses": books.published_addresses,
    "host-end": kernel.host_end,
    "programs-attached": kernel.attached,
    "pod-end": kernel.pod_end,
    "forwarding": kernel.forwarding,
    "reverse-path": kernel.reverse_path,
    "mtu": kernel.mtu,
    "left-allocations": leftovers.allocations,
    "left-links": leftovers.links,
    "left-datapaths": leftovers.datapaths,
    "left-pins": leftovers.pins,
    "left-directories": leftovers.directories,
    "failed-builds": leftovers.failed_builds,
    "garbage": leftovers.garbage,
}


def run(report: Report) -> tuple[list[Finding], list[tuple[str, str]]]:
    """Return what all checks find, in their order, and which could not be made, with the reason."""
    found: list[Finding] = []
    skipped: list[tuple[str, str]] = []
    for name, check in CHECKS.items():
        try:
            found += [replace(one, check=name) for one in check(report)]
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            # Of a later minor format: one check less is no reason to make none.
            skipped.append((name, f"{type(error).__name__}: {error}"))
    return found, skipped
