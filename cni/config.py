"""The network configuration on stdin, and CNI_ARGS: what podlane reads of them, key by key.

A key that podlane doesn't know is ignored, as the specification wants. One that it knows and that has the wrong type or
an impossible value is refused by name: a typo must not become a default. Only the keys that a verb uses are read, so
that a pod can be taken down although somebody broke what only an ADD needs.

podlane-ipam has its keys in `ipam` (ipamconfig.py).

    every verb   name, cniVersion, ipamSocket, loaderSocket, endpointSocket, timeoutSeconds, journalDir, logFile,
                 logLevel
    ADD          chaining-mode, prevResult (chain.py); mtu, routeMtu, pool, gsoMaxSize, groMaxSize, gsoIpv4MaxSize,
                 groIpv4MaxSize, labels, dns, options, runtimeConfig.mac, runtimeConfig.ips,
                 runtimeConfig.bandwidth, args.cni.labels;
                 CNI_ARGS: IP, MAC, K8S_POD_NAMESPACE, K8S_POD_NAME, K8S_POD_UID
    CHECK        prevResult
    STATUS       pool
    GC           cni.dev/valid-attachments

What the runtime puts into runtimeConfig (capabilities) goes before CNI_ARGS, which anyone may set. `labels` are for
every pod of the network; what the runtime says of this one pod in args.cni.labels (CNI conventions: a list of objects
with key and value) goes before them.

`options` are switches that a new endpoint begins with (`podlane endpoint config`). A pod that the runtime wants a
bandwidth for has `host-routing`: the bandwidth plugin behind podlane queues what passes the pod's interfaces on the
node, and packets between pods would go past them.
"""

import _socket

