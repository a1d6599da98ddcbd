"""Between protobuf's shared messages and the values of `model.py`.

Reading checks: a wrong length, a missing message or a bad name raises InvalidArgument that names the field.
Writing never fails.
"""

import functools
import re
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network, ip_network

from google.protobuf.timestamp_pb2 import Timestamp
from podlane.common.v1 import types_pb2 as pb

from services.common.errors import InvalidArgument
from services.common.model import Address, AssignedAddress, Attachment, Interface, Network, Phase, Pod, Route

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*")
_INTERFACES: dict[int, type[IPv4Interface] | type[IPv6Interface]] = {4: IPv4Interface, 6: IPv6Interface}
_NETWORKS: dict[int, type[IPv4Network] | type[IPv6Network]] = {4: IPv4Network, 16: IPv6Network}
_IFNAME_FORBIDDEN = re.compile(r"[/:\s\x00]")


def read_address(message: pb.IpAddress, field: str) -> Address:
    """Return the address, or raise InvalidArgument naming `field`."""
    packed = message.packed
    if len(packed) == 4:
        return IPv4Address(packed)
    if len(packed) == 16:
        return IPv6Address(packed)
    raise InvalidArgument(f"{field}: an IP address has 4 or 16 bytes, this one has {len(packed)}", field=field)


def write_address(address: Address) -> pb.IpAddress:
    """Return the message of an address."""
    return pb.IpAddress(packed=address.packed)


def read_interface(message: pb.IpPrefix, field: str) -> Interface:
    """Return an address with its prefix length; host bits may be set."""
    address = read_address(message.address, f"{field}.address")
    if message.length > address.max_prefixlen:
        raise InvalidArgument(
            f"{field}.length: {message.length} is longer than an IPv{address.version} address", field=field
        )
    # Not ip_interface(): it tries IPv4 first and parses text, four times as slow for what every call reads.
    return _INTERFACES[address.version]((address.packed, message.length))


def read_network(message: pb.IpPrefix, field: str) -> Network:
    """Return a network; set host bits are an error."""
    network = _network(message.address.packed, message.length)
    if network is None:
        interface = read_interface(message, field)
        raise InvalidArgument(f"{field}: {interface} has host bits set; did you mean {interface.network}?", field=field)
    return network


@functools.lru_cache(maxsize=1024)
def _network(packed: bytes, length: int) -> Network | None:
    """Return a network, None when it isn't one. A node has few, and every pod's start names six of them."""
    try:
        return _NETWORKS[len(packed)]((packed, length))
    except (KeyError, ValueError):
        return None


def write_interface(interface: Interface) -> pb.IpPrefix:
    """Return the message of an address with a prefix length."""
    return pb.IpPrefix(address=write_address(interface.ip), length=interface.network.prefixlen)


def write_network(network: Network) -> pb.IpPrefix:
    """Return the message of a network."""
    return pb.IpPrefix(address=write_address(network.network_address), length=network.prefixlen)


def read_mac(message: pb.MacAddress, field: str) -> bytes:
    """Return 6 bytes, or raise InvalidArgument naming `field`."""
    if len(message.packed) != 6:
        raise InvalidArgument(
            f"{field}: a hardware address has 6 bytes, this one has {len(message.packed)}", field=field
        )
    return message.packed


def write_mac(mac: bytes) -> pb.MacAddress:
    """Return the message of a hardware address."""
    return pb.MacAddress(packed=mac)


def check_ifname(name: str, field: str) -> str:
    """Return `name` if the kernel takes it as an interface name (CNI 1.1, §2: CNI_IFNAME)."""
    if not name:
        raise InvalidArgument(f"{field}: an interface name is needed", field=field)
    if len(name.encode()) > 15:
        raise InvalidArgument(f"{field}: {name!r} has {len(name.encode())} bytes, the kernel allows 15", field=field)
    if name in {".", ".."} or _IFNAME_FORBIDDEN.search(name):
        raise InvalidArgument(f"{field}: {name!r} is not an interface name (no '/', ':' or blanks)", field=field)
    return name


def check_name(name: str, field: str) -> str:
    """Return `name` if it is alphanumeric first, then alphanumeric, `_`, `.` or `-` (CNI 1.1, §1 and §2)."""
    if not name:
        raise InvalidArgument(f"{field}: a value is needed", field=field)
    if not _NAME.fullmatch(name):
        raise InvalidArgument(
            f"{field}: {name[:80]!r} must begin with a letter or digit and then hold only those, '_', '.', '-'",
            field=field,
        )
    return name


