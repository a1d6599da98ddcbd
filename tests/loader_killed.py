"""The loader, killed by itself right after the first call of one function: `python -m tests.loader_killed POINT …`.

A crash point is the dotted name of what services.loader has done when the kill comes. Nothing in the loader knows of it.
"""

import functools
import importlib
import inspect
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from services.loader.main import main


def die_after(work: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function or a coroutine function so that the process is killed when it has returned."""

    @functools.wraps(work)
    def sync(*arguments: Any, **keywords: Any) -> None:
        work(*arguments, **keywords)
        os.kill(os.getpid(), signal.SIGKILL)

    @functools.wraps(work)
    async def wait(*arguments: Any, **keywords: Any) -> None:
        await work(*arguments, **keywords)
        os.kill(os.getpid(), signal.SIGKILL)

    return wait if inspect.iscoroutinefunction(work) else sync


def arm(point: str) -> None:
    """Patch `module.name` or `module.Class.name`."""
    module, _, path = point.partition(".")
    *owners, name = path.split(".")
    owner = functools.reduce(getattr, owners, importlib.import_module(f"services.loader.{module}"))
    setattr(owner, name, die_after(getattr(owner, name)))


if __name__ == "__main__":
    arm(sys.argv.pop(1))
    sys.exit(main())
