"""Who is behind the addresses of other nodes, as the datapath is to know it. Pure.

    nodes/v1/<node>   its own addresses, its gateways         ─▶ remote-node
    ip/v1/<address>   an endpoint's: identity, node, host     ─▶ the identity; in overlay mode tunnelled to the host

Both are put in whatever order and however often; `changes` says what is to be written since it was asked last. What is
behind an address follows from the newest records alone, and an endpoint's counts before a node's.

This node's own records aren't in it: its endpoints and addresses are in the endpoint map, which is asked first.

A hundred thousand addresses are an ordinary day, so an address is its bytes here, and what is the same for many of them
is one object.
"""

from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from typing import NamedTuple

from services.common.model import Address
from services.endpoint.cluster.records import IpRecord, NodeRecord
from services.endpoint.policy.identity import Reserved

_SPARE = 1024


class Peer(NamedTuple):
    """Who is behind an address. `node`: where packets to it are tunnelled; None: they are routed."""

    identity: int
    node: Address | None


class IpcacheChanges(NamedTuple):
    """What the datapath is to write, and to remove where it is there."""

    upserts: dict[Address, Peer]
    removals: list[Address]


class Ipcache:
    """The book. `node` is this node's name; `overlay`: packets are tunnelled."""

    def __init__(self, node: str, *, overlay: bool) -> None:
        """Start empty."""
        self._node = node
        self._overlay = overlay
        self.family = 0
        """4 or 6: by which this node reaches others in overlay mode; 0: not known yet. Who is reached by the other one
        isn't told: this node can't tunnel there.
        """
        self._ips: dict[bytes, Peer] = {}
        self._of_nodes: dict[bytes, Peer] = {}
        self._addresses_of: dict[str, frozenset[bytes]] = {}
        self._touched: set[bytes] = set()
        self._shared: dict[Peer, Peer] = {}

    def __len__(self) -> int:
        """Return how many addresses are known."""
        return len(self._ips.keys() | self._of_nodes.keys())

    @property
    def pending(self) -> int:
        """How many addresses `changes` would tell of."""
        return len(self._touched)

    def put_ip(self, address: Address, record: IpRecord | None) -> None:
        """Take in whose an address is now; None: nobody's."""
        packed = address.packed
        self._touched.add(packed)
        if record is None or record.node == self._node:
            self._ips.pop(packed, None)
        else:
            self._ips[packed] = self._peer(record.identity, record.host if self._overlay else None)

    def put_node(self, name: str, record: NodeRecord | None) -> None:
        """Take in a node's own addresses; None: it has left."""
        for packed in self._addresses_of.pop(name, ()):
            self._of_nodes.pop(packed, None)
            self._touched.add(packed)
        if record is None or name == self._node:
            return
        tunnelled = self._peer(Reserved.REMOTE_NODE, record.address if self._overlay else None)
        routed = self._peer(Reserved.REMOTE_NODE, None)
        found = {one.packed: routed for one in record.addresses} | {one.packed: tunnelled for one in record.gateways}
        self._of_nodes.update(found)
        self._addresses_of[name] = frozenset(found)
        self._touched.update(found)

    def identity_of(self, address: Address) -> int | None:
        """Return who is behind an address; None: that isn't known."""
        found = self._find(address.packed)
        return found.identity if found is not None else None

    def changes(self, limit: int) -> IpcacheChanges:
        """Return up to `limit` of what has changed and was not told yet."""
        changes = IpcacheChanges({}, [])
        while self._touched and len(changes.upserts) + len(changes.removals) < limit:
            packed = self._touched.pop()
            found = self._find(packed)
            if found is not None and self._reachable(found):
                changes.upserts[ip_address(packed)] = found
            else:
                changes.removals.append(ip_address(packed))
        return changes

    def retry(self, changes: IpcacheChanges) -> None:
        """Tell again what could not be written."""
        self._touched.update(one.packed for one in (*changes.upserts, *changes.removals))

    def all(self) -> Iterator[tuple[Address, Peer]]:
        """Go through all of it; `changes` has nothing to tell after that."""
        self._touched.clear()
        for packed, peer in _over(self._of_nodes, self._ips):
            if self._reachable(peer):
                yield ip_address(packed), peer

    def _reachable(self, peer: Peer) -> bool:
        return peer.node is None or self.family in {0, peer.node.version}

    def _find(self, packed: bytes) -> Peer | None:
        return self._ips.get(packed) or self._of_nodes.get(packed)

    def _peer(self, identity: int, node: Address | None) -> Peer:
        peer = Peer(int(identity), node)
        if len(self._shared) > 2 * len(self._ips) + _SPARE:
            self._shared = {one: one for one in (*self._ips.values(), *self._of_nodes.values())}
        return self._shared.setdefault(peer, peer)


def _over(below: dict[bytes, Peer], above: dict[bytes, Peer]) -> Iterable[tuple[bytes, Peer]]:
    yield from above.items()
    yield from ((packed, peer) for packed, peer in below.items() if packed not in above)
