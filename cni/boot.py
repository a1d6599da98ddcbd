"""What the bundle runs first: its modules become importable, then the shim runs and the process ends.

Compiled into the bundle and executed by the installed script, which calls `start` (bundle.py says what with). The
process ends by `_exit`: taking the interpreter apart costs 1.4 ms, and nothing that matters is left in a buffer.
"""

import gc
import marshal
import posix
import sys
from _frozen_importlib import ModuleSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, ModuleType
    from typing import Any


class Bundle:
    """Finder and loader (PEP 451) of the modules in the bundle."""

    def __init__(self, modules: "dict[str, tuple[str, bytes]]") -> None:
        """Keep them marshalled: most verbs need only some of them."""
        self._modules = modules

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> "ModuleSpec | None":
        """Return the spec of a module of ours, None for all others."""
        if name not in self._modules:
            return None
        loader: Any = self
        return ModuleSpec(name, loader, origin=self._modules[name][0], is_package=name == "cni")

    def create_module(self, _spec: "ModuleSpec") -> "ModuleType | None":
        """Let Python make the module."""
        return None

    def exec_module(self, module: "ModuleType") -> None:
        """Run the module's code."""
        code: CodeType = marshal.loads(self._modules[module.__name__][1])  # noqa: S302 - our own file, as a .pyc is
        exec(code, module.__dict__)  # noqa: S102 - it is what importing means


def start(modules: "dict[str, tuple[str, bytes]]", library: list[str]) -> None:
    """Run the call and end the process."""
    # A call allocates a few hundred kilobytes and ends: looking for cycles is wasted.
    gc.disable()
    finder: Any = Bundle(modules)
    sys.meta_path.insert(0, finder)
    from cni.shim import run

    posix._exit(run(library))  # noqa: SLF001 - os has the same function, and importing os costs 0.6 ms
