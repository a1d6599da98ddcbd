"""Assembly of what claims ranges of the cluster, for nodes that have such a pool.

The kvstore's client is loaded here and nowhere else in ipam: a node by itself doesn't pay for it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from services.common import lifecycle
from services.common.config import Settings
from services.common.controllers import Registry
from services.common.db import Database
from services.common.errors import InvalidArgument
from services.common.kvstore.keys import Keys
from services.common.metrics import Metrics
from services.common.wire import check_name
from services.ipam.claimkeeper import ClaimKeeper
from services.ipam.claimoperations import ClaimOperations
from services.ipam.claimstore import ClaimStore
from services.ipam.clusterpool import ClusterPools
from services.ipam.ledger import Ledger
from services.ipam.model import Clock
from services.ipam.ranges import Pool


@dataclass(frozen=True, slots=True)
class Claiming:
    """The parts that the service starts and serves."""

    kvstore: lifecycle.Component
    pools: ClusterPools
    operations: ClaimOperations


def assemble(
    settings: Settings,
    pools: Sequence[Pool],
    ledger: Ledger,
    database: Database,
    *,
    clock: Clock,
    controllers: Registry,
    metrics: Metrics,
    changed: Callable[[], None],
) -> Claiming:
    """Wire everything; nothing is started. `changed` is told of ranges that come or go.

    Raises InvalidArgument for settings that can't work.
    """
    _check(settings, pools)
    from services.common.kvstore.etcd import EtcdKvstore
    from services.common.kvstore.metrics import KvstoreMetrics

    name, keys = settings.node.name, Keys(settings.kvstore.root)
    counts = KvstoreMetrics(metrics.registry)
    kvstore = EtcdKvstore(settings.kvstore, settings.cluster.name, controllers, counts.request)
    counts.watch(kvstore.figures)
    keeper = ClaimKeeper(pools, ledger, ClaimStore(database), kvstore, keys=keys, clock=clock)
    interval = settings.ipam.claim_check_seconds
    claiming = ClusterPools(
        pools, keeper, ledger, clock=clock, registry=controllers, node=name, interval=interval, changed=changed
    )
    return Claiming(kvstore, claiming, ClaimOperations(pools, keeper, ledger, kvstore, keys))


def _check(settings: Settings, pools: Sequence[Pool]) -> None:
    if not settings.kvstore.endpoints:
        pool = next(pool.name for pool in pools if pool.cluster)
        raise InvalidArgument(
            f"[[ipam.pools]] {pool!r} cluster_ranges: nodes share them in the kvstore, and [kvstore] endpoints is not "
            "set; set it, or give the pool `ranges` of this node's own",
            pool=pool,
        )
    # Written so that TOML's nan fails too.
    if not settings.ipam.claim_check_seconds > 0:
        raise InvalidArgument(f"[ipam] claim_check_seconds: {settings.ipam.claim_check_seconds} is not more than 0")
    check_name(settings.node.name, "[node] name")
