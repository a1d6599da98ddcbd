"""An endpoint service between a fake loader and a fake ipam: in this process, or as the real process.

async with Surroundings() as around, around.service() as client:
    pod = around.pod()
    await client.create(pod)
"""

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from grpc_health.v1 import health_pb2, health_pb2_grpc
from podlane.common.v1 import controllers_pb2, controllers_pb2_grpc
from podlane.endpoint.v1 import endpoint_pb2 as pb
from podlane.endpoint.v1 import endpoint_pb2_grpc, policy_pb2, policy_pb2_grpc
from podlane.ipam.v1 import ipam_pb2
from podlane.loader.v1 import loader_pb2

from services.common import configfile, lifecycle, wire
from services.common.client import Peer
from services.common.errors import PodlaneError
from services.common.model import Attachment
from services.endpoint.main import build
from tests import warm
from tests.fake_ipam import FakeIpam
from tests.fake_kernel import FakeKernel
from tests.fake_loader import FakeLoader

T = TypeVar("T")

PATIENCE = 20.0
READY = pb.ENDPOINT_STATE_READY


@dataclass
class FakePod:
    """An attachment with a link and a reservation, and the request that makes an endpoint of them."""

    attachment: Attachment
    request: pb.CreateEndpointRequest

    @property
    def key(self) -> tuple[str, str, str]:
        """How the fakes call it."""
        return self.attachment.network, self.attachment.container_id, self.attachment.ifname

    @property
    def selector(self) -> pb.EndpointSelector:
        """How the service is asked for it."""
        return pb.EndpointSelector(attachment=wire.write_attachment(self.attachment))


