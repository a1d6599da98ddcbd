"""The ABI that libbpf.py and its two other parts share: libbpf.so.1 opened and declared, descriptors, errors.

Nobody else imports it. libbpf.so.1 is bound by hand (1.1 is enough) because importing bcc costs 63 MB and a compiler.
Structures are those of <bpf/bpf.h> and <bpf/libbpf.h>; each begins with its own size, by which newer libraries know
what an older caller doesn't set.
"""

import ctypes
import os
import warnings
from functools import cache
from typing import Self

from services.common.errors import Unavailable


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


class TestRunOpts(ctypes.Structure):
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


class OpenOpts(ctypes.Structure):
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


class MapCreateOpts(ctypes.Structure):
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
    "bpf_map_update_batch": (_int, _int, _str, _str, _ptr, _ptr),
    "bpf_map_delete_batch": (_int, _int, _str, _ptr, _ptr),
    "bpf_map_lookup_batch": (_int, _int, _ptr, _ptr, _ptr, _ptr, _ptr, _ptr),
    "bpf_map_freeze": (_int, _int),
    "bpf_prog_load": (_int, _int, _str, _str, _ptr, _size, _ptr),
    "bpf_obj_pin": (_int, _int, _str),
    "bpf_obj_get": (_int, _str),
    "bpf_obj_get_info_by_fd": (_int, _int, _ptr, _ptr),
    "bpf_prog_get_fd_by_id": (_int, _u32),
    "bpf_prog_query": (_int, _int, _int, _u32, _ptr, _ptr, _ptr),
    "bpf_prog_test_run_opts": (_int, _int, _ptr),
    "bpf_link_create": (_int, _int, _int, _int, _ptr),
    "bpf_link_update": (_int, _int, _int, _ptr),
    "bpf_link_detach": (_int, _int),
    "ring_buffer__new": (_ptr, _int, _ptr, _ptr, _ptr),
    "ring_buffer__consume": (_int, _ptr),
    "ring_buffer__free": (None, _ptr),
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
    "bpf_program__set_autoload": (_int, _ptr, ctypes.c_bool),
    "bpf_program__insns": (_ptr, _ptr),
    "bpf_program__insn_cnt": (_size, _ptr),
    "bpf_map__name": (_str, _ptr),
    "bpf_map__fd": (_int, _ptr),
    "bpf_map__reuse_fd": (_int, _ptr, _int),
    "bpf_map__initial_value": (_ptr, _ptr, _ptr),
    "bpf_map__set_initial_value": (_int, _ptr, _str, _size),
}


@cache
def library() -> ctypes.CDLL:
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


def check(result: int, call: str, about: str) -> int:
    """Return a result that isn't negative; libbpf 1.x returns negated errnos."""
    if result < 0:
        raise BpfError(-result, call, about)
    return result
