"""Where system calls run that block: a few threads beside the loop.

A program load keeps a CPU busy for milliseconds in the verifier, with the GIL released; on the loop it would hold up
every other call. Loads of different endpoints may run side by side, so there are as many threads as CPUs, at least two.
"""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class Blocking:
    """The threads. A component: `stop` waits for what runs."""

    def __init__(self) -> None:
        """Threads start when they are first needed."""
        self._executor = ThreadPoolExecutor(max(2, os.cpu_count() or 1), thread_name_prefix="bpf")

    async def run(self, work: Callable[[], T]) -> T:
        """Run `work` on one of them and return its result."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    async def start(self) -> None:
        """Nothing to do."""

    async def stop(self) -> None:
        """End the threads."""
        self._executor.shutdown()
