"""Assembly of ipam: database, allocator, server, in the order in which they start."""

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
from services.ipam.ledger import Ledger
from services.ipam.metrics import Pools
from services.ipam.model import Clock
from services.ipam.ranges import plan
from services.ipam.servicer import IpamServicer
from services.ipam.store import MIGRATIONS, Store

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
    ledger = Ledger(plan(ipam.pools), ipam.cooldown_seconds, ipam.reservation_seconds, clock)
    allocator = Allocator(ledger, Store(database), clock, controllers)
    metrics.watch(controllers)
    metrics.registry.register(Pools(allocator))

    def register(server: grpc.aio.Server) -> None:
        ipam_pb2_grpc.add_IpamServiceServicer_to_server(IpamServicer(allocator), server)
        controller_service.register(controllers, server)

    server = Server(
        ipam.socket,
        (NAME, controller_service.NAME),
        register,
        quiet=controller_service.QUIET | {"ListAllocations", "ListPools"},
        observe=metrics.rpc,
    )
    exporter = Exporter("[ipam] metrics_listen", ipam.metrics_listen, metrics.page)
    # The server is the last to come and the first to go: whoever is answered finds everything restored.
    ready = lifecycle.Hook(lambda: server.serving(ready=True))
    return (database, controllers, allocator, exporter, server, ready)


def _check_seconds(ipam: IpamSettings) -> None:
    # Written so that TOML's nan and inf fail too.
    if not 0 <= ipam.cooldown_seconds <= _LONGEST:
        raise InvalidArgument(f"[ipam] cooldown_seconds: {ipam.cooldown_seconds} is not between 0 and {_LONGEST}")
    if not 0 < ipam.reservation_seconds <= _LONGEST:
        raise InvalidArgument(f"[ipam] reservation_seconds: {ipam.reservation_seconds} is not in (0, {_LONGEST}]")


def main() -> int:
    """Run the service; return its exit code."""
    return lifecycle.main("ipam", build)
