"""The plugin's code and the start of its interpreter: `python -IBSXno_debug_ranges bundle.py OUTPUT DIRECTORY…`.

    podlane.bundle   the plugin's code in one file
    python._pth      where the interpreter searches: `start`, then its standard library
    start/           launch.py and encodings.py (utf8.py), compiled

`python._pth` is for a link to the interpreter beside it, of the name `python`: Python's own way of saying where modules
are searched ("The initialization of the sys.path module search path", `_pth` files).

The bundle:

    4 bytes   the interpreter's magic number: code objects are of one version of Python only
    then      marshal of (boot, contents)

    boot      the code object of boot.py
    contents  first       (name, code object) of the modules that every call needs, each after those that it imports
              later       name → marshalled code of the other modules
              extensions  name → shared object, for modules of the standard library that aren't built in
              library     the directories where grpcio is found

Why: fourteen modules found and read one by one, even precompiled, cost an ADD 0.9 ms of CPU more than this one file.
Docstrings, asserts, annotations and columns of lines are left out. All is made by the very interpreter that will load
it; when that one is replaced by another version, Python itself compiles what is in `start`, and launch.py notices by
the magic number and runs the sources, which lie beside the bundle.
"""

import ast
import marshal
import py_compile
import shutil
import sys
from _frozen_importlib_external import MAGIC_NUMBER
from importlib import util
from pathlib import Path
from types import CodeType
from typing import TypedDict

# What an ADD imports. A module that is imported before its turn comes by boot's finder: slower, and not wrong.
FIRST = (
    *("jsontext", "spec", "config", "hpack", "http2", "wire", "rpc", "session", "shim"),
    *("messages", "result", "teardown", "timing", "add"),
)
# The work of installing, which a call never does, and what is not a module of the bundle.
LEFT_OUT = ("__init__", "install", "bundle", "boot", "launch", "utf8")
EXTENSIONS = ("_json",)
# The interpreter's own start: file → the name that it has there.
START = {"launch.py": "launch.py", "utf8.py": "encodings.py"}


class Contents(TypedDict):
    """What a bundle holds beside boot.py."""

    first: list[tuple[str, CodeType]]
    later: dict[str, bytes]
    extensions: dict[str, str]
    library: list[str]


def build(source: Path, output: Path, library: list[str]) -> None:
    """Make everything of the package in `source`, in the directory `output`."""
    (output / "podlane.bundle").write_bytes(_bundle(source, library))
    # This interpreter runs without site-packages: its path is its standard library.
    found = [path for path in sys.path if Path(path).is_dir() and Path(path) != source]
    (output / "python._pth").write_text("\n".join(["start", *found]) + "\n")
    start = output / "start"
    start.mkdir()
    for file, name in START.items():
        shutil.copyfile(source / file, start / name)
        # Unchecked: a copy has another time than its source, and looking at it at every start would cost more.
        py_compile.compile(
            str(start / name),
            cfile=util.cache_from_source(str(start / name), optimization=""),
            optimize=2,
            doraise=True,
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )


def _bundle(source: Path, library: list[str]) -> bytes:
    code = {file.stem: _compile(file) for file in sorted(source.glob("*.py")) if file.stem not in LEFT_OUT}
    contents: Contents = {
        "first": [(f"cni.{name}", code.pop(name)) for name in FIRST],
        "later": {f"cni.{name}": marshal.dumps(one) for name, one in code.items()},
        "extensions": dict(_extensions()),
        "library": library,
    }
    return MAGIC_NUMBER + marshal.dumps((_compile(source / "boot.py"), dict(contents)))


def _compile(file: Path) -> CodeType:
    tree = ast.fix_missing_locations(_Unannotated().visit(ast.parse(file.read_text())))
    code: CodeType = compile(tree, str(file), "exec", dont_inherit=True, optimize=2)
    return code


class _Unannotated(ast.NodeTransformer):
    """Takes the annotations away: in a call nobody reads them, and they are a sixth of what there is to load."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        new = ast.Assign([node.target], node.value) if node.value is not None else ast.Pass()
        return self.generic_visit(ast.copy_location(new, node))


def _extensions() -> list[tuple[str, str]]:
    specs = ((name, util.find_spec(name)) for name in EXTENSIONS)
    return [(name, spec.origin) for name, spec in specs if spec is not None and spec.has_location and spec.origin]


if __name__ == "__main__":
    build(Path(__file__).parent, Path(sys.argv[1]), sys.argv[2:])
