"""Assembly of ipam: database, claims, allocator, server, in the order in which they start.

The kvstore's client is loaded only where a pool is a cluster's: a node by itself doesn't pay for it.
"""

from collections.abc import Sequence

import grpc
from podlane.ipam.v1 import ipam_pb2, ipam_pb2_grpc

from services.common import controller_service, lifecycle
from services.common.config import IpamSettings, Settings
from services.common.controllers import Registry
from services.common.db import Database
from services.common.edge import Server
from services.common.errors import InvalidArgument
from services.common.exporter import Exporter
from services.common.metrics import Metrics
from services.ipam.allocator import Allocator
from services.ipam.claiming import assemble
from services.ipam.ledger import Ledger
from services.ipam.metrics import Pools
from services.ipam.model import Clock
from services.ipam.poolplan import plan
from services.ipam.servicer import IpamServicer
from services.ipam.store import MIGRATIONS, Store
from services.ipam.supply import Changes

# A year: beyond it a typo is likelier than a wish.
_LONGEST = 366 * 86400
NAME = ipam_pb2.DESCRIPTOR.services_by_name["IpamService"].full_name


def build(settings: Settings, clock: Clock | None = None) -> Sequence[lifecycle.Component]:
    """Construct and wire everything; nothing is started. Raises InvalidArgument for settings that can't work."""
    ipam = settings.ipam
    clock = clock or Clock()
    _check_seconds(ipam)
    metrics = Metrics()
    controllers = Registry(metrics.ran)
    database = Database(ipam.database, MIGRATIONS)
    pools = plan(ipam.pools)
    ledger = Ledger(pools, ipam.cooldown_seconds, ipam.reservation_seconds, clock)
    changes = Changes()
    claiming = None
    if any(pool.cluster for pool in pools):
        claiming = assemble(
            settings,
            pools,
            ledger,
            database,
            clock=clock,
            controllers=controllers,
            metrics=metrics,
            changed=changes.announce,
        )
    allocator = Allocator(ledger, Store(database), clock, controllers, claiming.pools if claiming else None)
    metrics.watch(controllers)
    metrics.registry.register(Pools(allocator, claiming.pools if claiming else None))
    operations = claiming.operations if claiming else None

    def register(server: grpc.aio.Server) -> None:
        ipam_pb2_grpc.add_IpamServiceServicer_to_server(IpamServicer(allocator, changes, operations), server)
        controller_service.register(controllers, server)

    server = Server(
        ipam.socket,
        (NAME, controller_service.NAME),
        register,
        quiet=controller_service.QUIET | {"ListAllocations", "ListClaims", "ListPools", "WatchPools"},
        observe=metrics.rpc,
    )
    exporter = Exporter("[ipam] metrics_listen", ipam.metrics_listen, metrics.page)
    # Claims are in force before the allocations that are theirs are read, and claimed or given back only after that.
    claims: Sequence[lifecycle.Component] = (claiming.kvstore, claiming.pools) if claiming else ()
    begin = (lifecycle.Hook(claiming.pools.begin, claiming.pools.halt),) if claiming else ()
    # The server is the last to come and the first to go: whoever is answered finds everything restored. Streams of
    # pools have no end of their own: the server would wait for them.
    ready = lifecycle.Hook(lambda: server.serving(ready=True), changes.stop)
    return (database, controllers, *claims, allocator, *begin, exporter, server, ready)


def _check_seconds(ipam: IpamSettings) -> None:
    # Written so that TOML's nan and inf fail too.
    if not 0 <= ipam.cooldown_seconds <= _LONGEST:
        raise InvalidArgument(f"[ipam] cooldown_seconds: {ipam.cooldown_seconds} is not between 0 and {_LONGEST}")
    if not 0 < ipam.reservation_seconds <= _LONGEST:
        raise InvalidArgument(f"[ipam] reservation_seconds: {ipam.reservation_seconds} is not in (0, {_LONGEST}]")


def main() -> int:
    """Run the service; return its exit code."""
    return lifecycle.main("ipam", build)
