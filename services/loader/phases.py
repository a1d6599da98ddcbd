"""How long each part of an operation took."""

import contextlib
import time
from collections.abc import Iterator

from services.common.model import Phase


class Stopwatch:
    """Collects the phases of one operation, in the order in which they ended."""

    def __init__(self) -> None:
        """Start with none."""
        self.phases: list[Phase] = []

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure the block, also when it fails: a slow failure wants to be seen most."""
        begin = time.perf_counter_ns()
        try:
            yield
        finally:
            self.phases.append(Phase(name, (time.perf_counter_ns() - begin) // 1000))
