"""Every setting of podlane, with its default, in one place.

One TOML file serves all three services and the CLI; configfile.py reads it. Paths that aren't set are derived from the
two directories of `[node]`, so that several nodes can run on one machine.

What stands below a setting is its documentation: docs/settings.md is made of it.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

# Of a setting that can also be empty: the socket that follows from run_dir.
DERIVED = "unix"


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """What all services of a node share."""

    name: str = field(default_factory=lambda: os.uname().nodename)
    """The node's name in records and in the kvstore."""
    run_dir: Path = Path("/run/podlane")
    """Sockets, pid files, logs and the loader's state directory; gone after a reboot, as links and maps are."""
    lib_dir: Path = Path("/var/lib/podlane")
    """Databases; outlives a reboot."""
    bpffs: Path = Path("/sys/fs/bpf")
    """A bpffs mount; podlane pins below `podlane/` in it."""
    log_level: str = "info"
    """debug, info, warning or error."""
    log_format: str = "auto"
    """json, console, or auto: console when stderr is a terminal."""


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """One address pool."""

    name: str
    """Referred to by `pool` in the CNI configuration."""
    ranges: tuple[str, ...] = ()
    """CIDRs of either family that are this node's own, e.g. 10.244.0.0/24 and fd00:10:244::/112."""
    exclude: tuple[str, ...] = ()
    """CIDRs or addresses that are never given out."""
    mtu: int = 0
    """Bytes; 0 lets the loader take the node's."""
    delegated: bool = False
    """For interfaces that other plugins make with podlane-ipam, and not for podlane's own: each range has a gateway of
    its own, and the node's datapath knows nothing of it."""
    cluster_ranges: tuple[str, ...] = ()
    """Instead of `ranges`: CIDRs of the whole cluster, of which each node claims parts in the kvstore."""
    node_prefix_v4: int = 24
    """Prefix length of one claim of IPv4; the same on all nodes."""
    node_prefix_v6: int = 112
    """Prefix length of one claim of IPv6; the same on all nodes."""
    spare: int = 16
    """With fewer free addresses in a family another claim is made; with twice as many elsewhere one is given back."""
    release_after_seconds: float = 300.0
    """A claim is given back when nobody has held an address of it for this long."""


@dataclass(frozen=True, slots=True)
class IpamSettings:
    """The ipam service."""

    socket: Path = Path()
    """Default: <run_dir>/ipam/ipam.sock."""
    database: Path = Path()
    """Default: <lib_dir>/ipam.sqlite."""
    cooldown_seconds: float = 30.0
    """A released address is not handed out again before this, unless nothing else is left."""
    reservation_seconds: float = 600.0
    """A reservation that no endpoint confirms is taken back after this."""
    metrics_listen: str = DERIVED
    """Where Prometheus finds /metrics: a socket's path or host:port; empty: nowhere. Default:
    <run_dir>/ipam/metrics.sock."""
    claim_check_seconds: float = 60.0
    """How often this node's claims of cluster ranges are looked at in the kvstore."""
    pools: tuple[PoolSettings, ...] = (PoolSettings("default", ("10.244.0.0/24", "fd00:10:244::/112")),)
    """`[[ipam.pools]]`; the one named `default` serves requests that name none."""


