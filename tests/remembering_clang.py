#!/usr/bin/python3 -ISB
"""clang with a memory: what it has compiled for one test it needn't compile for the next.

Compiling takes a second of CPU, and hundreds of tests have a loader that meets a shape which isn't among the prebuilt
ones. Test nodes have this as their `clang`. An object is remembered by everything that clang reads: its arguments
but for where the directories are, the sources, the generated headers, and clang itself. Refusals aren't remembered.
"""

import hashlib
import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

MEMORY = Path(__file__).resolve().parents[1] / "build" / "test-objects" / "remembered"


def main(argv: list[str]) -> int:
    """Answer as clang does."""
    if "-c" not in argv:
        return subprocess.run(["clang", *argv], check=False).returncode
    remembered = MEMORY / key(argv)
    if remembered.exists():
        sys.stdout.buffer.write(remembered.read_bytes())
        return 0
    done = subprocess.run(["clang", *argv], stdout=subprocess.PIPE, check=False)
    if done.returncode == 0:
        MEMORY.mkdir(parents=True, exist_ok=True)
        beside = MEMORY / f".{os.getpid()}"
        beside.write_bytes(done.stdout)
        beside.rename(remembered)
    sys.stdout.buffer.write(done.stdout)
    return done.returncode


def key(argv: list[str]) -> str:
    """Return a digest of all that decides what clang writes."""
    digest = hashlib.sha256()
    directories = [Path(where) for flag, where in itertools.pairwise(argv) if flag == "-I"]
    line = "\0".join(argv)
    for number, directory in enumerate(directories):
        line = line.replace(str(directory), f"<{number}>")
    digest.update(f"{line}\0".encode())
    clang = Path(shutil.which("clang") or "").resolve().stat()
    digest.update(f"{clang.st_size} {clang.st_mtime_ns}\0".encode())
    for directory in directories:
        for file in sorted(directory.rglob("*.[ch]")):
            content = file.read_bytes()
            digest.update(f"{file.relative_to(directory)} {len(content)}\0".encode() + content)
    return digest.hexdigest()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
