"""The datapath's maps with their types: what each holds, and the few things that are done with it.

Shared by all endpoints of the node, created once and pinned, so that programs and loaders come and go over them:

    podlane_endpoints     address → endpoint           Endpoints     written last, removed first
    podlane_call_policy   endpoint id → policy program CallPolicy
    podlane_prefixes      address prefix → identity    Prefixes     what ipBlocks of policies are made of
    podlane_revision      how often policy has changed Revision    raised after the maps of rules and prefixes
    podlane_metrics       drops                        Metrics
    podlane_packet        the packet under way         Packet      per CPU, the programs' own memory
    podlane_events        what happened to packets     EventRing   read by events.py
    podlane_event_credits records to be sent           EventCredits  granted by events.py
    podlane_conntrack     flows, of whoever tracks     flows.py    made with the first shape that does
    podlane_ipcache       address of others → identity ipcache.py  made where there are other nodes
    podlane_underlay      the way to other nodes       Underlay    likewise; read as a variable

Of one endpoint, pinned beside them: podlane_policy, its rules (Policy).

Each class owns one descriptor and is a context manager. All calls are short system calls; none waits for anybody.
Reading a map that is being written shows some of its states, each entry whole.
"""

import errno
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from services.common import telemetry
from services.common.errors import Exhausted, FailedPrecondition
from services.common.model import Address, Network
from services.loader import conntrack, event, layout, libbpf
from services.loader.event import EventType
from services.loader.layout import EndpointEntry, Metric, PolicyCount
from services.loader.libbpf import MMAPABLE, NO_PREALLOC, BpfError, Fd, MapInfo, MapType
from services.loader.model import Direction, PolicyEntry

# Names of the maps in bpf/, under which `objects.load` takes their descriptors.
ENDPOINTS = "podlane_endpoints"
CALL_POLICY = "podlane_call_policy"
POLICY = "podlane_policy"
PREFIXES = "podlane_prefixes"
REVISION = "podlane_revision"
METRICS = "podlane_metrics"
PACKET = "podlane_packet"
EVENTS = "podlane_events"
EVENT_CREDITS = "podlane_event_credits"
CONNTRACK = "podlane_conntrack"
IPCACHE = "podlane_ipcache"
UNDERLAY = "podlane_underlay"

_log = telemetry.logger("maps")


@dataclass(frozen=True, slots=True)
class Definition:
    """How a map is created. `size_define` names its size among node_config.h's; without one it has `entries`.

    `cache`: what it holds comes again by itself, so that a pinned one of another layout is replaced.
    """

    name: str
    kind: MapType
    key_size: int
    value_size: int
    size_define: str = ""
    flags: int = 0
    entries: int = 1
    cache: bool = False

    def _entries(self, sizes: Mapping[str, int]) -> int:
        return sizes[self.size_define] if self.size_define else self.entries

    def create(self, sizes: Mapping[str, int]) -> Fd:
        """Create a new map, empty."""
        return libbpf.map_create(
            self.kind, self.name, self.key_size, self.value_size, self._entries(sizes), flags=self.flags
        )

    def fits(self, info: MapInfo, sizes: Mapping[str, int]) -> bool:
        """Tell whether an existing map is as this loader would create it."""
        return (info.type, info.key_size, info.value_size, info.max_entries, info.flags) == (
            self.kind,
            self.key_size,
            self.value_size,
            self._entries(sizes),
            self.flags,
        )


