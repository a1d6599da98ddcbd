"""bpf(2) and libbpf by ctypes: the only module of podlane that calls either.

libbpf.so.1 is bound by hand (1.1 is enough) because importing bcc costs 63 MB and a compiler. What is here is thin:
one function per call, bytes in and bytes out, no knowledge of endpoints. `objects.py` loads programs with it and
`maps.py` gives the maps their types.

Invariants
- Every file descriptor is an `Fd`. Closing is explicit; one that is forgotten is closed by the collector and says so
  with a ResourceWarning, as sockets do.
- A failing call raises `BpfError` with the call, the object it was about and the kernel's words. Absence is not an
  error where absence is an answer: `map_lookup`, `map_delete` and `object_get` return None or False.
- libbpf prints nothing. What it would have printed is collected by `captured_output()` when somebody wants it.
- Calls block for as long as the kernel works (a program load: milliseconds) and release the GIL.
"""

import ctypes
import errno
import mmap
import os
import struct
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import Self

from services.common.errors import Unavailable

_CONTEXT_ROOM = 512  # struct __sk_buff is 192 bytes today; less than the kernel's is ENOSPC
_CHUNK = 4096  # entries per batch call: large enough to forget the call, small enough to stay in the cache


class MapType(IntEnum):
    """The kernel's enum bpf_map_type, as far as podlane uses it."""

    HASH = 1
    ARRAY = 2
    PROG_ARRAY = 3
    PERCPU_HASH = 5
    LPM_TRIE = 11


class AttachType(IntEnum):
    """The kernel's enum bpf_attach_type: tcx hooks, kernel 6.6 and later."""

    TCX_INGRESS = 46
    TCX_EGRESS = 47


NO_PREALLOC = 1  # BPF_F_NO_PREALLOC, which LPM tries demand
UPDATE_ANY, UPDATE_NOEXIST, UPDATE_EXIST = 0, 1, 2


class BpfError(OSError):
    """A call into the kernel or libbpf failed: `[Errno 7] bpf_map_update_batch on podlane_policy: Argument …`."""

    def __init__(self, number: int, call: str, about: str) -> None:
        """Keep the errno, the call and what it was about."""
        super().__init__(number, f"{call} on {about}: {os.strerror(number)}")
        self.call = call
        self.about = about


class Fd:
    """An owned file descriptor of a map, program or link; a context manager."""

    __slots__ = ("_about", "_number")

    def __init__(self, number: int, about: str) -> None:
        """Take ownership of `number`; `about` names it in errors and warnings."""
        self._number = number
        self._about = about

    def __repr__(self) -> str:
        """For logs."""
        return f"<Fd {self._number} {self._about}>"

    @property
    def about(self) -> str:
        """What the descriptor stands for."""
        return self._about

    def fileno(self) -> int:
        """Return the number; ValueError once closed."""
        if self._number < 0:
            raise ValueError(f"the descriptor of {self._about} is closed")
        return self._number

    def close(self) -> None:
        """Close it; twice is harmless."""
        if self._number >= 0:
            number, self._number = self._number, -1
            os.close(number)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def __del__(self) -> None:
        """Close what was forgotten, and say so."""
        if self._number >= 0:
            warnings.warn(f"{self!r} was never closed", ResourceWarning, stacklevel=2, source=self)
            self.close()


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


@dataclass(frozen=True, slots=True)
class TestRun:
    """The outcome of BPF_PROG_TEST_RUN."""

    retval: int
    data: bytes
    context: bytes
    duration_ns: int
    """Average of one repetition."""


