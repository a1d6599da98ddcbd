"""Templates: the compiled shapes of the endpoint programs, and of the overlay's, each made once.

    templates/<hash>/bpf_lxc.o        the object
    templates/<hash>/ep_config.h      the switches that it was compiled with
    templates/<hash>/node_config.h
    templates/<hash>/template.json    compiler, time, duration, and the object's own hash
    templates/compiler.json           which clang there is

`get` finds a shape in memory, then on disk, then among the prebuilt objects, and compiles it only then. However many
wait for one shape, one clang runs; a waiter that is cancelled leaves the others and the compile alone; a failure goes
to all who waited and is forgotten, so that the next one tries again.

Invariants: a directory appears by one rename, whole; an object that no longer has its recorded hash is compiled anew;
every object was compared with our layouts (layoutcheck.py) before it is handed out.

Prebuilt objects let a node run without clang: `<prebuilt>/<key>/` holds the same files as a template, `key` being
`compile.shape_key`. `prebuild` makes them.
"""

import asyncio
import hashlib
import json
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.common.errors import PodlaneError, Unavailable
from services.common.stopwatch import Stopwatch
from services.loader import layoutcheck, objects
from services.loader.compile import (
    SOURCE,
    Compiler,
    compile_object,
    find_compiler,
    shape_hash,
    shape_key,
    sources_digest,
)
from services.loader.objects import ObjectCode

_META, _COMPILER = "template.json", "compiler.json"


@dataclass(frozen=True, slots=True)
class Template:
    """A compiled shape, ready to be loaded with an endpoint's constants.

    `built` is in seconds since the epoch; `compile_us` is 0 when this process found it made.
    """

    hash: str
    code: ObjectCode
    built: float
    compile_us: int


@dataclass
class Tally:
    """What has been compiled since the start, and what it took, in seconds."""

    compiled: int = 0
    failed: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class _Files:
    """What a template's directory holds."""

    content: bytes
    node_config: str
    ep_config: str
    compiler: str
    built: float


class Templates:
    """The templates of one state directory. `open` before use, `close` at the end."""

    def __init__(
        self,
        root: Path,
        sources: Path,
        *,
        prebuilt: Path | None = None,
        clang: str = "clang",
        source: str = SOURCE,
    ) -> None:
        """Remember the directories: `root` for templates, `sources` for bpf/, `prebuilt` for objects that came
        with the installation. `source` is compiled. Nothing is read yet.
        """
        self._source = source
        self._root = root
        self._sources = sources
        self._prebuilt = prebuilt
        self._clang = clang
        self._digest = ""
        self._compiler: Compiler | None = None
        self._made: dict[str, Template] = {}
        self._making: dict[str, asyncio.Task[Template]] = {}
        self.tally = Tally()

    async def open(self) -> None:
        """Read the sources' digest, ask the compiler for its version and remove what a killed compile left."""
        self._digest = sources_digest(self._sources, self._source)
        self._compiler = await find_compiler(self._clang, self._root / _COMPILER)
        _clean(self._root)

    async def close(self) -> None:
        """Stop compiles that nobody waits for any more."""
        tasks = list(self._making.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def compiler(self) -> str:
        """The compiler's first version line, empty when there is none and prebuilt objects must do."""
        return self._compiler.identity if self._compiler else ""

    async def get(self, node_config: str, ep_config: str, watch: Stopwatch | None = None) -> Template:
        """Return the template of a shape, given the texts of its two headers. `watch` measures `compile`: waiting for
        one that isn't in memory yet, be it compiled, found on disk or prebuilt.

        Raises CompileError, or Unavailable when there is neither a compiler nor a fitting prebuilt object.
        """
        key = shape_key(self._digest, node_config, ep_config)
        if key in self._made:
            return self._made[key]
        with (watch or Stopwatch()).phase("compile"):
            return await asyncio.shield(self._begin(key, node_config, ep_config))

    def identify(self, node_config: str, ep_config: str) -> tuple[str, bool]:
        """Return a shape's hash without making it, and whether it is made already. Raises Unavailable as `get`."""
        key = shape_key(self._digest, node_config, ep_config)
        if key in self._made:
            return self._made[key].hash, True
        ident = self._ident(key)
        return ident, (self._root / ident).exists()

    def _begin(self, key: str, node_config: str, ep_config: str) -> "asyncio.Task[Template]":
        task = self._making.get(key)
        if task is None:
            task = asyncio.create_task(self._make(key, node_config, ep_config), name=f"template {key[:12]}")
            self._making[key] = task
            task.add_done_callback(lambda done: self._finish(key, done))
        return task

    def list(self) -> list[Template]:
        """Return the templates that this process has handed out, oldest first."""
        return sorted(self._made.values(), key=lambda one: one.built)

    def _finish(self, key: str, task: asyncio.Task[Template]) -> None:
        del self._making[key]
        if not task.cancelled() and task.exception() is None:
            self._made[key] = task.result()

    async def _make(self, key: str, node_config: str, ep_config: str) -> Template:
        if self._compiler is None:
            # It may have been installed meanwhile.
            self._compiler = await find_compiler(self._clang, self._root / _COMPILER)
        directory = self._root / self._ident(key)
        name = Path(self._source).stem
        found = _found(directory, name)
        if found is not None:
            return found
        prebuilt = self._read_prebuilt(key)
        if prebuilt is not None:
            return _keep(directory, prebuilt, 0, name)
        compiler, begin = self._known_compiler(key), time.monotonic()
        try:
            made = await _compile(directory, compiler, self._sources, node_config, ep_config, source=self._source)
        except PodlaneError:
            self.tally.failed += 1
            raise
        finally:
            self.tally.seconds += time.monotonic() - begin
        self.tally.compiled += 1
        return made

    def _ident(self, key: str) -> str:
        prebuilt = self._read_prebuilt(key)
        return shape_hash(key, prebuilt.compiler if prebuilt is not None else self._known_compiler(key).identity)

    def _read_prebuilt(self, key: str) -> _Files | None:
        return _read(self._prebuilt / key, Path(self._source).stem) if self._prebuilt else None

    def _known_compiler(self, key: str) -> Compiler:
        if self._compiler is None:
            raise Unavailable(
                f"no compiler ({self._clang}) and no prebuilt object for shape {key[:12]}: install clang or set the "
                "endpoint's options back to what was prebuilt",
                shape=key,
            )
        return self._compiler


async def prebuild(
    directory: Path,
    sources: Path,
    node_config: str,
    ep_config: str,
    *,
    clang: str = "clang",
    source: str = SOURCE,
) -> Path:
    """Compile a shape into `directory` for nodes without a compiler; return the object's directory."""
    compiler = await find_compiler(clang)
    if compiler is None:
        raise Unavailable(f"{clang} isn't installed", path=clang)
    target = directory / shape_key(sources_digest(sources, source), node_config, ep_config)
    if _found(target, Path(source).stem) is None:
        await _compile(target, compiler, sources, node_config, ep_config, source=source)
    return target


async def _compile(
    target: Path, compiler: Compiler, sources: Path, node_config: str, ep_config: str, *, source: str
) -> Template:
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="podlane-compile-") as scratch:
        headers = Path(scratch)
        _write_headers(headers, node_config, ep_config)
        content = await compile_object(compiler, sources, headers, source)
    files = _Files(content, node_config, ep_config, compiler.identity, time.time())
    return _keep(target, files, round((time.monotonic() - started) * 1e6), Path(source).stem)