from cni import jsontext
from cni.spec import (
    BAD_CONFIG,
    BAD_ENVIRONMENT,
    DECODE_FAILURE,
    CniError,
    Environment,
    check_name,
    check_version,
    quoted,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SERVICES = ("ipam", "loader", "endpoint")
SOCKETS = {service: f"/run/podlane/{service}/{service}.sock" for service in SERVICES}
# What DEL journals while a service is away (journal.py); podlane-endpoint's [endpoint] journal_dir.
JOURNAL = "/var/lib/podlane/deletions"
PATH_BYTES = 4095
# sun_path has 108 bytes, one of them for the end (unix(7)).
SOCKET_PATH_BYTES = 107
TIMEOUT_SECONDS, LONGEST_TIMEOUT_SECONDS = 60, 3600
LOG_LEVELS = ("debug", "info", "error")
LARGEST_NUMBER = (1 << 32) - 1
# Argument: what CreateLink calls it.
OFFLOAD_KEYS = {
    "gsoMaxSize": "gso_max_size",
    "groMaxSize": "gro_max_size",
    "gsoIpv4MaxSize": "gso_ipv4_max_size",
    "groIpv4MaxSize": "gro_ipv4_max_size",
}
# As Cilium has them; True: behind a plugin whose veth pair is taken over.
CHAINING_MODES = {
    "none": False,
    "portmap": False,
    "generic-veth": True,
    "aws-cni": True,
    "azure": True,
    "flannel": True,
}
POD_ARGS = {"K8S_POD_NAMESPACE": "namespace", "K8S_POD_NAME": "name", "K8S_POD_UID": "uid"}
HOST_ROUTING = "host-routing"
OTHER_ARGS = ("IP", "MAC", "IgnoreUnknown", "K8S_POD_INFRA_CONTAINER_ID")


def parse(stdin: bytes) -> "dict[str, Any]":
    """Return the configuration object. Raises CniError with code 6."""
    try:
        document = jsontext.loads(stdin.decode())
    except (ValueError, RecursionError) as error:
        found = "nothing" if not stdin.strip() else f"{len(stdin)} bytes that are not JSON: {error}"
        raise CniError(DECODE_FAILURE, f"stdin: a network configuration is needed, this is {found}") from None
    if not isinstance(document, dict):
        raise CniError(DECODE_FAILURE, f"stdin: a network configuration is a JSON object, this is {quoted(document)}")
    return document


class Config:
    """What every verb needs. `document` is the whole object, for what only one verb reads."""

    __slots__ = ("document", "journal", "log_file", "log_level", "network", "sockets", "timeout", "version")

    services: "tuple[str, ...]" = SERVICES
    # What a DEL takes away, and journals: no endpoint and no link.
    addresses_only = False

    def __init__(self, document: "dict[str, Any]", verb: str) -> None:
        """Check; raises CniError with code 1 or 7 that names the key."""
        self.document = document
        self.version = check_version(document.get("cniVersion"), verb)
        self.network = text(document, "name")
        if not self.network:
            raise CniError(BAD_CONFIG, "name is missing; it is the network's name in every record")
        check_name("name", self.network, BAD_CONFIG)
        table, prefix = self._own(document)
        self.sockets = {one: _path(table, f"{one}Socket", SOCKETS[one], prefix) for one in self.services}
        self.timeout = _timeout(table, prefix)
        self.journal = _path(table, "journalDir", JOURNAL, prefix, longest=PATH_BYTES).rstrip("/")
        self.log_file = _path(table, "logFile", "", prefix, longest=PATH_BYTES)
        self.log_level = text(table, "logLevel", "info", prefix)
        if self.log_level not in LOG_LEVELS:
            problem = f"{quoted(self.log_level)} is not one of {', '.join(LOG_LEVELS)}"
            raise CniError(BAD_CONFIG, f"{prefix}logLevel {problem}")

    def _own(self, document: "dict[str, Any]") -> "tuple[dict[str, Any], str]":
        """Return the object that podlane's own keys are in, and what stands before their names."""
        return document, ""


class LinkConfig:
    """What an ADD asks for: mtu, route_mtu, pool, offload (as CreateLink names them), labels, options (as
    CreateEndpoint has them), dns, mac, requested, pod.

    `mac` is b"" and `requested` [] when nothing is asked for; addresses are packed.
    """

    __slots__ = ("dns", "labels", "mac", "mtu", "offload", "options", "pod", "pool", "requested", "route_mtu")

    def __init__(self, document: "dict[str, Any]", environment: Environment) -> None:
        """Check; raises CniError with code 7, or 4 for CNI_ARGS."""
        self.mtu = number(document, "mtu")
        self.route_mtu = number(document, "routeMtu")
        self.pool = text(document, "pool")
        self.offload = {field: number(document, key) for key, field in OFFLOAD_KEYS.items() if key in document}
        self.labels = pod_labels(document)
        self.options = endpoint_options(document)
        self.dns = typed(document, "dns", dict, "an object", {})
        runtime = typed(document, "runtimeConfig", dict, "an object", {})
        arguments = parse_args(environment)
        self.pod = pod_of(arguments)
        mac = text(runtime, "mac", prefix="runtimeConfig.")
        self.mac = (
            parse_mac("runtimeConfig.mac", mac, BAD_CONFIG)
            if mac
            else parse_mac("CNI_ARGS MAC", arguments.get("MAC", ""), BAD_ENVIRONMENT)
        )
        ips = texts(runtime, "ips", prefix="runtimeConfig.")
        self.requested = parse_addresses("runtimeConfig.ips", ips, BAD_CONFIG) if ips else parse_ip_argument(arguments)


def typed(table: "dict[str, Any]", key: str, kind: type, words: str, default: "Any", *, prefix: str = "") -> "Any":
    """Return a key's value of the type, the default if it is absent. Raises CniError with code 7."""
    value = table.get(key, default)
    # JSON's true is Python's bool, which is an int.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise CniError(BAD_CONFIG, f"{prefix}{key} must be {words}, not {quoted(value)}")
    return value


def text(table: "dict[str, Any]", key: str, default: str = "", prefix: str = "") -> str:
    """Return a string."""
    value: str = typed(table, key, str, "a string", default, prefix=prefix)
    return _whole(f"{prefix}{key}", value)


def _whole(name: str, value: str) -> str:
    # JSON can write half of a surrogate pair, UTF-8 and with it protobuf can't.
    try:
        value.encode()
    except UnicodeEncodeError:
        raise CniError(BAD_CONFIG, f"{name} {quoted(value)} is not Unicode: half of a surrogate pair") from None
    return value


def texts(table: "dict[str, Any]", key: str, prefix: str = "") -> list[str]:
    """Return a list of strings."""
    values: list[str] = typed(table, key, list, "a list of strings", [], prefix=prefix)
    if not all(isinstance(value, str) for value in values):
        raise CniError(BAD_CONFIG, f"{prefix}{key} must be a list of strings, not {quoted(values)}")
    return values


def number(table: "dict[str, Any]", key: str) -> int:
    """Return a number that fits 32 bits; which of them make sense is the service's to say."""
    value: int = typed(table, key, int, "a whole number", 0)
    if not 0 <= value <= LARGEST_NUMBER:
        raise CniError(BAD_CONFIG, f"{key} must be between 0 and {LARGEST_NUMBER}, not {value}")
    return value


def _path(table: "dict[str, Any]", key: str, default: str, prefix: str, longest: int = SOCKET_PATH_BYTES) -> str:
    path = text(table, key, default, prefix)
    if path and not path.startswith("/"):
        raise CniError(BAD_CONFIG, f"{prefix}{key} {quoted(path)} is not an absolute path")
    if "\0" in path or len(path.encode()) > longest:
        raise CniError(BAD_CONFIG, f"{prefix}{key} {quoted(path)} must have at most {longest} bytes and no NUL")
    return path or default


def _timeout(table: "dict[str, Any]", prefix: str) -> float:
    value = table.get("timeoutSeconds", TIMEOUT_SECONDS)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= LONGEST_TIMEOUT_SECONDS:
        problem = f"must be a number up to {LONGEST_TIMEOUT_SECONDS}, not {quoted(value)}"
        raise CniError(BAD_CONFIG, f"{prefix}timeoutSeconds {problem}")
    return float(value)


def chains(document: "dict[str, Any]") -> bool:
    """Return whether an ADD takes over what the plugin before has made: it does when there is one, unless
    `chaining-mode` says otherwise. Raises CniError with code 7 when mode and place in the list don't fit.
    """
    mode, behind = text(document, "chaining-mode"), "prevResult" in document
    if mode and mode not in CHAINING_MODES:
        raise CniError(BAD_CONFIG, f"chaining-mode {quoted(mode)} is not one of {', '.join(CHAINING_MODES)}")
    if behind and mode and not CHAINING_MODES[mode]:
        raise CniError(
            BAD_CONFIG,
            f"chaining-mode {mode} makes podlane the first plugin of the list, and prevResult says that another one "
            "was before it; generic-veth takes its interface over",
        )
    if not behind and CHAINING_MODES.get(mode):
        raise CniError(
            BAD_CONFIG, f"chaining-mode {mode} needs prevResult: put podlane behind the plugin that makes the interface"
        )
    return behind


def pod_of(arguments: dict[str, str]) -> dict[str, str]:
    """Return the pod that CNI_ARGS name, as the services have it."""
    return {field: arguments.get(name, "") for name, field in POD_ARGS.items()}


def endpoint_options(document: "dict[str, Any]") -> "list[dict[str, Any]]":
    """Return the switches that the endpoint begins with, as CreateEndpoint has them."""
    options: dict[str, bool] = typed(document, "options", dict, "an object of true and false", {})
    for name, enabled in options.items():
        if not isinstance(enabled, bool):
            raise CniError(BAD_CONFIG, f"options.{name} must be true or false, not {quoted(enabled)}")
        _whole("options", name)
    runtime = typed(document, "runtimeConfig", dict, "an object", {})
    if typed(runtime, "bandwidth", dict, "an object", {}, prefix="runtimeConfig."):
        options = {HOST_ROUTING: True, **options}
    return [{"name": name, "enabled": options[name]} for name in sorted(options)]


def pod_labels(document: "dict[str, Any]") -> dict[str, str]:
    """Return the network's labels, and over them the pod's."""
    return {**_labels(document), **_pod_labels(document)}


def _labels(document: "dict[str, Any]") -> dict[str, str]:
    labels: dict[str, str] = typed(document, "labels", dict, "an object of strings", {})
    for name, value in labels.items():
        if not isinstance(value, str):
            raise CniError(BAD_CONFIG, f"labels.{name} must be a string, not {quoted(value)}")
        _whole(f"labels.{name}", value)
        _whole("labels", name)
    return labels


def _pod_labels(document: "dict[str, Any]") -> dict[str, str]:
    """Return args.cni.labels; anything else in args is somebody else's."""
    arguments = typed(document, "args", dict, "an object", {})
    ours = typed(arguments, "cni", dict, "an object", {}, prefix="args.")
    listed = typed(ours, "labels", list, "a list of objects with key and value", [], prefix="args.cni.")
    labels: dict[str, str] = {}
    for place, one in enumerate(listed):
        name = f"args.cni.labels[{place}]"
        if not isinstance(one, dict):
            raise CniError(BAD_CONFIG, f"{name} must be an object with key and value, not {quoted(one)}")
        key, value = text(one, "key", prefix=f"{name}."), text(one, "value", prefix=f"{name}.")
        if not key:
            raise CniError(BAD_CONFIG, f"{name}.key is missing")
        if key in labels:
            raise CniError(BAD_CONFIG, f"{name}.key {quoted(key)} is there twice")
        labels[key] = value
    return labels


def parse_args(environment: Environment) -> dict[str, str]:
    """Return CNI_ARGS (`A=1;B=2`) as a dict. Raises CniError with code 4."""
    arguments: dict[str, str] = {}
    for pair in environment.text("CNI_ARGS").split(";"):
        key, equals, value = pair.partition("=")
        if pair and not equals:
            raise CniError(BAD_ENVIRONMENT, f"CNI_ARGS: {quoted(pair)} is not KEY=VALUE; pairs are separated by ';'")
        if pair:
            arguments[key] = value
    if arguments.get("IgnoreUnknown", "").lower() not in ("1", "true"):
        for key in arguments:
            if key not in POD_ARGS and key not in OTHER_ARGS:
                raise CniError(BAD_ENVIRONMENT, f"CNI_ARGS: {quoted(key)} is not known; IgnoreUnknown=1 lets it pass")
    return arguments


def parse_mac(field: str, text: str, code: int) -> bytes:
    """Return the 6 bytes of `02:00:00:00:00:01`; b"" for no text."""
    parts = text.split(":")
    if not text:
        return b""
    try:
        if len(parts) == 6 and all(len(part) == 2 for part in parts):
            return bytes.fromhex("".join(parts))
    except ValueError:
        pass
    raise CniError(code, f"{field}: {quoted(text)} is not six pairs of hex digits with ':' between them")


def parse_ip_argument(arguments: dict[str, str]) -> list[bytes]:
    """Return the addresses of CNI_ARGS' IP packed; there may be two with ',' between them."""
    return parse_addresses("CNI_ARGS IP", [ip for ip in arguments.get("IP", "").split(",") if ip], BAD_ENVIRONMENT)


def parse_addresses(field: str, texts: list[str], code: int) -> list[bytes]:
    """Return addresses packed. A prefix length is allowed and not used: the pod's follows from the pool."""
    packed = [parse_prefix(field, text, code)[0] for text in texts]
    for size, family_name in ((4, "IPv4"), (16, "IPv6")):
        if sum(len(value) == size for value in packed) > 1:
            raise CniError(code, f"{field}: {quoted(texts)} has more than one {family_name} address; a pod gets one")
    return packed


def parse_prefix(field: str, text: str, code: int) -> tuple[bytes, int]:
    """Return an address packed, and its prefix length; the whole address without one."""
    address, slash, length = text.partition("/")
    family = _socket.AF_INET6 if ":" in address else _socket.AF_INET
    try:
        value = _socket.inet_pton(family, address)
    except (OSError, ValueError):
        raise CniError(code, f"{field}: {quoted(text)} is not an IP address") from None
    longest = len(value) * 8
    if slash and not (length.isdecimal() and len(length) <= 3 and int(length) <= longest):
        raise CniError(code, f"{field}: {quoted(text)} has no prefix length between 0 and {longest}")
    return value, int(length) if slash else longest
