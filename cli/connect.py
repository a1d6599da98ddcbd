"""Asks one service one question, or listens to it.

Questions go by the shim's small client (call.py), which costs a command nothing; streams by grpcio, whose import takes
a tenth of a second and is no matter to who listens.
"""

import importlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cli import call
from cni.hpack import Unsupported
from services.common.config import Settings
from services.common.errors import PodlaneError

# A person waits for a service that is restarting, but not for long.
_WAIT = 3.0
_TIMEOUT = 30.0
# Of somebody who listens already.
_READY = 3.0


class Service(NamedTuple):
    """A service, its socket and its contract: the module of its messages and its name, `podlane.ipam.v1.ipam_pb2` and
    `IpamService`.
    """

    name: str
    socket: Path
    module: str
    contract: str

    @property
    def stub(self) -> Any:
        """The class of grpcio's stub."""
        return getattr(importlib.import_module(f"{self.module}_grpc"), f"{self.contract}Stub")

    def method(self, name: str) -> Any:
        """Return the descriptor of a method."""
        descriptor = importlib.import_module(self.module).DESCRIPTOR
        return descriptor.services_by_name[self.contract].methods_by_name[name]


def ipam(settings: Settings) -> Service:
    """Return the ipam service."""
    return Service("ipam", settings.ipam.socket, "podlane.ipam.v1.ipam_pb2", "IpamService")


def loader(settings: Settings) -> Service:
    """Return the loader service."""
    return Service("loader", settings.loader.socket, "podlane.loader.v1.loader_pb2", "LoaderService")


def endpoint(settings: Settings) -> Service:
    """Return the endpoint service."""
    return Service("endpoint", settings.endpoint.socket, "podlane.endpoint.v1.endpoint_pb2", "EndpointService")


def policy(settings: Settings) -> Service:
    """Return the service for identities and policies, which the endpoint service answers, too."""
    return endpoint(settings)._replace(module="podlane.endpoint.v1.policy_pb2", contract="PolicyService")


def tracing(settings: Settings) -> Service:
    """Return the service that follows packets, which the endpoint service answers, too."""
    return endpoint(settings)._replace(module="podlane.endpoint.v1.trace_pb2", contract="TraceService")


def monitor(settings: Settings) -> Service:
    """Return the service for events and flows, which the endpoint service answers, too."""
    return endpoint(settings)._replace(module="podlane.endpoint.v1.monitor_pb2", contract="MonitorService")


def cluster(settings: Settings) -> Service:
    """Return the service for other nodes and the kvstore, which the endpoint service answers, too."""
    return endpoint(settings)._replace(module="podlane.endpoint.v1.cluster_pb2", contract="ClusterService")


def why(settings: Settings) -> Service:
    """Return the service that tells why something is slow or stuck, which the endpoint service answers, too."""
    return endpoint(settings)._replace(module="podlane.endpoint.v1.why_pb2", contract="WhyService")


def controllers(settings: Settings) -> list[Service]:
    """Return the service that every process answers beside its own, once for each process."""
    return _of_each(settings, "podlane.common.v1.controllers_pb2", "ControllerService")


def logs(settings: Settings) -> list[Service]:
    """Return the service for the level of its log that every process answers, once for each process."""
    return _of_each(settings, "podlane.common.v1.log_pb2", "LogService")


def _of_each(settings: Settings, module: str, contract: str) -> list[Service]:
    each = (ipam(settings), loader(settings), endpoint(settings))
    return [one._replace(module=module, contract=contract) for one in each]


def ask(
    service: Service,
    method: str,
    request: Any,
    timeout: float = _TIMEOUT,
    *,
    wait: float | None = None,
    long: bool = False,
) -> Any:
    """Call `method` and return its reply; `timeout` in seconds, `wait` likewise for a service that is away.

    `long`: the reply may have more than 16 MiB. Raises the service's PodlaneError.
    """
    patience = _WAIT if wait is None else wait
    if not long:
        try:
            return call.call(
                service.name, service.socket, service.method(method), request, timeout=timeout, wait=patience
            )
        except Unsupported:
            pass
    return _ask_by_grpcio(service, method, request, timeout, patience)


def _ask_by_grpcio(service: Service, method: str, request: Any, timeout: float, wait: float) -> Any:
    import asyncio

    from services.common.client import Peer

    # grpcio only knows that nobody answers, and not why.
    call.reach(service.name, service.socket, wait)

    async def answer() -> Any:
        peer = Peer(service.name, service.socket, _READY)
        await peer.start()
        try:
            return await peer.call(getattr(service.stub(peer.channel), method), request, timeout=timeout)
        finally:
            await peer.stop()

    return asyncio.run(answer())


def ask_each(services: Sequence[Service], method: str, request: Any) -> list[tuple[Service, Any]]:
    """Call `method` of each; return each with its reply, or with the PodlaneError in its place.

    Those that are away are waited for together.
    """
    patience = time.monotonic() + _WAIT
    found: list[tuple[Service, Any]] = []
    for service in services:
        try:
            wait = max(0.0, patience - time.monotonic())
            found.append((service, ask(service, method, request, wait=wait)))
        except PodlaneError as error:
            found.append((service, error))
    return found


def ask_all(service: Service, method: str, request: Any, field: str) -> list[Any]:
    """Call a paged method until its last page and return the items of `field` of all pages."""
    items: list[Any] = []
    while True:
        reply = ask(service, method, request)
        items.extend(getattr(reply, field))
        if not reply.next_page_token:
            return items
        request.page_token = reply.next_page_token


def follow(service: Service, method: str, request: Any, begun: Callable[[], None], each: Callable[[Any], None]) -> None:
    """Call a streaming method: `begun` when the service has taken it up, then `each` for every message, until the
    service ends the stream or the person at the keyboard does. Raises the service's PodlaneError.
    """
    import asyncio

    from services.common.client import Peer

    call.reach(service.name, service.socket, _WAIT)

    async def listen() -> None:
        peer = Peer(service.name, service.socket, _READY)
        await peer.start()
        try:
            async for message in peer.stream(getattr(service.stub(peer.channel), method), request, begun=begun):
                each(message)
        finally:
            await peer.stop()

    asyncio.run(listen())
