"""Keeps the node able to take endpoints, and says whether it is: the controller `configure-node`.

    ipam's pools ─▶ loader.ConfigureNode ─▶ compare ─▶ READY ─▶ (a peer is lost) ─▶ the controller's next run

Services start and restart in any order, so nothing here ever gives up: a run that fails is followed by the next one
after a growing pause. The loader is lost when its stream of link removals ends, ipam when its connection does; both are
noticed at once. A peer that comes back may have been restarted, upgraded or reconfigured, which is why each run
configures and compares again; where nothing has changed, that changes nothing.

Where ipam's ranges change, because it claims them of a cluster's, the node is only configured again, and goes on taking
endpoints meanwhile. Nothing is compared then: what is created at that moment isn't in the lists that were fetched.

While the node isn't ready, health says NOT_SERVING and a CreateEndpoint waits a moment, then is told what for. Deleting
does not need the node ready: pods must be removable while it drains or is ill.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

from services.common import controllers, telemetry, wire
from services.common.controller_parameters import Parameters
from services.common.errors import PodlaneError, Unavailable
from services.endpoint.observed import LinkRemoval, NodeConfig, PoolRange
from services.endpoint.peers import Ipam, Loader

_log = telemetry.logger("node")

CONFIGURE = "configure-node"
_FIRST_SECONDS, _LONGEST_SECONDS = 0.05, 2.0


class Readiness:
    """Whether the node takes endpoints now. `patience` is how long `wait` waits for it, in seconds."""

    def __init__(self, patience: float, announce: Callable[[bool], Awaitable[None]]) -> None:
        """Begin not ready. `announce` tells health."""
        self._patience = patience
        self._announce = announce
        self._open = asyncio.Event()
        self._lost = -math.inf
        self.since = wire.now()
        """Since when it isn't ready, in epoch seconds; of use only while it isn't."""
        self.waiting_for = "the first comparison with the loader and ipam"

    @property
    def ready(self) -> bool:
        """Whether it is ready."""
        return self._open.is_set()

    async def open(self) -> None:
        """Take endpoints from now on."""
        self._open.set()
        await self._announce(True)

    async def close(self, waiting_for: str) -> None:
        """Take none until `open`."""
        self.waiting_for = waiting_for
        if self._open.is_set():
            self._open.clear()
            self._lost, self.since = time.monotonic(), wire.now()
            await self._announce(False)

    async def wait(self) -> None:
        """Return when the node is ready. Raises Unavailable that says what it waits for."""
        await self._wait(self._patience)

    async def still(self) -> None:
        """As `wait`, for who has been waiting since it was ready: patience began when that was lost.

        Otherwise a line of those would need the patience of each of them, one after the other, to be told.
        """
        await self._wait(self._lost + self._patience - time.monotonic())

    async def _wait(self, patience: float) -> None:
        if self._open.is_set():
            return
        try:
            await asyncio.wait_for(self._open.wait(), max(patience, 0.0))
        except TimeoutError:
            raise Unavailable(f"this node takes no endpoints yet; it waits for: {self.waiting_for}") from None


class Comparing(Protocol):
    """What is needed of `restore.py`."""

    async def compare(self) -> None:
        """Compare and mend."""


class NodeKeeper:
    """A component: `start` begins, `stop` ends. `removed` is told of each link that goes."""

    def __init__(
        self,
        config: Callable[[Iterable[PoolRange]], NodeConfig],
        loader: Loader,
        ipam: Ipam,
        restorer: Comparing,
        *,
        configured: Callable[[NodeConfig], Awaitable[None]] | None = None,
        readiness: Readiness,
        removed: Callable[[LinkRemoval], None],
        registry: controllers.Registry,
    ) -> None:
        """Wire. `config` makes a configuration of ipam's ranges; `configured` is awaited when it is in force."""
        self._config = config
        self._configured = configured or _nobody
        self._loader, self._ipam = loader, ipam
        self._restorer, self._readiness = restorer, readiness
        self._removed = removed
        self._controllers = controllers.Manager("node", registry)
        self._watching: asyncio.Task[None] | None = None
        self._ranges: tuple[PoolRange, ...] = ()
        self._ranges_changed = False

    async def start(self) -> None:
        """Begin; whether the peers are there is not waited for."""
        retries = Parameters(run=self._configure, retry_base=_FIRST_SECONDS, retry_cap=_LONGEST_SECONDS)
        self._controllers.update(CONFIGURE, retries)

    async def stop(self) -> None:
        """End."""
        await self._controllers.halt()
        await self._unwatch()
        await self._readiness.close("nothing: the service is stopping")

    async def _configure(self) -> None:
        """Bring the node to ready. Raises what keeps it from getting there."""
        if self._ranges_changed and self._readiness.ready:
            await self._put_in_force()
            return
        await self._unwatch()
        subscribed = asyncio.Event()
        # From now on no removal is missed, also none that happens while all is compared.
        self._watching = asyncio.create_task(self._watch(subscribed))
        try:
            await self._put_in_force()
            await self._restorer.compare()
        except PodlaneError as error:
            await self._readiness.close(error.message)
            raise
        await self._readiness.open()
        subscribed.set()
        _log.info("the node takes endpoints")

    async def _put_in_force(self) -> None:
        ranges = await self._ipam.ranges()
        config = self._config(ranges)
        changed = await self._loader.configure_node(config)
        await self._configured(config)
        self._ranges, self._ranges_changed = ranges, False
        _log.info("the node is configured", changed=changed, ranges=[str(one) for one in config.pod_cidrs])

    async def _watch(self, ready: asyncio.Event) -> None:
        """Tell of removals until a peer is lost; then, if the node was ready by then, begin anew."""
        losses = [asyncio.create_task(self._watch_links()), asyncio.create_task(self._ipam_lost(ready))]
        ranges = asyncio.create_task(self._watch_ranges(ready))
        try:
            await asyncio.wait(losses, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (*losses, ranges):
                task.cancel()
            ended = await asyncio.gather(*losses, return_exceptions=True)
            await asyncio.gather(ranges, return_exceptions=True)
        why = next((one.message for one in ended if isinstance(one, PodlaneError)), "a peer went away")
        await ready.wait()
        _log.warning("the node takes no endpoints", why=why)
        await self._readiness.close(why)
        self._controllers.trigger(CONFIGURE)

    async def _watch_links(self) -> None:
        async for removal in self._loader.removals():
            self._removed(removal)

    async def _ipam_lost(self, ready: asyncio.Event) -> None:
        await ready.wait()
        await self._ipam.lost()

    async def _watch_ranges(self, ready: asyncio.Event) -> None:
        """Have the node configured again once ipam's ranges aren't what it was configured with."""
        await ready.wait()
        # An ipam that ends is noticed by others; one that is older and doesn't know the call has ranges that stay.
        with contextlib.suppress(PodlaneError):
            async for ranges in self._ipam.range_changes():
                if ranges != self._ranges:
                    self._ranges_changed = True
                    self._controllers.trigger(CONFIGURE)

    async def _unwatch(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait((self._watching,))
            self._watching = None


async def _nobody(_config: NodeConfig) -> None:
    """There are no other nodes to be told."""
