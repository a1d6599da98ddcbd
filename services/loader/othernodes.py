"""Everything that exists only because there are other nodes, put in force and taken away together.

    ipcache, underlay   maps of the programs                      datapath.py, ipcache.py
    podlane_vxlan       in overlay mode                           overlay.py
    routes              to other nodes' pods                      remotenodes.py
    nodes.json          the other nodes, for the next start       statedir.py

`apply` follows a node configuration, and brings the routes back that an earlier loader was told of; `withdraw` takes
all of it away. Who the other nodes are is told by `remember`, who is behind their addresses by the two calls about the
ipcache. One caller at a time, but for those, which have a lock of their own.
"""

import asyncio
from collections.abc import Mapping, Sequence

from services.common import telemetry
from services.common.errors import FailedPrecondition
from services.common.model import Network
from services.loader import remotenodes
from services.loader.blocking import Blocking
from services.loader.datapath import Datapath, explained
from services.loader.ipcache import Ipcache, IpcacheChange
from services.loader.model import NodeConfig, RemoteNode, Routing, Underlay
from services.loader.overlay import Overlay
from services.loader.remotenodes import RouteChange, Routes
from services.loader.statedir import StateDir

# From one comparison with the kernel to the next, seconds.
INTERVAL = 60.0

_log = telemetry.logger("othernodes")


class OtherNodes:
    """Applies and removes it."""

    def __init__(
        self, datapath: Datapath, state: StateDir, overlay: Overlay, routes: Routes, blocking: Blocking
    ) -> None:
        """Wire."""
        self._datapath = datapath
        self._state = state
        self._overlay = overlay
        self._routes = routes
        self._blocking = blocking
        self._ipcache_lock = asyncio.Lock()

    def ranges(self) -> tuple[Network, ...]:
        """Return the pod ranges of the nodes that the loader was last told of, IPv4 first, in order."""
        found = {network for node in self._state.remote_nodes() for network in node.pod_cidrs}
        return tuple(sorted(found, key=lambda one: (one.version, one.network_address, one.prefixlen)))

    async def apply(self, config: NodeConfig, underlay: Underlay, mtu: int) -> RouteChange:
        """Put in force what this configuration asks for. `config` has the underlay's family, `mtu` is that of pods.

        Raises FailedPrecondition or Unavailable when the kernel, clang or the verifier refuse.
        """
        with explained("the maps of other nodes"):
            _, told = self._datapath.open_cluster()
        overlay_ifindex = 0
        if config.routing is Routing.OVERLAY:
            overlay_ifindex = await self._overlay.apply(config, mtu)
        told.put(underlay.ifindex, overlay_ifindex, underlay.address)
        routes, problems = remotenodes.wanted(config, underlay, overlay_ifindex, mtu, self._state.remote_nodes())
        change = await self._routes.sync(routes)
        if config.routing is not Routing.OVERLAY:
            await self._overlay.remove()
        return RouteChange(change.added, change.removed, (*problems, *change.problems))

    async def withdraw(self) -> None:
        """Remove everything; nothing is fine."""
        self._state.forget_remote_nodes()
        async with self._ipcache_lock:
            if self._datapath.forget_cluster():
                _log.info("this node is alone: what was for other nodes is removed")
        await self._routes.sync(())
        await self._overlay.remove()

    def remember(self, nodes: Sequence[RemoteNode]) -> None:
        """Write down who the other nodes are, before the kernel is told."""
        self._state.write_remote_nodes(nodes)

    async def update_ipcache(self, upserts: Mapping[bytes, bytes], removals: Sequence[bytes]) -> None:
        """Change packed entries. Raises Exhausted when the map is full, FailedPrecondition when this node is alone."""
        async with self._ipcache_lock:
            ipcache = self._ipcache()
            with explained("the ipcache"):
                await self._blocking.run(lambda: ipcache.update(upserts, removals))

    async def sync_ipcache(self, wanted: Mapping[bytes, bytes]) -> IpcacheChange:
        """Make the map hold exactly these packed entries. Raises as `update_ipcache`."""
        async with self._ipcache_lock:
            ipcache = self._ipcache()
            with explained("the ipcache"):
                return await self._blocking.run(lambda: ipcache.sync(wanted))

    def _ipcache(self) -> Ipcache:
        if self._datapath.ipcache is None:
            raise FailedPrecondition(
                "this node knows of no other nodes: it is not configured, or without a routing (ConfigureNode)"
            )
        return self._datapath.ipcache
