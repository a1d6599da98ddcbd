"""Looks at one finding again, and takes it away if it is still the same: at that moment, by the same judgement.

    hold the attachment ─▶ fetch its object anew ─▶ judge (garbage.py) ─▶ act ─▶ let go

Between a search and its sweep everything may have changed: a pod that was missing is back, an id belongs to another
endpoint. Cilium's collector, which sweeps the bare ids that it marked minutes ago, removes healthy pods that way
(cilium#43577). So nothing is taken from the search but which object to look at. While it is looked at and acted on,
neither ADD's last step nor DEL nor the end of a link gets at its attachment; one where something happens right now is
left for the next search.

What happens without this service, an ADD's first two steps, is fenced off by conditions that the other services check
themselves: only this link, and only if nobody has asked for it lately; only what that endpoint confirmed; only this
generation.

Addresses go last, and only if nothing that uses them is left, because the next pod gets them.
"""

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from services.common.errors import FailedPrecondition, PodlaneError
from services.common.model import Attachment
from services.endpoint import garbage, plan
from services.endpoint.findings import Action, Finding, Kind, Seen
from services.endpoint.flow import Addresses
from services.endpoint.managed import ManagedEndpoint
from services.endpoint.model import Endpoint
from services.endpoint.observed import Allocation, Datapath, LinkState
from services.endpoint.peers import Ipam, Loader


class Outcome(StrEnum):
    """What became of a finding."""

    NONE = ""
    """Nothing was tried."""
    REMOVED = "removed"
    CLAIMED = "claimed"
    FAILED = "failed"
    GONE = "gone"
    """At the second look it was gone, or in order."""
    BUSY = "busy"


@dataclass(frozen=True, slots=True)
class Settled:
    """A finding as it was at the second look; `detail` says what else went, why it is kept, or what failed."""

    finding: Finding
    outcome: Outcome
    detail: str = ""


class Endpoints(Protocol):
    """What a sweep needs of the manager."""

    def __iter__(self) -> Iterator[ManagedEndpoint]:
        """Go through the live endpoints."""

    def busy(self, attachment: Attachment) -> bool:
        """Return whether something happens to an attachment right now."""

    def hold(self, attachment: Attachment) -> AbstractAsyncContextManager[None]:
        """Keep everything else away from an attachment for the block."""


class Remover(Protocol):
    """Who takes endpoints down."""

    async def take_down(self, managed: ManagedEndpoint, addresses: Addresses, why: str) -> None:
        """Take an endpoint down, whose attachment is held."""


