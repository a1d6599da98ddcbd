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
SOURCES = "import sys; sys.path.insert(0, sys.argv[1]); from cni.shim import run; sys.exit(run([], sys.argv[2]))"


def run(plugin: str = "podlane") -> None:
    """Run the call of a plugin (shim.py has their names) and end the process."""
    try:
        _load(plugin)
    except Exception as error:  # noqa: BLE001 - the last resort: a runtime can't read a traceback
        text = ascii(repr(error).replace("\\", "/").replace('"', "'"))[1:-1].replace("\\", "/")
        text = f"the plugin is damaged, repeat its installation: {text}"
        posix.write(1, f'{{"cniVersion": "1.1.0", "code": 100, "msg": "{text}"}}\n'.encode())
        posix._exit(1)  # noqa: SLF001 - importing os costs 0.6 ms


def _load(plugin: str) -> None:
    with open(f"{ROOT}/podlane.bundle", "rb", buffering=0) as file:  # noqa: PTH123 - importing pathlib costs 10 ms
        content = file.read()
    if not content.startswith(MAGIC_NUMBER):
        # What python._pth says of the standard library isn't this one's either: it is to start as it always does.
        python = posix.readlink(f"{ROOT}/python")
        posix.stat(f"{ROOT}/cni/shim.py")  # whoever is started for nothing can't say so in JSON
        posix.execv(python, [python, "-IBS", "-c", SOURCES, ROOT, plugin])
    boot, contents = marshal.loads(memoryview(content)[len(MAGIC_NUMBER) :])  # noqa: S302 - our own file, as a .pyc is
    space: dict[str, Any] = {"__name__": "boot"}
    exec(boot, space)  # noqa: S102 - it is what importing means
    space["start"](contents, plugin)
