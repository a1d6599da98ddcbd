"""Images: an object's programs as the kernel was given them, kept so that the next load needs no libbpf.

    first load of a template   libbpf: ELF, relocations, BTF, verifier ──► programs, and the image cut out of them
    every later one            constants into a map of their own, frozen, and variables into another ──► their and the
                               other maps' descriptors written into a copy of the instructions ──► BPF_PROG_LOAD, side
                               by side

The verifier is most of what a load costs, and it works on one program at a time, so the largest program has a thread
of its own and the others share another: an ADD waits for the longer of the two. While another load is under way, its
threads want the CPUs themselves, and everything goes to one.

A load that is refused here is repeated through libbpf (`objects.load`), whose log explains it and whose outcome
counts. What is lost: such programs carry no BTF, so `bpftool prog dump` shows them without their source lines.

An object whose programs use other maps than those that are given, and its constants, has no image and always goes
through libbpf.
"""

import asyncio
import contextlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from services.common import telemetry
from services.common.stopwatch import Stopwatch
from services.loader import libbpf, libbpf_programs, objects
from services.loader import libbpf_objects as opened
from services.loader.blocking import Blocking
from services.loader.libbpf import RDONLY_PROG, BpfError, Fd, MapType
from services.loader.libbpf_objects import Handle
from services.loader.objects import RODATA, VARIABLES, ObjectCode, Programs

_log = telemetry.logger("image")

# struct bpf_insn (linux/bpf.h): opcode, registers (source in the high half), offset, immediate
_INSTRUCTION = struct.Struct("=BBhi")
_IMMEDIATE = struct.Struct("=i")
_IMMEDIATE_OFFSET = 4
_LOAD_64 = 0x18  # BPF_LD | BPF_DW | BPF_IMM
_OF_MAP = (1, 2)  # BPF_PSEUDO_MAP_FD, BPF_PSEUDO_MAP_VALUE
_FIRST_KEY = bytes(4)


@dataclass(frozen=True, slots=True)
class Image:
    """The instructions of each program, where descriptors of maps stand in them, and what its sections hold at first.

    `places`: program → (offset in bytes, name of the map).
    """

    instructions: Mapping[str, bytes]
    places: Mapping[str, Sequence[tuple[int, str]]]
    sections: Mapping[str, bytes]

    def bound(self, program: str, maps: Mapping[str, Fd]) -> bytes:
        """Return a program's instructions for these maps."""
        content = bytearray(self.instructions[program])
        for offset, name in self.places[program]:
            _IMMEDIATE.pack_into(content, offset, maps[name].fileno())
        return bytes(content)


def cut(handle: Handle, known: frozenset[str]) -> Image | None:
    """Cut the image out of a loaded object, None when its programs use other maps than `known` and the constants."""
    entries = opened.object_maps(handle)
    names = {opened.map_number(entry): name for name, entry in entries.items()}
    instructions = {
        name: opened.program_instructions(program) for name, program in opened.object_programs(handle).items()
    }
    places = {name: [(at, names[number]) for at, number in _maps_in(code)] for name, code in instructions.items()}
    used = {name for found in places.values() for _, name in found}
    own = {RODATA, VARIABLES}
    if not own <= used or not used <= known | own:
        return None
    return Image(instructions, places, {name: opened.map_initial_value(entries[name]) for name in own})


def _maps_in(code: bytes) -> list[tuple[int, int]]:
    """Return where in the instructions the descriptor of a map stands, and which."""
    found = []
    for offset in range(0, len(code), _INSTRUCTION.size):
        opcode, registers, _, immediate = _INSTRUCTION.unpack_from(code, offset)
        if opcode == _LOAD_64 and registers >> 4 in _OF_MAP:
            found.append((offset + _IMMEDIATE_OFFSET, immediate))
    return found


class Images:
    """Loads the programs of templates, through libbpf the first time and from the image afterwards."""

    def __init__(self, blocking: Blocking) -> None:
        """`blocking` has the threads."""
        self._blocking = blocking
        self._images: dict[str, Image | None] = {}
        self._under_way = 0

    async def load(
        self,
        template: str,
        code: ObjectCode,
        constants: Mapping[str, int | bytes],
        maps: Mapping[str, Fd],
        watch: Stopwatch | None = None,
    ) -> Programs:
        """Load all programs of a template with these constants on these maps; with VARIABLES among these, variables
        are whatever that holds. `watch` measures `rewrite`, putting the constants in, and `verify`, which is the
        kernel's; through libbpf `verify` is both.

        Raises VerifierError, or BpfError when the kernel fails otherwise.
        """
        image, watch = self._images.get(template), watch or Stopwatch()
        if image is not None:
            try:
                return await self._load_image(image, code, constants, maps, watch)
            except BpfError as error:
                _log.info("repeating a refused load with a log", template=template[:12], error=str(error))

        def inspect(handle: Handle) -> None:
            self._images[template] = cut(handle, frozenset(maps))

        work = partial(objects.load, code, constants, maps, inspect=inspect if template not in self._images else None)
        with watch.phase("verify"):
            return await self._blocking.run(work)

    async def _load_image(
        self,
        image: Image,
        code: ObjectCode,
        constants: Mapping[str, int | bytes],
        maps: Mapping[str, Fd],
        watch: Stopwatch,
    ) -> Programs:
        with watch.phase("rewrite"):
            own = {RODATA: _constants_map(code.filled(RODATA, constants, image.sections[RODATA]))}
            if VARIABLES not in maps:
                own[VARIABLES] = variables_map(code.filled(VARIABLES, constants, image.sections[VARIABLES]))
        with contextlib.ExitStack() as undo, contextlib.ExitStack() as held, watch.phase("verify"):
            for made in own.values():
                held.enter_context(made)
            bound = {**maps, **own}
            names = sorted(image.instructions, key=lambda name: len(image.instructions[name]), reverse=True)
            shares = [names] if self._under_way else [names[:1], names[1:]]
            loads = [self._blocking.run(partial(_load_programs, image, share, bound)) for share in shares if share]
            fds: dict[str, Fd] = {}
            errors: list[BaseException] = []
            self._under_way += 1
            try:
                outcomes = await asyncio.gather(*loads, return_exceptions=True)
            finally:
                self._under_way -= 1
            for outcome in outcomes:
                if isinstance(outcome, BaseException):
                    errors.append(outcome)
                    continue
                for name, fd in outcome.items():
                    fds[name] = undo.enter_context(fd)
            if errors:
                raise errors[0]
            undo.pop_all()
            return Programs(fds)


def _constants_map(content: bytes) -> Fd:
    """Return a read-only map of one value, frozen: the verifier takes it for constants."""
    fd = libbpf.map_create(MapType.ARRAY, RODATA, 4, len(content), 1, flags=RDONLY_PROG)
    try:
        libbpf.map_update(fd, _FIRST_KEY, content)
        libbpf.map_freeze(fd)
    except BaseException:
        fd.close()
        raise
    return fd


def variables_map(content: bytes) -> Fd:
    """Return a map of one value that programs can't write."""
    fd = libbpf.map_create(MapType.ARRAY, VARIABLES, 4, len(content), 1, flags=RDONLY_PROG)
    try:
        libbpf.map_update(fd, _FIRST_KEY, content)
    except BaseException:
        fd.close()
        raise
    return fd


def _load_programs(image: Image, names: Sequence[str], maps: Mapping[str, Fd]) -> dict[str, Fd]:
    with contextlib.ExitStack() as undo:
        fds = {name: undo.enter_context(libbpf_programs.prog_load(name, image.bound(name, maps))) for name in names}
        undo.pop_all()
        return fds
