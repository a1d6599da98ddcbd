"""The objects of the shapes that nodes have by default, compiled once for all tests that aren't about compiling.

Compiling takes a second of CPU, and two hundred tests start a loader of their own. The directory is the repository's
build/test-objects and stays: an object is looked up by a hash of all that it was made of.
"""

import asyncio
import fcntl
import functools
import itertools
from pathlib import Path

from services.loader import headers
from services.loader.compile import OVERLAY_SOURCE, SOURCE
from services.loader.model import NodeConfig, Routing
from services.loader.template import prebuild
from tests.netns_support import in_thread

REPOSITORY = Path(__file__).resolve().parents[1]
BPF = REPOSITORY / "bpf"
REMEMBERING = str(REPOSITORY / "tests" / "remembering_clang.py")
"""What [loader] clang is set to."""


@functools.cache
def prebuilt() -> Path:
    """Return what [loader] objects_dir is set to."""
    directory = REPOSITORY / "build" / "test-objects"
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        in_thread(lambda: asyncio.run(_make(directory)))
    return directory


async def _make(directory: Path) -> None:
    switches = headers.ep_config({})
    shapes = [(headers.of_node(None), SOURCE)]
    for routing, family in itertools.product((Routing.OVERLAY, Routing.NATIVE), (4, 6)):
        header = headers.of_node(NodeConfig((), (), routing=routing, underlay_family=family))
        shapes += [(header, SOURCE), (header, OVERLAY_SOURCE)] if routing is Routing.OVERLAY else [(header, SOURCE)]
    made = (prebuild(directory, BPF, header, switches, source=source) for header, source in dict.fromkeys(shapes))
    await asyncio.gather(*made)
