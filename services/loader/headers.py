"""The two headers that the loader generates: `globals/node_config.h` and `<id>/ep_config.h`. Pure text.

What is in them decides the *shape* of the code, and so which compiled template an endpoint uses. Values that differ
from pod to pod are constants of `.rodata` or variables of a map: never put one here, each would cost a compile. The
samples in `bpf/` explain every line; a test holds the tables below equal to them.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.loader.model import HOST_ROUTING, NodeConfig, Routing


@dataclass(frozen=True, slots=True)
class Option:
    """A switch of an endpoint: its define in ep_config.h, its default, and one sentence for `podlane config list`."""

    define: str
    default: bool
    text: str


OPTIONS: Mapping[str, Option] = {
    "debug": Option("ENABLE_DEBUG", default=False, text="Print drops and deliveries to the kernel's trace pipe"),
    "source-ip-verification": Option(
        "ENABLE_SOURCE_IP_VERIFICATION", default=True, text="Drop packets whose source address is not the endpoint's"
    ),
    "arp-responder": Option(
        "ENABLE_ARP_RESPONDER", default=True, text="Answer ARP and ND for the gateway in the program, not in the stack"
    ),
    "policy-accounting": Option(
        "ENABLE_POLICY_ACCOUNTING", default=False, text="Count packets and bytes in each policy entry"
    ),
    "drop-notify": Option(
        "ENABLE_DROP_NOTIFY",
        default=True,
        text="Tell listeners of each dropped packet, with its reason and its source line",
    ),
    "trace": Option("ENABLE_TRACE", default=False, text="Tell listeners of each packet at the points of its way"),
    "policy-verdict": Option(
        "ENABLE_POLICY_VERDICT", default=False, text="Tell listeners of each verdict of policy, also when it allows"
    ),
    "conntrack": Option(
        "ENABLE_CONNTRACK",
        default=True,
        text="Track connections: replies of allowed flows pass without being asked about",
    ),
    "flow-accounting": Option(
        "ENABLE_FLOW_ACCOUNTING", default=True, text="Count packets and bytes of each tracked connection, both ways"
    ),
    "connection-events": Option(
        "ENABLE_CONNECTION_EVENTS",
        default=False,
        text="Tell listeners of each tracked connection that is opened or closed",
    ),
    HOST_ROUTING: Option(
        "ENABLE_HOST_ROUTING",
        default=False,
        text="Send packets from and to other pods by the node's stack: iptables and queues hold for them",
    ),
}

# Entries; what each map is for stands in the sample.
SIZES: Mapping[str, int] = {
    "ENDPOINTS_MAP_SIZE": 65535,
    "CALL_POLICY_MAP_SIZE": 65536,
    "POLICY_MAP_SIZE": 16384,
    "PREFIXES_MAP_SIZE": 65536,
    "METRICS_MAP_SIZE": 65536,
    "EVENTS_RING_SIZE": 1 << 20,
    "CONNTRACK_MAP_SIZE": 131072,
    "IPCACHE_MAP_SIZE": 512000,
}


def of_node(config: NodeConfig | None) -> str:
    """Return the node_config.h of a node, None: that isn't configured. An underlay family that isn't 6 is IPv4."""
    return node_config(cluster=cluster(config) if config is not None else ())


def cluster(config: NodeConfig) -> tuple[str, ...]:
    """Return the defines that other nodes ask for, none on a node that is alone."""
    if config.routing is Routing.ALONE:
        return ()
    if config.routing is Routing.NATIVE:
        return ("ENABLE_CLUSTER",)
    ipv6 = ("ENABLE_UNDERLAY_IPV6",) if config.underlay_family == 6 else ()
    return ("ENABLE_CLUSTER", "ENABLE_OVERLAY", f"TUNNEL_PORT {config.tunnel_port}", *ipv6)


def node_config(sizes: Mapping[str, int] = SIZES, *, cluster: Sequence[str] = ()) -> str:
    """Return node_config.h; `cluster` are defines beyond the sizes."""
    lines = [f"#define {name} {value}" for name, value in sizes.items()]
    lines += [f"#define {define}" for define in cluster]
    return "\n".join(
        ["/* Written by podlane-loader: what all endpoints of this node share. */", "#pragma once", *lines, ""]
    )


def ep_config(options: Mapping[str, bool]) -> str:
    """Return ep_config.h; `options` are the switches that differ from the default."""
    lines = ["/* Written by podlane-loader: the switches of this endpoint. */", "#pragma once"]
    for name, option in OPTIONS.items():
        enabled = options.get(name, option.default)
        lines.append(f"#define {option.define}" if enabled else f"/* {option.define} is off */")
    return "\n".join([*lines, ""])


def changed(before: str | None, after: str) -> list[str]:
    """Say which switches differ between two ep_config.h as `ep_config` writes them; no header before: nothing."""
    if before is None:
        return []
    old, new = frozenset(before.splitlines()), frozenset(after.splitlines())
    return [
        f"option {name}: {'off → on' if f'#define {one.define}' in new else 'on → off'}"
        for name, one in OPTIONS.items()
        if (f"#define {one.define}" in old) != (f"#define {one.define}" in new)
    ]


def digest(header: str) -> str:
    """Return a header's SHA-256, hex."""
    return hashlib.sha256(header.encode()).hexdigest()
