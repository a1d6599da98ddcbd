"""Other nodes and their pods' addresses, from the kvstore into the datapath.

    watch nodes/, ip/ ─▶ Ipcache (pure) ─▶ `sync-ipcache`: differences, in batches        ─▶ loader.UpdateIpcache
                     └─▶ who is a node  ─▶ `sync-nodes`: all other nodes' ranges           ─▶ loader.SyncNodes

With each new session of the loader, and after a batch that was refused or whose answer was lost, all of it is told
(`SyncIpcache`), of which the loader writes what differs. Nothing is told before the store has said all that it has, so
a start during an outage leaves the kernel as it is.

What comes while a batch is under way is the next one: the more there is to do, the larger the batches.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import ip_address
from typing import Protocol, TypeVar

from services.common import controllers, telemetry
from services.common.controller_parameters import Parameters
from services.common.errors import InvalidArgument, Unavailable
from services.common.kvstore import Entry, Kvstore
from services.common.kvstore.keys import Keys, last
from services.common.model import Address
from services.endpoint.cluster.addresses import Addresses
from services.endpoint.cluster.ipcache import Ipcache, IpcacheChanges, Peer
from services.endpoint.cluster.records import IpRecord, NodeRecord, read_ip, read_node
from services.endpoint.cluster.registration import Registration

T = TypeVar("T")

_log = telemetry.logger("follow")

SYNC_IPCACHE, SYNC_NODES = "sync-ipcache", "sync-nodes"
# In one message to the loader: 300 KiB, and some milliseconds.
_BATCH = 4096
_COMPARE_SECONDS = 300.0


class Datapath(Protocol):
    """What is needed of the loader."""

    async def update_ipcache(self, changes: IpcacheChanges) -> None:
        """Write differences. Raises Exhausted (the map), Unavailable."""

    async def sync_ipcache(self, entries: Sequence[tuple[Address, Peer]]) -> tuple[int, int]:
        """Make the ipcache hold exactly these; return how many were written and removed. Raises as `update_ipcache`."""

    async def sync_nodes(self, nodes: Iterable[NodeRecord]) -> tuple[str, ...]:
        """Make the routes lead to exactly these nodes; return what is wrong with some. Raises Unavailable."""


class Follower:
    """A component: `start` begins. `peers` is told of named ports of other nodes' pods, by address."""

    def __init__(
        self,
        kvstore: Kvstore,
        keys: Keys,
        node: str,
        *,
        loader: Datapath,
        registration: Registration,
        addresses: Addresses,
        ipcache: Ipcache,
        own: controllers.Manager,
        peers: Callable[[Mapping[Address, IpRecord | None]], None],
        own_record: Callable[[str, str | None], None],
    ) -> None:
        """Wire. `own_record` is told what the store has of this node's endpoints, by key."""
        self._kvstore, self._keys, self._node = kvstore, keys, node
        self._loader, self._registration = loader, registration
        self._addresses, self._controllers = addresses, own
        self._tell_peers, self._tell_own = peers, own_record
        self._with_ports: set[Address] = set()
        self.ipcache = ipcache
        self.nodes: dict[str, NodeRecord] = {}
        """All that are registered, this one too."""
        self.wrong: dict[str, str] = {}
        """Keys whose values make no sense, and why."""
        self._unread = {"nodes", "addresses"}
        self._whole = True
        self._following: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin; the store need not be there."""
        works = (self._follow_nodes(), self._follow_ips(), self._follow_own())
        self._following = [asyncio.create_task(work) for work in works]

    async def stop(self) -> None:
        """End."""
        for task in self._following:
            task.cancel()
        if self._following:
            await asyncio.wait(self._following)

    def resync(self) -> None:
        """Compare all of it with the kernel: a session with the loader has begun."""
        self._whole = True
        self._controllers.update(SYNC_IPCACHE, Parameters(run=self._sync_ipcache, interval=_COMPARE_SECONDS))
        self._controllers.update(SYNC_NODES, Parameters(run=self._sync_nodes, interval=_COMPARE_SECONDS))

    def problems(self) -> list[str]:
        """Say what is wrong with what other nodes have published, one sentence each."""
        own = self._registration.record
        found = list(self.wrong.values())
        if own is None:
            return found
        for name, other in sorted(self.nodes.items()):
            if other.routing != own.routing:
                what = f"node {name} has {other.routing} routing, and this one {own.routing}"
                found.append(f"{what}: pods don't reach each other")
            elif own.routing == "overlay" and other.address.version != own.address.version:
                what = f"node {name} is at {other.address}, and this one is at {own.address}"
                found.append(f"{what}: set [cluster] underlay_family alike on all nodes")
        return found

    # From the store

    async def _follow_nodes(self) -> None:
        async for batch in self._kvstore.watch(self._keys.nodes):
            for key, entry in batch.items():
                self._take_node(key, entry)
            self._unread.discard("nodes")
            self._controllers.trigger(SYNC_NODES)
            self._controllers.trigger(SYNC_IPCACHE)

    def _take_node(self, key: str, entry: Entry | None) -> None:
        name = last(key)
        record = self._read(key, entry, read_node)
        if record is not None and record.name != name:
            self.wrong[key] = f"{key}: is the record of {record.name!r}"
            record = None
        if record is not None:
            self.nodes[name] = record
        else:
            self.nodes.pop(name, None)
        self.ipcache.put_node(name, record)
        self._registration.saw(name, record)

    async def _follow_ips(self) -> None:
        async for batch in self._kvstore.watch(self._keys.ips):
            ports: dict[Address, IpRecord | None] = {}
            for key, entry in batch.items():
                self._take_ip(key, entry, ports)
            if ports:
                self._tell_peers(ports)
            self._unread.discard("addresses")
            self._controllers.trigger(SYNC_IPCACHE)
            await asyncio.sleep(0)

    async def _follow_own(self) -> None:
        async for batch in self._kvstore.watch(self._keys.endpoints_of(self._node)):
            for key, entry in batch.items():
                self._tell_own(key, entry.value if entry is not None else None)

    def _take_ip(self, key: str, entry: Entry | None, ports: dict[Address, IpRecord | None]) -> None:
        try:
            address = ip_address(last(key))
        except ValueError:
            self.wrong[key] = f"{key}: ends in no address"
            return
        record = self._read(key, entry, read_ip)
        self.ipcache.put_ip(address, record)
        if record is not None and record.node != self._node and record.ports:
            self._with_ports.add(address)
            ports[address] = record
        elif address in self._with_ports:
            self._with_ports.discard(address)
            ports[address] = None
        self._addresses.saw(key, entry.value if entry else "", entry.revision if entry else 0, record)

    def _read(self, key: str, entry: Entry | None, read: Callable[[str, str], T]) -> T | None:
        self.wrong.pop(key, None)
        if entry is None:
            return None
        try:
            return read(key, entry.value)
        except InvalidArgument as error:
            self.wrong[key] = error.message
            _log.warning("passed over", error=error.message)
            return None

    # Into the datapath

    async def _sync_ipcache(self) -> None:
        """Tell the loader what has changed, or all: the controller `sync-ipcache`."""
        self._check_read()
        if self._whole:
            self._whole = False
            try:
                written, removed = await self._loader.sync_ipcache(list(self.ipcache.all()))
            except BaseException:
                self._whole = True
                raise
            _log.info("ipcache compared", entries=len(self.ipcache), written=written, removed=removed)
        while self.ipcache.pending:
            changes = self.ipcache.changes(_BATCH)
            try:
                await self._loader.update_ipcache(changes)
            except BaseException:
                self.ipcache.retry(changes)
                self._whole = True
                raise

    async def _sync_nodes(self) -> None:
        """Tell the loader of all other nodes: the controller `sync-nodes`."""
        self._check_read()
        others = [record for name, record in sorted(self.nodes.items()) if name != self._node]
        problems = await self._loader.sync_nodes(others)
        if problems:
            raise Unavailable("; ".join(problems))

    def _check_read(self) -> None:
        if self._unread:
            raise Unavailable(
                f"the kvstore has not told its {' and '.join(sorted(self._unread))} yet: what the kernel has stays"
            )
