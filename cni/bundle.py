"""The plugin's code as one file: `python -IS bundle.py OUTPUT DIRECTORY…` makes it, the installed script loads it.

    4 bytes   the interpreter's magic number: code objects are of one version of Python only
    then      marshal of (boot, modules, library)

    boot      the code object of boot.py
    modules   name → (file name, marshalled code); a module is unmarshalled when it is imported
    library   the directories where grpcio is found

Why: fourteen modules found and read one by one, even precompiled, cost an ADD 0.6 ms of CPU more than this one file.
Docstrings and asserts are left out. The bundle is made by the very interpreter that will load it; when that one is
replaced by another version, the script notices by the magic number and runs the sources, which lie beside the bundle.
"""

import marshal
import sys
from _frozen_importlib_external import MAGIC_NUMBER
from pathlib import Path
from types import CodeType

# The work of installing, which a call never does.
LEFT_OUT = ("install", "bundle", "boot")


def build(source: Path, library: list[str]) -> bytes:
    """Return the bundle of the package in `source`."""
    modules = {}
    for file in sorted(source.glob("*.py")):
        if file.stem not in LEFT_OUT:
            name = "cni" if file.stem == "__init__" else f"cni.{file.stem}"
            modules[name] = (str(file), marshal.dumps(_compile(file)))
    return MAGIC_NUMBER + marshal.dumps((_compile(source / "boot.py"), modules, library))


def _compile(file: Path) -> CodeType:
    # PEP 563's flag: annotations stay text, as nobody reads them and evaluating them costs time.
    import __future__

    flags = __future__.annotations.compiler_flag
    code: CodeType = compile(file.read_text(), str(file), "exec", flags=flags, dont_inherit=True, optimize=2)
    return code


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(build(Path(__file__).parent, sys.argv[2:]))