def read_attachment(message: pb.Attachment, field: str) -> Attachment:
    """Return the attachment with all three parts checked."""
    return Attachment(
        check_name(message.network, f"{field}.network"),
        check_name(message.container_id, f"{field}.container_id"),
        check_ifname(message.ifname, f"{field}.ifname"),
    )


def write_attachment(attachment: Attachment) -> pb.Attachment:
    """Return the message of an attachment."""
    return pb.Attachment(network=attachment.network, container_id=attachment.container_id, ifname=attachment.ifname)


def read_pod(message: pb.Pod) -> Pod:
    """Return the pod; every part may be empty."""
    return Pod(message.namespace, message.name, message.uid)


def write_pod(pod: Pod) -> pb.Pod:
    """Return the message of a pod."""
    return pb.Pod(namespace=pod.namespace, name=pod.name, uid=pod.uid)


def read_assigned(message: pb.AssignedAddress, field: str) -> AssignedAddress:
    """Return one assigned address; its three parts must be of one family."""
    assigned = AssignedAddress(
        read_interface(message.address, f"{field}.address"),
        read_address(message.gateway, f"{field}.gateway"),
        read_network(message.range, f"{field}.range"),
    )
    if not assigned.address.version == assigned.gateway.version == assigned.range.version:
        raise InvalidArgument(f"{field}: address, gateway and range must be of one family", field=field)
    return assigned


def read_assigned_list(messages: Sequence[pb.AssignedAddress], field: str) -> tuple[AssignedAddress, ...]:
    """Return at least one assigned address and at most one per family."""
    assigned = tuple(read_assigned(message, f"{field}[{index}]") for index, message in enumerate(messages))
    if not assigned:
        raise InvalidArgument(f"{field}: at least one address is needed", field=field)
    if len({one.address.version for one in assigned}) != len(assigned):
        raise InvalidArgument(f"{field}: at most one address per family", field=field)
    return assigned


def write_assigned(assigned: AssignedAddress) -> pb.AssignedAddress:
    """Return the message of an assigned address."""
    return pb.AssignedAddress(
        address=write_interface(assigned.address),
        gateway=write_address(assigned.gateway),
        range=write_network(assigned.range),
    )


def read_route(message: pb.Route, field: str) -> Route:
    """Return a route; destination and gateway must be of one family."""
    destination = read_network(message.destination, f"{field}.destination")
    gateway = read_address(message.gateway, f"{field}.gateway") if message.HasField("gateway") else None
    if gateway is not None and gateway.version != destination.version:
        raise InvalidArgument(f"{field}: destination and gateway must be of one family", field=field)
    return Route(destination, gateway, message.mtu, message.table)


def write_route(route: Route) -> pb.Route:
    """Return the message of a route."""
    return pb.Route(
        destination=write_network(route.destination),
        gateway=write_address(route.gateway) if route.gateway else None,
        mtu=route.mtu,
        table=route.table,
    )


def write_phases(phases: Iterable[Phase]) -> list[pb.Phase]:
    """Return the messages of phases."""
    return [pb.Phase(name=one.name, duration_us=one.duration_us, started_us=one.started_us) for one in phases]


def read_phases(messages: Iterable[pb.Phase]) -> tuple[Phase, ...]:
    """Return phases as values."""
    return tuple(Phase(message.name, message.duration_us, message.started_us) for message in messages)


def write_time(seconds: float) -> Timestamp:
    """Return the message of a time in seconds since the epoch."""
    whole = int(seconds // 1)
    return Timestamp(seconds=whole, nanos=int((seconds - whole) * 1e9))


def read_time(message: Timestamp) -> float:
    """Return seconds since the epoch."""
    return message.seconds + message.nanos / 1e9


def now() -> float:
    """Return seconds since the epoch: the clock of everything that is shown or outlives a process."""
    return time.time()


def iso(seconds: float) -> str:
    """Return a time as people and logs read it: UTC, to the second."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_network(text: str, field: str) -> Network:
    """Return a network from text such as `10.244.0.0/24`, or raise InvalidArgument naming `field`."""
    try:
        return ip_network(text)
    except ValueError as error:
        raise InvalidArgument(f"{field}: {error}", field=field) from None
