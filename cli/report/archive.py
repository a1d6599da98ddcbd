"""Members ⇄ .tar.gz. What is read may come from anybody: sizes are bounded, and no path leads anywhere.

    podlane-bugtool-<node>-<UTC time>/manifest.json     first
    podlane-bugtool-<node>-<UTC time>/<member>          all others, by name

An archive is written beside its place, private, and renamed: half of one is never found.
"""

import gzip
import io
import os
import tarfile
import tempfile
import zlib
from collections.abc import Iterable
from pathlib import Path

from services.common.errors import InvalidArgument, Unavailable

MANIFEST = "manifest.json"
# Of one that is read, unpacked; what `collect.py` writes stays far below.
_MOST_BYTES, _MOST_MEMBERS = 512 << 20, 200_000


def pack(root: str, members: Iterable[tuple[str, bytes]], when: int) -> bytes:
    """Return the archive of `members` in their order, in a directory `root`; `when` in seconds since the epoch."""
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=6, mtime=when) as zipped,
        tarfile.open(fileobj=zipped, mode="w") as archive,
    ):
        for name, content in members:
            entry = tarfile.TarInfo(f"{root}/{name}")
            entry.size, entry.mtime, entry.mode = len(content), when, 0o600
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def unpack(packed: bytes, name: str) -> dict[str, bytes]:
    """Return the members by their names without the root directory; `name` is the archive's, for errors.

    Raises InvalidArgument: it is no such archive, or a part of one.
    """
    members: dict[str, bytes] = {}
    left = _MOST_BYTES
    try:
        with tarfile.open(fileobj=io.BytesIO(packed), mode="r:gz") as archive:
            for entry in archive:
                if not entry.isreg():
                    continue
                left -= entry.size
                if left < 0 or len(members) >= _MOST_MEMBERS:
                    raise InvalidArgument(f"{name}: unpacks to more than {_MOST_BYTES >> 20} MiB: not read")
                content = archive.extractfile(entry)
                members[entry.name.partition("/")[2]] = content.read() if content is not None else b""
        # tarfile takes the end of the file for the end of the archive; only gzip's checksum knows better.
        _read_to_the_end(packed)
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise InvalidArgument(
            f"{name}: is no whole archive of `podlane bugtool` ({error}): it is damaged or was cut off; copy it again"
        ) from None
    if MANIFEST not in members:
        raise InvalidArgument(f"{name}: has no {MANIFEST}: it is no archive of `podlane bugtool`")
    return members


def _read_to_the_end(packed: bytes) -> None:
    with gzip.GzipFile(fileobj=io.BytesIO(packed)) as zipped:
        left = 2 * _MOST_BYTES
        while left > 0 and (part := zipped.read(1 << 20)):
            left -= len(part)


def write(path: Path, packed: bytes) -> None:
    """Put an archive at `path`, readable for its owner only. Raises Unavailable."""
    try:
        descriptor, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise Unavailable(f"{path} can't be written: {error.strerror}; choose another place with -o") from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(packed)
        Path(beside).replace(path)
    except OSError as error:
        Path(beside).unlink(missing_ok=True)
        raise Unavailable(f"{path} can't be written: {error.strerror}; choose another place with -o") from None