class Client:
    """The endpoint service's RPCs with domain errors."""

    def __init__(self, socket: Path) -> None:
        """Connect with `start`."""
        self.peer = Peer("endpoint", socket, PATIENCE)

    async def start(self) -> None:
        """Open the channel."""
        await self.peer.start()

    async def stop(self) -> None:
        """Close the channel."""
        await self.peer.stop()

    @property
    def stub(self) -> Any:
        """The generated stub."""
        return endpoint_pb2_grpc.EndpointServiceStub(self.peer.channel)

    async def create(self, pod: FakePod, timeout: float = PATIENCE) -> pb.CreateEndpointResponse:
        """CreateEndpoint."""
        response: pb.CreateEndpointResponse = await self.peer.call(
            self.stub.CreateEndpoint, pod.request, timeout=timeout
        )
        return response

    async def delete(self, pod: FakePod, timeout: float = PATIENCE) -> bool:
        """DeleteEndpoint."""
        request = pb.DeleteEndpointRequest(selector=pod.selector)
        return bool((await self.peer.call(self.stub.DeleteEndpoint, request, timeout=timeout)).deleted)

    async def get(self, pod: FakePod) -> pb.Endpoint:
        """GetEndpoint."""
        request = pb.GetEndpointRequest(selector=pod.selector)
        endpoint: pb.Endpoint = (await self.peer.call(self.stub.GetEndpoint, request, timeout=PATIENCE)).endpoint
        return endpoint

    async def endpoints(self) -> list[pb.Endpoint]:
        """All of ListEndpoints' first page."""
        response = await self.peer.call(self.stub.ListEndpoints, pb.ListEndpointsRequest(), timeout=PATIENCE)
        return list(response.endpoints)

    async def check(self, pod: FakePod) -> list[str]:
        """CheckEndpoint's problems."""
        request = pb.CheckEndpointRequest(selector=pod.selector)
        return list((await self.peer.call(self.stub.CheckEndpoint, request, timeout=PATIENCE)).problems)

    async def regenerate(
        self, pod: FakePod | None = None, *, level: "loader_pb2.RegenerationLevel.ValueType", dry_run: bool = False
    ) -> list[pb.RegenerationResult]:
        """RegenerateEndpoints, of one pod or all."""
        request = pb.RegenerateEndpointsRequest(
            selector=pod.selector if pod is not None else None, level=level, dry_run=dry_run
        )
        return list((await self.peer.call(self.stub.RegenerateEndpoints, request, timeout=PATIENCE)).results)

    async def options(self, pod: FakePod | None) -> list[pb.OptionStatus]:
        """ListOptions, of one pod or the node."""
        request = pb.ListOptionsRequest(selector=pod.selector if pod is not None else None)
        return list((await self.peer.call(self.stub.ListOptions, request, timeout=PATIENCE)).options)

    async def set_options(self, pod: FakePod | None, **changes: bool | None) -> list[pb.RegenerationResult]:
        """SetOptions, of one pod or the node."""
        request = pb.SetOptionsRequest(
            selector=pod.selector if pod is not None else None,
            changes=[pb.OptionChange(name=name, enabled=enabled) for name, enabled in changes.items()],
        )
        return list((await self.peer.call(self.stub.SetOptions, request, timeout=PATIENCE)).results)

    async def collect(
        self, *kinds: "pb.GarbageKind.ValueType", dry_run: bool = False, timeout: float = PATIENCE
    ) -> list[pb.GarbageFinding]:
        """CollectGarbage; without the link that the fake kernel has of nobody (B5)."""
        request = pb.CollectGarbageRequest(kinds=kinds, dry_run=dry_run)
        found = (await self.peer.call(self.stub.CollectGarbage, request, timeout=timeout)).findings
        return [one for one in found if one.object != "link lxc0123456789ab"]

    @property
    def policy(self) -> Any:
        """The generated stub of PolicyService."""
        return policy_pb2_grpc.PolicyServiceStub(self.peer.channel)

    async def apply(self, *documents: Mapping[str, Any] | str) -> policy_pb2.ApplyPoliciesResponse:
        """ApplyPolicies of documents, or of texts as they are."""
        texts = [one if isinstance(one, str) else json.dumps(one) for one in documents]
        request = policy_pb2.ApplyPoliciesRequest(text="\n---\n".join(texts), source="test.yaml")
        response: policy_pb2.ApplyPoliciesResponse = await self.peer.call(
            self.policy.ApplyPolicies, request, timeout=PATIENCE
        )
        return response

    async def forget(self, *names: policy_pb2.DocumentName) -> policy_pb2.DeletePoliciesResponse:
        """DeletePolicies."""
        request = policy_pb2.DeletePoliciesRequest(names=names)
        response: policy_pb2.DeletePoliciesResponse = await self.peer.call(
            self.policy.DeletePolicies, request, timeout=PATIENCE
        )
        return response

    async def documents(self) -> dict[str, policy_pb2.Document]:
        """ListPolicies, by `kind namespace/name`."""
        reply = await self.peer.call(self.policy.ListPolicies, policy_pb2.ListPoliciesRequest(), timeout=PATIENCE)
        return {f"{one.name.kind} {one.name.namespace}/{one.name.name}": one for one in reply.documents}

    async def label(self, pod: FakePod, **labels: str | None) -> policy_pb2.UpdateLabelsResponse:
        """UpdateLabels; None removes."""
        changes = [policy_pb2.LabelChange(key=key, value=value, remove=value is None) for key, value in labels.items()]
        request = policy_pb2.UpdateLabelsRequest(selector=pod.selector, changes=changes)
        response: policy_pb2.UpdateLabelsResponse = await self.peer.call(
            self.policy.UpdateLabels, request, timeout=PATIENCE
        )
        return response

    async def controller(self, name: str) -> controllers_pb2.Controller:
        """ListControllers, the one of a name."""
        stub: Any = controllers_pb2_grpc.ControllerServiceStub(self.peer.channel)
        request = controllers_pb2.ListControllersRequest(name=name)
        reply = await self.peer.call(stub.ListControllers, request, timeout=PATIENCE)
        found: controllers_pb2.Controller = reply.controllers[0]
        return found

    async def serving(self) -> bool:
        """Whether health says SERVING."""
        stub: Any = health_pb2_grpc.HealthStub(self.peer.channel)
        try:
            reply = await self.peer.call(stub.Check, health_pb2.HealthCheckRequest(), timeout=PATIENCE)
        except PodlaneError:
            return False
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)

    async def until_serving(self) -> None:
        """Wait for health to say SERVING, by watching it."""
        await self.peer._ready(PATIENCE)
        stub: Any = health_pb2_grpc.HealthStub(self.peer.channel)
        async with asyncio.timeout(PATIENCE):
            call: Any = stub.Watch(health_pb2.HealthCheckRequest())
            async for reply in call:
                if reply.status == health_pb2.HealthCheckResponse.SERVING:
                    call.cancel()
                    return

    async def until(self, pod: FakePod, state: "pb.EndpointState.ValueType" = READY) -> pb.Endpoint:
        """Wait until a pod's endpoint is in a state, by watching."""
        async with asyncio.timeout(PATIENCE):
            async for told in self.watch():
                if told.endpoint.attachment == pod.request.attachment and told.endpoint.state == state:
                    break
        return await self.get(pod)

    async def until_gone(self, pod: FakePod) -> None:
        """Wait until a pod has no endpoint, by watching."""
        async with asyncio.timeout(PATIENCE):
            seen = False
            async for told in self.watch():
                mine = told.endpoint.attachment == pod.request.attachment
                seen |= mine and told.change == pb.WatchEndpointsResponse.CHANGE_EXISTING
                synced = told.change == pb.WatchEndpointsResponse.CHANGE_SYNCED
                if (mine and told.change == pb.WatchEndpointsResponse.CHANGE_DELETED) or (synced and not seen):
                    return

    async def watch(self) -> AsyncIterator[pb.WatchEndpointsResponse]:
        """WatchEndpoints."""
        async for told in self.peer.stream(self.stub.WatchEndpoints, pb.WatchEndpointsRequest()):
            yield told


