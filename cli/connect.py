"""Asks one service one question."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.common.config import Settings

# A person waits for a service that is restarting, but not for long.
_WAIT = 1.0
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


def ask(service: Service, method: str, request: Any) -> Any:
    """Call `method` and return its reply. Raises the service's PodlaneError."""
    from services.common.client import Peer

    async def call() -> Any:
        peer = Peer(service.name, service.socket, _WAIT)
        await peer.start()
        try:
            return await peer.call(getattr(service.stub(peer.channel), method), request, timeout=_TIMEOUT)
        finally:
            await peer.stop()

    return asyncio.run(call())


def ask_all(service: Service, method: str, request: Any, field: str) -> list[Any]:
    """Call a paged method until its last page and return the items of `field` of all pages."""
    items: list[Any] = []
    while True:
        reply = ask(service, method, request)
        items.extend(getattr(reply, field))
        if not reply.next_page_token:
            return items
        request.page_token = reply.next_page_token
