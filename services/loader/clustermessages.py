"""Between messages about other nodes and values: how they are reached, who they are, who is behind their addresses.

As messages.py. Entries of the ipcache come 100,000 at a time, so they are read straight into the bytes of the map.
"""

from collections.abc import Container, Iterable, MutableMapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from podlane.common.v1 import types_pb2 as types
from podlane.loader.v1 import loader_pb2 as pb

from services.common import wire
from services.common.errors import InvalidArgument
from services.loader import layout
from services.loader.layout import IpcacheEntry
from services.loader.model import DEFAULT_TUNNEL_PORT, RemoteNode, Routing, Underlay

_FAMILIES = {4: layout.FAMILY_IPV4, 16: layout.FAMILY_IPV6}
_SIZES = {4: 4, 6: 16}


def read_routing(number: int, field: str) -> Routing:
    """Return how other nodes are reached."""
    try:
        return Routing(number)
    except ValueError:
        raise InvalidArgument(f"{field}: {number} is neither overlay (1) nor native (2)", field=field) from None


def read_family(number: int, field: str) -> int:
    """Return 4, 6 or 0: found out."""
    if number not in {0, 4, 6}:
        raise InvalidArgument(f"{field}: {number} is neither 4 nor 6", field=field)
    return number


def read_port(number: int, field: str) -> int:
    """Return the overlay's port."""
    if number > 0xFFFF:
        raise InvalidArgument(f"{field}: {number} is not a UDP port", field=field)
    return number or DEFAULT_TUNNEL_PORT


def write_underlay(underlay: Underlay) -> pb.Underlay:
    """Return the message of where other nodes find this one."""
    return pb.Underlay(
        device=underlay.device,
        address=wire.write_address(underlay.address),
        addresses=map(wire.write_address, underlay.addresses),
        mtu=underlay.mtu,
    )


def read_nodes(messages: Sequence[pb.RemoteNode], field: str) -> tuple[RemoteNode, ...]:
    """Return the other nodes; a name twice is an error."""
    found: dict[str, RemoteNode] = {}
    for index, message in enumerate(messages):
        name = f"{field}[{index}]"
        if not message.name:
            raise InvalidArgument(f"{name}.name: a node needs a name", field=f"{name}.name")
        if message.name in found:
            raise InvalidArgument(f"{name}.name: node {message.name} was given before", field=f"{name}.name")
        found[message.name] = RemoteNode(
            message.name,
            wire.read_address(message.address, f"{name}.address"),
            tuple(wire.read_network(one, f"{name}.pod_cidrs[{i}]") for i, one in enumerate(message.pod_cidrs)),
            tuple(wire.read_address(one, f"{name}.addresses[{i}]") for i, one in enumerate(message.addresses)),
        )
    return tuple(found.values())


@dataclass(frozen=True, slots=True)
class IpcacheReader:
    """Reads entries of the ipcache into keys and values of the map.

    `family` 4 or 6: of the addresses that are tunnelled to; 0: nobody is. An address that is given twice or has no
    identity is InvalidArgument, and so is a node of another family.

    An address that is this node's, too, isn't refused: every node may have a bridge of the same address, and the
    programs ask the endpoint map first.
    """

    family: int

    def update(self, message: pb.UpdateIpcacheRequest) -> tuple[dict[bytes, bytes], list[bytes]]:
        """Return the entries and the keys of a change."""
        upserts: dict[bytes, bytes] = {}
        self.add(upserts, message.upserts, "upserts")
        removals = [_key(one, f"removals[{index}]") for index, one in enumerate(message.removals)]
        for index, key in enumerate(removals):
            if key in upserts:
                field = f"removals[{index}]"
                raise InvalidArgument(f"{field}: {_shown(key)} is among the upserts, too", field=field)
        return upserts, removals

    def add(self, found: MutableMapping[bytes, bytes], messages: Iterable[pb.IpcacheEntry], field: str) -> None:
        """Add entries to those that were read before."""
        size = _SIZES.get(self.family)
        for index, message in enumerate(messages):
            address, identity = message.address.packed, message.identity
            kind = _FAMILIES.get(len(address))
            key = layout.ENDPOINT_KEY.pack(address, kind) if kind is not None else b""
            node = message.node.packed if size is not None else b""
            if not key or not identity or key in found or (node and len(node) != size):
                raise self._refusal(message, f"{field}[{index}]", found)
            found[key] = layout.ipcache_packed(identity, node)

    def _refusal(self, message: pb.IpcacheEntry, field: str, found: Container[bytes]) -> InvalidArgument:
        key = _key(message.address, f"{field}.address")
        if not message.identity:
            name, why = "identity", f"{_shown(key)} needs an identity other than 0"
        elif key in found:
            name, why = "address", f"{_shown(key)} was given before"
        else:
            name = "node"
            why = (
                f"{_shown(key)} is behind {_spelled(message.node.packed)}, and this node tunnels over IPv{self.family}"
            )
        return InvalidArgument(f"{field}.{name}: {why}", field=f"{field}.{name}")


def _key(message: types.IpAddress, field: str) -> bytes:
    packed = message.packed
    if len(packed) not in _FAMILIES:
        raise InvalidArgument(f"{field}: an IP address has 4 or 16 bytes, this one has {len(packed)}", field=field)
    return layout.ENDPOINT_KEY.pack(packed, _FAMILIES[len(packed)])


def _shown(key: bytes) -> str:
    return str(layout.read_address(key))


def _spelled(packed: bytes) -> str:
    return str(ip_address(packed)) if len(packed) in _FAMILIES else f"{len(packed)} bytes"


def write_ipcache_entry(entry: IpcacheEntry) -> pb.IpcacheEntry:
    """Return the message of an entry."""
    return pb.IpcacheEntry(
        address=wire.write_address(entry.address),
        identity=entry.identity,
        node=wire.write_address(entry.node) if entry.node is not None else None,
    )
