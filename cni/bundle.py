"""The plugin's code as one file: `python -IS bundle.py OUTPUT DIRECTORY…` makes it, the installed script loads it.

    4 bytes   the interpreter's magic number: code objects are of one version of Python only
    then      marshal of (boot, contents)

    boot      the code object of boot.py
    contents  first       (name, code object) of the modules that every call needs, each after those that it imports
              later       name → marshalled code of the other modules
              extensions  name → shared object, for modules of the standard library that aren't built in
              library     the directories where grpcio is found

Why: fourteen modules found and read one by one, even precompiled, cost an ADD 0.9 ms of CPU more than this one file.
Docstrings, asserts and columns of lines are left out. The bundle is made by the very interpreter that will load it; when
that one is replaced by another version, the script notices by the magic number and runs the sources, which lie beside
the bundle.
"""

import marshal
import sys
from _frozen_importlib_external import MAGIC_NUMBER
from pathlib import Path
from types import CodeType
from typing import TypedDict

# What an ADD imports. A module that is imported before its turn comes by boot's finder: slower, and not wrong.
FIRST = (
    *("jsontext", "spec", "config", "hpack", "http2", "wire", "rpc", "session", "shim"),
    *("messages", "result", "teardown", "add"),
)
# The work of installing, which a call never does, and what is not a module of its own.
LEFT_OUT = ("__init__", "install", "bundle", "boot")
EXTENSIONS = ("_json",)


class Contents(TypedDict):
    """What a bundle holds beside boot.py."""

    first: list[tuple[str, CodeType]]
    later: dict[str, bytes]
    extensions: dict[str, str]
    library: list[str]


def build(source: Path, library: list[str]) -> bytes:
    """Return the bundle of the package in `source`."""
    code = {file.stem: _compile(file) for file in sorted(source.glob("*.py")) if file.stem not in LEFT_OUT}
    contents: Contents = {
        "first": [(f"cni.{name}", code.pop(name)) for name in FIRST],
        "later": {f"cni.{name}": marshal.dumps(one) for name, one in code.items()},
        "extensions": dict(_extensions()),
        "library": library,
    }
    return MAGIC_NUMBER + marshal.dumps((_compile(source / "boot.py"), contents))


def _compile(file: Path) -> CodeType:
    # PEP 563's flag: annotations stay text, as nobody reads them and evaluating them costs time.
    import __future__

    flags = __future__.annotations.compiler_flag
    code: CodeType = compile(file.read_text(), str(file), "exec", flags=flags, dont_inherit=True, optimize=2)
    return code


def _extensions() -> list[tuple[str, str]]:
    from importlib import util

    specs = ((name, util.find_spec(name)) for name in EXTENSIONS)
    return [(name, spec.origin) for name, spec in specs if spec is not None and spec.has_location and spec.origin]


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(build(Path(__file__).parent, sys.argv[2:]))
