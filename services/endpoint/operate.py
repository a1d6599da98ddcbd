"""What an operator does to endpoints: regenerate them, look at their switches and set them.

    set:  checked against the loader's list ─▶ on disk ─▶ regenerated as needed, all whom it concerns ─▶ results

A switch that was set stays set whatever becomes of the regenerations: one that fails keeps its old programs, says so in
its result, and is tried again in the background. Two who set switches at the same time do it one after the other.
"""

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from services.common import controllers, telemetry
from services.common.controller_parameters import Parameters
from services.common.errors import Internal, PodlaneError
from services.common.lifecycle import Shielded
from services.endpoint import options
from services.endpoint.events import Request
from services.endpoint.managed import ManagedEndpoint
from services.endpoint.model import EndpointState, Level, LogCode, LogType
from services.endpoint.options import OptionStatus
from services.endpoint.peers import Loader
from services.endpoint.regeneration import PERIODIC, Regenerator
from services.endpoint.registry import Registry, Selector
from services.endpoint.store import Store

_log = telemetry.logger("operate")

ASKED = "endpoint regenerate"


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one endpoint's regeneration, or would; `error` empty: success."""

    id: int
    level: Level
    reload_reason: str
    changes: tuple[str, ...]
    error: str
    seconds: float


class Operator:
    """The operator's verbs. A component: `stop` lets what was begun finish."""

    def __init__(self, registry: Registry, regenerator: Regenerator, store: Store, loader: Loader) -> None:
        """Wire."""
        self._registry = registry
        self._regenerator = regenerator
        self._store, self._loader = store, loader
        self._setting = asyncio.Lock()
        self._shielded = Shielded()

    async def start(self) -> None:
        """Nothing to do."""

    async def stop(self) -> None:
        """Wait for what runs."""
        await self._shielded.stop()

    async def regenerate(self, selector: Selector | None, level: Level, *, dry_run: bool) -> list[Result]:
        """Regenerate one endpoint, or with None all, and return what came of it. Raises NotFound."""
        chosen = self._chosen(selector)
        if dry_run:
            return [await self._preview(managed, level) for managed in chosen]
        request = Request(level, (ASKED,))
        return await self._shielded.run(self._run(chosen, request))

    async def begin(self, own: controllers.Manager, interval: float) -> None:
        """Begin to regenerate all endpoints every `interval` seconds."""
        periodic = Parameters(run=self.regenerate_periodically, interval=interval, retry=False)
        own.update("endpoint-regenerate", periodic, delay=interval)

    async def regenerate_periodically(self) -> None:
        """Regenerate all that are ready, as needed: the controller `endpoint-regenerate`. Raises the first error."""
        ready = [managed for managed in self._registry if managed.endpoint.state is EndpointState.READY]
        failed = [result for result in await self._run(ready, PERIODIC) if result.error]
        if failed:
            first = failed[0]
            raise Internal(f"{len(failed)} of {len(ready)} endpoints failed, endpoint {first.id}: {first.error}")

    async def list_options(self, selector: Selector | None) -> list[OptionStatus]:
        """Return every switch with what the node, or an endpoint, has. Raises NotFound, Unavailable."""
        own = self._registry.get(selector).endpoint.options if selector is not None else {}
        return options.status(await self._loader.options(), self._regenerator.node_options, own)

    async def set_options(self, selector: Selector | None, changes: Mapping[str, bool | None]) -> list[Result]:
        """Set switches of an endpoint, or with None of the node. Raises InvalidArgument, NotFound, Unavailable."""
        return await self._shielded.run(self._set(selector, changes))

    async def _set(self, selector: Selector | None, changes: Mapping[str, bool | None]) -> list[Result]:
        async with self._setting:
            known = await self._loader.options()
            reason = f"{'config' if selector is None else 'endpoint config'}: {options.describe(changes)}"
            if selector is None:
                wanted = options.changed(self._regenerator.node_options, changes, known)
                await self._store.write_node_options(wanted)
                self._regenerator.node_options = wanted
            else:
                managed = self._registry.get(selector)
                managed.update(options=options.changed(managed.endpoint.options, changes, known))
                managed.note(LogType.OTHER, LogCode.OK, f"options set: {options.describe(changes)}")
                await managed.save(self._store.update)
            _log.info("options set", endpoint=str(selector or "all"), changes=options.describe(changes))
        return await self._run(self._chosen(selector), Request(Level.NO_REBUILD, (reason,)))

    def _chosen(self, selector: Selector | None) -> list[ManagedEndpoint]:
        if selector is not None:
            return [self._registry.get(selector)]
        return [managed for managed in self._registry if managed.endpoint.state is not EndpointState.DISCONNECTING]

    async def _run(self, chosen: Iterable[ManagedEndpoint], request: Request) -> list[Result]:
        return list(await asyncio.gather(*(self._regenerate(managed, request) for managed in chosen)))

    async def _regenerate(self, managed: ManagedEndpoint, request: Request) -> Result:
        begin = time.perf_counter()
        try:
            event = self._regenerator.trigger(managed, request)
            await event.result()
        except PodlaneError as refusal:
            return _failed(managed, request.level, refusal, begin)
        done = event.outcome
        return Result(managed.endpoint.id, done.level, done.reload_reason, done.changes, "", _since(begin))

    async def _preview(self, managed: ManagedEndpoint, level: Level) -> Result:
        begin = time.perf_counter()
        try:
            built = await self._regenerator.preview(managed, level)
        except PodlaneError as refusal:
            return _failed(managed, level, refusal, begin)
        return Result(managed.endpoint.id, built.level, built.reason, built.changes, "", _since(begin))


def _failed(managed: ManagedEndpoint, level: Level, refusal: PodlaneError, begin: float) -> Result:
    return Result(managed.endpoint.id, level, "", (), refusal.message, _since(begin))


def _since(begin: float) -> float:
    return time.perf_counter() - begin
