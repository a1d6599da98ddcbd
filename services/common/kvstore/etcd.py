"""The kvstore in etcd, for a cluster.

    etcd.py           the verbs, of which each is one request, a list one per page
    etcd_messages.py  what they are in etcd's messages
    etcd_members.py   which member is asked, for how long, how often; whose store it is; health
    etcd_channel.py   one member's connection
    etcd_login.py     user name and password
    etcd_lease.py     what goes with the process
    etcd_watch.py     lists and what follows them
    answer.py, differences.py, limits.py, ownership.py    what can be decided without etcd

Starting waits for nothing, and stopping leaves what was published; both are what a restart needs.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from aetcd import rpc

from services.common.config import KvstoreSettings
from services.common.controllers import Manager, Registry
from services.common.errors import Unavailable
from services.common.kvstore import (
    Batch,
    Change,
    Condition,
    Entry,
    MemberStatus,
    Put,
    StoreStatus,
    check_once,
    etcd_messages,
)
from services.common.kvstore.answer import Problem
from services.common.kvstore.etcd_channel import Member, translated
from services.common.kvstore.etcd_lease import Lease
from services.common.kvstore.etcd_members import Compacted, LeaseGone, Members, Observe, Send
from services.common.kvstore.etcd_watch import Seen, follow
from services.common.kvstore.metrics import Figures

_ROUNDS = 3
"""Times that something is tried again which somebody else undid in between: a lease, a compaction."""
_STATUS_SECONDS = 1.0


class EtcdKvstore:
    """A Kvstore in etcd; a component of a service. `cluster`: the name that `<root>/cluster` must have."""

    def __init__(
        self, settings: KvstoreSettings, cluster: str, registry: Registry, observe: Observe = lambda *_: None
    ) -> None:
        """`registry` has the controller that keeps the lease."""
        self._controllers = Manager("kvstore", registry)
        self._members = Members(settings, cluster, observe)
        self._lease = Lease(self._members, self._controllers, settings.lease_seconds)
        self._seen = Seen()

    async def start(self) -> None:
        """Nothing to do: the first request connects."""

    async def stop(self) -> None:
        """End the connections; what was published stays for the lease's time."""
        await self._controllers.remove_all()
        await self._members.close()

    async def get(self, key: str) -> Entry | None:
        """See Kvstore."""
        answer = await self._range("get", etcd_messages.get(key))
        return etcd_messages.entry(answer.kvs[0]) if answer.kvs else None

    async def list(self, prefix: str) -> tuple[Entry, ...]:
        """See Kvstore."""
        return (await self._list_at(prefix))[0]

    async def put(self, key: str, value: str, *, leased: bool = False) -> Entry:
        """See Kvstore."""
        answer = await self._with_lease("put", lambda lease: etcd_messages.put(key, value, lease), leased=leased)
        return Entry(key, value, etcd_messages.put_revision(answer), leased=leased)

    async def delete(self, key: str) -> bool:
        """See Kvstore."""
        request = etcd_messages.delete(key)
        answer = await self._members.call(
            "delete", lambda member, metadata: member.kv.DeleteRange(request, metadata=metadata)
        )
        return bool(answer.deleted)

    async def commit(self, conditions: Sequence[Condition], changes: Sequence[Change]) -> bool:
        """See Kvstore."""
        check_once(changes)
        leased = any(isinstance(change, Put) and change.leased for change in changes)
        answer = await self._with_lease(
            "commit",
            lambda lease: etcd_messages.commit(conditions, changes, lease),
            leased=leased,
            repeatable=False,
        )
        return bool(answer.succeeded)

    def watch(self, prefix: str) -> AsyncIterator[Batch]:
        """See Kvstore."""
        return follow(self._members, self._list_at, prefix, self._seen)

    def on_lease_lost(self, callback: Callable[[], None]) -> None:
        """See Kvstore."""
        self._lease.on_lost(callback)

    async def status(self) -> StoreStatus:
        """See Kvstore."""
        members = await asyncio.gather(*map(self._member_status, self._members))
        health, now = self._members.health, self.figures()
        return StoreStatus(
            kind="etcd",
            reachable=now.reachable,
            error=health.error,
            unreachable_for=health.silent_for() or None,
            members=tuple(sorted(members, key=lambda member: member.endpoint)),
            lease=self._lease.id,
            lease_left=now.lease_left,
            leases_lost=now.leases_lost,
            waiting=now.waiting,
            event_age=now.event_age,
        )

    def figures(self) -> Figures:
        """Return what metrics show, without asking etcd."""
        return Figures(
            reachable=self._members.health.reachable,
            waiting=self._members.waiting,
            lease_left=self._lease.left,
            leases_lost=self._lease.lost,
            event_age=self._seen.age,
        )

    async def _range(self, verb: str, request: rpc.RangeRequest) -> Any:
        return await self._members.call(verb, lambda member, metadata: member.kv.Range(request, metadata=metadata))

    async def _list_at(self, prefix: str) -> tuple[tuple[Entry, ...], int]:
        """Return a prefix's entries and the revision at which they were so."""
        for _ in range(_ROUNDS):
            try:
                return await self._pages(prefix)
            except Compacted:
                continue
        raise Unavailable(f"etcd is compacted faster than {prefix} can be listed", prefix=prefix)

    async def _pages(self, prefix: str) -> tuple[tuple[Entry, ...], int]:
        entries: list[Entry] = []
        after: bytes | None = None
        revision = 0
        while True:
            answer = await self._range("list", etcd_messages.page(prefix, after, revision))
            revision = revision or answer.header.revision
            entries += map(etcd_messages.entry, answer.kvs)
            if not answer.more:
                return tuple(entries), revision
            after = answer.kvs[-1].key

    async def _with_lease(
        self, verb: str, request: Callable[[int], rpc.TxnRequest], *, leased: bool, repeatable: bool = True
    ) -> Any:
        """Send a transaction; one whose lease is gone was not carried out, and is sent again with another one."""
        for _ in range(_ROUNDS):
            lease = await self._lease.current() if leased else 0
            try:
                return await self._members.call(verb, _transaction(request(lease)), repeatable=repeatable)
            except LeaseGone:
                self._lease.gone(lease)
        raise Unavailable("etcd loses each lease that it grants: see its log")

    async def _member_status(self, member: Member) -> MemberStatus:
        try:
            async with asyncio.timeout(_STATUS_SECONDS):
                await member.connect()
                with translated():
                    answer = await member.maintenance.Status(rpc.StatusRequest())
        except TimeoutError:
            return MemberStatus(member.endpoint, error="doesn't answer")
        except Problem as problem:
            return MemberStatus(member.endpoint, error=problem.words)
        leader = answer.leader == answer.header.member_id
        return MemberStatus(member.endpoint, answer.version, leader, error="" if answer.leader else "has no leader")


def _transaction(request: rpc.TxnRequest) -> Send:
    return lambda member, metadata: member.kv.Txn(request, metadata=metadata)