class _TestRunOpts(ctypes.Structure):
    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("data_in", ctypes.c_char_p),
        ("data_out", ctypes.c_void_p),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_char_p),
        ("ctx_out", ctypes.c_void_p),
        ("ctx_size_in", ctypes.c_uint32),
        ("ctx_size_out", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("repeat", ctypes.c_int),
        ("duration", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
        ("batch_size", ctypes.c_uint32),
    )


class _OpenOpts(ctypes.Structure):
    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("object_name", ctypes.c_char_p),
        ("relaxed_maps", ctypes.c_bool),
        ("pin_root_path", ctypes.c_char_p),
        ("unused", ctypes.c_uint32),
        ("kconfig", ctypes.c_char_p),
        ("btf_custom_path", ctypes.c_char_p),
        ("kernel_log_buf", ctypes.c_void_p),
        ("kernel_log_size", ctypes.c_size_t),
        ("kernel_log_level", ctypes.c_uint32),
    )


class _MapCreateOpts(ctypes.Structure):
    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("btf_fd", ctypes.c_uint32),
        ("btf_key_type_id", ctypes.c_uint32),
        ("btf_value_type_id", ctypes.c_uint32),
        ("btf_vmlinux_value_type_id", ctypes.c_uint32),
        ("inner_map_fd", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
        ("map_extra", ctypes.c_uint64),
        ("numa_node", ctypes.c_uint32),
        ("map_ifindex", ctypes.c_uint32),
    )


_PRINT = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)  # level, format, va_list
_LIBBPF_DEBUG = 2

_int, _u32, _u64, _ptr, _str, _size = (
    ctypes.c_int,
    ctypes.c_uint32,
    ctypes.c_uint64,
    ctypes.c_void_p,
    ctypes.c_char_p,
    ctypes.c_size_t,
)
_PROTOTYPES: dict[str, tuple[object, ...]] = {  # name: result, arguments
    "bpf_map_create": (_int, _int, _str, _u32, _u32, _u32, _ptr),
    "bpf_map_update_elem": (_int, _int, _str, _str, _u64),
    "bpf_map_lookup_elem": (_int, _int, _str, _ptr),
    "bpf_map_delete_elem": (_int, _int, _str),
    "bpf_map_get_next_key": (_int, _int, _str, _ptr),
    "bpf_map_update_batch": (_int, _int, _str, _str, _ptr, _ptr),
    "bpf_map_delete_batch": (_int, _int, _str, _ptr, _ptr),
    "bpf_map_lookup_batch": (_int, _int, _ptr, _ptr, _ptr, _ptr, _ptr, _ptr),
    "bpf_obj_pin": (_int, _int, _str),
    "bpf_obj_get": (_int, _str),
    "bpf_obj_get_info_by_fd": (_int, _int, _ptr, _ptr),
    "bpf_prog_get_fd_by_id": (_int, _u32),
    "bpf_map_get_fd_by_id": (_int, _u32),
    "bpf_prog_query": (_int, _int, _int, _u32, _ptr, _ptr, _ptr),
    "bpf_prog_test_run_opts": (_int, _int, _ptr),
    "bpf_link_create": (_int, _int, _int, _int, _ptr),
    "bpf_link_update": (_int, _int, _int, _ptr),
    "bpf_link_detach": (_int, _int),
    "libbpf_num_possible_cpus": (_int,),
    "libbpf_set_print": (_ptr, _ptr),
    "bpf_object__open_mem": (_ptr, _str, _size, _ptr),
    "bpf_object__load": (_int, _ptr),
    "bpf_object__close": (None, _ptr),
    "bpf_object__btf": (_ptr, _ptr),
    "btf__raw_data": (_ptr, _ptr, _ptr),
    "bpf_object__next_program": (_ptr, _ptr, _ptr),
    "bpf_object__next_map": (_ptr, _ptr, _ptr),
    "bpf_program__name": (_str, _ptr),
    "bpf_program__fd": (_int, _ptr),
    "bpf_map__name": (_str, _ptr),
    "bpf_map__fd": (_int, _ptr),
    "bpf_map__reuse_fd": (_int, _ptr, _int),
    "bpf_map__set_max_entries": (_int, _ptr, _u32),
    "bpf_map__initial_value": (_ptr, _ptr, _ptr),
    "bpf_map__set_initial_value": (_int, _ptr, _str, _size),
}


