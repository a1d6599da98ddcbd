"""Puts the plugins and the network configuration in place, and takes them away.

    <bin_dir>/podlane              the plugin: a script of a few lines
    <bin_dir>/podlane-ipam         the IPAM plugin, for other plugins: the same with another name
    <lib_dir>/python               the interpreter, a link, and python._pth, where it searches (bundle.py)
    <lib_dir>/start/               what it imports at its start
    <lib_dir>/podlane.bundle       the plugin's code
    <lib_dir>/cni/*.py             the sources, for an interpreter that the bundle isn't made for
    <conf_dir>/10-podlane.conflist the network configuration

Each file is written beside its place, synced and renamed over it, so that a runtime that starts the plugin at that very
moment finds the old one or the new one. The configuration comes last and goes first: a runtime that sees it finds
all the rest. Removing what isn't there is success.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib import util
from pathlib import Path

from cni.spec import VERSIONS

PLUGIN = "podlane"
IPAM_PLUGIN = "podlane-ipam"
CONFLIST = "10-podlane.conflist"
INTERPRETER = "python"
# What bundle.py makes, and the sources.
LIBRARY = ("podlane.bundle", "python._pth", "start", "cni")
NETWORK = "podlane"
# A runtime whose libcni knows no `cniVersions` (before 1.2: containerd 1.6 and 1.7, podman 4) takes this one and could
# not read the result of a newer; others take the newest of VERSIONS that they know.
CNI_VERSION = "1.0.0"
DEFAULT_PYTHON = Path("/usr/bin/python3")
# linux/binfmts.h: BINPRM_BUF_SIZE; what is longer is cut off.
LONGEST_SHEBANG = 255
# Isolated, without compiled files being written, without site, in UTF-8 whatever the locale.
OPTIONS = "-IBSXutf8"

# Python compiles it at every call: what it has to say is in launch.py.
SCRIPT = """\
#!{interpreter} {options}
# podlane's CNI plugin, written by `podlane cni install`.
import launch
launch.run({plugin!r})
"""


class InstallError(Exception):
    """The plugin can't be installed like this; the message says why and what to do."""


def install(
    bin_dir: Path,
    conf_dir: Path,
    *,
    lib_dir: Path | None = None,
    python: Path | None = None,
    sockets: Mapping[str, Path] | None = None,
    settings: Mapping[str, object] | None = None,
) -> list[Path]:
    """Write everything and return the paths of the plugin, the IPAM plugin and the configuration.

    `lib_dir`: default `<bin_dir>/.podlane`. `python`: the plugin's interpreter, default /usr/bin/python3 if it is
    there. `sockets`: service → path, where it isn't the default. `settings`: further keys of the configuration.
    Raises InstallError or OSError.
    """
    bin_dir = bin_dir.absolute()
    lib_dir = (lib_dir or bin_dir / f".{PLUGIN}").absolute()
    python = python or _default_python()
    scripts = {name: _script(lib_dir, name) for name in (IPAM_PLUGIN, PLUGIN)}
    with tempfile.TemporaryDirectory() as built:
        _build(python, Path(built))
        for directory in (bin_dir, conf_dir):
            directory.mkdir(parents=True, exist_ok=True)
        for source in sorted(Path(__file__).parent.glob("*.py")):
            write_atomically(lib_dir / "cni" / source.name, source.read_bytes())
        for file in sorted(path for path in Path(built).rglob("*") if path.is_file()):
            write_atomically(lib_dir / file.relative_to(built), file.read_bytes())
    _link_atomically(lib_dir / INTERPRETER, python)
    _try(lib_dir / INTERPRETER, python)
    for name, script in scripts.items():
        write_atomically(bin_dir / name, script.encode(), mode=0o755)
    write_atomically(conf_dir / CONFLIST, conflist(sockets or {}, settings or {}).encode())
    return [bin_dir / PLUGIN, bin_dir / IPAM_PLUGIN, conf_dir / CONFLIST]


