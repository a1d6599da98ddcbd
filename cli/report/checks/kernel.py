"""What is recorded ↔ what the kernel has: the node's end, the pod's end, and the node's own settings."""

from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from typing import Any

from cli.report.checks.finding import Finding
from cli.report.model import Endpoint, Inside, Report
from services.common.model import Attachment

_OVERLAY_BYTES = {4: 50, 6: 70}
_PLAIN = ("0.0.0.0/0", "::/0")


def _mend(one: Endpoint) -> str:
    return f"`podlane endpoint check {one.id} --repair` mends it"


def host_end(report: Report) -> Iterator[Finding]:
    """The node's end is there, up, and as recorded; the node routes to the pod by it."""
    if report.devices is None:
        return
    for one in report.settled:
        name = one.link.host_ifname
        device = report.devices.get(name)
        if device is None:
            advice = "`podlane gc` takes the endpoint away; the pod is to be started again"
            yield Finding(one.title, f"the kernel has no {name}, which it stands on", advice)
            continue
        if not device.up:
            yield Finding(one.title, f"{name} is down", _mend(one))
        pairs = {
            "ifindex": (one.link.host_ifindex, device.ifindex),
            "MAC": (one.link.host_mac, device.mac),
            "MTU": (one.link.mtu or device.mtu, device.mtu),
        }
        for what, (has, is_) in pairs.items():
            if has != is_:
                yield Finding(one.title, f"{name} has {what} {is_}, recorded is {has}", _mend(one))
        if not one.link.chained:
            yield from _led_to(report, one)


def _led_to(report: Report, one: Endpoint) -> Iterator[Finding]:
    name = one.link.host_ifname
    routes = {
        (route.get("dst"), route.get("dev"))
        for family in (4, 6)
        for route in report.items(f"kernel/ip/routes{family}.json")
    }
    neighbours = report.get("kernel/ip/neighbours.json")
    known = {(entry.get("dst"), entry.get("dev")): entry.get("lladdr") for entry in neighbours or ()}
    for address in one.addresses:
        if (
            report.get(f"kernel/ip/routes{ip_address(address).version}.json") is not None
            and (address, name) not in routes
        ):
            yield Finding(one.title, f"the node has no route to {address} by {name}", _mend(one))
        if neighbours is not None and known.get((address, name)) != one.link.pod_mac:
            has = known.get((address, name)) or "none"
            yield Finding(
                one.title, f"the node's neighbour {address} has MAC {has}, the pod has {one.link.pod_mac}", _mend(one)
            )


def attached(report: Report) -> Iterator[Finding]:
    """The programs that hang at the node's end are the endpoint's."""
    filters = report.get("kernel/ip/filters.json")
    mode = (report.get("loader/node.json") or report.settings.get("loader") or {}).get("attach_mode")
    if filters is None or mode != "tc":
        return
    for one in report.settled:
        datapath = (report.datapaths or {}).get(one.id)
        hooks = filters.get(one.link.host_ifname)
        if datapath is None or hooks is None:
            continue
        for hook, name in (("ingress", "from_container"), ("egress", "to_container")):
            wanted = datapath.programs.get(name)
            there = _programs(hooks.get(hook))
            if wanted is not None and wanted not in there:
                has = f"has programs {sorted(there)}" if there else "has no program"
                yield Finding(
                    one.title,
                    f"tc {hook} of {one.link.host_ifname} {has}, recorded is {name} ({wanted})",
                    f"`podlane endpoint regenerate {one.id}` attaches them again",
                )


def _programs(told: Any) -> set[int]:
    if not isinstance(told, list):
        return set()
    return {one["options"]["prog"]["id"] for one in told if "prog" in (one.get("options") or {})}


def pod_end(report: Report) -> Iterator[Finding]:
    """The pod's end has its addresses, MAC, MTU and routes, and its gateway answers."""
    for one in report.settled:
        key = Attachment(*one.owner).host_ifname()
        inside = report.pods.get(key)
        if inside is None:
            continue
        if inside.error:
            gone = f"its namespace {one.link.netns_path} can't be looked at: {inside.error}"
            yield Finding(one.title, gone, "`podlane gc --dry-run` tells whether its pod is gone")
        elif one.link.netns_inode and inside.netns_inode != one.link.netns_inode:
            is_ = f"{inside.netns_inode} is at {one.link.netns_path}, its own is {one.link.netns_inode}"
            yield Finding(
                one.title, f"another namespace: {is_}", "`podlane gc --dry-run` tells whether its pod is gone"
            )
        else:
            yield from _pods_device(one, inside)
            yield from _pods_routes(one, inside, (report.get("files/state.json") or {}).get(f"links/{key}.json"))