@cache
def _library() -> ctypes.CDLL:
    """Open libbpf.so.1 and declare what is used of it. Nothing is printed from then on."""
    try:
        library = ctypes.CDLL("libbpf.so.1", use_errno=True)
    except OSError as error:
        raise Unavailable(f"libbpf.so.1 can't be opened ({error}): install the package libbpf1") from error
    for name, (result, *arguments) in _PROTOTYPES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    library.libbpf_set_print(None)
    return library


def _check(result: int, call: str, about: str) -> int:
    """Return a result that isn't negative; libbpf 1.x returns negated errnos."""
    if result < 0:
        raise BpfError(-result, call, about)
    return result


# ── maps ──


def map_create(kind: MapType, name: str, key_size: int, value_size: int, max_entries: int, *, flags: int = 0) -> Fd:
    """Create a map. The kernel keeps 15 characters of the name."""
    opts = _MapCreateOpts(sz=ctypes.sizeof(_MapCreateOpts), map_flags=flags)
    number = _library().bpf_map_create(kind, name[:15].encode(), key_size, value_size, max_entries, ctypes.byref(opts))
    return Fd(_check(number, "bpf_map_create", name), name)


def map_update(fd: Fd, key: bytes, value: bytes, flags: int = UPDATE_ANY) -> None:
    """Write one entry. For a PROG_ARRAY the value is the program's descriptor, 4 bytes."""
    _check(_library().bpf_map_update_elem(fd.fileno(), key, value, flags), "bpf_map_update_elem", fd.about)


def map_lookup(fd: Fd, key: bytes, value_size: int) -> bytes | None:
    """Return the value, None when there is none. Per-CPU maps: `value_size` × possible CPUs bytes."""
    value = ctypes.create_string_buffer(value_size)
    result = _library().bpf_map_lookup_elem(fd.fileno(), key, value)
    if result == -errno.ENOENT:
        return None
    _check(result, "bpf_map_lookup_elem", fd.about)
    return value.raw


def map_delete(fd: Fd, key: bytes) -> bool:
    """Remove one entry; False when there was none."""
    result = _library().bpf_map_delete_elem(fd.fileno(), key)
    if result == -errno.ENOENT:
        return False
    _check(result, "bpf_map_delete_elem", fd.about)
    return True


def map_update_batch(fd: Fd, entries: Sequence[tuple[bytes, bytes]]) -> None:
    """Write entries, thousands per call. Not atomic: on an error those before it are written."""
    for start in range(0, len(entries), _CHUNK):
        chunk = entries[start : start + _CHUNK]
        count = ctypes.c_uint32(len(chunk))
        keys, values = b"".join(key for key, _ in chunk), b"".join(value for _, value in chunk)
        result = _library().bpf_map_update_batch(fd.fileno(), keys, values, ctypes.byref(count), None)
        _check(result, f"bpf_map_update_batch of {len(entries)}", fd.about)


def map_delete_batch(fd: Fd, keys: Sequence[bytes]) -> None:
    """Remove entries; those that are gone already are passed over."""
    rest = list(keys)
    while rest:
        chunk = rest[:_CHUNK]
        count = ctypes.c_uint32(len(chunk))
        result = _library().bpf_map_delete_batch(fd.fileno(), b"".join(chunk), ctypes.byref(count), None)
        if result == -errno.ENOENT:  # the kernel stops at the first key that isn't there; count tells where
            del rest[: count.value + 1]
            continue
        _check(result, f"bpf_map_delete_batch of {len(keys)}", fd.about)
        del rest[: len(chunk)]


