"""The node's configuration: put in force once, kept in the state directory, in force again after a restart.

What it decides: the router device with the gateway addresses, sysctls and masquerading (node.py, masquerade.py); the
node's own addresses in the endpoint map, which lead to its stack (hostaddresses.py); `globals/node_config.h`; and the
gateway constants of each endpoint's programs. Programs that were loaded before a change keep the old gateways until
they are regenerated.

It is written down before the kernel is touched, and written back when the kernel refuses: what a restart finds is
either in force or was about to be.
"""

import asyncio
import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from services.common import telemetry
from services.common.config import LoaderSettings
from services.common.errors import FailedPrecondition, PodlaneError, Unavailable
from services.loader import headers
from services.loader.hostaddresses import HostAddresses
from services.loader.model import NodeConfig, RemoteNode, Routing, Underlay
from services.loader.node import NodeSide
from services.loader.othernodes import OtherNodes
from services.loader.remotenodes import RouteChange
from services.loader.statedir import StateDir
from services.loader.template import Template, Templates
from services.loader.underlay import pod_mtu

_log = telemetry.logger("nodeconfig")


@dataclass(frozen=True, slots=True)
class NodeView:
    """The node as the loader sees it. `config` None: not configured yet; `hash` is node_config.h's SHA-256."""

    config: NodeConfig | None
    hash: str
    attach_mode: str
    mtu: int
    kernel: str
    compiler: str
    templates: Sequence[Template]
    underlay: Underlay | None = None


class NodeConfigurer:
    """Holds the configuration in force. A component: `start` puts the last one in force again."""

    def __init__(
        self,
        state: StateDir,
        side: NodeSide,
        addresses: HostAddresses,
        others: OtherNodes,
        templates: Templates,
        *,
        settings: LoaderSettings,
        shape_changed: Callable[[], object] = lambda: None,
    ) -> None:
        """Wire; nothing is read yet. The settings' MTU holds where the configuration has none, and what they don't
        allow to be masqueraded isn't. `shape_changed` is called when endpoints need other programs than before.
        """
        self._shape_changed = shape_changed
        self._others = others
        self._underlay: Underlay | None = None
        self._state = state
        self._side = side
        self._addresses = addresses
        self._templates = templates
        self._settings = settings
        self._config: NodeConfig | None = None
        self._mtu = 0
        self._lock = asyncio.Lock()

    async def start(self) -> None:
        """Put in force what an earlier loader was told. Raises CorruptState when that can't be read."""
        config = self._state.node()
        if config is None:
            return
        try:
            underlay = await self._find_underlay(config)
        except PodlaneError as error:
            # The device may come later; whoever configures the node asks again until it has.
            _log.warning("the node's configuration is not in force", error=error.message)
            return
        await self._apply(config, underlay)
        self._state.write_node(config, headers.of_node(self.config))

    async def stop(self) -> None:
        """The node stays as it is."""

    @property
    def config(self) -> NodeConfig:
        """The configuration in force, with the family of the underlay. Raises FailedPrecondition before the first."""
        return _resolved(self._require(), self._underlay)

    def expected(self) -> NodeConfig | None:
        """Return the configuration that the next endpoint will find: the one in force, else the last one, if any."""
        config = self._config or self._state.node()
        return _resolved(config, self._underlay) if config is not None else None

    def _require(self) -> NodeConfig:
        if self._config is None:
            raise FailedPrecondition(
                "the node is not configured yet: ConfigureNode comes first (podlane-endpoint does it when it starts)"
            )
        return self._config

    def mtu(self) -> int:
        """Return the MTU that pod interfaces get, bytes. Raises FailedPrecondition before the first configuration."""
        self._require()
        return self._mtu

    async def configure(self, config: NodeConfig) -> tuple[bool, str]:
        """Put a configuration in force; return whether it is a new one, and the SHA-256 of node_config.h."""
        async with self._lock:
            before, header_before = self._config, self._state.node_header()
            underlay = await self._find_underlay(config)
            header = headers.of_node(_resolved(config, underlay))
            self._state.write_node(config, header)
            try:
                await self._apply(config, underlay)
            except BaseException:
                if before is not None:
                    self._state.write_node(before, header_before or header)
                else:
                    self._state.forget_node()
                raise
        if header != header_before:
            self._shape_changed()
        if config != before:
            _log.info("node configured", gateways=list(map(str, config.gateways)), mtu=self._mtu)
        return config != before, headers.digest(header)

    async def _find_underlay(self, config: NodeConfig) -> Underlay | None:
        return None if config.routing is Routing.ALONE else await self._side.underlay(config)

    def _effective(self, config: NodeConfig, underlay: Underlay | None) -> NodeConfig:
        """Return what is asked of the node's devices: the settings have their say, and other nodes' ranges are added to
        the cluster's. Raises FailedPrecondition when the MTU is too large for the underlay.
        """
        settings = self._settings
        asked = dataclasses.replace(
            config, mtu=config.mtu or settings.mtu, masquerade=config.masquerade and settings.masquerade
        )
        if underlay is None:
            return asked
        ranges = tuple(dict.fromkeys((*config.cluster_cidrs, *self._others.ranges())))
        return dataclasses.replace(asked, mtu=pod_mtu(asked, underlay), cluster_cidrs=ranges)

    async def _apply(self, config: NodeConfig, underlay: Underlay | None) -> RouteChange:
        self._mtu = await self._side.configure(self._effective(config, underlay))
        await self._addresses.sync(config)
        if underlay is not None:
            change = await self._others.apply(_resolved(config, underlay), underlay, self._mtu)
        else:
            change = RouteChange(0, 0)
            await self._others.withdraw()
        self._config, self._underlay = config, underlay
        return change

    async def sync_nodes(self, nodes: Sequence[RemoteNode]) -> RouteChange:
        """Make the routes to other nodes' pods exactly these, and don't masquerade what goes there.

        Raises FailedPrecondition when this node is configured without a routing, or Unavailable.
        """
        async with self._lock:
            config = self._require()
            if config.routing is Routing.ALONE:
                raise FailedPrecondition("the node is configured without a routing: it knows of no other nodes")
            self._others.remember(nodes)
            return await self._apply(config, await self._find_underlay(config))

    async def compare_others(self) -> None:
        """Compare what there is because of other nodes with the kernel; nothing on a node that is alone.

        Raises Unavailable while there is no route to some of their ranges.
        """
        async with self._lock:
            config = self._config
            if config is None or config.routing is Routing.ALONE:
                return
            problems = (await self._apply(config, await self._find_underlay(config))).problems
        if problems:
            raise Unavailable(f"{len(problems)} ranges of other nodes have no route: {'; '.join(problems)}")

    async def compare_addresses(self) -> None:
        """Let the node's addresses be the host to policy as they are now; nothing before the first configuration."""
        async with self._lock:
            if self._config is not None:
                await self._addresses.sync(self._config)

    def view(self) -> NodeView:
        """Return what GetNode shows."""
        return NodeView(
            self._config,
            headers.digest(headers.of_node(self.config)) if self._config is not None else "",
            self._settings.attach_mode,
            self._mtu,
            os.uname().release,
            self._templates.compiler,
            self._templates.list(),
            self._underlay,
        )


def _resolved(config: NodeConfig, underlay: Underlay | None) -> NodeConfig:
    """Return the configuration with the family that nodes reach each other by."""
    return dataclasses.replace(config, underlay_family=underlay.address.version) if underlay is not None else config
