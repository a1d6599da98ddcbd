"""What the kernel holds for the endpoints: the shared maps, and what it has of one endpoint as it is now.

`Datapath` opens the maps that all endpoints share, once, and keeps them open: pins that an earlier loader left are
taken over as they are. Nothing here changes a running pod's path: reading is all there is. Programs and entries are
put in force by regenerate.py; which endpoints there are, and how they stand against their records, says inventory.py.

An endpoint's programs sit in three places: its slot of `podlane_call_policy`, and ingress and egress of the node's
end of its link (attach.py).
"""

import contextlib
import threading
from collections.abc import Iterator, Mapping
from typing import Protocol, TypeVar

from services.common import telemetry
from services.common.errors import FailedPrecondition, PodlaneError, Unavailable
from services.common.locks import KeyedLocks
from services.loader import bpffs, eventmaps, libbpf, maps, model, pathmaps, policymaps
from services.loader.attach import POLICY_PROGRAM, Attachers, hook, link_exists
from services.loader.flows import Flows
from services.loader.headers import SIZES
from services.loader.ipcache import Ipcache
from services.loader.layout import EndpointEntry
from services.loader.libbpf import BpfError, Fd
from services.loader.model import EndpointRecord, EndpointSpec, Observed, PolicyContent, PolicyEntry, Running
from services.loader.pins import Pins

_log = telemetry.logger("datapath")
M = TypeVar("M", bound=maps.BpfMap)


class NodeSide(Protocol):
    """The node's ends of links, as far as they are looked at."""

    async def problems(self, spec: EndpointSpec) -> list[str]:
        """Say what an endpoint's has lost, one sentence each."""


