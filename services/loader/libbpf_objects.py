"""libbpf's objects by ctypes: an ELF file opened, changed before its load, loaded, taken apart.

The half of `libbpf.py` that `objects.py` alone uses. A `Handle` is the address of one of libbpf's structures; the
object's must be closed by `object_close`, after which those of its programs and maps are void.

libbpf prints nothing. What it would have printed is collected by `captured_output()` when somebody wants it.
"""

import ctypes
import mmap
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from services.loader.libbpf_abi import BpfError, Fd, OpenOpts, check, library

# level, format, va_list
_PRINT = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_LIBBPF_DEBUG = 2

Handle = int


def object_open(content: bytes, name: str, log: "LogBuffer | None" = None) -> Handle:
    """Parse an ELF object. `content` must outlive the handle. `log` receives the verifier's words on a failed load."""
    opts = OpenOpts(sz=ctypes.sizeof(OpenOpts), object_name=name.encode())
    if log is not None:
        opts.kernel_log_buf, opts.kernel_log_size, opts.kernel_log_level = log.address, log.size, log.level
    handle = library().bpf_object__open_mem(content, len(content), ctypes.byref(opts))
    if not handle:
        raise BpfError(ctypes.get_errno(), "bpf_object__open_mem", f"object {name}, {len(content)} bytes")
    return int(handle)


def object_load(handle: Handle, name: str) -> None:
    """Create the object's maps that aren't reused and load all programs."""
    check(library().bpf_object__load(handle), "bpf_object__load", f"object {name}")


def object_close(handle: Handle) -> None:
    """Free the object and close the descriptors that it holds."""
    library().bpf_object__close(handle)


def object_btf(handle: Handle) -> bytes:
    """Return the object's BTF as libbpf has completed it: with sizes and offsets of variables."""
    size = ctypes.c_uint32()
    address = library().btf__raw_data(library().bpf_object__btf(handle), ctypes.byref(size))
    return ctypes.string_at(address, size.value) if address else b""


def object_programs(handle: Handle) -> dict[str, Handle]:
    """Return the object's programs by name."""
    return dict(_named(handle, "program"))


def object_maps(handle: Handle) -> dict[str, Handle]:
    """Return the object's maps by name. Among them are data sections: `.rodata` and its kin under their section's name,
    `.data.<name>` under the name alone, for it is a map whose value programs read as a variable.
    """
    found = {}
    for name, entry in _named(handle, "map"):
        own = name.removeprefix(".data.")
        found["." + own.rpartition(".")[2] if "." in own else own] = entry
    return found


def _named(handle: Handle, kind: str) -> Iterator[tuple[str, Handle]]:
    following, named = getattr(library(), f"bpf_object__next_{kind}"), getattr(library(), f"bpf_{kind}__name")
    entry = following(handle, None)
    while entry:
        yield named(entry).decode(), int(entry)
        entry = following(handle, entry)


def program_leave_out(program: Handle, name: str) -> None:
    """Don't load this program with the object."""
    check(library().bpf_program__set_autoload(program, False), "bpf_program__set_autoload", name)


def program_fd(program: Handle, name: str) -> Fd:
    """Return a descriptor of our own for a loaded program."""
    return Fd(os.dup(check(library().bpf_program__fd(program), "bpf_program__fd", name)), name)


def program_instructions(program: Handle) -> bytes:
    """Return a program's instructions; after the load they hold descriptors of maps, as the kernel was given them."""
    return ctypes.string_at(library().bpf_program__insns(program), 8 * library().bpf_program__insn_cnt(program))


def map_number(entry: Handle) -> int:
    """Return the number of libbpf's own descriptor of a map; it is closed with the object."""
    return int(library().bpf_map__fd(entry))


def map_reuse(entry: Handle, fd: Fd) -> None:
    """Let the object use an existing map; its type and sizes are the existing one's from then on."""
    check(library().bpf_map__reuse_fd(entry, fd.fileno()), "bpf_map__reuse_fd", fd.about)


def map_initial_value(entry: Handle) -> bytes:
    """Return what a data section holds before the load."""
    size = ctypes.c_size_t()
    address = library().bpf_map__initial_value(entry, ctypes.byref(size))
    return ctypes.string_at(address, size.value) if address else b""


def map_set_initial_value(entry: Handle, value: bytes, name: str) -> None:
    """Replace what a data section will hold; the length must be the section's."""
    result = library().bpf_map__set_initial_value(entry, value, len(value))
    check(result, "bpf_map__set_initial_value", f"{name}, {len(value)} bytes")


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
    libc.vsnprintf.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_void_p)
    return libc


@contextmanager
def captured_output() -> Iterator[list[str]]:
    """Collect libbpf's warnings of this thread. Formatting them costs, so only who failed already asks for it."""
    with _capturing:
        lines = _capture.lines = []
        library().libbpf_set_print(_PRINTER)
        try:
            yield lines
        finally:
            library().libbpf_set_print(None)
            _capture.lines = None
