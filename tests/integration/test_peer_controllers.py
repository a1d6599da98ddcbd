"""Controllers of other services, as events: over a real socket, from a registry whose controllers fail and recover."""

from pathlib import Path

from podlane.endpoint.v1 import monitor_pb2 as pb

from services.common import controller_service, edge
from services.common.client import Peer
from services.common.controller_parameters import Parameters
from services.common.controllers import Manager, Registry
from services.common.errors import Unavailable
from services.endpoint.monitor.peercontrollers import Failing, PeerControllers, told

ONE, TWO = ("ipam", "one"), ("ipam", "two")


def test_what_is_new_is_told_once():
    failing, longer = Failing(1, "why"), Failing(7, "why")

    assert told({}, {ONE: failing, TWO: failing}) == [(ONE, True, failing), (TWO, True, failing)]
    assert told({ONE: failing}, {ONE: longer}) == []
    assert told({ONE: longer}, {TWO: failing}) == [(TWO, True, failing), (ONE, False, longer)]


async def test_a_peers_controller_is_told_of_when_it_begins_to_fail_and_when_it_works_again(tmp_path: Path):
    registry, events = Registry(), list[pb.WatchEventsResponse]()
    server = edge.Server(
        tmp_path / "s.sock",
        (controller_service.NAME,),
        lambda grpc_server: controller_service.register(registry, grpc_server),
        quiet=controller_service.QUIET,
    )
    works = False

    async def work() -> None:
        if not works:
            raise Unavailable("the disk is full")

    peer, absent = Peer("ipam", tmp_path / "s.sock", 5.0), Peer("loader", tmp_path / "nobody.sock", 5.0)
    watching = PeerControllers({"ipam": peer, "loader": absent}, events.append, Manager("node", Registry()))
    controllers = Manager("ipam", registry)
    await server.start()
    await peer.start()
    await absent.start()
    try:
        await watching.look()
        assert events == []

        controllers.update("expire", Parameters(work, retry_base=0.01, retry_cap=0.01))
        while not events:
            await watching.look()
        await watching.look()
        assert [one.summary for one in events] == ["controller ipam/expire fails: the disk is full"]
        assert (events[0].kind, events[0].controller.failing) == (pb.EVENT_KIND_CONTROLLER, True)

        works = True
        while len(events) < 2:
            await watching.look()
        assert events[1].summary.startswith("controller ipam/expire works again after ")
        assert (events[1].controller.failing, events[1].controller.failures > 0) == (False, True)
    finally:
        await peer.stop()
        await absent.stop()
        await server.stop()
        await registry.stop()