DEFINITIONS: Mapping[str, Definition] = {
    one.name: one
    for one in (
        Definition(
            ENDPOINTS,
            MapType.HASH,
            layout.ENDPOINT_KEY.size,
            layout.ENDPOINT_VALUE.size,
            "ENDPOINTS_MAP_SIZE",
            NO_PREALLOC,
        ),
        Definition(CALL_POLICY, MapType.PROG_ARRAY, layout.SLOT.size, layout.SLOT.size, "CALL_POLICY_MAP_SIZE"),
        Definition(
            POLICY, MapType.LPM_TRIE, layout.POLICY_KEY.size, layout.POLICY_VALUE.size, "POLICY_MAP_SIZE", NO_PREALLOC
        ),
        Definition(
            PREFIXES,
            MapType.LPM_TRIE,
            layout.PREFIX_KEY.size,
            layout.PREFIX_VALUE.size,
            "PREFIXES_MAP_SIZE",
            NO_PREALLOC,
        ),
        # As libbpf makes a data section: programs read its value as a variable.
        Definition(REVISION, MapType.ARRAY, layout.SLOT.size, layout.REVISION.size, flags=MMAPABLE),
        Definition(
            METRICS,
            MapType.PERCPU_HASH,
            layout.METRICS_KEY.size,
            layout.METRICS_VALUE.size,
            "METRICS_MAP_SIZE",
            NO_PREALLOC,
        ),
        Definition(PACKET, MapType.PERCPU_ARRAY, layout.SLOT.size, event.PACKET.size),
        Definition(EVENTS, MapType.RINGBUF, 0, 0, "EVENTS_RING_SIZE"),
        Definition(EVENT_CREDITS, MapType.PERCPU_ARRAY, layout.SLOT.size, event.CREDIT.size, entries=4),
        Definition(
            CONNTRACK,
            MapType.LRU_HASH,
            conntrack.KEY.size,
            conntrack.VALUE.size,
            "CONNTRACK_MAP_SIZE",
            cache=True,
        ),
        Definition(
            IPCACHE,
            MapType.HASH,
            layout.ENDPOINT_KEY.size,
            layout.IPCACHE_VALUE.size,
            "IPCACHE_MAP_SIZE",
            NO_PREALLOC,
            cache=True,
        ),
        Definition(UNDERLAY, MapType.ARRAY, layout.SLOT.size, layout.UNDERLAY.size, flags=MMAPABLE),
    )
}


def open_pinned(pin: Path) -> Fd | None:
    """Open what is pinned, None when nothing is."""
    return libbpf.object_get(pin)


def open_or_create(name: str, pin: Path, sizes: Mapping[str, int]) -> Fd:
    """Open the pinned map, or create and pin it. A pin made by another version that doesn't fit is
    FailedPrecondition: programs in the kernel use that map, so it isn't replaced behind their back.

    But for a cache: its pin is replaced. Programs keep the map that they were loaded with until they are loaded anew.
    """
    definition = DEFINITIONS[name]
    found = libbpf.object_get(pin)
    if found is None:
        return _create_pinned(definition, pin, sizes)
    info = libbpf.map_info(found)
    if definition.fits(info, sizes):
        return found
    found.close()
    if definition.cache:
        _log.warning("a pinned map of another layout is replaced", pin=str(pin))
        pin.unlink()
        return _create_pinned(definition, pin, sizes)
    raise FailedPrecondition(
        f"the map pinned at {pin} has type {info.type}, keys of {info.key_size}, values of {info.value_size} bytes "
        f"and {info.max_entries} entries, which this loader can't use: remove the endpoints with the version that "
        f"made it, or remove the pin and regenerate them",
        pin=pin,
    )


def _create_pinned(definition: Definition, pin: Path, sizes: Mapping[str, int]) -> Fd:
    return pinned(definition.create(sizes), pin)


def pinned(created: Fd, pin: Path) -> Fd:
    """Pin a new map and return it. It is closed when the kernel refuses."""
    try:
        libbpf.object_pin(created, pin)
    except BaseException:
        created.close()
        raise
    return created


class BpfMap:
    """An open map; closing it leaves pins and programs as they are."""

    name: str

    def __init__(self, fd: Fd) -> None:
        """Own the descriptor."""
        self.fd = fd

    @classmethod
    def open(cls, pin: Path, sizes: Mapping[str, int]) -> Self:
        """Open the pinned map or create it; see `open_or_create`."""
        return cls(open_or_create(cls.name, pin, sizes))

    def close(self) -> None:
        """Close the descriptor."""
        self.fd.close()

    def count(self) -> int:
        """Return how many entries it has; for maps that are hashes or tries, and not for one per CPU."""
        definition = DEFINITIONS[self.name]
        return libbpf.map_count(self.fd, definition.key_size, definition.value_size)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()


