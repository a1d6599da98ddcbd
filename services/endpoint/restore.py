"""After a start, and after each loss of a peer: compare what is recorded with what is there, and mend.

    the deletion journal ─▶ fetch (datapaths, links, allocations) ─▶ decide per endpoint (`plan.py`) ─▶ act

Comparing reads three lists, whatever the number of endpoints. What is right is left alone. What is not is mended in
the background, so that the node takes new pods at once: a wrong datapath is regenerated, an endpoint without a link
is taken down, what was half made is undone, what was half deleted is finished.

Addresses are claimed again, because ipam may have been restored from a backup or lost its file. Where they belong to
somebody else now, the endpoint is kept, says so in its log and in CHECK, and is asked for again next time.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from services.common import controllers, telemetry
from services.common.errors import PodlaneError
from services.common.model import Attachment
from services.endpoint import plan
from services.endpoint.events import Request
from services.endpoint.flow import Addresses
from services.endpoint.managed import ManagedEndpoint
from services.endpoint.manager import Manager
from services.endpoint.model import EndpointState, Level, Link, LogCode, LogType
from services.endpoint.observed import Allocation, Datapath, Observed
from services.endpoint.peers import Ipam, Loader
from services.endpoint.plan import Action, Claim
from services.endpoint.policies import Policies
from services.endpoint.publisher import Publisher

_log = telemetry.logger("restore")

_ADDRESSES = {
    Action.REMOVE: Addresses.RELEASE,
    Action.UNDO: Addresses.GIVE_BACK,
    Action.FINISH: Addresses.LEAVE,
}


class Restorer:
    """Compares and mends."""

    def __init__(
        self,
        manager: Manager,
        loader: Loader,
        ipam: Ipam,
        publisher: Publisher,
        policies: Policies,
        *,
        own: controllers.Manager,
        first: Callable[[], Awaitable[None]],
    ) -> None:
        """Wire; `compare` works. `first` is awaited before anything is compared: what is deleted needs no mending."""
        self._manager, self._own = manager, own
        self._first = first
        self._policies = policies
        self._publisher = publisher
        self._loader, self._ipam = loader, ipam
        self.seconds: float | None = None
        """What the last comparison took; None: there was none."""
        self.decided = dict.fromkeys(Action, 0)
        """What comparisons have decided about endpoints since the start."""

    async def compare(self) -> None:
        """Go through all endpoints once. Raises Unavailable when a peer does not answer; then nothing was changed."""
        begin = time.perf_counter()
        await self._policies.begin()
        await self._first()
        datapaths, links, allocations = await asyncio.gather(
            self._loader.datapaths(), self._loader.links(), self._ipam.allocations()
        )
        if await self._policies.session.reconcile(datapaths):
            datapaths = await self._loader.datapaths()
        self._manager.avoid_ids((one.id, one.generation) for one in datapaths)
        seen = _Seen(datapaths, links, allocations)
        counts = dict.fromkeys(Action, 0)
        going: set[int] = set()
        for managed in self._manager:
            # What is being created or deleted right now is newer than what was just fetched.
            if self._manager.busy(managed.endpoint.spec.attachment):
                continue
            observed = seen.of(managed)
            verdict = plan.verdict(managed.endpoint, observed, self._manager.asked_for(managed.endpoint))
            counts[verdict.action] += 1
            self.decided[verdict.action] += 1
            if verdict.action in {Action.KEEP, Action.REGENERATE}:
                await self.claim(managed, observed.allocation)
                self._publisher.begin(managed)
            else:
                going.add(managed.endpoint.id)
            await self._act(managed, verdict)
        await self._policies.look_first()
        # One that goes and was published by an earlier process has nobody else who takes its record away.
        await self._prune(going)
        self.seconds = time.perf_counter() - begin
        _log.info("compared", **{action.name.lower(): count for action, count in counts.items()})

    async def _prune(self, going: set[int]) -> None:
        if self._publisher.registration is not None:
            # A cluster's store may be away, which keeps nobody.
            self._publisher.prune_soon(self._own)
        else:
            await self._publisher.prune(one.endpoint for one in self._manager if one.endpoint.id not in going)

    async def _act(self, managed: ManagedEndpoint, verdict: plan.Verdict) -> None:
        why = "; ".join(verdict.reasons)
        if verdict.action is Action.KEEP:
            self._policies.compared(managed)
            if managed.endpoint.state is EndpointState.RESTORING:
                await self._manager.restored(managed)
        elif verdict.action is Action.REGENERATE:
            managed.note(LogType.BPF, LogCode.WARNING, f"not as it was put in force: {why}")
            self._manager.regenerator.trigger(managed, Request(Level.NO_REBUILD, (f"syncing state to host: {why}",)))
        else:
            self._manager.remover.dispose(managed, _ADDRESSES[verdict.action], why)

    async def claim(self, managed: ManagedEndpoint, allocation: Allocation | None) -> None:
        """Have ipam hold an endpoint's addresses for it, where nobody else has them by now."""
        endpoint = managed.endpoint
        owner, ips = endpoint.spec.attachment, endpoint.spec.ips
        needed = plan.claim(endpoint, allocation)
        lost = ""
        try:
            if needed is Claim.ALLOCATE:
                await self._ipam.allocate(owner, endpoint.spec.pod, ips)
            if needed in {Claim.ALLOCATE, Claim.CONFIRM}:
                await self._ipam.confirm(owner, endpoint.id)
                managed.note(LogType.OTHER, LogCode.WARNING, f"ipam had lost {plan.join(ips)}: claimed again")
            if needed is Claim.LOST:
                lost = plan.allocation_problems(endpoint, allocation)[0]
        except PodlaneError as error:
            lost = f"ipam does not hold {plan.join(ips)} for it: {error.message}"
        if lost != endpoint.lost:
            managed.update(lost=lost)
            if lost:
                managed.note(LogType.OTHER, LogCode.FAILURE, f"{lost}; its traffic is left alone")
                _log.error("addresses lost", endpoint=endpoint.id, attachment=str(owner), error=lost)


class _Seen:
    """What was fetched, by endpoint."""

    def __init__(self, datapaths: Sequence[Datapath], links: Sequence[Link], allocations: Sequence[Allocation]) -> None:
        self._datapaths: Mapping[int, Datapath] = {one.id: one for one in datapaths}
        # By name: the loader may have lost the record that says whose a link is, and its pod runs on.
        self._links: Mapping[str, Link] = {one.host_ifname: one for one in links}
        self._allocations: Mapping[Attachment, Allocation] = {one.owner: one for one in allocations}

    def of(self, managed: ManagedEndpoint) -> Observed:
        attachment = managed.endpoint.spec.attachment
        return Observed(
            self._links.get(managed.endpoint.spec.link.host_ifname),
            self._datapaths.get(managed.endpoint.id),
            self._allocations.get(attachment),
        )
