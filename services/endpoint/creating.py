"""How an endpoint comes to be, once its attachment is held.

    an id with a new generation ─▶ an identity ─▶ its turn (`admission.py`) ─▶ its creation (`flow.py`) ─▶ ready

It is in the registry from its id on, so that whoever asks for its addresses finds them taken. A creation that fails is
told to its caller; one that could not be undone leaves a remainder, which is disposed of (`removal.py`).

Not here: whether the attachment has an endpoint already (`manager.py`).
"""

from collections.abc import Callable

from services.common import wire
from services.common.errors import PodlaneError
from services.endpoint.admission import Caller
from services.endpoint.events import RegenerationEvent
from services.endpoint.flow import Addresses, Creation
from services.endpoint.ids import Ids
from services.endpoint.managed import Home, ManagedEndpoint
from services.endpoint.model import Endpoint, EndpointSpec, EndpointState, LogCode, LogType
from services.endpoint.options import Options, check
from services.endpoint.parts import Parts
from services.endpoint.regeneration import INITIAL, Regenerator
from services.endpoint.removal import Remover
from services.endpoint.timeline import Recorder
from services.endpoint.watch import Change


class Creator:
    """Makes endpoints. `ids` returns the ids of the node, which are read when the service starts."""

    def __init__(
        self, parts: Parts, home: Home, regenerator: Regenerator, remover: Remover, ids: Callable[[], Ids]
    ) -> None:
        """Wire."""
        self._store, self._loader, self._ipam = parts.store, parts.loader, parts.ipam
        self._registry, self._watchers, self._policies = parts.registry, parts.watchers, parts.policies
        self._admission, self._chronicle, self._publisher = parts.admission, parts.chronicle, parts.publisher
        self._home, self._ids = home, ids
        self._regenerator, self._remover = regenerator, remover

    async def create(self, spec: EndpointSpec, caller: Caller, options: Options, watch: Recorder) -> Endpoint:
        """Return the endpoint, ready. Raises as `Manager.create` does; then it is gone, or being disposed of."""
        if options:
            check(options, await self._loader.options())
        self._registry.check_addresses(spec.ips)
        self._admission.check(caller.patience)
        managed = self._new(spec, options)
        try:
            with watch.phase("identity"):
                await self._policies.admit(managed)
        except BaseException:
            managed.move(EndpointState.DISCONNECTING, "nothing: it got no identity")
            await self._remover.forget(managed)
            raise
        self._identified(managed)
        creation = Creation(
            managed, self._store, self._loader, self._ipam, self._regenerator, policies=self._policies, watch=watch
        )

        async def in_turn(event: RegenerationEvent) -> None:
            async with self._admission.turn(managed.endpoint.id, caller):
                await creation.run(event)

        # It waits inside its event: what others want of this endpoint meanwhile comes after it, or is folded in.
        event, _ = managed.queue.trigger(INITIAL, in_turn)
        try:
            await event.result()
        except BaseException as error:
            self._chronicle.failed(managed.endpoint, watch.timeline(wire.now()), error)
            await self._failed(managed, creation, error)
            raise
        self._chronicle.created(managed)
        self._publisher.begin(managed)
        self._policies.see_to_identity(managed)
        return managed.endpoint

    def _new(self, spec: EndpointSpec, options: Options) -> ManagedEndpoint:
        """Make an endpoint that waits for its identity."""
        id_, generation = self._ids().take()
        now = wire.now()
        new = Endpoint(
            id_, generation, spec, now, EndpointState.WAITING_FOR_IDENTITY, options=options, unready_since=now
        )
        managed = ManagedEndpoint(new, self._home)
        self._registry.put(managed)
        self._watchers.tell(Change.UPSERTED, new)
        return managed

    def _identified(self, managed: ManagedEndpoint) -> None:
        """Bring an endpoint that has its identity as far as it gets without anybody's help."""
        endpoint, now = managed.endpoint, wire.now()
        labels = endpoint.identity_labels
        who = f"({labels})" if labels else "(reserved:init): its labels are not known"
        why = self._policies.backend.provisional(endpoint.identity)
        code, for_now = (LogCode.WARNING, f", until it has another one: {why}") if why else (LogCode.OK, "")
        known = endpoint.noted(LogType.OTHER, code, f"identity {endpoint.identity} {who}{for_now}", now)
        # In one go: nobody may see `ready`, which the table has in between, before there is a datapath.
        managed.endpoint = known.moved(EndpointState.READY, "", now).moved(
            EndpointState.WAITING_TO_REGENERATE, f"a regeneration ({INITIAL.reasons[0]})", endpoint.unready_since
        )
        self._watchers.tell(Change.UPSERTED, managed.endpoint)

    async def _failed(self, managed: ManagedEndpoint, creation: Creation, error: BaseException) -> None:
        why = error.message if isinstance(error, PodlaneError) else "a bug: see the service's log"
        waiting_for = f"what its creation left to be removed; it failed: {why}"
        if managed.endpoint.state is EndpointState.DISCONNECTING:
            managed.explain(waiting_for)
        else:
            managed.move(EndpointState.DISCONNECTING, waiting_for)
        if creation.undone:
            await self._remover.forget(managed)
        else:
            self._remover.dispose(managed, Addresses.GIVE_BACK, "its creation failed and could not be undone")
