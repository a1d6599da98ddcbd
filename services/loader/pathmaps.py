"""The maps by which a packet finds its way: to an endpoint of this node, to that one's policy program, to other nodes.

    Endpoints    an address leads to an endpoint, or to the node's own stack
    CallPolicy   an endpoint's id leads to its policy program
    Underlay     the device and the address that lead to other nodes; whom to send to there, ipcache.py knows

Each call changes one entry, and a packet sees the old one or the new one. In which order entries of several maps are
written is up to who writes them (steps.py, teardown.py).
"""

import errno
from collections.abc import Iterable

from services.common.errors import Exhausted
from services.common.model import Address
from services.loader import layout, libbpf
from services.loader.layout import EndpointEntry
from services.loader.libbpf import BpfError, Fd
from services.loader.maps import CALL_POLICY, ENDPOINTS, ONLY, UNDERLAY, BpfMap


class Endpoints(BpfMap):
    """Which endpoint an address leads to."""

    name = ENDPOINTS

    def put(self, entry: EndpointEntry) -> None:
        """Make an address lead to an endpoint. Raises Exhausted when the map is full."""
        try:
            libbpf.map_update(self.fd, layout.endpoint_key(entry.address), layout.endpoint_value(entry))
        except BpfError as error:
            if error.errno != errno.E2BIG:
                raise
            size = libbpf.map_info(self.fd).max_entries
            raise Exhausted(
                f"{self.name} is full: {size} addresses of local endpoints; raise ENDPOINTS_MAP_SIZE", size=size
            ) from error

    def put_host(self, address: Address, *, identity: int = 1) -> None:
        """Make an address lead to the node's own stack, under the host's identity."""
        self.put(EndpointEntry(address, 0, 0, identity, bytes(6), bytes(6), host=True))

    def get(self, address: Address) -> EndpointEntry | None:
        """Return where an address leads."""
        key = layout.endpoint_key(address)
        value = libbpf.map_lookup(self.fd, key, layout.ENDPOINT_VALUE.size)
        return layout.read_endpoint(key, value) if value is not None else None

    def delete(self, address: Address) -> bool:
        """Remove an address; False when it led nowhere."""
        return libbpf.map_delete(self.fd, layout.endpoint_key(address))

    def dump(self) -> list[EndpointEntry]:
        """Return all entries."""
        entries = libbpf.map_entries(self.fd, layout.ENDPOINT_KEY.size, layout.ENDPOINT_VALUE.size)
        return [layout.read_endpoint(key, value) for key, value in entries]


class CallPolicy(BpfMap):
    """The policy programs, by endpoint id. The kernel empties the array when the last pin and descriptor are gone.

    In TUNNEL, which is no endpoint's id, is the program that tunnels packets to other nodes.
    """

    name = CALL_POLICY
    TUNNEL = 0

    def set(self, endpoint_id: int, program: Fd) -> None:
        """Put an endpoint's policy program into its slot; packets see the old one or the new one."""
        libbpf.map_update(self.fd, layout.SLOT.pack(endpoint_id), layout.SLOT.pack(program.fileno()))

    def clear(self, endpoint_id: int) -> bool:
        """Empty a slot: packets for the endpoint are dropped as `endpoint not ready`. False when it was empty."""
        return libbpf.map_delete(self.fd, layout.SLOT.pack(endpoint_id))

    def get(self, endpoint_id: int) -> int | None:
        """Return the id of the program in a slot."""
        found = dict(libbpf.map_slots(self.fd, (endpoint_id,)))
        return found.get(endpoint_id)

    def dump(self, endpoint_ids: Iterable[int] | None = None) -> dict[int, int]:
        """Return endpoint id → program id of the filled slots; without ids all 65,535 are asked, in about 0.1 s."""
        slots = range(1, libbpf.map_info(self.fd).max_entries) if endpoint_ids is None else endpoint_ids
        return dict(libbpf.map_slots(self.fd, slots))


class Underlay(BpfMap):
    """What programs know of the way to other nodes."""

    name = UNDERLAY

    def put(self, ifindex: int, overlay_ifindex: int, address: Address) -> bool:
        """Tell them; return whether they knew something else."""
        wanted = layout.underlay(ifindex, overlay_ifindex, address)
        if libbpf.map_lookup(self.fd, ONLY, layout.UNDERLAY.size) == wanted:
            return False
        libbpf.map_update(self.fd, ONLY, wanted)
        return True
