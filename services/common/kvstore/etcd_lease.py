"""The lease of one process: what it has put with it goes when the process goes.

    none ──first leased put──▶ granted ──a third of its time──▶ kept alive ──▶ …
                                 ▲                                  │
                                 └── granted anew, tell who has put ◄── etcd says it is gone

etcd alone says whether a lease is gone: it counts an outage of its own differently from us, and prolongs all leases
when a leader is elected. So after an outage the old one is kept alive if it is there, and what hangs on it stays. What
`left` says is computed by the monotonic clock from the last answer; nobody's wall clock matters.

A process that stops leaves its lease: a restart must not make a node's keys vanish for everybody. The next process gets
a lease of its own, and its puts move the keys over; what it doesn't put again goes in `lease_seconds`.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from aetcd import rpc

from services.common import telemetry
from services.common.controller_parameters import Parameters
from services.common.controllers import Manager
from services.common.kvstore.etcd_channel import Member
from services.common.kvstore.etcd_login import Metadata
from services.common.kvstore.etcd_members import Members

KEEP = "kvstore-lease"
_log = telemetry.logger("kvstore")


class Lease:
    """Granted when it is first needed, and kept by a controller from then on."""

    def __init__(self, members: Members, controllers: Manager, seconds: int) -> None:
        """`seconds`: how long it outlives the process."""
        self._members = members
        self._controllers = controllers
        self._seconds = seconds
        self._one = asyncio.Lock()
        self._callbacks: list[Callable[[], None]] = []
        self._ends = 0.0
        # A store that was emptied has lost it, too, and others should not have to wait for the next keep-alive.
        members.on_verified = lambda: controllers.trigger(KEEP)
        members.on_set_back = self._tell
        self.id: int | None = None
        self.lost = 0
        """How often one was lost."""

    def on_lost(self, callback: Callable[[], None]) -> None:
        """Have a function called when a lease was lost and there is another one."""
        self._callbacks.append(callback)

    @property
    def left(self) -> float | None:
        """Seconds until the store may remove what hangs on it, unless it hears of us."""
        return max(0.0, self._ends - time.monotonic()) if self.id is not None else None

    async def current(self) -> int:
        """Return the id of a lease that there was a moment ago. Raises as `Members.call` does."""
        async with self._one:
            return self.id if self.id is not None else await self._grant()

    def gone(self, id_: int) -> None:
        """The store doesn't know a lease that `current` gave."""
        if id_ != self.id:
            return
        self.id = None
        self.lost += 1
        _log.warning("the lease is gone: what this node has published is put again", lease=f"{id_:x}")
        self._controllers.trigger(KEEP)

    async def _grant(self) -> int:
        asked = time.monotonic()
        answer = await self._members.call("grant", self._send_grant)
        self.id, self._ends = answer.ID, asked + answer.TTL
        pause = answer.TTL / 3
        keep = Parameters(run=self._keep, interval=pause, retry_base=min(0.2, pause), retry_cap=min(1.0, pause))
        self._controllers.update(KEEP, keep, pause)
        if self.lost:
            self._tell()
        granted: int = answer.ID
        return granted

    def _tell(self) -> None:
        """A lease was lost; or it is there, and what was put with it may not be: a backup is older than both."""
        for callback in self._callbacks:
            try:
                callback()
            except Exception:  # noqa: BLE001 - one that fails must not keep the others from putting
                _log.exception("on_lease_lost")

    async def _keep(self) -> None:
        id_ = self.id
        if id_ is None:
            await self.current()
            return
        asked = time.monotonic()

        async def send(member: Member, metadata: Metadata) -> Any:
            call = member.lease.LeaseKeepAlive(metadata=metadata)
            try:
                await call.write(rpc.LeaseKeepAliveRequest(ID=id_))
                return await call.read()
            finally:
                call.cancel()

        answer = await self._members.call("keepalive", send)
        if answer.TTL > 0:
            self._ends = asked + answer.TTL
        else:
            self.gone(id_)
            await self.current()

    async def _send_grant(self, member: Member, metadata: Metadata) -> Any:
        return await member.lease.LeaseGrant(rpc.LeaseGrantRequest(TTL=self._seconds), metadata=metadata)
