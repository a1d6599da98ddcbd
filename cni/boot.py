"""What the bundle runs first: `modules` become importable, then the shim runs and the process ends.

Executed, not imported, with `modules` and `library` as its globals (bundle.py). The process ends by `_exit`: taking the
interpreter apart costs 2 ms, and nothing that matters is left in a buffer.
"""

import gc
import marshal
import posix
import sys
from _frozen_importlib import ModuleSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, ModuleType

    modules: dict[str, tuple[str, bytes]]
    library: list[str]


class Bundle:
    """Finder and loader (PEP 451) of the modules in the bundle."""

    @staticmethod
    def find_spec(name: str, _path: object = None, _target: object = None) -> "ModuleSpec | None":
        """Return the spec of a module of ours, None for all others."""
        if name in modules:
            return ModuleSpec(name, Bundle, is_package=name == "cni")
        return None

    @staticmethod
    def create_module(_spec: "ModuleSpec") -> "ModuleType | None":
        """Let Python make the module."""
        return None

    @staticmethod
    def exec_module(module: "ModuleType") -> None:
        """Run the module's code."""
        code: CodeType = marshal.loads(modules[module.__name__][1])
        exec(code, module.__dict__)


# A call allocates a few hundred kilobytes and ends: looking for cycles is wasted.
gc.disable()
sys.meta_path.insert(0, Bundle)

from cni.shim import run  # noqa: E402 - it is in the bundle

posix._exit(run(library))