def map_entries(fd: Fd, key_size: int, value_size: int) -> list[tuple[bytes, bytes]]:
    """Return all entries, in the kernel's order. Entries that come and go meanwhile may or may not be among them.

    `value_size` counts all CPUs for a per-CPU map.
    """
    entries: list[tuple[bytes, bytes]] = []
    room = _CHUNK
    token_in, token_out = None, ctypes.create_string_buffer(max(key_size, 8))
    while True:
        keys, values = ctypes.create_string_buffer(key_size * room), ctypes.create_string_buffer(value_size * room)
        count = ctypes.c_uint32(room)
        result = _library().bpf_map_lookup_batch(
            fd.fileno(), token_in, token_out, keys, values, ctypes.byref(count), None
        )
        if result == -errno.ENOSPC:  # one hash bucket holds more than we made room for
            room *= 2
            continue
        if result != -errno.ENOENT:  # ENOENT: that was the last of them
            _check(result, "bpf_map_lookup_batch", fd.about)
        raw_keys, raw_values = keys.raw, values.raw
        entries += [
            (raw_keys[i * key_size : (i + 1) * key_size], raw_values[i * value_size : (i + 1) * value_size])
            for i in range(count.value)
        ]
        if result == -errno.ENOENT:
            return entries
        token_in = ctypes.create_string_buffer(token_out.raw, len(token_out))