class Endpoints(BpfMap):
    """Which endpoint an address leads to."""

    name = ENDPOINTS

    def put(self, entry: EndpointEntry) -> None:
        """Make an address lead to an endpoint. Raises Exhausted when the map is full."""
        try:
            libbpf.map_update(self.fd, layout.endpoint_key(entry.address), layout.endpoint_value(entry))
        except BpfError as error:
            if error.errno != errno.E2BIG:
                raise
            size = libbpf.map_info(self.fd).max_entries
            raise Exhausted(
                f"{self.name} is full: {size} addresses of local endpoints; raise ENDPOINTS_MAP_SIZE", size=size
            ) from error

    def put_host(self, address: Address, *, identity: int = 1) -> None:
        """Make an address lead to the node's own stack, under the host's identity."""
        self.put(EndpointEntry(address, 0, 0, identity, bytes(6), bytes(6), host=True))

    def get(self, address: Address) -> EndpointEntry | None:
        """Return where an address leads."""
        key = layout.endpoint_key(address)
        value = libbpf.map_lookup(self.fd, key, layout.ENDPOINT_VALUE.size)
        return layout.read_endpoint(key, value) if value is not None else None

    def delete(self, address: Address) -> bool:
        """Remove an address; False when it led nowhere."""
        return libbpf.map_delete(self.fd, layout.endpoint_key(address))

    def dump(self) -> list[EndpointEntry]:
        """Return all entries."""
        entries = libbpf.map_entries(self.fd, layout.ENDPOINT_KEY.size, layout.ENDPOINT_VALUE.size)
        return [layout.read_endpoint(key, value) for key, value in entries]


class CallPolicy(BpfMap):
    """The policy programs, by endpoint id. The kernel empties the array when the last pin and descriptor are gone.

    In TUNNEL, which is no endpoint's id, is the program that tunnels packets to other nodes.
    """

    name = CALL_POLICY
    TUNNEL = 0

    def set(self, endpoint_id: int, program: Fd) -> None:
        """Put an endpoint's policy program into its slot; packets see the old one or the new one."""
        libbpf.map_update(self.fd, layout.SLOT.pack(endpoint_id), layout.SLOT.pack(program.fileno()))

    def clear(self, endpoint_id: int) -> bool:
        """Empty a slot: packets for the endpoint are dropped as `endpoint not ready`. False when it was empty."""
        return libbpf.map_delete(self.fd, layout.SLOT.pack(endpoint_id))

    def get(self, endpoint_id: int) -> int | None:
        """Return the id of the program in a slot."""
        found = dict(libbpf.map_slots(self.fd, (endpoint_id,)))
        return found.get(endpoint_id)

    def dump(self, endpoint_ids: Iterable[int] | None = None) -> dict[int, int]:
        """Return endpoint id → program id of the filled slots; without ids all 65,535 are asked, in about 0.1 s."""
        slots = range(1, libbpf.map_info(self.fd).max_entries) if endpoint_ids is None else endpoint_ids
        return dict(libbpf.map_slots(self.fd, slots))


@dataclass(frozen=True, slots=True)
class PolicyChange:
    """How many entries a synchronisation wrote and removed."""

    written: int
    removed: int