def _pods_device(one: Endpoint, inside: Inside) -> Iterator[Finding]:
    name = one.owner[2]
    device = inside.devices.get(name)
    if device is None:
        yield Finding(one.title, f"there is no {name} in its namespace", "the pod is to be started again")
        return
    if not device.up:
        yield Finding(one.title, f"{name} is down inside", _mend(one))
    if device.mac != one.link.pod_mac:
        yield Finding(one.title, f"{name} has MAC {device.mac} inside, recorded is {one.link.pod_mac}", _mend(one))
    if one.link.mtu and device.mtu > one.link.mtu:
        yield Finding(one.title, f"{name} has MTU {device.mtu} inside, recorded is {one.link.mtu}", _mend(one))
    for address in one.addresses:
        if address not in device.addresses:
            yield Finding(one.title, f"{name} hasn't the address {address} inside", _mend(one))


def _pods_routes(one: Endpoint, inside: Inside, asked: Any) -> Iterator[Finding]:
    name = one.owner[2]
    there = {(route.get("dst"), route.get("gateway", "")) for route in inside.routes if route.get("dev") == name}
    for destination, gateway, *_ in (asked or {}).get("asked", {}).get("routes", ()) if not one.link.chained else ():
        wanted = "default" if destination in _PLAIN else destination.removesuffix("/32").removesuffix("/128")
        if (wanted, gateway) not in there:
            by = f" by {gateway}" if gateway else ""
            yield Finding(one.title, f"there is no route to {wanted}{by} inside, over {name}", _mend(one))
    for entry in inside.neighbours:
        if entry.get("dst") in one.gateways and "FAILED" in entry.get("state", ()):
            yield Finding(
                one.title,
                f"its gateway {entry['dst']} doesn't answer it",
                f"`podlane endpoint config {one.id}` shows whether arp-responder is on",
            )


def _families(report: Report) -> set[int]:
    return {ip_address(address).version for one in report.endpoints for address in one.addresses}


def forwarding(report: Report) -> Iterator[Finding]:
    """The node forwards for the families that pods have, and no chain drops what it forwards."""
    names = {4: "net/ipv4/ip_forward", 6: "net/ipv6/conf/all/forwarding"}
    for family in sorted(_families(report)):
        if report.sysctls.get(names[family]) == "0":
            yield Finding(
                f"sysctl {names[family]}",
                f"is 0: pods' IPv{family} packets leave the node for nowhere",
                f"`sysctl -w {names[family].replace('/', '.')}=1`, and look who has set it",
            )
        rules = str(report.get("kernel/iptables.txt" if family == 4 else "kernel/ip6tables.txt") or "")
        for range_ in _ranges(report, family) if _drops(rules) else ():
            if f"-A FORWARD -s {range_} " not in rules:
                tool = "iptables" if family == 4 else "ip6tables"
                yield Finding(
                    "chain FORWARD",
                    f"its policy is DROP, and it doesn't accept what {range_} sends: pods don't reach the world",
                    f"`{tool} -A FORWARD -s {range_} -j ACCEPT`, and the same with -d",
                )


def _drops(rules: str) -> bool:
    table = ""
    for line in rules.splitlines():
        if line.startswith("*"):
            table = line[1:]
        if table == "filter" and line.startswith(":FORWARD DROP"):
            return True
    return False


def _ranges(report: Report, family: int) -> list[str]:
    config = (report.get("loader/node.json") or {}).get("config") or {}
    return [one for one in config.get("pod_cidrs", ()) if ip_network(one).version == family]


def reverse_path(report: Report) -> Iterator[Finding]:
    """Strict reverse path filtering is off where podlane has switched it off."""
    everywhere = report.sysctls.get("net/ipv4/conf/all/rp_filter")
    if everywhere == "1":
        yield Finding(
            "sysctl net/ipv4/conf/all/rp_filter",
            "is 1, which holds for pods' devices, too, where podlane has set 0",
            "`sysctl -w net.ipv4.conf.all.rp_filter=2`, and look who has set it",
        )
    for one in report.settled:
        if report.sysctls.get(f"net/ipv4/conf/{one.link.host_ifname}/rp_filter") == "1" and not one.link.chained:
            yield Finding(
                one.title,
                f"rp_filter of {one.link.host_ifname} is 1, podlane has set 0",
                f"`sysctl -w net.ipv4.conf.{one.link.host_ifname}.rp_filter=0`, and look who has set it",
            )


def mtu(report: Report) -> Iterator[Finding]:
    """Pods' packets fit on the way to other nodes."""
    node = report.get("loader/node.json") or {}
    underlay = node.get("underlay")
    if not underlay or not node.get("config"):
        return
    overlay = node["config"]["routing"] == "overlay"
    room = underlay["mtu"] - (_OVERLAY_BYTES[ip_address(underlay["address"]).version] if overlay else 0)
    if node["mtu"] > room:
        yield Finding(
            f"device {underlay['device']}",
            f"has MTU {underlay['mtu']}, which leaves pods {room} bytes; they get {node['mtu']}",
            "set [loader] mtu, or none; pods that run keep theirs until they are started again",
        )
