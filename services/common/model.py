"""The nouns that services share, as plain values. Pure: no protobuf, no I/O.

Addresses are the stdlib's `ipaddress` types and hardware addresses are 6 `bytes`, everywhere inside a service;
`wire.py` is where they become messages.
"""

import functools
import hashlib
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network

Address = IPv4Address | IPv6Address
Interface = IPv4Interface | IPv6Interface
Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True, order=True)
class Attachment:
    """One interface of one container on one network: the primary key of all that podlane keeps (CNI 1.1, §2)."""

    network: str
    container_id: str
    ifname: str

    def __str__(self) -> str:
        """Short enough for a log line; containers are known by their first 12 characters."""
        return f"{self.network}/{self.container_id[:12]}/{self.ifname}"

    def host_ifname(self) -> str:
        """Return the node's end of the veth pair: `lxc` + 12 hex digits, 15 bytes, the kernel's limit.

        The network is not part of it: CNI lets one container have an interface name only once.
        """
        return _host_ifname(self.container_id, self.ifname)


@functools.lru_cache(maxsize=1024)  # a pod's start asks a dozen times
def _host_ifname(container_id: str, ifname: str) -> str:
    return "lxc" + hashlib.sha256(f"{container_id}:{ifname}".encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Pod:
    """The Kubernetes pod behind an attachment; all empty outside Kubernetes."""

    namespace: str = ""
    name: str = ""
    uid: str = ""

    def __str__(self) -> str:
        """`namespace/name`, or `-` when there is no pod."""
        return f"{self.namespace}/{self.name}" if self.name else "-"


@dataclass(frozen=True, slots=True)
class AssignedAddress:
    """One address of an attachment: as configured (/32 or /128), its router, and the range it comes from."""

    address: Interface
    gateway: Address
    range: Network


@dataclass(frozen=True, slots=True)
class Route:
    """A route inside the pod. `gateway` None: on-link. `mtu` in bytes, 0: the device's. `table` 0: the main one."""

    destination: Network
    gateway: Address | None = None
    mtu: int = 0
    table: int = 0


@dataclass(frozen=True, slots=True)
class Phase:
    """How long one named part of an operation took."""

    name: str
    duration_us: int
    started_us: int = 0
    """When it began: CLOCK_MONOTONIC in microseconds, the same clock in all processes of a node; 0: not told."""


_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


def format_address(address: Address | Interface) -> str:
    """Return the text of an address without its prefix length, by C: `str` takes ten times as long for IPv6."""
    return socket.inet_ntop(_FAMILIES[address.version], address.packed)


def format_prefix(prefix: Interface | Network) -> str:
    """Return the text of an address with its prefix length."""
    network = prefix if isinstance(prefix, Network) else prefix.network
    address = prefix.network_address if isinstance(prefix, Network) else prefix
    return f"{format_address(address)}/{network.prefixlen}"


def format_mac(mac: bytes) -> str:
    """Return the usual spelling, `02:00:5e:…`."""
    return mac.hex(":")
