"""A service that kills itself at a named point: `python -m tests.killed services.loader DIRECTORY --config FILE`.

The launcher imports the service once, which is the longer half of its start, and forks it for each line that comes on
stdin; it prints the pid, and the exit code when the process has ended.

Only what a process has done to the rest of the world tells one kill from another. So the crash points of a service are
its *effects*: a file made, written, renamed or removed, a pin, a map's entry, a batch of netlink messages, a commit, a
change in the kvstore and its answer, a call of another service, an answer. All of them pass few doors, which this
launcher watches; whatever goes by a door is a point, also what is added tomorrow. The services know nothing of it.

    DIRECTORY/<service>.trace    while the file exists, the effects are appended to it, one per line, before they happen
    DIRECTORY/<service>.armed    `NUMBER EFFECT`, then pids, one per line: the process dies, and those with it, right
                                 before the effect happens for the NUMBER-th time from now on; `*` is any effect

    DIRECTORY/<service>.watcher  the pid of an inotifywait: files are written where it watches already

Names of effects are the same for every pod: ids, links and hashes are replaced by what they are.
"""

import contextlib
import ctypes
import functools
import gc
import importlib
import inspect
import os
import pathlib
import re
import select
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

_NAMES = (
    (re.compile(r"\blxc[0-9a-f]{12}\b"), "<link>"),
    (re.compile(r"\b[0-9a-f]{64}\b"), "<hash>"),
    (re.compile(r"(?<=<hash>)\.\d+"), ".<pid>"),
    (re.compile(r"(?<=[/_ ])\d+(?=_next|/|$)"), "<id>"),
)
# Whether a path must be there for a verb to change anything.
_NEEDED = {"remove": True, "rmdir": True, "mkdir": False}
_READING = ("Get", "List", "Check", "Watch", "Dump")
# linux/prctl.h
_PR_SET_PDEATHSIG = 1
_WRITE = os.O_WRONLY | os.O_RDWR
# linux/rtnetlink.h: what a message is about, in fours: new, delete, get, set.
_RTM_BASE, _RTM_GET, _VERBS = 16, 2, ("new", "del", "get", "set")
_OBJECTS = ("link", "addr", "route", "neigh", "rule", "qdisc", "class", "filter")
_SERVED = {
    "ipam": [("servicer", "IpamServicer")],
    "loader": [("servicer", "LoaderServicer")],
    "endpoint": [("servicer", "EndpointServicer"), ("policyservicer", "PolicyServicer")],
}


