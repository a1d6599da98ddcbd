"""clang: argv in, object or CompileError out; and the hash that names a shape.

A *shape* is everything that decides what clang writes: the sources in `bpf/`, the two generated headers, the flags and
the compiler. Endpoints of one shape share one object (`template.py`).

    shape_key    sources + node_config.h + ep_config.h + flags      what prebuilt objects are looked up by
    shape_hash   shape_key + the compiler's first version line       the name of a template

Paths are no part of it: clang is told to write them relative to `bpf/`, so that one shape gives one object wherever
the sources are installed. A cancelled compile kills its clang and waits for it.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import shlex
import shutil
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from services.common.errors import FailedPrecondition, Unavailable
from services.loader import files

SOURCE, OVERLAY_SOURCE = "bpf_lxc.c", "bpf_overlay.c"
FLAGS = (
    "-target",
    "bpf",
    "-mcpu=v3",
    "-std=gnu11",
    "-g",  # BTF
    "-O2",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wshadow",
    "-Wno-unused-parameter",  # a parameter may serve one switch only
)
_STDERR_LIMIT = 1 << 20


class CompileError(FailedPrecondition):
    """clang refused. The message has its first error; `argv`, `exit_code` and `log` (1 MiB at most) replay it."""

    def __init__(self, argv: Sequence[str], exit_code: int, log: str) -> None:
        """Make the sentence from clang's own words."""
        first = next((line for line in log.splitlines() if "error:" in line), log.strip()[:200] or "no message")
        super().__init__(f"clang failed with exit code {exit_code}: {first}", exit_code=exit_code)
        self.argv = tuple(argv)
        self.exit_code = exit_code
        self.log = f"{shlex.join(argv)}\n{log}"


@dataclass(frozen=True, slots=True)
class Compiler:
    """A clang that has been asked for its version."""

    path: str
    identity: str


async def find_compiler(path: str = "clang", remembered: Path | None = None) -> Compiler | None:
    """Return the compiler, None when it isn't installed.

    Asking it takes 50 ms of CPU, half of a loader's start, so its answer is kept in the file `remembered` and holds as
    long as it is the same program by path, inode, size and time of change.
    """
    told = _told_apart(path)
    if remembered is not None and told and (known := _recalled(remembered, told)):
        return Compiler(path, known)
    found = await _ask(path)
    if found is not None and remembered is not None and told:
        with contextlib.suppress(OSError):
            files.replace(str(remembered), json.dumps({"program": told, "identity": found.identity}))
    return found


def _told_apart(path: str) -> str:
    """Return what tells a program from what may come in its place, empty when there is none."""
    where = shutil.which(path)
    if where is None:
        return ""
    there = Path(where).stat()
    return f"{os.path.realpath(where)} {there.st_ino} {there.st_size} {there.st_mtime_ns}"


def _recalled(remembered: Path, told: str) -> str:
    """Return the remembered identity of this very program, empty when another one was asked, or none."""
    try:
        kept = json.loads(files.read(remembered) or "{}")
        return str(kept["identity"]) if kept["program"] == told else ""
    except (OSError, ValueError, LookupError, TypeError):
        return ""


async def _ask(path: str) -> Compiler | None:
    try:
        process = await asyncio.create_subprocess_exec(
            path, "--version", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
    except OSError:
        return None
    output, _ = await process.communicate()
    lines = output.decode(errors="replace").splitlines()
    return Compiler(path, lines[0]) if process.returncode == 0 and lines else None


def sources_digest(sources: Path, source: str = SOURCE) -> str:
    """Return the SHA-256 over an object's C files, names and contents. The sample headers don't count: nobody compiles
    them.
    """
    digest = hashlib.sha256()
    files = sorted([sources / source, *(sources / "lib").glob("*.h")])
    for file in files:
        try:
            content = file.read_bytes()
        except OSError as error:
            raise Unavailable(f"the BPF source {file} can't be read: {error.strerror}", path=file) from error
        digest.update(f"{file.relative_to(sources)} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def shape_key(sources: str, node_config: str, ep_config: str) -> str:
    """Return the SHA-256 of a shape but for the compiler. `sources` is a `sources_digest`, the headers are texts."""
    parts = (sources, *FLAGS, node_config, ep_config)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def shape_hash(key: str, compiler: str) -> str:
    """Return the SHA-256 that names a template."""
    return hashlib.sha256(f"{key}\0{compiler}".encode()).hexdigest()


def arguments(compiler: Compiler, sources: Path, headers: Path, source: str = SOURCE) -> list[str]:
    """Return the command line; the object goes to standard output. `headers` has the generated headers."""
    multiarch = sysconfig.get_config_var("MULTIARCH") or "x86_64-linux-gnu"
    return [
        compiler.path,
        *FLAGS,
        f"-ffile-prefix-map={sources}=bpf",
        f"-ffile-prefix-map={headers}=headers",
        "-fdebug-compilation-dir=.",
        "-I",
        str(headers),
        "-I",
        str(sources),
        # -target bpf forgets where Debian keeps <asm/types.h>
        "-idirafter",
        f"/usr/include/{multiarch}",
        "-c",
        str(sources / source),
        "-o",
        "-",
    ]


async def compile_object(compiler: Compiler, sources: Path, headers: Path, source: str = SOURCE) -> bytes:
    """Return the object. Raises CompileError, or Unavailable when clang can't be started."""
    argv = arguments(compiler, sources, headers, source)
    try:
        process = await asyncio.create_subprocess_exec(
            *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
    except OSError as error:
        raise Unavailable(f"{compiler.path} can't be started: {error.strerror}", path=compiler.path) from error
    try:
        return await _outcome(process, argv)
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await asyncio.shield(process.wait())


async def _outcome(process: asyncio.subprocess.Process, argv: list[str]) -> bytes:
    if process.stdout is None or process.stderr is None:
        raise TypeError("clang was started without pipes")
    content, log = await asyncio.gather(process.stdout.read(), _first(process.stderr, _STDERR_LIMIT))
    exit_code = await process.wait()
    if exit_code:
        raise CompileError(argv, exit_code, log.decode(errors="replace"))
    return content


async def _first(stream: asyncio.StreamReader, limit: int) -> bytes:
    """Return the first `limit` bytes and read the rest away: a full pipe would stop clang."""
    kept = bytearray()
    while chunk := await stream.read(1 << 16):
        kept += chunk[: limit - len(kept)]
    return bytes(kept)
