"""The parts of a cluster's node, put together: what `main.py` adds when a kvstore is configured."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from services.common import controllers
from services.common.client import Peer
from services.common.config import Settings
from services.common.controller_parameters import Parameters
from services.common.kvstore import Kvstore
from services.common.kvstore.keys import Keys
from services.common.lifecycle import Component, Hook
from services.endpoint import settingscheck
from services.endpoint.cluster.addresses import Addresses
from services.endpoint.cluster.documents import ClusterDocuments
from services.endpoint.cluster.follow import Follower
from services.endpoint.cluster.identities import ClusterIdentities
from services.endpoint.cluster.identitygc import COLLECT, IdentityCollector
from services.endpoint.cluster.ipcache import Ipcache
from services.endpoint.cluster.loader import LoaderCluster
from services.endpoint.cluster.records import NodeRecord
from services.endpoint.cluster.registration import Registration
from services.endpoint.observed import NodeConfig, Routing
from services.endpoint.policies import Policies

_PATIENCE = 2.0


@dataclass(frozen=True, slots=True)
class Late:
    """What is made later than these, or read: policies, and what tells this machine from another one of its name."""

    policies: Callable[[], Policies]
    own_record: Callable[[str, str | None], None]
    instance: Callable[[], Awaitable[str]]


class Cluster:
    """What a node has beyond itself. `own`: the manager of the controllers of all this."""

    def __init__(
        self, settings: Settings, kvstore: Kvstore, loader: Peer, own: controllers.Manager, late: Late
    ) -> None:
        """Wire. Raises InvalidArgument for settings that can't work."""
        node, interval = settings.node.name, settings.endpoint.publish_interval_seconds
        self.kvstore, self.keys, self.controllers = kvstore, Keys(settings.kvstore.root), own
        self.routing = settingscheck.routing(settings.cluster.routing)
        self._loader = LoaderCluster(loader)
        self._interval = settings.endpoint.identity_gc_interval_seconds
        self._late, self._instance = late, ""
        self.registration = Registration(
            kvstore, self.keys, node, own=own, instance=lambda: self._instance, interval=interval, patience=_PATIENCE
        )
        self.identities = ClusterIdentities(
            kvstore,
            self.keys,
            node,
            registration=self.registration,
            own=own,
            grace=settings.endpoint.identity_grace_seconds,
            interval=interval,
        )
        self.addresses = Addresses(
            kvstore,
            self.keys,
            node,
            registration=self.registration,
            own=own,
            interval=interval,
            provisional=self.identities.provisional,
            moving=lambda id_: id_ in late.policies().changes.moving,
            ports=lambda endpoint: late.policies().who(endpoint).named_ports,
        )
        self.follower = Follower(
            kvstore,
            self.keys,
            node,
            loader=self._loader,
            registration=self.registration,
            addresses=self.addresses,
            ipcache=Ipcache(node, overlay=self.routing is Routing.OVERLAY),
            own=own,
            own_record=late.own_record,
            peers=lambda records: late.policies().put_peers(records),
        )
        self._collector = IdentityCollector(kvstore, self.keys, self.identities.book, self.registration)
        self._node = node

    @property
    def components(self) -> Sequence[Component]:
        """What starts after the policies were read."""
        return (Hook(self._begin), self.identities, self.registration, self.follower)

    def documents(self, policies: Policies) -> ClusterDocuments:
        """Return what has the cluster's documents; a component that starts after the others."""
        return ClusterDocuments(self.kvstore, self.keys, policies, self.controllers)

    async def _begin(self) -> None:
        self._instance = await self._late.instance()
        self.kvstore.on_lease_lost(self.addresses.forget_all)
        collect = Parameters(run=self._collector.run, interval=self._interval, interval_jitter=0.1)
        self.controllers.update(COLLECT, collect, delay=self._interval)

    async def configured(self, config: NodeConfig) -> None:
        """Tell the other nodes what this one is like, and the loader of them: the node has been configured.

        Raises FailedPrecondition, Unavailable.
        """
        underlay = await self._loader.underlay()
        before = self.registration.record
        record = NodeRecord(
            name=self._node,
            instance=self._instance,
            address=underlay.address,
            addresses=underlay.addresses,
            gateways=config.gateways,
            pod_cidrs=config.pod_cidrs,
            routing=self.routing.name.lower(),
        )
        self.follower.ipcache.family = underlay.address.version
        self.registration.describe(record)
        self.follower.resync()
        if before is not None and before.address != record.address:
            self.addresses.forget_all()
