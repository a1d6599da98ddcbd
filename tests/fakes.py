"""The loader and ipam as an endpoint service meets them: real gRPC servers on Unix sockets, with scripted trouble.

Two rules:

1. The kernel is faked, the database is real. What the service under test writes goes to SQLite on a disk, what it says
   goes through gRPC; only what would need root ends in the dictionaries of `FakeKernel` and `FakeIpam`.
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
"""

import asyncio
import contextlib
import hashlib
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from podlane.common.v1 import types_pb2 as types
from podlane.ipam.v1 import ipam_pb2, ipam_pb2_grpc
from podlane.loader.v1 import loader_pb2, loader_pb2_grpc

from services.common import policydigest, wire
from services.common.edge import Server
from services.common.errors import AlreadyExists, FailedPrecondition, NotFound, PodlaneError, Unavailable
from services.common.model import Attachment

Key = tuple[str, str, str]
# What a policy map holds, by what is a key there: all but the last.
Policy = dict[tuple[int, ...], policydigest.Entry]

OPTIONS = ("conntrack", "debug", "trace")


def key(attachment: types.Attachment) -> Key:
    """Return an attachment as something that dictionaries take."""
    return attachment.network, attachment.container_id, attachment.ifname


def policy(entries: Iterable[loader_pb2.PolicyEntry]) -> Policy:
    """Return the policy map that holds these."""
    fields = [
        (one.direction, one.identity, one.protocol, one.port, one.port_prefix_length, one.deny) for one in entries
    ]
    return {one[:-1]: one for one in fields}


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


@dataclass
class FakeKernel:
    """Links and endpoint datapaths, which outlive the loader (B7)."""

    links: dict[Key, loader_pb2.Link] = field(default_factory=dict)
    recorded: dict[Key, loader_pb2.Link] = field(default_factory=dict)
    datapaths: dict[int, loader_pb2.EndpointDatapath] = field(default_factory=dict)
    policies: dict[int, Policy] = field(default_factory=dict)
    prefixes: dict[bytes, loader_pb2.PrefixIdentity] = field(default_factory=dict)
    ipcache: dict[bytes, loader_pb2.IpcacheEntry] = field(default_factory=dict)
    nodes: dict[str, loader_pb2.RemoteNode] = field(default_factory=dict)
    programs: int = 100
    ifindexes: int = 10
    seen: dict[Key, loader_pb2.LinkStatus] = field(default_factory=dict)

    def status(self, link: loader_pb2.Link) -> loader_pb2.LinkStatus:
        """Return a link with what a look into its pod finds (B12): unless a test says otherwise, all is well there."""
        well = loader_pb2.LinkStatus(idle_seconds=3600, namespace=loader_pb2.NAMESPACE_STATE_THERE)
        status = self.seen.get(key(link.attachment), well if link.host_ifindex else loader_pb2.LinkStatus())
        return loader_pb2.LinkStatus(
            link=link, idle_seconds=status.idle_seconds, namespace=status.namespace, processes=status.processes
        )

    def add_link(self, attachment: Attachment) -> loader_pb2.Link:
        """Make a veth pair."""
        self.ifindexes += 1
        link = loader_pb2.Link(
            attachment=wire.write_attachment(attachment),
            host_ifname=attachment.host_ifname(),
            host_ifindex=self.ifindexes,
            host_mac=types.MacAddress(packed=bytes([2, 0, 0, 0, *self.ifindexes.to_bytes(2)])),
            pod_mac=types.MacAddress(packed=bytes([2, 0, 0, 1, *self.ifindexes.to_bytes(2)])),
            netns_path=f"/run/netns/{attachment.container_id}",
            mtu=1500,
            pod_ifindex=2,
            netns_inode=4026532000 + self.ifindexes,
            up=True,
        )
        self.links[key(link.attachment)] = self.recorded[key(link.attachment)] = link
        return link

    def datapath(self, id_: int) -> loader_pb2.EndpointDatapath:
        """Return an endpoint's datapath with what its policy map holds now (B17)."""
        datapath = loader_pb2.EndpointDatapath()
        datapath.CopyFrom(self.datapaths[id_])
        datapath.policy_digest = policydigest.digest(self.policies.get(id_, {}).values())
        datapath.policy_entries = len(self.policies.get(id_, {}))
        return datapath

    def listed(self) -> list[loader_pb2.Link]:
        """Return all links as the loader lists them (B5): there, lost, and a stranger's."""
        stranger = loader_pb2.Link(
            attachment=types.Attachment(),
            host_ifname="lxc0123456789ab",
            host_ifindex=9,
            host_mac=types.MacAddress(packed=bytes(6)),
            pod_mac=types.MacAddress(packed=bytes(6)),
        )
        listed = [stranger]
        for name, recorded in self.recorded.items():
            link = loader_pb2.Link()
            link.CopyFrom(self.links.get(name, recorded))
            if name not in self.links:
                link.host_ifindex = 0
            listed.append(link)
        return listed


