"""How long each part of an operation took."""

import time
from types import TracebackType

from services.common.model import Phase


class Stopwatch:
    """Collects the phases of one operation, in the order in which they ended."""

    def __init__(self) -> None:
        """Start with none."""
        self.phases: list[Phase] = []

    def phase(self, name: str) -> "_Measured":
        """Measure the block, also when it fails: a slow failure wants to be seen most."""
        return _Measured(self.phases, name)


class _Measured:
    """One phase while it runs. A class, because contextlib's generators take three times as long, a dozen per pod."""

    __slots__ = ("_begin", "_name", "_phases")

    def __init__(self, phases: list[Phase], name: str) -> None:
        self._phases, self._name = phases, name

    def __enter__(self) -> None:
        self._begin = time.perf_counter_ns()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._phases.append(Phase(self._name, (time.perf_counter_ns() - self._begin) // 1000))