def uninstall(bin_dir: Path, conf_dir: Path, *, lib_dir: Path | None = None) -> list[Path]:
    """Remove what `install` wrote and return what was there."""
    lib_dir = (lib_dir or bin_dir / f".{PLUGIN}").absolute()
    removed = []
    plugins = (bin_dir / PLUGIN, bin_dir / IPAM_PLUGIN)
    for path in (conf_dir / CONFLIST, *plugins, lib_dir / INTERPRETER, *(lib_dir / name for name in LIBRARY)):
        if path.is_dir():
            shutil.rmtree(path)
        elif path.is_symlink() or path.exists():
            path.unlink()
        else:
            continue
        removed.append(path)
    if lib_dir.is_dir() and not any(lib_dir.iterdir()):
        lib_dir.rmdir()
    return removed


def conflist(sockets: Mapping[str, Path], settings: Mapping[str, object]) -> str:
    """Return the network configuration list (SPEC.md, section 1)."""
    plugin: dict[str, object] = {"type": PLUGIN}
    plugin |= {f"{service}Socket": str(path) for service, path in sorted(sockets.items())}
    plugin["capabilities"] = {"mac": True, "ips": True, "bandwidth": True}
    plugin |= settings
    document = {"cniVersion": CNI_VERSION, "cniVersions": VERSIONS, "name": NETWORK, "plugins": [plugin]}
    return json.dumps(document, indent=2) + "\n"


def write_atomically(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write a file so that it is there whole or not at all, also after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _link_atomically(path: Path, target: Path) -> None:
    """Make a symbolic link, in place of the one that may be there."""
    with tempfile.TemporaryDirectory(dir=path.parent) as beside:
        temporary = Path(beside) / path.name
        temporary.symlink_to(target)
        temporary.replace(path)


def _default_python() -> Path:
    # In a virtual environment sys.executable goes when the environment goes.
    return DEFAULT_PYTHON if DEFAULT_PYTHON.exists() else Path(sys.executable).resolve()


def _script(lib_dir: Path, plugin: str) -> str:
    interpreter = lib_dir / INTERPRETER
    shebang = f"#!{interpreter} {OPTIONS}"
    if any(blank in str(interpreter) for blank in " \t\n") or len(os.fsencode(shebang)) > LONGEST_SHEBANG:
        raise InstallError(
            f"{lib_dir}: the kernel finds a script's interpreter only by a path without blanks, of less than 240 bytes"
        )
    return SCRIPT.format(interpreter=interpreter, options=OPTIONS, plugin=plugin)


def _build(python: Path, output: Path) -> None:
    """Have the plugin's interpreter make what it will load."""
    if not python.is_absolute():
        raise InstallError(f"{python}: the interpreter must be an absolute path, the plugin runs in any directory")
    maker = Path(__file__).with_name("bundle.py")
    argv: list[str | Path] = [python, "-IBSXno_debug_ranges", maker, output, *_library()]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    except OSError as error:
        raise InstallError(f"{python} can't be started ({error.strerror}): name another interpreter") from None
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:]
        raise InstallError(f"{python} can't make the plugin's code, Python 3.11 or newer is needed: {last}")


def _try(interpreter: Path, python: Path) -> None:
    """Start the interpreter once as the plugin will: better here than in a runtime."""
    done = subprocess.run(
        [interpreter, OPTIONS, "-c", "import launch"], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:]
        raise InstallError(f"{python} doesn't start from {interpreter}, name another interpreter: {last}")


def _library() -> Sequence[str]:
    """Return the directories from which grpcio and what it needs are imported here."""
    directories = []
    for name in ("grpc", "typing_extensions"):
        found = util.find_spec(name)
        if found is not None and found.origin is not None:
            directory = Path(found.origin).parent
            directories.append(str(directory.parent if found.submodule_search_locations else directory))
    return list(dict.fromkeys(directories))
