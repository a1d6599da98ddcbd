"""Requests to etcd, whichever of its members answers.

    turn (limits) ─▶ member ─▶ connected ─▶ verified (cluster id, <root>/cluster) ─▶ sent ─▶ answered
                       ▲                                                               │
                       └──────── the next one, until `timeout_seconds` are over ◄──────┘

One member is asked until it fails: refuses, is silent for its share of the time, or has no leader, as one has that is
cut off from the others. Then the next one is, and the one that failed is left alone for up to a second. What may have
been carried out is repeated only if that does no harm (`repeatable`).

**Verified**: before the first request on a connection the member shows, in an answer that needs the quorum, of which
etcd cluster it is and what `<root>/cluster` says. So nothing is written into a store that isn't ours, and a member that
belongs to another store than the others is left out. A store that was rebuilt shows at endpoints that were members of
the one before, when none of them speaks for that any more; it takes its place (`store` counts them).

Once nobody has answered for longer than a request's time, requests fail sooner: who waits has others waiting behind it.
What is known of the store's health is logged when it changes, never per request.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import grpc
from aetcd import rpc

from services.common import telemetry
from services.common.config import KvstoreSettings
from services.common.errors import FailedPrecondition, InvalidArgument, PodlaneError, Unavailable
from services.common.kvstore import ownership
from services.common.kvstore.answer import Problem, Verdict
from services.common.kvstore.etcd_channel import Member, translated
from services.common.kvstore.etcd_login import Login, Metadata
from services.common.kvstore.health import Health
from services.common.kvstore.keys import Keys
from services.common.kvstore.limits import Limits

Send = Callable[[Member, Metadata], Awaitable[Any]]
"""Sends one request to a member and returns the answer, which has etcd's header."""
Observe = Callable[[str, str, float], None]
"""Told of each request: verb, outcome (ok, unavailable, refused or invalid), seconds from its turn to its end."""

_STILL = "pods and known identities go on; nothing is published and no new identity is given until it is mended"
_BRIEF = 1.5
"""Seconds for a request once the store has been silent for long: as long as it takes to see that it is back."""
_LEAST = 0.05
"""Seconds that an attempt needs to say anything."""
_OUTCOMES = {Unavailable: "unavailable", FailedPrecondition: "refused", InvalidArgument: "invalid"}
_log = telemetry.logger("kvstore")


class Gone(Exception):
    """The lease, or the revision, that the request was about isn't there any more."""


class LeaseGone(Gone):
    """The lease."""


class Compacted(Gone):
    """The revision."""


