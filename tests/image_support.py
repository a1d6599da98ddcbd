"""A container image made on the spot: Debian's busybox-static, as `docker save` writes one; no registry is asked."""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

BUSYBOX = Path("/bin/busybox")
NAME = "podlane.test/busybox:1"
FOREVER = ("/bin/sleep", "2147483647")
APPLETS = ("cat", "ip", "nc", "ping", "sh", "sleep", "true", "wget")


def write(path: Path) -> Path:
    """Write the archive; return its path."""
    layer = _tar([_file("bin/busybox", BUSYBOX.read_bytes(), 0o755), *(_link(f"bin/{name}") for name in APPLETS)])
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": list(FOREVER), "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        }
    ).encode()
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = json.dumps([{"Config": config_name, "RepoTags": [NAME], "Layers": ["layer.tar"]}]).encode()
    path.write_bytes(
        _tar([_file("layer.tar", layer), _file(config_name, config), _file("manifest.json", manifest)]),
    )
    return path


_Member = tuple[tarfile.TarInfo, bytes]


def _file(name: str, content: bytes, mode: int = 0o644) -> _Member:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), mode
    return info, content


def _link(name: str) -> _Member:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, BUSYBOX.name
    return info, b""


def _tar(members: Iterable[_Member]) -> bytes:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return output.getvalue()