class FakeLoader(FakeService, loader_pb2_grpc.LoaderServiceServicer):
    """The loader's RPCs over a FakeKernel. The node configuration is forgotten when it stops."""

    def __init__(self, socket: Path, kernel: FakeKernel) -> None:
        """Serve `kernel`."""
        super().__init__(
            socket,
            "podlane.loader.v1.LoaderService",
            lambda server: loader_pb2_grpc.add_LoaderServiceServicer_to_server(self, server),
        )
        self.kernel = kernel
        self.node: loader_pb2.NodeConfig | None = None
        self.watching = 0
        self.probe: Callable[[loader_pb2.ProbeEndpointRequest], loader_pb2.ProbeEndpointResponse] = _passes
        self.watchers: set[asyncio.Queue[loader_pb2.WatchLinksResponse | None]] = set()

    async def stop(self) -> None:
        """Stop at once."""
        self.node = None
        await super().stop()

    def remove_link(self, attachment: Attachment) -> None:
        """Delete a link behind everybody's back, as the end of a network namespace does (B5)."""
        link = self.kernel.links.pop((attachment.network, attachment.container_id, attachment.ifname))
        gone = loader_pb2.WatchLinksResponse(
            host_ifname=link.host_ifname, host_ifindex=link.host_ifindex, attachment=link.attachment
        )
        for watcher in self.watchers:
            watcher.put_nowait(gone)

    async def ConfigureNode(self, request: Any, _context: Any) -> Any:  # noqa: N802 - the name that grpc calls
        """Keep the configuration."""

        def work() -> loader_pb2.ConfigureNodeResponse:
            changed = self.node != request.config
            self.node = request.config
            return loader_pb2.ConfigureNodeResponse(changed=changed, hash="00")

        return await self.script.run("ConfigureNode", request, work)

    async def GetNode(self, request: Any, _context: Any) -> Any:  # noqa: N802 - the name that grpc calls
        """Show the configuration."""
        options = [loader_pb2.EndpointOptionInfo(name=name, text=f"The {name} switch") for name in OPTIONS]
        return await self.script.run(
            "GetNode", request, lambda: loader_pb2.GetNodeResponse(config=self.node, options=options)
        )

    async def CreateLink(self, request: Any, _context: Any) -> Any:  # noqa: N802 - the name that grpc calls
        """Make a link, or return the one that is there."""

        def work() -> loader_pb2.CreateLinkResponse:
            there = self.kernel.links.get(key(request.attachment))
            link = there or self.kernel.add_link(wire.read_attachment(request.attachment, "attachment"))
            return loader_pb2.CreateLinkResponse(link=link, created=there is None)

        return await self.script.run("CreateLink", request, work)

    async def DeleteLink(self, request: Any, _context: Any) -> Any:  # noqa: N802 - the name that grpc calls
        """Delete a link."""

        def work() -> loader_pb2.DeleteLinkResponse:
            name = key(request.attachment)
            link = self.kernel.links.get(name)
            if link is not None and request.host_ifindex not in {0, link.host_ifindex}:  # B13
                raise FailedPrecondition(f"{link.host_ifname} is another link by now")
            recorded = self.kernel.recorded.get(name)
            if recorded is not None and self.kernel.status(recorded).idle_seconds < request.idle_seconds:
                raise FailedPrecondition(f"{recorded.host_ifname} was asked for lately")
            if link is not None:
                self.remove_link(wire.read_attachment(request.attachment, "attachment"))
            self.kernel.recorded.pop(name, None)
            return loader_pb2.DeleteLinkResponse(deleted=link is not None)

        return await self.script.run("DeleteLink", request, work)

    async def RepairLink(self, request: Any, _context: Any) -> Any:  # noqa: N802 - the name that grpc calls
        """Find nothing to repair in a link that is there."""

        def work() -> loader_pb2.RepairLinkResponse:
            if key(request.attachment) not in self.kernel.links:
                raise NotFound("there is no such link")
            return loader_pb2.RepairLinkResponse()

        return await self.script.run("RepairLink", request, work)

    async def DumpMap(self, request: Any, _context: Any) -> Any:  # noqa: N802 - the name that grpc calls
        """Show the prefixes (B18) and policies; this kernel has no other maps."""

        def work() -> loader_pb2.DumpMapResponse:
            entries = []
            if request.map == "prefixes":
                entries = [loader_pb2.MapEntry(prefix=one) for one in self.kernel.prefixes.values()]
            elif request.map == "policy":
                entries = [
                    loader_pb2.MapEntry(policy=loader_pb2.PolicyMapEntry(entry=_entry(one)))
                    for one in self.kernel.policies.get(request.endpoint_id, {}).values()
                ]
            return loader_pb2.DumpMapResponse(entries=entries)

        return await self.script.run("DumpMap", request, work)

    async def UpdatePolicies(self, request: Any, _context: Any) -> Any:  # noqa: N802 - the name that grpc calls
        """Change policy maps (B16) and prefixes (B18)."""

        def work() -> loader_pb2.UpdatePoliciesResponse:
            refusals = []
            for change in request.changes:
                for target in change.endpoints:
                    error = self._update(change, target)
                    refusals += [loader_pb2.PolicyRefusal(id=target.id, error=error)] if error else []
            added = {one.prefix.SerializeToString(): one for one in request.prefixes_added}
            for prefix in request.prefixes_removed:
                self.kernel.prefixes.pop(prefix.SerializeToString(), None)
            self.kernel.prefixes.update(added)
            return loader_pb2.UpdatePoliciesResponse(refusals=refusals)

        return await self.script.run("UpdatePolicies", request, work)

    def _update(self, change: loader_pb2.PolicyChange, target: loader_pb2.PolicyTarget) -> str:
        if target.id not in self.kernel.datapaths:
            return f"endpoint {target.id} has no policy map"
        there = self.kernel.datapath(target.id)
        if there.generation != target.generation:
            return f"endpoint {target.id} is of generation {there.generation}"
        if there.policy_digest == target.after:
            return ""
        if there.policy_digest != target.before:
            return f"policy map policy_{target.id} holds other entries"
        gone = policy(change.removed)
        kept = {name: one for name, one in self.kernel.policies.get(target.id, {}).items() if name not in gone}
        self.kernel.policies[target.id] = kept | policy(change.added)
        return ""

    async def SyncPrefixes(self, request: Any, _context: Any) -> Any:  # noqa: N802 - the name that grpc calls
        """Make the prefixes what they are to be (B18)."""

        def work() -> loader_pb2.SyncPrefixesResponse:
            before, wanted = self.kernel.prefixes, {one.prefix.SerializeToString(): one for one in request.prefixes}
            self.kernel.prefixes = wanted
            written = sum(before.get(name) != one for name, one in wanted.items())
            return loader_pb2.SyncPrefixesResponse(written=written, removed=len(before.keys() - wanted.keys()))

        return await self.script.run("SyncPrefixes", request, work)

    async def UpdateIpcache(self, request: Any, _context: Any) -> Any:  # noqa: N802 - the name that grpc calls
        """Change the ipcache (B20)."""

        def work() -> loader_pb2.UpdateIpcacheResponse:
            for entry in request.upserts:
                self.kernel.ipcache[entry.address.packed] = entry
            for address in request.removals:
                self.kernel.ipcache.pop(address.packed, None)
            return loader_pb2.UpdateIpcacheResponse()

        return await self.script.run("UpdateIpcache", request, work)

    async def SyncIpcache(self, requests: Any, _context: Any) -> Any:  # noqa: N802 - the name that grpc calls
        """Make the ipcache what the stream says (B20); the script sees all of it as one request."""
        whole = loader_pb2.SyncIpcacheRequest()
        async for request in requests:
            whole.entries.extend(request.entries)

        def work() -> loader_pb2.SyncIpcacheResponse:
            before, wanted = self.kernel.ipcache, {one.address.packed: one for one in whole.entries}
            self.kernel.ipcache = wanted
            written = sum(before.get(address) != one for address, one in wanted.items())
            return loader_pb2.SyncIpcacheResponse(written=written, removed=len(before.keys() - wanted.keys()))

        return await self.script.run("SyncIpcache", whole, work)

    async def SyncNodes(self, request: Any, _context: Any) -> Any:  # noqa: N802 - the name that grpc calls
        """Know these nodes and no others (B21)."""

        def work() -> loader_pb2.SyncNodesResponse:
            before, wanted = self.kernel.nodes, {one.name: one for one in request.nodes}
            self.kernel.nodes = wanted
            added = sum(before.get(name) != one for name, one in wanted.items())
            return loader_pb2.SyncNodesResponse(added=added, removed=len(before.keys() - wanted.keys()))

        return await self.script.run("SyncNodes", request, work)

    async def ProbeEndpoint(self, request: Any, _context: Any) -> Any:  # noqa: N802 - the name that grpc calls
        """Say what `probe` says (B19)."""

        def work() -> loader_pb2.ProbeEndpointResponse:
            datapath = self.kernel.datapaths.get(request.endpoint_id)
            if datapath is None or not datapath.programs:
                raise NotFound(f"endpoint {request.endpoint_id} has no programs")
            return self.probe(request)

        return await self.script.run("ProbeEndpoint", request, work)

    async def ListLinks(self, request: Any, _context: Any) -> Any:  # noqa: N802 - the name that grpc calls
        """List the kernel's links (B5)."""

        def work() -> loader_pb2.ListLinksResponse:
            links = self.kernel.listed()
            if request.HasField("attachment"):
                name = wire.read_attachment(request.attachment, "attachment").host_ifname()
                links = [link for link in links if link.host_ifname == name]
            return loader_pb2.ListLinksResponse(links=map(self.kernel.status, links))

        return await self.script.run("ListLinks", request, work)

    async def WatchLinks(self, _request: Any, _context: Any) -> AsyncIterator[Any]:  # noqa: N802 - as above
        """Tell of links that go (B5)."""
        watcher: asyncio.Queue[loader_pb2.WatchLinksResponse | None] = asyncio.Queue()
        self.watchers.add(watcher)
        try:
            while (message := await watcher.get()) is not None:
                yield message
        finally:
            self.watchers.discard(watcher)

    async def ListFlowCounts(self, _request: Any, _context: Any) -> Any:  # noqa: N802 - as above
        """Nobody talks to anybody here."""
        return loader_pb2.ListFlowCountsResponse()

    async def WatchEvents(self, _request: Any, _context: Any) -> AsyncIterator[Any]:  # noqa: N802 - as above
        """Nothing happens to packets here."""
        for nothing in tuple[loader_pb2.WatchEventsResponse]():
            yield nothing

    async def RegenerateEndpoint(self, request: Any, _context: Any) -> Any:  # noqa: N802 - the name that grpc calls
        """Put a datapath in force."""
        return await self.script.run("RegenerateEndpoint", request, lambda: self._regenerate(request))

    def _regenerate(self, request: loader_pb2.RegenerateEndpointRequest) -> loader_pb2.RegenerateEndpointResponse:
        wanted = request.endpoint
        if self.node is None:  # B2
            raise FailedPrecondition("the node isn't configured yet")
        link = self.kernel.links.get(key(wanted.attachment))
        if link is None or link.host_ifindex != wanted.host_ifindex:  # B1
            raise NotFound(f"link {wanted.host_ifname} is gone")
        there = self.kernel.datapaths.get(wanted.id)
        if there is not None and there.generation > wanted.generation:
            raise FailedPrecondition(f"endpoint {wanted.id} is of generation {there.generation}")
        hash_ = hashlib.sha256(wanted.SerializeToString(deterministic=True)).hexdigest()  # B3
        level, reason = request.level, self._reason(request, there, hash_)
        if reason:
            level = loader_pb2.REGENERATION_LEVEL_REWRITE_LOAD
        changes = self._changes(request, there)
        if request.dry_run:
            before = self.kernel.datapath(wanted.id) if there is not None else None
            return loader_pb2.RegenerateEndpointResponse(datapath=before, level=level, reason=reason, changes=changes)
        programs = list(there.programs) if there is not None else []
        if reason:
            programs = [self._load(name) for name in ("from_container", "to_container")]
        datapath = loader_pb2.EndpointDatapath(
            id=wanted.id,
            generation=wanted.generation,
            attachment=wanted.attachment,
            config_hash=hash_,
            programs=programs,
            host_ifname=wanted.host_ifname,
            host_ifindex=wanted.host_ifindex,
            reachable=True,
            options=wanted.options,
            identity=wanted.identity,
        )
        self.kernel.datapaths[wanted.id] = datapath
        if not request.keep_policy:
            self.kernel.policies[wanted.id] = policy(request.policy)
        phases = [types.Phase(name="load", duration_us=300), types.Phase(name="attach", duration_us=200)]
        return loader_pb2.RegenerateEndpointResponse(
            datapath=self.kernel.datapath(wanted.id), level=level, phases=phases, reason=reason, changes=changes
        )

    def _changes(self, request: Any, there: loader_pb2.EndpointDatapath | None) -> list[str]:
        """What a regeneration changes (B10); of a first build everything is new."""
        if there is None:
            return []
        changes = [] if _whole(there) else ["the kernel had lost something"]
        old, new = set(self.kernel.policies.get(there.id, {}).values()), set(policy(request.policy).values())
        if old != new:
            changes.append(f"policy map policy_{there.id}: {len(new - old)} entries written, {len(old - new)} removed")
        return changes

    def _reason(self, request: Any, there: loader_pb2.EndpointDatapath | None, hash_: str) -> str:
        """Why programs are loaded (B12)."""
        if there is None:
            return "the endpoint has no programs yet"
        if there.config_hash != hash_:
            return "the configuration has changed"
        if not there.programs:
            return "tc ingress is empty"
        return "it was asked for" if request.level == loader_pb2.REGENERATION_LEVEL_REWRITE_LOAD else ""

    def _load(self, name: str) -> loader_pb2.Program:
        self.kernel.programs += 1
        return loader_pb2.Program(
            name=name, id=self.kernel.programs, tag=bytes(8), instructions=500, verified_instructions=900, hook="tc"
        )

    async def RemoveEndpoint(self, request: Any, _context: Any) -> Any:  # noqa: N802 - the name that grpc calls
        """Take a datapath down (B4)."""

        def work() -> loader_pb2.RemoveEndpointResponse:
            there = self.kernel.datapaths.get(request.id)
            if there is not None and request.generation and there.generation > request.generation:
                raise FailedPrecondition(f"endpoint {request.id} is of generation {there.generation}")
            if there is not None and request.unrecorded and there.HasField("attachment"):  # B14
                raise FailedPrecondition(f"endpoint {request.id} has a record")
            self.kernel.datapaths.pop(request.id, None)
            self.kernel.policies.pop(request.id, None)
            return loader_pb2.RemoveEndpointResponse(removed=there is not None)

        return await self.script.run("RemoveEndpoint", request, work)

    async def ListEndpointDatapaths(self, request: Any, _context: Any) -> Any:  # noqa: N802 - as above
        """List datapaths (B6, B17)."""

        def work() -> loader_pb2.ListEndpointDatapathsResponse:
            found = [self.kernel.datapath(id_) for id_ in self.kernel.datapaths if request.id in {0, id_}]
            return loader_pb2.ListEndpointDatapathsResponse(datapaths=found)

        return await self.script.run("ListEndpointDatapaths", request, work)