class Members:
    """The members that the settings name, as one."""

    def __init__(self, settings: KvstoreSettings, cluster: str, observe: Observe = lambda *_: None) -> None:
        """Belong to the cluster of that name."""
        self._members = [Member(endpoint, settings) for endpoint in settings.endpoints]
        # Nodes spread over the members.
        self._random = random.Random()  # noqa: S311 - spreads load, guards nothing
        self._random.shuffle(self._members)
        self._timeout = settings.timeout_seconds
        self._limits = Limits(settings.requests_per_second, settings.requests_in_flight)
        self._login = Login(settings)
        self._record = Keys(settings.root).cluster
        self._cluster = cluster
        self._observe = observe
        self.health = Health()
        self.on_verified: Callable[[], object] = lambda: None
        """Called when a member is asked on a new connection: who knows what the store has forgotten meanwhile?"""
        self.on_set_back: Callable[[], object] = lambda: None
        """Called when the store is seen to be older than it was, or another one."""
        self.store = 0
        """Counts the stores that were seen: it grows when another etcd cluster takes the place of the one before."""
        self._store_id: int | None = None
        self._closed = False

    def __iter__(self) -> Iterator[Member]:
        """Each of them."""
        return iter(self._members)

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn or an answer."""
        return self._limits.waiting

    async def close(self) -> None:
        """End all connections, for good: a watch whose reader is late must not open them again."""
        self._closed = True
        for member in self._members:
            await member.close()

    async def call(self, verb: str, send: Send, *, repeatable: bool = True) -> Any:
        """Have a request answered. Raises Unavailable, FailedPrecondition, InvalidArgument, LeaseGone or Compacted."""
        async with self._limits:
            begun, outcome = time.monotonic(), "ok"
            try:
                answer = await self._call(send, repeatable=repeatable)
            except PodlaneError as error:
                outcome = _OUTCOMES[type(error)]
                raise
            except asyncio.CancelledError:
                outcome = ""
                raise
            finally:
                if outcome:
                    self._observe(verb, outcome, time.monotonic() - begun)
            return answer

    def lost(self, member: Member, words: str) -> None:
        """A stream at this member has ended: others are asked first."""
        member.failed(words, self._random.random())
        self._leave(member)

    async def _call(self, send: Send, *, repeatable: bool) -> Any:
        loop = asyncio.get_running_loop()
        brief = self.health.silent_for() > self._timeout
        deadline = loop.time() + (min(_BRIEF, self._timeout) if brief else self._timeout)
        while True:
            if self._closed:
                raise Unavailable("the client of etcd was stopped")
            member = min(self._members, key=lambda one: max(one.retry_at, loop.time()))
            pause = max(0.0, member.retry_at - loop.time())
            if pause and loop.time() + pause + _LEAST >= deadline:
                raise self._give_up()
            await asyncio.sleep(pause)
            try:
                answer = await self._attempt(member, send, min(deadline - loop.time(), self._share))
            except Problem as problem:
                await self._note(member, problem)
                if problem.verdict is Verdict.LOST and not repeatable:
                    raise self._give_up() from None
                if loop.time() >= deadline or all(one.refusing for one in self._members):
                    raise self._give_up() from None
            else:
                self._answered(member)
                return answer

    @property
    def _share(self) -> float:
        return self._timeout / len(self._members)

    async def _attempt(self, member: Member, send: Send, seconds: float) -> Any:
        sent = False
        try:
            async with asyncio.timeout(max(seconds, 0.001)):
                if not member.ready:
                    async with member.connecting:
                        if not member.ready:
                            await member.connect()
                            await self._verify(member)
                sent = True
                return await self._send(member, send)
        except TimeoutError:
            raise Problem(Verdict.LOST if sent else Verdict.UNREACHED, "doesn't answer") from None
        except Problem as problem:
            if sent or problem.verdict is not Verdict.LOST:
                raise
            # What got lost was a question of ours, not the request.
            raise Problem(Verdict.UNREACHED, problem.words) from None

    async def _send(self, member: Member, send: Send) -> Any:
        for last in (False, True):
            metadata = await self._login.metadata(member)
            try:
                with translated():
                    answer = await send(member, metadata)
            except Problem as problem:
                if problem.verdict is not Verdict.TOKEN:
                    raise
                if last or not self._login.refused(metadata):
                    raise Problem(Verdict.STORE_REFUSES, problem.words) from None
            else:
                if answer is grpc.aio.EOF:
                    raise Problem(Verdict.LOST, "has ended the request without an answer")
                self._compare(member, answer.header.cluster_id)
                return answer
        raise AssertionError  # the second round returns or raises

    def _compare(self, member: Member, store_id: int) -> None:
        """Raise Problem when a member has become one of another store since it was verified."""
        if member.verified and store_id != self._store_id:
            raise Problem(Verdict.LOST, "belongs to another etcd cluster than before")

    async def _verify(self, member: Member) -> None:
        member.verified = False
        key = self._record.encode()
        look = rpc.RangeRequest(key=key)
        answer = await self._send(member, lambda one, metadata: one.kv.Range(look, metadata=metadata))
        store_id = answer.header.cluster_id
        if not self._may_take_over(member, store_id):
            words = (
                f"belongs to etcd cluster {store_id:x}, and the store here is {self._store_id:x}: [kvstore] endpoints "
                "must be members of one; restart this service if etcd was rebuilt"
            )
            raise Problem(Verdict.MEMBER_REFUSES, words)
        if not answer.kvs:
            await self._send(member, self._claim)
            answer = await self._send(member, lambda one, metadata: one.kv.Range(look, metadata=metadata))
        found = answer.kvs[0].value.decode(errors="replace") if answer.kvs else ""
        if objection := ownership.objection(self._record, self._cluster, found):
            raise Problem(Verdict.STORE_REFUSES, objection)
        if store_id != self._store_id:
            self._store_id = store_id
            self.store += 1
        member.store_id, member.verified = store_id, True
        self.on_verified()

    def _may_take_over(self, member: Member, store_id: int) -> bool:
        """Whether a store is the one that we use, or has taken its place: at an endpoint that was one of it, and no
        other member speaks for the old one.
        """
        if self._store_id in {None, store_id}:
            return True
        return member.store_id == self._store_id and not any(one.ready for one in self._members if one is not member)

    async def _claim(self, member: Member, metadata: Metadata) -> Any:
        key = self._record.encode()
        nobodys = rpc.Compare(key=key, target=rpc.Compare.CREATE, result=rpc.Compare.EQUAL, create_revision=0)
        put = rpc.PutRequest(key=key, value=ownership.claim(self._cluster).encode())
        request = rpc.TxnRequest(compare=[nobodys], success=[rpc.RequestOp(request_put=put)])
        return await member.kv.Txn(request, metadata=metadata)

    async def _note(self, member: Member, problem: Problem) -> None:
        """Keep what a problem says of its member, or raise what it means to whoever asked."""
        match problem.verdict:
            case Verdict.LEASE_GONE:
                self._answered(member)
                raise LeaseGone from None
            case Verdict.COMPACTED:
                self._answered(member)
                raise Compacted from None
            case Verdict.INVALID:
                self._answered(member)
                raise InvalidArgument(f"etcd at {member.endpoint} {problem.words}") from None
            case Verdict.STORE_REFUSES:
                member.verified = False
                raise self._refused(f"{member.endpoint}: {problem.words}") from None
            case Verdict.TLS:
                await member.close()
        refusing = problem.verdict in {Verdict.TLS, Verdict.MEMBER_REFUSES}
        member.failed(problem.words, self._random.random(), refusing=refusing)
        self.health.failing()
        self._leave(member)

    def _leave(self, member: Member) -> None:
        """Ask the others first from now on."""
        self._members.remove(member)
        self._members.append(member)

    def _answered(self, member: Member) -> None:
        member.answered()
        silent = self.health.answered()
        if silent is not None:
            _log.info("etcd answers again", endpoint=member.endpoint, after_seconds=round(silent, 1))

    def _give_up(self) -> PodlaneError:
        each = "; ".join(f"{member.endpoint} {member.error}" for member in self._members if member.error)
        if all(member.refusing for member in self._members):
            return self._refused(each)
        silent = self.health.silent_for()
        message = (
            f"etcd has not answered for {silent:.0f} s: {each}" if silent >= 1 else f"etcd does not answer: {each}"
        )
        if self.health.unanswered(message):
            _log.warning("etcd does not answer", problem=each, still=_STILL)
        return Unavailable(message)

    def _refused(self, words: str) -> FailedPrecondition:
        message = f"etcd can't be used: {words}"
        if self.health.refused(message):
            _log.error("etcd can't be used", problem=words, still=_STILL)
        return FailedPrecondition(message)
