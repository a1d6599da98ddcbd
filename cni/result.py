"""The result of an ADD (SPEC.md, section 5, "ADD Success") in the version that was asked for.

interfaces  the node's end of the link, then the pod's; `mtu` since 1.1.0
ips         of the pod's interface; `version` until 0.4.0
routes      as installed, most specific first; `mtu` and `table` since 1.1.0
dns         as the network configuration has it
"""

import _socket

from cni.messages import ASSIGNED_ADDRESS, LINK, ROUTE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from cni.wire import Values

# Of the pod's end in `interfaces`.
POD_INTERFACE = 1


def build(
    version: str, link: bytes, addresses: list[bytes], routes: list[bytes], *, netns: str, ifname: str, route_mtu: int
) -> "dict[str, Any]":
    """Return the result without `dns`. Link, addresses and routes are the services' messages, still encoded."""
    made = LINK.decode(link)
    interfaces: list[dict[str, Any]] = [
        {"name": made["host_ifname"], "mac": format_mac(made["host_mac"])},
        {"name": ifname, "mac": format_mac(made["pod_mac"]), "sandbox": netns},
    ]
    newest = version == "1.1.0"
    if newest and made["mtu"]:
        for interface in interfaces:
            interface["mtu"] = made["mtu"]
    return {
        "cniVersion": version,
        "interfaces": interfaces,
        "ips": [_ip(ASSIGNED_ADDRESS.decode(address), version) for address in addresses],
        "routes": _routes(map(ROUTE.decode, routes), route_mtu if newest else 0, newest=newest),
    }


def _ip(assigned: "Values", version: str) -> "dict[str, Any]":
    ip: dict[str, Any] = {"interface": POD_INTERFACE, "address": format_prefix(assigned["address"])}
    if assigned["gateway"]:
        ip["gateway"] = format_address(assigned["gateway"])
    if version.startswith("0."):
        ip["version"] = "6" if ":" in ip["address"] else "4"
    return ip


def _routes(routes: "Iterable[Values]", route_mtu: int, *, newest: bool) -> "list[dict[str, Any]]":
    """Return the routes; before 1.1.0 there is no word for those of another table than the main one."""
    return [_route(one, route_mtu, newest=newest) for one in routes if newest or not one["table"]]


def _route(route: "Values", route_mtu: int, *, newest: bool) -> "dict[str, Any]":
    told: dict[str, Any] = {"dst": format_prefix(route["destination"])}
    if route["gateway"]:
        told["gw"] = format_address(route["gateway"])
    mtu = route["mtu"] or route_mtu
    if newest and mtu:
        told["mtu"] = mtu
    if route["table"]:
        told["table"] = route["table"]
    return told


def format_prefix(prefix: "Values | None") -> str:
    """Return an IpPrefix as `10.0.0.1/32`. Absent messages have their defaults: a service left them out."""
    prefix = prefix or {"address": None, "length": 0}
    return f"{format_address(prefix['address'])}/{prefix['length']}"


def format_address(address: "Values | None") -> str:
    """Return an IpAddress as text; what has neither 4 nor 16 bytes is shown in hex."""
    packed: bytes = address["packed"] if address else b""
    if len(packed) == 4:
        return _socket.inet_ntop(_socket.AF_INET, packed)
    if len(packed) == 16:
        return _socket.inet_ntop(_socket.AF_INET6, packed)
    return packed.hex()


def format_mac(mac: "Values | None") -> str:
    """Return a MacAddress as `02:00:00:00:00:01`."""
    return bytes(mac["packed"]).hex(":") if mac else ""