class Sweeper:
    """Settles findings, one at a time."""

    def __init__(self, endpoints: Endpoints, remover: Remover, loader: Loader, ipam: Ipam) -> None:
        """Wire."""
        self._endpoints, self._remover = endpoints, remover
        self._loader, self._ipam = loader, ipam

    async def settle(self, finding: Finding, seen: Seen, *, act: bool) -> Settled:
        """Look again and, with `act`, do what the finding says. Errors are in the result."""
        attachment = finding.attachment
        if attachment is None:
            return await self._settle(finding, seen, act=act)
        if self._endpoints.busy(attachment):
            return Settled(finding, Outcome.BUSY, "something happens to its attachment right now")
        async with self._endpoints.hold(attachment):
            return await self._settle(finding, seen, act=act)

    async def _settle(self, finding: Finding, seen: Seen, *, act: bool) -> Settled:
        try:
            now = await self._look(finding, seen)
            again = garbage.find_again(finding, now)
            if again is None:
                return Settled(finding, Outcome.GONE)
            if not act or again.action is not finding.action or again.action is Action.KEEP:
                return Settled(again, Outcome.NONE, again.why)
            return await self._act(again, now)
        except PodlaneError as error:
            return Settled(finding, Outcome.FAILED, error.message)

    async def _look(self, finding: Finding, seen: Seen) -> Seen:
        """Fetch what the finding is about; the rest stays as the search saw it."""
        links, datapaths, allocations = await asyncio.gather(
            self._loader.link_states(finding.attachment),
            self._datapaths(finding, seen),
            self._allocations(finding),
        )
        endpoints = [one.endpoint for one in self._endpoints if _concerns(one.endpoint, finding)]
        return Seen(endpoints, links, datapaths, allocations, seen.grace)

    async def _datapaths(self, finding: Finding, seen: Seen) -> Sequence[Datapath]:
        subject = finding.subject
        return await self._loader.datapaths(subject.id) if isinstance(subject, Datapath) else seen.datapaths

    async def _allocations(self, finding: Finding) -> Sequence[Allocation]:
        return await self._ipam.allocations(finding.attachment) if finding.kind is Kind.ADDRESS else ()

    async def _act(self, finding: Finding, now: Seen) -> Settled:
        match finding.subject:
            case Endpoint() as endpoint if finding.action is Action.CLAIM:
                await self._claim(endpoint)
                return Settled(finding, Outcome.CLAIMED)
            case Endpoint() as endpoint:
                return Settled(finding, Outcome.REMOVED, await self._remove_endpoint(endpoint, finding, now))
            case Datapath() as datapath:
                return Settled(finding, _outcome(removed=await self._remove_datapath(datapath)))
            case LinkState(attachment=Attachment() as owner, host_ifindex=ifindex):
                await self._loader.delete_link(owner, ifindex, now.grace)
                return Settled(finding, Outcome.REMOVED)
            case Allocation() as allocation:
                return Settled(finding, _outcome(removed=await self._release(allocation, now)))
            case LinkState():
                return Settled(finding, Outcome.NONE, "whose it is can't be told")

    async def _remove_endpoint(self, endpoint: Endpoint, finding: Finding, now: Seen) -> str:
        """Take away all of a pod, as DEL does; say what else went with the endpoint.

        A link that is there and alive is another ADD's, which has been told these addresses: both are left to it.
        """
        attachment, link = endpoint.spec.attachment, endpoint.spec.link
        managed = next(one for one in self._endpoints if one.endpoint.id == endpoint.id)
        gone = all(one.abandoned or not one.host_ifindex for one in now.links)
        why = "; ".join(finding.evidence)
        await self._remover.take_down(managed, Addresses.LEAVE if gone else Addresses.GIVE_BACK, why)
        if not gone:
            return "with its datapath"
        await self._loader.delete_link(attachment, link.host_ifindex)
        with contextlib.suppress(FailedPrecondition):  # not what this endpoint had: its next ADD's, or a finding
            await self._ipam.release(attachment, endpoint.id)
        return f"with its datapath, link {link.host_ifname} and {plan.join(endpoint.spec.ips)}"

    async def _remove_datapath(self, datapath: Datapath) -> bool:
        if datapath.attachment is None:
            return await self._loader.remove_unrecorded(datapath.id)
        return await self._loader.remove(datapath.id, datapath.generation)

    async def _release(self, allocation: Allocation, now: Seen) -> bool:
        for link in now.links:
            if link.host_ifindex:
                raise FailedPrecondition(f"link {link.host_ifname} goes first: `podlane gc` takes both")
        return await self._ipam.release(allocation.owner, allocation.endpoint_id)

    async def _claim(self, endpoint: Endpoint) -> None:
        attachment = endpoint.spec.attachment
        await self._ipam.allocate(attachment, endpoint.spec.pod, endpoint.spec.ips)
        await self._ipam.confirm(attachment, endpoint.id)


def _concerns(endpoint: Endpoint, finding: Finding) -> bool:
    """Whether an endpoint may own a finding's object."""
    link = endpoint.spec.link
    match finding.subject:
        case Datapath(id=id_, host_ifname=ifname, host_ifindex=ifindex):
            mine = endpoint.id == id_ or (link.host_ifname, link.host_ifindex) == (ifname, ifindex)
        case LinkState(host_ifname=ifname, host_ifindex=ifindex):
            mine = (link.host_ifname, link.host_ifindex) == (ifname, ifindex)
        case _:
            mine = False
    return mine or endpoint.spec.attachment == finding.attachment


def _outcome(*, removed: bool) -> Outcome:
    return Outcome.REMOVED if removed else Outcome.GONE
