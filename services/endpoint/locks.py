"""One lock per attachment that has work going on: an ADD, a DEL, and what runs in the background."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from services.common.model import Attachment


class AttachmentLocks:
    """Locks that exist only while somebody holds or wants them."""

    def __init__(self) -> None:
        """Start with none."""
        self._locks: dict[Attachment, tuple[asyncio.Lock, int]] = {}

    def busy(self, attachment: Attachment) -> bool:
        """Return whether somebody holds or wants the attachment's lock."""
        return attachment in self._locks

    @contextlib.asynccontextmanager
    async def only(self, attachment: Attachment) -> AsyncIterator[None]:
        """Hold the attachment's lock for the block; who came first goes first."""
        lock, users = self._locks.get(attachment) or (asyncio.Lock(), 0)
        self._locks[attachment] = lock, users + 1
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks.pop(attachment)
            if users > 1:
                self._locks[attachment] = lock, users - 1
