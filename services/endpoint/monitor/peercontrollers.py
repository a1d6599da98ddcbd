"""Controllers of ipam and the loader as events: which of them fail is asked every two seconds.

    failing ──asked──▶ one that didn't fail the last time begins to; one that did and isn't among them works again

Nobody tells of them by itself, and a stream for something that hardly ever happens would be one more thing to keep up.
What is lost: a controller that fails and works again between two looks. A service that is away is asked again when it
is back; that it is away is other controllers' to say. One that starts anew has forgotten its failures, which reads as
that they work again: they are tried at once, and told of when they still fail.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from podlane.common.v1 import controllers_pb2, controllers_pb2_grpc

from services.common import controllers, wire
from services.common.client import Peer
from services.common.controller_parameters import Parameters
from services.common.errors import PodlaneError
from services.endpoint.monitor import changes
from services.endpoint.monitor.changes import Tell

LOOK = "watch-controllers"
SECONDS = 2.0
_PATIENCE = 5.0


@dataclass(frozen=True, slots=True)
class Failing:
    """How a controller fails: how often in a row, and why."""

    failures: int
    error: str


Key = tuple[str, str]
"""A controller's resource and name."""


def told(before: Mapping[Key, Failing], now: Mapping[Key, Failing]) -> list[tuple[Key, bool, Failing]]:
    """Return which controllers begin to fail (True) and which don't any more, in the order of their names. Pure."""
    begun = [(key, True, now[key]) for key in sorted(now.keys() - before.keys())]
    return begun + [(key, False, before[key]) for key in sorted(before.keys() - now.keys())]


class PeerControllers:
    """A component: `start` begins to look."""

    def __init__(self, peers: Mapping[str, Peer], tell: Tell, own: controllers.Manager) -> None:
        """Wire; `tell` takes the events."""
        self._peers = peers
        self._tell = tell
        self._own = own
        self._failing: dict[str, dict[Key, Failing]] = {name: {} for name in peers}

    async def start(self) -> None:
        """Look from now on."""
        self._own.update(LOOK, Parameters(self.look, interval=SECONDS))

    async def stop(self) -> None:
        """Nothing: the controller goes with the others."""

    async def look(self) -> None:
        """Ask everybody who is there."""
        await asyncio.gather(*(self._ask(name, peer) for name, peer in self._peers.items() if not peer.away))

    async def _ask(self, name: str, peer: Peer) -> None:
        stub = controllers_pb2_grpc.ControllerServiceStub(peer.channel)
        request = controllers_pb2.ListControllersRequest(failing=True)
        try:
            reply = await peer.call(stub.ListControllers, request, timeout=_PATIENCE)
        except PodlaneError:
            return  # it has gone away just now
        now = {
            (one.resource, one.name): Failing(one.status.consecutive_failure_count, one.status.last_error)
            for one in reply.controllers
            if one.status.consecutive_failure_count
        }
        before, self._failing[name] = self._failing[name], now
        for (resource, controller), failing, how in told(before, now):
            event = changes.of_controller(
                resource, controller, wire.now(), error=how.error if failing else None, failures=how.failures
            )
            self._tell(event)
