"""A loader that kills itself right after a call of one function: `python -m tests.loader_killed POINT ARMED …`.

A crash point is the dotted name of what services.loader has done when the kill comes; it is armed once the file ARMED
exists. Nothing in the loader knows of it.
"""

import functools
import importlib
import inspect
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from services.loader.main import main


def die_after(work: Callable[..., Any], armed: Path) -> Callable[..., Any]:
    """Wrap a function or a coroutine function so that the process is killed when it has returned."""

    def die(result: Any) -> Any:
        if armed.exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    @functools.wraps(work)
    def sync(*arguments: Any, **keywords: Any) -> Any:
        return die(work(*arguments, **keywords))

    @functools.wraps(work)
    async def wait(*arguments: Any, **keywords: Any) -> Any:
        return die(await work(*arguments, **keywords))

    return wait if inspect.iscoroutinefunction(work) else sync


def trap(point: str, armed: Path) -> None:
    """Patch `module.name` or `module.Class.name`."""
    module, _, path = point.partition(".")
    *owners, name = path.split(".")
    owner = functools.reduce(getattr, owners, importlib.import_module(f"services.loader.{module}"))
    setattr(owner, name, die_after(getattr(owner, name), armed))


if __name__ == "__main__":
    trap(sys.argv.pop(1), Path(sys.argv.pop(1)))
    sys.exit(main())