class Policy(BpfMap):
    """One endpoint's rules."""

    name = POLICY

    def sync(self, desired: Iterable[PolicyEntry], present: Iterable[PolicyEntry] | None = None) -> PolicyChange:
        """Make the map hold exactly these entries. What is right already isn't touched and keeps its counters.

        `present` is what the map holds, if the caller has just asked.

        Entries are written before others are removed, so that a packet allowed before and after is allowed in
        between. Raises Exhausted, before anything is written, when the map is too small.
        """
        wanted = {layout.policy_key(entry): entry for entry in desired}
        held = {layout.policy_key(entry): entry for entry in (self.entries() if present is None else present)}
        missing = [(key, layout.policy_value(entry)) for key, entry in wanted.items() if held.get(key) != entry]
        surplus = [key for key in held if key not in wanted]
        self.check_room(len(wanted.keys() | held.keys()))
        libbpf.map_update_batch(self.fd, missing)
        libbpf.map_delete_batch(self.fd, surplus)
        return PolicyChange(len(missing), len(surplus))

    def entries(self) -> list[PolicyEntry]:
        """Return all entries."""
        return [one.entry for one in self.dump()]

    def keys(self) -> set[bytes]:
        """Return the keys of all entries."""
        return {key for key, _ in libbpf.map_entries(self.fd, layout.POLICY_KEY.size, layout.POLICY_VALUE.size)}

    def write(self, entries: Mapping[bytes, bytes]) -> None:
        """Write packed entries. Not atomic: of a failure those before it are written."""
        libbpf.map_update_batch(self.fd, list(entries.items()))

    def delete(self, keys: Sequence[bytes]) -> None:
        """Remove entries by their keys; those that aren't there are passed over."""
        libbpf.map_delete_batch(self.fd, keys)

    def check_room(self, entries: int) -> None:
        """Raise Exhausted when the map has no room for so many."""
        size = libbpf.map_info(self.fd).max_entries
        if entries > size:
            raise Exhausted(
                f"{self.fd.about} has room for {size} entries and {entries} are needed while it changes: "
                f"widen rules or raise POLICY_MAP_SIZE",
                size=size,
                needed=entries,
            )

    def dump(self) -> list[PolicyCount]:
        """Return all entries with their counters."""
        entries = libbpf.map_entries(self.fd, layout.POLICY_KEY.size, layout.POLICY_VALUE.size)
        return [layout.read_policy(key, value) for key, value in entries]


def _length(network: Network) -> int:
    return network.prefixlen


class Prefixes(BpfMap):
    """Which identity stands for the addresses of a prefix and of no longer one."""

    name = PREFIXES

    def put(self, prefixes: Mapping[Network, int]) -> None:
        """Write prefixes, longest first: no address is meanwhile in one that is not its own. Raises Exhausted when
        the map is full.
        """
        entries = [
            (layout.prefix_key(network), layout.PREFIX_VALUE.pack(prefixes[network]))
            for network in sorted(prefixes, key=_length, reverse=True)
        ]
        try:
            libbpf.map_update_batch(self.fd, entries)
        except BpfError as error:
            if error.errno != errno.ENOSPC:
                raise
            size = libbpf.map_info(self.fd).max_entries
            raise Exhausted(f"{self.name} is full: {size} prefixes; raise PREFIXES_MAP_SIZE", size=size) from error

    def delete(self, prefixes: Iterable[Network]) -> None:
        """Remove prefixes, shortest first, as `put`; those that aren't there are passed over."""
        libbpf.map_delete_batch(self.fd, [layout.prefix_key(network) for network in sorted(prefixes, key=_length)])

    def present(self, prefixes: Iterable[Network]) -> dict[Network, int]:
        """Return those of the prefixes that are in the table."""
        keys = {network: layout.prefix_key(network) for network in prefixes}
        values = {network: libbpf.map_lookup(self.fd, key, layout.PREFIX_VALUE.size) for network, key in keys.items()}
        return {network: layout.PREFIX_VALUE.unpack(value)[0] for network, value in values.items() if value is not None}

    def dump(self) -> dict[Network, int]:
        """Return the whole table."""
        entries = libbpf.map_entries(self.fd, layout.PREFIX_KEY.size, layout.PREFIX_VALUE.size)
        return dict(layout.read_prefix(key, value) for key, value in entries)


_ONLY = layout.SLOT.pack(0)


class Revision(BpfMap):
    """Policy's revision: flows that it allowed under an earlier one are asked about again with their next packet."""

    name = REVISION

    def bump(self) -> int:
        """Raise it by one and return it: after a change of any map of rules or of prefixes, all of it. Not for two
        processes at a time.
        """
        raised = (self.get() + 1) % (1 << 64)
        libbpf.map_update(self.fd, _ONLY, layout.REVISION.pack(raised))
        return raised

    def get(self) -> int:
        """Return it."""
        value = libbpf.map_lookup(self.fd, _ONLY, layout.REVISION.size) or bytes(layout.REVISION.size)
        return int(layout.REVISION.unpack(value)[0])


