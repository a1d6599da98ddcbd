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
from collections.abc import Sequence
from dataclasses import dataclass

from services.common import telemetry
from services.common.config import LoaderSettings
from services.common.errors import FailedPrecondition
from services.loader import headers
from services.loader.hostaddresses import HostAddresses
from services.loader.model import NodeConfig
from services.loader.node import NodeSide
from services.loader.statedir import StateDir
from services.loader.template import Template, Templates

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


class NodeConfigurer:
    """Holds the configuration in force. A component: `start` puts the last one in force again."""

    def __init__(
        self, state: StateDir, side: NodeSide, addresses: HostAddresses, templates: Templates, settings: LoaderSettings
    ) -> None:
        """Wire; nothing is read yet. The settings' MTU holds where the configuration has none, and what they don't
        allow to be masqueraded isn't.
        """
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
        if config is not None:
            await self._apply(config)
            self._state.write_node(config, headers.node_config())

    async def stop(self) -> None:
        """The node stays as it is."""

    @property
    def config(self) -> NodeConfig:
        """The configuration in force. Raises FailedPrecondition before the first."""
        return self._require()

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
        header = headers.node_config()
        async with self._lock:
            before = self._config
            self._state.write_node(config, header)
            try:
                await self._apply(config)
            except BaseException:
                if before is not None:
                    self._state.write_node(before, header)
                else:
                    self._state.forget_node()
                raise
        if config != before:
            _log.info("node configured", gateways=list(map(str, config.gateways)), mtu=self._mtu)
        return config != before, headers.digest(header)

    async def _apply(self, config: NodeConfig) -> None:
        settings = self._settings
        effective = dataclasses.replace(
            config, mtu=config.mtu or settings.mtu, masquerade=config.masquerade and settings.masquerade
        )
        self._mtu = await self._side.configure(effective)
        await self._addresses.sync(config)
        self._config = config

    async def compare_addresses(self) -> None:
        """Let the node's addresses be the host to policy as they are now; nothing before the first configuration."""
        async with self._lock:
            if self._config is not None:
                await self._addresses.sync(self._config)

    def view(self) -> NodeView:
        """Return what GetNode shows."""
        return NodeView(
            self._config,
            headers.digest(headers.node_config()) if self._config is not None else "",
            self._settings.attach_mode,
            self._mtu,
            os.uname().release,
            self._templates.compiler,
            self._templates.list(),
        )
