"""podlane-ipam's configuration: the object `ipam` of the network configuration that another plugin was given.

    every verb   name, cniVersion; of ipam: ipamSocket, timeoutSeconds, journalDir, logFile, logLevel
    ADD          of ipam: pool, routes, dns; runtimeConfig.ips, args.cni.ips; CNI_ARGS: IP, K8S_POD_*
    STATUS       of ipam: pool
    CHECK        prevResult
    GC           cni.dev/valid-attachments

The rules are those of config.py: what isn't known is ignored, what is ill-typed is refused by name, and a verb reads
only what it uses. Addresses are asked for by the `ips` capability first, then by args.cni.ips (CNI conventions), then
by CNI_ARGS, which anyone may set.

`routes` are host-local's: objects with `dst` and perhaps `gw`, in place of the default routes through the gateways; an
empty list means none. CNI 1.1.0's further keys of a route are told to whoever asks in 1.1.0.
"""

from cni.config import (
    LARGEST_NUMBER,
    POD_ARGS,
    Config,
    parse_addresses,
    parse_args,
    parse_ip_argument,
    parse_prefix,
    text,
    texts,
    typed,
)
from cni.spec import BAD_CONFIG, CniError, Environment, quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Of CNI 1.1.0 (SPEC.md, section 5).
ROUTE_NUMBERS = ("mtu", "advmss", "priority", "table", "scope")


class IpamConfig(Config):
    """What every verb needs."""

    __slots__ = ()

    services = ("ipam",)
    addresses_only = True

    def _own(self, document: "dict[str, Any]") -> "tuple[dict[str, Any], str]":
        return ipam_object(document), "ipam."


def ipam_object(document: "dict[str, Any]") -> "dict[str, Any]":
    """Return `ipam`. Raises CniError with code 7."""
    if "ipam" not in document:
        problem = "ipam is missing; podlane-ipam is what another plugin calls for its ipam.type, not a network's plugin"
        raise CniError(BAD_CONFIG, problem)
    table: dict[str, Any] = typed(document, "ipam", dict, "an object", {})
    return table


def pool_name(document: "dict[str, Any]") -> str:
    """Return ipam.pool, "" without one."""
    return text(ipam_object(document), "pool", prefix="ipam.")


class AddressConfig:
    """What an ADD asks for: pool, requested (packed addresses), routes (None: the pool's), dns, pod."""

    __slots__ = ("dns", "pod", "pool", "requested", "routes")

    def __init__(self, document: "dict[str, Any]", environment: Environment, version: str) -> None:
        """Check; raises CniError with code 7, or 4 for CNI_ARGS."""
        table = ipam_object(document)
        self.pool = pool_name(document)
        self.routes = _routes(table, version) if "routes" in table else None
        self.dns = typed(table, "dns", dict, "an object", {}, prefix="ipam.")
        arguments = parse_args(environment)
        self.pod = {field: arguments.get(name, "") for name, field in POD_ARGS.items()}
        self.requested = _requested(document, arguments)


def _requested(document: "dict[str, Any]", arguments: dict[str, str]) -> list[bytes]:
    runtime = typed(document, "runtimeConfig", dict, "an object", {})
    orchestrator = typed(typed(document, "args", dict, "an object", {}), "cni", dict, "an object", {}, prefix="args.")
    for table, prefix in ((runtime, "runtimeConfig."), (orchestrator, "args.cni.")):
        ips = texts(table, "ips", prefix=prefix)
        if ips:
            return parse_addresses(f"{prefix}ips", ips, BAD_CONFIG)
    return parse_ip_argument(arguments)


def _routes(table: "dict[str, Any]", version: str) -> "list[dict[str, Any]]":
    listed = typed(table, "routes", list, "a list of objects with dst", [], prefix="ipam.")
    return [_route(f"ipam.routes[{place}]", one, version) for place, one in enumerate(listed)]


def _route(name: str, one: "Any", version: str) -> "dict[str, Any]":
    if not isinstance(one, dict):
        raise CniError(BAD_CONFIG, f"{name} must be an object with dst, not {quoted(one)}")
    destination = text(one, "dst", prefix=f"{name}.")
    if "/" not in destination:
        raise CniError(BAD_CONFIG, f"{name}.dst {quoted(destination)} is not a network like 10.0.0.0/8")
    packed, length = parse_prefix(f"{name}.dst", destination, BAD_CONFIG)
    if int.from_bytes(packed, "big") & ((1 << len(packed) * 8 - length) - 1):
        raise CniError(BAD_CONFIG, f"{name}.dst {quoted(destination)} has bits behind its prefix length; no route has")
    route: dict[str, Any] = {"dst": destination}
    gateway = text(one, "gw", prefix=f"{name}.")
    if gateway:
        router, whole = parse_prefix(f"{name}.gw", gateway, BAD_CONFIG)
        if "/" in gateway or whole != len(packed) * 8 or len(router) != len(packed):
            raise CniError(BAD_CONFIG, f"{name}.gw {quoted(gateway)} is not an address of the family of its dst")
        route["gw"] = gateway
    for key in ROUTE_NUMBERS:
        if key not in one:
            continue
        value = typed(one, key, int, "a whole number", 0, prefix=f"{name}.")
        if not 0 <= value <= LARGEST_NUMBER:
            raise CniError(BAD_CONFIG, f"{name}.{key} must be between 0 and {LARGEST_NUMBER}, not {value}")
        if version == "1.1.0":
            route[key] = value
    return route