def _passes(request: loader_pb2.ProbeEndpointRequest) -> loader_pb2.ProbeEndpointResponse:
    return loader_pb2.ProbeEndpointResponse(passed=True, endpoint_id=request.endpoint_id, direction=request.direction)


def _entry(one: policydigest.Entry) -> loader_pb2.PolicyEntry:
    direction, identity, protocol, port, length, deny = one
    return loader_pb2.PolicyEntry(
        direction=loader_pb2.TrafficDirection.ValueType(direction),
        identity=identity,
        protocol=protocol,
        port=port,
        port_prefix_length=length,
        deny=deny,
    )


def _whole(datapath: loader_pb2.EndpointDatapath) -> bool:
    return bool(datapath.reachable and datapath.programs and not datapath.problems)


class FakeIpam(FakeService, ipam_pb2_grpc.IpamServiceServicer):
    """ipam's RPCs over a dictionary; one pool with one range per family."""

    def __init__(self, socket: Path) -> None:
        """Start with nothing allocated."""
        super().__init__(
            socket,
            "podlane.ipam.v1.IpamService",
            lambda server: ipam_pb2_grpc.add_IpamServiceServicer_to_server(self, server),
        )
        self.held: dict[Key, ipam_pb2.Allocation] = {}
        self.ranges: dict[int, Any] = {4: ip_network("10.7.0.0/16"), 6: ip_network("fd07::/112")}
        self._ranges_changed = asyncio.Event()
        self._next = 1

    def reserve(self, attachment: Attachment) -> ipam_pb2.Allocation:
        """Reserve the next address of each family."""
        self._next += 1
        ips = [network[self._next] for network in self.ranges.values()]
        allocation = ipam_pb2.Allocation(
            owner=wire.write_attachment(attachment),
            pool="default",
            addresses=[self._assigned(ip) for ip in ips],
            state=ipam_pb2.ALLOCATION_STATE_RESERVED,
            created=wire.write_time(float(self._next)),
        )
        self.held[key(allocation.owner)] = allocation
        return allocation

    def _assigned(self, ip: Any) -> types.AssignedAddress:
        network = self.ranges[ip.version]
        return types.AssignedAddress(
            address=types.IpPrefix(address=wire.write_address(ip), length=ip.max_prefixlen),
            gateway=wire.write_address(network[1]),
            range=wire.write_network(network),
        )

    def _pools(self) -> list[ipam_pb2.Pool]:
        ranges = [
            ipam_pb2.PoolRange(prefix=wire.write_network(one), gateway=wire.write_address(one[1]), size=65533)
            for one in self.ranges.values()
        ]
        families = [types.IP_FAMILY_IPV4, types.IP_FAMILY_IPV6]
        problems = [f"no IPv{family} range is claimed yet" for family in (4, 6) if family not in self.ranges]
        return [ipam_pb2.Pool(name="default", ranges=ranges, families=families, problems=problems)]

    def change_ranges(self, ranges: dict[int, Any]) -> None:
        """Have other ranges from now on, and tell (B20)."""
        self.ranges = ranges
        self._ranges_changed.set()
        self._ranges_changed = asyncio.Event()

    async def ListPools(self, request: Any, _context: Any) -> Any:  # noqa: N802 - the name that grpc calls
        """Show the pool."""
        return await self.script.run("ListPools", request, lambda: ipam_pb2.ListPoolsResponse(pools=self._pools()))

    async def WatchPools(  # noqa: N802 - the name that grpc calls
        self, _request: Any, _context: Any
    ) -> AsyncIterator[ipam_pb2.WatchPoolsResponse]:
        """Show the pool, and again when its ranges change (B20)."""
        while True:
            changed = self._ranges_changed
            yield ipam_pb2.WatchPoolsResponse(pools=self._pools())
            await changed.wait()

    async def ListClaims(self, _request: Any, _context: Any) -> Any:  # noqa: N802 - the name that grpc calls
        """Refuse: the pool is this node's own."""
        raise FailedPrecondition("no pool of this node is a cluster's")

    async def TakeOverClaim(self, _request: Any, _context: Any) -> Any:  # noqa: N802 - the name that grpc calls
        """Refuse: the pool is this node's own."""
        raise FailedPrecondition("no pool of this node is a cluster's")

    async def ReleaseClaim(self, _request: Any, _context: Any) -> Any:  # noqa: N802 - the name that grpc calls
        """Refuse: the pool is this node's own."""
        raise FailedPrecondition("no pool of this node is a cluster's")

    async def AllocateAddresses(self, request: Any, _context: Any) -> Any:  # noqa: N802 - the name that grpc calls
        """Reserve the requested addresses (B9)."""

        def work() -> ipam_pb2.AllocateAddressesResponse:
            ips = [ip_address(one.packed) for one in request.requested]
            for owner, other in self.held.items():
                taken = {ip_address(one.address.address.packed) for one in other.addresses}
                if owner != key(request.owner) and taken & set(ips):
                    raise AlreadyExists(f"requested: {ips[0]} is held by {owner}")
            created = key(request.owner) not in self.held
            allocation = self.held.setdefault(
                key(request.owner),
                ipam_pb2.Allocation(
                    owner=request.owner,
                    pool="default",
                    addresses=[self._assigned(ip) for ip in ips],
                    state=ipam_pb2.ALLOCATION_STATE_RESERVED,
                ),
            )
            return ipam_pb2.AllocateAddressesResponse(allocation=allocation, created=created)

        return await self.script.run("AllocateAddresses", request, work)

    async def ConfirmAllocation(self, request: Any, _context: Any) -> Any:  # noqa: N802 - the name that grpc calls
        """Make a reservation permanent (B8)."""

        def work() -> ipam_pb2.ConfirmAllocationResponse:
            allocation = self.held.get(key(request.owner))
            if allocation is None:
                raise NotFound("the reservation has expired")
            if allocation.endpoint_id not in {0, request.endpoint_id}:
                raise AlreadyExists(f"endpoint {allocation.endpoint_id} holds them")
            allocation.state = ipam_pb2.ALLOCATION_STATE_CONFIRMED
            allocation.endpoint_id = request.endpoint_id
            return ipam_pb2.ConfirmAllocationResponse(allocation=allocation)

        return await self.script.run("ConfirmAllocation", request, work)

    async def UnconfirmAllocation(self, request: Any, _context: Any) -> Any:  # noqa: N802 - the name that grpc calls
        """Make a reservation of a confirmed allocation (B11)."""

        def work() -> ipam_pb2.UnconfirmAllocationResponse:
            allocation = self.held.get(key(request.owner))
            if allocation is not None and allocation.endpoint_id == request.endpoint_id:
                allocation.state = ipam_pb2.ALLOCATION_STATE_RESERVED
                allocation.endpoint_id = 0
            return ipam_pb2.UnconfirmAllocationResponse(allocation=allocation)

        return await self.script.run("UnconfirmAllocation", request, work)

    async def ReleaseAddresses(self, request: Any, _context: Any) -> Any:  # noqa: N802 - the name that grpc calls
        """Free what the owner holds."""

        def work() -> ipam_pb2.ReleaseAddressesResponse:
            held = self.held.get(key(request.owner))
            if held is not None and request.endpoint_id not in {0, held.endpoint_id}:  # B15
                raise FailedPrecondition(f"endpoint {held.endpoint_id} holds them")
            return ipam_pb2.ReleaseAddressesResponse(released=self.held.pop(key(request.owner), None))

        return await self.script.run("ReleaseAddresses", request, work)

    async def ListAllocations(self, request: Any, _context: Any) -> Any:  # noqa: N802 - the name that grpc calls
        """List what is held, a page at a time."""

        def work() -> ipam_pb2.ListAllocationsResponse:
            found = list(self.held.values())
            if request.HasField("owner"):
                found = [one for one in found if one.owner == request.owner]
            first, size = int(request.page_token or 0), request.page_size or 1000
            more = str(first + size) if len(found) > first + size else ""
            return ipam_pb2.ListAllocationsResponse(allocations=found[first : first + size], next_page_token=more)

        return await self.script.run("ListAllocations", request, work)
