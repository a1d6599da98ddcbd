"""Watching a prefix of etcd: all that is there, then what changes, whatever happens to connections.

    list (pages, one revision) ──▶ stream from revision + 1 ──▶ events …
         ▲                              │ it broke: member, network, no leader
         │                              ▼
         └── compacted, set back, ── ask for the store's revision ──▶ stream from the last revision + 1
             or another store

What was told is remembered as key → revision, never values: a list after a gap is compared with that, and what differs
is told, as if nothing had happened.

A store whose revision is lower than what was seen was restored from a backup or made anew: its revisions mean something
else, so all of it is told. What it doesn't have is told as gone only after `GRACE`: who has put it is alive, most
likely, and puts it again, and pods that talk meanwhile must not be cut.

Events wait in one batch, a key once, with its newest value: a consumer that is slow gets fewer and larger batches, and
memory is bounded by the number of keys.

A revision counts as seen once its last fragment has come; what of it comes twice then is left out.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from services.common import telemetry
from services.common.controller_parameters import backoff
from services.common.errors import PodlaneError
from services.common.kvstore import Batch, Entry, etcd_messages
from services.common.kvstore.answer import Problem
from services.common.kvstore.differences import ELSEWHERE, differences, remember
from services.common.kvstore.etcd_channel import RETRY_BASE, RETRY_CAP, Member, translated
from services.common.kvstore.etcd_login import Metadata
from services.common.kvstore.etcd_members import Members

GRACE = 60.0
"""Seconds for everybody to publish again into a store that was set back."""
_log = telemetry.logger("kvstore")

ListAt = Callable[[str], Awaitable[tuple[tuple[Entry, ...], int]]]
"""Lists a prefix; the revision at which it was so."""


class Seen:
    """When anything was heard on any watch, for the status."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._at: float | None = None

    def now(self) -> None:
        """Something was."""
        self._at = time.monotonic()

    @property
    def age(self) -> float | None:
        """Seconds since then."""
        return time.monotonic() - self._at if self._at is not None else None


async def follow(members: Members, list_at: ListAt, prefix: str, seen: Seen) -> AsyncIterator[Batch]:
    """Yield batches for ever; see Kvstore.watch."""
    watch = _Watch(members, list_at, prefix, seen)
    task = asyncio.create_task(watch.run())
    try:
        while True:
            yield await watch.take()
    finally:
        watch.stop()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class _Watch:
    """One watch, filled by a task and emptied by its consumer."""

    def __init__(self, members: Members, list_at: ListAt, prefix: str, seen: Seen) -> None:
        self._members = members
        self._list_at = list_at
        self._prefix = prefix
        self._seen = seen
        self._known: dict[str, int] = {}
        # Up to which revision all was seen, in which of the stores; None: a list is needed.
        self._revision: int | None = None
        self._store = 0
        self._waiting: dict[str, Entry | None] = {}
        self._news = asyncio.Event()
        self._begun = False
        self._grace: asyncio.TimerHandle | None = None

    async def take(self) -> Batch:
        await self._news.wait()
        self._news.clear()
        self._begun = True
        batch, self._waiting = self._waiting, {}
        return batch

    async def run(self) -> None:
        failures = 0
        while True:
            try:
                revision = self._revision
                if revision is None or not await self._continues(revision):
                    revision = await self._list()
                begun = time.monotonic()
                await self._stream(revision)
                # One that ends as soon as it begins must not make us list for ever.
                failures = failures + 1 if time.monotonic() - begun < RETRY_CAP else 0
            except PodlaneError:
                # Members have said it, once for all who ask.
                failures += 1
            if failures:
                await asyncio.sleep(backoff(failures, RETRY_BASE, RETRY_CAP, random.random()))  # noqa: S311 - jitter

    async def _list(self) -> int:
        found, revision = await self._list_at(self._prefix)
        changes = differences(self._known, found)
        if self._grace is not None:
            changes = {key: entry for key, entry in changes.items() if entry or self._known[key] != ELSEWHERE}
        self._tell(changes, first=True)
        self._revision, self._store = revision, self._members.store
        return revision

    async def _continues(self, revision: int) -> bool:
        """Whether the store's revisions still mean what they did; forgets them otherwise."""
        look = etcd_messages.position(self._prefix)
        answer = await self._members.call("watch", lambda one, metadata: one.kv.Range(look, metadata=metadata))
        if self._store == self._members.store and answer.header.revision >= revision:
            return True
        _log.warning("etcd was set back or replaced: listing again", prefix=self._prefix, revision=revision)
        self._known = dict.fromkeys(self._known, ELSEWHERE)
        self._members.on_set_back()
        self.stop()
        self._grace = asyncio.get_running_loop().call_later(GRACE, self._end_grace)
        return False

    def _end_grace(self) -> None:
        self._grace = None
        self._tell({key: None for key, revision in self._known.items() if revision == ELSEWHERE})

    def stop(self) -> None:
        """Forget what was to be told later."""
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None

    async def _stream(self, revision: int) -> None:
        """Follow the store from a revision on, until the stream breaks or can't go on."""
        request = etcd_messages.watch(self._prefix, revision + 1)
        stream = await self._members.call("watch", lambda member, metadata: _open(member, metadata, request))
        try:
            answer = stream.first
            if answer.header.revision < revision or self._store != self._members.store:
                # Set back after we had looked, or a member that lags: to wait for a revision to come again would be to
                # miss all that comes before.
                return None
            while True:
                if answer is grpc.aio.EOF:
                    return self._members.lost(stream.member, "has ended a watch")
                if answer.canceled:
                    return self._cancelled(stream.member, answer)
                self._take_in(answer)
                with translated():
                    answer = await stream.call.read()
        except Problem as problem:
            self._members.lost(stream.member, problem.words)
        finally:
            stream.call.cancel()

    def _cancelled(self, member: Member, answer: Any) -> None:
        """The store has ended the watch: it doesn't keep what we ask for, or may not show it."""
        if answer.compact_revision:
            _log.info("etcd was compacted meanwhile: listing again", prefix=self._prefix, revision=self._revision)
        else:
            self._members.lost(member, f"refuses to be watched: {answer.cancel_reason}")
        # A list says in words what a watch can't: that a token is old, or what is denied.
        self._revision = None

    def _take_in(self, answer: Any) -> None:
        if not answer.events:
            return
        self._seen.now()
        self._tell(etcd_messages.changes_of(answer.events, self._known))
        if not answer.fragment:
            self._revision = answer.events[-1].kv.mod_revision

    def _tell(self, changes: dict[str, Entry | None], *, first: bool = False) -> None:
        remember(self._known, changes)
        self._waiting.update(changes)
        if not self._begun:
            # What was there for a moment, before anybody looked, was never there.
            self._waiting = {key: entry for key, entry in self._waiting.items() if entry is not None}
        if changes or (first and not self._begun):
            self._news.set()


class _Stream:
    """An open stream and its first answer, with the header that every answer has."""

    def __init__(self, member: Member, call: Any, first: Any) -> None:
        self.member, self.call, self.first = member, call, first

    @property
    def header(self) -> Any:
        return self.first.header


async def _open(member: Member, metadata: Metadata, request: Any) -> Any:
    call = member.watch.Watch(metadata=metadata)
    try:
        await call.write(request)
        first = await call.read()
        return _Stream(member, call, first) if first is not grpc.aio.EOF else first
    except BaseException:
        call.cancel()
        raise