def map_slots(fd: Fd, slots: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yield (slot, program id) of the filled slots of a PROG_ARRAY; the kernel has no batch call for those."""
    lookup, number, value = _library().bpf_map_lookup_elem, fd.fileno(), ctypes.c_uint32()
    reference = ctypes.byref(value)
    for slot in slots:
        result = lookup(number, slot.to_bytes(4, "little"), reference)
        if result == 0:
            yield slot, value.value
        elif result != -errno.ENOENT:
            _check(result, "bpf_map_lookup_elem", f"{fd.about}[{slot}]")


@cache
def possible_cpus() -> int:
    """Return how many values a per-CPU map has for each key."""
    return _check(_library().libbpf_num_possible_cpus(), "libbpf_num_possible_cpus", "this machine")


# ── pins and information ──


def object_pin(fd: Fd, path: Path) -> None:
    """Give the object a name in a bpffs, which keeps it alive. An existing name is an error (EEXIST)."""
    _check(_library().bpf_obj_pin(fd.fileno(), os.fsencode(path)), "bpf_obj_pin", f"{fd.about} at {path}")


def object_get(path: Path) -> Fd | None:
    """Open what is pinned at `path`; None when nothing is."""
    number = _library().bpf_obj_get(os.fsencode(path))
    if number == -errno.ENOENT:
        return None
    return Fd(_check(number, "bpf_obj_get", str(path)), path.name)


def _info(fd: Fd, size: int) -> bytes:
    """Return the first `size` bytes of the object's information; the kernel fills what it knows of them."""
    buffer, length = ctypes.create_string_buffer(size), ctypes.c_uint32(size)
    _check(
        _library().bpf_obj_get_info_by_fd(fd.fileno(), buffer, ctypes.byref(length)), "bpf_obj_get_info_by_fd", fd.about
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
    number = _library().bpf_prog_get_fd_by_id(ident)
    if number == -errno.ENOENT:
        return None
    return Fd(_check(number, "bpf_prog_get_fd_by_id", f"program {ident}"), f"program {ident}")


# ── running and attaching ──


def prog_test_run(program: Fd, packet: bytes, *, repeat: int = 1, context: bytes = b"", room: int = 0) -> TestRun:
    """Run a program over `packet` (BPF_PROG_TEST_RUN). `context` is a struct __sk_buff; its cb, mark, priority,
    ingress_ifindex, ifindex and gso fields reach the program. `room` is how far the packet may grow.
    """
    data_out = ctypes.create_string_buffer(len(packet) + room)
    context_out = ctypes.create_string_buffer(_CONTEXT_ROOM) if context else None
    opts = _TestRunOpts(
        sz=ctypes.sizeof(_TestRunOpts),
        data_in=packet,
        data_size_in=len(packet),
        data_out=ctypes.cast(data_out, _ptr),
        data_size_out=len(data_out),
        ctx_in=context or None,
        ctx_size_in=len(context),
        ctx_out=ctypes.cast(context_out, _ptr) if context_out else None,
        ctx_size_out=_CONTEXT_ROOM if context else 0,
        repeat=repeat,
    )
    result = _library().bpf_prog_test_run_opts(program.fileno(), ctypes.byref(opts))
    _check(result, "bpf_prog_test_run_opts", program.about)
    return TestRun(
        opts.retval,
        data_out.raw[: opts.data_size_out],
        context_out.raw[: opts.ctx_size_out] if context_out else b"",
        opts.duration,
    )


def link_create(program: Fd, ifindex: int, attach_type: AttachType) -> Fd:
    """Attach a program to a tcx hook. Closing the link detaches it unless it is pinned.

    The first link of a device waits for an RCU grace period, about 11 ms.
    """
    about = f"{program.about} at {attach_type.name.lower()} of interface {ifindex}"
    number = _library().bpf_link_create(program.fileno(), ifindex, attach_type, None)
    return Fd(_check(number, "bpf_link_create", about), about)


def link_update(link: Fd, program: Fd) -> None:
    """Replace a link's program: each packet sees the old one or the new one. ENOLINK: the device is gone."""
    _check(_library().bpf_link_update(link.fileno(), program.fileno(), None), "bpf_link_update", link.about)


def link_detach(link: Fd) -> None:
    """Detach now, pinned or not; the link stays as an empty object until it is closed and unpinned."""
    _check(_library().bpf_link_detach(link.fileno()), "bpf_link_detach", link.about)


def attached_programs(ifindex: int, attach_type: AttachType) -> list[int]:
    """Return the ids of the programs on a tcx hook, in running order."""
    ids, count = (ctypes.c_uint32 * 64)(), ctypes.c_uint32(64)
    result = _library().bpf_prog_query(ifindex, attach_type, 0, None, ids, ctypes.byref(count))
    if result == -errno.ENOENT:  # nothing was ever attached there
        return []
    _check(result, "bpf_prog_query", f"{attach_type.name.lower()} of interface {ifindex}")
    return list(ids[: count.value])


# ── objects: handles are plain addresses, owned by objects.py ──

Handle = int


def object_open(content: bytes, name: str, log: "LogBuffer | None" = None) -> Handle:
    """Parse an ELF object. `content` must outlive the handle. `log` receives the verifier's words on a failed load."""
    opts = _OpenOpts(sz=ctypes.sizeof(_OpenOpts), object_name=name.encode())
    if log is not None:
        opts.kernel_log_buf, opts.kernel_log_size, opts.kernel_log_level = log.address, log.size, log.level
    handle = _library().bpf_object__open_mem(content, len(content), ctypes.byref(opts))
    if not handle:
        raise BpfError(ctypes.get_errno(), "bpf_object__open_mem", f"object {name}, {len(content)} bytes")
    return int(handle)


def object_load(handle: Handle, name: str) -> None:
    """Create the object's maps that aren't reused and load all programs."""
    _check(_library().bpf_object__load(handle), "bpf_object__load", f"object {name}")


def object_close(handle: Handle) -> None:
    """Free the object and close the descriptors that it holds."""
    _library().bpf_object__close(handle)


def object_btf(handle: Handle) -> bytes:
    """Return the object's BTF as libbpf has completed it: with sizes and offsets of variables."""
    size = ctypes.c_uint32()
    address = _library().btf__raw_data(_library().bpf_object__btf(handle), ctypes.byref(size))
    return ctypes.string_at(address, size.value) if address else b""


def object_programs(handle: Handle) -> dict[str, Handle]:
    """Return the object's programs by name."""
    return dict(_named(handle, "program"))


def object_maps(handle: Handle) -> dict[str, Handle]:
    """Return the object's maps by name; `.rodata` and its kin are among them, under their section's name."""
    found = {}
    for name, entry in _named(handle, "map"):
        found["." + name.rpartition(".")[2] if "." in name else name] = entry
    return found


def _named(handle: Handle, kind: str) -> Iterator[tuple[str, Handle]]:
    following, named = getattr(_library(), f"bpf_object__next_{kind}"), getattr(_library(), f"bpf_{kind}__name")
    entry = following(handle, None)
    while entry:
        yield named(entry).decode(), int(entry)
        entry = following(handle, entry)


def program_fd(program: Handle, name: str) -> Fd:
    """Return a descriptor of our own for a loaded program."""
    return Fd(os.dup(_check(_library().bpf_program__fd(program), "bpf_program__fd", name)), name)


def map_fd(entry: Handle, name: str) -> Fd:
    """Return a descriptor of our own for a created map."""
    return Fd(os.dup(_check(_library().bpf_map__fd(entry), "bpf_map__fd", name)), name)


def map_reuse(entry: Handle, fd: Fd) -> None:
    """Let the object use an existing map; its type and sizes are the existing one's from then on."""
    _check(_library().bpf_map__reuse_fd(entry, fd.fileno()), "bpf_map__reuse_fd", fd.about)


def map_set_max_entries(entry: Handle, max_entries: int, name: str) -> None:
    """Resize a map before it is created."""
    _check(_library().bpf_map__set_max_entries(entry, max_entries), "bpf_map__set_max_entries", name)


def map_initial_value(entry: Handle) -> bytes:
    """Return what a data section holds before the load."""
    size = ctypes.c_size_t()
    address = _library().bpf_map__initial_value(entry, ctypes.byref(size))
    return ctypes.string_at(address, size.value) if address else b""


def map_set_initial_value(entry: Handle, value: bytes, name: str) -> None:
    """Replace what a data section will hold; the length must be the section's."""
    result = _library().bpf_map__set_initial_value(entry, value, len(value))
    _check(result, "bpf_map__set_initial_value", f"{name}, {len(value)} bytes")


class LogBuffer:
    """Room for the verifier's log. `level` 0: only on failure; 1: always; 4: statistics only."""

    def __init__(self, size: int = 1 << 24, level: int = 0) -> None:
        """Reserve `size` bytes of address space; pages are used as the kernel writes them."""
        self._memory = mmap.mmap(-1, size)
        self._view = ctypes.c_char.from_buffer(self._memory)
        self.address = ctypes.addressof(self._view)
        self.size = size
        self.level = level

    def text(self) -> str:
        """Return what was written."""
        return ctypes.string_at(self.address).decode(errors="replace")


class _Capture(threading.local):
    """The lines of this thread, None while nobody collects them."""

    lines: list[str] | None = None


_capture = _Capture()
_capturing = threading.Semaphore(1)  # one at a time: libbpf has one print function


def _print(level: int, fmt: int | None, arguments: int | None) -> int:
    if _capture.lines is not None and level != _LIBBPF_DEBUG:
        buffer = ctypes.create_string_buffer(4096)
        _libc().vsnprintf(buffer, len(buffer), fmt, arguments)
        _capture.lines.append(buffer.value.decode(errors="replace").rstrip())
    return 0


# libbpf keeps the pointer: it must live as long as the library.
_PRINTER = _PRINT(_print)


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None)
    libc.vsnprintf.argtypes = (_ptr, _size, _ptr, _ptr)
    return libc


@contextmanager
def captured_output() -> Iterator[list[str]]:
    """Collect libbpf's warnings of this thread. Formatting them costs, so only who failed already asks for it."""
    with _capturing:
        lines = _capture.lines = []
        _library().libbpf_set_print(_PRINTER)
        try:
            yield lines
        finally:
            _library().libbpf_set_print(None)
            _capture.lines = None