class Datapath:
    """The shared maps and the view of the kernel. A component: started before anything is regenerated."""

    def __init__(self, pins: Pins, attachers: Attachers, node_side: NodeSide) -> None:
        """Wire; `start` opens."""
        self._pins = pins
        self._attachers = attachers
        self._node_side = node_side
        # Of policy maps, by endpoint id: see policies.py.
        self.policy_locks = KeyedLocks()
        self._opened = contextlib.ExitStack()
        self.is_open = False
        self.endpoints: pathmaps.Endpoints
        self.call_policy: pathmaps.CallPolicy
        self.prefixes: policymaps.Prefixes
        self.revision: policymaps.Revision
        self.metrics: eventmaps.Metrics
        self.packet: eventmaps.Packet
        self.event_ring: eventmaps.EventRing
        self.event_credits: eventmaps.EventCredits
        self.flows: Flows | None = None
        self.ipcache: Ipcache | None = None
        self.underlay: pathmaps.Underlay | None = None
        self._flows_lock = threading.Lock()
        self._revision_lock = threading.Lock()

    async def start(self) -> None:
        """Mount the bpffs if need be; open the pinned maps or create them. Raises FailedPrecondition naming a
        pinned map that doesn't fit, Unavailable when the kernel refuses.
        """
        if bpffs.needed(self._pins.mount):
            await bpffs.mount(self._pins.mount)
            _log.info("bpffs mounted", path=str(self._pins.mount))
        with explained("the maps of all endpoints"):
            self._pins.maps.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.endpoints = self._open(pathmaps.Endpoints)
            self.call_policy = self._open(pathmaps.CallPolicy)
            self.prefixes = self._open(policymaps.Prefixes)
            self.revision = self._open(policymaps.Revision)
            self.metrics = self._open(eventmaps.Metrics)
            self.packet = self._open(eventmaps.Packet)
            self.event_ring = self._open(eventmaps.EventRing)
            self.event_credits = self._open(eventmaps.EventCredits)
            if self._pins.map(Flows.name).exists():
                self.open_flows()
            if self._pins.map(Ipcache.name).exists():
                self.open_cluster()
        self.is_open = True

    def _open(self, kind: type[M]) -> M:
        opened = kind.open(self._pins.map(kind.name), SIZES)
        self._opened.callback(opened.close)
        return opened

    def open_flows(self) -> None:
        """Open the map of tracked flows, made if it isn't there: with the usual shape, or for the first endpoint that
        tracks, because its memory is taken at once (19 MB, 12 ms). Blocks; may be called from several threads, and
        again.
        """
        with self._flows_lock:
            if self.flows is None:
                self.flows = self._open(Flows)

    def open_cluster(self) -> tuple[Ipcache, pathmaps.Underlay]:
        """Open the maps about other nodes, made if they aren't there. Again is fine."""
        if self.ipcache is None:
            self.ipcache = Ipcache.open(self._pins.map(Ipcache.name), SIZES)
        if self.underlay is None:
            self.underlay = pathmaps.Underlay.open(self._pins.map(pathmaps.Underlay.name), SIZES)
        return self.ipcache, self.underlay

    def forget_cluster(self) -> bool:
        """Remove the maps about other nodes; programs that use them keep them. Return whether there were any."""
        opened = [one for one in (self.ipcache, self.underlay) if one is not None]
        self.ipcache = self.underlay = None
        for one in opened:
            self._pins.map(one.name).unlink(missing_ok=True)
            one.close()
        return bool(opened)

    async def stop(self) -> None:
        """Close the descriptors; pins and programs stay."""
        self.is_open = False
        self._opened.close()
        for one in (self.ipcache, self.underlay):
            if one is not None:
                one.close()

    @property
    def shared(self) -> Mapping[str, Fd]:
        """The shared maps that are open, as a program load takes them."""
        shared: list[maps.BpfMap] = [
            self.endpoints,
            self.call_policy,
            self.prefixes,
            self.revision,
            self.metrics,
            self.packet,
            self.event_ring,
            self.event_credits,
        ]
        shared += [one for one in (self.flows, self.ipcache, self.underlay) if one is not None]
        return {one.name: one.fd for one in shared}

    def policy(self, id_: int) -> policymaps.Policy:
        """Open an endpoint's policy map, made and pinned if it isn't there; the caller closes it."""
        return policymaps.Policy.open(self._pins.policy(id_), SIZES)

    def adopt_policy(self, id_: int, made: Fd) -> policymaps.Policy:
        """Let a map that nobody has be an endpoint's policy map; the caller closes it."""
        return policymaps.Policy(maps.pinned(made, self._pins.policy(id_)))

    def pinned_policy(self, id_: int) -> policymaps.Policy | None:
        """Open an endpoint's policy map, None when none is pinned; the caller closes it."""
        return self.policy(id_) if self.has_policy(id_) else None

    def has_policy(self, id_: int) -> bool:
        """Return whether an endpoint's policy map is pinned."""
        return self._pins.policy(id_).exists()

    def unpin_policy(self, id_: int) -> None:
        """Remove the pin: the map goes with the last program that uses it."""
        self._pins.policy(id_).unlink(missing_ok=True)

    async def running(self, record: EndpointRecord) -> Running:
        """Return which programs hang where the record says that there are some."""
        spec = record.spec
        attacher = self._attachers.by_mode[record.attach_mode]
        attached = await attacher.attached(spec) if link_exists(spec) else {}
        ids = {hook(attacher.mode, name, spec.id): id_ for name, id_ in attached.items()}
        ids[hook(attacher.mode, POLICY_PROGRAM, spec.id)] = self.call_policy.get(spec.id)
        return Running(ids, dict(_tags(ids)), self._policy_map(spec.id))

    def _policy_map(self, id_: int) -> int | None:
        pinned = maps.open_pinned(self._pins.policy(id_))
        if pinned is None:
            return None
        with pinned:
            return libbpf.map_info(pinned).id

    async def observe(self, record: EndpointRecord) -> Observed:
        """Return what the kernel has of what was put in force."""
        spec = record.spec
        return Observed(
            link=link_exists(spec),
            running=await self.running(record),
            leads_here={one.address: self.endpoints.get(one.address) == one for one in entries_of(spec)},
            node_side=await self._node_side.problems(spec),
        )

    def policy_entries(self, id_: int) -> list[PolicyEntry]:
        """Return what an endpoint's policy map holds; nothing when there is none."""
        policy = self.pinned_policy(id_)
        if policy is None:
            return []
        with policy:
            return policy.entries()

    async def policy_content(self, id_: int) -> PolicyContent:
        """Return what stands for the content of an endpoint's policy map, while nobody changes it."""
        async with self.policy_locks.hold(id_):
            return model.policy_content(self.policy_entries(id_)) if self.has_policy(id_) else PolicyContent()

    def revise(self) -> None:
        """Let packets of flows that policy has allowed be decided again: policy maps or prefixes have changed.

        From any thread: one that came late with an old number would let flows pass that were allowed under that.
        """
        with self._revision_lock:
            self.revision.bump()


def entries_of(spec: EndpointSpec) -> list[EndpointEntry]:
    """Return the endpoint map's entries of an endpoint."""
    return [
        EndpointEntry(
            address,
            spec.host_ifindex,
            spec.id,
            spec.identity,
            spec.pod_mac,
            spec.host_mac,
            chained=spec.chained,
            host_routed=spec.host_routed,
        )
        for address in spec.addresses
    ]


def _tags(ids: Mapping[str, int | None]) -> Iterator[tuple[int, bytes]]:
    for id_ in ids.values():
        program = libbpf.program_by_id(id_) if id_ is not None else None
        if program is not None and id_ is not None:
            with program:
                yield id_, libbpf.program_info(program).tag


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn the kernel's refusals into sentences about `what`."""
    try:
        yield
    except PodlaneError:
        raise
    except PermissionError as error:
        raise FailedPrecondition(
            f"{what}: {error.strerror}: the loader needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
        ) from None
    except BpfError as error:
        raise Unavailable(f"{what}: {error.strerror}") from None
    except OSError as error:
        raise Unavailable(f"{what}: {error}") from None
