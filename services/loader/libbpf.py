"""bpf(2) through libbpf, by ctypes: maps, pins, information.

This module, its ABI (`libbpf_abi.py`) and its neighbours for programs (`libbpf_programs.py`), objects
(`libbpf_objects.py`) and the ring of events (`libbpf_ring.py`) are the only ones that call either. What is here is
thin: one function per call, bytes in and bytes out, no knowledge of endpoints; `maps.py` and its neighbours give the
maps their types.

Invariants
- Every file descriptor is an `Fd`. Closing is explicit; one that is forgotten is closed by the collector and says so
  with a ResourceWarning, as sockets do.
- A failing call raises `BpfError` with the call, the object it was about and the kernel's words. Absence is not an
  error where absence is an answer: `map_lookup`, `map_delete` and `object_get` return None or False.
- Calls block for as long as the kernel works (a tcx attachment: milliseconds) and release the GIL.
"""

import ctypes
import errno
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from pathlib import Path

from services.loader.libbpf_abi import BpfError, Fd, MapCreateOpts, check, library

__all__ = [
    "MMAPABLE",
    "NO_PREALLOC",
    "RDONLY_PROG",
    "BpfError",
    "Fd",
    "LinkInfo",
    "MapInfo",
    "MapType",
    "ProgramInfo",
]

_CHUNK = 4096  # entries per batch call: large enough to forget the call, small enough to stay in the cache
_FEW = 64  # entries of a first reading: an endpoint's maps seldom hold more, and room for a chunk is 150 KB to clear


class MapType(IntEnum):
    """The kernel's enum bpf_map_type, as far as podlane uses it."""

    HASH = 1
    ARRAY = 2
    PROG_ARRAY = 3
    PERCPU_HASH = 5
    PERCPU_ARRAY = 6
    LRU_HASH = 9
    LPM_TRIE = 11
    RINGBUF = 27


NO_PREALLOC = 1  # BPF_F_NO_PREALLOC, which LPM tries demand
MMAPABLE = 1 << 10  # BPF_F_MMAPABLE: the value begins a page of its own
RDONLY_PROG = 1 << 7  # BPF_F_RDONLY_PROG: programs may not write
_UPDATE_ANY = 0  # BPF_ANY: create or replace


@dataclass(frozen=True, slots=True)
class ProgramInfo:
    """What the kernel says of a loaded program (struct bpf_prog_info)."""

    id: int
    name: str
    tag: bytes
    instructions: int
    jited_bytes: int
    verified_instructions: int
    map_ids: int
    btf_id: int
    loaded_ns: int
    """When it was loaded, nanoseconds after boot."""


@dataclass(frozen=True, slots=True)
class MapInfo:
    """What the kernel says of a map (struct bpf_map_info)."""

    id: int
    name: str
    type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """What the kernel says of a tcx link (struct bpf_link_info). `ifindex` 0: the device is gone."""

    id: int
    program_id: int
    ifindex: int
    attach_type: int


# ── maps ──


def map_create(kind: MapType, name: str, key_size: int, value_size: int, max_entries: int, *, flags: int = 0) -> Fd:
    """Create a map. The kernel keeps 15 characters of the name."""
    opts = MapCreateOpts(sz=ctypes.sizeof(MapCreateOpts), map_flags=flags)
    number = library().bpf_map_create(kind, name[:15].encode(), key_size, value_size, max_entries, ctypes.byref(opts))
    return Fd(check(number, "bpf_map_create", name), name)


def map_freeze(fd: Fd) -> None:
    """Forbid every further write from outside; the verifier then takes a read-only map's content for constants."""
    check(library().bpf_map_freeze(fd.fileno()), "bpf_map_freeze", fd.about)


def map_update(fd: Fd, key: bytes, value: bytes) -> None:
    """Write one entry. For a PROG_ARRAY the value is the program's descriptor, 4 bytes."""
    check(library().bpf_map_update_elem(fd.fileno(), key, value, _UPDATE_ANY), "bpf_map_update_elem", fd.about)


def map_lookup(fd: Fd, key: bytes, value_size: int) -> bytes | None:
    """Return the value, None when there is none. Per-CPU maps: `value_size` × possible CPUs bytes."""
    value = ctypes.create_string_buffer(value_size)
    result = library().bpf_map_lookup_elem(fd.fileno(), key, value)
    if result == -errno.ENOENT:
        return None
    check(result, "bpf_map_lookup_elem", fd.about)
    return value.raw


def map_delete(fd: Fd, key: bytes) -> bool:
    """Remove one entry; False when there was none."""
    result = library().bpf_map_delete_elem(fd.fileno(), key)
    if result == -errno.ENOENT:
        return False
    check(result, "bpf_map_delete_elem", fd.about)
    return True


def map_update_batch(fd: Fd, entries: Sequence[tuple[bytes, bytes]]) -> None:
    """Write entries, thousands per call. Not atomic: on an error those before it are written."""
    for start in range(0, len(entries), _CHUNK):
        chunk = entries[start : start + _CHUNK]
        count = ctypes.c_uint32(len(chunk))
        keys, values = b"".join(key for key, _ in chunk), b"".join(value for _, value in chunk)
        result = library().bpf_map_update_batch(fd.fileno(), keys, values, ctypes.byref(count), None)
        check(result, f"bpf_map_update_batch of {len(entries)}", fd.about)


