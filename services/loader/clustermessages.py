"""Between messages about other nodes and values: how they are reached, who they are, who is behind their addresses.

As messages.py. Entries of the ipcache come 100,000 at a time, so they are read straight into the bytes of the map.
"""

from collections.abc import Callable, Iterable, MutableMapping, Sequence
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

# Whether a packed key of the endpoint map leads to this node.
IsLocal = Callable[[bytes], bool]


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


def read_ipcache_update(
    message: pb.UpdateIpcacheRequest, family: int, is_local: IsLocal
) -> tuple[dict[bytes, bytes], list[bytes]]:
    """Return packed entries and keys. `family` 4 or 6: of the tunnel, 0: without one nodes are routed to.

    Raises InvalidArgument for an address that is given twice, is this node's or has no identity, and for a node of
    another family.
    """
    upserts: dict[bytes, bytes] = {}
    read_ipcache_entries(message.upserts, "upserts", family, is_local, upserts)
    removals = [_key(one, f"removals[{index}]") for index, one in enumerate(message.removals)]
    for index, key in enumerate(removals):
        if key in upserts:
            field = f"removals[{index}]"
            raise InvalidArgument(f"{field}: {_shown(key)} is among the upserts, too", field=field)
    return upserts, removals


def read_ipcache_entries(
    messages: Iterable[pb.IpcacheEntry],
    field: str,
    family: int,
    is_local: IsLocal,
    found: MutableMapping[bytes, bytes],
) -> None:
    """Add packed entries to those that were read before; see `read_ipcache_update`."""
    size = _SIZES.get(family)
    for index, message in enumerate(messages):
        key = _key(message.address, f"{field}[{index}].address")
        if not message.identity:
            name = f"{field}[{index}].identity"
            raise InvalidArgument(f"{name}: {_shown(key)} needs an identity other than 0", field=name)
        if key in found:
            raise InvalidArgument(f"{field}[{index}].address: {_shown(key)} was given before", field=field)
        if is_local(key):
            raise InvalidArgument(f"{field}[{index}].address: {_shown(key)} is an address of this node", field=field)
        node = message.node.packed if size is not None else b""
        if node and len(node) != size:
            name = f"{field}[{index}].node"
            raise InvalidArgument(
                f"{name}: {_shown(key)} is behind {_spelled(node)}, and this node tunnels over IPv{family}", field=name
            )
        found[key] = layout.ipcache_packed(message.identity, node)


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
