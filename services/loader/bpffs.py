"""The bpffs mount that the pins live in: found, or made once at start.

Pins outlive the loader only if the mount does, so an existing one is never touched, and one that the loader makes
stays when it stops.
"""

import asyncio
from pathlib import Path

from services.common.errors import FailedPrecondition, NotFound

_MOUNTS = Path("/proc/self/mountinfo")


def is_bpffs(path: Path, mountinfo: str) -> bool:
    """Return whether a bpffs is what is mounted at `path`, given the text of /proc/self/mountinfo (proc(5)).

    Of several mounts on one directory the last line is the one on top.
    """
    kind = None
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(" - ")
        if fields.split(" ")[4] == _escaped(path):
            kind = rest.split(" ")[0]
    return kind == "bpf"


def _escaped(path: Path) -> str:
    text = str(path).replace("\\", r"\134")
    return text.replace(" ", r"\040").replace("\t", r"\011").replace("\n", r"\012")


def needed(path: Path) -> bool:
    """Return whether a bpffs has to be mounted at `path`. Raises NotFound when there is no such directory."""
    if not path.is_dir():
        raise NotFound(
            f"{path} is not a directory: a bpffs is needed there (node.bpffs); make it with `mkdir -p {path}`",
            path=path,
        )
    return not is_bpffs(path.resolve(), _MOUNTS.read_text())


async def mount(path: Path) -> None:
    """Mount a bpffs at `path`. Raises FailedPrecondition when the kernel refuses."""
    process = await asyncio.create_subprocess_exec(
        *("mount", "-t", "bpf", "-o", "mode=0700", "bpf", str(path)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    if process.returncode:
        raise FailedPrecondition(
            f"no bpffs at {path} and mounting one failed: {output.decode(errors='replace').strip()}; the loader needs "
            f"CAP_SYS_ADMIN for that, or `mount -t bpf bpf {path}` beforehand",
            path=path,
        )
