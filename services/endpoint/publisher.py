"""Publishing endpoints: the record of each goes into the kvstore, as a CiliumEndpoint goes into Kubernetes.

    <root>/state/endpoints/v1/<node>/<id>   {"id": …, "node": …, "pod": …, "identity": …, "addresses": …, …}

One controller per endpoint, `sync-to-kvstore`, puts the record and goes on putting it: when it has changed, and every
few minutes, because a store can lose what it was given. A pod waits for none of it. When the endpoint goes, the
controller's stop function takes the record away; where that fails, or the process was killed first, `prune` does it at
the next start.

In a cluster the record is leased, and the endpoint's addresses are published, too (`cluster/addresses.py`).

The record says what others may act on. A regeneration in between is nobody else's business, so the state is `ready`
from the first build to the deletion.
"""

import asyncio
import json
from collections.abc import Callable, Iterable
from typing import Protocol

from services.common import controllers, telemetry
from services.common.controller_parameters import Parameters
from services.common.errors import PodlaneError
from services.common.kvstore import Kvstore
from services.common.kvstore.keys import Keys, last
from services.endpoint.cluster.addresses import SYNC_IP, Addresses
from services.endpoint.managed import ManagedEndpoint
from services.endpoint.model import Endpoint, EndpointState, Publication

SYNC, PRUNE = "sync-to-kvstore", "prune-endpoints"
_ON_ITS_WAY_SECONDS = 2.0

_log = telemetry.logger("publisher")


class Registered(Protocol):
    """What is needed of `cluster/registration.py`."""

    async def require(self) -> None:
        """Return when this node may write. Raises FailedPrecondition, Unavailable."""


class Publisher:
    """Puts the records of one node's endpoints into a kvstore. `interval`: seconds between looks at what is there."""

    def __init__(self, kvstore: Kvstore, keys: Keys, node: str, interval: float) -> None:
        """Wire."""
        self._kvstore, self._keys = kvstore, keys
        self.registration: Registered | None = None
        self.published: Callable[[ManagedEndpoint], None] = lambda _managed: None
        """Told of each endpoint whose record is as it should be."""
        self._addresses: Addresses | None = None
        self._all: dict[int, ManagedEndpoint] = {}
        self._node = node
        self._interval = interval

    def join(self, registration: Registered, addresses: Addresses) -> None:
        """Publish as a cluster's node does: leased, when it is registered, and the endpoints' addresses, too."""
        self.registration, self._addresses = registration, addresses
        self._kvstore.on_lease_lost(self._again)

    def adopt(self, managed: ManagedEndpoint) -> None:
        """Take over an endpoint that an earlier process published: when it goes, its record goes, looked at or not."""
        self.begin(managed, delay=self._interval)

    def begin(self, managed: ManagedEndpoint, delay: float = 0.0) -> None:
        """Publish an endpoint from now on, or again, in `delay` seconds at the latest."""

        async def run() -> None:
            await self._update(managed)

        async def stop() -> None:
            if self._all.get(managed.endpoint.id) is managed:
                del self._all[managed.endpoint.id]
            await self._kvstore.delete(self._key(managed.endpoint.id))

        self._all[managed.endpoint.id] = managed
        # A chained one's addresses may be of a range that every node has: bridges with host-local, for example.
        if self._addresses is not None and not managed.endpoint.spec.link.chained:
            self._addresses.begin(managed, delay)
        if not managed.controllers.trigger(SYNC, delay):
            sync = Parameters(run=run, interval=self._interval, interval_jitter=0.1, stop=stop)
            managed.controllers.update(SYNC, sync, delay)

    async def problems(self, managed: ManagedEndpoint) -> list[str]:
        """Say what is wrong with what is published of an endpoint. Nothing while the kvstore doesn't answer: that is no
        matter of this endpoint. What has changed just now is on its way: it is put once more, and waited for.
        """
        loop = asyncio.get_running_loop()
        deadline, pause = loop.time() + _ON_ITS_WAY_SECONDS, 0.01
        while True:
            try:
                found = await self._unpublished(managed)
            except PodlaneError:
                return []
            if not found or loop.time() > deadline:
                return found
            for name in (SYNC, SYNC_IP):
                managed.controllers.trigger(name)
            await asyncio.sleep(pause)
            pause = min(2 * pause, 0.2)

    async def _unpublished(self, managed: ManagedEndpoint) -> list[str]:
        key = self._key(managed.endpoint.id)
        there = await self._kvstore.get(key)
        found = [] if there is not None else [f"its record is not published: {key} is missing"]
        if there is not None and there.value != record(managed.endpoint, self._node):
            found = [f"its record is not published: {key} says something else"]
        if self._addresses is not None and not managed.endpoint.spec.link.chained:
            found += self._addresses.problems(managed)
        return found

    def saw(self, key: str, value: str | None) -> None:
        """Take in what the kvstore has under a key of this node: what isn't as it should be is put again."""
        number = last(key)
        managed = self._all.get(int(number)) if number.isdecimal() else None
        if managed is not None and value != record(managed.endpoint, self._node):
            managed.controllers.trigger(SYNC)

    def prune_soon(self, own: controllers.Manager) -> None:
        """Have `prune` done once the kvstore answers: the controller `prune-endpoints`."""

        async def run() -> None:
            await self.prune(managed.endpoint for managed in self._all.values())

        own.update(PRUNE, Parameters(run=run))

    async def prune(self, endpoints: Iterable[Endpoint]) -> int:
        """Take away the records of this node that belong to none of `endpoints`; return how many those were."""
        known = {self._key(endpoint.id) for endpoint in endpoints}
        found = await self._kvstore.list(self._keys.endpoints_of(self._node))
        nobodys = [entry.key for entry in found if entry.key not in known]
        for key in nobodys:
            await self._kvstore.delete(key)
            _log.warning("removed a published record of an endpoint that is gone", key=key)
        return len(nobodys)

    def _again(self) -> None:
        for managed in self._all.values():
            managed.controllers.trigger(SYNC)

    async def _update(self, managed: ManagedEndpoint) -> None:
        if self.registration is not None:
            await self.registration.require()
        endpoint = managed.endpoint
        leased = self.registration is not None
        entry = await self._kvstore.put(self._key(endpoint.id), record(endpoint, self._node), leased=leased)
        managed.update(published=Publication(entry.key, entry.value, entry.revision, entry.written))
        self.published(managed)

    def _key(self, id_: int) -> str:
        return self._keys.endpoint(self._node, id_)


def record(endpoint: Endpoint, node: str) -> str:
    """Return what is published of an endpoint: JSON."""
    spec = endpoint.spec
    return json.dumps(
        {
            "id": endpoint.id,
            "generation": endpoint.generation,
            "node": node,
            "pod": {"namespace": spec.pod.namespace, "name": spec.pod.name, "uid": spec.pod.uid},
            "attachment": {
                "network": spec.attachment.network,
                "container_id": spec.attachment.container_id,
                "ifname": spec.attachment.ifname,
            },
            "identity": {"id": endpoint.identity, "labels": dict(endpoint.identity_labels)},
            "addresses": [str(address) for address in spec.ips],
            "state": "disconnecting" if endpoint.state is EndpointState.DISCONNECTING else "ready",
        },
        sort_keys=True,
    )
