"""Which endpoints there are in the kernel, and how each stands against its record.

    known      the state directory has a record: compared, and what is lost is said
    strangers  no record, but traces: entries that lead to it, a policy map, a slot, tcx links, a directory. They are
               what an interrupted build or removal left, or all that is left after a lost state directory

One endpoint at a time is looked at, under the lock of its regenerations, so that none is seen half done. Only `sweep`
takes something away: what no endpoint uses. Strangers that are reachable are somebody's running pods.

Not here: what a record promises (`model.problems`), and what becomes of strangers (the endpoint service).
"""

import asyncio
import contextlib
import socket
from dataclasses import dataclass

from services.common import telemetry
from services.common.locks import KeyedLocks
from services.loader import model, tcx
from services.loader.datapath import Datapath
from services.loader.layout import EndpointEntry
from services.loader.model import EndpointRecord, PolicyContent
from services.loader.pins import Pins
from services.loader.statedir import StateDir

_log = telemetry.logger("inventory")


@dataclass(frozen=True, slots=True)
class Status:
    """One endpoint: what was put in force (None: no record of it), and what the kernel has lost against that.

    Without a record, link is what its traces lead to, if that is there.
    """

    id: int
    record: EndpointRecord | None
    reachable: bool
    policy: PolicyContent
    problems: tuple[str, ...]
    host_ifname: str = ""
    host_ifindex: int = 0


@dataclass(frozen=True, slots=True)
class Traces:
    """What there is of an endpoint, whether or not there is a record of it. `devices` are those of its tcx links."""

    id: int
    entries: tuple[EndpointEntry, ...]
    policy: bool
    slot: int | None
    devices: tuple[int, ...]
    directory: bool

    def sentences(self) -> list[str]:
        """Say what there is."""
        found = [f"the endpoint map leads {entry.address} to endpoint {self.id}" for entry in self.entries]
        if self.policy:
            found.append(f"policy map policy_{self.id} is pinned")
        if self.slot is not None:
            found.append(f"call_policy[{self.id}] holds program {self.slot}")
        if self.devices:
            found.append(f"{len(self.devices)} tcx links of endpoint {self.id} are pinned")
        if self.directory:
            found.append(f"the state directory has {self.id}/ or {self.id}_next/ without a record")
        return found

    def link(self) -> tuple[str, int]:
        """Return name and index of a device that they lead to and that is there, or nothing."""
        for ifindex in (*(entry.ifindex for entry in self.entries), *self.devices):
            with contextlib.suppress(OSError):
                return socket.if_indextoname(ifindex), ifindex
        return "", 0


class Inventory:
    """Looks through the datapath. `locks` are those of regenerations, by endpoint id."""

    def __init__(self, datapath: Datapath, pins: Pins, state: StateDir, locks: KeyedLocks) -> None:
        """Wire; the datapath must have been started before anybody asks."""
        self._datapath = datapath
        self._pins = pins
        self._state = state
        self._locks = locks

    async def status(self, record: EndpointRecord) -> Status:
        """Compare the record of one endpoint with the kernel."""
        observed = await self._datapath.observe(record)
        return Status(
            record.spec.id,
            record,
            all(observed.leads_here.values()),
            await self._datapath.policy_content(record.spec.id),
            tuple(model.problems(record, observed)),
        )

    async def statuses(self, id_: int = 0, *, slots: bool = False) -> list[Status]:
        """Compare one endpoint, or with 0 all of them, and those that are there and nobody knows.

        `slots`: ask all slots of podlane_call_policy, too; otherwise one that is filled tells of nobody.
        """
        known = self._state.ids().union(self._known_to_kernel())
        if slots and id_ == 0:
            known.update(await asyncio.to_thread(self._datapath.call_policy.dump))
        found = []
        for one in sorted(known) if id_ == 0 else [id_]:
            async with self._locks.hold(one):
                record = self._state.record(one)
                status = await self.status(record) if record is not None else await self._stranger(one)
            if status is not None:
                found.append(status)
            await asyncio.sleep(0)  # after a lost state directory each is a stranger, and a dump
        return found

    async def _stranger(self, id_: int) -> Status | None:
        traces = self.traces(id_)
        seen = traces.sentences()
        if not seen:
            return None  # removed while we waited for its lock, or never there
        ifname, ifindex = traces.link()
        problem = f"nobody has a record of it: {self._state.root / str(id_)} is missing; regenerate or remove it"
        return Status(
            id=id_,
            record=None,
            reachable=bool(traces.entries),
            policy=await self._datapath.policy_content(id_),
            problems=(problem, *seen),
            host_ifname=ifname,
            host_ifindex=ifindex,
        )

    def traces(self, id_: int) -> Traces:
        """Return what there is of an endpoint."""
        return Traces(
            id=id_,
            entries=tuple(one for one in self._datapath.endpoints.dump() if one.endpoint_id == id_ and not one.host),
            policy=self._datapath.has_policy(id_),
            slot=self._datapath.call_policy.get(id_),
            devices=tuple(tcx.devices(self._pins.links(id_))),
            directory=id_ in self._state.ids(),
        )

    def _known_to_kernel(self) -> set[int]:
        ids = {entry.endpoint_id for entry in self._datapath.endpoints.dump() if not entry.host}
        owners = [self._pins.policy_owner(pin.name) for pin in self._pins.maps.iterdir()]
        owners += [self._pins.links_owner(pin.name) for pin in self._pins.tcx_links.glob("*")]
        return ids.union(owner for owner in owners if owner is not None)

    def sweep(self, known: frozenset[int]) -> None:
        """Remove policy maps and slots that belong to none of the `known` ids and that no address leads to: what a
        killed first build or removal left. An endpoint that is reachable is never touched.

        A slot is filled after its endpoint's policy map was pinned and emptied before that is unpinned, so the pins
        tell of all slots. Asking the 65,535 would be the longest part of a loader's start; `statuses` does it for the
        garbage collector.
        """
        keep = known | {entry.endpoint_id for entry in self._datapath.endpoints.dump() if not entry.host}
        orphans = {id_ for id_ in self._known_to_kernel() if id_ not in keep}
        for id_ in sorted(orphans):
            self._datapath.call_policy.clear(id_)
            self._datapath.unpin_policy(id_)
            _log.warning("removed what an interrupted build or removal left", endpoint=id_)