@dataclass(frozen=True, slots=True)
class LoaderSettings:
    """The loader service."""

    socket: Path = Path()
    """Default: <run_dir>/loader/loader.sock."""
    state_dir: Path = Path()
    """Default: <run_dir>/state. Headers, templates, link records."""
    bpf_dir: Path = Path(__file__).resolve().parents[2] / "bpf"
    """The C sources."""
    objects_dir: Path = Path()
    """Prebuilt objects by shape hash; unset: compile with clang."""
    clang: str = "clang"
    """The compiler."""
    spare_programs: int = 8
    """So many endpoints to come have their programs verified before they are asked for, about 40 KiB each; 0: none."""
    attach_mode: str = "tc"
    """How programs hang on pods' links: tc (cls_bpf on clsact) or tcx."""
    overlay_attach_mode: str = "tcx"
    """How programs hang on the overlay's device: tcx, or tc where the kernel is older than 6.6; tc: in any case."""
    mtu: int = 0
    """MTU of pod interfaces in bytes; 0: that of the device with the default route."""
    masquerade: bool = True
    """Masquerade pod traffic that leaves the pod CIDRs."""
    metrics_listen: str = DERIVED
    """Where Prometheus finds /metrics: a socket's path or host:port; empty: nowhere. Default:
    <run_dir>/loader/metrics.sock."""


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """The endpoint service."""

    socket: Path = Path()
    """Default: <run_dir>/endpoint/endpoint.sock."""
    database: Path = Path()
    """Default: <lib_dir>/endpoint.sqlite."""
    journal_dir: Path = Path()
    """Default: <lib_dir>/deletions. What CNI DEL journals while a service is away; the plugin's `journalDir` is the
    same directory."""
    journal_max_days: float = 7.0
    """A journalled deletion that is older and fails although ipam and the loader answer is given up: `podlane gc`."""
    policy_dir: Path = Path("/etc/podlane/policy.d")
    """Policies in its files (*.yaml, *.yml, *.json) are in force; it need not be there. Empty: none is watched."""
    queue_size: int = 25
    """Events that may wait in one endpoint's queue."""
    build_permits: int = 0
    """Regenerations at a time; 0: max(2, number of CPUs)."""
    create_permits: int = 0
    """Creations at a time, the others wait in a line; 0: twice the number of CPUs."""
    peer_wait_seconds: float = 2.0
    """How long a call waits for ipam or the loader to come up before it is UNAVAILABLE."""
    regenerate_interval_seconds: float = 120.0
    """From the end of a periodic regeneration of all endpoints to the next; it loads only what is needed."""
    publish_interval_seconds: float = 300.0
    """How often an endpoint's record in the kvstore is looked at although nothing has changed."""
    gc_interval_seconds: float = 300.0
    """From one search for what is left of pods that are gone to the next; 0: only when asked (`podlane gc`)."""
    gc_grace_seconds: float = 120.0
    """A link that was asked for less than this ago may be a pod's that is being started, and is never removed."""
    identity_labels: tuple[str, ...] = ()
    """Which labels are part of identities: prefixes of keys, `!` in front leaves out (docs/policy.md)."""
    identity_grace_seconds: float = 600.0
    """An identity that no endpoint has any more keeps its number for this long."""
    identity_gc_interval_seconds: float = 900.0
    """In a cluster: an identity that no node refers to is taken out of the kvstore after two of these."""
    allow_from_host: bool = True
    """A pod's own node always reaches it, whatever its policies: probes of the kubelet."""
    allow_to_host: bool = False
    """A pod always reaches its own node, whatever its policies."""
    init_policy: str = "allow"
    """What a pod may do whose labels aren't known yet: allow (everything) or deny (its own node reaches it)."""
    history_size: int = 4096
    """Events that are kept for `podlane monitor --last`; 0-1000000."""
    metrics_listen: str = DERIVED
    """Where Prometheus finds /metrics: a socket's path or host:port; empty: nowhere. Default:
    <run_dir>/endpoint/metrics.sock."""


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """The nodes that this one shares identities, addresses and policies with; without a kvstore it is alone."""

    name: str = "default"
    """The cluster's; a kvstore that belongs to another one is refused."""
    routing: str = "overlay"
    """How pods of other nodes are reached: overlay (VXLAN with the identity in the VNI) or native (routes)."""
    underlay_device: str = ""
    """The device that leads to the other nodes; empty: that of the default route."""
    underlay_family: int = 0
    """4 or 6: by which addresses nodes reach each other; 0: IPv4 where the device has such an address."""
    tunnel_port: int = 8472
    """UDP port of the overlay."""
    cidrs: tuple[str, ...] = ()
    """Ranges of all nodes' pods, which are never masqueraded; other nodes' ranges are known once they were seen."""


@dataclass(frozen=True, slots=True)
class KvstoreSettings:
    """etcd; without endpoints the embedded store serves, and the node is alone."""

    endpoints: tuple[str, ...] = ()
    """Its members, e.g. https://10.0.0.1:2379; any of them may be down. https needs `ca`."""
    root: str = "podlane"
    """All keys begin with it."""
    ca: Path = Path()
    """PEM file of the authority that has signed etcd's certificate."""
    certificate: Path = Path()
    """PEM file of the client's certificate, with `key`, where etcd asks for one."""
    key: Path = Path()
    """PEM file of the client's key."""
    username: str = ""
    """Where etcd has authentication on; with `password_file`."""
    password_file: Path = Path()
    """A file that holds the password, and a final newline or none."""
    lease_seconds: int = 900
    """What a node has published outlives the node by this; 25-86400."""
    timeout_seconds: float = 5.0
    """For how long one request is tried, at all members together."""
    requests_per_second: float = 200.0
    """More than that wait for their turn; 0: no limit."""
    requests_in_flight: int = 32
    """More than that wait for their turn."""


@dataclass(frozen=True, slots=True)
class TelemetrySettings:
    """What is told to other systems."""

    otlp_endpoint: str = ""
    """An OpenTelemetry collector that gets a trace of each ADD by OTLP over gRPC, e.g. http://127.0.0.1:4317. Default:
    what OTEL_EXPORTER_OTLP_TRACES_ENDPOINT or OTEL_EXPORTER_OTLP_ENDPOINT says; empty: nobody does."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings; configfile.py makes them."""

    node: NodeSettings = field(default_factory=NodeSettings)
    ipam: IpamSettings = field(default_factory=IpamSettings)
    loader: LoaderSettings = field(default_factory=LoaderSettings)
    endpoint: EndpointSettings = field(default_factory=EndpointSettings)
    cluster: ClusterSettings = field(default_factory=ClusterSettings)
    kvstore: KvstoreSettings = field(default_factory=KvstoreSettings)
    telemetry: TelemetrySettings = field(default_factory=TelemetrySettings)
