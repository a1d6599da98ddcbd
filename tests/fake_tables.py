"""What endpoints share in the fake loader: policy, prefixes, the ipcache, other nodes. Beliefs are tests/fakes.py's."""

from typing import Any

from podlane.loader.v1 import loader_pb2

from services.common import policydigest
from tests.fake_kernel import FakeKernel, policy
from tests.fakes import FakeService


class FakeTables(FakeService):
    """The loader's RPCs about maps and other nodes."""

    kernel: FakeKernel

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
