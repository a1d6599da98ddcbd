"""Programs, through libbpf: loaded from instructions, tried on a packet, attached by tcx links.

As libbpf.py, whose invariants hold here, too: descriptors are `Fd`, failures are `BpfError`, calls block for as long as
the kernel works. Objects with relocations are libbpf_objects.py's; clsact filters are tc.py's.
"""

import ctypes
import errno
from dataclasses import dataclass
from enum import IntEnum

from services.loader.libbpf_abi import Fd, TestRunOpts, check, library

_SCHED_CLS = 3  # BPF_PROG_TYPE_SCHED_CLS
_CONTEXT_ROOM = 512  # struct __sk_buff is 192 bytes today; less than the kernel's is ENOSPC


class AttachType(IntEnum):
    """The kernel's enum bpf_attach_type: tcx hooks, kernel 6.6 and later."""

    TCX_INGRESS = 46
    TCX_EGRESS = 47


@dataclass(frozen=True, slots=True)
class TestRun:
    """The outcome of BPF_PROG_TEST_RUN."""

    retval: int
    data: bytes
    context: bytes
    duration_ns: int
    """Average of one repetition."""


def prog_load(name: str, instructions: bytes) -> Fd:
    """Load one program for tc from instructions in which descriptors of maps stand already; no log, no BTF.

    The licence is what the objects in bpf/ say of themselves, as far as the kernel asks: whether the GPL allows it.
    """
    content = ctypes.create_string_buffer(instructions, len(instructions))
    number = library().bpf_prog_load(_SCHED_CLS, name.encode(), b"GPL", content, len(instructions) // 8, None)
    return Fd(check(number, "bpf_prog_load", f"program {name}"), name)


def prog_test_run(program: Fd, packet: bytes, *, repeat: int = 1, context: bytes = b"", room: int = 0) -> TestRun:
    """Run a program over `packet` (BPF_PROG_TEST_RUN). `context` is a struct __sk_buff; its cb, mark, priority,
    ingress_ifindex, ifindex and gso fields reach the program. `room` is how far the packet may grow.
    """
    data_out = ctypes.create_string_buffer(len(packet) + room)
    context_out = ctypes.create_string_buffer(_CONTEXT_ROOM) if context else None
    opts = TestRunOpts(
        sz=ctypes.sizeof(TestRunOpts),
        data_in=packet,
        data_size_in=len(packet),
        data_out=ctypes.addressof(data_out),
        data_size_out=len(data_out),
        ctx_in=context or None,
        ctx_size_in=len(context),
        ctx_out=ctypes.addressof(context_out) if context_out else None,
        ctx_size_out=_CONTEXT_ROOM if context else 0,
        repeat=repeat,
    )
    result = library().bpf_prog_test_run_opts(program.fileno(), ctypes.byref(opts))
    check(result, "bpf_prog_test_run_opts", program.about)
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
    number = library().bpf_link_create(program.fileno(), ifindex, attach_type, None)
    return Fd(check(number, "bpf_link_create", about), about)


def link_update(link: Fd, program: Fd) -> None:
    """Replace a link's program: each packet sees the old one or the new one. ENOLINK: the device is gone."""
    check(library().bpf_link_update(link.fileno(), program.fileno(), None), "bpf_link_update", link.about)


def link_detach(link: Fd) -> None:
    """Detach now, pinned or not; the link stays as an empty object until it is closed and unpinned."""
    check(library().bpf_link_detach(link.fileno()), "bpf_link_detach", link.about)


def attached_programs(ifindex: int, attach_type: AttachType) -> list[int]:
    """Return the ids of the programs on a tcx hook, in running order."""
    ids, count = (ctypes.c_uint32 * 64)(), ctypes.c_uint32(64)
    result = library().bpf_prog_query(ifindex, attach_type, 0, None, ids, ctypes.byref(count))
    if result == -errno.ENOENT:  # nothing was ever attached there
        return []
    check(result, "bpf_prog_query", f"{attach_type.name.lower()} of interface {ifindex}")
    return list(ids[: count.value])
