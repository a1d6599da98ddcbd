"""What the bundle runs first: its modules come into being, then the shim runs and the process ends.

Compiled into the bundle and executed by the installed script, which calls `start` (bundle.py says what with). The
modules that every call needs are made here, one after the other, and found as loaded by the imports in them: Python's
own way to a module costs 20 µs of locks, specs and searches for each. The others wait for whoever imports them.

The process ends by `_exit`: taking the interpreter apart costs 1.4 ms, and nothing that matters is left in a buffer.
"""

import gc
import marshal
import posix
import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import ExtensionFileLoader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, ModuleType
    from typing import Any

    from cni.bundle import Contents

PACKAGE = "cni"


class Finder:
    """Finder (PEP 451) of the modules that wait, and loader of those that are code."""

    def __init__(self, code: "dict[str, bytes]", extensions: dict[str, str]) -> None:
        """`code` is marshalled, by module; `extensions` are shared objects, by module."""
        self._code = code
        self._extensions = extensions

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> "ModuleSpec | None":
        """Return the spec of a module of ours, None for all others."""
        if name in self._code:
            loader: Any = self
            return ModuleSpec(name, loader)
        if name in self._extensions:
            # Searching for it would read the directories of the standard library, which takes as long as loading it.
            origin = self._extensions[name]
            return ModuleSpec(name, ExtensionFileLoader(name, origin), origin=origin)
        return None

    def create_module(self, _spec: "ModuleSpec") -> "ModuleType | None":
        """Let Python make the module."""
        return None

    def exec_module(self, module: "ModuleType") -> None:
        """Run the module's code."""
        code: CodeType = marshal.loads(self._code[module.__name__])  # noqa: S302 - our own file, as a .pyc is
        exec(code, module.__dict__)  # noqa: S102 - it is what importing means


def start(contents: "Contents", plugin: str) -> None:
    """Run the call of a plugin and end the process."""
    # A call allocates a few hundred kilobytes and ends: looking for cycles is wasted.
    gc.disable()
    finder: Any = Finder(contents["later"], contents["extensions"])
    sys.meta_path.insert(0, finder)
    _make(contents["first"])
    posix._exit(sys.modules["cni.shim"].run(contents["library"], plugin))  # noqa: SLF001 - importing os costs 0.6 ms


def _make(first: "list[tuple[str, CodeType]]") -> None:
    new: Any = type(sys)
    package = sys.modules[PACKAGE] = new(PACKAGE)
    package.__path__ = []
    for name, code in first:
        module = sys.modules[name] = new(name)
        exec(code, module.__dict__)  # noqa: S102 - it is what importing means
        setattr(package, name.rpartition(".")[2], module)
