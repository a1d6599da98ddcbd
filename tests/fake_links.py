"""The fake loader's links: made, deleted, listed and watched. Beliefs (B5, B12, B13) are those of tests/fakes.py."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from podlane.loader.v1 import loader_pb2

from services.common import wire
from services.common.errors import FailedPrecondition, NotFound
from services.common.model import Attachment
from tests.fake_kernel import FakeKernel
from tests.fakes import FakeService, key


class FakeLinks(FakeService):
    """The loader's RPCs about links."""

    kernel: FakeKernel
    watchers: set[asyncio.Queue[loader_pb2.WatchLinksResponse | None]]

    def remove_link(self, attachment: Attachment) -> None:
        """Delete a link behind everybody's back, as the end of a network namespace does (B5)."""
        link = self.kernel.links.pop((attachment.network, attachment.container_id, attachment.ifname))
        gone = loader_pb2.WatchLinksResponse(
            host_ifname=link.host_ifname, host_ifindex=link.host_ifindex, attachment=link.attachment
        )
        for watcher in self.watchers:
            watcher.put_nowait(gone)

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
