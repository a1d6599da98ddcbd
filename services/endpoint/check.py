"""Is an endpoint as it should be, and can it be made so? What CNI CHECK and `podlane endpoint check` ask.

    check     the datapath, ipam's books and the kvstore beside what is recorded: one sentence for each difference
    repair    link → addresses in ipam's books → datapath, as needed → what is published; then `check` again

What is right is left alone, so that repairing an endpoint without a fault touches nothing. Each part is tried whatever
becomes of the others: what could not be mended is in the second check's answer, or added to it.

Not here: what differs (`plan.py`), mending without being asked (`restore.py`, the controllers).
"""

import asyncio

from services.common import telemetry
from services.common.errors import PodlaneError
from services.endpoint import plan
from services.endpoint.manager import Manager
from services.endpoint.model import Endpoint, Level, LogCode, LogType
from services.endpoint.operate import Operator
from services.endpoint.peers import Ipam, Loader
from services.endpoint.publisher import Publisher
from services.endpoint.registry import Selector
from services.endpoint.restore import Restorer

_log = telemetry.logger("check")


class Checker:
    """Compares one endpoint with what is there."""

    def __init__(
        self,
        manager: Manager,
        operator: Operator,
        restorer: Restorer,
        *,
        loader: Loader,
        ipam: Ipam,
        publisher: Publisher,
    ) -> None:
        """Wire."""
        self._manager, self._operator, self._restorer = manager, operator, restorer
        self._loader, self._ipam, self._publisher = loader, ipam, publisher

    async def check(self, selector: Selector) -> tuple[Endpoint, tuple[str, ...]]:
        """Return an endpoint and what is wrong with it. Raises NotFound, Unavailable."""
        managed = self._manager.get(selector)
        endpoint = managed.endpoint
        datapaths, allocations, published = await asyncio.gather(
            self._loader.datapaths(endpoint.id),
            self._ipam.allocations(endpoint.spec.attachment),
            self._publisher.problems(managed),
        )
        datapath, allocation = next(iter(datapaths), None), next(iter(allocations), None)
        wanted = self._manager.asked_for(endpoint)
        return endpoint, (*plan.problems(endpoint, datapath, allocation, wanted), *published)

    async def repair(self, selector: Selector) -> tuple[Endpoint, tuple[str, ...], tuple[str, ...]]:
        """Mend an endpoint; return it, what was wrong and isn't any more, and what is wrong still.

        Raises NotFound, Unavailable.
        """
        managed = self._manager.get(selector)
        _, before = await self.check(selector)
        mended, failed = await self._mend_link(managed.endpoint)
        for allocation in await self._ipam.allocations(managed.endpoint.spec.attachment) or (None,):
            await self._restorer.claim(managed, allocation)
        # Another MAC for the node's end takes the node's neighbours away, so it is looked at once more.
        if mended or before:
            # Level 1 loads where that is needed.
            results = await self._operator.regenerate(Selector(id=managed.endpoint.id), Level.NO_REBUILD, dry_run=False)
            failed += [one.error for one in results if one.error]
        endpoint, after = await self.check(selector)
        repaired = (*mended, *(one for one in before if one not in after))
        if repaired:
            managed.note(LogType.OTHER, LogCode.WARNING, f"repaired: {'; '.join(repaired)}")
            _log.warning("repaired", endpoint=endpoint.id, repaired=repaired)
        return endpoint, repaired, (*failed, *(one for one in after if one not in failed))

    async def _mend_link(self, endpoint: Endpoint) -> tuple[tuple[str, ...], list[str]]:
        try:
            return await self._loader.repair_link(endpoint.spec.attachment), []
        except PodlaneError as error:
            return (), [error.message]
