"""The controller `conntrack-gc`: every INTERVAL seconds, what is dead leaves the map of tracked flows.

Dead are flows that have expired, and those of endpoints that are gone. RemoveEndpoint takes the latter with it; a kill
in between leaves them. An endpoint counts as gone when two sweeps in a row have met flows of it and no address that
leads to it: one that is just being made has flows a moment before it has addresses.
"""

from services.common import telemetry
from services.loader.datapath import Datapath
from services.loader.flowledger import FlowLedger

INTERVAL = 60.0

_log = telemetry.logger("flowgc")


class FlowGc:
    """Sweeps; its `run` is the controller's."""

    def __init__(self, datapath: Datapath, ledger: FlowLedger) -> None:
        """Wire."""
        self._datapath = datapath
        self._ledger = ledger
        self._strangers: frozenset[int] = frozenset()
        self.left: int | None = None
        """Flows that the last sweep has left there; None: there was none."""

    async def run(self) -> None:
        """Sweep once. Raises BpfError when the kernel refuses."""
        gone = self._strangers - self._known()
        swept = await self._ledger.sweep(gone)
        if swept is None:
            return
        self.left = swept.entries - swept.removed
        self._strangers = swept.owners - self._known()
        _log.debug("swept", entries=swept.entries, removed=swept.removed, gone=sorted(gone))

    def _known(self) -> frozenset[int]:
        return frozenset(entry.endpoint_id for entry in self._datapath.endpoints.dump() if not entry.host)
