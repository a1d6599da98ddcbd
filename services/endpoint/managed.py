"""An endpoint while it lives in this process: its value, its event queue, its controllers, and who is told of changes.

All changes of the value go through here; watchers are told of every move and every note. The log's entries reach the
disk together with the next write of the record: a commit costs more than all else here, and what the kernel did can
be asked for again. What is younger than the last write when the process is killed is lost, nothing else.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from services.common import controllers, telemetry, wire
from services.endpoint.events import EventQueue
from services.endpoint.model import Endpoint, EndpointState, LogCode, LogEntry, LogType

_log = telemetry.logger("managed")
Save = Callable[[Endpoint, Sequence[LogEntry]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Home:
    """What all endpoints of a process share: the size of a queue, who keeps their controllers, who hears of changes."""

    queue_size: int
    controllers: controllers.Registry
    publish: Callable[[Endpoint], None]


class ManagedEndpoint:
    """One live endpoint."""

    def __init__(self, endpoint: Endpoint, home: Home, saved: int = 0) -> None:
        """Begin with a value; `saved` is the number of its newest log entry that is on disk."""
        self.endpoint = endpoint
        self.queue = EventQueue(f"endpoint {endpoint.id}", home.queue_size)
        self.controllers = controllers.Manager(f"endpoint-{endpoint.id}", home.controllers)
        self.unpublished_since = 0
        """When its creation ended, by `time.perf_counter_ns`, until the kvstore has its record; else 0."""
        self._publish = home.publish
        self._saved = saved

    def update(self, **changes: Any) -> None:
        """Replace fields of the value; watchers see it with the next move or note."""
        self.endpoint = replace(self.endpoint, **changes)

    def count(self, **events: int) -> None:
        """Increase counters."""
        self.endpoint = self.endpoint.counted(**events)

    def note(self, type_: LogType, code: LogCode, message: str) -> None:
        """Add an entry to the endpoint's log."""
        self.endpoint = self.endpoint.noted(type_, code, message, wire.now())
        self._publish(self.endpoint)

    def move(self, to: EndpointState, waiting_for: str, *, builder: bool = False) -> bool:
        """Change the state if the table allows it; a refusal is logged and counted. Return whether it is `to` now."""
        before = self.endpoint
        self.endpoint = before.moved(to, waiting_for, wire.now(), builder=builder)
        if self.endpoint.counters.refused > before.counters.refused:
            _log.warning("transition refused", endpoint=before.id, state=before.state, to=to, builder=builder)
        if self.endpoint is not before:
            self._publish(self.endpoint)
        return self.endpoint.state is to

    def explain(self, waiting_for: str) -> None:
        """Say what the present state waits for."""
        self.update(waiting_for=waiting_for)
        self._publish(self.endpoint)

    async def save(self, write: Save) -> None:
        """Write the record and what is new in the log, by a verb of the store."""
        endpoint, saved = self.endpoint, self._saved
        await write(endpoint, tuple(entry for entry in endpoint.log if entry.number > saved))
        if endpoint.log:
            self._saved = max(self._saved, endpoint.log[-1].number)
