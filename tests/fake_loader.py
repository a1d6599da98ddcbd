"""The loader as an endpoint service meets it: its RPCs over a `FakeKernel`. Beliefs (B1 …) are those of tests/fakes.py.

Links are in `fake_links.py`, what endpoints share in `fake_tables.py`; here are the node and the endpoints' datapaths.
"""

import hashlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from podlane.common.v1 import types_pb2 as types
from podlane.loader.v1 import loader_pb2, loader_pb2_grpc

from services.common.errors import FailedPrecondition, NotFound
from tests.fake_kernel import FakeKernel, policy
from tests.fake_links import FakeLinks
from tests.fake_tables import FakeTables
from tests.fakes import key

OPTIONS = ("conntrack", "debug", "trace")


class FakeLoader(FakeLinks, FakeTables, loader_pb2_grpc.LoaderServiceServicer):
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
        self.watchers = set()

    async def stop(self) -> None:
        """Stop at once."""
        self.node = None
        await super().stop()

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

    async def ProbeEndpoint(self, request: Any, _context: Any) -> Any:  # noqa: N802 - the name that grpc calls
        """Say what `probe` says (B19)."""

        def work() -> loader_pb2.ProbeEndpointResponse:
            datapath = self.kernel.datapaths.get(request.endpoint_id)
            if datapath is None or not datapath.programs:
                raise NotFound(f"endpoint {request.endpoint_id} has no programs")
            return self.probe(request)

        return await self.script.run("ProbeEndpoint", request, work)

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


def _whole(datapath: loader_pb2.EndpointDatapath) -> bool:
    return bool(datapath.reachable and datapath.programs and not datapath.problems)