class Underlay(BpfMap):
    """What programs know of the way to other nodes."""

    name = UNDERLAY

    def put(self, ifindex: int, overlay_ifindex: int, address: Address) -> bool:
        """Tell them; return whether they knew something else."""
        wanted = layout.underlay(ifindex, overlay_ifindex, address)
        if libbpf.map_lookup(self.fd, _ONLY, layout.UNDERLAY.size) == wanted:
            return False
        libbpf.map_update(self.fd, _ONLY, wanted)
        return True


class Metrics(BpfMap):
    """What was dropped, per endpoint, direction and reason."""

    name = METRICS

    def __init__(self, fd: Fd) -> None:
        """Own the descriptor."""
        super().__init__(fd)
        self._forgotten: list[Metric] = []
        self._before: Mapping[tuple[Direction, str], Metric] = {}
        self._before = {(one.direction, one.reason): one for one in self.since_opened()}

    def dump(self, endpoint_id: int = 0) -> list[Metric]:
        """Return the counters summed over CPUs; of one endpoint, or with 0 of all."""
        metrics = [layout.read_metric(key, values) for key, values in self._entries()]
        return [one for one in metrics if endpoint_id in {0, one.endpoint_id}]

    def forget(self, endpoint_id: int) -> None:
        """Remove an endpoint's counters, so that the id's next holder starts at zero."""
        mine = [(key, value) for key, value in self._entries() if layout.METRICS_KEY.unpack(key)[0] == endpoint_id]
        libbpf.map_delete_batch(self.fd, [key for key, _ in mine])
        self._forgotten = layout.sum_metrics((*self._forgotten, *(layout.read_metric(*entry) for entry in mine)))

    def since_opened(self) -> list[Metric]:
        """Return what was dropped since this map was opened, summed up by direction and reason, as of endpoint 0. With
        what endpoints have taken with them, so that these sums never fall.
        """
        sums = layout.sum_metrics((*self.dump(), *self._forgotten))
        return [layout.subtract_metric(one, self._before.get((one.direction, one.reason))) for one in sums]

    def _entries(self) -> list[tuple[bytes, bytes]]:
        size = layout.METRICS_VALUE.size * libbpf.possible_cpus()
        return libbpf.map_entries(self.fd, layout.METRICS_KEY.size, size)


class Packet(BpfMap):
    """What the programs know of the packet under way: held open so that all of them share one."""

    name = PACKET

    def not_sent(self) -> dict[EventType, int]:
        """Return how many events of each type were not sent since the map was made, whether or not anybody listened."""
        size = event.PACKET.size * libbpf.possible_cpus()
        return event.not_sent_by_type(libbpf.map_lookup(self.fd, _ONLY, size) or b"")


class EventRing(BpfMap):
    """The ring that events wait in; libbpf_ring.py reads it."""

    name = EVENTS


class EventCredits(BpfMap):
    """How many events of each type each CPU may still send."""

    name = EVENT_CREDITS

    def grant(self, credits_: Mapping[EventType, int]) -> None:
        """Let each CPU send so many more of these types, and none of the others."""
        for type_ in EventType:
            value = event.CREDIT.pack(credits_.get(type_, 0)) * libbpf.possible_cpus()
            libbpf.map_update(self.fd, layout.SLOT.pack(type_), value)

    def granted(self) -> dict[EventType, list[int]]:
        """Return what each CPU has left, by type."""
        size = event.CREDIT.size * libbpf.possible_cpus()
        values = {type_: libbpf.map_lookup(self.fd, layout.SLOT.pack(type_), size) or b"" for type_ in EventType}
        return {type_: [credit for (credit,) in event.CREDIT.iter_unpack(value)] for type_, value in values.items()}