class Effects:
    """What the process is about to do to the world. `roots` are directories by the names that effects call them."""

    def __init__(self, service: str, directory: Path, roots: dict[str, Path]) -> None:
        """Watch nothing yet."""
        self._trace, self._armed = directory / f"{service}.trace", directory / f"{service}.armed"
        self._watcher = directory / f"{service}.watcher"
        self._roots = {os.fspath(path): name for name, path in roots.items()}
        self._lock = threading.RLock()
        self._inside = threading.local()
        self._order, self._seen = "", Counter[str]()

    def come(self, effect: str) -> None:
        """Write the effect down; die if this is the one."""
        for pattern, name in _NAMES:
            effect = pattern.sub(name, effect)
        with self._lock:
            if self._trace.exists():
                with self._trace.open("a") as trace:
                    trace.write(effect + "\n")
            try:
                order = self._armed.read_text()
            except FileNotFoundError:
                return
            if order != self._order:
                self._order, self._seen = order, Counter()
            self._seen.update((effect, "*"))
            first, *pids = order.splitlines()
            if first in {f"{self._seen[effect]} {effect}", f"{self._seen['*']} *"}:
                self._armed.unlink()
                for pid in (*map(int, pids), os.getpid()):
                    os.kill(pid, signal.SIGKILL)

    def file(self, verb: str, path: Any, directory: int = -1) -> None:
        """Come to a change of a path, if it is below one of the roots."""
        if getattr(self._inside, "file", False) or isinstance(path, int):
            return
        whole = os.fsdecode(path)
        if directory != -1:
            whole = f"{Path(f'/proc/self/fd/{directory}').readlink()}/{whole}"
        root = next((root for root in self._roots if whole.startswith(f"{root}/")), None)
        if root is not None and os.path.lexists(whole) == _NEEDED.get(verb, os.path.lexists(whole)):
            self._inside.file = True
            try:
                if verb == "open":
                    self._wait_for_watcher(Path(whole).parent)
                self.come(f"{verb} {self._roots[root]}{whole.removeprefix(root)}")
            finally:
                self._inside.file = False

    def _wait_for_watcher(self, directory: Path) -> None:
        """inotifywait learns of a new directory from an event, and then asks to watch it: some time later."""
        if not self._watcher.exists():
            return
        watches = Path("/proc", self._watcher.read_text(), "fdinfo")
        wanted = f" ino:{directory.stat().st_ino:x} "
        while not any(wanted in one.read_text() for one in watches.iterdir()):
            select.select([], [], [], 0.001)

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """See files change (Python's audit events; they come before the change)."""
        if event == "open" and arguments[2] & _WRITE:
            self.file("open", arguments[0])
        elif event in {"os.mkdir", "os.rename"}:
            self.file(event.removeprefix("os."), arguments[0], arguments[2])
        elif event in {"os.remove", "os.rmdir"}:
            self.file(event.removeprefix("os."), arguments[0], arguments[1])

    def before(self, owner: Any, name: str, effect: Callable[..., str]) -> None:
        """Come to `effect(*arguments)`, unless it is empty, before each call of a function."""
        work = getattr(owner, name)

        @functools.wraps(work)
        def coming(*arguments: Any, **keywords: Any) -> Any:
            if said := effect(*arguments):
                self.come(said)
            return work(*arguments, **keywords)

        setattr(owner, name, coming)

    def after(self, owner: Any, name: str, effect: str) -> None:
        """Come to an effect after each call of a coroutine function, also one that fails."""
        work = getattr(owner, name)

        @functools.wraps(work)
        async def coming(*arguments: Any, **keywords: Any) -> Any:
            try:
                return await work(*arguments, **keywords)
            finally:
                self.come(effect)

        setattr(owner, name, coming)


def watch(service: str, effects: Effects, *, etcd: bool) -> None:
    """Stand at the doors of a service."""
    sys.addaudithook(effects.audit)
    _watch_writes(effects)
    _watch_calls(effects)
    effects.before(importlib.import_module("services.common.db"), "_commit", functools.partial(_committed, effects))
    if service == "loader":
        _watch_kernel(effects)
    if etcd:
        _watch_kvstore(effects)
    for module, kind in _SERVED[service]:
        served = getattr(importlib.import_module(f"services.{service}.{module}"), kind)
        for name, method in vars(served).items():
            if inspect.iscoroutinefunction(method) and not name.startswith(_READING):
                effects.after(served, name, f"answer {name}")


def _watch_writes(effects: Effects) -> None:
    """A file is made first and written then: Python tells of the first only."""

    def write_text(path: Path, content: str, **_: Any) -> int:
        with path.open("w") as file:
            effects.file("write", path)
            return file.write(content)

    def writing(fd: int, _content: bytes) -> str:
        with contextlib.suppress(OSError):
            effects.file("write", Path(f"/proc/self/fd/{fd}").readlink())
        return ""

    setattr(pathlib.Path, "write_text", write_text)  # noqa: B010 - mypy knows that it is no variable
    effects.before(os, "write", writing)


def _watch_calls(effects: Effects) -> None:
    """A call that finds nobody to send it to is none."""
    peer = importlib.import_module("services.common.client").Peer
    work = peer.call

    async def call(self: Any, method: Any, request: Any, *, timeout: float) -> Any:
        whom, name = method._method.decode().split("/")[1:]
        if not name.startswith(_READING):
            await self._ready(timeout)
            effects.come(f"call {whom.split('.')[1]} {name}")
        return await work(self, method, request, timeout=timeout)

    peer.call = call


