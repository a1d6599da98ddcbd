"""What is there and belongs to nobody: no endpoint that anybody told of, before or after, has it."""

import re
from collections.abc import Iterator

from cli.report.checks.finding import Finding
from cli.report.model import Report

_GC = "`podlane gc --dry-run` says what it is, `podlane gc` takes it away"
_OWN_DEVICE = re.compile(r"lxc[0-9a-f]{12}$")
_PIN = re.compile(r"(?:maps/policy_|links/)(\d+)(?:/|$)")
_FAILED = re.compile(r"(\d+)_next_fail/verifier\.log$")
_EXPIRED_SECONDS = 60.0


def _told(report: Report) -> bool:
    """Whether it is known who there is."""
    return report.get("endpoint/endpoints.json") is not None or report.get("files/endpoint.json") is not None


def allocations(report: Report) -> Iterator[Finding]:
    """Addresses that are confirmed for an endpoint that isn't there, and reservations that should have expired."""
    for held in (report.allocations or {}).values() if _told(report) else ():
        addresses = ", ".join(held.addresses)
        if held.confirmed and held.endpoint_id and held.owner not in report.owners:
            yield Finding(
                held.title, f"{addresses} are confirmed for endpoint {held.endpoint_id}, which isn't there", _GC
            )
        late = report.created_seconds - held.expires if held.expires is not None else 0.0
        if not held.confirmed and late > _EXPIRED_SECONDS:
            yield Finding(
                held.title,
                f"the reservation of {addresses} expired {late:.0f} s ago and is still there",
                "see the controller expire-reservations: `podlane controllers`",
            )


def links(report: Report) -> Iterator[Finding]:
    """Links that no endpoint stands on, and devices of podlane's name that the loader has no record of."""
    if report.links is None or not _told(report):
        return
    grace = float((report.settings.get("endpoint") or {}).get("gc_grace_seconds", 120.0))
    for owner, link in report.links.items():
        if owner not in report.owners and (link.idle_seconds is None or link.idle_seconds > grace):
            yield Finding(f"link {link.host_ifname}", "no endpoint stands on it", _GC)
    known = {link.host_ifname for link in report.links.values()}
    known |= {one["link"]["host_ifname"] for one in report.items("endpoint/after.json")}
    # A pod's link may have been made between two looks.
    records = (
        name.removeprefix("links/") for name in report.get("files/state.json") or () if name.startswith("links/")
    )
    known |= {name.removesuffix(".json") for name in records}
    for name in sorted(report.devices or ()):
        if _OWN_DEVICE.match(name) and name not in known:
            yield Finding(f"device {name}", "the loader has no record of it", _GC)


def datapaths(report: Report) -> Iterator[Finding]:
    """Programs, slots and map entries of an endpoint that isn't there."""
    for id_ in sorted(report.datapaths or ()) if _told(report) else ():
        if id_ not in report.ids:
            yield Finding(f"datapath {id_}", "there is no endpoint of that id", _GC)


def pins(report: Report) -> Iterator[Finding]:
    """What is pinned in the bpffs for an endpoint that isn't there."""
    found = {
        match.group(0).rstrip("/"): int(match.group(1))
        for match in map(_PIN.match, report.items("kernel/bpf/pins.json"))
        if match
    }
    for pin, id_ in sorted(found.items()) if _told(report) else ():
        if id_ not in report.ids:
            yield Finding(f"pin {pin}", f"there is no endpoint {id_}", _GC)


def directories(report: Report) -> Iterator[Finding]:
    """State directories of an endpoint that isn't there."""
    heads = {name.partition("/")[0] for name in report.get("files/state.json") or ()}
    for head in sorted(heads) if _told(report) else ():
        if head.isdecimal() and int(head) not in report.ids:
            yield Finding(f"state directory {head}", f"there is no endpoint {head}", _GC)


def failed_builds(report: Report) -> Iterator[Finding]:
    """An endpoint whose last build failed: what it runs is older than what it should."""
    for name, log in (report.get("files/state.json") or {}).items():
        match = _FAILED.match(name)
        one = report.by_id.get(int(match.group(1))) if match else None
        if one is not None:
            last = (str(log).strip().splitlines() or ["without a word"])[-1]
            advice = f"{name} in files/state.json has all of it; `podlane endpoint regenerate {one.id}` tries again"
            yield Finding(one.title, f"its last build failed: {last}", advice)


def garbage(report: Report) -> Iterator[Finding]:
    """What `podlane gc --dry-run` would do."""
    for one in report.items("endpoint/garbage.json"):
        if one["action"] in {"remove", "claim"}:
            yield Finding(one["object"], f"`podlane gc` would {one['action']} it: {'; '.join(one['evidence'])}", _GC)
