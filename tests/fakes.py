"""The loader and ipam as an endpoint service meets them: real gRPC servers on Unix sockets, with scripted trouble.

Two rules:

1. The kernel is faked, the database is real. What the service under test writes goes to SQLite on a disk, what it says
   goes through gRPC; only what would need root ends in dictionaries (`fake_kernel.py`, `fake_ipam.py`).
2. A fake proves our logic against what we believe, not that the belief is right. So every belief a fake is taught is
   held against the real thing by one privileged test. The beliefs are numbered here and at their lines:

   B1  RegenerateEndpoint of a link that is gone is NOT_FOUND and changes nothing.
   B2  RegenerateEndpoint of a node that isn't configured is FAILED_PRECONDITION.
   B3  A repeated RegenerateEndpoint with nothing changed keeps the config hash; another generation changes it.
   B4  RemoveEndpoint is idempotent, and refuses a generation older than the one that holds the id.
   B5  ListLinks lists what the kernel has now, lost links with ifindex 0 and links without a record without an
       attachment, but with the addresses of both ends; WatchLinks says when a link goes.
   B6  ListEndpointDatapaths says what the kernel has lost, with `reachable` false or a sentence.
   B7  Links and datapaths outlive the loader's process.
   B8  ConfirmAllocation is NOT_FOUND without a reservation, idempotent per endpoint, ALREADY_EXISTS for another one.
   B9  Released addresses can be asked for by name at once.
   B10 RegenerateEndpoint at level 1 loads programs only where that is needed, at level 2 always; it says why, and
       what it changed. A dry run touches nothing.
   B11 UnconfirmAllocation makes a reservation of what that endpoint has confirmed, and leaves anything else alone.
   B12 ListLinks tells how long a link was not asked for, what has become of its namespace, and who lives in one that
       has lost its name.
   B13 DeleteLink refuses another index than the one that is meant, and a link that was asked for lately.
   B14 A datapath without a record has neither attachment nor generation; RemoveEndpoint of `unrecorded` takes that
       and refuses what has a record.
   B15 ReleaseAddresses refuses what another endpoint than the one that is meant confirmed.
   B16 UpdatePolicies changes the maps of those endpoints whose generation and digest are as the request says; the
       others are told with a sentence, and one that holds what it is to hold already is done. What is added stays,
       though it is removed, too.
   B17 A datapath tells its identity and the digest of what its policy map holds, also of what a hand has put there;
       that is no problem in the sense of B6, and a regeneration at level 1 makes the map what it is told.
   B18 SyncPrefixes makes the map of prefixes what it is told and says what differed; UpdatePolicies changes it, too;
       it outlives the loader.
   B20 SyncIpcache makes the ipcache what the whole stream says and tells what differed; a stream that breaks off
       changes nothing; UpdateIpcache changes it; it outlives the loader.
   B21 SyncNodes makes the other nodes those that it is told; they outlive the loader.
   B19 ProbeEndpoint says whether a packet passes and who has decided; of an endpoint without programs it is NOT_FOUND.
   B20 WatchPools sends the pools at once, and again when their ranges change; it ends with the service.

Trouble is scripted per method: `fail` raises instead of working, `hold` makes calls stand still before or after it,
`calls` tells what was asked, and `reached` waits for it.

Here is what both have in common; `fake_loader.py` and `fake_ipam.py` are the two.
"""

import asyncio
import contextlib
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from podlane.common.v1 import types_pb2 as types

from services.common.edge import Server
from services.common.errors import PodlaneError, Unavailable

Key = tuple[str, str, str]


def key(attachment: types.Attachment) -> Key:
    """Return an attachment as something that dictionaries take."""
    return attachment.network, attachment.container_id, attachment.ifname


class Script:
    """What goes wrong, and what was asked."""

    def __init__(self) -> None:
        """Start with everything going well."""
        self.calls: list[tuple[str, Any]] = []
        self._failures: dict[str, deque[PodlaneError]] = defaultdict(deque)
        self._held: dict[tuple[str, bool], asyncio.Event] = {}
        self._arrived: Counter[tuple[str, bool]] = Counter()
        self._standing: Counter[asyncio.Event] = Counter()
        self._lost: set[asyncio.Event] = set()
        self._changed = asyncio.Condition()

    def count(self, method: str) -> int:
        """Return how often a method was called."""
        return sum(name == method for name, _ in self.calls)

    def fail(self, method: str, error: PodlaneError, times: int = 1) -> None:
        """Make the next calls of a method raise instead of working."""
        self._failures[method].extend([error] * times)

    def heal(self) -> None:
        """Forget all failures that were not used."""
        self._failures.clear()

    @contextlib.asynccontextmanager
    async def hold(self, method: str, *, after: bool = False, lose: bool = False) -> AsyncIterator[None]:
        """Make calls of a method stand still for the block, before they work or after.

        `lose`: they never work, as when the peer died with its caller.
        """
        gate = self._held[method, after] = asyncio.Event()
        try:
            yield
        finally:
            del self._held[method, after]
            if lose:
                self._lost.add(gate)
            gate.set()
            while self._standing[gate]:
                await asyncio.sleep(0)

    async def reached(self, method: str, *, after: bool = False, times: int = 1) -> None:
        """Wait until that many calls of a method have begun, or have done their work."""
        await self.until(lambda: self._arrived[method, after] >= times)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something is so that calls can make so."""
        async with self._changed:
            await self._changed.wait_for(condition)

    async def run(self, method: str, request: Any, work: Callable[[], Any]) -> Any:
        """Do what the script says around `work`."""
        self.calls.append((method, request))
        await self._arrive(method, after=False)
        if self._failures[method]:
            raise self._failures[method].popleft()
        result = work()
        await self._arrive(method, after=True)
        return result

    async def _arrive(self, method: str, *, after: bool) -> None:
        async with self._changed:
            self._arrived[method, after] += 1
            self._changed.notify_all()
        gate = self._held.get((method, after))
        if gate is None:
            return
        self._standing[gate] += 1
        try:
            await gate.wait()
        finally:
            self._standing[gate] -= 1
        if gate in self._lost:
            raise Unavailable("the peer is gone")


class FakeService:
    """A server that can be stopped and started again like a process; what it stands for outlives it."""

    def __init__(self, socket: Path, name: str, register: Callable[[Any], None]) -> None:
        """Wire; `start` binds."""
        self.script = Script()
        self._socket, self._name, self._register = socket, name, register
        self._server: Server | None = None

    async def start(self) -> None:
        """Serve."""
        self._server = Server(self._socket, (self._name,), self._register)
        await self._server.start()
        await self._server.serving(ready=True)

    async def stop(self) -> None:
        """Stop at once, as a killed process does."""
        if self._server is not None and self._server._server is not None:
            await self._server._server.stop(None)
            self._server = None