def _found(directory: Path, name: str) -> Template | None:
    """Return the template that is on disk; None when there is none or it can't be trusted, which removes it."""
    files = _read(directory, name)
    if files is not None:
        return _template(directory.name, files, 0, name)
    shutil.rmtree(directory, ignore_errors=True)
    return None


def _template(ident: str, files: _Files, compile_us: int, name: str) -> Template:
    code, btf = objects.read(files.content, name)
    layoutcheck.check(btf, f"{name} of template {ident[:12]}")
    return Template(ident, code, files.built, compile_us)


def _keep(directory: Path, files: _Files, compile_us: int, name: str) -> Template:
    """Check an object, then write its directory and show it by one rename."""
    template = _template(directory.name, files, compile_us, name)
    beside = directory.with_name(f".{directory.name}.{os.getpid()}")
    meta = {
        "compiler": files.compiler,
        "built": files.built,
        "compile_us": compile_us,
        "sha256": hashlib.sha256(files.content).hexdigest(),
    }
    try:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(mode=0o750, parents=True)
        _write_headers(beside, files.node_config, files.ep_config)
        (beside / f"{name}.o").write_bytes(files.content)
        (beside / _META).write_text(json.dumps(meta, indent=1) + "\n")
        beside.rename(directory)
    except OSError as error:
        shutil.rmtree(beside, ignore_errors=True)
        raise Unavailable(f"template {directory} can't be written: {error.strerror}", path=directory) from error
    return template


def _write_headers(directory: Path, node_config: str, ep_config: str) -> None:
    (directory / "node_config.h").write_text(node_config)
    (directory / "ep_config.h").write_text(ep_config)


def _read(directory: Path, name: str) -> _Files | None:
    """Read a template's directory; None when it isn't there, isn't whole or its object has changed."""
    try:
        meta: Any = json.loads((directory / _META).read_text())
        content = (directory / f"{name}.o").read_bytes()
        if hashlib.sha256(content).hexdigest() != meta["sha256"]:
            return None
        headers = [(directory / header).read_text() for header in ("node_config.h", "ep_config.h")]
        return _Files(content, headers[0], headers[1], str(meta["compiler"]), float(meta["built"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _clean(root: Path) -> None:
    """Remove directories that never got their name."""
    for left in root.glob(".*.*"):
        shutil.rmtree(left, ignore_errors=True)
