"""Who owns controllers: a manager per resource, and one registry of all managers of a process.

A resource is a word for people: `endpoint-7`, `node`, `ipam`. Its manager creates, updates, triggers and removes
controllers by name; the registry lists all of them for the status RPC, the CLI and the metrics.
"""

import asyncio
from collections.abc import Iterator

from services.common.controller import Controller, Parameters


class Manager:
    """The controllers of one resource."""

    def __init__(self, resource: str, registry: "Registry") -> None:
        """Enter the registry; `remove_all` leaves it."""
        self.resource = resource
        self._registry = registry
        self._controllers: dict[str, Controller] = {}
        registry.enter(self)

    def update(self, name: str, parameters: Parameters) -> None:
        """Create the controller, or replace its parameters and run it now."""
        known = self._controllers.get(name)
        if known is not None:
            known.update(parameters)
        else:
            self._controllers[name] = Controller(self.resource, name, parameters)

    def get(self, name: str) -> Controller | None:
        """Return the controller of that name."""
        return self._controllers.get(name)

    def trigger(self, name: str) -> bool:
        """Run the controller now; False when there is none of that name."""
        known = self._controllers.get(name)
        if known is not None:
            known.trigger()
        return known is not None

    async def remove(self, name: str) -> bool:
        """Remove the controller and wait until its stop function has run; False when there is none."""
        known = self._controllers.pop(name, None)
        if known is not None:
            await known.remove()
        return known is not None

    async def remove_all(self) -> None:
        """Remove all of them, together, and leave the registry."""
        gone, self._controllers = list(self._controllers.values()), {}
        await asyncio.gather(*(controller.remove() for controller in gone))
        self._registry.leave(self)

    def __iter__(self) -> Iterator[Controller]:
        """Iterate over the controllers in the order of their creation."""
        return iter(tuple(self._controllers.values()))


class Registry:
    """All managers of one process. A component: `stop` ends every controller and takes nothing back."""

    def __init__(self) -> None:
        """Start empty."""
        self._managers: list[Manager] = []

    async def start(self) -> None:
        """Nothing to do."""

    async def stop(self) -> None:
        """End all controllers, without their stop functions: the process ends, what they look after goes on."""
        await asyncio.gather(*(controller.abandon() for controller in self))

    def enter(self, manager: Manager) -> None:
        """Add a manager."""
        self._managers.append(manager)

    def leave(self, manager: Manager) -> None:
        """Forget a manager; unknown is fine."""
        if manager in self._managers:
            self._managers.remove(manager)

    def __iter__(self) -> Iterator[Controller]:
        """Iterate over all controllers."""
        for manager in tuple(self._managers):
            yield from manager