def map_delete_batch(fd: Fd, keys: Sequence[bytes]) -> None:
    """Remove entries; those that are gone already are passed over."""
    rest = list(keys)
    while rest:
        chunk = rest[:_CHUNK]
        count = ctypes.c_uint32(len(chunk))
        result = library().bpf_map_delete_batch(fd.fileno(), b"".join(chunk), ctypes.byref(count), None)
        if result == -errno.ENOENT:  # the kernel stops at the first key that isn't there; count tells where
            del rest[: count.value + 1]
            continue
        check(result, f"bpf_map_delete_batch of {len(keys)}", fd.about)
        del rest[: len(chunk)]


def map_entries(fd: Fd, key_size: int, value_size: int) -> list[tuple[bytes, bytes]]:
    """Return all entries, in the kernel's order. Entries that come and go meanwhile may or may not be among them.

    `value_size` counts all CPUs for a per-CPU map.
    """
    return [
        (keys[i * key_size : (i + 1) * key_size], values[i * value_size : (i + 1) * value_size])
        for keys, values in map_chunks(fd, key_size, value_size)
        for i in range(len(keys) // key_size)
    ]


def map_chunks(fd: Fd, key_size: int, value_size: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield the entries as `map_entries`, some thousands at a time: their keys and their values, each in one piece."""
    room = _FEW
    token_in, token_out = None, ctypes.create_string_buffer(max(key_size, 8))
    while True:
        keys, values = ctypes.create_string_buffer(key_size * room), ctypes.create_string_buffer(value_size * room)
        count = ctypes.c_uint32(room)
        result = library().bpf_map_lookup_batch(
            fd.fileno(), token_in, token_out, keys, values, ctypes.byref(count), None
        )
        if result == -errno.ENOSPC:  # one hash bucket holds more than we made room for
            room *= 2
            continue
        if result != -errno.ENOENT:  # ENOENT: that was the last of them
            check(result, "bpf_map_lookup_batch", fd.about)
        yield keys.raw[: count.value * key_size], values.raw[: count.value * value_size]
        if result == -errno.ENOENT:
            return
        room = _CHUNK
        token_in = ctypes.create_string_buffer(token_out.raw, len(token_out))


def map_count(fd: Fd, key_size: int, value_size: int) -> int:
    """Return how many entries there are, without looking at any: 0.1 ms for a thousand."""
    return sum(len(keys) for keys, _ in map_chunks(fd, key_size, value_size)) // key_size


def map_slots(fd: Fd, slots: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yield (slot, program id) of the filled slots of a PROG_ARRAY; the kernel has no batch call for those."""
    lookup, number, value = library().bpf_map_lookup_elem, fd.fileno(), ctypes.c_uint32()
    reference = ctypes.byref(value)
    for slot in slots:
        result = lookup(number, slot.to_bytes(4, "little"), reference)
        if result == 0:
            yield slot, value.value
        elif result != -errno.ENOENT:
            check(result, "bpf_map_lookup_elem", f"{fd.about}[{slot}]")


@cache
def possible_cpus() -> int:
    """Return how many values a per-CPU map has for each key."""
    return check(library().libbpf_num_possible_cpus(), "libbpf_num_possible_cpus", "this machine")


# ── pins and information ──


def object_pin(fd: Fd, path: Path) -> None:
    """Give the object a name in a bpffs, which keeps it alive. An existing name is an error (EEXIST)."""
    check(library().bpf_obj_pin(fd.fileno(), os.fsencode(path)), "bpf_obj_pin", f"{fd.about} at {path}")


def object_get(path: Path) -> Fd | None:
    """Open what is pinned at `path`; None when nothing is."""
    number = library().bpf_obj_get(os.fsencode(path))
    if number == -errno.ENOENT:
        return None
    return Fd(check(number, "bpf_obj_get", str(path)), path.name)


def _info(fd: Fd, size: int) -> bytes:
    """Return the first `size` bytes of the object's information; the kernel fills what it knows of them."""
    buffer, length = ctypes.create_string_buffer(size), ctypes.c_uint32(size)
    check(
        library().bpf_obj_get_info_by_fd(fd.fileno(), buffer, ctypes.byref(length)), "bpf_obj_get_info_by_fd", fd.about
    )
    return buffer.raw


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode(errors="replace")


_PROG_INFO = struct.Struct("=II8sII16xQ4xI8x16s48xI84xI")
_MAP_INFO = struct.Struct("=IIIIII16s")
_LINK_INFO = struct.Struct("=III4xII8x")


def program_info(fd: Fd) -> ProgramInfo:
    """Return what the kernel knows of a program."""
    _, ident, tag, jited, xlated, loaded, maps, name, btf, verified = _PROG_INFO.unpack(_info(fd, _PROG_INFO.size))
    return ProgramInfo(ident, _text(name), tag, xlated // 8, jited, verified, maps, btf, loaded)


def map_info(fd: Fd) -> MapInfo:
    """Return what the kernel knows of a map."""
    kind, ident, key_size, value_size, max_entries, flags, name = _MAP_INFO.unpack(_info(fd, _MAP_INFO.size))
    return MapInfo(ident, _text(name), kind, key_size, value_size, max_entries, flags)


def link_info(fd: Fd) -> LinkInfo:
    """Return what the kernel knows of a tcx link."""
    _, ident, program, ifindex, attach = _LINK_INFO.unpack(_info(fd, _LINK_INFO.size))
    return LinkInfo(ident, program, ifindex, attach)


def program_by_id(ident: int) -> Fd | None:
    """Open a loaded program by its id; None when it is gone."""
    number = library().bpf_prog_get_fd_by_id(ident)
    if number == -errno.ENOENT:
        return None
    return Fd(check(number, "bpf_prog_get_fd_by_id", f"program {ident}"), f"program {ident}")
