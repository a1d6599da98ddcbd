"""`inotifywait -r -m` on the state directory of a real node prints what ARCHITECTURE.md says, line for line."""

import contextlib
import re
import subprocess
from collections.abc import Iterator

import grpc
import pytest

from tests.bpf_sources import CLANG_REFUSES, CLANG_SAYS, refusing
from tests.by_hand import ByHand
from tests.crash_support import REPOSITORY, CrashNode

pytestmark = pytest.mark.privileged

COMMAND = "inotifywait -r -m -e create,close_write,move,delete --format '%e %w%f' /run/podlane/state"
# What a verb of the document stands for: events, each of the first or the second path.
VERBS = {
    "create": ("CREATE 0",),
    "write": ("CREATE 0", "CLOSE_WRITE 0"),
    "delete": ("DELETE 0",),
    "move": ("MOVED_FROM 0", "MOVED_TO 1"),
    "exchange": ("MOVED_FROM 0", "MOVED_TO 1", "MOVED_FROM 1", "MOVED_TO 0"),
}
# What differs from run to run, by the document's name for it.
NAMES = (
    (re.compile(r"lxc[0-9a-f]{12}"), "<link>"),
    (re.compile(r"[0-9a-f]{64}"), "<hash>"),
    (re.compile(r"(?<=<hash>)\.\d+"), ".<pid>"),
)


def documented() -> dict[str, list[str]]:
    """Return the events of each operation, as ARCHITECTURE.md has them."""
    text = (REPOSITORY / "ARCHITECTURE.md").read_text()
    (block,) = (one for one in text.split("```") if f"$ {COMMAND}\n" in one)
    operations: dict[str, list[str]] = {}
    events: list[str] = []
    for line in block.strip().splitlines()[1:]:
        if not line.startswith(" "):
            events = operations[line] = []
            continue
        # Two spaces or more end a path; what follows the paths is a remark.
        verb, *paths = re.split(r"\s{2,}", line.strip())
        for one in VERBS[verb]:
            event, which = one.split()
            events.append(f"{event} {paths[int(which)]}")
    return operations


class Watch:
    """The command of the document on a node's state directory."""

    def __init__(self, node: CrashNode) -> None:
        """Start it, and have the loader wait for it."""
        self._state = node.dir / "run" / "state"
        argv = COMMAND.replace("/run/podlane/state", str(self._state)).replace("'%e %w%f'", "FORMAT").split()
        argv[argv.index("FORMAT")] = "%e %w%f"
        self._process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self._process.stderr is not None
        while "established" not in self._process.stderr.readline():
            pass
        self._pid = node.dir / "loader.watcher"
        self._pid.write_text(str(self._process.pid))

    def stop(self) -> list[str]:
        """End it, and return what it has said by then."""
        # The directory's own last event is the end of what it can have to say.
        last = self._state / "the-end"
        last.touch()
        assert self._process.stdout is not None
        said: list[str] = []
        for line in self._process.stdout:
            event, _, path = line.strip().partition(" ")
            path = path.removeprefix(f"{self._state}/")
            if path == last.name:
                break
            for pattern, name in NAMES:
                path = pattern.sub(name, path)
            said.append(f"{event.replace(',ISDIR', '').replace(',CLOSE', '')} {path}")
        self.close()
        last.unlink()
        return said

    def close(self) -> None:
        """End it."""
        self._pid.unlink(missing_ok=True)
        self._process.kill()
        self._process.communicate()


@contextlib.contextmanager
def watched(node: CrashNode, operation: str) -> Iterator[None]:
    """Compare what is said during the block with the document."""
    watch = Watch(node)
    try:
        yield
        said = watch.stop()
    finally:
        watch.close()
    assert said == documented()[operation]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CrashNode]:
    """A node whose next endpoint is number 7."""
    sources = refusing(tmp_path_factory.mktemp("sources"))
    with CrashNode(settings={"loader": {"bpf_dir": str(sources)}}) as node:
        for _ in range(6):
            pod = node.pod()
            node.add(pod)
            node.delete(pod)
        yield node


def test_the_documents_operations_print_what_it_says(node: CrashNode):
    pod = node.pod()
    add, config, refused, delete = documented()

    with watched(node, add):
        node.add(pod)
    with watched(node, config):
        node.podlane(*config.split()[1:])
    # Asked of the loader alone: the endpoint service would try again.
    with watched(node, refused), pytest.raises(grpc.RpcError, match=CLANG_SAYS):
        ByHand(node.agreement).regenerate(pod, None, arp_responder=False, **{CLANG_REFUSES: True})
    node.podlane("endpoint", "regenerate", "7")
    with watched(node, delete):
        node.delete(pod)


def test_what_changes_nothing_prints_nothing_but_when_a_link_was_asked_for(node: CrashNode):
    pod = node.pod()
    node.add(pod)
    watch = Watch(node)

    node.podlane("endpoint", "regenerate", "all", "--level", "1")
    node.add(pod)

    assert watch.stop() == documented()[next(iter(documented()))][4:8]
    node.delete(pod)
