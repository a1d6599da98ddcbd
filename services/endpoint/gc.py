"""`endpoint-gc`: searches for what pods that are gone have left, and has it taken away. Mark and sweep.

    by itself    round n: search, mark ─▶ round n+1: search; what is found again is settled (sweep.py), the rest marked
    when asked   search ─▶ settle at once; a dry run looks twice as well, and acts on nothing

A round sweeps only what the round before has found, too: the same object, by its key, with the same to be done. A mark
is no more than that: the sweep looks at the object again before it touches it. The first round comes an interval after
the start: then the node is compared and mended (`restore.py`), and that is not the time for more.

A search lists endpoints, links, datapaths and allocations, which are true at different moments. The endpoints are
listed before the others and after them: what was there before is judged, and what was there at any time owns.
"""

import asyncio
from collections.abc import Collection, Hashable, Iterable, Sequence

from services.common import telemetry
from services.common.controller_parameters import Parameters
from services.common.controllers import Manager as Controllers
from services.common.lifecycle import Shielded
from services.common.model import Attachment
from services.endpoint import garbage
from services.endpoint.findings import Action, Finding, Kind, Seen
from services.endpoint.manager import Manager
from services.endpoint.model import Endpoint
from services.endpoint.node import Readiness
from services.endpoint.peers import Ipam, Loader
from services.endpoint.sweep import Outcome, Settled, Sweeper

CONTROLLER = "endpoint-gc"
_log = telemetry.logger("gc")

# A sweep of hundreds of pods is no hang.
_ALARM_SECONDS = 120.0


class Collector:
    """A component: `start` begins the rounds, `stop` ends them. Times are seconds; `interval` 0: no rounds."""

    def __init__(
        self,
        manager: Manager,
        loader: Loader,
        ipam: Ipam,
        *,
        readiness: Readiness,
        controllers: Controllers,
        interval: float,
        grace: float,
    ) -> None:
        """Wire. `grace` is how long an ADD may be under way between its link and its endpoint."""
        self._manager = manager
        self._loader, self._ipam = loader, ipam
        self._readiness, self._controllers = readiness, controllers
        self._interval, self._grace = interval, int(grace)
        self._sweeper = Sweeper(manager, manager.remover, loader, ipam)
        self._shielded = Shielded()
        self._running = asyncio.Lock()
        self._marked: dict[Hashable, Action] = {}
        self._told: set[Hashable] = set()

    async def start(self) -> None:
        """Begin the rounds."""
        if self._interval:
            parameters = Parameters(self.round, self._interval, alarm=_ALARM_SECONDS)
            self._controllers.update(CONTROLLER, parameters, delay=self._interval)

    async def stop(self) -> None:
        """End the rounds, and let what was asked for finish."""
        await self._controllers.remove(CONTROLLER)
        await self._shielded.stop()

    async def collect(self, kinds: Collection[Kind], *, dry_run: bool) -> list[Settled]:
        """Search for these kinds and settle what is found, or only look twice.

        Raises Unavailable when ipam or the loader does not answer, or the node has not been compared yet.
        """
        return await self._shielded.run(self._collect(kinds, act=not dry_run))

    async def _collect(self, kinds: Collection[Kind], *, act: bool) -> list[Settled]:
        async with self._running:
            seen, findings = await self._search()
            return await self._settle([one for one in findings if one.kind in kinds], seen, act=act)

    async def round(self) -> None:
        """Settle what the round before has found, too, and mark the rest. Raises as `collect` does."""
        await self._shielded.run(self._round())

    async def _round(self) -> None:
        async with self._running:
            seen, findings = await self._search()
            due = [one for one in findings if self._marked.get(one.key) is one.action and one.key not in self._told]
            self._marked = {one.key: one.action for one in findings}
            self._told &= self._marked.keys()
            for result in await self._settle(due, seen, act=True):
                if result.outcome is Outcome.NONE:  # kept: once is enough
                    self._told.add(result.finding.key)

    async def _search(self) -> tuple[Seen, list[Finding]]:
        await self._readiness.wait()
        before = self._endpoints()
        links, datapaths, allocations = await asyncio.gather(
            self._loader.link_states(), self._loader.datapaths(slots=True), self._ipam.allocations()
        )
        after = self._endpoints()
        seen = Seen(tuple((before | after).values()), links, datapaths, allocations, self._grace)
        judged = before.keys() & after.keys()
        return seen, [one for one in garbage.find(seen) if self._is_settled(one, judged)]

    def _endpoints(self) -> dict[tuple[int, int], Endpoint]:
        return {(one.endpoint.id, one.endpoint.generation): one.endpoint for one in self._manager}

    def _is_settled(self, finding: Finding, judged: Collection[tuple[int, int]]) -> bool:
        """Whether what was fetched at different moments can be believed about it."""
        if finding.attachment is not None and self._manager.busy(finding.attachment):
            return False
        subject = finding.subject
        return not isinstance(subject, Endpoint) or (subject.id, subject.generation) in judged

    async def _settle(self, findings: Iterable[Finding], seen: Seen, *, act: bool) -> list[Settled]:
        """Settle one after the other. What of an attachment can't be removed keeps its addresses."""
        stuck: set[Attachment | None] = set()
        results = []
        for finding in findings:
            if finding.kind is Kind.ADDRESS and finding.attachment in stuck:
                result = Settled(finding, Outcome.FAILED, "kept until the rest of its pod is gone")
            else:
                result = await self._sweeper.settle(finding, seen, act=act)
            if result.outcome is Outcome.FAILED:
                stuck.add(finding.attachment)
            results.append(result)
        if act:
            _report(results)
        return results


def _report(results: Sequence[Settled]) -> None:
    for result in results:
        finding = result.finding
        _log.warning(
            "garbage",
            object=str(finding),
            attachment=str(finding.attachment) if finding.attachment is not None else "",
            evidence="; ".join(finding.evidence),
            action=finding.action.value,
            outcome=result.outcome.value,
            detail=result.detail,
        )
