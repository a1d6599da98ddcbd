"""Whose addresses this node's endpoints have: `ip/v1/<address>`, from which other nodes fill their ipcaches.

One controller per endpoint, `sync-ip-identity`, puts its addresses by one commit: when the endpoint is ready, when its
identity or its ports are other ones, when the node's own record is, and when the store has lost or changed them. A pod
waits for none of it; until then its address is the world's to other nodes.

Nothing is put that the store has already: what is there this node sees anyway, because it watches all addresses. An
address of this node that no endpoint has (a kill, a deletion that found the store away) is removed by the controller
`prune-addresses`.

Not published: an endpoint whose identity is provisional (`identities.py`), because no other node could know the number;
and not before its programs have it, because others drop what comes with another identity than they know.
"""

from collections.abc import Callable

from services.common import controllers, telemetry
from services.common.controller_parameters import Parameters
from services.common.errors import FailedPrecondition, Unavailable
from services.common.kvstore import Delete, Kvstore, Put, Unchanged
from services.common.kvstore.keys import Keys
from services.common.model import Address
from services.endpoint.cluster.records import IpRecord
from services.endpoint.cluster.registration import Registration
from services.endpoint.managed import ManagedEndpoint
from services.endpoint.model import Endpoint, EndpointState
from services.endpoint.policy.networkpolicy import NamedPort

_log = telemetry.logger("addresses")

SYNC_IP, PRUNE = "sync-ip-identity", "prune-addresses"
# An ADD's own commit is on its way when a record of it is seen.
_PRUNE_SECONDS = 5.0


class Addresses:
    """Publishes. `provisional` says why an identity isn't published, `ports` returns an endpoint's named ports, and
    `moving` whether its programs are still of an identity that it had before.
    """

    def __init__(
        self,
        kvstore: Kvstore,
        keys: Keys,
        node: str,
        *,
        registration: Registration,
        own: controllers.Manager,
        interval: float,
        provisional: Callable[[int], str],
        ports: Callable[[Endpoint], frozenset[NamedPort]],
        moving: Callable[[int], bool],
    ) -> None:
        """Wire. `interval` in seconds: from one look at what is there to the next."""
        self._moving = moving
        self._kvstore, self._keys, self._node = kvstore, keys, node
        self._registration, self._controllers = registration, own
        self._interval = interval
        self._provisional, self._ports = provisional, ports
        self._owners: dict[str, ManagedEndpoint] = {}
        self._there: dict[str, str] = {}
        """What the store has of this node, as the watch has said."""
        self._stale: dict[str, int] = {}

    def begin(self, managed: ManagedEndpoint, delay: float) -> None:
        """Publish an endpoint from now on, or again, in `delay` seconds at the latest."""

        async def run() -> None:
            await self._publish(managed)

        async def stop() -> None:
            await self._withdraw(managed)

        for key in self._keys_of(managed):
            self._owners[key] = managed
            self._stale.pop(key, None)
        if not managed.controllers.trigger(SYNC_IP, delay):
            sync = Parameters(run=run, interval=self._interval, interval_jitter=0.1, stop=stop)
            managed.controllers.update(SYNC_IP, sync, delay)

    def saw(self, key: str, value: str, revision: int, record: IpRecord | None) -> None:
        """Take in what the store has under a key; `record` None: nothing."""
        owner = self._owners.get(key)
        ours = record is not None and record.node == self._node
        if ours and value == self._there.get(key):
            return
        if ours:
            self._there[key] = value
        elif self._there.pop(key, None) is not None and owner is not None:
            owner.controllers.trigger(SYNC_IP)
        if ours and owner is None:
            self._stale[key] = revision
            self._controllers.update(PRUNE, Parameters(run=self._prune), delay=_PRUNE_SECONDS)

    def problems(self, managed: ManagedEndpoint) -> list[str]:
        """Say which of an endpoint's addresses the store doesn't have, as far as they are to be there."""
        if self._provisional(managed.endpoint.identity) or self._moving(managed.endpoint.id):
            return []
        return [f"{key} is not published" for key in self._keys_of(managed) if key not in self._there]

    def forget_all(self) -> None:
        """Put everything again: the lease was lost, or the node's record is another one."""
        self._there.clear()
        for managed in set(self._owners.values()):
            managed.controllers.trigger(SYNC_IP)

    async def _publish(self, managed: ManagedEndpoint) -> None:
        endpoint = managed.endpoint
        await self._registration.require()
        node = self._registration.record
        if node is None or endpoint.state in {EndpointState.DISCONNECTING, EndpointState.DISCONNECTED}:
            return
        if why := self._provisional(endpoint.identity):
            raise FailedPrecondition(f"its addresses are the world's to other nodes: {why}")
        if self._moving(endpoint.id):
            raise Unavailable("its programs don't have its identity yet")
        value = IpRecord(
            node=self._node,
            host=node.address,
            identity=endpoint.identity,
            endpoint=endpoint.id,
            pod=str(endpoint.spec.pod) if endpoint.spec.pod.name else "",
            ports=self._ports(endpoint),
        ).write()
        new = [Put(key, value, leased=True) for key in self._keys_of(managed) if self._there.get(key) != value]
        if new and not await self._kvstore.commit((), new):
            raise Unavailable("the kvstore refused a commit without conditions")

    async def _withdraw(self, managed: ManagedEndpoint) -> None:
        """Take an endpoint's addresses away, but those that another endpoint has got meanwhile."""
        gone = [key for key in self._keys_of(managed) if self._owners.get(key) is managed]
        for key in gone:
            del self._owners[key]
        if gone:
            await self._kvstore.commit((), [Delete(key) for key in gone])

    async def _prune(self) -> None:
        await self._registration.require()
        for key, revision in list(self._stale.items()):
            if key not in self._owners and await self._kvstore.commit((Unchanged(key, revision),), (Delete(key),)):
                _log.warning("removed an address that no endpoint has", key=key)
            self._stale.pop(key, None)

    def _keys_of(self, managed: ManagedEndpoint) -> list[str]:
        ips: tuple[Address, ...] = managed.endpoint.spec.ips
        return [self._keys.ip(address) for address in ips]
