"""Keeps the node able to take endpoints, and says whether it is: one session after the other, for ever.

    a session:  ipam's pools ─▶ loader.ConfigureNode ─▶ compare ─▶ READY ─▶ (a peer is lost) ─▶ the next session

Services start and restart in any order, so nothing here ever gives up: a session that fails is followed by the next
one after a growing pause. The loader is lost when its stream of link removals ends, ipam when its connection does;
both are noticed at once. A peer that comes back may have been restarted, upgraded or reconfigured, which is why each
session configures and compares again; where nothing has changed, that changes nothing.

While no session is ready, health says NOT_SERVING and a CreateEndpoint waits a moment, then is told what for. Deleting
does not need the node ready: pods must be removable while it drains or is ill.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

from services.common import telemetry
from services.common.config import LoaderSettings
from services.common.controller import backoff
from services.common.errors import PodlaneError, Unavailable
from services.endpoint import plan
from services.endpoint.observed import LinkRemoval
from services.endpoint.peers import Ipam, Loader

_log = telemetry.logger("node")

_FIRST_SECONDS, _LONGEST_SECONDS = 0.05, 2.0


class Readiness:
    """Whether the node takes endpoints now. `patience` is how long `wait` waits for it, in seconds."""

    def __init__(self, patience: float, announce: Callable[[bool], Awaitable[None]]) -> None:
        """Begin not ready. `announce` tells health."""
        self._patience = patience
        self._announce = announce
        self._open = asyncio.Event()
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
            await self._announce(False)

    async def wait(self) -> None:
        """Return when the node is ready. Raises Unavailable that says what it waits for."""
        if self._open.is_set():
            return
        try:
            await asyncio.wait_for(self._open.wait(), self._patience)
        except TimeoutError:
            raise Unavailable(f"this node takes no endpoints yet; it waits for: {self.waiting_for}") from None


class Comparing(Protocol):
    """What a session needs of `restore.py`."""

    async def compare(self) -> None:
        """Compare and mend."""


class NodeKeeper:
    """A component: `start` begins the sessions, `stop` ends them."""

    def __init__(
        self,
        settings: LoaderSettings,
        loader: Loader,
        ipam: Ipam,
        restorer: Comparing,
        *,
        readiness: Readiness,
        removed: Callable[[LinkRemoval], None],
    ) -> None:
        """Wire. `removed` is told of each link that goes."""
        self._settings = settings
        self._loader, self._ipam = loader, ipam
        self._restorer, self._readiness = restorer, readiness
        self._removed = removed
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin; whether the peers are there is not waited for."""
        self._task = asyncio.create_task(self._sessions())

    async def stop(self) -> None:
        """End the session."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._readiness.close("nothing: the service is stopping")

    async def _sessions(self) -> None:
        failures = 0
        while True:
            try:
                await self._session()
                failures = 0
                why = "a peer went away; the node is being configured again"
            except PodlaneError as error:
                failures = 0 if self._readiness.ready else failures + 1
                why = error.message
            if failures <= 1:
                _log.warning("the node takes no endpoints", why=why)
            await self._readiness.close(why)
            await asyncio.sleep(backoff(failures + 1, _FIRST_SECONDS, _LONGEST_SECONDS, random.random()))  # noqa: S311 # no secret

    async def _session(self) -> None:
        """Bring the node to ready and stay until a peer is lost. Raises what kept it from getting there."""
        async with _watching(self._watch_links()) as watching:
            ranges = await self._ipam.ranges()
            config = plan.node_config(ranges, masquerade=self._settings.masquerade, mtu=self._settings.mtu)
            changed = await self._loader.configure_node(config)
            await self._restorer.compare()
            await self._readiness.open()
            _log.info("the node takes endpoints", changed=changed, ranges=[str(one) for one in config.pod_cidrs])
            async with _watching(self._ipam.lost()) as lost:
                await asyncio.wait((watching, lost), return_when=asyncio.FIRST_COMPLETED)
                if watching.done():
                    watching.result()

    async def _watch_links(self) -> None:
        async for removal in self._loader.removals():
            self._removed(removal)


@contextlib.asynccontextmanager
async def _watching(work: Awaitable[None]) -> AsyncIterator["asyncio.Task[None]"]:
    """Run `work` beside the block, and end it with the block."""

    async def run() -> None:
        await work

    task = asyncio.create_task(run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait((task,))
        if not task.cancelled():
            task.exception()
