"""What the page shows of each message: flat, with words for enums, seconds since the epoch for times. Pure.

Only what is in a row; `podlane.<service>.v1` messages as a whole are a click away, as `-o json` prints them.
"""

from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any

from cli.present import enum_name

NOISE = frozenset({"link local noise"})
"""Why packets are dropped that nobody misses: each pod sends such by itself as it starts."""


def seconds(message: Any, field: str) -> float | None:
    """Return a Timestamp field as seconds since the epoch, None when it is absent."""
    if not message.HasField(field):
        return None
    moment = getattr(message, field)
    return float(round(float(moment.seconds) + moment.nanos / 1e9, 3))


def word(message: Any, field: str) -> str:
    """Return an enum field's value as people write it."""
    return enum_name(message.DESCRIPTOR.fields_by_name[field].enum_type, getattr(message, field))


def labels(found: Any) -> list[str]:
    """Return labels as `k8s:app=web`, sorted."""
    return [f"{name}={value}" if value else name for name, value in sorted(found.items())]


def pod_name(message: Any) -> str:
    """Return namespace/name of whatever has a pod, or an empty string."""
    return f"{message.pod.namespace}/{message.pod.name}" if message.pod.name else ""


def endpoint(one: Any) -> dict[str, Any]:
    """Return an Endpoint's row."""
    health = one.health
    return {
        "id": one.id,
        "pod": pod_name(one),
        "container": one.attachment.container_id[:12],
        "state": word(one, "state"),
        "waiting": one.waiting_for,
        "identity": one.identity,
        "labels": labels(one.identity_labels),
        "addresses": [str(ip_address(each.address.address.packed)) for each in one.addresses],
        "interface": one.link.host_ifname,
        "created": seconds(one, "created"),
        "health": word(health, "overall"),
        "reasons": list(health.reasons),
        "policy_error": one.policy_error,
        "failed": one.last_regeneration.error,
    }


def policies(one: Any) -> dict[str, Any]:
    """Return what isolates an Endpoint: only lists have it, streams don't."""
    return {"ingress": list(one.ingress_policies), "egress": list(one.egress_policies)}


def controller(service: str, one: Any) -> dict[str, Any]:
    """Return a Controller's row."""
    status = one.status
    runs = [moment for moment in (seconds(status, "last_success"), seconds(status, "last_failure")) if moment]
    return {
        "service": service,
        "resource": one.resource,
        "name": one.name,
        "state": word(one, "state"),
        "succeeded": status.success_count,
        "failed": status.failure_count,
        "in_a_row": status.consecutive_failure_count,
        "error": status.last_error if status.consecutive_failure_count else "",
        "last": max(runs) if runs else None,
        "took_us": status.last_duration_us,
        "next": seconds(status, "next_run"),
        "since": seconds(status, "running_since"),
    }


def pool(one: Any) -> dict[str, Any]:
    """Return a Pool with its ranges."""
    return {
        "name": one.name,
        "cluster": one.cluster,
        "delegated": one.delegated,
        "problems": list(one.problems),
        "ranges": [
            {
                "prefix": f"{ip_address(each.prefix.address.packed)}/{each.prefix.length}",
                # Beyond 2^53 a browser would round them; nobody sees the difference.
                "size": min(each.size, 2**53),
                "used": each.used,
                "reserved": each.reserved,
                "cooling": each.cooling,
            }
            for each in one.ranges
        ],
    }


def cluster(found: Any) -> dict[str, Any]:
    """Return GetClusterResponse: the kvstore, and the other nodes by name."""
    store = found.kvstore
    return {
        "name": found.name,
        "routing": found.routing,
        "nodes": [one.name for one in found.nodes],
        "kvstore": {"kind": store.kind, "reachable": store.reachable, "error": store.error},
        "problems": [*([found.registration_error] if found.registration_error else []), *found.problems],
    }


def end(one: Any) -> dict[str, Any]:
    """Return a FlowEnd: who it is, and as which the map draws it."""
    return {"endpoint": one.endpoint_id, "name": one.name, "identity": one.identity, "labels": labels(one.labels)}


def event(told: Any) -> dict[str, Any]:
    """Return a MonitorService event."""
    shown: dict[str, Any] = {
        "time": seconds(told, "time"),
        "kind": word(told, "kind"),
        "text": told.summary,
        "bad": False,
    }
    match told.WhichOneof("event"):
        case "flow":
            shown |= _packet(told.flow)
        case "endpoint":
            shown |= {"subject": told.endpoint.endpoint.name, "endpoint": told.endpoint.endpoint.endpoint_id}
            shown |= {"what": word(told.endpoint, "change"), "reason": _of_endpoint(told.endpoint)}
            shown["bad"] = told.endpoint.problem
        case "controller":
            one = told.controller
            what = "fails" if one.failing else "works again"
            shown |= {"subject": f"{one.resource}/{one.name}", "what": what, "reason": one.error, "bad": one.failing}
        case "lost":
            shown |= {"subject": f"{told.lost.events or 'some'} events", "what": "lost", "bad": True}
            shown |= {"reason": f"{told.lost.where}: {told.lost.reason}", "lost": told.lost.events}
    return shown


def _of_endpoint(change: Any) -> str:
    """Return what has become of an endpoint: its state and the message, as far as they are told."""
    state = word(change, "state") if change.state else ""
    return ": ".join(text for text in (state, change.message) if text)


def _packet(flow: Any) -> dict[str, Any]:
    """Return what is shown of an event of a packet or a connection."""
    told = flow.event
    packet = told.packet
    shown: dict[str, Any] = {
        "endpoint": told.endpoint_id,
        "source": flow.source.name,
        "destination": flow.destination.name,
        "protocol": packet.protocol,
        "port": packet.destination_port,
        "rules": list(flow.rules),
        "isolated_by": list(flow.isolated_by),
    }
    match told.WhichOneof("event"):
        case "drop":
            reason = told.drop.reason
            shown |= {"what": "dropped", "reason": reason, "at": told.drop.source, "bad": reason not in NOISE}
        case "policy_verdict":
            allowed = told.policy_verdict.allowed
            reason = told.policy_verdict.reason
            shown |= {"what": "allowed" if allowed else "denied", "reason": reason, "bad": not allowed}
        case "trace":
            shown |= {"what": "seen", "reason": word(told.trace, "point")}
        case "connection":
            shown |= {"what": word(told.connection, "change"), "reason": ""}
    return shown


def by_key(rows: Iterable[dict[str, Any]], *fields: str) -> dict[str, dict[str, Any]]:
    """Return rows by what tells them apart."""
    return {"/".join(str(row[field]) for field in fields): row for row in rows}
