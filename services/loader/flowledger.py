"""Sweeps the map of tracked flows, takes a departing endpoint's flows away, and knows what all of them have counted.

One at a time: an entry is in the map, or what it counted is among what is kept, and whoever asks sees it in one of the
two. The passes themselves run on a thread (flows.py); what is kept is touched on the loop alone (flowcounts.py).
"""

import asyncio
import time
from collections.abc import Callable, Iterable

from services.loader.blocking import Blocking
from services.loader.conntrack import Flow
from services.loader.datapath import Datapath
from services.loader.flowcounts import FlowCounts, Sums
from services.loader.flows import Flows, Swept

Tell = Callable[[Iterable[Flow]], None]


def _nobody(_flows: Iterable[Flow]) -> None:
    """Nobody listens."""


class FlowLedger:
    """What there is, and what is kept of what was. `tell` is told of connections that end without a packet."""

    def __init__(self, datapath: Datapath, blocking: Blocking, tell: Tell = _nobody) -> None:
        """Wire; `datapath` has the map once somebody tracks flows."""
        self._datapath = datapath
        self._blocking = blocking
        self._tell = tell
        self._lock = asyncio.Lock()
        self.counts = FlowCounts(time.time())

    async def sweep(self, gone: frozenset[int]) -> Swept | None:
        """Remove what is dead, and what is of endpoints that are `gone`; None when nobody tracks flows.

        Raises BpfError when the kernel refuses.
        """
        async with self._lock:
            swept = await self._remove(lambda flows: flows.sweep(gone))
            for id_ in gone:
                self.counts.retire(id_, 0)
        return swept

    async def forget(self, endpoint_id: int, generation: int) -> None:
        """Remove the flows of an endpoint that goes; 0: nobody knows its generation. Raises as `sweep`."""
        async with self._lock:
            await self._remove(lambda flows: flows.forget(endpoint_id))
            self.counts.retire(endpoint_id, generation)

    async def rows(self) -> tuple[Sums, int]:
        """Return what has been counted, by rows, and how many rows are left out. Raises as `sweep`."""
        async with self._lock:
            flows = self._datapath.flows
            present = await self._blocking.run(flows.sums) if flows is not None else Sums()
            return self.counts.with_present(present)

    async def _remove(self, removal: Callable[[Flows], Swept]) -> Swept | None:
        flows = self._datapath.flows
        if flows is None:
            return None
        swept = await self._blocking.run(lambda: removal(flows))
        self.counts.keep(swept.counts)
        self._tell(swept.ended)
        return swept
