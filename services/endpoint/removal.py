"""How an endpoint is taken down and forgotten: at once, or in the background until it succeeds.

    at_once    whoever holds its attachment, for a DEL or for another endpoint in its place; raises what went wrong
    take_down  the same, said in its log: for who comes late with a deletion, or in the background
    dispose    nobody waits: the controller `removal` tries again until it is gone
    lost_link  its link is gone: a creation that waits for its turn is given up, anything else is disposed of

One that could not be taken down stays, `disconnecting`, and says what it waits for. `forget` is the end of all of them:
the endpoint leaves the registry, its id is free, and watchers are told.

Not here: the steps (`flow.py`), and who may touch an attachment meanwhile (`manager.py`).
"""

from collections.abc import Callable

from services.common import telemetry
from services.common.controller_parameters import Parameters
from services.common.errors import NotFound, PodlaneError
from services.common.lifecycle import Background
from services.common.locks import KeyedLocks
from services.endpoint import flow
from services.endpoint.flow import Addresses
from services.endpoint.ids import Ids
from services.endpoint.managed import ManagedEndpoint
from services.endpoint.model import EndpointState, LogCode, LogType
from services.endpoint.parts import Parts
from services.endpoint.regeneration import RECOVERY
from services.endpoint.watch import Change

_log = telemetry.logger("removal")

REMOVAL = "removal"
_RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 0.5, 30.0


class Remover:
    """Takes endpoints down. `ids` returns the ids of the node, which are read when the service starts."""

    def __init__(self, parts: Parts, locks: KeyedLocks, background: Background, ids: Callable[[], Ids]) -> None:
        """Wire. `locks` are those of attachments, `background` is where work goes that nobody waits for."""
        self._store, self._loader, self._ipam = parts.store, parts.loader, parts.ipam
        self._registry, self._watchers = parts.registry, parts.watchers
        self._policies, self._admission = parts.policies, parts.admission
        self._locks, self._background, self._ids = locks, background, ids

    def dispose(self, managed: ManagedEndpoint, addresses: Addresses, why: str) -> None:
        """Take an endpoint down in the background, again and again until it succeeds: the controller `removal`.

        With RELEASE it is not touched if its link turns out to be there after all.
        """

        async def attempt() -> None:
            await self._dispose(managed, addresses, why)

        async def first() -> None:
            try:
                await attempt()
            except PodlaneError as error:
                endpoint = managed.endpoint
                _log.warning("not taken down yet", endpoint=endpoint.id, why=why, error=error.message)
                removal = Parameters(run=attempt, retry_base=_RETRY_SECONDS, retry_cap=_LONGEST_RETRY_SECONDS)
                managed.controllers.update(REMOVAL, removal, delay=_RETRY_SECONDS)

        self._background.begin(first())

    async def take_down(self, managed: ManagedEndpoint, addresses: Addresses, why: str) -> None:
        """Take an endpoint down, whose attachment is held. Raises Unavailable: then it stays, `disconnecting`."""
        endpoint = managed.endpoint
        _log.info("taking down", endpoint=endpoint.id, attachment=str(endpoint.spec.attachment), why=why)
        if endpoint.state is not EndpointState.DISCONNECTING:
            managed.note(LogType.OTHER, LogCode.WARNING, f"taken down: {why}")
        await self.at_once(managed, addresses)

    async def at_once(self, managed: ManagedEndpoint, addresses: Addresses) -> None:
        """Take an endpoint down, whose attachment is held, without a word in its log. Raises Unavailable."""
        await managed.controllers.remove(RECOVERY)
        await managed.queue.close("the endpoint is being deleted")
        try:
            await flow.take_down(managed, addresses, self._store, self._loader, self._ipam)
        except PodlaneError as error:
            managed.explain(f"its removal to be repeated; the last attempt failed: {error.message}")
            raise
        await self.forget(managed)

    async def forget(self, managed: ManagedEndpoint) -> None:
        """Let go of an endpoint of which nothing is left but itself."""
        managed.move(EndpointState.DISCONNECTED, "")
        self._registry.remove(managed)
        self._ids().free(managed.endpoint.id)
        self._watchers.tell(Change.DELETED, managed.endpoint)
        await self._policies.forget(managed)
        await managed.queue.close("the endpoint is deleted")
        # Not waited for: a kvstore that is away must not keep anybody.
        self._background.begin(managed.controllers.remove_all())

    def lost_link(self, managed: ManagedEndpoint) -> None:
        """Take down, in the background, an endpoint whose link is gone."""
        link = managed.endpoint.spec.link
        why = f"link {link.host_ifname} (ifindex {link.host_ifindex}) is gone"
        self._admission.withdraw(managed.endpoint.id, NotFound(f"{managed.endpoint}: {why}"))
        self.dispose(managed, Addresses.RELEASE, why)

    async def _dispose(self, managed: ManagedEndpoint, addresses: Addresses, why: str) -> None:
        attachment, link = managed.endpoint.spec.attachment, managed.endpoint.spec.link
        async with self._locks.hold(attachment):
            if self._registry.attached(attachment) is not managed:
                return
            if addresses is Addresses.RELEASE:
                # What was seen may be old news by now: a mark is checked again before the sweep.
                links = await self._loader.links(attachment)
                if any(one.is_same(link) for one in links):
                    return
                # Another link is another ADD on its way, which has been told these addresses.
                addresses = Addresses.GIVE_BACK if links else addresses
            await self.take_down(managed, addresses, why)
