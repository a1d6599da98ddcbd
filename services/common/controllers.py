"""Who owns controllers: a manager per resource, and one registry of all managers of a process.

A resource is a word for people: `endpoint-7`, `node`, `ipam`. Its manager creates, updates, triggers and removes
controllers by name; the registry lists all of them for the status RPC, the CLI and the metrics, and ends them when the
process does.

A controller stays in the list until its stop function has run. One of the same name that is wanted meanwhile is
created then: what the old one takes down can't be what the new one has just put up. A manager whose controllers were
all removed is closed, because its resource is gone: what comes late is refused silently.
"""

import asyncio
import contextvars
import functools
from collections.abc import Callable, Iterable, Iterator

from services.common.controller import Controller
from services.common.controller_parameters import Parameters, Surroundings
from services.common.controller_status import Outcome


class Manager:
    """The controllers of one resource. Use it on the loop."""

    __slots__ = ("_closed", "_controllers", "_registry", "_successors", "resource")

    def __init__(self, resource: str, registry: "Registry") -> None:
        """Enter the registry; `remove_all` leaves it."""
        self.resource = resource
        self._registry = registry
        self._closed = False
        self._controllers: dict[str, Controller] = {}
        self._successors: dict[str, tuple[Parameters, float]] = {}
        registry.enter(self)

    def update(self, name: str, parameters: Parameters, delay: float = 0.0) -> None:
        """Create the controller, or replace its parameters; either way it runs in `delay` seconds at the latest."""
        if self._closed:
            return
        known = self._controllers.get(name)
        if known is None:
            self._controllers[name] = Controller(self.resource, name, parameters, self._registry.surroundings, delay)
        elif known.leaving:
            self._successors[name] = (parameters, delay)
        else:
            known.update(parameters, delay)

    def trigger(self, name: str, delay: float = 0.0) -> bool:
        """Run the controller in `delay` seconds at the latest; False when there is none of that name."""
        known = self._controllers.get(name)
        if known is None or known.leaving:
            return name in self._successors
        known.trigger(delay)
        return True

    async def remove(self, name: str) -> bool:
        """Remove the controller and wait until its stop function has run; False when there is none.

        A controller that removes itself goes on to the end of its run, and is gone after its stop function; it does
        not wait for that here.
        """
        known = self._controllers.get(name)
        self._successors.pop(name, None)
        if known is not None:
            await self._remove([known], stop=True)
        return known is not None

    async def remove_all(self) -> None:
        """Remove all of them, together, as `remove` does; leave the registry. Nothing is created here any more."""
        await self._close(stop=True)

    async def halt(self) -> None:
        """Do the same without stop functions: the process ends, the resource doesn't."""
        await self._close(stop=False)

    def __contains__(self, name: str) -> bool:
        """Return whether there is a controller of that name."""
        return name in self._controllers

    def __iter__(self) -> Iterator[Controller]:
        """Iterate over the controllers in the order of their creation."""
        return iter(tuple(self._controllers.values()))

    async def _close(self, *, stop: bool) -> None:
        self._closed = True
        self._successors.clear()
        await self._remove(list(self._controllers.values()), stop=stop)
        self._leave_if_empty()

    async def _remove(self, controllers: Iterable[Controller], *, stop: bool) -> None:
        others = []
        for controller in controllers:
            first = not controller.leaving
            gone = controller.remove(stop=stop)
            if first:
                gone.add_done_callback(functools.partial(self._forget, controller))
            if not controller.inside:
                others.append(gone)
        if others:
            await asyncio.wait(others)

    def _forget(self, controller: Controller, _gone: object) -> None:
        del self._controllers[controller.name]
        successor = self._successors.pop(controller.name, None)
        if successor is not None:
            self.update(controller.name, *successor)
        self._leave_if_empty()

    def _leave_if_empty(self) -> None:
        if self._closed and not self._controllers:
            self._registry.leave(self)


class Registry:
    """All managers of one process. A component: `stop` ends what runs, without stop functions.

    Those take down what a resource has put up, and the resources outlive the process.
    """

    def __init__(self, observe: Callable[[str, Outcome], None] = lambda _group, _outcome: None) -> None:
        """Start empty. `observe` is told of each run's group and outcome.

        The context of the caller is that of all runs: construct it where no request is served.
        """
        self.surroundings = Surroundings(contextvars.copy_context(), observe)
        self._managers: dict[Manager, None] = {}

    async def start(self) -> None:
        """Nothing to do."""

    async def stop(self) -> None:
        """Cancel all runs and wait until none is left."""
        await asyncio.gather(*(manager.halt() for manager in tuple(self._managers)))

    def enter(self, manager: Manager) -> None:
        """Add a manager."""
        self._managers[manager] = None

    def leave(self, manager: Manager) -> None:
        """Forget a manager; unknown is fine."""
        self._managers.pop(manager, None)

    def __iter__(self) -> Iterator[Controller]:
        """Iterate over all controllers."""
        for manager in tuple(self._managers):
            yield from manager

    def find(self, resource: str, name: str) -> Controller | None:
        """Return one controller."""
        return next((one for one in self if one.resource == resource and one.name == name), None)
