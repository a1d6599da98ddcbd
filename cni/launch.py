"""What the installed script imports: it runs the bundle, or the sources when the bundle is for another interpreter.

Installed where the interpreter searches first, compiled: a script is compiled anew at every call.
"""

import marshal
import posix
from _frozen_importlib_external import MAGIC_NUMBER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ROOT = __file__.rpartition("/start/")[0]
SOURCES = "import sys; sys.path.insert(0, sys.argv[1]); from cni.shim import run; sys.exit(run([]))"


def run() -> None:
    """Run the call and end the process. Raises when the installation is damaged."""
    with open(f"{ROOT}/podlane.bundle", "rb", buffering=0) as file:  # noqa: PTH123 - importing pathlib costs 10 ms
        content = file.read()
    if not content.startswith(MAGIC_NUMBER):
        # What python._pth says of the standard library isn't this one's either: it is to start as it always does.
        python = posix.readlink(f"{ROOT}/python")
        posix.stat(f"{ROOT}/cni/shim.py")  # whoever is started for nothing can't say so in JSON
        posix.execv(python, [python, "-IBS", "-c", SOURCES, ROOT])
    boot, contents = marshal.loads(memoryview(content)[len(MAGIC_NUMBER) :])  # noqa: S302 - our own file, as a .pyc is
    space: dict[str, Any] = {"__name__": "boot"}
    exec(boot, space)  # noqa: S102 - it is what importing means
    space["start"](contents)
