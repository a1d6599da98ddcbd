"""How long each part of an operation took, and when it began.

Beginnings are of CLOCK_MONOTONIC, which is what `time.perf_counter` reads on Linux: all processes of a node share it,
so that parts of one ADD can be put together although several processes have measured them, and nobody ever sets it.
"""

import time
from types import TracebackType

from services.common.model import Phase


class Stopwatch:
    """Collects the phases of one operation, in the order in which they ended."""

    def __init__(self) -> None:
        """Start with none."""
        self.phases: list[Phase] = []

    def add(self, name: str, began_ns: int) -> None:
        """Add a phase that ends now and began at `began_ns`, which `time.perf_counter_ns` said."""
        self.phases.append(Phase(name, (time.perf_counter_ns() - began_ns) // 1000, began_ns // 1000))

    def phase(self, name: str) -> "_Measured":
        """Measure the block, also when it fails: a slow failure wants to be seen most."""
        return _Measured(self, name)


class _Measured:
    """One phase while it runs. A class, because contextlib's generators take three times as long, a dozen per pod."""

    __slots__ = ("_begin", "_name", "_watch")

    def __init__(self, watch: Stopwatch, name: str) -> None:
        self._watch, self._name = watch, name

    def __enter__(self) -> None:
        self._begin = time.perf_counter_ns()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._watch.add(self._name, self._begin)
