"""Spare programs: verified before anybody needs them, so that no pod waits for the verifier.

    prepare   of which shape they are to be: the usual one (prepare.py), or what the last two first builds have needed
    fill      the controller `prepare-spares`: loads one after the other, in moments of calm
    take      a first build takes one, and writes into its variables whose it is
    stop      what nobody took is closed; after a kill it goes by itself, for nothing of it is pinned or attached

The programs of most endpoints of a node differ only in their variables (bpf/lib/endpoint_config.h), and verifying them
is the longest part of putting a datapath in force. A spare has programs, variables and a policy map that nobody else
has. It fits an endpoint of the same template, with the same constants, on the same shared maps; what fits no more is
closed. Who finds none loads, as every regeneration does that isn't the first: it keeps its policy map.

Pods come in bursts, so a few spares are kept, and made again in the quiet after one. It is calm when nothing has been
regenerated or removed for CALM seconds, and CPUs have idled in them: a pod that has its network has its containers
started next. On a node that is never idle it is calm enough after PATIENCE seconds.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from services.loader import files, libbpf
from services.loader.headers import SIZES
from services.loader.image import Images, variables_map
from services.loader.libbpf import Fd
from services.loader.maps import DEFINITIONS, POLICY
from services.loader.objects import RODATA, VARIABLES, ObjectCode, Programs

CALM, PATIENCE = 0.05, 1.0
_IDLE = 0.5  # of one CPU
_FIRST_KEY = bytes(4)


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """What programs depend on before it is known whose they will be. `constants` may hold variables, too."""

    template: str
    code: ObjectCode
    constants: Mapping[str, int | bytes]
    maps: Mapping[str, Fd]

    def fits(self, other: "Shape") -> bool:
        """Whether programs of the one are right for the other. Maps are the same when their descriptors are."""
        return (self.template, self.known(), self.maps) == (other.template, other.known(), other.maps)

    def known(self) -> Mapping[str, int | bytes]:
        """Return what the verifier knows of them."""
        names = self.code.sections[RODATA]
        return {name: value for name, value in self.constants.items() if name in names}


@dataclass(frozen=True, slots=True)
class Spare:
    """Programs that are nobody's yet, with the policy map that they ask."""

    programs: Programs
    policy: Fd
    variables: Fd

    def close(self) -> None:
        """Let go of all of it."""
        self.programs.close()
        self.policy.close()
        self.variables.close()


@dataclass
class Tally:
    """First builds since the start: how many found a spare, how many loaded."""

    taken: int = 0
    missed: int = 0


class Spares:
    """The spares of one node. A component: `stop` closes them."""

    def __init__(
        self,
        images: Images,
        size: int,
        *,
        missing: Callable[[], object] = lambda: None,
    ) -> None:
        """Keep `size` of them, none with 0. `missing` is called when there are fewer, and has `fill` run."""
        self._images = images
        self._size = size
        self._wanted: Shape | None = None
        self._ready: deque[Spare] = deque()
        self._busy = 0
        self._busy_at = 0.0
        self._missing = missing
        self._other: Shape | None = None
        self.tally = Tally()

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._ready)

    async def start(self) -> None:
        """Nothing to do."""

    async def stop(self) -> None:
        """Close them."""
        self._wanted = None
        self._drop()

    def prepare(self, shape: Shape) -> None:
        """Keep spares of this shape from now on; those of another are closed."""
        if self._wanted is None or not self._wanted.fits(shape):
            self._drop()
            self._wanted = shape
        if len(self._ready) < self._size:
            self._missing()

    def take(self, shape: Shape) -> Spare | None:
        """Return one that is the endpoint's now, its variables written; None: there is none of this shape.

        Raises BpfError when the kernel refuses the variables.
        """
        spare = self._next(shape)
        if spare is None:
            self.tally.missed += 1
            return None
        try:
            initial = libbpf.map_lookup(spare.variables, _FIRST_KEY, libbpf.map_info(spare.variables).value_size)
            libbpf.map_update(
                spare.variables, _FIRST_KEY, shape.code.filled(VARIABLES, shape.constants, initial or b"")
            )
        except BaseException:
            spare.close()
            raise
        self.tally.taken += 1
        return spare

    def _next(self, shape: Shape) -> Spare | None:
        if self._wanted is not None and self._wanted.fits(shape):
            self._other = None
            self._missing()
            return self._ready.popleft() if self._ready else None
        # Of a shape that comes alone there need be none; two in a row are the new habit.
        if self._other is not None and self._other.fits(shape):
            self.prepare(shape)
        self._other = shape
        return None

    @contextlib.contextmanager
    def wait(self) -> Iterator[None]:
        """Make none while the block runs, nor right after it."""
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1
            self._busy_at = time.monotonic()

    async def fill(self) -> None:
        """Make as many as are missing. Raises VerifierError or BpfError."""
        while self._wanted is not None and len(self._ready) < self._size:
            await self._calm()
            shape = self._wanted
            if shape is None:
                return
            spare = await self._make(shape)
            if shape is self._wanted:
                self._ready.append(spare)
            else:
                spare.close()

    async def _calm(self) -> None:
        """Return when it is calm; see the module."""
        deadline = time.monotonic() + PATIENCE
        while True:
            begin, idle = time.monotonic(), idle_seconds()
            await asyncio.sleep(CALM)
            quiet = not self._busy and self._busy_at < begin
            if quiet and (idle_seconds() - idle >= _IDLE * CALM or time.monotonic() > deadline):
                return

    async def _make(self, shape: Shape) -> Spare:
        with contextlib.ExitStack() as undo:
            policy = undo.enter_context(DEFINITIONS[POLICY].create(SIZES))
            variables = undo.enter_context(variables_map(bytes(self._room(shape))))
            maps = {**shape.maps, POLICY: policy, VARIABLES: variables}
            programs = await self._images.load(shape.template, shape.code, shape.constants, maps)
            undo.pop_all()
        return Spare(programs, policy, variables)

    @staticmethod
    def _room(shape: Shape) -> int:
        return max(place.offset + place.size for place in shape.code.sections[VARIABLES].values())

    def _drop(self) -> None:
        while self._ready:
            self._ready.pop().close()


def idle_seconds() -> float:
    """Return how long CPUs have idled since the start, all together, in steps of 10 ms (proc(5), /proc/uptime)."""
    return float((files.read("/proc/uptime") or "0 0").split()[1])
