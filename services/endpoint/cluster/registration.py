"""This node's own key, `nodes/v1/<name>`: what other nodes must know to reach its pods. The controller `register-node`.

    nobody has the name ─▶ put, leased ─▶ registered ─▶ looked at again every interval, or when something has changed
    another instance has it ─▶ refused, and tried again: nothing else of this node is published while that is so

A machine is told from another one of its name by its *instance*, a random number in the endpoint service's database. A
machine that lost its database is another one: it waits until the old lease has ended, or somebody deletes the key.

The lease is the heartbeat: while the kvstore hears of us, the key is there, and with it all else that we have put.
"""

import asyncio
import contextlib
from collections.abc import Callable

from services.common import controllers, telemetry
from services.common.controller_parameters import Parameters
from services.common.errors import FailedPrecondition, InvalidArgument, PodlaneError, Unavailable
from services.common.kvstore import Absent, Kvstore, Put
from services.common.kvstore.keys import Keys
from services.endpoint.cluster.records import NodeRecord, read_node

_log = telemetry.logger("registration")

REGISTER = "register-node"


class Registration:
    """A component: `start` begins. `instance` returns this machine's; `patience`: how long `require` waits, seconds."""

    def __init__(
        self,
        kvstore: Kvstore,
        keys: Keys,
        node: str,
        *,
        own: controllers.Manager,
        instance: Callable[[], str],
        interval: float,
        patience: float,
    ) -> None:
        """Wire."""
        self._kvstore, self._keys, self._node = kvstore, keys, node
        self._controllers = own
        self._instance = instance
        self._interval, self._patience = interval, patience
        self._record: NodeRecord | None = None
        self._registered = asyncio.Event()
        self._why: PodlaneError = Unavailable("this node isn't registered yet: it waits for its pod ranges")
        self._others: set[str] = set()

    async def start(self) -> None:
        """Begin; there is nothing to do before `describe`."""
        self._kvstore.on_lease_lost(self._again)

    async def stop(self) -> None:
        """Nothing to do: controllers are ended by their registry."""

    @property
    def record(self) -> NodeRecord | None:
        """What this node says of itself; None: it isn't configured yet."""
        return self._record

    @property
    def error(self) -> str:
        """Why this node isn't registered; empty: it is."""
        return "" if self._registered.is_set() else self._why.message

    @property
    def first(self) -> bool:
        """Whether no registered node has a name before this one's."""
        return self._registered.is_set() and all(self._node < other for other in self._others)

    def describe(self, record: NodeRecord) -> None:
        """Say what this node is like now; `instance` and `name` are filled in here."""
        if record == self._record:
            return
        self._record = record
        register = Parameters(run=self._register, interval=self._interval, interval_jitter=0.1)
        self._controllers.update(REGISTER, register)

    def saw(self, name: str, record: NodeRecord | None) -> None:
        """Take in that a node is there, or not any more."""
        if name != self._node:
            self._others.add(name) if record is not None else self._others.discard(name)
        elif record is None or record != self._record:
            # Ours was removed or changed by somebody else's hand, or by the end of an earlier lease.
            self._controllers.trigger(REGISTER)

    async def require(self) -> None:
        """Return when this node is registered. Raises FailedPrecondition or Unavailable that says why it isn't."""
        if self._registered.is_set():
            return
        if isinstance(self._why, Unavailable):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._registered.wait(), self._patience)
        if not self._registered.is_set():
            raise type(self._why)(self._why.message)

    def _again(self) -> None:
        self._controllers.trigger(REGISTER)

    async def _register(self) -> None:
        try:
            await self._put()
        except PodlaneError as error:
            self._why = error
            if isinstance(error, FailedPrecondition):
                self._registered.clear()
            raise
        if not self._registered.is_set():
            _log.info("registered", node=self._node, record=self._record.write() if self._record else "")
        self._registered.set()

    async def _put(self) -> None:
        record = self._record
        if record is None:
            raise Unavailable("this node isn't registered yet: it isn't configured (see controller configure-node)")
        key, value = self._keys.node(self._node), record.write()
        if await self._kvstore.commit((Absent(key),), (Put(key, value, leased=True),)):
            return
        there = await self._kvstore.get(key)
        if there is not None:
            try:
                other = read_node(key, there.value)
            except InvalidArgument as error:
                _log.warning("replaced", error=error.message)
            else:
                self._refuse_another(other)
        await self._kvstore.put(key, value, leased=True)

    def _refuse_another(self, other: NodeRecord) -> None:
        if other.instance != self._instance():
            raise FailedPrecondition(
                f"another node is named {self._node!r} in this cluster (at {other.address}, instance {other.instance}; "
                f"this one is {self._instance()}): give this one another name ([node] name), or, if that machine is "
                f"gone or is this one before it lost its database, wait for its lease to end or delete "
                f"{self._keys.node(self._node)}; nothing of this node is published until then",
                node=self._node,
            )