class Surroundings:
    """Directories, settings and the two fakes. `fakes` False: they are started by the test."""

    def __init__(self, *, fakes: bool = True, peer_wait: float = 2.0, gc_interval: float = 0.0) -> None:
        """Choose names; entering makes everything. `gc_interval` 0: garbage is searched for only when asked."""
        # Not pytest's tmp_path: a Unix socket's path has 107 bytes.
        self.dir = Path(tempfile.mkdtemp(prefix="pl-", dir="/tmp"))
        self.file = self.dir / "podlane.toml"
        self.file.write_text(
            f'[node]\nname = "n1"\nrun_dir = "{self.dir}/run"\nlib_dir = "{self.dir}/lib"\nlog_format = "json"\n'
            f"[endpoint]\npeer_wait_seconds = {peer_wait}\ngc_interval_seconds = {gc_interval}\n"
            f'policy_dir = "{self.dir}/policy.d"\n'
        )
        self.settings = configfile.load(self.file, {})
        self.kernel = FakeKernel()
        self.loader = FakeLoader(self.settings.loader.socket, self.kernel)
        self.ipam = FakeIpam(self.settings.ipam.socket)
        self._fakes = fakes
        self.components: Sequence[lifecycle.Component] = ()

    async def __aenter__(self) -> Self:
        """Start the fakes."""
        if self._fakes:
            await self.loader.start()
            await self.ipam.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop them and remove the directory."""
        await self.loader.stop()
        await self.ipam.stop()
        shutil.rmtree(self.dir, ignore_errors=True)

    def reload(self) -> None:
        """Read the settings' file again, after a test has written to it."""
        self.settings = configfile.load(self.file, {})

    def pod(self, name: str = "") -> FakePod:
        """Do the first two steps of an ADD."""
        attachment = Attachment("podnet", secrets.token_hex(16), "eth0")
        allocation, link = self.ipam.reserve(attachment), self.kernel.add_link(attachment)
        request = pb.CreateEndpointRequest(
            attachment=wire.write_attachment(attachment), link=link, addresses=allocation.addresses
        )
        if name:
            request.pod.namespace, request.pod.name = "default", name
        return FakePod(attachment, request)

    @contextlib.asynccontextmanager
    async def service(self, *, wait: bool = True) -> AsyncIterator[Client]:
        """Run the service in this process."""
        client = Client(self.settings.endpoint.socket)
        self.components = build(self.settings)
        async with lifecycle.running([*self.components, client]):
            if wait:
                await client.until_serving()
            yield client

    @contextlib.asynccontextmanager
    async def process(self, *, wait: bool = True) -> AsyncIterator[tuple[warm.AsyncProcess, Client]]:
        """Run the service as a process; SIGTERM at the end, unless the test has ended it."""
        with (self.dir / "endpoint.log").open("ab") as log:
            argv = ["--config", str(self.file)]
            process = warm.AsyncProcess(warm.spawn("services.endpoint", argv, stdout=log, stderr=log))
        client = Client(self.settings.endpoint.socket)
        try:
            async with lifecycle.running([client]):
                if wait:
                    await client.until_serving()
                yield process, client
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()

    def component(self, kind: type[T]) -> T:
        """Return a part of the service that runs in this process."""
        return next(part for part in self.components if isinstance(part, kind))

    def confirmed(self, pod: FakePod) -> bool:
        """Whether ipam holds the pod's addresses for an endpoint."""
        held = self.ipam.held.get(pod.key)
        return held is not None and held.state == ipam_pb2.ALLOCATION_STATE_CONFIRMED

    def reserved(self, pod: FakePod) -> bool:
        """Whether ipam holds the pod's addresses for nobody yet."""
        held = self.ipam.held.get(pod.key)
        return held is not None and held.state == ipam_pb2.ALLOCATION_STATE_RESERVED and not held.endpoint_id


async def kill(process: warm.AsyncProcess) -> None:
    """End a process by SIGKILL and wait until it is gone."""
    os.kill(process.pid, signal.SIGKILL)
    await process.wait()
