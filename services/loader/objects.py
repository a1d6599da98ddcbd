"""BPF objects: from the bytes that clang wrote to programs in the kernel.

    open ──► set .rodata and the endpoint's variables, reuse maps ──► load ──► descriptors of programs ──► close

`load` is one pass through that; libbpf's `bpf_object` lives no longer than the call. Programs stay in the kernel as
long as somebody holds them: a descriptor, an attachment, a slot in call_policy.

A load is tried quietly first. Only when it fails it is repeated with the verifier's log on, because a log costs more
than the load; the second attempt's outcome is the one that counts.

Not here: which maps and constants an endpoint needs (`layout.py`, `maps.py`), attaching (`tc.py`).
"""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

from services.common.errors import FailedPrecondition, Internal
from services.loader import libbpf_objects as libbpf
from services.loader.btf import Btf, Field
from services.loader.libbpf import BpfError, Fd
from services.loader.libbpf_objects import Handle, LogBuffer

RODATA = ".rodata"
"""Constants that the verifier knows."""
VARIABLES = "podlane_whose"
"""The map of what tells one endpoint from another (bpf/lib/endpoint_config.h), which programs only read."""
_SECTIONS = {RODATA: RODATA, VARIABLES: f".data.{VARIABLES}"}


class VerifierError(FailedPrecondition):
    """The kernel refused a program. The message has the last line that says why; `log` has everything."""

    def __init__(self, message: str, log: str, **fields: object) -> None:
        """Keep the sentence and the log."""
        super().__init__(message, **fields)
        self.log = log


@dataclass(frozen=True, slots=True)
class ObjectCode:
    """An object's bytes, where its constants and variables lie, its programs and maps by name: what a template caches
    so that a load parses nothing twice. `sections` is by RODATA and VARIABLES.
    """

    name: str
    content: bytes
    sections: Mapping[str, Mapping[str, Field]]
    programs: tuple[str, ...]
    maps: frozenset[str]

    def filled(self, section: str, values: Mapping[str, int | bytes], initial: bytes) -> bytes:
        """Return a section with those of `values` in place that it has. A name that no section has or a wrong length
        is Internal: a bug of ours.

        A number is written in the machine's byte order, bytes (addresses) as they are.
        """
        content, places = bytearray(initial), self.sections[section]
        for name, value in values.items():
            place = places.get(name)
            if place is None:
                self._check_known(name)
                continue
            raw = value if isinstance(value, bytes) else value.to_bytes(place.size, sys.byteorder)
            if len(raw) != place.size:
                raise Internal(f"constant {name} of object {self.name} has {place.size} bytes, not {len(raw)}")
            content[place.offset : place.offset + place.size] = raw
        return bytes(content)

    def _check_known(self, name: str) -> None:
        known = sorted(one for places in self.sections.values() for one in places)
        if name not in known:
            raise Internal(f"object {self.name} has no constant {name}; it has {', '.join(known)}")


class Programs:
    """The programs of one load: a context manager that closes the descriptors; what holds them otherwise stays."""

    def __init__(self, fds: dict[str, Fd], log: str = "") -> None:
        """Own the descriptors; `log` is what the verifier wrote if it was asked to."""
        self.fds = fds
        self.log = log

    def __getitem__(self, name: str) -> Fd:
        """Return the descriptor of a program, for example `from_container`."""
        return self.fds[name]

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the descriptors."""
        self.close()

    def close(self) -> None:
        """Close the descriptors."""
        for fd in self.fds.values():
            fd.close()


def read(content: bytes, name: str) -> tuple[ObjectCode, Btf]:
    """Parse an object, without the kernel and without privileges. Raises Internal when it is no BPF object."""
    try:
        handle = libbpf.object_open(content, name)
    except BpfError as error:
        raise Internal(f"object {name} can't be read: {error.strerror}", object=name) from error
    try:
        btf = Btf(libbpf.object_btf(handle))
        programs, used = tuple(libbpf.object_programs(handle)), frozenset(libbpf.object_maps(handle))
        sections = {one: btf.section(name_) for one, name_ in _SECTIONS.items()}
        return ObjectCode(name, content, sections, programs, used), btf
    finally:
        libbpf.object_close(handle)


def load(
    code: ObjectCode,
    constants: Mapping[str, int | bytes],
    maps: Mapping[str, Fd],
    *,
    log_level: int = 0,
    only: str | None = None,
    inspect: Callable[[Handle], None] | None = None,
) -> Programs:
    """Load all programs of an object with these constants on these maps; maps not given are created for them alone.

    `only`: load just this program; an object's log is that of its last one. `log_level` 1: keep the verifier's log in
    the result, 4: only its statistics. `inspect` sees the loaded object before it is closed. Raises VerifierError, or
    BpfError when the kernel fails otherwise. Blocks for the time of the verification, about a millisecond.
    """
    log = LogBuffer(level=log_level) if log_level else None
    try:
        return _load(code, constants, maps, log, only=only, inspect=inspect)
    except BpfError as error:
        if error.call != "bpf_object__load":
            raise
    log = LogBuffer(level=1)
    with libbpf.captured_output() as output:
        try:
            return _load(code, constants, maps, log, only=only, inspect=inspect)
        except BpfError as error:
            raise _refusal(code.name, error, log.text(), output) from error


def _load(
    code: ObjectCode,
    constants: Mapping[str, int | bytes],
    maps: Mapping[str, Fd],
    log: LogBuffer | None,
    *,
    only: str | None,
    inspect: Callable[[Handle], None] | None,
) -> Programs:
    handle = libbpf.object_open(code.content, code.name, log)
    try:
        _prepare(code, libbpf.object_maps(handle), constants, maps)
        programs = libbpf.object_programs(handle)
        for name in [name for name in programs if only not in {None, name}]:
            libbpf.program_leave_out(programs.pop(name), name)
        libbpf.object_load(handle, code.name)
        fds: dict[str, Fd] = {}
        for name, program in programs.items():
            fds[name] = libbpf.program_fd(program, name)
        if inspect is not None:
            inspect(handle)
        return Programs(fds, log.text() if log else "")
    finally:
        libbpf.object_close(handle)


def _prepare(
    code: ObjectCode, own: Mapping[str, Handle], constants: Mapping[str, int | bytes], maps: Mapping[str, Fd]
) -> None:
    for section in _SECTIONS:
        if section in own and section not in maps:
            filled = code.filled(section, constants, libbpf.map_initial_value(own[section]))
            libbpf.map_set_initial_value(own[section], filled, section)
    for name, fd in maps.items():
        if name in own:  # a switch may have compiled a map away
            libbpf.map_reuse(own[name], fd)


def _refusal(name: str, error: BpfError, log: str, output: list[str]) -> VerifierError:
    """Make the sentence: the verifier ends with a reason and then statistics; without a log libbpf's words must do."""
    statistics = ("processed ", "verification time ", "stack depth ", "max_states ")
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    reasons = [line for line in lines if not line.startswith(statistics)]
    reason = reasons[-1] if reasons else (output[-1] if output else error.strerror)
    # libbpf's sentence: prog 'from_container': BPF program load failed: …
    program = next((line.split("'")[1] for line in output if "prog '" in line), "a program")
    return VerifierError(
        f"the kernel refused {program} of object {name}: {reason} ({os.strerror(error.errno or 0)})",
        "\n".join([*lines, *output]),
        object=name,
    )