def _watch_kvstore(effects: Effects) -> None:
    """A request may have been carried out and its answer not have come: two points."""
    kvstore = importlib.import_module("services.common.kvstore.etcd").EtcdKvstore
    for name in ("put", "delete", "commit"):
        effects.after(kvstore, name, f"kvstore {name} answered")
        effects.before(kvstore, name, functools.partial(_asked, name))


def _asked(name: str, *_: Any) -> str:
    return f"kvstore {name}"


def _watch_kernel(effects: Effects) -> None:
    """Patch before anybody imports the functions by name."""
    libbpf = importlib.import_module("services.loader.libbpf")
    for name in ("map_update", "map_delete", "map_update_batch", "map_delete_batch"):
        effects.before(libbpf, name, functools.partial(_mapped, name))
    effects.before(libbpf, "object_pin", lambda _fd, path: f"pin {path.name}")
    programs = importlib.import_module("services.loader.libbpf_programs")
    effects.before(programs, "link_create", lambda *_: "link_create")
    effects.before(programs, "link_update", lambda *_: "link_update")
    effects.before(programs, "link_detach", lambda *_: "link_detach")
    effects.before(importlib.import_module("services.loader.netlink").Rtnl, "batch", _batched)
    effects.before(
        importlib.import_module("services.loader.statedir"),
        "exchange",
        lambda one, other: f"exchange state/{one.name} state/{other.name}",
    )


def _mapped(name: str, fd: Any, entries: Any, *_: Any) -> str:
    libbpf = importlib.import_module("services.loader.libbpf")
    # The kernel keeps 15 characters of a map's name; constants and variables are nobody's until programs are attached.
    about = libbpf.map_info(fd).name
    if about in {".rodata", "podlane_whose"} or (name.endswith("batch") and not entries):
        return ""
    # Granted when it is time, whatever else happens.
    if about == "podlane_event_credits"[:15]:
        return ""
    maps = importlib.import_module("services.loader.maps").DEFINITIONS
    return f"{name} {next(one for one in maps if one.startswith(about))}"


def _batched(_rtnl: Any, requests: Sequence[Any]) -> str:
    kinds = [divmod(one.type - _RTM_BASE, len(_VERBS)) for one in requests]
    changes = dict.fromkeys(f"{_VERBS[verb]}{_OBJECTS[about]}" for about, verb in kinds if verb != _RTM_GET)
    return f"netlink {' '.join(changes)}" if changes else ""


def _committed(effects: Effects, _connection: Any, changes: Sequence[Any], *_: Any) -> str:
    # Which changes share a transaction is chance.
    for change in changes:
        effects.come(f"commit {change.__qualname__.removesuffix('.<locals>.change')}")
    return ""


def main() -> None:
    """Start the service once for each line on stdin; see the module."""
    _, module, directory, *argv = sys.argv
    service = module.rpartition(".")[2]
    configfile = importlib.import_module("services.common.configfile")
    settings = configfile.load(Path(argv[argv.index("--config") + 1]), {})
    roots = {"state": settings.loader.state_dir, "bpf": settings.node.bpffs, "journal": settings.endpoint.journal_dir}
    watch(service, Effects(service, Path(directory), roots), etcd=bool(settings.kvstore.endpoints))
    run = importlib.import_module(f"{module}.main").main
    sys.argv = [module, *argv]
    # A collection in the service is not to walk, and so to copy, what it shares with this process.
    gc.collect()
    gc.freeze()
    while os.read(0, 1):
        child = os.fork()
        if child == 0:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            os.dup2(2, 1)
            os._exit(run())
        os.write(1, f"{child}\n".encode())
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os.write(1, f"{status}\n".encode())


if __name__ == "__main__":
    main()
