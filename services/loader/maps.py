"""The datapath's maps: which there are, how each is created, and how a pinned one is opened again.

Shared by all endpoints of the node, created once and pinned, so that programs and loaders come and go over them:

    podlane_endpoints     address → endpoint           pathmaps.py   written last, removed first
    podlane_call_policy   endpoint id → policy program pathmaps.py
    podlane_prefixes      address prefix → identity    policymaps.py what ipBlocks of policies are made of
    podlane_revision      how often policy has changed policymaps.py raised after the maps of rules and prefixes
    podlane_metrics       drops                        eventmaps.py
    podlane_packet        the packet under way         eventmaps.py  per CPU, the programs' own memory
    podlane_events        what happened to packets     eventmaps.py  read by events.py
    podlane_event_credits records to be sent           eventmaps.py  granted by events.py
    podlane_conntrack     flows, of whoever tracks     flows.py      made with the first shape that does
    podlane_ipcache       address of others → identity ipcache.py    made where there are other nodes
    podlane_underlay      the way to other nodes       pathmaps.py   likewise; read as a variable

Of one endpoint, pinned beside them: podlane_policy, its rules (policymaps.py).

Each class of those files is a `BpfMap`: it owns one descriptor and is a context manager. All calls are short system
calls; none waits for anybody. Reading a map that is being written shows some of its states, each entry whole.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from services.common import telemetry
from services.common.errors import FailedPrecondition
from services.loader import conntrack, event, layout, libbpf
from services.loader.libbpf import MMAPABLE, NO_PREALLOC, Fd, MapInfo, MapType

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

# The key of a map of one entry.
ONLY = layout.SLOT.pack(0)

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
