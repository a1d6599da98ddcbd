"""Asks one service one question, or listens to it."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from services.common.config import Settings
from services.common.errors import PodlaneError

# A person waits for a service that is restarting, but not for long.
_WAIT = 3.0
_TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class Service:
    """A service, its socket and the class of its stub."""

    name: str
    socket: Path
    stub: Any


def ipam(settings: Settings) -> Service:
    """Return the ipam service."""
    from podlane.ipam.v1.ipam_pb2_grpc import IpamServiceStub

    return Service("ipam", settings.ipam.socket, IpamServiceStub)


def loader(settings: Settings) -> Service:
    """Return the loader service."""
    from podlane.loader.v1.loader_pb2_grpc import LoaderServiceStub

    return Service("loader", settings.loader.socket, LoaderServiceStub)


def endpoint(settings: Settings) -> Service:
    """Return the endpoint service."""
    from podlane.endpoint.v1.endpoint_pb2_grpc import EndpointServiceStub

    return Service("endpoint", settings.endpoint.socket, EndpointServiceStub)


def policy(settings: Settings) -> Service:
    """Return the service for identities and policies, which the endpoint service answers, too."""
    from podlane.endpoint.v1.policy_pb2_grpc import PolicyServiceStub

    return replace(endpoint(settings), stub=PolicyServiceStub)


def cluster(settings: Settings) -> Service:
    """Return the service for other nodes and the kvstore, which the endpoint service answers, too."""
    from podlane.endpoint.v1.cluster_pb2_grpc import ClusterServiceStub

    return replace(endpoint(settings), stub=ClusterServiceStub)


def controllers(settings: Settings) -> list[Service]:
    """Return the service that every process answers beside its own, once for each process."""
    from podlane.common.v1.controllers_pb2_grpc import ControllerServiceStub

    return [replace(one, stub=ControllerServiceStub) for one in (ipam(settings), loader(settings), endpoint(settings))]


async def _ask(service: Service, method: str, request: Any, timeout: float = _TIMEOUT) -> Any:
    from services.common.client import Peer

    peer = Peer(service.name, service.socket, _WAIT)
    await peer.start()
    try:
        return await peer.call(getattr(service.stub(peer.channel), method), request, timeout=timeout)
    finally:
        await peer.stop()


def ask(service: Service, method: str, request: Any, timeout: float = _TIMEOUT) -> Any:
    """Call `method` and return its reply; `timeout` in seconds. Raises the service's PodlaneError."""
    return asyncio.run(_ask(service, method, request, timeout))


def ask_each(services: Sequence[Service], method: str, request: Any) -> list[tuple[Service, Any]]:
    """Call `method` of each at the same time; return each with its reply, or with the PodlaneError in its place."""

    async def one(service: Service) -> tuple[Service, Any]:
        try:
            return service, await _ask(service, method, request)
        except PodlaneError as error:
            return service, error

    async def each() -> list[tuple[Service, Any]]:
        return await asyncio.gather(*map(one, services))

    return asyncio.run(each())


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
    from services.common.client import Peer

    async def call() -> None:
        peer = Peer(service.name, service.socket, _WAIT)
        await peer.start()
        try:
            async for message in peer.stream(getattr(service.stub(peer.channel), method), request, begun=begun):
                each(message)
        finally:
            await peer.stop()

    asyncio.run(call())
