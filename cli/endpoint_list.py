"""`podlane endpoint list`: the columns that `cilium-dbg endpoint list` has, pods in place of their labels.

INGRESS and EGRESS say whether policy is enforced: `enabled` where a policy isolates the endpoint, else `disabled`.
`--watch` listens to the endpoint service's stream instead of asking again; in a stream the service doesn't tell which
policies isolate, so these columns are not in it.
"""

import time
from ipaddress import ip_address
from typing import Any

from cli import connect
from cli.listing import ADDED, DELETED, MODIFIED, Feed, How, Listing, show
from cli.present import age, enum_name, labels, plain, pod_name
from services.common.config import Settings


def run(settings: Settings, how: How) -> None:
    """List the endpoints, or watch them."""
    if how.watch:
        _watch(settings, how)
        return
    from podlane.endpoint.v1 import endpoint_pb2

    request = endpoint_pb2.ListEndpointsRequest()
    show(LISTING, lambda: connect.ask_all(connect.endpoint(settings), "ListEndpoints", request, "endpoints"), how)


def _watch(settings: Settings, how: How) -> None:
    from podlane.endpoint.v1 import endpoint_pb2

    feed, known = Feed(_STREAMED, how.output), dict[int, Any]()

    def each(message: Any) -> None:
        if message.change == message.CHANGE_SYNCED:
            return
        endpoint = message.endpoint
        before = known.pop(endpoint.id, None)
        if message.change == message.CHANGE_DELETED:
            feed.tell([(DELETED, endpoint)])
            return
        known[endpoint.id] = endpoint
        # Most changes are of what the table doesn't show.
        if before is None or how.output == "json" or _shown(before, how) != _shown(endpoint, how):
            feed.tell([(ADDED if before is None else MODIFIED, endpoint)])

    request = endpoint_pb2.WatchEndpointsRequest()
    connect.follow(connect.endpoint(settings), "WatchEndpoints", request, lambda: None, each)


def _shown(endpoint: Any, how: How) -> list[Any]:
    """Return an endpoint's cells, without its age."""
    at = (*_STREAMED.titles, *_STREAMED.wide).index("AGE")
    return [(*row[:at], *row[at + 1 :]) for row in _STREAMED.cells([endpoint], how.output)]


def _cells(endpoint: Any) -> tuple[str, ...]:
    by_version = {4: "-", 6: "-"}
    for assigned in endpoint.addresses:
        address = ip_address(assigned.address.address.packed)
        by_version[address.version] = str(address)
    kind = endpoint.health.DESCRIPTOR.enum_types_by_name["Status"]
    return (
        str(endpoint.id),
        _enforced(endpoint.ingress_policies),
        _enforced(endpoint.egress_policies),
        str(endpoint.identity),
        pod_name(endpoint.pod),
        by_version[6],
        by_version[4],
        state(endpoint),
        enum_name(kind, endpoint.health.overall),
        endpoint.link.host_ifname,
        plain(endpoint.link.host_mac),
        plain(endpoint.link.pod_mac),
        endpoint.attachment.container_id[:12],
        age(time.time() - endpoint.created.seconds),
        ",".join(endpoint.ingress_policies) or "-",
        ",".join(endpoint.egress_policies) or "-",
        ",".join(labels(endpoint.identity_labels)) or "-",
    )


def _enforced(policies: Any) -> str:
    return "enabled" if policies else "disabled"


def state(endpoint: Any) -> str:
    """Return the state, and where it stands if it waits for its turn: `waiting-to-regenerate 12/190 ~3.4s`."""
    word = enum_name(endpoint.DESCRIPTOR.fields_by_name["state"].enum_type, endpoint.state)
    if not endpoint.HasField("place"):
        return word
    place = endpoint.place
    expected = f" ~{place.estimate_us / 1e6:.1f}s" if place.HasField("estimate_us") else ""
    return f"{word} {place.position}/{place.waiting}{expected}"


LISTING = Listing(
    titles=("ENDPOINT", "INGRESS", "EGRESS", "IDENTITY", "POD", "IPV6", "IPV4", "STATUS"),
    wide=(
        "HEALTH",
        "INTERFACE",
        "HOST MAC",
        "POD MAC",
        "CONTAINER",
        "AGE",
        "INGRESS POLICIES",
        "EGRESS POLICIES",
        "LABELS",
    ),
    rows=lambda endpoint: [_cells(endpoint)],
    empty="no endpoints",
    name=lambda endpoint: f"endpoint/{endpoint.id}",
    flexible="POD",
)


def _without_policies(endpoint: Any) -> list[tuple[str, ...]]:
    cells = _cells(endpoint)
    return [cells[:1] + cells[3:14] + cells[16:]]


_STREAMED = LISTING._replace(
    titles=LISTING.titles[:1] + LISTING.titles[3:],
    wide=LISTING.wide[:6] + LISTING.wide[8:],
    rows=_without_policies,
)
