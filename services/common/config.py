"""Every setting of podlane, with its default, in one place.

One TOML file serves all three services and the CLI (`--config FILE`, or PODLANE_CONFIG, or
/etc/podlane/podlane.toml when it exists). A single value can be overridden by the environment:
`PODLANE_IPAM_COOLDOWN_SECONDS=5` is `[ipam] cooldown_seconds = 5`. An unknown or ill-typed key is refused by
name: a typo must not become a default. Paths that aren't set are derived from the two directories of `[node]`,
so that several nodes can run on one machine.
"""

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from services.common.errors import InvalidArgument

DEFAULT_FILE = Path("/etc/podlane/podlane.toml")

# Of a setting that can also be empty: the socket that follows from run_dir.
DERIVED = "unix"

# As every program with OpenTelemetry has them.
_OTLP = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


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
    """So many endpoints to come have their programs verified before they are asked for, about 60 KiB each; 0: none."""
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
    """All settings; use `load` to make one."""

    node: NodeSettings = field(default_factory=NodeSettings)
    ipam: IpamSettings = field(default_factory=IpamSettings)
    loader: LoaderSettings = field(default_factory=LoaderSettings)
    endpoint: EndpointSettings = field(default_factory=EndpointSettings)
    cluster: ClusterSettings = field(default_factory=ClusterSettings)
    kvstore: KvstoreSettings = field(default_factory=KvstoreSettings)
    telemetry: TelemetrySettings = field(default_factory=TelemetrySettings)


def load(file: Path | None, environment: Mapping[str, str]) -> Settings:
    """Read the settings: file (None: PODLANE_CONFIG, else the default file if it exists), then environment.

    Raises InvalidArgument that names the file and the key.
    """
    if file is None and "PODLANE_CONFIG" in environment:
        file = Path(environment["PODLANE_CONFIG"])
    if file is None and DEFAULT_FILE.exists():
        file = DEFAULT_FILE
    document = _read(file) if file is not None else {}
    sections: dict[str, Any] = {}
    for section in dataclasses.fields(Settings):
        origin = f"{file}: [{section.name}]"
        table = document.pop(section.name, {})
        if not isinstance(table, dict):
            raise InvalidArgument(f"{file}: {section.name} must be a table", file=file, key=section.name)
        kind = get_type_hints(Settings)[section.name]
        values = _parse_table(kind, table, origin) | _from_environment(kind, section.name, environment)
        if section.name == "telemetry" and not values.get("otlp_endpoint"):
            values["otlp_endpoint"] = next(filter(None, map(environment.get, _OTLP)), "")
        sections[section.name] = kind(**values)
    if document:
        known = ", ".join(section.name for section in dataclasses.fields(Settings))
        raise InvalidArgument(f"{file}: unknown table {min(document)!r}; there are {known}", file=file)
    return _derive(Settings(**sections))


def _read(file: Path) -> dict[str, Any]:
    import tomllib  # many a command has no file to read

    try:
        return tomllib.loads(file.read_text())
    except OSError as error:
        raise InvalidArgument(f"{file}: cannot be read: {error.strerror}", file=file) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"{file}: not TOML: {error}", file=file) from None


def _parse_table(kind: type, table: Mapping[str, Any], origin: str) -> dict[str, Any]:
    hints = get_type_hints(kind)
    values = {}
    for key, value in table.items():
        if key not in hints:
            raise InvalidArgument(f"{origin} {key}: unknown key; there are {', '.join(hints)}", key=key)
        values[key] = _convert(hints[key], value, f"{origin} {key}")
    return values


def _from_environment(kind: type, section: str, environment: Mapping[str, str]) -> dict[str, Any]:
    values = {}
    for key, hint in get_type_hints(kind).items():
        variable = f"PODLANE_{section}_{key}".upper()
        if variable in environment and hint in _SCALARS:
            values[key] = _convert(hint, _SCALARS[hint](environment[variable], variable), variable)
    return values


def _number(text: str, variable: str, kind: type) -> object:
    try:
        return kind(text)
    except ValueError:
        raise InvalidArgument(f"{variable}: {text!r} is not a number", key=variable) from None


def _flag(text: str, variable: str) -> object:
    flags = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in flags:
        raise InvalidArgument(f"{variable}: {text!r} is neither true nor false", key=variable)
    return flags[text.lower()]


_SCALARS: dict[Any, Any] = {
    str: lambda text, _variable: text,
    Path: lambda text, _variable: text,
    int: lambda text, variable: _number(text, variable, int),
    float: lambda text, variable: _number(text, variable, float),
    bool: _flag,
}


def _convert(hint: Any, value: Any, origin: str) -> Any:
    if hint == tuple[PoolSettings, ...]:
        if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
            raise InvalidArgument(f"{origin}: must be an array of tables", key=origin)
        return tuple(_pool(entry, f"{origin}[{index}]") for index, entry in enumerate(value))
    if hint == tuple[str, ...]:
        if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
            raise InvalidArgument(f"{origin}: must be an array of strings", key=origin)
        return tuple(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise InvalidArgument(f"{origin}: {value!r} must be of type {hint.__name__}", key=origin)
    return value


def _pool(entry: Mapping[str, Any], origin: str) -> PoolSettings:
    values = _parse_table(PoolSettings, entry, origin)
    missing = {"name", "ranges"} - set(values) - ({"ranges"} if "cluster_ranges" in values else set())
    if missing:
        raise InvalidArgument(f"{origin}: needs {' and '.join(sorted(missing))}", key=origin)
    return PoolSettings(**values)


def _derive(settings: Settings) -> Settings:
    """Fill in the paths that follow from the node's two directories."""
    run, lib = settings.node.run_dir, settings.node.lib_dir
    unset = Path()

    def default(path: Path, derived: Path) -> Path:
        return derived if path == unset else path

    def listen(address: str, derived: Path) -> str:
        return str(derived) if address == DERIVED else address

    replace = dataclasses.replace
    return replace(
        settings,
        ipam=replace(
            settings.ipam,
            socket=default(settings.ipam.socket, run / "ipam" / "ipam.sock"),
            metrics_listen=listen(settings.ipam.metrics_listen, run / "ipam" / "metrics.sock"),
            database=default(settings.ipam.database, lib / "ipam.sqlite"),
        ),
        loader=replace(
            settings.loader,
            socket=default(settings.loader.socket, run / "loader" / "loader.sock"),
            metrics_listen=listen(settings.loader.metrics_listen, run / "loader" / "metrics.sock"),
            state_dir=default(settings.loader.state_dir, run / "state"),
        ),
        endpoint=replace(
            settings.endpoint,
            socket=default(settings.endpoint.socket, run / "endpoint" / "endpoint.sock"),
            metrics_listen=listen(settings.endpoint.metrics_listen, run / "endpoint" / "metrics.sock"),
            database=default(settings.endpoint.database, lib / "endpoint.sqlite"),
            journal_dir=default(settings.endpoint.journal_dir, lib / "deletions"),
        ),
    )


def load_from_process(file: Path | None) -> Settings:
    """Read the settings with this process's environment."""
    return load(file, os.environ)
