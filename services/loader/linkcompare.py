"""How a link departs from what is written down about it. Pure.

    differences     a repeated request and the record of the link that it is about
    host_problems   the node's end as the kernel has it and the record
    pod_problems    the pod's end and the record

Each says what it found in sentences, none: all is as it should be. What follows from that is the caller's: a request
that differs is refused, an end that differs is told by CHECK and mended by `podlane endpoint check --repair`.
"""

from collections.abc import Sequence

from services.common.model import Interface, Route, format_mac
from services.loader.linkspec import HostEnd, LinkRecord, LinkSpec, PodEnd, effective_routes


def differences(asked: LinkSpec, record: LinkRecord) -> list[str]:
    """Say how a request departs from what its link was made from; the namespace's path is not compared."""
    made = record.spec
    found = []
    if asked.attachment != made.attachment:
        found.append(f"it belongs to network {made.attachment.network}, not {asked.attachment.network}")
    if asked.chained != made.chained:
        found.append("it is another plugin's" if made.chained else "it is podlane's own")
    if asked.pod_mac is not None and asked.pod_mac != record.pod_mac:
        found.append(f"its MAC is {format_mac(record.pod_mac)}, not {format_mac(asked.pod_mac)}")
    if asked.mtu and asked.mtu != record.mtu:
        found.append(f"its MTU is {record.mtu}, not {asked.mtu}")
    if _interfaces(asked) != _interfaces(made):
        found.append(f"its addresses are {_listed(_interfaces(made))}, not {_listed(_interfaces(asked))}")
    if effective_routes(asked) != effective_routes(made):
        found.append(f"its routes are {_routes(made)}, not {_routes(asked)}")
    if asked.offload != made.offload:
        found.append(f"its offload sizes are {made.offload}, not {asked.offload}")
    return found


def _interfaces(spec: LinkSpec) -> tuple[Interface, ...]:
    return tuple(one.address for one in spec.addresses)


def _listed(items: Sequence[object]) -> str:
    return ", ".join(map(str, items)) or "none"


def _routes(spec: LinkSpec) -> str:
    return _listed([describe_route(route) for route in effective_routes(spec)])


def describe_route(route: Route) -> str:
    """Return a route as `ip route` would show it."""
    via = f" via {route.gateway}" if route.gateway else ""
    more = (f" mtu {route.mtu}" if route.mtu else "") + (f" table {route.table}" if route.table else "")
    return f"{route.destination}{via}{more}"


def host_problems(record: LinkRecord, found: HostEnd | None) -> list[str]:
    """Say how the node's end differs from the record; `found` None: there is no such device."""
    ifname = record.host_ifname
    if not record.done:
        return [f"{ifname} is being made, or its creation was interrupted: repeat or delete it"]
    if found is None:
        return [f"{ifname} is gone"]
    if found.ifindex != record.host_ifindex:
        return [f"{ifname} is another interface: index {found.ifindex}, not {record.host_ifindex}"]
    problems = []
    if found.mac != record.host_mac:
        problems.append(f"{ifname}'s MAC is {format_mac(found.mac)}, it was made with {format_mac(record.host_mac)}")
    if found.mtu != record.mtu and not record.spec.chained:
        problems.append(f"{ifname}'s MTU is {found.mtu}, it was made with {record.mtu}")
    return problems


def pod_problems(record: LinkRecord, found: PodEnd | None) -> list[str]:
    """Say how the pod's end differs from the record; `found` None: there is no such interface in the pod."""
    ifname = record.spec.attachment.ifname
    if found is None:
        return [f"{ifname} is missing in the pod"]
    if found.ifindex != record.pod_ifindex:
        return [f"{ifname} in the pod is another interface: index {found.ifindex}, not {record.pod_ifindex}"]
    problems = []
    if found.mac != record.pod_mac:
        problems.append(
            f"{ifname}'s MAC is {format_mac(found.mac)}, it was made with {format_mac(record.pod_mac)}, and nothing "
            "passes with another: give it by podlane (runtimeConfig.mac), not by a later plugin"
        )
    # A plugin that comes later in the list may lower it; with a higher one the node's end drops what is too long.
    if found.mtu > record.mtu and not record.spec.chained:
        problems.append(f"{ifname}'s MTU is {found.mtu}, the node's end can only carry {record.mtu}")
    if not found.up:
        problems.append(f"{ifname} is down in the pod")
    problems += [
        f"{ifname} has lost its address {address}"
        for address in _interfaces(record.spec)
        if address not in found.addresses
    ]
    problems += [
        f"the pod has lost its route to {describe_route(route)}" for route in record.routes if route not in found.routes
    ]
    problems += [f"the pod has lost its rule `{rule}`" for rule in record.rules if rule not in found.rules]
    return problems
